"""Index notation: what the backends that print code work on instead of the IR.

Every access carries explicit indices (`U[0, H, H'1]`), so `Reaxis` disappears, and every sum or maximum is a `Fold`
over named variables. A variable is an axis id of `recurc.types.axis_ids`: `H`, `H'1`. A stage body becomes a list of
`Stmt`s, each one assignment or one fold, in an order in which each reads only earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from recurc import ir
from recurc.backends.emit.nodes import (
    Call,
    Fold,
    Index,
    Load,
    Matrix,
    Node,
    Number,
    Place,
    StepIndex,
    Stmt,
    Var,
    dim_of,
    extent,
    free_vars,
    index_vars,
    nodes,
    plain,
)
from recurc.backends.emit.places import as_axis, as_node, clamped, conditional, folded, minus, plus, within, wrapped
from recurc.errors import CompilerBug
from recurc.ops import OPS
from recurc.source import Span
from recurc.types import Dims, DType, Kind, axis_ids

# --- from the IR ------------------------------------------------------------------------------------------------

Made = Mapping[ir.Expr, str]  # expressions a statement has made as a whole, and the statement's name


@dataclass(frozen=True)
class Lowering:
    """From an expression to its element at an index. `sizes` gives every dim's size. What `made` names is read from
    there: neighbours (`Unfold`) from a copy with a margin, results of matrix operations."""

    sizes: Mapping[str, int]
    made: Made = field(default_factory=dict[ir.Expr, str])

    def __call__(self, expr: ir.Expr, index: Index, scope: frozenset[Var] | None = None) -> Node:
        """Dims of `expr` and `index` go together; `scope` holds the variables in use."""
        scope = frozenset[Var]().union(*(index_vars(i) for i in index)) if scope is None else scope
        match expr:
            case ir.Const(value=value, dtype=dtype):
                return Number(value, dtype)
            case ir.Size(dim=dim):
                return Number(extent(dim, self.sizes), DType.I64)
            case ir.Step():
                return StepIndex()
            case ir.Iota():
                return as_node(index[0])
            case ir.Read(name=name, lag=lag, dtype=dtype):
                return Load(name, lag, index, dtype)
            case ir.Apply(op=op, args=args, dims=dims, dtype=dtype):
                new = tuple(self(a, _aligned(a.dims, dims, index), scope) for a in args)
                return simplified(Call(op, new, dtype))
            case ir.Reduce(op=op, arg=arg, over=over, dims=dims, dtype=dtype):
                fresh = _fresh(over, scope)
                places = dict(zip(dims, index, strict=True)) | dict(zip(over, fresh, strict=True))
                inner = self(arg, tuple(places[d] for d in arg.dims), scope | frozenset(fresh))
                return Fold(op, fresh, inner, dtype)
            case ir.Contract():
                return self._contract(expr, index, scope)
            case ir.Reaxis(arg=arg, axes=axes, at=fixed, index=place):
                places = dict(zip(axes, index, strict=True))
                if fixed is not None and place is not None:
                    places[fixed] = place
                return self(arg, tuple(places[axis] for axis in range(len(arg.dims))), scope)
            case ir.Broadcast(arg=arg, dims=dims):
                return self(arg, _aligned(arg.dims, dims, index), scope)
            case ir.Gather(arg=arg, axis=axis, index=place, dims=dims):
                rest = arg.dims[:axis] + arg.dims[axis + 1 :]
                at = clamped(
                    self(place, _aligned(place.dims, dims, index), scope),
                    extent(arg.dims[axis], self.sizes),
                    self.sizes,
                )
                around = _aligned(rest, dims, index)
                return self(arg, (*around[:axis], as_axis(at), *around[axis:]), scope)
            case ir.Unfold():
                return self._neighbour(expr, index, scope)
            case ir.Linalg(op="eye", dtype=dtype):
                same = folded(Call("eq", (as_node(index[0]), as_node(index[1])), DType.BOOL))
                return folded(Call("select", (same, Number(1.0, dtype), Number(0.0, dtype)), dtype))
            case ir.Linalg():
                if expr not in self.made:
                    raise CompilerBug(f"the result of {expr.op} was not made before it was read")
                return Load(self.made[expr], 0, index, expr.dtype)
            case _:
                raise CompilerBug(f"{type(expr).__name__} has no index notation")

    def _contract(self, expr: ir.Contract, index: Index, scope: frozenset[Var]) -> Node:
        labels, dims = expr.left_axes + expr.right_axes, expr.left.dims + expr.right.dims
        at = dict(zip(expr.out_axes, index, strict=True))
        summed = {label: d for label, d in zip(labels, dims, strict=True) if label not in at}
        fresh = _fresh(tuple(summed.values()), scope)
        at |= dict(zip(summed, fresh, strict=True))
        scope = scope | frozenset(fresh)
        product = Call(
            "mul",
            (
                self(expr.left, tuple(at[label] for label in expr.left_axes), scope),
                self(expr.right, tuple(at[label] for label in expr.right_axes), scope),
            ),
            expr.dtype,
        )
        return Fold("sum", fresh, product, expr.dtype) if fresh else product

    def _neighbour(self, expr: ir.Unfold, index: Index, scope: frozenset[Var]) -> Node:
        rank = len(expr.arg.dims)
        places, conditions = list(index[:rank]), list[Node]()
        for axis, tap, dim in zip(expr.axes, index[rank:], expr.taps, strict=True):
            n, here = extent(dim, self.sizes), as_node(places[axis])
            before = n // 2 if expr.forward else n - 1 - n // 2
            from_start = plus(here, as_node(tap)) if expr.forward else minus(plus(here, n - 1), as_node(tap))
            if expr in self.made:
                places[axis] = as_axis(from_start)
                continue
            size, place = extent(expr.arg.dims[axis], self.sizes), plus(from_start, -before)
            if expr.wrap:
                places[axis] = as_axis(wrapped(place, size, self.sizes))
            else:
                conditions += within(place, size, self.sizes)
                places[axis] = as_axis(clamped(place, size, self.sizes))
        if expr in self.made:
            return Load(self.made[expr], 0, tuple(places), expr.dtype)
        return conditional(conditions, self(expr.arg, tuple(places), scope))

    def margin(self, expr: ir.Unfold, index: Index) -> Node:
        """The element of the copy with a margin, from which all neighbours are read without a question: along each axis
        it starts as many places early as taps may reach back."""
        places, conditions = list(index), list[Node]()
        for axis, dim in zip(expr.axes, expr.taps, strict=True):
            n, size = extent(dim, self.sizes), extent(expr.arg.dims[axis], self.sizes)
            place = plus(as_node(places[axis]), -(n // 2 if expr.forward else n - 1 - n // 2))
            if expr.wrap:
                places[axis] = as_axis(wrapped(place, size, self.sizes))
            else:
                conditions += within(place, size, self.sizes)
                places[axis] = as_axis(clamped(place, size, self.sizes))
        scope = frozenset[Var]().union(*(index_vars(i) for i in index))
        return conditional(conditions, self(expr.arg, tuple(places), scope))


def lower(expr: ir.Expr, index: Index, sizes: Mapping[str, int]) -> Node:
    """The element of `expr` at `index`, where nothing was made as a whole."""
    return Lowering(sizes)(expr, index)


def _aligned(dims: Dims, outer: Dims, index: Index) -> Index:
    if dims == outer:
        return index
    places = dict(zip(outer, index, strict=True))
    return tuple(places[d] for d in dims)


def _fresh(dims: Sequence[str], scope: frozenset[Var]) -> tuple[Var, ...]:
    """A new variable for each dim: the first axis id of the dim that is not in scope."""
    taken, out = set(scope), list[Var]()
    for dim in dims:
        number, var = 0, dim
        while var in taken:
            number += 1
            var = f"{dim}'{number}"
        taken.add(var)
        out.append(var)
    return tuple(out)


def simplified(call: Call) -> Node:
    """Small exact powers as products, integers known here computed; everything else as it is."""
    match call:
        case Call("pow", (base, Number(value=value)), dtype) if dtype.kind is not Kind.COMPLEX:
            if value == 2:
                return Call("mul", (base, base), dtype)
            if value == 3:
                return Call("mul", (Call("mul", (base, base), dtype), base), dtype)
            if value == 1:
                return base
        case _:
            pass
    return folded(call)


# --- unrolling literal dims ---------------------------------------------------------------------------------------


def element(name: str, place: tuple[int, ...]) -> str:
    """The name of one element along unrolled axes: `i_f_g_o@2`."""
    return name + "".join(f"@{p}" for p in place)


def substitute(node: Node, places: Mapping[Var, int]) -> Node:
    if not places:
        return node
    match node:
        case Load(index=index):
            return replace(node, index=tuple(_placed(i, places) for i in index))
        case Place(var=var) if var in places:
            return Number(places[var], node.dtype)
        case Call(args=args):
            new = tuple(substitute(a, places) for a in args)
            return folded(replace(node, args=new)) if any(a is not b for a, b in zip(args, new, strict=True)) else node
        case Fold(arg=arg):
            return replace(node, arg=substitute(arg, places))
        case _:
            return node


def _placed(axis: Var | int | Node, places: Mapping[Var, int]) -> Var | int | Node:
    if isinstance(axis, int):
        return axis
    return places.get(axis, axis) if isinstance(axis, str) else as_axis(substitute(axis, places))


_JOIN = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}


def unroll_folds(node: Node, unrolled: Mapping[str, int]) -> Node:
    """Folds over variables of `unrolled` dims written out as chains."""
    match node:
        case Load(index=index):
            inner = tuple(i if isinstance(i, str | int) else unroll_folds(i, unrolled) for i in index)
            return node if all(a is b for a, b in zip(index, inner, strict=True)) else replace(node, index=inner)
        case Call(args=args):
            new = tuple(unroll_folds(a, unrolled) for a in args)
            return node if all(a is b for a, b in zip(args, new, strict=True)) else folded(replace(node, args=new))
        case Fold(op=op, over=over, arg=arg, dtype=dtype):
            arg = unroll_folds(arg, unrolled)
            first = next((v for v in over if dim_of(v) in unrolled), None)
            if first is None:
                return replace(node, arg=arg)
            rest = tuple(v for v in over if v != first)
            terms = [substitute(arg, {first: k}) for k in range(unrolled[dim_of(first)])]
            if rest and op == "sum" and not all(plain(n.index) for n in nodes(arg) if isinstance(n, Load)):
                # the taps of a convolution: one loop over the rest, so that each running sum is kept once
                return unroll_folds(Fold(op, rest, _chain(op, terms, dtype), dtype), unrolled)
            each = [unroll_folds(Fold(op, rest, t, dtype), unrolled) if rest else t for t in terms]
            return _chain(op, each, dtype)
        case _:
            return node


def _chain(op: str, terms: Sequence[Node], dtype: DType) -> Node:
    total = terms[0]
    for term in terms[1:]:
        total = Call(_JOIN[op], (total, term), dtype)
    return total


def unrollable(body: Sequence[ir.Equation], limit: int = 8) -> dict[str, int]:
    """Literal dims small enough to write out element by element."""
    found: dict[str, int] = {}
    blocked: set[str] = set()
    for equation in body:
        for node in ir.walk(equation.expr):
            found.update({d: int(d) for d in node.dims if d.isdigit() and 0 < int(d) <= limit})
            if isinstance(node, ir.Reduce) and node.op.startswith("arg"):
                blocked.update(node.over)
            if isinstance(node, ir.Linalg):
                blocked.update(node.dims, *(a.dims for a in node.args))
    return {d: n for d, n in found.items() if d not in blocked}


# --- statements ---------------------------------------------------------------------------------------------------


def statements(
    body: Sequence[ir.Equation], sizes: Mapping[str, int], declared: Mapping[str, Dims] | None = None
) -> tuple[list[Stmt], dict[str, int]]:
    """One `Stmt` for each element along unrolled dims of each equation, and which dims those are. Folds are split off
    into statements of their own (`NAME@sum`), equal ones shared; so are matrix operations, and copies with a margin of
    what neighbours are taken of (`NAME@near`). `declared` gives the dims of states and buffers, where an equation may
    have fewer or have them in another order."""
    unrolled = unrollable(body)
    while True:
        try:
            return _Statements(body, sizes, unrolled, declared or {}).run(), unrolled
        except _ReadAlong as found:
            unrolled = {d: n for d, n in unrolled.items() if d != found.dim}


class _ReadAlong(Exception):
    """A value is read along a dim by a place that only the running program knows, so it cannot be written out."""

    def __init__(self, dim: str) -> None:
        self.dim = dim
        super().__init__(dim)


class _Statements:
    def __init__(
        self,
        body: Sequence[ir.Equation],
        sizes: Mapping[str, int],
        unrolled: Mapping[str, int],
        declared: Mapping[str, Dims],
    ) -> None:
        self.body, self.sizes, self.unrolled = body, sizes, unrolled
        self.out: list[Stmt] = []
        self.known: dict[Node, tuple[str, tuple[Var, ...]]] = {}
        self.made: dict[ir.Expr, str] = {}
        self.local = {e.name: declared.get(e.name, e.expr.dims) for e in body}
        self.taken = set(self.local)
        self.lower = Lowering(sizes, self.made)

    def run(self) -> list[Stmt]:
        for equation in self.body:
            self._wholes(equation)
            axes = axis_ids(self.local[equation.name])
            index = _aligned(equation.expr.dims, self.local[equation.name], axes)
            self._emit(equation.name, axes, self.lower(equation.expr, index, frozenset(axes)), equation.span)
        return self.out

    def _emit(self, name: str, axes: tuple[Var, ...], value: Node, span: Span | None, text: str = "") -> None:
        value = unroll_folds(value, self.unrolled)
        fixed = [v for v in axes if dim_of(v) in self.unrolled]
        free = tuple(v for v in axes if v not in fixed)
        for place in _places([self.unrolled[dim_of(v)] for v in fixed]):
            one = self._rename_elements(substitute(value, dict(zip(fixed, place, strict=True))))
            owner = element(name, place)
            one = self._split_folds(one, owner, free, span)
            self.out.append(Stmt(owner, free, one, span, text or owner.replace("@", ".")))

    def _name(self, owner: str, what: str) -> str:
        name = f"{owner}@{what}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    # --- what is made as a whole ------------------------------------------------------------------------------------

    def _wholes(self, equation: ir.Equation) -> None:
        """The statements of an equation's neighbours and matrix operations, innermost first."""
        wanted = [n for n in ir.walk(equation.expr) if isinstance(n, ir.Unfold | ir.Linalg)]
        for node in reversed(wanted):
            if node in self.made or (isinstance(node, ir.Linalg) and node.op == "eye"):
                continue
            if isinstance(node, ir.Unfold):
                self._margin(node, equation)
            else:
                self._matrix(node, equation)

    def _margin(self, node: ir.Unfold, equation: ir.Equation) -> None:
        dims = list(node.arg.dims)
        for axis, dim in zip(node.axes, node.taps, strict=True):
            dims[axis] = f"{dims[axis]}+{extent(dim, self.sizes) - 1}"
        name, axes = self._name(equation.name, "near"), axis_ids(tuple(dims))
        value = self.lower.margin(node, axes)
        self.local[name], self.made[node] = tuple(dims), name
        over = ", ".join(node.arg.dims[a] for a in node.axes)
        self._emit(name, axes, value, equation.span, f"what {equation.name} finds along {over} in {equation.name}")

    def _matrix(self, node: ir.Linalg, equation: ir.Equation) -> None:
        name = self._name(equation.name, node.op)
        *batch, rows, columns = node.args[0].dims
        right = node.args[1].dims if node.op == "solve" else ()
        others = [d for d in right if d != rows and d not in batch]
        var = {d: f"{d}'{_APART}" for d in (*batch, *others)}  # lanes run along none of them
        square = (f"{rows}'{_APART + 1}", f"{columns}'{_APART + 2}")
        scope = frozenset((*var.values(), *square))
        operands = [self.lower(node.args[0], (*(var[d] for d in batch), *square), scope)]
        if node.op == "solve":
            operands.append(self.lower(node.args[1], tuple(square[0] if d == rows else var[d] for d in right), scope))
        elif len(node.args) > 1:
            operands.append(self.lower(node.args[1], (*(var[d] for d in batch), *square), scope))
        match node.op:
            case "inv":
                index = (*(var[d] for d in batch), square[1], square[0])
            case "solve":
                unknown = right.index(rows)
                lead = len(node.dims) - len(right)
                index = tuple(square[1] if k - lead == unknown else var[d] for k, d in enumerate(node.dims))
            case _:
                index = (*(var[d] for d in batch), *square)
        made = [self._rename_elements(unroll_folds(o, self.unrolled)) for o in operands]
        order = (*(var[d] for d in batch), *square, *(var[d] for d in others))
        split = tuple(self._split_folds(o, name, order, equation.span, False) for o in made)
        value = Matrix(node.op, split, square, tuple(var[d] for d in others), node.dtype)
        self.local[name], self.made[node] = node.dims, name
        self.out.append(Stmt(name, index, value, equation.span, f"{node.op} in {equation.name}"))

    # --- elements and folds -----------------------------------------------------------------------------------------

    def _rename_elements(self, node: Node) -> Node:
        """Reads of this step's values along unrolled dims become reads of the elements' names."""
        match node:
            case Load(name=name, lag=lag, index=index):
                index = tuple(i if isinstance(i, str | int) else self._rename_elements(i) for i in index)
                if lag or name not in self.local:
                    return replace(node, index=index)
                pairs = list(zip(index, self.local[name], strict=True))
                fixed = [(i, d) for i, d in pairs if d in self.unrolled]
                along = next((d for i, d in fixed if not isinstance(i, int)), None)
                if along is not None:
                    raise _ReadAlong(along)
                free = tuple(i for i, d in pairs if d not in self.unrolled)
                place = tuple(i for i, _ in fixed if isinstance(i, int))
                return replace(node, name=element(name, place), index=free)
            case Call(args=args):
                return replace(node, args=tuple(self._rename_elements(a) for a in args))
            case Fold(arg=arg):
                return replace(node, arg=self._rename_elements(arg))
            case _:
                return node

    def _split_folds(self, node: Node, owner: str, order: tuple[Var, ...], span: Span | None, top: bool = True) -> Node:
        match node:
            case Load(index=index):
                inner = tuple(
                    i if isinstance(i, str | int) else self._split_folds(i, owner, order, span, False) for i in index
                )
                return replace(node, index=inner)
            case Call(args=args):
                return replace(node, args=tuple(self._split_folds(a, owner, order, span, False) for a in args))
            case Fold(op=op, over=over, arg=arg):
                inner = replace(node, arg=self._split_folds(arg, owner, (*order, *over), span, False))
                if top:
                    return inner
                index = tuple(v for v in order if v in free_vars(inner))
                own, inner = _canonical(inner, index)
                if inner not in self.known:
                    name = self._name(owner, op)
                    self.known[inner] = name, own
                    what = f"{op} over {', '.join(dim_of(v) for v in over)} in {owner}"
                    self.out.append(Stmt(name, own, inner, span, what))
                name, axes = self.known[inner]
                here = dict(zip(own, index, strict=True))  # the axes stand in the order of the place that made it
                return Load(name, 0, tuple(here[v] for v in axes), node.dtype)
            case _:
                return node


