"""A recurrence as a cell of another: its equations, written into the caller's under names of their own.

IR to IR, for every front end. A value of the cell called `h` becomes `PREFIX_h`; its inputs and params become what the
call gives; its dims become the caller's. The rules where one could choose:

- Dims unify by position: `x[D]` given a value `[H]` makes D of the cell the caller's H. A dim that nothing given has
  becomes a dim of the caller, `PREFIX_N`, if it has a default size.
- Where two dims of the cell become one of the caller and an operator of the cell would confuse them, the second gets
  an alias, a further dim of that size.
- An input that the cell reads at earlier steps becomes a state, which delays what the call gives.
- A reset of the cell is written out where the cell reads earlier steps, so it concerns the cell's own states only.
- In a clocked block the whole cell goes on at the ticks only: its states, delayed inputs and longer lags hold.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TypeVar

from recurc import build, ir
from recurc.frontend.constants import fold
from recurc.ops import TypeProblem, convert
from recurc.source import Span
from recurc.types import DimDecl, Dims, DType, Kind, literal_size, show_dims

_T = TypeVar("_T")
Slot = ir.Input | ir.Param


class CellProblem(TypeProblem):
    """What a call of a cell gives does not fit; `argument` names which of them, "" the call as a whole."""

    def __init__(self, code: str, message: str, help: str = "", argument: str = "") -> None:
        self.argument = argument
        super().__init__(code, message, help)


@dataclass
class Caller:
    """What a cell needs to know of the recurrence it is written into. `taken`, every name it has, grows."""

    dims: Sequence[DimDecl]
    params: Collection[str]
    taken: set[str]

    def fresh(self, hint: str) -> str:
        name, number = hint, 2
        while name in self.taken:
            name, number = f"{hint}_{number}", number + 1
        self.taken.add(name)
        return name

    def same_size(self, one: str, other: str) -> bool:
        """Whether two dims have one size by declaration."""
        group, grown = {one}, True
        while grown:
            grown = False
            for d in self.dims:
                if d.same_as is not None and (d.name in group) != (d.same_as in group):
                    group |= {d.name, d.same_as}
                    grown = True
        return other in group


@dataclass(frozen=True)
class Inlined:
    """What the caller gets: dims, states, equations in dependence order, and the value of each output."""

    dims: tuple[DimDecl, ...]
    states: tuple[ir.State, ...]
    equations: tuple[ir.Equation, ...]
    outputs: tuple[ir.Expr, ...]


def arguments(
    cell: ir.Recurrence, values: Sequence[_T], named: Mapping[str, _T]
) -> tuple[dict[str, _T], dict[str, _T], dict[str, _T]]:
    """What a call gives, sorted: inputs and params by name, initial values of states, sizes of dims.

    Values without a name are the inputs, then the params, in the order of their declaration. Raises `CellProblem` for
    unknown names, values given twice or too many, and missing ones."""
    slots = [s.name for s in (*cell.inputs, *cell.params)]
    if len(values) > len(slots):
        takes = ", ".join(slots) or "nothing"
        raise CellProblem("E0612", f"`{cell.name}` takes {takes}; {len(values)} values are given")
    given = dict(zip(slots, values, strict=False))
    states, dims = {s.name for s in cell.states}, {d.name for d in cell.dims}
    initial: dict[str, _T] = {}
    sizes: dict[str, _T] = {}
    for name, value in named.items():
        if name in given:
            raise CellProblem("E0612", f"`{name}` of `{cell.name}` is given twice", "give it once", name)
        if name in slots:
            given[name] = value
        elif name in states:
            initial[name] = value
        elif name in dims:
            sizes[name] = value
        else:
            known = [*slots, *(s.name for s in cell.states)]
            near = difflib.get_close_matches(name, known, 1, 0.6)
            help = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(known) or 'none'}"
            raise CellProblem("E0612", f"`{cell.name}` has no input, param or state `{name}`", help, name)
    missing = [n for n in slots if n not in given]
    if missing:
        example = ", ".join(f"{n} = ..." for n in missing)
        raise CellProblem("E0613", f"`{cell.name}` needs {', '.join(f'`{n}`' for n in missing)}", f"give {example}")
    return given, initial, sizes


def inline(
    cell: ir.Recurrence,
    prefix: str,
    given: Mapping[str, ir.Expr],
    caller: Caller,
    *,
    initial: Mapping[str, ir.Expr] | None = None,
    sizes: Mapping[str, str] | None = None,
    clock: ir.Expr | None = None,
    span: Span | None = None,
) -> Inlined:
    """The equations of `cell` as part of the caller. `given`: a value for every input and param; `initial`: values of
    states before the first step, of the caller's params; `sizes`: the caller's dims for dims of the cell; `clock`: the
    truth value at which the block fires that the call stands in. Raises `CellProblem` for dims or types that do not
    fit."""
    return _Inliner(cell, prefix, given, caller, initial or {}, sizes or {}, clock, span).run()


@dataclass
class _Inliner:
    cell: ir.Recurrence
    prefix: str
    given: Mapping[str, ir.Expr]
    caller: Caller
    initial: Mapping[str, ir.Expr]
    sizes: Mapping[str, str]
    clock: ir.Expr | None
    span: Span | None
    dims: list[DimDecl] = field(default_factory=list[DimDecl])
    states: list[ir.State] = field(default_factory=list[ir.State])
    equations: list[ir.Equation] = field(default_factory=list[ir.Equation])
    now: dict[str, ir.Expr] = field(default_factory=dict[str, ir.Expr])  # what a name of the cell is at this step
    past: dict[str, str] = field(default_factory=dict[str, str])  # states and delayed inputs: the caller's state
    begin: dict[str, ir.Expr] = field(default_factory=dict[str, ir.Expr])  # what those are before the first step
    restart: dict[str, ir.Expr] = field(default_factory=dict[str, ir.Expr])  # the same, by name, for a reset
    reset: ir.Expr | None = None

    def run(self) -> Inlined:
        self._bind_dims()
        steady = {name: self._argument(slot) for name, slot in self._slots().items()}
        lagged = {r.name for e in self.cell.equations for r in ir.reads(e.expr) if r.lag}
        for param in self.cell.params:
            self.now[param.name] = self._named(param.name, steady[param.name])
        for given in self.cell.inputs:
            if given.name in lagged and given.before is not None:
                first = self._at_begin(given.before, steady, given.name)
                self._keep(given.name, given.dims, given.dtype, first, given.bound)
                self.equations.append(self._held(given.name, steady[given.name]))
            else:
                self.now[given.name] = self._named(given.name, steady[given.name])
        for state in self.cell.states:
            first = self.initial.get(state.name)
            first = self._at_begin(state.initial, steady, state.name) if first is None else self._own(state, first)
            self._keep(state.name, state.dims, state.dtype, first, state.bound)
        for equation in self.cell.equations:
            self._equation(equation)
        return Inlined(
            tuple(self.dims),
            tuple(self.states),
            tuple(self.equations),
            tuple(self._output(o) for o in self.cell.outputs),
        )

    def _slots(self) -> dict[str, Slot]:
        return {s.name: s for s in (*self.cell.inputs, *self.cell.params)}

    # --- dims ------------------------------------------------------------------------------------------------------

    def _bind_dims(self) -> None:
        """`self.real`: the caller's dim of each dim of the cell; `self.dim`: that, or its alias."""
        self.real: dict[str, str] = {}
        origin: dict[str, str] = {}
        for dim, target in self.sizes.items():
            self.real[dim], origin[dim] = target, f"`{dim} = {target}`"
        for name, slot in self._slots().items():
            self._unify(slot, self.given[name].dims, origin)
        for _ in self.cell.dims:
            for d in self.cell.dims:
                pair = () if d.same_as is None else ((d.name, d.same_as), (d.same_as, d.name))
                for one, other in pair:
                    if one in self.real:
                        self.real.setdefault(other, self.real[one])
        for d in self.cell.dims:
            if d.name not in self.real:
                self.real[d.name] = self._inner(d)
        self.dim: dict[str, str] = {}
        conflicts = _conflicts(self.cell, self.real)
        homes: dict[str, list[str]] = {}
        for d in self.cell.dims:
            target = self.real[d.name]
            for home in homes.setdefault(target, [target]):
                sharing = [n for n, used in self.dim.items() if used == home]
                if not any(frozenset((d.name, n)) in conflicts for n in sharing):
                    self.dim[d.name] = home
                    break
            else:
                self.dim[d.name] = self._alias(d.name, target)
                homes[target].append(self.dim[d.name])

    def _unify(self, slot: Slot, dims: Dims, origin: dict[str, str]) -> None:
        if not dims:
            return  # a number is repeated along the dims that others bring
        if len(dims) != len(slot.dims):
            raise self._misfit(slot, dims)
        for own, theirs in zip(slot.dims, dims, strict=True):
            literal = literal_size(own)
            if literal is not None:
                if literal_size(theirs) not in (literal, None):
                    raise self._misfit(slot, dims)
                continue
            bound = self.real.setdefault(own, theirs)
            origin.setdefault(own, f"`{slot.name}`")
            if bound != theirs and not self.caller.same_size(bound, theirs):
                raise CellProblem(
                    "E0614",
                    f"{own} of `{self.cell.name}` is {bound} by {origin[own]}, and {theirs} by `{slot.name}`",
                    f"declare that they are of one size, `{theirs} = {bound}`, in the header, or give other values",
                    slot.name,
                )

    def _misfit(self, slot: Slot, dims: Dims) -> CellProblem:
        return CellProblem(
            "E0614",
            f"`{slot.name}` of `{self.cell.name}` is {show_dims(slot.dims)}, and {show_dims(dims)} is given",
            "dims of a cell and of what it is given meet by position",
            slot.name,
        )

    def _inner(self, d: DimDecl) -> str:
        if d.default is None:
            raise CellProblem(
                "E0614",
                f"nothing that `{self.cell.name}` is given has its dim {d.name}",
                f"say which dim it is, `{d.name} = ...`, or give it a default size in the header of `{self.cell.name}`",
            )
        name = self.caller.fresh(f"{self.prefix}_{d.name}")
        self.dims.append(DimDecl(name, d.default))
        return name

    def _alias(self, dim: str, target: str) -> str:
        name, size = self.caller.fresh(f"{self.prefix}_{dim}"), literal_size(target)
        self.dims.append(DimDecl(name, size, None if size is not None else target))
        return name

    def _shape(self, dims: Dims) -> Dims:
        return tuple(self.dim.get(d, d) for d in dims)

    # --- values ----------------------------------------------------------------------------------------------------

    def _argument(self, slot: Slot) -> ir.Expr:
        """What is given for an input or param, in its dims and type."""
        value, dims = self.given[slot.name], self._shape(slot.dims)
        value = self._typed(slot.name, value, slot.dtype)
        if value.dims == dims:
            return self._bounded(value, slot.bound)
        if value.dims:
            return self._bounded(build.rename(value, dims, self.span), slot.bound)
        try:
            return self._bounded(build.broadcast(value, dims, self.span), slot.bound)
        except TypeProblem as problem:
            raise self._misfit(slot, value.dims) from problem

    def _bounded(self, value: ir.Expr, bound: str | None) -> ir.Expr:
        return value if bound is None else build.below(value, self.dim.get(bound, bound), self.span)

    def _typed(self, name: str, value: ir.Expr, dtype: DType) -> ir.Expr:
        have, want = value.dtype.kind, dtype.kind
        if have is not want and (have is Kind.BOOL or have.value > want.value):
            raise CellProblem(
                "E0323",
                f"`{name}` of `{self.cell.name}` is {dtype.value}, and {value.dtype.value} is given",
                "convert it with `cast`",
                name,
            )
        return convert(value, dtype)

    def _named(self, name: str, value: ir.Expr) -> ir.Expr:
        """`value`, by an equation of its own if it is more than a name."""
        plain = value
        while isinstance(plain, ir.Reaxis):
            plain = plain.arg
        if isinstance(plain, ir.Read | ir.Const | ir.Size | ir.Step):
            return value
        made = self.caller.fresh(f"{self.prefix}_{name}")
        self.equations.append(ir.Equation(made, value, self.span))
        return ir.Read(made, 0, value.dims, value.dtype, self.span)

    def _keep(self, name: str, dims: Dims, dtype: DType, first: ir.Expr, bound: str | None) -> str:
        """Makes `name` of the cell (or `h@lag1`, which no source can spell) a state of the caller."""
        made, shape = self.caller.fresh(f"{self.prefix}_{name.replace('@', '_')}"), self._shape(dims)
        limit = None if bound is None else self.dim.get(bound, bound)
        self.states.append(ir.State(made, shape, dtype, first, self.span, limit))
        self.past[name], self.begin[name] = made, first
        self.now[name] = ir.Read(made, 0, shape, dtype, self.span)
        return made

    def _at_begin(self, expr: ir.Expr, steady: Mapping[str, ir.Expr], name: str) -> ir.Expr:
        """A value before the first step, over the caller's params."""
        varying: list[str] = []

        def rule(node: ir.Expr) -> ir.Expr:
            if isinstance(node, ir.Read):
                value = steady[node.name]
                if not self._is_steady(value):
                    varying.append(node.name)
                return value
            return self._renamed(node)

        made = ir.rewrite(expr, rule)
        if varying:
            raise CellProblem(
                "E0505",
                f"the initial value of `{name}` is computed from `{varying[0]}`, which is given something that "
                "changes from step to step",
                f"give `{varying[0]}` a value of params and numbers, or give the initial value: `{name} = 0`",
                varying[0],
            )
        return made

    def _is_steady(self, expr: ir.Expr) -> bool:
        return not any(
            isinstance(n, ir.Step | ir.Final) or (isinstance(n, ir.Read) and n.name not in self.caller.params)
            for n in ir.walk(expr)
        )

    def _own(self, state: ir.State, first: ir.Expr) -> ir.Expr:
        """An initial value that the call gives."""
        want = tuple(self.real.get(d, d) for d in state.dims)
        first = self._typed(state.name, first, state.dtype)
        if not self._is_steady(first):
            raise CellProblem(
                "E0505",
                f"the initial value of `{state.name}` changes from step to step",
                "an initial value reads params, consts and dims only",
                state.name,
            )
        if first.dims and first.dims != want:
            raise CellProblem(
                "E0614",
                f"state `{state.name}` of `{self.cell.name}` is {show_dims(want)} here, and its initial value is "
                f"{show_dims(first.dims)}",
                "give it all dims, in that order, or a number",
                state.name,
            )
        shape = self._shape(state.dims)
        return self._bounded(first if not first.dims else build.rename(first, shape, self.span), state.bound)

    # --- equations -------------------------------------------------------------------------------------------------

    def _equation(self, equation: ir.Equation) -> None:
        name, value = equation.name, ir.rewrite(equation.expr, self._rule)
        span = equation.span or self.span
        if name in self.past:
            self.equations.append(self._held(name, value))
            return
        made = self.caller.fresh(f"{self.prefix}_{name}")
        self.equations.append(ir.Equation(made, value, span))
        self.now[name] = ir.Read(made, 0, value.dims, value.dtype, span)
        if name == self.cell.reset:
            self.reset = self.now[name]

    def _held(self, name: str, value: ir.Expr) -> ir.Equation:
        """The equation of a state: it goes on when the clock says so."""
        now = self.now[name]
        assert isinstance(now, ir.Read)
        if self.clock is not None:
            old = ir.Read(now.name, 1, now.dims, now.dtype, self.span)
            value = build.choose(self.clock, convert(value, now.dtype), old, now.dims, self.span)
        return ir.Equation(now.name, value, value.span or self.span)

    def _rule(self, node: ir.Expr) -> ir.Expr:
        match node:
            case ir.Read(name=name, lag=0):
                return (
                    replace(self.now[name], span=node.span) if isinstance(self.now[name], ir.Read) else self.now[name]
                )
            case ir.Read(name=name, lag=lag):
                return self._earlier(name, lag, node)
            case ir.Final(name=name):
                return replace(node, name=self.past[name], dims=self._shape(node.dims))
            case _:
                return self._renamed(node)

    def _earlier(self, name: str, lag: int, node: ir.Read) -> ir.Expr:
        """`name[t-lag]`. With a reset or a clock, longer lags are chains, which are reset and held like states."""
        source = name
        if self.reset is not None or self.clock is not None:
            for k in range(1, lag):
                link = f"{name}@lag{k}"
                if link not in self.past:
                    self._keep(link, node.dims, node.dtype, self.begin[name], None)
                    self.equations.append(self._held(link, self._earlier(source, 1, node)))
                source = link
            lag = 1
        shape = self._shape(node.dims)
        read = ir.Read(self.past[source], lag, shape, node.dtype, node.span)
        if self.reset is None:
            return read
        if source not in self.restart:
            self.restart[source] = self._named(
                f"{source.replace('@', '_')}_begin", convert(self.begin[source], node.dtype)
            )
        return build.choose(self.reset, self.restart[source], read, shape, node.span)

    def _renamed(self, node: ir.Expr) -> ir.Expr:
        """One node (its operands are done) with the caller's dims."""
        dims = self._shape(node.dims)
        match node:
            case ir.Size(dim=dim):
                target = self.dim.get(dim, dim)
                literal = literal_size(target)
                return replace(node, dim=target) if literal is None else ir.Const(literal, DType.I64, node.span)
            case ir.Reduce(over=over):
                return replace(node, dims=dims, over=self._shape(over))
            case ir.Unfold(taps=taps):
                return replace(node, dims=dims, taps=self._shape(taps))
            case ir.Reaxis(arg=arg, axes=axes, at=None) if dims == arg.dims and axes == tuple(range(len(axes))):
                return arg  # a rename that changes nothing here
            case ir.Apply():
                try:
                    return fold(replace(node, dims=dims))
                except ArithmeticError as wrong:
                    raise CellProblem(
                        "E0322", f"a constant of `{self.cell.name}` has no value here: {wrong}"
                    ) from wrong
            case _:
                return node if dims == node.dims else replace(node, dims=dims)

    def _output(self, name: str) -> ir.Expr:
        """An output as the caller sees it: without aliases."""
        value = self.now[name]
        back = {alias: self.real[d] for d, alias in self.dim.items()}
        return build.rename(value, tuple(back.get(d, d) for d in value.dims), self.span)


