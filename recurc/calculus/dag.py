"""Expressions as graphs: equal parts are one node, and parts that are needed more than once become equations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from recurc.ir import (
    Apply,
    Const,
    Contract,
    Equation,
    Expr,
    Gather,
    Linalg,
    Read,
    Reaxis,
    Reduce,
    Unfold,
    children,
    with_children,
)
from recurc.ops import OPS
from recurc.types import DType

_NOTHING = Const(False, DType.BOOL)
_COSTLY = 6  # floating-point operations
_LARGE = 12  # nodes
_DEEP = 60  # operations within one expression: passes walk expressions by recursion


class Graph:
    """A set of nodes in which no two are equal. Two equal expressions put in give the same object."""

    def __init__(self, rule: Callable[[Expr], Expr] | None = None) -> None:
        self._rule = rule
        self._nodes: dict[tuple[object, ...], Expr] = {}
        self._known: dict[int, tuple[Expr, Expr]] = {}  # by id: the expression (kept alive) and its node

    def __len__(self) -> int:
        return len(self._nodes)

    def put(self, expr: Expr) -> Expr:
        """The node that equals `expr`; with a `rule`, that of `expr` rewritten by it, operands first."""
        stack = [expr]
        while stack:
            top = stack[-1]
            if id(top) in self._known:
                stack.pop()
                continue
            waiting = [c for c in children(top) if id(c) not in self._known]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            operands = tuple(self._known[id(c)][1] for c in children(top))
            changed = any(a is not b for a, b in zip(operands, children(top), strict=True))
            made = with_children(top, operands) if changed else top
            ruled = made if self._rule is None else self._rule(made)
            node = self._node(made) if ruled is made else self.put(ruled)
            self._known[id(top)] = (top, node)
        return self._known[id(expr)][1]

    def _node(self, expr: Expr) -> Expr:
        """`expr`, whose operands are nodes, as a node."""
        operands = children(expr)
        bare = with_children(expr, (_NOTHING,) * len(operands)) if operands else expr
        node = self._nodes.setdefault((bare, *map(id, operands)), expr)
        self._known[id(node)] = (node, node)
        return node


def postorder(exprs: Iterable[Expr], into: Callable[[Expr], bool] | None = None) -> list[Expr]:
    """Every node (by identity) of the graph below `exprs` once, operands first; `into` says which to enter at all."""
    found: dict[int, Expr] = {}
    stack = [(e, False) for e in exprs]
    while stack:
        node, ready = stack.pop()
        if id(node) in found or (into is not None and not into(node)):
            continue
        if ready:
            found[id(node)] = node
        else:
            stack.append((node, True))
            stack += [(c, False) for c in children(node)]
    return list(found.values())


def named(
    exprs: Sequence[Expr], fresh: Callable[[str], str], hint: str, known: Mapping[Expr, Read]
) -> tuple[list[Equation], list[Expr]]:
    """`exprs` (of one `Graph`) with equations for the parts that are costly and needed more than once, or deep.

    Each equation reads only earlier ones; parts that are `known` are read where they already have a name."""
    order = postorder(exprs)
    readers: dict[int, int] = {}
    for node in order:
        for child in children(node):
            readers[id(child)] = readers.get(id(child), 0) + 1
    for expr in exprs:
        readers[id(expr)] = readers.get(id(expr), 0) + 1
    equations: list[Equation] = []
    done: dict[int, tuple[Expr, int, int, bool]] = {}  # the expression, and its size, depth and cost as written
    for node in order:
        parts = [done[id(c)] for c in children(node)]
        operands = tuple(p[0] for p in parts)
        changed = any(a is not b for a, b in zip(operands, children(node), strict=True))
        made = with_children(node, operands) if changed else node
        size, depth = 1 + sum(p[1] for p in parts), 1 + max((p[2] for p in parts), default=0)
        costly = _is_costly(node) or any(p[3] for p in parts)
        shared = readers.get(id(node), 0) > 1 and size > 1 and (costly or size > _LARGE)
        if (shared and not _is_view(made)) or depth > _DEEP:
            read = known.get(made)
            if read is None:
                read = Read(fresh(hint), 0, node.dims, node.dtype, node.span)
                equations.append(Equation(read.name, made, made.span))
            made, size, depth, costly = read, 1, 1, False
        done[id(node)] = (made, size, depth, costly)
    return equations, [done[id(e)][0] for e in exprs]


def _is_costly(node: Expr) -> bool:
    match node:
        case Apply(op=op):
            return OPS[op].flops >= _COSTLY
        case Reduce() | Contract() | Linalg() | Gather() | Unfold():
            return True
        case _:
            return False


def _is_view(expr: Expr) -> bool:
    """Whether `expr` is a name seen through other axes."""
    while isinstance(expr, Reaxis):
        expr = expr.arg
    return isinstance(expr, Read)
