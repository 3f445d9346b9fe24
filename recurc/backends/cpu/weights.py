"""Matrix products against params inside a stage: which folds they are, and which of their sums are one sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from recurc.backends.base import Specialization
from recurc.backends.emit.nests import Nest
from recurc.backends.emit.nodes import Call, Fold, Load, Node, Stmt, Var, free_vars, loads, plain
from recurc.plan import Buffer, Role
from recurc.types import Kind


@dataclass(frozen=True)
class Weights:
    """Folds of one nest over one variable, each a sum of products of a param element and a scalar: a small matrix
    product. The params are packed so that the loop reads vectors one after the other."""

    folds: tuple[Stmt, ...]
    over: Var
    params: tuple[Load, ...]  # the different param elements, in packing order
    factors: tuple[tuple[int, Node], ...]  # for each fold: which param, and the scalar factor
    into: tuple[str, ...]  # for each fold: the sum it adds to, its own or that of an earlier group


def find_weights(
    nest: Nest, lane: Var | None, buffers: Mapping[str, Buffer], spec: Specialization
) -> tuple[Weights, ...]:
    groups: dict[Var, list[tuple[Stmt, Load, Node]]] = {}
    for stmt in nest.stmts:
        match stmt.value:
            case Fold("sum", (over,), arg) if over not in nest.vars:
                pair = _product(arg, lane, over, buffers, spec)
                if pair is not None:
                    groups.setdefault(over, []).append((stmt, *pair))
            case _:
                pass
    out: list[Weights] = []
    for over, found in groups.items():
        params = tuple(dict.fromkeys(load for _, load, _ in found))
        factors = tuple((params.index(load), factor) for _, load, factor in found)
        folds = tuple(s for s, _, _ in found)
        out.append(Weights(folds, over, params, factors, tuple(s.name for s in folds)))
    return tuple(out)


def _product(
    arg: Node, lane: Var | None, over: Var, buffers: Mapping[str, Buffer], spec: Specialization
) -> tuple[Load, Node] | None:
    """A param element along the lanes times a scalar."""
    match arg:
        case Call("mul", (a, b)):
            for weight, factor in ((a, b), (b, a)):
                if (
                    isinstance(weight, Load) and lane in weight.index and over in weight.index and plain(weight.index)
                    and lane not in free_vars(factor)
                    and weight.name in buffers and buffers[weight.name].role in (Role.PARAM, Role.ONCE)
                    and spec.dtype(buffers[weight.name].dtype).kind is Kind.REAL
                ):  # fmt: skip
                    return weight, factor
        case _:
            pass
    return None


# --- sums that are only added to each other -------------------------------------------------------------------------


def merge_sums(nest: Nest, groups: tuple[Weights, ...]) -> tuple[Weights, ...]:
    """`W @ x + U @ h[t-1]`: sums that are only added share one accumulator. Rewrites the nest's statements."""
    sums = {s.name for w in groups for s in w.folds}
    _inline_sums(nest, sums)
    uses = Counter(load.name for s in nest.stmts for load in loads(s.value) if not load.lag)
    into: dict[str, str] = {}

    def visit(node: Node) -> Node:
        match node:
            case Call("add"):
                terms = _terms(node)
                own = [t for t in terms if isinstance(t, Load) and t.name in sums and not t.lag and uses[t.name] == 1]
                for term in own[1:]:
                    assert isinstance(term, Load) and isinstance(own[0], Load)
                    into[term.name] = own[0].name
                kept = [t if t in own else visit(t) for t in terms if t not in own[1:]]
                total = kept[0]
                for term in kept[1:]:
                    total = Call("add", (total, term), node.dtype)
                return total
            case Call(args=args):
                return replace(node, args=tuple(visit(a) for a in args))
            case _:
                return node

    nest.stmts = [s if isinstance(s.value, Fold) else replace(s, value=visit(s.value)) for s in nest.stmts]
    return tuple(replace(w, into=tuple(into.get(s.name, s.name) for s in w.folds)) for w in groups)


def _terms(node: Node) -> list[Node]:
    return [t for a in node.args for t in _terms(a)] if isinstance(node, Call) and node.op == "add" else [node]


def _inline_sums(nest: Nest, sums: set[str]) -> None:
    """Statements that only add and are read once, at their own place, are written out where they are read."""
    changed = True
    while changed:
        changed = False
        uses = Counter(load.name for s in nest.stmts for load in loads(s.value) if not load.lag)
        for stmt in nest.stmts:
            if (
                stmt.name not in nest.inlinable
                or uses[stmt.name] != 1
                or not all(isinstance(t, Load) for t in _terms(stmt.value))
            ):
                continue
            if not any(load.name in sums for load in loads(stmt.value)):
                continue
            at = Load(stmt.name, 0, stmt.index, stmt.value.dtype)
            nest.stmts = [
                s
                if s.name == stmt.name or isinstance(s.value, Fold)
                else replace(s, value=_replaced(s.value, at, stmt.value))
                for s in nest.stmts
            ]
            left = Counter(load.name for s in nest.stmts for load in loads(s.value) if not load.lag)
            if not left[stmt.name]:
                nest.stmts = [s for s in nest.stmts if s.name != stmt.name]
                changed = True
                break


def _replaced(node: Node, old: Load, new: Node) -> Node:
    if isinstance(node, Load) and (node.name, node.lag, node.index) == (old.name, old.lag, old.index):
        return new
    if isinstance(node, Call):
        return replace(node, args=tuple(_replaced(a, old, new) for a in node.args))
    return node
