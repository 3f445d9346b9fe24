"""Newton's method over time: all steps of a nonlinear loop at once, from a guess that a scan improves (DEER, Lim et al.
2024; ParaRNN, Danieli et al. 2025).

With a guess g of the states after every step, the defect d_t = f(g_{t-1}, x_t) - g_t and the Jacobian J_t of f at
g_{t-1}, the update u_t = J_t u_{t-1} + d_t, which is 0 before the first step, is an affine recurrence, so it is a scan;
g + u is the next guess. Where every element of the states feeds only itself, J_t is one number (one state) or a small
matrix (several) for every element. To first order the update is the error of the guess, with all that the steps make of
it, so a guess with a small update and a small defect is a solution, and chaos, where tiny defects grow, is not taken
for one.

Where elements meet (class NL-f), the scan takes the diagonal D_t of J_t, for several states that of each of its blocks
(quasi-DEER, Gonzalez et al. 2024, "Towards Scalable and Stable Parallelization of Nonlinear RNNs"). Nothing else
changes: where the defect is 0, the guess is what the loop makes, whatever stands in place of the Jacobian, and every
round makes at least one more step exact. But a round only takes off a part of the error, and the update no longer is
that error. It is what one round finds of it: the error that remains is the sum of the updates to come. So a residual
tells something only if those fall. As long as the guess of a step depends on what was guessed k steps before it, k
rounds have not forgotten that guess, so how fast the updates fall is how fast the loop forgets. A sequence is therefore
solved only if its residual falls all the way, after k rounds to no more than 10 * 0.8^k (`Newton.limit`), in units of
1 + |g|: then what remains is of the size of the last residual (the sum of 0.8^k is 5), and steps that do not forget, at
which errors of rounding grow, are at most about ten before the sequence is left to the loop. Chaos stays near 1 as long
as there are steps that no round has made exact, so it is given up after ten rounds; one of fewer steps than that is
solved by making each of them exact. Within these limits the result has the errors of a loop that rounds each step to
the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from recurc import ops
from recurc.calculus.products import spread
from recurc.calculus.simplify import is_zero
from recurc.differentiate import adjoints
from recurc.facts import NONLINEAR, Group, Reason
from recurc.ir import (
    Apply,
    Broadcast,
    Equation,
    Expr,
    Gather,
    Read,
    Recurrence,
    Reduce,
    State,
    children,
    rewrite,
)
from recurc.ops import OPS, Affine, TypeProblem, apply, convert
from recurc.passes.affine import Coef, Linear, zero
from recurc.passes.dependence import needed
from recurc.passes.monoid import affine_monoid, block_monoid
from recurc.passes.newton_diagonal import Diagonal, Unused, diagonal
from recurc.passes.newton_products import products
from recurc.passes.sharing import share
from recurc.passes.terms import fresh
from recurc.plan import Carry, Loop, Map, Newton, Scan
from recurc.source import Span
from recurc.types import DType, Kind

MOST_STATES = 4  # of one group: a round multiplies matrices of that size for every element

FALLS = 0.8  # what a round takes off the residual at least, on the average, where the Jacobian is a diagonal only
MOST_ROUNDS = 128  # then: by that rate 1e-12 is reached

_CLASSES = f"{', '.join(NONLINEAR[:-1])} and {NONLINEAR[-1]}"
_CHOOSING = ("argmax", "argmin", "any", "all")


# --- whether it is possible -----------------------------------------------------------------------------------------


def refusal(rec: Recurrence, group: Group) -> Reason | None:
    """Why Newton's method cannot run the group, in words; None if it can. `rec` is in core form."""
    states = {s.name: s for s in rec.states}
    members = [states[s] for s in group.states]
    names = ", ".join(group.states)
    if group.cls not in NONLINEAR:
        return Reason(f"{names} (class {group.cls}) needs no Newton's method: it is for the classes {_CLASSES}")
    if len(members) > MOST_STATES:
        return Reason(f"{len(members)} states feed each other, and at most {MOST_STATES} are solved together")
    if any(s.dims != members[0].dims or s.dtype is not members[0].dtype for s in members):
        return Reason(f"{names} differ in dims or type, so they form no small matrix for every element")
    if members[0].dtype not in (DType.REAL, DType.F32, DType.F64):
        return Reason(f"{names} is {members[0].dtype.value}: the method needs real numbers, at least f32")
    equations = needed(
        [e for e in rec.equations if e.name in group.states or e.name not in states], [s.name for s in members]
    )
    rough = _discontinuity(equations, set(group.states))
    if rough is not None:
        return rough
    carries = [Carry(s.name, s.dims, s.dtype) for s in members]
    steady = {p.name for p in rec.params}
    try:
        _linearised(_renamed(equations, carries, "value", _guess_before), carries, group.cls, _fresh(set()), steady)
    except TypeProblem as problem:
        return Reason(f"a derivative of {names} is missing: {problem}")
    return None


