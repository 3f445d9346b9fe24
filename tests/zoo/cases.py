"""Random inputs for the systems of the zoo, their meaning by the oracles, and what it takes to agree with it.

**The bounds.** Values are drawn in float32 and widened, so that both sides see the same numbers and only the arithmetic
differs. A step rounds about ten times and the systems forget, at the values drawn, as fast as they err; so in float64 a
loop stays near 1e-14 of the largest value, and 1e-11 leaves three digits for the systems that forget slowly or divide.
In float32 a step errs by about 10 eps, a scan adds as much once per level of its tree: 4e-6 (1 + log2 T).
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import zlib
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import recurc
import tests.zoo
from recurc import ir
from recurc.arguments import with_defaults
from recurc.errors import UnsupportedError
from recurc.types import Kind, literal_size
from tests.zoo.oracle import ORACLES, drawn

Arrays = dict[str, np.ndarray]
NAMES = recurc.zoo.names()
BATCH, LENGTHS = 2, (1, 5, 23)

for _module in pkgutil.iter_modules(tests.zoo.__path__):
    if not _module.name.startswith("test_") and _module.name not in ("conftest", "cases", "page"):
        importlib.import_module(f"tests.zoo.{_module.name}")

# What a backend does not do yet, by the system and the backend. Whatever is refused and not named here fails a test.
NOT_YET: dict[tuple[str, str], str] = {}


@cache
def load(name: str) -> recurc.Recurrence:
    return recurc.zoo.load(name)


# Schedules that a backend does not have; it says so itself, which a test checks.
LACKING = {"cuda": ("chunkwise", "convolution", "chunk-frozen")}


@cache
def schedules(name: str, backend: str = "") -> tuple[str, ...]:
    """The legal schedules of a system, on `backend` those that it has."""
    legal = {s for g in load(name).analyze().groups for s in g.schedules} - set(LACKING.get(backend, ()))
    return tuple(sorted(legal)) or ("auto",)


def generator(seed: int, name: str, *more: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), *more])


def draw(name: str, rng: np.random.Generator, steps: int, batch: int = BATCH) -> tuple[Arrays, Arrays]:
    """Inputs `(B, T, *dims)` and params `(*dims)`; real ones are float64 that float32 holds exactly."""
    rec, ways = load(name).ir, dict(ORACLES[name].draw)
    sizes = with_defaults(rec, ORACLES[name].sizes)

    def value(v: ir.Input | ir.Param, lead: tuple[int, ...]) -> np.ndarray:
        shape = (*lead, *(literal_size(d) or sizes[d] for d in v.dims))
        bound = getattr(v, "bound", None)
        usual = {Kind.REAL: "normal", Kind.COMPLEX: "complex", Kind.BOOL: "bool", Kind.INT: f"int:{bound or 10}"}
        found = drawn(rng, ways.pop(v.name, usual[v.dtype.kind]), shape)
        match v.dtype.kind:
            case Kind.REAL:
                return found.astype(np.float32).astype(np.float64)
            case Kind.COMPLEX:
                return found.astype(np.complex64).astype(np.complex128)
            case _:
                return found

    inputs = {i.name: value(i, (batch, steps)) for i in rec.inputs}
    params = {p.name: value(p, ()) for p in rec.params}
    assert not ways, f"the oracle of {name} draws {sorted(ways)}, which the recurrence does not have"
    return inputs, params


def looped(
    name: str, inputs: Mapping[str, np.ndarray], params: Mapping[str, np.ndarray], steps: int
) -> list[np.ndarray]:
    """Each output by the oracle: `(B, T, *dims)`, or `(T, *dims)` where there are no inputs that have a batch."""
    rows = [{n: a[b] for n, a in inputs.items()} for b in range(len(next(iter(inputs.values()))))] if inputs else [{}]
    found = [sequence(name, row, params, steps) for row in rows]
    stacked = [np.stack([row[i] for row in found]) for i in range(len(found[0]))]
    return stacked if inputs else [a[0] for a in stacked]


def sequence(
    name: str, row: Mapping[str, np.ndarray], params: Mapping[str, np.ndarray], steps: int
) -> list[np.ndarray]:
    """Each output `(T, *dims)` for one sequence of inputs `(T, *dims)`, T at least 1."""
    xs = [SimpleNamespace(**{n: a[t] for n, a in row.items()}) for t in range(steps)]
    made = [several(y) for y in ORACLES[name].loop(SimpleNamespace(**params), xs)]
    assert len(made) == steps, f"the oracle of {name} gives {len(made)} outputs for {steps} steps"
    return [np.array([y[i] for y in made]) for i in range(len(made[0]))]


def several(found: Any) -> tuple[Any, ...]:
    return cast("tuple[Any, ...]", found) if isinstance(found, tuple) else (found,)


def call(name: str, backend: str, schedule: str, arrays: Mapping[str, Any], real: str = "f64", **options: Any) -> Any:
    """One call through the public API; marks the test as one that cannot pass yet where `NOT_YET` says so."""
    types: Any = {"f64": (np.float64, np.complex128), "f32": (np.float32, np.complex64)}[real]
    typed = {n: a.astype(types[a.dtype.kind == "c"]) if a.dtype.kind in "fc" else a for n, a in arrays.items()}
    if not load(name).ir.inputs:
        options["steps"] = options.get("steps", LENGTHS[-1])
    try:
        return load(name).compile(backend=backend, schedule=schedule, sizes=ORACLES[name].sizes)(**typed, **options)
    except UnsupportedError as refused:
        excuse(name, backend, refused)
        raise


def excuse(name: str, backend: str, refused: UnsupportedError) -> None:
    """Ends the test as an expected failure if the system is known not to run there."""
    reason = NOT_YET.get((name, backend))
    if reason is not None:
        pytest.xfail(f"{name} on {backend}: {reason} ({refused})")


def check(name: str, found: Any, wanted: list[np.ndarray], what: str, real: str = "f64") -> None:
    """The outputs of a call are those of the oracle: same shapes, same integers, reals within the bound."""
    outputs = load(name).ir.outputs
    assert len(several(found)) == len(wanted) == len(outputs)
    for output, have, want in zip(outputs, several(found), wanted, strict=True):
        same(np.asarray(have), want, f"{name}, {what}: {output}", real)


def same(have: np.ndarray, want: np.ndarray, what: str, real: str = "f64") -> None:
    """Equal shapes and integers; reals within the bound of this file, relative to the largest one."""
    assert have.shape == want.shape, f"{what} has shape {have.shape}, expected {want.shape}"
    if want.dtype.kind in "bi" or have.dtype.kind in "bi":
        np.testing.assert_array_equal(have, want, err_msg=what)
        return
    special = ~np.isfinite(want)
    np.testing.assert_array_equal(have[special], want[special], err_msg=f"{what}: inf and NaN")
    have, want = have[~special].astype(np.complex128), want[~special]
    steps = have.shape[0] if have.ndim else 1
    room = 1e-11 if real == "f64" else 4e-6 * (1 + math.log2(max(LENGTHS[-1], steps)))
    scale = max(1.0, float(np.abs(want).max(initial=0.0)))
    worst = float(np.abs(have - want).max(initial=0.0)) / scale
    assert worst < room, f"{what} is off by {worst:.1e} (allowed {room:.0e})"


def cpu_is_missing() -> str | None:
    """Why there is no native code on this machine, if there is none."""
    from recurc.backends.cpu import BACKEND

    return BACKEND.unavailable()


def close(a: np.ndarray, b: np.ndarray, room: float = 1e-10) -> bool:
    """Whether two arrays are equal up to `room`, relative to the larger of 1 and the largest value."""
    return float(np.abs(a - b).max()) < room * max(1.0, float(np.abs(b).max()))
