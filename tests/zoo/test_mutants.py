"""One operator of a system is changed: the analysis must see it. Either the class changes, or whatever may still run in
parallel means what the changed equations say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

import recurc
from recurc import ir
from recurc.errors import UnsupportedError
from recurc.ops import OPS
from recurc.types import Kind
from tests.zoo.cases import NAMES, draw, load, schedules
from tests.zoo.oracle import ORACLES

FLIPS = {
    "add": ("sub", "mul"), "sub": ("add",), "mul": ("add", "max"), "div": ("mul",), "max": ("min", "add"),
    "min": ("max", "add"), "neg": ("abs",), "sigmoid": ("exp",), "tanh": ("neg",), "exp": ("tanh",), "abs": ("neg",),
    "gt": ("lt",), "lt": ("gt",), "ge": ("le",), "logaddexp": ("max",), "and": ("or",), "or": ("and",),
}  # fmt: skip
STEPS = 9
_MOST = 24  # mutants of a system in the full sweep: some systems have hundreds


def mutants(rec: ir.Recurrence) -> Iterator[tuple[str, ir.Recurrence]]:
    """`rec` with one operator changed, for each place and each change of `FLIPS`, with a word on which."""
    for i, equation in enumerate(rec.equations):
        for node in dict.fromkeys(n for n in ir.walk(equation.expr) if isinstance(n, ir.Apply) and n.op in FLIPS):
            for op in FLIPS[node.op]:
                changed = replace(node, op=op)
                expr = ir.rewrite(equation.expr, lambda n, a=node, b=changed: b if n == a else n)
                equations = (*rec.equations[:i], replace(equation, expr=expr), *rec.equations[i + 1 :])
                yield f"{equation.name}: {node.op} -> {op}", replace(rec, equations=equations)


def moved(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Real numbers, each a little larger or smaller: round ones meet a threshold exactly, where roundings decide."""
    return array * (1 + rng.uniform(-1e-3, 1e-3, array.shape)) if array.dtype.kind == "f" else array


def check(name: str, what: str, mutant: ir.Recurrence, rng: np.random.Generator) -> int:
    """Compares each parallel schedule of a mutant with its definition; the number of comparisons."""
    rec = recurc.Recurrence(mutant)
    legal = {s for g in rec.analyze().groups for s in (*g.schedules, *g.on_request)} - {"sequential", "newton"}
    if not legal:
        return 0
    inputs, params = draw(name, rng, STEPS)
    if any(e.expr.dtype.kind in (Kind.BOOL, Kind.INT) for e in mutant.equations if e.name in mutant.outputs):
        inputs, params = ({n: moved(a, rng) for n, a in given.items()} for given in (inputs, params))
    options = {} if mutant.inputs else {"steps": STEPS}
    sizes = ORACLES[name].sizes
    with np.errstate(all="ignore"):
        wanted = rec.compile(backend="reference", sizes=sizes)(**inputs, **params, **options)
        several = wanted if len(mutant.outputs) > 1 else (wanted,)
        if not all(np.isfinite(w).all() and np.abs(w).max(initial=0.0) < 1e6 for w in map(np.asarray, several)):
            return 0  # the changed system explodes, and what is left of it are rounding errors
        for schedule in sorted(legal):
            found = rec.compile(backend="numpy", schedule=schedule, sizes=sizes)(**inputs, **params, **options)
            for have, want in zip(found if len(mutant.outputs) > 1 else (found,), several, strict=True):
                have, want = (np.asarray(a).astype(np.complex128) for a in (have, want))
                scale = max(1.0, float(np.abs(want).max(initial=0.0)))
                worst = float(np.abs(have - want).max(initial=0.0)) / scale
                assert worst < 1e-8, f"{name}, {what}, by {schedule}: off by {worst:.1e}"
    return len(legal)


def fits(mutant: ir.Recurrence) -> bool:
    """Whether the types of a mutant still fit."""
    try:
        recurc.passes.core_form(mutant)
    except (UnsupportedError, AssertionError):
        return False
    return True


def test_what_may_run_in_parallel_in_a_changed_system_means_what_it_says(rng: np.random.Generator) -> None:
    """A sample, drawn anew each time: one mutant of each of 10 systems that may run in parallel as they are."""
    order = map(str, rng.permutation(NAMES))
    parallel = ((n, list(mutants(load(n).ir))) for n in order if {"scan", "chunkwise"} & {*schedules(n)})
    compared = 0
    for name, changed in islice(((n, m) for n, m in parallel if m), 10):  # an automaton has no operator to change
        what, mutant = changed[rng.integers(len(changed))]
        compared += check(name, what, mutant, rng) if fits(mutant) else 0
    assert compared


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_changed_operators_of_every_system_are_seen(name: str, rng: np.random.Generator) -> None:
    changed = list(mutants(load(name).ir))
    for pick in rng.choice(len(changed), min(_MOST, len(changed)), replace=False):
        if fits(changed[pick][1]):
            check(name, *changed[pick], rng)


def test_operators_that_are_flipped_exist() -> None:
    assert {*FLIPS} | {op for ops in FLIPS.values() for op in ops} <= {*OPS}
