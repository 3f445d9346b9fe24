"""Updates that are linear over a semiring, also where elements mix: Viterbi, shortest paths, automata, alignments.

With `plus` and `times` of a semiring in the place of + and *, such an update is h = A h + b: a product of a free matrix
with the old state. Products of matrices are associative there too, so these updates compose, whatever the cost of that.
The interpreter below asks, for one semiring after the other, whether the update is built from the old state by

    plus of two such values; times a free value; a reduction by plus; a choice, a place or another view that is free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from recurc.ir import Apply, Broadcast, Expr, Gather, Read, Reaxis, Reduce, Unfold
from recurc.passes.affine import Forms, Free, reorders_only
from recurc.passes.algebras import Algebra
from recurc.passes.log_sums import log_sum
from recurc.types import Dims

_INF = math.inf
SEMIRINGS = (
    Algebra("max", "add", "max", -_INF, 0.0),
    Algebra("min", "add", "min", _INF, 0.0),
    Algebra("logaddexp", "add", None, -_INF, 0.0),
    Algebra("or", "and", "any", False, True),
    Algebra("and", "or", "all", True, False),
    Algebra("max", "min", "max", -_INF, _INF),
    Algebra("min", "max", "min", _INF, -_INF),
)


@dataclass(frozen=True)
class Line:
    """A value linear in the old state: which of the semiring's operations occurred and along which dims it mixes."""

    added: bool = False  # plus
    scaled: bool = False  # times
    mixed: Dims = ()
    renames: bool = False


@dataclass(frozen=True)
class Semilinear:
    semiring: Algebra
    line: Line


Value = Free | Line | None


def semilinear(forms: Forms, state: str) -> Semilinear | None:
    """The semiring over which `state`'s update is linear, if it joins values by its `plus`."""
    for semiring in SEMIRINGS:
        found = _Interpreter(forms, state, semiring).equation(state)
        if isinstance(found, Line) and found.added:
            return Semilinear(semiring, found)
    return None


class _Interpreter:
    def __init__(self, forms: Forms, state: str, semiring: Algebra) -> None:
        self._forms, self._state, self._semiring = forms, state, semiring
        self._equations = {e.name: e.expr for e in forms.rec.equations}
        self._memo: dict[str, Value] = {}

    def equation(self, name: str) -> Value:
        for needed in self._forms.behind(name, self._memo):
            self._memo[needed] = self.value(self._equations[needed])
        return self._memo[name]

    def value(self, expr: Expr) -> Value:
        if isinstance(self._forms.form(expr), Free):
            return Free(expr)
        match expr:
            case Read(name=name, lag=lag):
                return Line() if lag and name == self._state else None if lag else self.equation(name)
            case Apply(op="select", args=(condition, yes, no)):
                return self._choice(condition, yes, no)
            case Apply(op="cast", args=(arg,)) if expr.dtype.kind.value >= arg.dtype.kind.value:
                return self.value(arg)
            case Apply(op=op, args=args):
                found = log_sum(self._forms, expr) if self._semiring.plus == "logaddexp" else None
                if found is not None:
                    return _mixing(self.value(found.arg), found.over, added=True)
                return self._applied(op, [self.value(a) for a in args])
            case Reduce(op=op, arg=arg, over=over) if op == self._semiring.reduction:
                return _mixing(self.value(arg), over, added=True)
            case Gather(arg=arg, index=index) if isinstance(self._forms.form(index), Free):
                return _mixing(self.value(arg), (arg.dims[expr.axis],))
            case Unfold(arg=arg, axes=axes, wrap=True):  # without it, places outside hold 0, which need not be neutral
                return _mixing(self.value(arg), tuple(arg.dims[a] for a in axes))
            case Reaxis(arg=arg):
                value = self.value(arg)
                return value if reorders_only(expr) else _mixing(value, (), renames=True)
            case Broadcast(arg=arg):
                return self.value(arg)
            case _:
                return None

    def _applied(self, op: str, args: list[Value]) -> Value:
        plus, times = self._semiring.plus, self._semiring.times
        match op, args:
            case op, [a, b] if op == plus and a is not None and b is not None:
                return replace(_joined(a, b), added=True)
            case op, [Line() as line, Free()] | [Free(), Line() as line] if op == times:
                return replace(line, scaled=True)
            case "sub", [Line() as line, Free()] if times == "add":
                return replace(line, scaled=True)
            case _:
                return None

    def _choice(self, condition: Expr, yes: Expr, no: Expr) -> Value:
        a, b = self.value(yes), self.value(no)
        if a is None or b is None:
            return None
        if isinstance(self._forms.form(condition), Free):
            # what is not chosen is the zero of the semiring times the old state
            return replace(_joined(a, b), scaled=True)
        picks = {"gt": "max", "ge": "max", "lt": "min", "le": "min"}
        if isinstance(condition, Apply) and condition.op in picks and set(condition.args) == {yes, no}:
            picked = picks[condition.op]
            if condition.args != (yes, no):
                picked = {"max": "min", "min": "max"}[picked]
            if picked == self._semiring.plus:
                return replace(_joined(a, b), added=True)
        return None


def _joined(a: Free | Line, b: Free | Line) -> Line:
    lines = [v for v in (a, b) if isinstance(v, Line)]
    return Line(
        any(v.added for v in lines),
        any(v.scaled for v in lines),
        tuple(dict.fromkeys(d for v in lines for d in v.mixed)),
        any(v.renames for v in lines),
    )


def _mixing(value: Value, over: Dims, added: bool = False, renames: bool = False) -> Value:
    if not isinstance(value, Line):
        return value
    mixed = tuple(dict.fromkeys((*value.mixed, *over)))
    return replace(value, added=value.added or added, mixed=mixed, renames=value.renames or renames)
