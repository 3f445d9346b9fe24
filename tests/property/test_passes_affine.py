"""Random affine updates: the analysis finds them affine, and every legal plan computes what the definition says."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recurc import targets
from recurc.ir import Expr, Read, Recurrence, reads
from recurc.ops import add, apply, div, mul, neg, number, select, sub
from recurc.passes import analyze, core_form, make_plan
from recurc.types import Dims, DType
from tests.passes_zoo import SIZES, agree, random_arrays, rec, v

STATE: Dims = ("D", "K")
INPUTS: dict[str, Dims] = {"s": (), "x": ("D",), "k": ("K",), "y": ("D", "K")}
PARAMS: dict[str, Dims] = {"p": (), "q": ("D", "K")}
H = Read("h", 1, STATE, DType.REAL)

leaves = st.sampled_from([v(n, *d) for n, d in (INPUTS | PARAMS).items()] + [number(0.5), number(-1.0), number(1.0)])
free: st.SearchStrategy[Expr] = st.recursive(
    leaves,
    lambda e: st.one_of(
        st.builds(lambda a: apply("sigmoid", a), e),
        st.builds(lambda a: apply("exp", apply("min", a, number(0.0))), e),
        st.builds(mul, e, e),
        st.builds(sub, e, e),
    ),
    max_leaves=4,
)
divisor = st.builds(lambda a: add(number(1.0), apply("sigmoid", a)), free)
condition = st.builds(lambda a, b: apply("gt", a, b), free, free)


def grown(e: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    """Everything that keeps a value affine in the state."""
    return st.one_of(
        st.builds(mul, free, e),
        st.builds(mul, e, free),
        st.builds(div, e, divisor),
        st.builds(neg, e),
        st.builds(add, e, e),
        st.builds(sub, e, free),
        st.builds(sub, free, e),
        st.builds(lambda a, z: add(a, mul(apply("sigmoid", z), sub(z, a))), e, free),
        st.builds(select, condition, e, e),
        st.builds(select, condition, e, free),
    )


affine: st.SearchStrategy[Expr] = st.recursive(st.just(H), grown, max_leaves=5)


def recurrence(update: Expr, emit: Expr) -> Recurrence:
    # Halved by a squashed factor, so that six steps stay in range whatever the coefficients are.
    calm = add(mul(number(0.25), update), mul(number(0.1), v("y", *STATE)))
    return rec("Random", INPUTS, PARAMS, {"h": (STATE, 0.5)}, {"h": calm, "o": mul(v("h", *STATE), emit)}, ("o", "h"))


@settings(max_examples=150, deadline=None)
@given(update=affine, emit=free, seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 6))
def test_a_random_affine_update_is_found_affine_and_every_schedule_agrees(
    update: Expr, emit: Expr, seed: int, steps: int
) -> None:
    source = recurrence(update, emit)
    arrays = random_arrays(source, np.random.default_rng(seed), 2, steps)
    (group,) = analyze(source).groups
    if group.cls == "SH":  # a choice whose condition is a constant may drop the state altogether
        assert not any(r.name == "h" and r.lag for e in core_form(source).equations for r in reads(e.expr))
    else:
        if "terms that read the state cancel" in str(group.reasons[0]):  # left as written, for their rounding errors
            assert (group.cls, group.schedules) == ("NL-d", ("sequential",))
            return
        assert group.cls in ("EA", "SR1", "DR1") and group.schedules[:2] == ("sequential", "scan")
    for schedule in group.schedules:
        plan = make_plan(source, SIZES, 2, steps, DType.F64, targets.named("cpu"), schedule)
        agree(source, plan, arrays, 2, steps)


spoiled = st.one_of(
    st.builds(lambda a: apply("tanh", a), affine),
    st.builds(lambda a: apply("abs", a), affine),
    st.builds(lambda a, b: mul(a, b), affine, affine),
    st.builds(lambda a, c: div(c, add(number(2.0), mul(a, a))), affine, free),  # the square: else it is a fraction
    st.builds(lambda a, c: select(apply("gt", a, c), a, neg(a)), affine, free),
    st.builds(lambda a: apply("floor", a), affine),
)


@settings(max_examples=100, deadline=None)
@given(update=spoiled)
def test_a_spoiled_update_is_never_offered_a_scan(update: Expr) -> None:
    (group,) = analyze(recurrence(update, number(1.0))).groups
    assert group.schedules == ("sequential",)
