"""Recurrent cells with dense weights: a step as phases of register tiles.

A loop body such as an LSTM's multiplies parameter matrices with the state of the last step. Here its statements are
arranged in phases. A phase owns the positions along one lane dim (the hidden units); every position's sums over
`U[.., k] * h[k]` are kept in accumulator registers, for several sequences at a time, and the elementwise equations run
on those registers as soon as the sums are done. Sums that are only added together share one accumulator, which is how
`W @ x + U @ h[t-1]` costs no temporary. A product with a value of the same step (GRU's reset-before) opens a new phase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recurc import ir
from recurc.backends.emit.indexed import Call, Fold, Load, Node, Stmt, Var, dim_of, free_vars, loads, nodes, statements
from recurc.plan import Carry, Loop, Matmul
from recurc.types import DType, Kind


@dataclass(frozen=True, slots=True)
class Product:
    """A sum over `k` of a parameter times a vector all lanes share."""

    weight: Load
    vector: Load  # an input or carry of this step, or a value of an earlier phase
    k: Var


@dataclass(frozen=True, slots=True)
class Accumulator:
    """Products whose sums are only added together: one register per sequence."""

    name: str
    products: tuple[Product, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Phase:
    """What one pass over the positions of `lane` computes: accumulators, then statements on single positions."""

    lane: Var
    accumulators: tuple[Accumulator, ...]
    stmts: tuple[Stmt, ...]

    def operands(self) -> list[Load]:
        """The vectors multiplied, in order of first use."""
        return list(dict.fromkeys(p.vector for a in self.accumulators for p in a.products))

    def members(self, vector: Load) -> list[tuple[Accumulator, Product]]:
        """The accumulators a vector feeds, each with its product."""
        return [(a, p) for a in self.accumulators for p in a.products if p.vector == vector]


def absorbed(loop: Loop, before: Sequence[Matmul]) -> Loop:
    """The loop with the products of `before` computed inside it again, where the loop is their only reader."""
    exprs = {m.target: m.expr for m in before}

    def rule(node: ir.Expr) -> ir.Expr:
        return exprs[node.name] if isinstance(node, ir.Read) and node.lag == 0 and node.name in exprs else node

    return replace(loop, body=tuple(replace(e, expr=ir.rewrite(e.expr, rule)) for e in loop.body))


def find_phases(
    loop: Loop, params: frozenset[str], sizes: Mapping[str, int], unrolled: Mapping[str, int]
) -> tuple[Phase, ...] | None:
    """The loop as phases, or None if its body is not of this kind (then the general path runs it)."""
    carries = {c.name: c for c in loop.carries}
    if any(c.dtype.kind is not Kind.REAL or len(c.dims) != 1 for c in loop.carries):
        return None
    kept = {*loop.writes, *carries}
    stmts = _inlined(statements(loop.body, sizes, unrolled), kept)
    products = {s.name: p for s in stmts if (p := _product(s, params)) is not None}
    if not products:
        return None
    stmts, groups = _shared_sums(stmts, products)
    return _phases(stmts, groups, {s.name for s in stmts}, carries)


def _product(stmt: Stmt, params: frozenset[str]) -> Product | None:
    """`stmt` as a product with a parameter, lanes along the one index it has."""
    match stmt.value:
        case Fold("sum", (k,), Call("mul", (Load() as a, Load() as b)), dtype) if dtype.kind is Kind.REAL:
            weight, vector = (a, b) if a.name in params else (b, a)
            shared = vector.name not in params and vector.index == (k,)
            if weight.name in params and shared and len(stmt.index) == 1 and stmt.index[0] in weight.index:
                return Product(weight, vector, k)
        case _:
            pass
    return None


def _uses(stmts: Sequence[Stmt]) -> Counter[str]:
    return Counter(load.name for s in stmts for load in loads(s.value) if load.lag == 0)


def _inlined(stmts: Sequence[Stmt], kept: set[str]) -> list[Stmt]:
    """A sum that one statement reads, as a term of its own sum or as its whole value, is written into that statement,
    so that chains of additions show."""
    while True:
        uses = _uses(stmts)
        joined = next(
            (
                (small, user)
                for small in stmts
                if uses[small.name] == 1 and stored_name(small.name) not in kept and not isinstance(small.value, Fold)
                for user in stmts
                if user.index == small.index and _adds(user.value, small)
            ),
            None,
        )
        if joined is None:
            return list(stmts)
        small, user = joined
        merged = replace(user, value=_with(user.value, small.name, small.value))
        stmts = [merged if s is user else s for s in stmts if s is not small]


def _adds(value: Node, small: Stmt) -> bool:
    """Whether `value` is the value of `small`, or adds it to something (and it is itself a sum)."""
    wanted = Load(small.name, 0, small.index, small.value.dtype)
    if value == wanted:
        return True
    is_sum = isinstance(small.value, Call) and small.value.op == "add"
    return is_sum and any(isinstance(n, Call) and n.op == "add" and wanted in n.args for n in nodes(value))


def _with(node: Node, name: str, value: Node) -> Node:
    match node:
        case Load(name=found, lag=0) if found == name:
            return value
        case Call(args=args):
            return replace(node, args=tuple(_with(a, name, value) for a in args))
        case Fold(arg=arg):
            return replace(node, arg=_with(arg, name, value))
        case _:
            return node


def _shared_sums(stmts: Sequence[Stmt], products: Mapping[str, Product]) -> tuple[list[Stmt], dict[str, Accumulator]]:
    """Every product gets an accumulator; products met in one chain of additions and read nowhere else share one."""
    uses = _uses(stmts)
    owner: dict[str, str] = {}  # product -> the accumulator it adds to

    def visit(node: Node) -> Node:
        match node:
            case Call("add", _, dtype):
                terms = _terms(node)
                mine = [t.name for t in terms if isinstance(t, Load) and t.name in products and uses[t.name] == 1]
                if len(mine) < 2:
                    return replace(node, args=tuple(visit(a) for a in node.args))
                owner.update(dict.fromkeys(mine, mine[0]))
                rest = [visit(t) for t in terms if not (isinstance(t, Load) and t.name in mine[1:])]
                return _chain(rest, dtype)
            case Call(args=args):
                return replace(node, args=tuple(visit(a) for a in args))
            case _:
                return node

    new = [s if s.name in products else replace(s, value=visit(s.value)) for s in stmts]
    texts = {s.name: s.text for s in stmts}
    groups: dict[str, list[Product]] = {}
    for name, product in products.items():
        groups.setdefault(owner.get(name, name), []).append(product)
    accumulators = {name: Accumulator(name, tuple(ps), texts[name]) for name, ps in groups.items()}
    return [s for s in new if s.name not in products or s.name in accumulators], accumulators


def _terms(node: Node) -> list[Node]:
    match node:
        case Call("add", args):
            return [t for a in args for t in _terms(a)]
        case _:
            return [node]


def _chain(terms: Sequence[Node], dtype: DType) -> Node:
    total = terms[0]
    for term in terms[1:]:
        total = Call("add", (total, term), dtype)
    return total


def _phases(
    stmts: Sequence[Stmt], accumulators: Mapping[str, Accumulator], local: set[str], carries: Mapping[str, Carry]
) -> tuple[Phase, ...] | None:
    phases: list[Phase] = []
    made_now: set[str] = set()
    lane: Var | None = None
    sums: list[Accumulator] = []
    rest: list[Stmt] = []

    def close() -> None:
        if lane is not None:
            phases.append(Phase(lane, tuple(sums), tuple(rest)))
        sums.clear()
        rest.clear()
        made_now.clear()

    for stmt in _by_lane(stmts):
        accumulator = accumulators.get(stmt.name)
        if len(stmt.index) != 1 or dim_of(stmt.index[0]) != stmt.index[0]:
            return None
        here = stmt.index[0]
        vectors = {p.vector.name for p in accumulator.products if p.vector.lag == 0} if accumulator else set[str]()
        if here != lane or vectors & made_now:
            close()
            lane = here
        if accumulator is not None:
            sums.append(accumulator)
        elif not _on_one_position(stmt, here, local):
            return None
        else:
            rest.append(stmt)
        made_now.add(stmt.name)
    close()
    return tuple(phases) if all(c in local for c in carries) else None


def _by_lane(stmts: Sequence[Stmt]) -> list[Stmt]:
    """The statements in a legal order that changes lanes late: sums first, as soon as what they read is there."""
    waiting, done, out = list(stmts), set[str](), list[Stmt]()
    names = {s.name for s in stmts}
    while waiting:
        ready = [s for s in waiting if all(x.lag or x.name not in names or x.name in done for x in loads(s.value))]
        lane = out[-1].index if out else ready[0].index
        chosen = next((s for s in ready if s.index == lane), ready[0])
        waiting.remove(chosen)
        done.add(chosen.name)
        out.append(chosen)
    return out


def _on_one_position(stmt: Stmt, lane: Var, local: set[str]) -> bool:
    """Whether the statement reads step values and states only at its own position, and sums nothing."""
    inside = list(nodes(stmt.value))
    if any(isinstance(n, Fold) for n in inside) or not free_vars(stmt.value) <= {lane}:
        return False
    if any(isinstance(n, Load) and n.dtype.kind is not Kind.REAL for n in inside):
        return False
    return all(load.index == (lane,) for load in loads(stmt.value) if load.name in local)


def stored_name(name: str) -> str | None:
    """The equation a statement's name belongs to: itself, or the whole of an unrolled element; None for a sum."""
    base, *places = name.split("@")
    return base if all(p.isdigit() for p in places) else None
