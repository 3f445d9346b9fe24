"""Index notation: what the backends that print code work on instead of the IR.

Every access carries explicit indices (`U[0, H, H'1]`), so `Reaxis` disappears, and every sum or maximum is a `Fold`
over named variables. A variable is an axis id of `recurc.types.axis_ids`: `H`, `H'1`. A stage body becomes a list of
`Stmt`s, each one assignment or one fold, in an order in which each reads only earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from recurc import ir
from recurc.errors import CompilerBug
from recurc.ops import OPS
from recurc.source import Span
from recurc.types import Dims, DType, Kind, axis_ids, number_key

Var = str
Index = tuple[Var | int, ...]


@dataclass(frozen=True, slots=True)
class Number:
    value: bool | int | float | complex
    dtype: DType

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return number_key(self.value), self.dtype


@dataclass(frozen=True, slots=True)
class StepIndex:
    """`t`."""

    dtype: DType = DType.I64


@dataclass(frozen=True, slots=True)
class Load:
    name: str
    lag: int
    index: Index
    dtype: DType


@dataclass(frozen=True, slots=True)
class Call:
    """An elementwise operator of the op table; `cast` converts to `dtype`."""

    op: str
    args: tuple[Node, ...]
    dtype: DType


@dataclass(frozen=True, slots=True)
class Fold:
    """`op` (sum, prod, max, min, any, all, argmax, argmin) of `arg` over all values of the variables."""

    op: str
    over: tuple[Var, ...]
    arg: Node
    dtype: DType


Node = Number | StepIndex | Load | Call | Fold


@dataclass(frozen=True, slots=True)
class Stmt:
    """`name[index] = value` for all values of the variables in `index`; a `Fold` only at the top of `value`."""

    name: str
    index: tuple[Var, ...]
    value: Node
    span: Span | None = None
    text: str = ""  # what the statement computes, for a comment


def dim_of(var: Var) -> str:
    return var.split("'", 1)[0]


def parts(node: Node) -> tuple[Node, ...]:
    match node:
        case Call(args=args):
            return args
        case Fold(arg=arg):
            return (arg,)
        case _:
            return ()


def nodes(node: Node) -> Iterator[Node]:
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(reversed(parts(top)))


def loads(node: Node) -> Iterator[Load]:
    return (n for n in nodes(node) if isinstance(n, Load))


@lru_cache(maxsize=65536)
def free_vars(node: Node) -> frozenset[Var]:
    """The variables a value depends on."""
    match node:
        case Load(index=index):
            return frozenset(i for i in index if isinstance(i, str))
        case Fold(over=over, arg=arg):
            return free_vars(arg) - frozenset(over)
        case Call(args=args):
            return frozenset[Var]().union(*(free_vars(a) for a in args))
        case _:
            return frozenset()


# --- from the IR ------------------------------------------------------------------------------------------------


def lower(expr: ir.Expr, index: Index, sizes: Mapping[str, int], scope: frozenset[Var] | None = None) -> Node:
    """The element of `expr` at `index`; `sizes` gives every dim's size. Dims of `expr` and `index` go together."""
    scope = frozenset(i for i in index if isinstance(i, str)) if scope is None else scope
    match expr:
        case ir.Const(value=value, dtype=dtype):
            return Number(value, dtype)
        case ir.Size(dim=dim):
            return Number(_size(dim, sizes), DType.I64)
        case ir.Step():
            return StepIndex()
        case ir.Read(name=name, lag=lag, dtype=dtype):
            return Load(name, lag, index, dtype)
        case ir.Apply(op=op, args=args, dims=dims, dtype=dtype):
            new = tuple(lower(a, _aligned(a.dims, dims, index), sizes, scope) for a in args)
            return simplified(Call(op, new, dtype))
        case ir.Reduce(op=op, arg=arg, over=over, dims=dims, dtype=dtype):
            fresh = _fresh(over, scope)
            places = dict(zip(dims, index, strict=True)) | dict(zip(over, fresh, strict=True))
            inner = lower(arg, tuple(places[d] for d in arg.dims), sizes, scope | frozenset(fresh))
            return Fold(op, fresh, inner, dtype)
        case ir.Contract(left=left, right=right, left_axes=la, right_axes=ra, out_axes=out, dtype=dtype):
            at: dict[int, Var | int] = dict(zip(out, index, strict=True))
            summed = {label: d for label, d in zip(la + ra, left.dims + right.dims, strict=True) if label not in at}
            fresh = _fresh(tuple(summed.values()), scope)
            at |= dict(zip(summed, fresh, strict=True))
            inner_scope = scope | frozenset(fresh)
            product = Call(
                "mul",
                (
                    lower(left, tuple(at[label] for label in la), sizes, inner_scope),
                    lower(right, tuple(at[label] for label in ra), sizes, inner_scope),
                ),
                dtype,
            )
            return Fold("sum", fresh, product, dtype) if fresh else product
        case ir.Reaxis(arg=arg, axes=axes, at=fixed, index=place):
            inner_index: list[Var | int] = []
            for axis in range(len(arg.dims)):
                if axis == fixed:
                    assert place is not None
                    inner_index.append(place)
                else:
                    inner_index.append(index[axes.index(axis)])
            return lower(arg, tuple(inner_index), sizes, scope)
        case _:
            raise CompilerBug(f"{type(expr).__name__} has no index notation")


