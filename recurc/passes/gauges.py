"""Gauges: running maxima that keep sums in range and that no result depends on, which derivatives take as constants.

    m = max(m[t-1] + g, s)
    u = exp(m[t-1] + g - m) * u[t-1] + exp(s - m)           outputs: w / u, m + log(u), ...
    w = exp(m[t-1] + g - m) * w[t-1] + exp(s - m) * v

With m + c for m, at every step another c, u and w become exp(-c) u and exp(-c) w, and the outputs stay what they are.
So the derivative of an output by m is 0 in all: what comes to m in the exponents is taken back by what comes to it
through u and w. A derivative that takes m for a constant at all places, in the exponents as in m + log(u), is therefore
exact, of every order; at some places only it would be wrong. It asks no `m[t-1] >= s`. Its coefficients are at most 1;
with the derivatives by u and w times u, and L = m + log(u), they are exp(L[t-1] + g - L) and exp(s - L), the weights of
the average itself. The same holds where sums have no unit weight to divide by (mLSTM).

That m is a gauge is proved, by what a shift of it does to each value: one with `shift` n gets n c added, one with
`power` n is multiplied by exp(n c). A maximum of values that are shifted otherwise is itself such an m (a pick): it may
be anything, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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
    rewrite,
    with_children,
)
from recurc.ops import apply
from recurc.types import Dims, Kind

_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})


@dataclass(frozen=True)
class Gauge:
    """A running maximum of that kind, and the states that a shift of it multiplies. `own`: what it is made of, all that
    it depends on itself spelled out; `picks`: maxima that are its like."""

    name: str
    members: tuple[str, ...]
    own: Expr
    picks: frozenset[Expr]


def gauges(rec: Recurrence) -> tuple[Gauge, ...]:
    """The running maxima of `rec` that none of its outputs depends on. They and their members begin at numbers, the
    members at 0."""
    found: list[Gauge] = []
    plain = {e.name: e.expr for e in rec.equations}
    for state in rec.states:
        if state.dtype.kind is not Kind.REAL or any(reads(state.initial)):
            continue
        own = _spelled(plain[state.name], plain)
        if isinstance(own, Apply) and own.op == "max":
            made = _Proof(rec, state, own).gauge()
            if made is not None:
                found.append(made)
    return tuple(found)


def detached(rec: Recurrence, constant: Sequence[Gauge], moving: bool = False) -> Recurrence:
    """`rec` with its gauges as constants of derivatives. `moving`: but for what they are made of themselves, so that
    their final values have derivatives: the members are then those for a gauge that stays."""
    names, picks = {g.name for g in constant}, {p for g in constant for p in g.picks}
    own = {g.name: g.own for g in constant}

    def held(expr: Expr) -> Expr:
        if expr in picks or (isinstance(expr, Read | Final) and expr.name in names):
            return apply("stop_gradient", expr)
        old = children(expr)
        new = tuple(held(c) for c in old)
        return with_children(expr, new) if any(a is not b for a, b in zip(old, new, strict=True)) else expr

    def made(equation: Equation) -> Expr:
        if equation.name not in own:
            return held(equation.expr)
        return own[equation.name] if moving else apply("stop_gradient", equation.expr)

    return replace(rec, equations=tuple(replace(e, expr=made(e)) for e in rec.equations)) if constant else rec


def attached(rec: Recurrence) -> Recurrence:
    """`rec` without constants of derivatives: its values are the same."""

    def free(node: Expr) -> Expr:
        return node.args[0] if isinstance(node, Apply) and node.op == "stop_gradient" else node

    return replace(rec, equations=tuple(replace(e, expr=rewrite(e.expr, free)) for e in rec.equations))


def _spelled(expr: Expr, plain: Mapping[str, Expr]) -> Expr:
    """What an equation defines that may be another's value by another name."""
    while isinstance(expr, Read) and not expr.lag and expr.name in plain:
        expr = plain[expr.name]
    return expr


# --- what a shift does to values --------------------------------------------------------------------------------------

_Atom = tuple[str, int] | Expr  # the gauge at a lag (-1: after the last step), or a pick
_Powers = Mapping[_Atom, int]


