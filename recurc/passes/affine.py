"""The affine lattice: is an update affine in its group's old states, with which structure and coefficients?

An abstract interpretation of the equations. A value is `Free` (no state of the group reaches it), `Linear` (a sum of
coefficient times old state, plus a free offset) or `Nonlinear` (with the operator and the place that made it so).
Thresholds and roundings are refused before anything else: a derivative test would call them affine. The rules per
operator are the `affine` column of the op table; the rest of this file is about the nodes that change shape.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from recurc.build import reduce
from recurc.formula import operator
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Expr,
    Final,
    Gather,
    Iota,
    Linalg,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    Size,
    Step,
    Unfold,
    children,
    reads,
)
from recurc.ops import OPS, Affine, apply, convert
from recurc.passes.dependence import Dependence
from recurc.passes.terms import LARGEST, too_large
from recurc.source import Span
from recurc.types import Dims, DType, Kind

_NARROW = (DType.F16, DType.BF16)


@dataclass(frozen=True)
class Free:
    expr: Expr


@dataclass(frozen=True)
class Mix:
    """A part of the coefficient that is not elementwise: `how` it moves elements and over which dims."""

    how: str  # "contract", "sum", "rename", "slice", "real-linear"
    over: Dims
    expanded: Dims = ()  # dims of later free factors: a contraction over K times a vector over K has rank one
    span: Span | None = None


@dataclass(frozen=True)
class Coef:
    """What multiplies one old state: an elementwise factor (None: zero) and mixing parts."""

    factor: Expr | None
    mixes: tuple[Mix, ...] = ()


@dataclass(frozen=True)
class Linear:
    coefs: Mapping[str, Coef]
    offset: Expr | None
    rounded: Span | bool = False  # passes through a half-precision cast (where)
    cut: bool = False  # a branch drops the state: its factor is exactly zero there
    cancels: Span | bool = False  # terms in a state cancel (where): only their rounding errors are left


@dataclass(frozen=True)
class Nonlinear:
    text: str
    span: Span | None


Form = Free | Linear | Nonlinear


@dataclass
class Forms:
    """The forms of the values of one group; `form` is the entry. Memoised per equation."""

    rec: Recurrence
    dep: Dependence
    group: frozenset[str]

    def __post_init__(self) -> None:
        self._equations = {e.name: e.expr for e in self.rec.equations}
        self._states = {s.name: s for s in self.rec.states}
        self._memo: dict[str, Form] = {}

    def equation(self, name: str) -> Expr:
        """The right side of the equation of that name."""
        return self._equations[name]

    def spelled(self, expr: Expr) -> Expr:
        """What `expr` stands for, where it is only the name of an equation."""
        while isinstance(expr, Read) and not expr.lag and expr.name in self._equations:
            if expr.name in self._states:
                break
            expr = self._equations[expr.name]
        return expr

    def resolved(self, expr: Expr) -> Expr:
        """What `expr` stands for, where it is only the name of an equation that depends on the group."""
        while isinstance(expr, Read) and not expr.lag and expr.name not in self._states and not self.is_free(expr.name):
            expr = self._equations[expr.name]
        return expr

    def of_equation(self, name: str) -> Form:
        for needed in self.behind(name, self._memo):
            self._memo[needed] = self._bounded(needed, self.form(self._equations[needed]))
        return self._memo[name]

    def behind(self, name: str, known: Container[str]) -> list[str]:
        """`name` and the equations it reads within the step that depend on the group and are not `known`, in an order
        in which each reads only earlier ones (so that a long chain of them needs no deep recursion)."""
        if name in known:
            return []
        pending, found = [name], {name}
        while pending:
            for read in reads(self._equations[pending.pop()]):
                new = read.lag == 0 and read.name not in found and read.name not in known
                if new and not self.is_free(read.name):
                    found.add(read.name)
                    pending.append(read.name)
        return [n for n in self._equations if n in found]

    def _bounded(self, name: str, form: Form) -> Form:
        """Coefficients are written out; ones that grow beyond measure are given up (a loop needs none)."""
        if isinstance(form, Linear):
            parts = [form.offset, *(c.factor for c in form.coefs.values())]
            mixes = sum(len(c.mixes) for c in form.coefs.values())
            if mixes > LARGEST or any(too_large(p) for p in parts if p is not None):
                return Nonlinear(f"the coefficients of {name} are too large to write out", self._equations[name].span)
        return form

    def is_free(self, name: str) -> bool:
        return name not in self.group and not (self.dep.on_states.get(name, frozenset()) & self.group)

    def reads_none(self, expr: Expr) -> bool:
        """Whether no state of the group reaches `expr`."""
        return all(self.is_free(r.name) if r.lag == 0 or r.name in self.group else True for r in reads(expr))

    def form(self, expr: Expr) -> Form:
        match expr:
            case Const() | Size() | Step() | Iota() | Final():
                return Free(expr)
            case Read(name=name, lag=lag):
                if name in self.group and lag:
                    if expr.dtype.kind is Kind.BOOL:
                        return Nonlinear(f"`{shown(name)}` is a truth value, which cannot be scaled", expr.span)
                    return Linear({name: Coef(one(expr.dtype))}, None)
                return Free(expr) if self.is_free(name) else self.of_equation(name)
            case Apply(args=args):
                forms = [self.form(a) for a in args]
                if all(isinstance(f, Free) for f in forms):
                    return Free(expr)
                return self.apply_rule(expr, forms)
            case Reduce(arg=arg):
                form = self.form(arg)
                return Free(expr) if isinstance(form, Free) else self._reduce(expr, form)
            case Contract():
                return self._contract(expr, self.form(expr.left), self.form(expr.right))
            case Reaxis(arg=arg):
                form = self.form(arg)
                return Free(expr) if isinstance(form, Free) else self._reaxis(expr, form)
            case Broadcast(arg=arg):
                form = self.form(arg)
                return Free(expr) if isinstance(form, Free) else self._broadcast(expr, form)
            case Gather() | Unfold() | Linalg():
                return self._moved(expr, [self.form(c) for c in children(expr)])

    # --- elementwise operators ------------------------------------------------------------------------------------

    def apply_rule(self, node: Apply, forms: list[Form]) -> Form:
        for form in forms:
            if isinstance(form, Nonlinear):
                return form
        rule = OPS[node.op].affine
        moving = [f for f in forms if isinstance(f, Linear)]
        who, op = self._who(moving[0]), operator(node.op)
        if rule is Affine.DISCONTINUOUS:
            return Nonlinear(
                f"{who} reaches `{op}`, a threshold or rounding, so the update is not affine in the state",
                node.span,
            )
        if node.op == "cast":
            return self._cast(node, moving[0])
        match rule:
            case Affine.LINEAR:
                return self._sum(node, forms)
            case Affine.PRODUCT:
                if len(moving) > 1:
                    return Nonlinear(f"{who} is multiplied by a value that also depends on the state", node.span)
                factor = next(f.expr for f in forms if isinstance(f, Free))
                return scaled(moving[0], node.op, factor, state_first=isinstance(forms[0], Linear))
            case Affine.NUMERATOR:
                if isinstance(forms[1], Linear):
                    return Nonlinear(
                        f"{self._who(forms[1])} reaches a denominator, so the update is nonlinear in the state",
                        node.span,
                    )
                assert isinstance(forms[1], Free)
                return scaled(moving[0], node.op, forms[1].expr, state_first=True)
            case Affine.BRANCHES:
                if isinstance(forms[0], Linear):
                    return Nonlinear(
                        f"the condition of a choice depends on {who}, so the update is not affine in the state",
                        node.span,
                    )
                assert isinstance(forms[0], Free)
                return self._branches(node, forms[0].expr, forms[1], forms[2])
            case Affine.REAL_LINEAR:
                return mixed(moving[0], Mix("real-linear", (), span=node.span))
            case Affine.ORDER:
                return Nonlinear(f"{who} reaches `{op}`, which is not affine", node.span)
            case _:
                return Nonlinear(f"{who} reaches `{op}`, so the update is nonlinear in the state", node.span)

    def _who(self, form: Form) -> str:
        if isinstance(form, Linear) and form.coefs:
            return f"`{shown(next(iter(form.coefs)))}`"
        return "the state"

    def _cast(self, node: Apply, form: Linear) -> Form:
        source = node.args[0].dtype
        if node.dtype.kind in (Kind.INT, Kind.BOOL) and source.kind is not node.dtype.kind:
            return Nonlinear(
                f"{self._who(form)} is rounded to {node.dtype.value}, so the update is not affine in the state",
                node.span,
            )
        if source.kind is Kind.COMPLEX and node.dtype.kind is Kind.REAL:
            return mixed(form, Mix("real-linear", (), span=node.span))
        offset = None if form.offset is None else convert(form.offset, node.dtype)
        coefs = {
            n: Coef(None if c.factor is None else convert(c.factor, node.dtype), c.mixes) for n, c in form.coefs.items()
        }
        rounded = form.rounded or ((node.span or True) if node.dtype in _NARROW else False)
        return Linear(coefs, offset, rounded, form.cut, form.cancels)

    def _sum(self, node: Apply, forms: list[Form]) -> Form:
        total = as_linear(forms[0])
        if node.op == "neg":
            return negated(total)
        if node.op == "stop_gradient":
            return total  # the value itself
        second = as_linear(forms[1])
        second = negated(second) if node.op == "sub" else second
        result = added(total, second)
        if any(_cancel(total.coefs[n].factor, c.factor) for n, c in second.coefs.items() if n in total.coefs):
            return replace(result, cancels=node.span or True)
        return result

    def _branches(self, node: Apply, condition: Expr, yes: Form, no: Form) -> Form:
        a, b = as_linear(yes), as_linear(no)
        coefs: dict[str, Coef] = {}
        cut = a.cut or b.cut
        for name in dict.fromkeys((*a.coefs, *b.coefs)):
            ca, cb = a.coefs.get(name, Coef(None)), b.coefs.get(name, Coef(None))
            factor: Expr | None = None
            if ca.factor is not None or cb.factor is not None:
                zero_ = zero(node.dtype)
                factor = apply("select", condition, ca.factor or zero_, cb.factor or zero_, span=node.span)
                cut = cut or any(c.factor is None and not c.mixes for c in (ca, cb))
            coefs[name] = Coef(factor, ca.mixes + cb.mixes)
        zero_ = zero(node.dtype)
        offset = None
        if a.offset is not None or b.offset is not None:
            offset = apply("select", condition, a.offset or zero_, b.offset or zero_, span=node.span)
        return Linear(coefs, offset, a.rounded or b.rounded, cut, a.cancels or b.cancels)

    # --- nodes that change shape ------------------------------------------------------------------------------------

    def _reduce(self, node: Reduce, form: Form) -> Form:
        if not isinstance(form, Linear):
            return form
        if node.op != "sum":
            return Nonlinear(
                f"{self._who(form)} reaches the reduction `{node.op}`, so the update is nonlinear in the state",
                node.span,
            )
        coefs: dict[str, Coef] = {}
        for name, coef in form.coefs.items():
            inside = tuple(d for d in node.over if d in self._states[name].dims)
            if inside:
                coefs[name] = Coef(None, (*coef.mixes, Mix("sum", inside, span=node.span)))
            else:
                factor = None if coef.factor is None else sum_over(coef.factor, node.over)
                coefs[name] = Coef(factor, coef.mixes)
        return replace(form, coefs=coefs, offset=None if form.offset is None else sum_over(form.offset, node.over))

    def _contract(self, node: Contract, left: Form, right: Form) -> Form:
        if isinstance(left, Free) and isinstance(right, Free):
            return Free(node)
        for form in (left, right):
            if isinstance(form, Nonlinear):
                return form
        if isinstance(left, Linear) and isinstance(right, Linear):
            return Nonlinear(f"{self._who(left)} is contracted with a value that also depends on the state", node.span)
        labels = dict(zip(node.left_axes, node.left.dims, strict=True)) | dict(
            zip(node.right_axes, node.right.dims, strict=True)
        )
        over = tuple(labels[k] for k in sorted(labels) if k not in node.out_axes)
        moving, factor = (left, node.right) if isinstance(left, Linear) else (right, node.left)
        assert isinstance(moving, Linear)
        own = {d for n in moving.coefs for d in self._states[n].dims}
        if not own & set(over) and all(c.factor is None for c in moving.coefs.values()):
            return _widened(moving, factor.dims)  # a sum of C terms, each a vector times what was read: rank C
        return mixed(moving, Mix("contract", over, span=node.span))

    def _reaxis(self, node: Reaxis, form: Form) -> Form:
        if not isinstance(form, Linear) or reorders_only(node):
            return form
        how = "slice" if node.at is not None else "rename"
        return mixed(form, Mix(how, node.arg.dims, span=node.span))

    def _broadcast(self, node: Broadcast, form: Form) -> Form:
        """Repeating keeps a value what it is in each of its places; an offset is repeated where it is added."""
        if not isinstance(form, Linear):
            return form
        new = tuple(d for d in node.dims if d not in node.arg.dims)
        if any(d in self._states[n].dims for n in form.coefs for d in new):
            return mixed(form, Mix("rename", new, span=node.span))
        return form

    def _moved(self, node: Gather | Unfold | Linalg, forms: list[Form]) -> Form:
        """Linear in the values it moves (the right side, for `solve`) if nothing else depends on the state."""
        if all(isinstance(f, Free) for f in forms):
            return Free(node)
        for form in forms:
            if isinstance(form, Nonlinear):
                return form
        match node:
            case Gather():
                moving, fixed, what = forms[0], forms[1:], "a place in a table"
                over: Dims = (node.arg.dims[node.axis],)
            case Unfold():
                moving, fixed, what = forms[0], [], ""
                over = (*(node.arg.dims[a] for a in node.axes), *node.taps)
            case Linalg():
                moving, fixed, what = forms[-1], forms[:-1], "a matrix that is inverted"
                over = node.args[0].dims[-2:] if node.args else ()
        for form in fixed:
            if isinstance(form, Linear):
                return Nonlinear(
                    f"{self._who(form)} decides {what}, so the update is not affine in the state", node.span
                )
        assert isinstance(moving, Linear)
        if isinstance(node, Linalg) and node.op not in ("solve", "dphi1"):
            return Nonlinear(
                f"{self._who(moving)} reaches `{node.op}`, so the update is nonlinear in the state", node.span
            )
        return mixed(moving, Mix("contract", over, span=node.span))


def reorders_only(node: Reaxis) -> bool:
    """Whether the node only lists the same named dims in another order, which elementwise operators do not see."""
    old = node.arg.dims
    return node.at is None and len(set(old)) == len(old) and node.dims == tuple(old[a] for a in node.axes)


def shown(state: str) -> str:
    return f"{state}[t-1]"


def one(dtype: DType) -> Const:
    value: complex = {Kind.COMPLEX: 1 + 0j, Kind.REAL: 1.0}.get(dtype.kind, 1)
    return Const(value, dtype)


def zero(dtype: DType) -> Const:
    value: complex = {Kind.COMPLEX: 0j, Kind.REAL: 0.0}.get(dtype.kind, 0)
    return Const(value, dtype)


def is_number(expr: Expr | None, value: float) -> bool:
    return isinstance(expr, Const) and not isinstance(expr.value, bool) and expr.value == value


def as_linear(form: Form) -> Linear:
    assert not isinstance(form, Nonlinear)
    return Linear({}, form.expr) if isinstance(form, Free) else form


def _plus(a: Expr | None, b: Expr | None) -> Expr | None:
    if a is None or b is None:
        return b if a is None else a
    if isinstance(b, Apply) and b.op == "neg":
        return apply("sub", a, b.args[0])
    return apply("add", a, b)


def _minus(a: Expr | None) -> Expr | None:
    match a:
        case None:
            return None
        case Const(value=value) if not isinstance(value, bool):
            return replace(a, value=-value)
        case Apply(op="neg", args=(arg,)):
            return arg
        case _:
            return apply("neg", a)


def added(a: Linear, b: Linear) -> Linear:
    coefs = dict(a.coefs)
    for name, coef in b.coefs.items():
        mine = coefs.get(name, Coef(None))
        coefs[name] = Coef(_plus(mine.factor, coef.factor), mine.mixes + coef.mixes)
    return Linear(coefs, _plus(a.offset, b.offset), a.rounded or b.rounded, a.cut or b.cut, a.cancels or b.cancels)


def _cancel(a: Expr | None, b: Expr | None) -> bool:
    return a is not None and b is not None and (_minus(a) == b or _minus(b) == a)


def negated(a: Linear) -> Linear:
    coefs = {n: Coef(_minus(c.factor), c.mixes) for n, c in a.coefs.items()}
    return replace(a, coefs=coefs, offset=_minus(a.offset))


def scaled(form: Linear, op: str, factor: Expr, state_first: bool) -> Linear:
    """`form * factor`, `factor * form` or `form / factor`."""

    def by(expr: Expr | None) -> Expr | None:
        if expr is None:
            return None
        if op == "mul" and is_number(expr, 1):
            return factor
        return apply(op, expr, factor) if state_first else apply(op, factor, expr)

    coefs = {n: Coef(by(c.factor), _expanded(c.mixes, factor.dims)) for n, c in form.coefs.items()}
    return replace(form, coefs=coefs, offset=by(form.offset))


def _expanded(mixes: tuple[Mix, ...], dims: Dims) -> tuple[Mix, ...]:
    return tuple(replace(m, expanded=m.expanded + dims) for m in mixes)


def _widened(form: Linear, dims: Dims) -> Linear:
    """`form`, whose coefficients are all mixing, times a free value of `dims` and summed over dims no state has."""
    coefs = {n: Coef(None, _expanded(c.mixes, dims)) for n, c in form.coefs.items()}
    return replace(form, coefs=coefs, offset=None)


def mixed(form: Linear, mix: Mix) -> Linear:
    """`form` seen through a linear map that is not elementwise; the factors are no longer known as expressions."""
    return replace(form, coefs={n: Coef(None, (*c.mixes, mix)) for n, c in form.coefs.items()}, offset=None)


def sum_over(expr: Expr, over: Dims) -> Expr:
    """The sum of `expr` over dims it may lack (there it is constant, so it is multiplied by the size)."""
    present = tuple(d for d in over if d in expr.dims)
    total = reduce("sum", expr, present) if present else expr
    for dim in over:
        if dim not in expr.dims:
            size = Const(int(dim), DType.I64) if dim.isdigit() else Size(dim)
            total = apply("mul", total, convert(size, total.dtype))
    return total