_APART = 4  # the first number of the variables of matrix operations, which share no variable with anything


def _places(extents: Sequence[int]) -> list[tuple[int, ...]]:
    places: list[tuple[int, ...]] = [()]
    for n in extents:
        places = [(*p, k) for p in places for k in range(n)]
    return places


def _canonical(fold: Fold, index: tuple[Var, ...]) -> tuple[tuple[Var, ...], Fold]:
    """The index and fold over the first axis ids of their dims: alone, a sum over `H'1` is a sum over `H`, and a value
    for each `H'1` is one for each `H`, so that a SIMD lane means the same wherever the value is made and read."""
    inside = {v for n in nodes(fold.arg) if isinstance(n, Fold) for v in n.over}
    own = _fresh(tuple(dim_of(v) for v in index), frozenset(inside))
    over = _fresh(tuple(dim_of(v) for v in fold.over), frozenset(own) | inside)
    table = dict(zip(index + fold.over, own + over, strict=True))
    return own, Fold(fold.op, over, _renamed_vars(fold.arg, table), fold.dtype)


def _renamed_vars(node: Node, table: Mapping[Var, Var]) -> Node:
    match node:
        case Load(index=index):
            return replace(node, index=tuple(_renamed_axis(i, table) for i in index))
        case Place(var=var):
            return Place(table.get(var, var))
        case Call(args=args):
            return replace(node, args=tuple(_renamed_vars(a, table) for a in args))
        case Fold(arg=arg):
            return replace(node, arg=_renamed_vars(arg, table))
        case _:
            return node