@dataclass(frozen=True)
class _Form:
    """What a value becomes when each atom gets c added: the value times exp(power . c), or plus shift . c."""

    shift: tuple[tuple[_Atom, int], ...] = ()
    power: tuple[tuple[_Atom, int], ...] = ()
    zero: bool = False  # the number 0, which any power leaves as it is

    @property
    def same(self) -> bool:
        """Whether it stays what it is."""
        return not self.shift and not self.power


_SAME = _Form()


def _entries(powers: _Powers) -> tuple[tuple[_Atom, int], ...]:
    return tuple(sorted(((a, n) for a, n in powers.items() if n), key=repr))


def _sum(a: tuple[tuple[_Atom, int], ...], b: tuple[tuple[_Atom, int], ...], sign: int = 1) -> Counter[_Atom]:
    total: Counter[_Atom] = Counter(dict(a))
    for atom, n in b:
        total[atom] += sign * n
    return total


class _Proof:
    """What a shift of one state does to the values of a recurrence; None for what has no such form."""

    def __init__(self, rec: Recurrence, gauge: State, own: Apply) -> None:
        self._rec, self._gauge, self._own = rec, gauge, own
        self._states = {s.name: s for s in rec.states}
        self._plain = {e.name: e.expr for e in rec.equations if e.name not in self._states}
        self._scaled: set[str] = set()
        self._picks: dict[Expr, None] = {}
        self._forms: dict[str, _Form | None] = {}

    def gauge(self) -> Gauge | None:
        """The state as a gauge, if no output depends on it, and no state beside those that are multiplied by it."""
        name, dims = self._gauge.name, self._gauge.dims
        wanted, before = _Form(power=(((name, 0), -1),)), _Form(shift=(((name, 1), 1),))
        scaled: set[str] = set()
        others = [s for s in self._rec.states if s.name != name]
        for state in others:
            fits = state.dtype is self._gauge.dtype and dims == tuple(d for d in state.dims if d in dims)
            empty = isinstance(state.initial, Const) and state.initial.value == 0
            if fits and empty and _is(self._with({state.name})[state.name], wanted):
                scaled.add(state.name)
        forms = self._with(scaled)
        picks = frozenset({self._own, *self._picks})
        kept, score = (self._form(a) for a in self._own.args)
        if not any(_is(a, before) and _is(b, _SAME) for a, b in ((kept, score), (score, kept))):
            return None
        if not all(_is(forms[s.name], wanted if s.name in scaled else _SAME) for s in others):
            return None
        if any(o in (name, *scaled) or not _is(forms.get(o, _SAME), _SAME) for o in self._rec.outputs):
            return None
        return Gauge(name, tuple(s.name for s in others if s.name in scaled), self._spelled_out(self._own), picks)

    def _spelled_out(self, expr: Expr) -> Expr:
        """With what is shifted in place of its names."""

        def own(node: Expr) -> Expr:
            shifted = isinstance(node, Read) and not node.lag and not _is(self._forms.get(node.name, _SAME), _SAME)
            return self._spelled_out(self._plain[node.name]) if shifted and isinstance(node, Read) else node

        return rewrite(expr, own)

    def _with(self, members: set[str]) -> dict[str, _Form | None]:
        """The forms of all equations, if `members` are multiplied by exp(-c)."""
        self._scaled, self._forms, self._picks = members, {}, {}
        made: dict[str, _Form | None] = {}
        for equation in self._rec.equations:
            form = made[equation.name] = self._form(equation.expr)
            if equation.name not in self._states:
                self._forms[equation.name] = form
        return made

    def _form(self, expr: Expr) -> _Form | None:
        if expr == self._own:
            return _Form(shift=(((self._gauge.name, 0), 1),))
        match expr:
            case Read() | Final():
                return self._of_name(expr)
            case Const(value=value):
                return _Form(zero=value == 0)
            case Apply(op=op, args=args):
                return self._applied(expr, op, [self._form(a) for a in args])
            case Contract(left=left, right=right):
                sides = self._form(left), self._form(right)
                kept = _keeps(expr, left.dims, expr.left_axes), _keeps(expr, right.dims, expr.right_axes)
                ok = all(f is not None and self._stays(f, k) for f, k in zip(sides, kept, strict=True))
                return _product(*sides) if ok else None
            case Reduce(op=op, arg=arg, over=over):
                form = self._form(arg)
                if form is None or form.same:
                    return form and _SAME
                within = self._stays(form, lambda d: d not in over)
                return form if within and (op in ("max", "min") or (op == "sum" and not form.shift)) else None
            case Broadcast(arg=arg):
                return self._form(arg)
            case Reaxis(arg=arg, axes=axes):
                form, gone = self._form(arg), None if expr.at is None else arg.dims[expr.at]
                named = {arg.dims[a]: new for a, new in zip(axes, expr.dims, strict=True)}
                moved = form is None or not self._stays(form, lambda d: d != gone and named.get(d) == d)
                return None if moved else form
            case _:
                return _SAME if all(_is(self._form(c), _SAME) for c in children(expr)) else None

    def _of_name(self, node: Read | Final) -> _Form | None:
        lag = node.lag if isinstance(node, Read) else -1
        if node.name == self._gauge.name:
            return _Form(shift=(((node.name, lag), 1),))
        if node.name in self._scaled:
            return _Form(power=(((self._gauge.name, lag), -1),))
        return self._forms.get(node.name, _SAME) if lag == 0 else _SAME

    def _applied(self, node: Apply, op: str, args: Sequence[_Form | None]) -> _Form | None:
        known = [a for a in args if a is not None]
        if len(known) < len(args):
            return None
        if all(a.same for a in known):
            return _Form(zero=op in ("mul", "neg", "abs") and any(a.zero for a in known))
        match op, known:
            case (("add" | "sub"), [a, b]) if not a.power and not b.power:
                return _Form(_entries(_sum(a.shift, b.shift, 1 if op == "add" else -1)))
            case (("add" | "sub"), [a, b]):
                return _alike(a, b)
            case "mul", [a, b]:
                return _product(a, b)
            case "div", [a, b] if not a.shift and not b.shift:
                return _Form(power=_entries(_sum(a.power, b.power, -1)), zero=a.zero)
            case "neg", [a]:
                return _Form(_entries({e: -n for e, n in a.shift}), a.power)
            case "abs", [a] if not a.shift:
                return a
            case "exp", [a] if not a.power:
                return _Form(power=a.shift)
            case "cast", [a] if node.dtype.kind is Kind.REAL:
                return a
            case "log", [a] if not a.shift:
                return _Form(a.power)
            case (("max" | "min"), [a, b]):
                return _alike(a, b) or self._pick(node, a, b)
            case "logaddexp", [a, b] if not a.power and not b.power:
                return a if a == b else self._pick(node, a, b)
            case "select", [condition, a, b] if condition.same:
                return _alike(a, b)
            case _, [a, b] if op in _COMPARISONS:
                return _alike(a, b) and _SAME
            case _:
                return None

    def _pick(self, node: Expr, a: _Form, b: _Form) -> _Form | None:
        """The larger of values that are shifted otherwise: what it is shifted by is a shift of its own."""
        if a.power or b.power:
            return None
        self._picks[node] = None
        return _Form(((node, 1),))

    def _stays(self, form: _Form, kept: Callable[[str], bool]) -> bool:
        """Whether the dims in which the shifts of a value differ are all kept."""
        atoms = [a for a, _ in (*form.shift, *form.power)]
        dims = {d for a in atoms for d in (self._gauge.dims if isinstance(a, tuple) else a.dims)}
        return all(kept(d) for d in dims)


def _keeps(node: Contract, dims: Dims, axes: tuple[int, ...]) -> Callable[[str], bool]:
    """Which dims of an operand are dims of the product, by the same name."""
    labels = dict(zip(dims, axes, strict=True))
    out = dict(zip(node.out_axes, node.dims, strict=True))
    return lambda d: d not in labels or out.get(labels[d]) == d


def _is(form: _Form | None, wanted: _Form) -> bool:
    return form is not None and (
        (form.shift, form.power) == (wanted.shift, wanted.power) or (form.zero and not wanted.shift)
    )


def _alike(a: _Form, b: _Form) -> _Form | None:
    """The form of both; the number 0 has any power."""
    if (a.shift, a.power) == (b.shift, b.power):
        return _Form(a.shift, a.power, a.zero and b.zero)
    if a.zero and not b.shift:
        return b
    return a if b.zero and not a.shift else None


def _product(a: _Form | None, b: _Form | None) -> _Form | None:
    if a is None or b is None or a.shift or b.shift:
        return None
    return _Form(power=_entries(_sum(a.power, b.power)), zero=a.zero or b.zero)