def _size(dim: str, sizes: Mapping[str, int]) -> int:
    return int(dim) if dim.isdigit() else sizes[dim]


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
    """Small exact powers as products; everything else as it is."""
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
    return call


# --- unrolling literal dims ---------------------------------------------------------------------------------------


def element(name: str, place: tuple[int, ...]) -> str:
    """The name of one element along unrolled axes: `i_f_g_o@2`."""
    return name + "".join(f"@{p}" for p in place)


def substitute(node: Node, places: Mapping[Var, int]) -> Node:
    match node:
        case Load(index=index):
            return replace(node, index=tuple(places.get(i, i) if isinstance(i, str) else i for i in index))
        case Call(args=args):
            return replace(node, args=tuple(substitute(a, places) for a in args))
        case Fold(arg=arg):
            return replace(node, arg=substitute(arg, places))
        case _:
            return node


_JOIN = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}


def unroll_folds(node: Node, unrolled: Mapping[str, int]) -> Node:
    """Folds over variables of `unrolled` dims written out as chains."""
    match node:
        case Call(args=args):
            return replace(node, args=tuple(unroll_folds(a, unrolled) for a in args))
        case Fold(op=op, over=over, arg=arg, dtype=dtype):
            arg = unroll_folds(arg, unrolled)
            first = next((v for v in over if dim_of(v) in unrolled), None)
            if first is None:
                return replace(node, arg=arg)
            rest = tuple(v for v in over if v != first)
            terms = [substitute(arg, {first: k}) for k in range(unrolled[dim_of(first)])]
            each = [unroll_folds(Fold(op, rest, t, dtype), unrolled) if rest else t for t in terms]
            total = each[0]
            for term in each[1:]:
                total = Call(_JOIN[op], (total, term), dtype)
            return total
        case _:
            return node


def unrollable(body: Sequence[ir.Equation], limit: int = 8) -> dict[str, int]:
    """Literal dims small enough to write out element by element."""
    found: dict[str, int] = {}
    blocked: set[str] = set()
    for equation in body:
        for node in ir.walk(equation.expr):
            found.update({d: int(d) for d in node.dims if d.isdigit() and 0 < int(d) <= limit})
            if isinstance(node, ir.Reduce) and node.op.startswith("arg"):
                blocked.update(node.over)
    return {d: n for d, n in found.items() if d not in blocked}


# --- statements ---------------------------------------------------------------------------------------------------