# --- dims of the cell that may not become one ------------------------------------------------------------------------


def _conflicts(cell: ir.Recurrence, real: Mapping[str, str]) -> set[frozenset[str]]:
    """Pairs of dims that become one dim of the caller, and that an operator of the cell tells apart by name."""
    pairs = [(a, b) for a, b in combinations([d.name for d in cell.dims], 2) if real[a] == real[b]]
    if not pairs:
        return set()
    found: set[frozenset[str]] = set()
    exprs = [e.expr for e in cell.equations] + [s.initial for s in cell.states]
    for expr in [*exprs, *(i.before for i in cell.inputs if i.before is not None)]:
        for node in ir.walk(expr):
            if len(found) == len(pairs):
                return found
            found |= {frozenset(p) for p in pairs if frozenset(p) not in found and _tells_apart(node, p)}
    return found


def _tells_apart(node: ir.Expr, pair: tuple[str, str]) -> bool:
    shapes = [node.dims, *(c.dims for c in ir.children(node))]
    if not set(pair) <= set[str]().union(*shapes, node.taps if isinstance(node, ir.Unfold) else ()):
        return False
    match node:
        case ir.Apply(args=args):
            return len({a.dims for a in args if a.dims}) > 1  # equal shapes may have a dim twice
        case ir.Contract():
            return not _is_product(_merged(node.left.dims, pair), _merged(node.right.dims, pair), node)
        case ir.Reaxis(axes=axes, arg=arg, at=None):
            n = len(axes)
            turned = axes == (*range(n - 2), n - 1, n - 2)
            return not turned and axes != tuple(range(n)) and set(pair) <= set(arg.dims)
        case ir.Reaxis() | ir.Read() | ir.Final():
            return False
        case _:
            return True


def _merged(dims: Dims, pair: tuple[str, str]) -> Dims:
    return tuple(pair[0] if d == pair[1] else d for d in dims)


def _is_product(left: Dims, right: Dims, node: ir.Contract) -> bool:
    """Whether `@` or `outer` of values with these dims has the axes of `node`."""
    a, b = (ir.Read(n, 0, dims, DType.REAL) for n, dims in (("a", left), ("b", right)))
    for make in (build.matmul, build.outer):
        try:
            made = make(a, b)
        except TypeProblem:
            continue
        if (made.left_axes, made.right_axes, made.out_axes) == (node.left_axes, node.right_axes, node.out_axes):
            return True
    return False


def size_of(inlined: Iterable[ir.Equation]) -> int:
    """The nodes of the equations, for those who count them."""
    return sum(1 for e in inlined for _ in ir.walk(e.expr))
