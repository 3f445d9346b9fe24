"""Classification: every group of states gets a class, the schedules legal for it, and the reasons in words.

The order of the tests is that of certainty: no feedback; affine over + and *; linear over max, min or logaddexp; else
nonlinear, by the sparsity of the Jacobian. A test that is unsure says no: the fallback, a loop over time, is always
right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from recurc.facts import Analysis, Certificate, Group, Reason
from recurc.ir import (
    Apply,
    Const,
    Contract,
    Expr,
    Gather,
    Linalg,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    Step,
    Unfold,
    reads,
    walk,
)
from recurc.passes.affine import Coef, Forms, Free, Linear, Mix, Nonlinear, reorders_only, shown
from recurc.passes.dependence import Dependence, dependence
from recurc.passes.monoid import affine_monoid, softmax_monoid, tropical_monoid
from recurc.passes.semiring import BOTTOM, Clamped, Tropical, tropical
from recurc.passes.softmax import accumulators
from recurc.passes.verify import used_names
from recurc.source import Span
from recurc.types import Dims, Kind

_DECIDED = Certificate(
    "syntactic", "decided", ("the coefficients read no state of the group; no threshold consumes one",)
)


def classify(rec: Recurrence) -> Analysis:
    """The analysis of a recurrence in core form, with syntactic certificates."""
    dep = dependence(rec)
    context = _Context(rec, dep)
    groups = [context.group(members) for members in dep.groups]
    return Analysis(tuple(context.fused(groups)), dep.hoisted, dep.sunk)


class _Context:
    def __init__(self, rec: Recurrence, dep: Dependence) -> None:
        self.rec, self.dep = rec, dep
        self.states = {s.name: s for s in rec.states}
        self.equations = {e.name: e for e in rec.equations}
        self.taken = used_names(rec)
        self._varying = self._time_varying()
        self._named_factors: dict[str, frozenset[frozenset[str]]] = {}
        for equation in rec.equations:
            if equation.name not in self.states:
                self._named_factors[equation.name] = self._factors(equation.expr)
        self.affine: dict[str, Linear] = {}
        self.tropical: dict[str, Tropical] = {}

    def _time_varying(self) -> frozenset[str]:
        """Inputs, states and every equation that depends on one of them or on t."""
        varying = {i.name for i in self.rec.inputs} | set(self.states)
        for equation in self.rec.equations:
            if any(isinstance(n, Step) for n in walk(equation.expr)) or any(
                r.name in varying for r in reads(equation.expr)
            ):
                varying.add(equation.name)
        return frozenset(varying)

    def steady(self, expr: Expr) -> bool:
        return not any(isinstance(n, Step) for n in walk(expr)) and not any(
            r.name in self._varying for r in reads(expr)
        )

    def span(self, name: str) -> Span | None:
        return self.equations[name].span or self.equations[name].expr.span

    # --- one group ------------------------------------------------------------------------------------------------

    def group(self, members: tuple[str, ...]) -> Group:
        if len(members) == 1 and members[0] not in self.dep.feedback:
            reason = Reason(
                f"{members[0]} does not read its own past: it only delays a known sequence", self.span(members[0])
            )
            expr = self.equations[members[0]].expr
            delay = isinstance(expr, Read)
            return Group(members, "SH", ("sequential",), delay, (reason,), certificate=_DECIDED)
        forms = Forms(self.rec, self.dep, frozenset(members))
        found = {name: forms.of_equation(name) for name in members}
        nonlinear = next((f for f in found.values() if isinstance(f, Nonlinear)), None)
        if nonlinear is None:
            linear = {
                n: f if isinstance(f, Linear) else Linear({}, f.expr if isinstance(f, Free) else None)
                for n, f in found.items()
            }
            return self._linear(members, linear)
        if len(members) == 1:
            group = self._semiring(members[0], forms) or self._moebius(members[0], forms)
            if group is not None:
                return group
        return self._nonlinear(members, nonlinear)

    def _linear(self, members: tuple[str, ...], forms: Mapping[str, Linear]) -> Group:
        mixes: list[Mix] = [m for f in forms.values() for c in f.coefs.values() for m in c.mixes]
        if len(members) > 1:
            return self._coupled(members, forms, bool(mixes))
        name = next(iter(members))
        state, form = self.states[name], forms[name]
        coef = form.coefs.get(name, Coef(None))
        if mixes:
            return self._dense(name, coef)
        assert coef.factor is not None
        steady = self.steady(coef.factor)
        reasons = [
            Reason(
                f"{shown(name)} is only scaled and added to, with coefficients that do not read {name}", self.span(name)
            )
        ]
        if form.rounded:
            span = form.rounded if isinstance(form.rounded, Span) else None
            reasons.append(
                Reason(
                    f"{shown(name)} is rounded to half precision at each step; a scan would not repeat that rounding",
                    span,
                )
            )
            return Group((name,), "EA", ("sequential",), steady, tuple(reasons), certificate=_DECIDED)
        if form.cut:
            reasons.append(
                Reason(
                    f"where its factor is zero, {name} starts anew; the scan leaves the past out there", self.span(name)
                )
            )
        cls, why = self._matrix_class(name, coef.factor, form.offset)
        if state.dtype.kind is Kind.COMPLEX:
            cls, why = "CA", f"{name} is complex; each element has its own complex factor"
        reasons.append(Reason(why, self.span(name)))
        if steady:
            reasons.append(Reason(f"the factor of {shown(name)} is the same at every step"))
        self.affine[name] = form
        monoid = affine_monoid(cls, state, coef.factor, form.offset, self.taken, form.cut)
        return Group((name,), cls, ("sequential", "scan"), steady, tuple(reasons), monoid, _DECIDED)

    def _matrix_class(self, name: str, factor: Expr, offset: Expr | None) -> tuple[str, str]:
        """SR1 and DR1 are elementwise affine too; the finer name says that the write is an outer product and the decay
        lacks its dims, which a matmul form can use."""
        dims = self.states[name].dims
        if len(dims) >= 2 and len(set(dims)) == len(dims) and offset is not None:
            factors = self._factors(offset)
            shared = set(dims[:-2])
            rows, columns = dims[-2], dims[-1]
            outer = all(not {rows, columns} <= f for f in factors) and {rows, columns} <= set().union(*factors)
            decay = set(factor.dims) - shared
            if outer and not decay:
                per = "head" if shared else "matrix"
                return "SR1", f"the decay of {name} is one number per {per} and the write is an outer product"
            if outer and decay < {rows, columns}:
                return (
                    "DR1",
                    f"the decay of {name} varies over {next(iter(decay))} only and the write is an outer product",
                )
        return "EA", f"each element of {name} has its own factor and feeds nothing but itself"

    def _factors(self, expr: Expr) -> frozenset[frozenset[str]]:
        """The dims of each factor of a product, also of one that has a name."""
        match expr:
            case Apply(op="mul", args=(a, b)):
                return self._factors(a) | self._factors(b)
            case Apply(op="neg" | "cast", args=(a,)):
                return self._factors(a)
            case Read(name=name, lag=0) if name in self._named_factors:
                return self._named_factors[name]
            case _:
                return frozenset({frozenset(expr.dims)})

    def _dense(self, name: str, coef: Coef) -> Group:
        mix = coef.mixes[0]
        if any(m.how == "real-linear" for m in coef.mixes):
            reason = Reason(
                f"{shown(name)} meets real, imag or conj: linear over the reals only, two coupled real parts", mix.span
            )
            return Group((name,), "BA", ("sequential",), False, (reason,), certificate=_DECIDED)
        contracted = [m for m in coef.mixes if m.how == "contract" and m.over]
        if (
            coef.factor is not None
            and contracted == list(coef.mixes)
            and all(set(m.over) <= set(m.expanded) for m in contracted)
        ):
            over = ", ".join(dict.fromkeys(d for m in contracted for d in m.over))
            reason = Reason(
                f"{shown(name)} is scaled, read along {over} and written back along {over}: identity plus rank one",
                mix.span,
            )
            return Group((name,), "GH", ("sequential",), False, (reason,), certificate=_DECIDED)
        over = ", ".join(dict.fromkeys(mix.over)) or "its elements"
        reason = Reason(
            f"{shown(name)} goes through a linear map that mixes {over}: affine, with a dense matrix", mix.span
        )
        return Group((name,), "DA", ("sequential",), False, (reason,), certificate=_DECIDED)

    def _coupled(self, members: tuple[str, ...], forms: Mapping[str, Linear], mixing: bool) -> Group:
        names = ", ".join(members)
        steady = all(c.factor is not None and self.steady(c.factor) for f in forms.values() for c in f.coefs.values())
        if mixing:
            text = f"{names} feed each other through linear maps that mix elements: affine, with a dense matrix"
            return Group(
                members, "DA", ("sequential",), False, (Reason(text, self.span(members[0])),), certificate=_DECIDED
            )
        text = f"{names} feed each other elementwise and linearly: a {len(members)}x{len(members)} matrix per element"
        return Group(
            members, "BA", ("sequential",), steady, (Reason(text, self.span(members[0])),), certificate=_DECIDED
        )

    def _semiring(self, name: str, forms: Forms) -> Group | None:
        value = tropical(forms, name)
        state = self.states[name]
        if isinstance(value, Clamped):
            reason = Reason(f"{shown(name)} is shifted and clamped by free bounds", self.span(name))
            return Group((name,), "CL", ("sequential",), False, (reason,), certificate=_DECIDED)
        join = value.join if isinstance(value, Tropical) else None
        if not isinstance(value, Tropical) or join is None:
            return None
        if value.offset is None:  # `max(h[t-1] + a, h[t-1] + b)`
            value = replace(value, offset=Const(BOTTOM[join], state.dtype))
        cls = "ID" if value.shift is None and value.join != "logaddexp" else "SL"
        running = {"max": "the running maximum", "min": "the running minimum", "logaddexp": "a running log-sum-exp"}[
            join
        ]
        text = f"{name} is {running}{'' if value.shift is None else ' with a shift per step'}"
        reasons = [Reason(text, self.span(name))]
        if value.by_choice:
            reasons.append(
                Reason(
                    "the choice by comparison is read as max or min, which differ from it only where a NaN is compared"
                )
            )
        if state.dtype.kind is not Kind.REAL:
            reasons.append(Reason(f"{name} is not real, so there is no infinity to start a scan from"))
            return Group((name,), cls, ("sequential",), False, tuple(reasons), certificate=_DECIDED)
        self.tropical[name] = value
        monoid = tropical_monoid(state, value, self.taken)
        return Group((name,), cls, ("sequential", "scan"), False, tuple(reasons), monoid, _DECIDED)

    def _moebius(self, name: str, forms: Forms) -> Group | None:
        """A quotient of two updates that are elementwise affine in the state."""
        expr = self.equations[name].expr
        while isinstance(expr, Read) and not expr.lag and not forms.is_free(expr.name) and expr.name != name:
            expr = self.equations[expr.name].expr
        if not (isinstance(expr, Apply) and expr.op == "div"):
            return None
        above, below = (forms.form(a) for a in expr.args)
        if not isinstance(below, Linear) or isinstance(above, Nonlinear):
            return None
        coefs = [c for f in (above, below) if isinstance(f, Linear) for c in f.coefs.values()]
        if any(c.factor is None or c.mixes for c in coefs):
            return None
        reason = Reason(f"{shown(name)} is divided by a value affine in itself: a linear fractional map", expr.span)
        return Group((name,), "MB", ("sequential",), False, (reason,), certificate=_DECIDED)

    def _nonlinear(self, members: tuple[str, ...], why: Nonlinear) -> Group:
        reasons = [Reason(why.text, why.span)]
        mixing = self._mixing(members)
        if mixing is not None:
            dims, span = mixing
            reasons.append(Reason(f"elements meet along {', '.join(dims)}, so the Jacobian is full", span))
            cls = "NL-f"
        else:
            cls = "NL-d" if len(members) == 1 else "NL-b"
            shape = "diagonal" if len(members) == 1 else f"made of {len(members)}x{len(members)} blocks"
            reasons.append(
                Reason(f"every element feeds only itself, so the Jacobian is {shape}", self.span(members[0]))
            )
        return Group(members, cls, ("sequential",), False, tuple(reasons))

    def _mixing(self, members: tuple[str, ...]) -> tuple[Dims, Span | None] | None:
        """Where a value that depends on the group moves between positions of a state's dim."""
        group = frozenset(members)
        forms = Forms(self.rec, self.dep, group)
        inside = {d for m in members for d in self.states[m].dims}
        feeding = self._feeding(group)
        for equation in self.rec.equations:
            if equation.name not in feeding:
                continue
            for node in walk(equation.expr):
                crossed = _crossed(node, lambda e: isinstance(forms.form(e), Free))
                if crossed & inside:
                    return tuple(d for d in sorted(crossed & inside)), node.span
        return None

    def _feeding(self, group: frozenset[str]) -> set[str]:
        """The group's equations and those they read within the step."""
        pending, seen = list(group), set(group)
        while pending:
            for read in reads(self.equations[pending.pop()].expr):
                if (
                    read.lag == 0
                    and read.name in self.equations
                    and read.name not in seen
                    and read.name not in self.states
                ):
                    seen.add(read.name)
                    pending.append(read.name)
        return seen

    # --- several groups -------------------------------------------------------------------------------------------

    def fused(self, groups: list[Group]) -> list[Group]:
        """Max-stabilised accumulators become one group with their running maximum."""
        for group in list(groups):
            top = group.states[0]
            form = self.tropical.get(top)
            if form is None or form.join != "max" or form.offset is None or len(group.states) > 1:
                continue
            later = {n: f for n, f in self.affine.items() if n != top and not f.cut}
            found = accumulators(self.rec, self.dep, top, form.shift, form.offset, later)
            if found is None:
                continue
            members = (top, *found.values)
            names = ", ".join(found.values)
            reasons = (
                *group.reasons,
                Reason(
                    f"{names}: sums of weighted terms, kept in range by exp of how much {top} grows",
                    self.span(members[1]),
                ),
            )
            monoid = softmax_monoid(self.states, found, self.taken)
            joint = Group(members, "OS", ("sequential", "scan"), False, reasons, monoid, _DECIDED)
            groups = self._joined(groups, joint)
        return groups

    def _joined(self, groups: list[Group], joint: Group) -> list[Group]:
        """`groups` with the members of `joint` taken together, in an order in which each reads only earlier ones."""
        rest = [g for g in groups if not set(g.states) & set(joint.states)]
        todo, ordered = [joint, *rest], list[Group]()
        home = {s: g.states for g in todo for s in g.states}
        rank = {g.states: min(i for i, old in enumerate(groups) if set(old.states) & set(g.states)) for g in todo}
        todo.sort(key=lambda g: rank[g.states])
        placed: set[tuple[str, ...]] = set()
        while todo:
            for group in todo:
                needs = {home[j] for s in group.states for j in self.dep.on_states[s]} - {group.states}
                if needs <= placed:
                    break
            else:
                raise AssertionError("the fused groups form a cycle")
            todo.remove(group)
            placed.add(group.states)
            ordered.append(group)
        return ordered


