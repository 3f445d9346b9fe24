"""Stabilised softmax accumulators: a running maximum m and states rescaled by it, recognised by their shape.

    m = max(m[t-1] + g, s)                                  (g, the log decay, may be absent)
    u = exp(m[t-1] + g - m) * u[t-1] + exp(s - m) * value   (any number of such states, of any shape)

Each such u is affine given m; together with m they form one operator that needs no second pass over the sequence
(the online softmax; "Attention as an RNN"; the stabiliser of xLSTM).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from recurc.ir import Apply, Expr, Read, Recurrence
from recurc.ops import apply
from recurc.passes.affine import Linear, one
from recurc.passes.dependence import Dependence
from recurc.types import DType

_NAMES = 6  # equations one expression is followed through; a chain that doubles at each would never end


@dataclass(frozen=True)
class Accumulators:
    """The fused group: the maximum's state, its log decay (None: no decay) and score, and value per other state."""

    top: str
    decay: Expr | None
    score: Expr
    values: Mapping[str, Expr]


def accumulators(
    rec: Recurrence, dep: Dependence, top: str, decay: Expr | None, score: Expr, affine: Mapping[str, Linear]
) -> Accumulators | None:
    """The accumulators over the running maximum `top`, among the affine groups of one state; None if none fit."""
    match_ = _Matcher(rec)
    kept = match_.terms(Read(top, 1, (), DType.REAL))
    kept.update(match_.terms(decay))
    kept.subtract(match_.terms(Read(top, 0, (), DType.REAL)))
    fresh = match_.terms(score)
    fresh.subtract(match_.terms(Read(top, 0, (), DType.REAL)))
    values: dict[str, Expr] = {}
    top_dims = next(s.dims for s in rec.states if s.name == top)
    for name, form in affine.items():
        dims = next(s.dims for s in rec.states if s.name == name)
        coef = form.coefs.get(name)
        if coef is None or coef.factor is None or coef.mixes or form.offset is None or not set(top_dims) <= set(dims):
            continue
        value = match_.exp_factor(form.offset, fresh)
        if match_.is_exp_of(coef.factor, kept) and value is not None:
            values[name] = value
    lifted = dict(values)
    while True:
        members = frozenset({top, *lifted})
        bad = [n for n, value in lifted.items() if dep.of(value) & members or _reads_any(value, members)]
        if not bad:
            break
        for name in bad:
            del lifted[name]
    return Accumulators(top, decay, score, lifted) if lifted else None


def _reads_any(expr: Expr, names: frozenset[str]) -> bool:
    from recurc.ir import reads

    return any(r.name in names for r in reads(expr))


class _Matcher:
    """Compares expressions up to the order of sums and products, seeing through equations."""

    def __init__(self, rec: Recurrence) -> None:
        self._equations = {e.name: e.expr for e in rec.equations if e.name not in {s.name for s in rec.states}}

    def _resolved(self, expr: Expr, names: int) -> tuple[Expr, int]:
        """What `expr` stands for, seeing through at most `names` equations; and how many are left."""
        while names and isinstance(expr, Read) and not expr.lag and expr.name in self._equations:
            expr, names = self._equations[expr.name], names - 1
        return expr, names

    def terms(self, expr: Expr | None, sign: int = 1, names: int = _NAMES) -> Counter[object]:
        """The signed terms of a sum."""
        found: Counter[object] = Counter()
        if expr is None:
            return found
        resolved, names = self._resolved(expr, names)
        match resolved:
            case Apply(op="add", args=(a, b)):
                found.update(self.terms(a, sign, names))
                found.update(self.terms(b, sign, names))
            case Apply(op="sub", args=(a, b)):
                found.update(self.terms(a, sign, names))
                found.update(self.terms(b, -sign, names))
            case Apply(op="neg", args=(a,)):
                found.update(self.terms(a, -sign, names))
            case Read(name=name, lag=lag):
                found[(name, lag)] += sign
            case other:
                found[other] += sign
        return found

    def is_exp_of(self, expr: Expr, wanted: Counter[object]) -> bool:
        expr, _ = self._resolved(expr, _NAMES)
        return isinstance(expr, Apply) and expr.op == "exp" and _same(self.terms(expr.args[0]), wanted)

    def exp_factor(self, expr: Expr, wanted: Counter[object], names: int = _NAMES) -> Expr | None:
        """What remains of the product `expr` when the factor exp(`wanted`) is taken out; None without that factor."""
        if self.is_exp_of(expr, wanted):
            return one(expr.dtype)
        expr, names = self._resolved(expr, names)
        match expr:
            case Apply(op="mul", args=(a, b)):
                for this, other, first in ((a, b, True), (b, a, False)):
                    rest = self.exp_factor(this, wanted, names)
                    if rest is not None:
                        if rest == one(rest.dtype):
                            return other
                        return apply("mul", rest, other) if first else apply("mul", other, rest)
            case Apply(op="div", args=(a, b)):
                rest = self.exp_factor(a, wanted, names)
                return None if rest is None else apply("div", rest, b)
            case Apply(op="neg", args=(a,)):
                rest = self.exp_factor(a, wanted, names)
                return None if rest is None else apply("neg", rest)
            case _:
                pass
        return None


def _same(a: Counter[object], b: Counter[object]) -> bool:
    return {k: n for k, n in a.items() if n} == {k: n for k, n in b.items() if n}
