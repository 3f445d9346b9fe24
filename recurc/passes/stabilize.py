"""Stabilise: sums of terms weighted by exp(score) that are only read as ratios, or by their logarithm, are kept in
range by a running maximum, as if the author had written the online softmax (M. Milakov and N. Gimelshein 2018).

    u = f * u[t-1] + exp(s)                         m  = max(m[t-1] + log(f), s)
    w = f * w[t-1] + exp(s) * v          becomes    u' = exp(m[t-1] + log(f) - m) * u'[t-1] + exp(s - m)
    o = w / u                                       w' = exp(m[t-1] + log(f) - m) * w'[t-1] + exp(s - m) * v
                                                    o  = w' / u'

where u = exp(m) u' and w = exp(m) w'. A value made of such states is a `_Scaled`: a mantissa and powers of exponentials
beside it. Products multiply both, sums bring both sides to the larger exponential, a quotient cancels what is in both.
An output must have nothing beside its mantissa, or exp of what is at most zero (`w / max(abs(u), 1)`, `w / (u + eps)`).
Where that does not hold, and where the score is bounded anyway, the states stay as they are written.

The caller knows u and w: u' begins as u does, m at zero (or far below every score, where u and w begin at zero), and
after the last step u = exp(m) u' again (`Stabilized`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from recurc.build import permute
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Equation,
    Expr,
    Final,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    State,
    children,
    reads,
    walk,
)
from recurc.ops import OPS, Affine, TypeProblem, apply, number
from recurc.passes.affine import Forms, Linear, one
from recurc.passes.dependence import dependence, topological
from recurc.passes.manager import Pass
from recurc.passes.ranges import value_range
from recurc.passes.terms import fresh, too_large
from recurc.passes.verify import used_names
from recurc.types import Dims, Kind

_IN_RANGE = 60.0  # a score of at most that size: a million terms of exp(60) are still numbers of f32
_NOTHING = -1e30  # a logarithm below every score, and still a number
_MEAN_VALUE = frozenset({"sum", "max", "min"})
_SCALED, _MAX = "@scaled", "@max"


@dataclass(frozen=True)
class Stabilized:
    """A state as the source has it: which state holds it divided by exp of which running maximum."""

    mantissa: str
    top: str


def stabilized_states(core: Recurrence) -> dict[str, Stabilized]:
    """The states of the source that a recurrence in core form holds as a mantissa beside a running maximum."""
    tops = {s.name for s in core.states if s.name.endswith(_MAX)}
    equations = {e.name: e.expr for e in core.equations}
    found: dict[str, Stabilized] = {}
    for state in core.states:
        if state.name.endswith(_SCALED):
            top = next(n for n in _behind(state.name, equations) if n in tops)
            found[state.name.removesuffix(_SCALED)] = Stabilized(state.name, top)
    return found


def is_top(state: str) -> bool:
    """Whether a state of a core form is such a maximum (no source can spell its name)."""
    return state.endswith(_MAX)


def is_mantissa(name: str) -> bool:
    """Whether a value of a core form is one that was divided by exp of such a maximum."""
    return name.endswith(_SCALED)


def source_name(name: str) -> str:
    """The name in the source of what is divided, or of the first of the states that a maximum belongs to."""
    return name.removesuffix(_SCALED).removesuffix(_MAX)


def _behind(name: str, equations: dict[str, Expr]) -> Iterable[str]:
    """The names that the equation of `name` reads at this step, through others."""
    pending, seen = [name], {name}
    while pending:
        for read in reads(equations[pending.pop()]):
            if read.lag == 0 and read.name not in seen:
                seen.add(read.name)
                yield read.name
                if read.name in equations and not read.name.endswith(_MAX):
                    pending.append(read.name)


def stabilize(rec: Recurrence) -> Recurrence:
    """`rec` (core operators, lags 0 and 1) with its sums of exponentials kept in range by running maxima."""
    if not _worth_a_look(rec):
        return rec
    tried: set[tuple[str, ...]] = set()
    while True:
        for weighted in _candidates(rec):
            if tuple(weighted.members) in tried:
                continue
            tried.add(tuple(weighted.members))
            try:
                rec = _Rewriter(rec, weighted).run()
            except _Refused:
                continue
            break
        else:
            return rec


def _worth_a_look(rec: Recurrence) -> bool:
    """Whether a state is made with exp and something is divided, or its logarithm is taken."""
    nodes = [n.op for e in rec.equations for n in walk(e.expr) if isinstance(n, Apply)]
    return "exp" in nodes and ("div" in nodes or "log" in nodes)


@dataclass(frozen=True)
class _Weighted:
    """States that share a decay (its logarithm; None: 1) and a score; `members`: the value each score weighs."""

    members: dict[str, Expr]
    log_decay: Expr | None
    score: Expr


class _Refused(Exception):
    """These states are not read as ratios only."""


def _candidates(rec: Recurrence) -> list[_Weighted]:
    """The groups of states whose updates have that form, in the order of their first members."""
    dep = dependence(rec)
    plain = {e.name: e.expr for e in rec.equations if e.name not in {s.name for s in rec.states}}
    groups: dict[tuple[Expr | None, Expr], dict[str, Expr]] = {}
    for state in rec.states:
        if (state.name,) not in dep.groups or state.dtype.kind is not Kind.REAL or state.name.endswith(_SCALED):
            continue
        forms = Forms(rec, dep, frozenset({state.name}))
        form = forms.of_equation(state.name)
        if not isinstance(form, Linear) or form.offset is None or form.cut or form.rounded or form.cancels:
            continue
        coef = form.coefs.get(state.name)
        if coef is None or coef.factor is None or coef.mixes:
            continue
        scores, value = _exponentials(form.offset, plain)
        if not scores:
            continue
        score = scores[0]
        for more in scores[1:]:
            score = apply("add", score, more)
        decay = _logarithm(coef.factor, plain)
        if isinstance(decay, bool) or _is_relative(score, rec, plain) or _is_bounded(score, plain):
            continue
        dims = {*score.dims, *(decay.dims if decay is not None else ())}
        if dims <= set(state.dims) and len(set(state.dims)) == len(state.dims):
            groups.setdefault((decay, score), {})[state.name] = value
    return [_Weighted(members, decay, score) for (decay, score), members in groups.items()]


def _spelled(expr: Expr, plain: dict[str, Expr]) -> Expr:
    while isinstance(expr, Read) and not expr.lag and expr.name in plain:
        expr = plain[expr.name]
    return expr


def _exponentials(expr: Expr, plain: dict[str, Expr]) -> tuple[list[Expr], Expr]:
    """The exponents of the factors exp(..) of a product, names looked through, and the product of the others."""
    found = _spelled(expr, plain)
    match found:
        case Apply(op="exp", args=(score,)):
            return [_spelled(score, plain)], one(expr.dtype)
        case Apply(op="mul", args=(a, b)):
            (of_a, rest_a), (of_b, rest_b) = _exponentials(a, plain), _exponentials(b, plain)
            if of_a or of_b:
                return [*of_a, *of_b], _product(rest_a, rest_b)
        case Apply(op="div", args=(a, b)):
            of_a, rest_a = _exponentials(a, plain)
            if of_a:
                return of_a, apply("div", rest_a, b)
        case Apply(op="neg", args=(a,)):
            of_a, rest_a = _exponentials(a, plain)
            if of_a:
                return of_a, apply("neg", rest_a)
        case _:
            pass
    return [], expr


def _product(a: Expr, b: Expr) -> Expr:
    if a == one(a.dtype):
        return b
    return a if b == one(b.dtype) else apply("mul", a, b)


def _logarithm(factor: Expr, plain: dict[str, Expr]) -> Expr | bool | None:
    """The logarithm of a decay: None for 1, False where the factor may be negative."""
    found = _spelled(factor, plain)
    match found:
        case Const(value=value) if value == 1:
            return None
        case Apply(op="exp", args=(exponent,)):
            return exponent
        case Apply(op="sigmoid", args=(x,)):
            return apply("neg", apply("softplus", apply("neg", x)))
        case _ if value_range(found, plain)[0] >= 0:
            return apply("log", factor)
        case _:
            return False


def _is_relative(score: Expr, rec: Recurrence, plain: dict[str, Expr]) -> bool:
    """Whether the score is a distance to a running maximum (or another state that picks), as where the author has
    stabilised already."""
    picks = {
        s.name
        for s in rec.states
        for e in rec.equations
        if e.name == s.name and isinstance(found := _spelled(e.expr, plain), Apply) and found.op in ("max", "logaddexp")
    }
    pending, seen = [score], set[str]()
    while pending:
        for read in reads(pending.pop()):
            if read.name in picks:
                return True
            if read.lag == 0 and read.name in plain and read.name not in seen:
                seen.add(read.name)
                pending.append(plain[read.name])
    return False


def _is_bounded(score: Expr, plain: dict[str, Expr]) -> bool:
    low, high = value_range(score, plain)
    return low >= -_IN_RANGE and high <= _IN_RANGE


# --- rewriting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scaled:
    """`mantissa` times the product of exp(e) ** n over the entries of `scale`."""

    mantissa: Expr
    scale: tuple[tuple[Expr, int], ...] = ()

    def powers(self) -> Counter[Expr]:
        return Counter(dict(self.scale))


def _of(mantissa: Expr, powers: Counter[Expr]) -> _Scaled:
    return _Scaled(mantissa, tuple((e, n) for e, n in powers.items() if n))


class _Rewriter:
    """Rewrites a recurrence for one group of weighted states; `_Refused` where a value is needed that is no ratio."""

    def __init__(self, rec: Recurrence, weighted: _Weighted) -> None:
        self._rec, self._weighted = rec, weighted
        self._states = {s.name: s for s in rec.states}
        self._plain = {e.name: e.expr for e in rec.equations if e.name not in self._states}
        taken = used_names(rec)
        first = next(iter(weighted.members))
        self._top = fresh(f"{first}{_MAX}", taken)
        if self._top != f"{first}{_MAX}":
            raise _Refused
        decay = weighted.log_decay
        dims = apply("add", decay, weighted.score).dims if decay is not None else weighted.score.dims
        self._top_dims: Dims = tuple(d for d in self._states[first].dims if d in dims)
        self._dtype = self._states[first].dtype
        self._made: dict[str, _Scaled] = {}  # equations that are not what they were
        self._found = False  # whether anything is read as a ratio

    def run(self) -> Recurrence:
        rec, members = self._rec, self._weighted.members
        if any(self._states[n].dtype is not self._dtype for n in members) or any(n in members for n in rec.outputs):
            raise _Refused
        equations: list[Equation] = []
        for equation in rec.equations:
            if equation.name in members:
                continue
            if not self._touched(equation.expr):
                equations.append(equation)
                continue
            made = self._value(equation.expr)
            if not made.scale or equation.name in self._states or equation.name in rec.outputs:
                made = _Scaled(self._whole(made))
            name = equation.name if not made.scale else f"{equation.name}{_SCALED}"
            self._made[equation.name] = replace(
                made, mantissa=Read(name, 0, made.mantissa.dims, made.mantissa.dtype, equation.span)
            )
            expr = made.mantissa
            if not made.scale and expr.dims != equation.expr.dims:
                expr = permute(expr, equation.expr.dims)
            equations.append(Equation(name, expr, equation.span))
        if not self._found:
            raise _Refused
        own = [self._maximum(), *(self._update(n, v) for n, v in members.items())]
        states: list[State] = []
        for state in rec.states:
            if state.name == next(iter(members)):
                begins_empty = all(_is_zero(self._states[n].initial) for n in members)
                start = number(_NOTHING if begins_empty else 0.0)
                states.append(State(self._top, self._top_dims, self._dtype, start, state.span))
            states.append(replace(state, name=f"{state.name}{_SCALED}") if state.name in members else state)
        return replace(rec, states=tuple(states), equations=topological([*equations, *own]))

    def _maximum(self) -> Equation:
        before = Read(self._top, 1, self._top_dims, self._dtype)
        kept = apply("add", before, self._weighted.log_decay) if self._weighted.log_decay is not None else before
        span = self._weighted.score.span
        return Equation(self._top, _over(apply("max", kept, self._weighted.score, span=span), self._top_dims), span)

    def _update(self, name: str, value: Expr) -> Equation:
        state, span = self._states[name], next(e.span for e in self._rec.equations if e.name == name)
        before, now = (Read(self._top, lag, self._top_dims, self._dtype) for lag in (1, 0))
        kept = apply("add", before, self._weighted.log_decay) if self._weighted.log_decay is not None else before
        decay = apply("exp", apply("sub", kept, now))
        weight = apply("exp", apply("sub", self._weighted.score, now))
        old = Read(f"{name}{_SCALED}", 1, state.dims, state.dtype)
        return Equation(
            old.name, _over(apply("add", apply("mul", decay, old), _product(weight, value)), state.dims), span
        )

    def _touched(self, expr: Expr) -> bool:
        return any(
            isinstance(n, Read | Final) and (n.name in self._weighted.members or n.name in self._made)
            for n in walk(expr)
        )

    def _value(self, expr: Expr) -> _Scaled:
        """What `expr` is, as a mantissa and a scale. Raises `_Refused` where it has neither."""
        if not self._touched(expr):
            return _Scaled(expr)
        match expr:
            case Read(name=name, lag=lag) if name in self._weighted.members:
                top = Read(self._top, lag, self._top_dims, self._dtype)
                return _Scaled(Read(f"{name}{_SCALED}", lag, expr.dims, expr.dtype, expr.span), ((top, 1),))
            case Read(name=name, lag=0):
                return self._made[name]
            case Apply(op=op, args=args):
                return self._applied(expr, op, [self._value(a) for a in args])
            case Contract(left=left, right=right):
                sides = self._value(left), self._value(right)
                labels = {d for s in (left, right) for d in s.dims} - set(expr.dims)
                self._keeps(sides, labels)
                if tuple(s.mantissa.dims for s in sides) != (left.dims, right.dims):
                    raise _Refused
                made = replace(expr, left=sides[0].mantissa, right=sides[1].mantissa)
                return _of(made, _plus(sides[0].powers(), sides[1].powers()))
            case Reduce(op=op, arg=arg, over=over) if op in _MEAN_VALUE:
                inner = self._value(arg)
                self._keeps([inner], set(over))
                return _Scaled(replace(expr, arg=_over(inner.mantissa, arg.dims)), inner.scale)
            case Broadcast(arg=arg):
                inner = self._value(arg)
                return _Scaled(replace(expr, arg=_over(inner.mantissa, arg.dims)), inner.scale)
            case Reaxis(arg=arg):
                inner = self._value(arg)
                moved = {arg.dims[a] for a, new in zip(expr.axes, expr.dims, strict=True) if arg.dims[a] != new}
                self._keeps([inner], moved | ({arg.dims[expr.at]} if expr.at is not None else set()))
                return _Scaled(replace(expr, arg=_over(inner.mantissa, arg.dims)), inner.scale)
            case _:
                return _Scaled(self._rebuilt(expr))

    def _applied(self, node: Apply, op: str, args: list[_Scaled]) -> _Scaled:
        match op, args:
            case "mul", [a, b]:
                return _of(self._apply(node, a.mantissa, b.mantissa), _plus(a.powers(), b.powers()))
            case "div", [a, b]:
                made = _of(self._apply(node, a.mantissa, b.mantissa), _plus(a.powers(), b.powers(), -1))
                return _Scaled(self._whole(made)) if _is_small(made) else made
            case (("neg" | "abs"), [a]):
                return _Scaled(self._apply(node, a.mantissa), a.scale)
            case (("add" | "sub" | "max" | "min"), [a, b]):
                left, right, scale = self._common(a, b)
                return _Scaled(self._apply(node, left, right), scale)
            case "select", [condition, a, b]:
                left, right, scale = self._common(a, b)
                return _Scaled(self._apply(node, self._whole(condition), left, right), scale)
            case "log", [a]:
                made = self._apply(node, a.mantissa)
                for exponent, power in a.scale:
                    self._found = True
                    term = exponent if power == 1 else apply("mul", number(float(power)), exponent)
                    made = apply("add", made, term)
                return _Scaled(made)
            case _:
                return _Scaled(self._apply(node, *(self._whole(a) for a in args)))

    def _common(self, a: _Scaled, b: _Scaled) -> tuple[Expr, Expr, tuple[tuple[Expr, int], ...]]:
        """Two mantissas at one scale: that of both, or the larger one."""
        if a.powers() == b.powers():
            return a.mantissa, b.mantissa, a.scale
        (one_, a), (other, b) = self._exponent(a), self._exponent(b)
        top = apply("max", one_, other)
        left, right = (_product(apply("exp", apply("sub", e, top)), v.mantissa) for e, v in ((one_, a), (other, b)))
        return left, right, ((top, 1),)

    def _exponent(self, value: _Scaled) -> tuple[Expr, _Scaled]:
        """The logarithm of its scale; of a value without one that of its factors exp(..), which are taken out."""
        if not value.scale:
            scores, rest = _exponentials(value.mantissa, self._plain)
            if not scores:
                return number(0.0), value
            total = scores[0]
            for more in scores[1:]:
                total = apply("add", total, more)
            return total, _Scaled(rest)
        total: Expr | None = None
        for exponent, power in value.scale:
            term = exponent if power == 1 else apply("mul", number(float(power)), exponent)
            total = term if total is None else apply("add", total, term)
        assert total is not None
        return total, value

    def _whole(self, value: _Scaled) -> Expr:
        """The value itself, if nothing is left beside its mantissa but exp of what is at most zero."""
        if not value.scale:
            return value.mantissa
        if not _is_small(value):
            raise _Refused
        (above, _), (below, _) = sorted(value.scale, key=lambda entry: -entry[1])
        return apply("mul", value.mantissa, apply("exp", apply("sub", above, below)))

    def _rebuilt(self, expr: Expr) -> Expr:
        """Another kind of node over the values of its operands."""
        from recurc.ir import with_children

        if isinstance(expr, Final | Read):
            raise _Refused
        return with_children(expr, tuple(_over(self._whole(self._value(c)), c.dims) for c in children(expr)))

    def _keeps(self, values: Iterable[_Scaled], gone: set[str]) -> None:
        """Raises `_Refused` if a scale varies along a dim that is summed over, or gets another name."""
        if any(set(e.dims) & gone for v in values for e, _ in v.scale):
            raise _Refused

    def _apply(self, node: Apply, *args: Expr) -> Expr:
        if node.op == "div":
            self._found = True
        if OPS[node.op].affine is Affine.DISCONTINUOUS and too_large(node):
            raise _Refused
        try:
            return apply(node.op, *args, span=node.span)
        except TypeProblem as problem:
            raise _Refused from problem


def _plus(a: Counter[Expr], b: Counter[Expr], sign: int = 1) -> Counter[Expr]:
    total = Counter(a)
    for exponent, power in b.items():
        total[exponent] += sign * power
    return total


def _is_small(value: _Scaled) -> bool:
    """Whether the scale is exp of one term less the maximum of it and others."""
    entries = sorted(value.scale, key=lambda entry: -entry[1])
    match entries:
        case [(above, 1), (below, -1)]:
            return above in _picked(below)
        case _:
            return False


def _picked(expr: Expr) -> list[Expr]:
    """The operands of nested maxima."""
    if isinstance(expr, Apply) and expr.op == "max":
        return [found for a in expr.args for found in (a, *_picked(a))]
    return []


def _over(expr: Expr, dims: Dims) -> Expr:
    """`expr` with its dims in the order `dims`, repeated along those it lacks."""
    if expr.dims == dims:
        return expr
    if set(expr.dims) == set(dims):
        return permute(expr, dims)
    return Broadcast(expr, dims, expr.dtype, expr.span)


def _is_zero(expr: Expr) -> bool:
    return isinstance(expr, Const) and expr.value == 0


STABILIZE = Pass("stabilize", "keep sums of exponentials that are read as ratios in range", stabilize, "expanded")

__all__ = ["STABILIZE", "Stabilized", "is_mantissa", "is_top", "source_name", "stabilize", "stabilized_states"]