def statements(
    body: Sequence[ir.Equation],
    sizes: Mapping[str, int],
    unrolled: Mapping[str, int],
    declared: Mapping[str, Dims] | None = None,
) -> list[Stmt]:
    """One `Stmt` for each element along unrolled dims of each equation, folds split off into statements of their own
    (`NAME@sum`), equal folds shared. `declared` gives the dims of states and buffers, where an equation may have
    fewer or have them in another order."""
    out: list[Stmt] = []
    known: dict[Node, str] = {}
    local = {e.name: (declared or {}).get(e.name, e.expr.dims) for e in body}
    for equation in body:
        axes = axis_ids(local[equation.name])
        index = _aligned(equation.expr.dims, local[equation.name], axes)
        node = unroll_folds(lower(equation.expr, index, sizes, frozenset(axes)), unrolled)
        fixed = [v for v in axes if dim_of(v) in unrolled]
        free = tuple(v for v in axes if v not in fixed)
        for place in _places([unrolled[dim_of(v)] for v in fixed]):
            value = substitute(node, dict(zip(fixed, place, strict=True)))
            value = _rename_elements(value, local, unrolled)
            name = element(equation.name, place)
            value = _split_folds(value, name, free, equation.span, out, known)
            out.append(Stmt(name, free, value, equation.span, name.replace("@", ".")))
    return out


def _places(extents: Sequence[int]) -> list[tuple[int, ...]]:
    places: list[tuple[int, ...]] = [()]
    for extent in extents:
        places = [(*p, k) for p in places for k in range(extent)]
    return places


def _rename_elements(node: Node, local: Mapping[str, Dims], unrolled: Mapping[str, int]) -> Node:
    """Reads of this step's values along unrolled dims become reads of the elements' names."""
    match node:
        case Load(name=name, lag=0, index=index) if name in local:
            fixed = [i for i, d in zip(index, local[name], strict=True) if d in unrolled]
            if not fixed:
                return node
            if not all(isinstance(i, int) for i in fixed):
                raise CompilerBug(f"{name} is read along an unrolled dim by a variable")
            free = tuple(i for i, d in zip(index, local[name], strict=True) if d not in unrolled)
            return replace(node, name=element(name, tuple(i for i in fixed if isinstance(i, int))), index=free)
        case Call(args=args):
            return replace(node, args=tuple(_rename_elements(a, local, unrolled) for a in args))
        case Fold(arg=arg):
            return replace(node, arg=_rename_elements(arg, local, unrolled))
        case _:
            return node


def _split_folds(
    node: Node,
    owner: str,
    order: tuple[Var, ...],
    span: Span | None,
    out: list[Stmt],
    known: dict[Node, str],
    top: bool = True,
) -> Node:
    match node:
        case Call(args=args):
            return replace(node, args=tuple(_split_folds(a, owner, order, span, out, known, False) for a in args))
        case Fold(op=op, over=over, arg=arg):
            inner = replace(node, arg=_split_folds(arg, owner, (*order, *over), span, out, known, False))
            if top:
                return inner
            index = tuple(v for v in order if v in free_vars(inner))
            own, inner = _canonical(inner, index)
            if inner not in known:
                name = f"{owner}@{op}"
                while any(s.name == name for s in out):
                    name += "_"
                known[inner] = name
                out.append(Stmt(name, own, inner, span, f"{op} over {', '.join(dim_of(v) for v in over)} in {owner}"))
            return Load(known[inner], 0, index, node.dtype)
        case _:
            return node


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
            return replace(node, index=tuple(table.get(i, i) if isinstance(i, str) else i for i in index))
        case Call(args=args):
            return replace(node, args=tuple(_renamed_vars(a, table) for a in args))
        case Fold(arg=arg):
            return replace(node, arg=_renamed_vars(arg, table))
        case _:
            return node


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
        return any(isinstance(n, Call) and n.op not in _CHEAP for n in nodes(node))

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
