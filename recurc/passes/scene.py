"""What every rule of classification looks at: a recurrence in core form, its dependences, and what was found so far."""

from __future__ import annotations

from dataclasses import dataclass

from recurc.facts import Certificate
from recurc.ir import Apply, Contract, Expr, Read, Recurrence, Reduce, Step, reads, walk
from recurc.passes.affine import Forms, Linear
from recurc.passes.dependence import Dependence
from recurc.passes.semiring import Tropical
from recurc.passes.verify import used_names
from recurc.source import Span

DECIDED = Certificate(
    "syntactic", "decided", ("the coefficients read no state of the group; no threshold consumes one",)
)
BY_STRUCTURE = Certificate("syntactic", "decided", ("a rule of this class fits the equations as they are written",))
LOOP = ("sequential",)
BOTH = ("sequential", "scan")
CHUNKS = ("sequential", "chunk-frozen")

Summands = tuple[frozenset[frozenset[str]], ...]
_MOST_SUMMANDS = 16


@dataclass
class Scene:
    rec: Recurrence
    dep: Dependence

    def __post_init__(self) -> None:
        self.states = {s.name: s for s in self.rec.states}
        self.equations = {e.name: e for e in self.rec.equations}
        self.taken = used_names(self.rec)
        self._varying = self._time_varying()
        self._summands: dict[str, Summands] = {}
        for equation in self.rec.equations:
            if equation.name not in self.states:
                self._summands[equation.name] = self.summands(equation.expr)
        self.affine: dict[str, Linear] = {}  # groups of one state, for accumulators
        self.tropical: dict[str, Tropical] = {}  # running maxima, for what is stabilised by them

    def _time_varying(self) -> frozenset[str]:
        """Inputs, states and every equation that depends on one of them or on t."""
        varying = {i.name for i in self.rec.inputs} | set(self.states)
        for equation in self.rec.equations:
            if any(isinstance(n, Step) for n in walk(equation.expr)) or any(
                r.name in varying for r in reads(equation.expr)
            ):
                varying.add(equation.name)
        return frozenset(varying)

    def forms(self, members: tuple[str, ...]) -> Forms:
        return Forms(self.rec, self.dep, frozenset(members))

    def steady(self, expr: Expr) -> bool:
        """Whether `expr` is the same at every step."""
        return not any(isinstance(n, Step) for n in walk(expr)) and not any(
            r.name in self._varying for r in reads(expr)
        )

    def span(self, name: str) -> Span | None:
        return self.equations[name].span or self.equations[name].expr.span

    def summands(self, expr: Expr) -> Summands:
        """The summands of a value, each as the dims of its factors; names are looked through."""
        match expr:
            case Apply(op="add" | "sub", args=(a, b)):
                found = self.summands(a) + self.summands(b)
            case Apply(op="mul", args=(a, b)) | Contract(left=a, right=b):
                found = tuple(x | y for x in self.summands(a) for y in self.summands(b))
            case Apply(op="neg" | "cast", args=(a,)) | Reduce(op="sum", arg=a):
                found = self.summands(a)
            case Read(name=name, lag=0) if name in self._summands:
                found = self._summands[name]
            case _:
                return (frozenset({frozenset(expr.dims)}),)
        if len(found) > _MOST_SUMMANDS:
            return (frozenset({frozenset(expr.dims)}),)
        kept = frozenset(expr.dims)  # what is summed over is gone from every factor
        return tuple(frozenset(f & kept for f in factors) for factors in found)
