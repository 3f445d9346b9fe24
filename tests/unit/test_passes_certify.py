"""Certificates: every lifted operator of the zoo is proved, and one with a flipped operator is not."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from recurc import zoo
from recurc.facts import Monoid
from recurc.ir import Apply, Const, Expr, Read, Recurrence, Size, rewrite, walk
from recurc.ops import OPS, apply, cast, convert
from recurc.passes import analyze, core_form
from recurc.passes.certify import certificate_of
from recurc.passes.random_checks import randomised_error
from recurc.types import DType
from tests.lifted_cases import CASES
from tests.passes_zoo import ZOO
from tests.systems import SYSTEMS

LIFTED = [name for name, (_, _, legal) in ZOO.items() if any("scan" in s for s in legal)]
FLIPS = {"add": "sub", "mul": "add", "max": "min", "min": "max", "logaddexp": "max", "sub": "add"}


def build(name: str) -> Recurrence:
    return SYSTEMS[name]() if name in SYSTEMS else ZOO[name][0]()


@pytest.mark.parametrize("name", [*LIFTED, "ema", "selective_scan", "aaren"])
def test_every_lifted_operator_is_proved_within_five_seconds(name: str) -> None:
    recurrence = build(name)
    start = time.process_time()
    groups = analyze(recurrence, prove=True).groups
    assert time.process_time() - start < 5.0
    for group in groups:
        if group.monoid is not None:
            assert (group.certificate.method, group.certificate.status) == ("symbolic", "proved"), group.certificate


def mutants(expr: Expr) -> list[Expr]:
    """`expr` with one operator flipped, once for each place where that is possible."""
    out: list[Expr] = []
    for target in walk(expr):
        if isinstance(target, Apply) and target.op in FLIPS:
            flipped = replace(target, op=FLIPS[target.op])
            out.append(rewrite(expr, lambda n, t=target, f=flipped: f if n == t else n))
    return out


MUTATED = [
    "lerp",
    "resets",
    "running_max",
    "max_plus",
    "log_sum_exp",
    "scalar_decay",
    "aaren",
    "mlstm",
    "clamped",
    "moebius",
    "momentum",
]


def certified(recurrence: Recurrence, monoid: Monoid) -> bool:
    return certificate_of(core_form(recurrence), monoid).status == "proved"


@pytest.mark.parametrize("name", MUTATED)
@pytest.mark.parametrize("part", ["combine", "apply", "lift"])
def test_a_flipped_operator_loses_the_proof(name: str, part: str) -> None:
    recurrence = build(name)
    monoid = next(g.monoid for g in analyze(recurrence).groups if g.monoid is not None)
    pieces: tuple[Expr, ...] = getattr(monoid, part)
    tried = 0
    for i, piece in enumerate(pieces):
        for mutant in mutants(piece)[:3]:
            changed = replace(monoid, **{part: (*pieces[:i], mutant, *pieces[i + 1 :])})
            assert not certified(recurrence, changed), f"{part}[{i}] of {name} changed unnoticed: {mutant}"
            tried += 1
    assert tried or part == "lift"


def test_a_wrong_identity_loses_the_proof() -> None:
    recurrence = build("ema")
    monoid = next(g.monoid for g in analyze(recurrence).groups if g.monoid is not None)
    zeros = tuple(Const(0.0, c.dtype) for c in monoid.components)
    assert not certified(recurrence, replace(monoid, identity=zeros))


def test_a_law_that_holds_only_at_the_size_of_the_proof_is_not_proved() -> None:
    recurrence = build("ema")
    monoid = next(g.monoid for g in analyze(recurrence).groups if g.monoid is not None)
    a, b = monoid.lift
    one_at_two = apply("sub", convert(Size("D"), b.dtype), Const(1.0, b.dtype))
    assert certified(recurrence, monoid)
    assert not certified(recurrence, replace(monoid, lift=(a, apply("mul", b, one_at_two))))


@pytest.mark.parametrize("dtype", [DType.I64, DType.BF16])
def test_a_rounding_in_the_lifted_element_loses_the_proof(dtype: DType) -> None:
    recurrence = build("ema")
    monoid = next(g.monoid for g in analyze(recurrence).groups if g.monoid is not None)
    a, b = monoid.lift
    assert not certified(recurrence, replace(monoid, lift=(a, cast(cast(b, dtype), b.dtype))))


def test_the_randomised_check_sees_an_operator_that_is_not_associative() -> None:
    monoid = next(g.monoid for g in analyze(build("ema")).groups if g.monoid is not None)
    assert randomised_error(monoid) < 1e-12
    broken = replace(monoid, combine=(monoid.combine[0], mutants(monoid.combine[1])[0]))
    assert randomised_error(broken) > 1e-3


def flipped(monoid: Monoid) -> list[Monoid]:
    """`monoid` with one operator changed, once for each place in its lift, combine and apply where that is possible."""
    found: list[Monoid] = []
    for part in ("lift", "combine", "apply"):
        pieces: tuple[Expr, ...] = getattr(monoid, part)
        for i, piece in enumerate(pieces):
            made = (replace(monoid, **{part: (*pieces[:i], m, *pieces[i + 1 :])}) for m in mutants(piece))
            found += [m for m in made if m not in found]
    return found


def means_the_same(one: Monoid, two: Monoid, rng: np.random.Generator) -> bool:
    """Whether two operators agree on finite values, which is what a proof speaks of: a choice that takes an infinite
    value to be made (tests/numerics/test_lifts.py has those) is not seen there."""
    known: dict[str, np.ndarray] = {}

    def value(expr: Expr) -> np.ndarray:
        match expr:
            case Const(value=number):
                return np.asarray(number)
            case Read(name=name, lag=lag):
                return known.setdefault(f"{name} {lag}", rng.standard_normal(32) * 4)
            case Apply(op=op, args=args):
                return OPS[op].numpy(*map(value, args))
            case _:
                raise NotImplementedError(f"{type(expr).__name__} in an operator that is elementwise")

    pairs = [*zip(one.lift, two.lift, strict=True), *zip(one.combine, two.combine, strict=True)]
    pairs += zip(one.apply, two.apply, strict=True)
    with np.errstate(all="ignore"):
        return all(a == b or np.array_equal(value(a), value(b), equal_nan=True) for a, b in pairs)


@pytest.mark.parametrize("name", CASES)
def test_a_flipped_operator_of_any_class_loses_the_proof(name: str, rng: np.random.Generator) -> None:
    recurrence = CASES[name].rec.ir
    (group,) = analyze(recurrence).groups
    assert group.monoid is not None
    changed = [m for m in flipped(group.monoid) if not means_the_same(group.monoid, m, rng)]
    for pick in rng.choice(len(changed), min(3, len(changed)), replace=False):
        assert not certified(recurrence, changed[pick]), f"{name} changed unnoticed: {changed[pick]}"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_flipped_operator_of_any_class_loses_the_proof(name: str, rng: np.random.Generator) -> None:
    recurrence = CASES[name].rec.ir
    (group,) = analyze(recurrence).groups
    assert group.monoid is not None
    kept = [changed for changed in flipped(group.monoid) if certified(recurrence, changed)]
    kept = [changed for changed in kept if not means_the_same(group.monoid, changed, rng)]
    assert not kept, f"{name} changed unnoticed: {kept}"


def test_a_merge_with_a_flipped_operator_loses_the_proof() -> None:
    recurrence = zoo.load("top_k").ir
    (group,) = analyze(recurrence).groups
    assert group.monoid is not None and certified(recurrence, group.monoid)
    changed = [replace(group.monoid, combine=(m,)) for m in mutants(group.monoid.combine[0])]
    assert len(changed) > 2 and not any(certified(recurrence, m) for m in changed)


def test_the_operator_of_a_part_is_proved_too() -> None:
    (group,) = analyze(zoo.load("mlstm").ir, prove=True).groups
    top, matrix, vector = group.parts
    assert (top.states, top.certificate.status) == (("m",), "proved")
    assert (matrix.states, matrix.certificate.status) == (("S",), "not applicable")
    assert (vector.states, vector.certificate.status) == (("n",), "not applicable")  # a column beside the matrix
