"""Which backend runs a call: the one asked for, or with `auto` the fastest this machine has; a detour is announced."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from recurc import targets
from recurc.backends.base import Backend, Specialization
from recurc.errors import BackendError, UnsupportedError
from recurc.plan import MATRIX_SCAN, Plan, Scan, taken_apart
from recurc.runtime.machine import cpu_target
from recurc.runtime.notice import notice
from recurc.targets import Target

T = TypeVar("T")
_OPTIONAL = ("chunkwise", "convolution", "chunk-frozen")  # schedules that not every backend has
# Schedules that a backend takes only when it is asked to, and why.
_ASKED_FOR = {"cuda": {MATRIX_SCAN: "on the `cuda` backend every thread combines whole matrices or tables"}}

# Name -> module and what its kernels take: arrays in host memory, or torch tensors on a device.
BACKENDS = {
    "reference": ("recurc.backends.reference", "host"),
    "numpy": ("recurc.backends.plan_numpy", "host"),
    "cpu": ("recurc.backends.cpu", "host"),
    "triton": ("recurc.backends.triton", "tensor"),
    "cuda": ("recurc.backends.cuda", "tensor"),
}


def check_name(name: str) -> None:
    """Raises `UnsupportedError` for a backend that does not exist."""
    if not isinstance(cast(object, name), str) or (name != "auto" and name not in BACKENDS):
        raise UnsupportedError(f"there is no backend `{name}`; there are: auto, {', '.join(BACKENDS)}")


def backend(name: str) -> Backend:
    return cast(Backend, importlib.import_module(BACKENDS[name][0]).BACKEND)


def takes_tensors(name: str) -> bool:
    return BACKENDS[name][1] == "tensor"


def candidates(asked: str, on_device: bool) -> tuple[str, ...]:
    """The backends to try, in order, for arrays in host memory or on a GPU."""
    if asked != "auto":
        return (asked,)
    return ("triton", "cuda") if on_device else ("cpu", "numpy")


def first_able(asked: str, on_device: bool, attempt: Callable[[str], T], announced: dict[str, None]) -> T:
    """The first candidate for which `attempt` (which builds) succeeds; `announced` collects what was said.

    With `auto`, a candidate that cannot is announced once and the next one is tried; a backend
    asked for by name raises its own error."""
    names = candidates(asked, on_device)
    for name in names[:-1]:
        try:
            return attempt(name)
        except (BackendError, UnsupportedError) as reason:
            text = f"recurc runs on the `{names[names.index(name) + 1]}` backend instead of `{name}`: {reason}"
            if text not in announced:
                announced[text] = None
                notice(text)
    return attempt(names[-1])


def able_plan(
    backend: Backend,
    spec: Specialization,
    schedule: str,
    make: Callable[[Mapping[str, str]], Plan],
    in_pieces: bool = False,
) -> tuple[Plan, Plan, list[str]]:
    """A plan, the form of it that reaches the backend, and what the backend cannot do of it.

    With `in_pieces`, a plan that needs a library reaches it piece by piece (`runtime.pieces`), which says itself what
    it cannot do. Where the scheduler is free, it is asked again without schedules that not every backend has, or not at
    every size: without one of them if that helps, or else without all. `make` gets those to leave out, each with the
    reason, which stands among the plan's candidates. Raises `UnsupportedError` for complex numbers that have no real
    form."""
    from recurc.passes.complex_parts import split_complex
    from recurc.runtime.pieces import needs_library

    def tried(without: Mapping[str, str]) -> tuple[Plan, Plan, list[str]]:
        plan = make(without)
        if in_pieces and needs_library(plan):
            return plan, plan, []
        real = split_complex(plan, spec.real) if backend.real_only else plan
        return plan, real, backend.limitations(real, spec)

    asked = _ASKED_FOR.get(backend.name, {})
    found = tried(asked)
    why = "; ".join(found[2])
    optional = [{name: why} for name in _optional(found[0])] if why and schedule == "auto" else []
    if len(optional) > 1:
        optional.append(dict.fromkeys(_optional(found[0]), why))
    for more in optional:
        found = tried(asked | more)
        if not found[2]:
            break
    return found


def _optional(plan: Plan) -> list[str]:
    """The schedules of a plan that not every backend has, or not at every size."""
    matrices = any(isinstance(s, Scan) and s.monoid.multiplies for s in taken_apart(plan).stages)
    return [name for name in _OPTIONAL if name in plan.schedules] + [MATRIX_SCAN] * matrices


def target_for(name: str, device: str | None) -> Target:
    """What the scheduler should weigh schedules for."""
    if name in ("triton", "cuda"):
        return targets.named(_gpu(device))
    return cpu_target()


def _gpu(device: str | None) -> str:
    """The nearest GPU target: this machine's, or an H100 where kernels are only interpreted."""
    import torch

    if device is None or not device.startswith("cuda") or not torch.cuda.is_available():
        return "sm_90"
    major, _ = torch.cuda.get_device_capability(device)
    return {8: "sm_80", 9: "sm_90"}.get(major, "sm_100" if major > 9 else "sm_80")
