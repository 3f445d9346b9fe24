"""The backward passes of the zoo's systems on the GPU backends: the recurrences that a differentiated call runs, with
the values of such a call, against the definition; and the plans whose kernels are compiled."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any
from unittest import mock

import numpy as np
import pytest

import recurc
from recurc import ir, passes, targets
from recurc.arguments import with_defaults
from recurc.compiled import Compiled
from recurc.errors import UnsupportedError
from recurc.passes.complex_parts import split_complex
from recurc.passes.matrix_adjoint import MatrixAdjoint, Sweep
from recurc.plan import Plan
from recurc.types import DType
from recurc.vjp import Differentiated
from tests.gpu.zoo_cases import IN_F32, WORDS
from tests.numerics import gradients, rounding, test_gradients, test_schedules
from tests.zoo import cases
from tests.zoo.oracle import ORACLES

# What parts are called: "forward" is the recurrence itself with what it saves; the others by how their names end.
WORDS_OF_PARTS = {"": "forward", "adjoint": "back"}
# Covariances: scans of these filters are of symmetric matrices, which `gradients.case` moves off.
_FILTERS = ("kalman_filter", "kalman_filter_missing", "kalman_filter_update_first", "recursive_least_squares")
SYMMETRIC = {(name, matrix) for name in _FILTERS for matrix in "PQR"}
SHORT, LONG = 5, 35  # steps where there is a loop over them, and where there is none: tiles of time, chunks, and a rest

# What a backend refuses of a part by a schedule, at the sizes of the oracle, and a word of its reason. Whatever else is
# refused fails a test, and so does what stands here and runs. (Schedules that a backend lacks are in `LACKING`.)
_HELD = "elements held at once in every step"
_MATRICES = "elements, held at once in every step"
LIMITATIONS = {
    (n, "back", s, "triton"): _HELD
    for n in ("dnc", "ntm", "ntm_write_first")
    for s in ("chunkwise", "convolution", "scan", "sequential")
}
LIMITATIONS |= {
    (n, "back", s, "triton"): _HELD
    for n in ("graph_conv_gru", "graph_conv_gru_chebyshev")
    for s in ("scan", "sequential")
}
LIMITATIONS |= {
    ("dnc", "forward", "sequential", "triton"): _HELD,
    ("graph_rnn", "back", "scan", "triton"): _HELD,
    ("kalman_filter_missing", "forward", "scan", "triton"): _MATRICES,
}
# Where elements stay in registers in f32 only.
REALS = {(n, "forward", "scan", "triton"): ("f32",) for n, _, _ in IN_F32}


@dataclass(frozen=True)
class Run:
    """A part with the values of a call: arrays `(B, T, *dims)`, params and initial states, all in the order in which
    steps are taken, which is backwards in time where `reverse`; and what the definition makes of them."""

    rec: recurc.Recurrence
    arrays: dict[str, np.ndarray]
    steps: int
    reverse: bool
    found: rounding.Run


@lru_cache(maxsize=4)
def heard(name: str, steps: int, seed: int, reverse: bool) -> dict[str, tuple[recurc.Recurrence, dict[str, Any]]]:
    """A call with random values, initial states and derivatives by outputs and final states, that is differentiated by
    the definition: what it ran, by part, and on what. The matrix of a memory is swept over in every way there is."""
    rec, rng = cases.load(name).ir, cases.generator(seed, name, steps)
    case = gradients.case(name, rng, steps, reverse=reverse)

    def even(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {n: (a + a.swapaxes(-1, -2)) / 2 if (name, n) in SYMMETRIC else a for n, a in arrays.items()}

    case = replace(case, arrays=even(case.arrays), initial=even(case.initial))
    found: dict[str, tuple[recurc.Recurrence, dict[str, Any]]] = {}
    plain = Compiled.__call__

    def listened(compiled: Compiled, **given: Any) -> Any:
        part = compiled.recurrence.name.removeprefix(rec.name).removeprefix("_")
        found[WORDS_OF_PARTS.get(part, part)] = recurc.Recurrence(compiled.recurrence), given
        return plain(compiled, **given)

    def every_way(_: Differentiated, adj: MatrixAdjoint, of: object) -> tuple[Sweep, ...]:
        return (adj.back, *adj.sides)

    with (
        mock.patch.object(Compiled, "__call__", listened),
        mock.patch.object(Differentiated, "sweeps", every_way),
    ):
        case.found("reference")
    return found


@cache
def parts(name: str) -> dict[str, recurc.Recurrence]:
    """The recurrences that a differentiated call runs, by part."""
    return {word: rec for word, (rec, _) in heard(name, 1, 0, False).items()}


@cache
def schedules(name: str, part: str) -> tuple[str, ...]:
    """The legal ones, in order."""
    return tuple(sorted({s for g in parts(name)[part].analyze().groups for s in g.schedules})) or ("auto",)


def steps_of(name: str, part: str, schedule: str) -> int:
    every = all(schedule in g.schedules for g in parts(name)[part].analyze().groups)
    return LONG if every and schedule not in ("sequential", "auto") else SHORT


@lru_cache(maxsize=4)
def run_of(name: str, part: str, steps: int, seed: int, reverse: bool) -> Run:
    """A part with the values of a call, rounded to float32, so that both sides see the same numbers."""
    rec, given = heard(name, steps, seed, reverse)[part]
    return _run(rec, given, sizes_of(name, rec.ir), cases.generator(seed, name, steps))


def _run(rec: recurc.Recurrence, given: dict[str, Any], sizes: dict[str, int], rng: np.random.Generator) -> Run:
    reverse, steps = given.get("reverse", False), given.get("steps") or 0
    ranks = {v.name: len(v.dims) for v in (*rec.ir.inputs, *rec.ir.params)}
    arrays = {n: np.asarray(given[n]) for n in ranks}
    for name in (i.name for i in rec.ir.inputs):
        whole = arrays[name]
        steps = whole.shape[whole.ndim - ranks[name] - 1]
        whole = whole.reshape(-1, *whole.shape[whole.ndim - ranks[name] - 1 :])
        arrays[name] = whole[:, ::-1] if reverse else whole
    arrays |= {f"{n}@initial": np.asarray(a) for n, a in (given.get("initial") or {}).items()}
    narrow: Any = {"f": np.float32, "c": np.complex64}
    arrays = {n: a.astype(narrow.get(a.dtype.kind, a.dtype)).astype(a.dtype) for n, a in arrays.items()}
    batch = next((len(arrays[i.name]) for i in rec.ir.inputs), 1)
    with np.errstate(all="ignore"):
        return Run(rec, arrays, steps, reverse, rounding.run(rec.ir, arrays, batch, steps, rng, sizes))


def sizes_of(name: str, rec: ir.Recurrence) -> dict[str, int]:
    """The sizes of the oracle, of those dims that the part has."""
    known = with_defaults(cases.load(name).ir, ORACLES[name].sizes)
    return {d.name: known[d.name] for d in rec.dims}


def agree(name: str, part: str, backend: str, seed: int) -> None:
    """A part by every legal schedule against the definition, by the bound of the schedules; the seed
    says whether time runs backwards. Asserts that what is refused is known."""
    reverse = bool(cases.generator(seed, name).integers(2))
    for schedule in schedules(name, part):
        run = run_of(name, part, steps_of(name, part, schedule), seed, reverse)
        reals = REALS.get((name, part, schedule, backend), ("f64", "f32"))
        refused = expected(name, part, schedule, backend)
        with nullcontext() if refused is None else pytest.raises(UnsupportedError, match=refused):
            test_schedules.agree(
                run.rec, backend, schedule, run.steps, run.arrays, run.found, sizes_of(name, run.rec.ir),
                name in test_schedules.AMPLIFIES, reals, run.reverse,
            )  # fmt: skip


def derivatives_agree(name: str, backend: str, seed: int) -> None:
    """Those that `vjp` takes, of no steps and of some, against differences of the definition and against torch's
    autograd through the loop a person would write; and those of ragged and reversed calls, also by tensors that want
    them, against what the definition gives. There the bound is that of `tests.numerics.test_gradients`."""
    for steps in (0, 1, 3):
        test_gradients.agrees_with_differences(name, backend, steps, seed)
    if name not in test_gradients.WITH_INPUTS:
        return
    test_gradients.agrees_with_autograd(name, backend, seed)
    rng = cases.generator(seed, name, 4)
    case = gradients.case(name, rng, 4, reverse=bool(rng.integers(2)), lengths=[4, 2])
    arguments, initial = case.found("reference")
    wanted = arguments | {f"{n}@initial": v for n, v in initial.items()}
    arguments, initial = case.found(backend)
    taken = arguments | {f"{n}@initial": v for n, v in initial.items()}
    for way, found in (("vjp", taken), ("autograd", _by_tensors(case, backend))):
        assert set(found) == set(wanted)
        for argument, exact in wanted.items():
            error = np.abs(found[argument] - exact).max(initial=0.0)
            assert error <= 1e-9 * max(1.0, np.abs(exact).max(initial=0.0)), (
                f"{name} on {backend} by {way}, ragged: {argument} is off by {error:.1e}"
            )


def _by_tensors(case: gradients.Case, backend: str) -> dict[str, np.ndarray]:
    """The derivatives by arguments, and by initial states under `NAME@initial`, of a call on tensors that want them."""
    import torch

    rec = cases.load(case.name)
    f = rec.compile(backend=backend, dtype="f64", sizes=ORACLES[case.name].sizes)
    given = {n: torch.from_numpy(a).requires_grad_(gradients.is_real(a)) for n, a in case.arrays.items()}
    starts = {n: torch.from_numpy(a).requires_grad_() for n, a in case.initial.items()}
    made, finals = f(initial=starts, return_final=True, **case.options, **given)
    results = dict(zip(rec.ir.outputs, cases.several(made), strict=True))
    pairs = [(results[n], d) for n, d in case.outputs.items()] + [(finals[n], d) for n, d in case.finals.items()]
    loss: Any = sum((torch.conj(torch.from_numpy(d)) * y).real[torch.from_numpy(d != 0)].sum() for y, d in pairs)
    wanted = {n: t for n, t in given.items() if t.requires_grad} | {f"{n}@initial": t for n, t in starts.items()}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
    return {n: g.resolve_conj().numpy() for n, g in zip(wanted, found, strict=True)}


def expected(name: str, part: str, schedule: str, backend: str) -> str | None:
    """The word by which a backend is known to refuse, if it is."""
    if schedule in cases.LACKING.get(backend, ()):
        return "|".join(WORDS.values())
    return LIMITATIONS.get((name, part, schedule, backend))


def plan_of(name: str, part: str, schedule: str, real: DType) -> tuple[Plan, dict[str, int]]:
    """The plan that reaches a GPU backend at the sizes of the oracle."""
    rec = parts(name)[part].ir
    sizes = sizes_of(name, rec)
    return split_complex(passes.make_plan(rec, sizes, 2, 64, real, targets.named("sm_90"), schedule), real), sizes