def _crossed(node: Expr, free: Callable[[Expr], bool]) -> set[str]:
    """Dims along which `node` moves a value that depends on the group between positions."""
    match node:
        case Reduce(arg=arg, over=over):
            return set() if free(arg) else set(over)
        case Contract():
            moving = [
                (s, labels) for s, labels in ((node.left, node.left_axes), (node.right, node.right_axes)) if not free(s)
            ]
            return {
                d for side, labels in moving for d, k in zip(side.dims, labels, strict=True) if k not in node.out_axes
            }
        case Reaxis(arg=arg):
            if free(arg) or reorders_only(node):
                return set()
            kept = [arg.dims[a] for a in node.axes]
            renamed = {d for old, new in zip(kept, node.dims, strict=True) if old != new for d in (old, new)}
            transposed = {d for d in arg.dims if arg.dims.count(d) > 1}
            return renamed | transposed | ({arg.dims[node.at]} if node.at is not None else set())
        case Gather(arg=arg, axis=axis):
            return set() if free(arg) else {arg.dims[axis]}
        case Unfold(arg=arg, axes=axes, taps=taps):
            return set() if free(arg) else {*taps, *(arg.dims[a] for a in axes)}
        case Linalg(args=args):
            return {d for a in args for d in args[0].dims[-2:] if not free(a)}
        case _:
            return set()