def _discontinuity(equations: Sequence[Equation], group: set[str]) -> Reason | None:
    """The first threshold or rounding that a state of the group reaches. (`abs`, `max` and `min` have kinks, but no
    jumps; what they do to convergence, the residual tells.)"""
    moving: set[str] = set()
    for equation in equations:
        found = _Motion(group, moving)
        if found.moves(equation.expr):
            moving.add(equation.name)
        if found.jump is not None:
            what, span = found.jump
            who = ", ".join(s for s in group if len(group) == 1) or "a state"
            text = f"{who} reaches `{what}`, a threshold or rounding, and Newton's method needs a derivative"
            return Reason(text, span or equation.span)
    return None


class _Motion:
    """Which nodes of an expression depend on the group, and where such a one reaches something discontinuous."""

    def __init__(self, group: set[str], moving: set[str]) -> None:
        self._group, self._names, self._known = group, moving, dict[int, bool]()
        self.jump: tuple[str, Span | None] | None = None

    def moves(self, expr: Expr) -> bool:
        stack = [expr]
        while stack:
            node = stack[-1]
            waiting = [c for c in children(node) if id(c) not in self._known]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            if id(node) not in self._known:
                self._known[id(node)] = self._node(node)
        return self._known[id(expr)]

    def _node(self, node: Expr) -> bool:
        if isinstance(node, Read):
            return node.name in self._group if node.lag else node.name in self._names
        below = [self._known[id(c)] for c in children(node)]
        if any(below) and self.jump is None and (what := _jumps(node, below)):
            self.jump = what, node.span
        return any(below)


def _jumps(node: Expr, moving: Sequence[bool]) -> str:
    """The name of what makes the value of a node jump when the operands that are `moving` change a little; or ""."""
    match node:
        case Apply(op="cast", dtype=dtype) if dtype.kind in (Kind.BOOL, Kind.INT) or dtype in (DType.F16, DType.BF16):
            return f"cast to {dtype.value}"
        case Apply(op=op) if OPS[op].affine is Affine.DISCONTINUOUS and op != "abs":
            return op
        case Reduce(op=op) if op in _CHOOSING:
            return op
        case Gather() if moving[1]:
            return "a lookup"
        case _:
            return ""


# --- the stage ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surroundings:
    """What `newton` has to know of where a loop stands: the names in use beside those of the loop, and the buffers that
    are the same at every step."""

    taken: Collection[str]
    steady: Collection[str]


def newton(loop: Loop, cls: str, around: Surroundings) -> tuple[Newton, dict[str, Expr]]:
    """The stage that does what `loop` does, whose states form one group of class `cls` for which `refusal` has no
    reason; and by name what its rounds read that is to be computed once per call."""
    carries = loop.carries
    used = {*around.taken, *(e.name for e in loop.body), *(c.name for c in carries)}
    equations = needed(loop.body, [c.name for c in carries])
    values = _renamed(equations, carries, "value", _guess_before)
    found = _linearised(values, carries, cls, _fresh(used), around.steady)
    made = products(found.values, {f"{c.name}'guess" for c in carries}, around.steady, _fresh(used))
    slopes = found.slopes
    defects = [
        Equation(f"{c.name}'defect", apply("sub", _read(c, "value"), _read(c, "guess")), _span_of(c.name, equations))
        for c in carries
    ]
    updates = {c.name: State(f"{c.name}'update", c.dims, c.dtype, zero(c.dtype)) for c in carries}
    forms = {
        updates[row.name].name: Linear(
            {updates[k].name: Coef(slope) for k in updates if (slope := slopes[row.name, k]) is not None},
            _read(row, "defect"),
        )
        for row in carries
    }
    if len(carries) == 1:
        (state,), (form,) = updates.values(), forms.values()
        factor = form.coefs[state.name].factor if form.coefs else zero(state.dtype)
        assert factor is not None
        monoid = affine_monoid("EA", state, factor, form.offset, used)
    else:
        monoid = block_monoid(tuple(updates.values()), forms, used)
    shared, lift = share(monoid.lift, used)
    nexts = [Equation(f"{c.name}'next", apply("add", _read(c, "guess"), _read(c, "update"))) for c in carries]
    error = Equation(f"{carries[0].name}'error", _largest([_residual(c) for c in carries]))
    step = Scan(
        tuple(Carry(s.name, s.dims, s.dtype) for s in updates.values()),
        replace(monoid, lift=lift),
        (*made.values, *defects, *shared),
        (*nexts, error),
        tuple(e.name for e in nexts),
    )
    known = _renamed(loop.body, carries, None, _guess_before)
    if made.stages:  # a step from the initial states would take a product for each t: the first round makes it for all
        first = [Equation(f"{c.name}'guess", Read(f"{c.name}@initial", 0, c.dims, c.dtype)) for c in carries]
        known = made.read_in(known, found.named, {f"{c.name}'value": c.name for c in carries})
    else:
        first = _renamed(equations, carries, "guess", lambda c: Read(f"{c.name}@initial", 0, c.dims, c.dtype))
    guess = Map(tuple(first), tuple(f"{c.name}'guess" for c in carries))
    stage = Newton(loop, guess, step, error.name, tuple(known), made.stages)
    return (replace(stage, most=MOST_ROUNDS, falls=FALLS) if cls == "NL-f" else stage), found.once | made.once