def _renamed_axis(axis: Var | int | Node, table: Mapping[Var, Var]) -> Var | int | Node:
    if isinstance(axis, int):
        return axis
    return table.get(axis, axis) if isinstance(axis, str) else _renamed_vars(axis, table)


# --- what does not depend on the lanes, computed once ---------------------------------------------------------------

_CHEAP = frozenset(
    {"neg", "add", "sub", "mul", "cast", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "select"}
)


def hoist_uniform(stmts: Sequence[Stmt], lane: Var | None) -> list[Stmt]:
    """Costly subterms without the lane variable become statements of their own, computed once for all lanes and
    shared; a division by such a term becomes a product with its reciprocal."""
    if lane is None:
        return list(stmts)
    out: list[Stmt] = []
    shared: dict[Node, str] = {}

    def costly(node: Node) -> bool:
        match node:
            case Call(op=op, args=args):
                return op not in _CHEAP or any(costly(a) for a in args)
            case Fold(arg=arg):
                return costly(arg)
            case _:
                return False

    def visit(node: Node, stmt: Stmt, scope: frozenset[Var]) -> Node:
        match node:
            case Call("div", (a, b), dtype) if (
                lane in free_vars(a) and lane not in free_vars(b) and dtype.kind is Kind.REAL
            ):
                if isinstance(b, Number) or not free_vars(b) <= scope:
                    return replace(node, args=(visit(a, stmt, scope), b))
                inverse = Call("div", (Number(1.0, dtype), b), dtype)
                return Call("mul", (visit(a, stmt, scope), visit(inverse, stmt, scope)), dtype)
            case Call(args=args) if lane not in free_vars(node) and costly(node) and free_vars(node) <= scope:
                index = tuple(v for v in stmt.index if v in free_vars(node))
                if node not in shared:
                    shared[node] = f"{stmt.name}@{_label(node)}"
                    while any(s.name == shared[node] for s in (*out, *stmts)):
                        shared[node] += "_"
                    out.append(
                        Stmt(
                            shared[node],
                            index,
                            node,
                            stmt.span,
                            f"{_label(node)} in {stmt.name}, the same in every lane",
                        )
                    )
                return Load(shared[node], 0, index, node.dtype)
            case Call(args=args):
                return replace(node, args=tuple(visit(a, stmt, scope) for a in args))
            case Fold(arg=arg):
                return replace(node, arg=visit(arg, stmt, scope))
            case _:
                return node

    for stmt in stmts:
        if lane in stmt.index or lane in _fold_vars(stmt):
            out.append(replace(stmt, value=visit(stmt.value, stmt, frozenset(stmt.index))))
        elif isinstance(stmt.value, Call) and costly(stmt.value):
            arguments = tuple(visit(a, stmt, frozenset(stmt.index)) for a in stmt.value.args)
            out.append(replace(stmt, value=replace(stmt.value, args=arguments)))
        else:
            out.append(stmt)
    return out


def _fold_vars(stmt: Stmt) -> tuple[Var, ...]:
    return stmt.value.over if isinstance(stmt.value, Fold) else ()


def _label(node: Call) -> str:
    return "inverse" if node.op == "div" else node.op


def spelled(node: Node) -> list[str]:
    """Operators of the node that have no C spelling."""
    return [n.op for n in nodes(node) if isinstance(n, Call) and OPS[n.op].c is None]