def _residual(carry: Carry) -> Expr:
    """How large update and defect of a guess are, in units of 1 + |guess|."""
    size = apply("max", apply("abs", _read(carry, "update")), apply("abs", _read(carry, "defect")))
    return apply("div", size, apply("add", ops.number(1.0), apply("abs", _read(carry, "guess"))))


def _largest(exprs: Sequence[Expr]) -> Expr:
    largest = exprs[0]
    for expr in exprs[1:]:
        largest = apply("max", largest, expr)
    return largest


def _read(carry: Carry, kind: str) -> Read:
    return Read(f"{carry.name}'{kind}", 0, carry.dims, carry.dtype)


def _guess_before(carry: Carry) -> Read:
    return Read(f"{carry.name}'guess", 1, carry.dims, carry.dtype)


def _renamed(
    equations: Sequence[Equation], carries: Sequence[Carry], kind: str | None, before: Callable[[Carry], Read]
) -> list[Equation]:
    """The equations with each state of this step as `NAME'KIND` (None: as it was), and as `before` says where it is
    read one step back. Gradients that the recurrence stops do flow here: the values depend on them all the same."""
    known = {c.name: c for c in carries}

    def rule(node: Expr) -> Expr:
        match node:
            case Read(name=name, lag=lag) if name in known:
                return before(known[name]) if lag else node if kind is None else _read(known[name], kind)
            case Apply(op="stop_gradient", args=(arg,)):
                return arg
            case _:
                return node

    out: list[Equation] = []
    for equation in equations:
        expr, carry = rewrite(equation.expr, rule), known.get(equation.name)
        if carry is None or kind is None:
            out.append(Equation(equation.name, expr, equation.span))
        else:
            full = convert(spread(expr, carry.dims), carry.dtype)
            out.append(Equation(f"{carry.name}'{kind}", full, equation.span))
    return out


def _linearised(
    values: Sequence[Equation], carries: Sequence[Carry], cls: str, unused: Unused, steady: Collection[str]
) -> Diagonal:
    """For each pair of states how much the new value of the first grows with the old one of the second, element by
    element, and the equations those read. Raises `TypeProblem` for what has no derivative."""
    if cls != "NL-f":
        return _jacobian(values, carries, unused)
    rows = [(c, _read(c, "value").name) for c in carries]
    return diagonal(values, rows, [(c, _guess_before(c)) for c in carries], unused, steady)


def _jacobian(values: Sequence[Equation], carries: Sequence[Carry], unused: Unused) -> Diagonal:
    """All of the Jacobian, by reverse mode from a cotangent of ones: as no element meets another one, what flows back
    to each is its own derivative."""
    known = {e.expr: Read(e.name, 0, e.expr.dims, e.expr.dtype) for e in values}
    equations: list[Equation] = []
    slopes: dict[tuple[str, str], Expr | None] = {}
    for row in carries:
        found = adjoints(
            values,
            [(_read(row, "value"), ops.number(1.0))],
            [_guess_before(c) for c in carries],
            lambda _, row=row: unused(f"{row.name}'slope"),
            known,
        )
        equations += found.equations
        known |= {e.expr: Read(e.name, 0, e.expr.dims, e.expr.dtype) for e in found.equations}
        for column, slope in zip(carries, found.values, strict=True):
            bare = slope.arg if isinstance(slope, Broadcast) else slope
            slopes[row.name, column.name] = None if is_zero(bare) else slope
    return Diagonal((*values, *equations), slopes, {}, {})


def _fresh(taken: set[str]) -> Unused:
    """Makes names that nothing has, and remembers them in `taken`."""

    def unused(hint: str) -> str:
        name = fresh(hint, taken)
        taken.add(name)
        return name

    return unused


def _span_of(name: str, equations: Sequence[Equation]) -> Span | None:
    return next((e.span for e in equations if e.name == name), None)
