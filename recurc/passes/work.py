"""What one step of a group of states takes, counted on its equations: the figures that the cost model weighs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace

from recurc.facts import Group, LowRank
from recurc.ir import Contract, Equation, Expr, Linalg, Read, Recurrence, Reduce, Size, Step, children, reads, walk
from recurc.passes.affine import Forms
from recurc.passes.cost import (
    Shape,
    contract_flops,
    costly,
    elements_read,
    expr_flops,
    function_depth,
    node_flops,
    read_elements,
)
from recurc.passes.dependence import dependence
from recurc.passes.frozen import Chunks, chunks
from recurc.passes.linear_parts import depending
from recurc.passes.nonlinear_rules import crossed


@dataclass(frozen=True)
class Work:
    """One step of a group, for one sequence. What is computed from params alone, once per call, is not in it, nor are
    the products with params that leave the loop.

    SIMD runs along one dim of the states, of `row` elements; `apart` says that positions along it never meet. Of
    `flops`, `single` are of costly functions of values without that dim, which have nothing beside them, and
    `dense` of matrices that are solved with, which run along dims of their own. `fold` and `fold_single` are what
    folding a step into a segment's element takes; `outside` is what a schedule by chunks computes before and after.

    A group that is not `alone` joins groups before it in their walk over time, or, by chunks, one with the same keys.
    `again` and `bytes_again` are what those of a walk compute and read once more before its segments can fold."""

    lanes: int  # elements of the states: independent positions
    row: int
    apart: bool
    bytes_per_step: float  # in and out
    flops: float
    single: float
    dense: float
    fold: float
    fold_single: float
    outside: float
    matmul_flops: float  # of recurrent products
    weight_bytes: float
    chain: int  # costly functions on the path from old state to new, and rows of a matrix that is solved with
    sums: int  # sums that the next state waits for; of a matrix memory all, since its rows lie apart
    alone: bool = True
    again: float = 0.0
    bytes_again: float = 0.0


@dataclass(frozen=True)
class FrozenWork:
    """What a step spares where some states change at the start of a chunk only: of its operations, `known` are products
    with these, which are made for all `chunk` steps together, and `spared` would keep them from step to step."""

    known: float
    spared: float
    chunk: int


@dataclass(frozen=True)
class Rows:
    """Rows that one step of a form of low rank writes and reads, for one place of the shared dims."""

    writes: int
    into: int  # of the writes, once for every state they go into
    probes: int  # rows that wait for what the states hold
    out_of: int  # sums over states that probes take, on every path between two states
    seen: int  # states that the read of one sees


def rows_of(form: LowRank, shape: Shape) -> Rows:
    ranks = [(w, shape.elements(w.rank)) for w in form.writes]
    seen = {a: sum(b == a for b, _ in form.paths) for a, _ in enumerate(form.states)}
    return Rows(
        sum(r for _, r in ranks),
        sum(r * sum(k is not None for k in w.keys) for w, r in ranks),
        sum(r for w, r in ranks if w.corrects),
        sum(r * sum(seen[a] for a, p in enumerate(w.probes) if p is not None) for w, r in ranks),
        max(seen.values()),
    )


class Steps:
    """The steps of a recurrence in core form, of which the work of every group is counted."""

    def __init__(self, rec: Recurrence, shape: Shape) -> None:
        self.rec, self.shape = rec, shape
        self.states = {s.name: s for s in rec.states}
        self.equations = {e.name: e for e in rec.equations}
        self.on_states = dependence(rec).on_states
        self._order = {name: i for i, name in enumerate(self.equations)}
        given = {i.name for i in rec.inputs} | self.states.keys()
        exprs = {e.name: e.expr for e in rec.equations}
        self.varying = given | depending(exprs, lambda n: isinstance(n, Step) or _reads(n, given))
        self._reads: dict[tuple[str, ...], dict[str, int]] = {}
        self._lifts: dict[tuple[str, ...], frozenset[str]] = {}
        self._flops: dict[tuple[str, ...], float] = {}
        self._readers: dict[str, set[str]] = {s: set() for s in self.states}  # states and outputs that read a state
        for name in {*self.states, *(o for o in rec.outputs if o in self.equations)}:
            for state in self.on_states[name]:
                self._readers[state].add(name)

    def work(self, group: Group) -> Work:
        """What one step of the group takes."""
        shape, members = self.shape, set(group.states)
        update, emit, outputs = self._parts(group)
        counter = _Counter(self.varying, _moving([*update, *emit], members), shape)
        exprs = [e.expr for e in (*update, *emit)]
        memory = group.low_rank is not None and bool(group.low_rank.columns)
        recurrent = [] if memory else [c for e in update for c in counter.recurrent(e.expr)]
        state = max((self.states[m].dims for m in group.states), key=shape.elements)
        row, apart = counter.row(exprs, state)
        whole = counter.count(exprs, row, set(map(id, recurrent)))
        fold = _Count()
        if group.monoid is not None:
            fold = counter.count(self._lifted(group), row, set())
            for node in (n for e in group.monoid.combine for n in walk(e)):
                fold.add(node_flops(node, shape), costly(node) and row not in _dims(node))
        outside = 0.0
        if group.low_rank is not None:
            inner = {*group.low_rank.rows, *group.low_rank.columns}
            outside = sum(node_flops(n, shape) for n in counter.nodes(exprs, set()) if not inner <= _dims(n))
        values = [self.states[o].dims if o in self.states else self.equations[o].expr.dims for o in outputs]
        written = sum(shape.elements(dims) for dims in values)
        read = sum(self._read(group).values())
        return Work(
            max(1, sum(shape.elements(self.states[m].dims) for m in group.states)),
            shape.elements((row,)) if row else 1,
            apart,
            float((read + written) * shape.itemsize),
            whole.flops,
            whole.single,
            whole.dense,
            fold.flops,
            fold.single,
            outside,
            sum(contract_flops(c, shape) for c in recurrent),
            float(read_elements(recurrent, {p.name for p in self.rec.params}, shape) * shape.itemsize),
            _chain(group, update, shape),
            counter.sums(exprs if memory else [e.expr for e in update]),
        )

    def beside(self, group: Group, work: Work, others: Sequence[Group]) -> Work:
        """The work of a group that walks over time with others before it, whose states and inputs are at hand."""
        read = self._read(group)
        known = {n for g in others for n in (*g.states, *self._read(g))}
        at_hand = sum(size for name, size in read.items() if name in known)
        levels: dict[tuple[str, ...], int] = {}
        for g in (*others, group):
            levels[g.states] = max((levels[o.states] + 1 for o in others if self._waits(g, o) and o != g), default=0)
        *earlier, mine = levels.values()
        again, bytes_again = 0.0, 0.0
        if mine > max(earlier):
            before = [g for g, level in zip(others, earlier, strict=True) if level < mine]
            again = sum(self._flops_of(g) for g in before)
            inputs = {n: s for g in before for n, s in self._read(g).items() if n not in self.states}
            bytes_again = float(sum(inputs.values()) * self.shape.itemsize)
        moved = work.bytes_per_step - at_hand * self.shape.itemsize
        return replace(work, bytes_per_step=moved, alone=False, again=again, bytes_again=bytes_again)

    def column(self, work: Work, group: Group) -> Work:
        """The work of a group by chunks beside another with the same keys, which has made all but its own values."""
        form = group.low_rank
        assert form is not None
        own = {r.name for w in form.writes if w.value is not None for r in reads(w.value)}
        taken = sum(size for name, size in self._read(group).items() if name in own)
        moved = (taken + self.shape.elements((*form.shared, *form.columns))) * self.shape.itemsize
        outside = work.outside if form.columns else 0.0  # what a vector takes in and gives is made with its matrix
        return replace(work, bytes_per_step=float(moved), outside=outside, alone=False)

    def _flops_of(self, group: Group) -> float:
        if group.states not in self._flops:
            self._flops[group.states] = self.work(group).flops
        return self._flops[group.states]

    def equations_of(self, group: Group) -> list[Equation]:
        """Those of its states and of the outputs that see it, up to other groups."""
        update, emit, _ = self._parts(group)
        return [*update, *emit]

    def _parts(self, group: Group) -> tuple[list[Equation], list[Equation], list[str]]:
        """The equations of the states, those of the outputs that see them, and these outputs."""
        members = set(group.states)
        update = self._needed(group.states, self.states.keys() - members)
        outputs = [o for o in self.rec.outputs if o in members or self._sees(o, members)]
        emit = [e for e in self._needed(outputs, self.states.keys()) if e not in update]
        return update, emit, outputs

    def _read(self, group: Group) -> dict[str, int]:
        """Elements of the inputs and of other groups' states that a step reads."""
        if group.states not in self._reads:
            self._reads[group.states] = self._found_reads(group)
        return self._reads[group.states]

    def _found_reads(self, group: Group) -> dict[str, int]:
        names = {i.name for i in self.rec.inputs} | (self.states.keys() - set(group.states))
        return elements_read((e.expr for e in self.equations_of(group)), names, self.shape)

    def _lifted(self, group: Group) -> list[Expr]:
        """What a step's element is computed by."""
        lift = () if group.monoid is None else group.monoid.lift
        return [*(e.expr for e in self._needed([r.name for e in lift for r in reads(e)], self.states.keys())), *lift]

    def _waits(self, group: Group, other: Group) -> bool:
        """Whether the elements of a scan need states of another."""
        if group.states not in self._lifts:
            self._lifts[group.states] = frozenset(r.name for e in self._lifted(group) for r in reads(e))
        return not self._lifts[group.states].isdisjoint(other.states)

    def frozen(self, group: Group) -> FrozenWork:
        """What the group spares that can run by chunks with frozen states."""
        found = chunks(Forms(self.rec, dependence(self.rec), frozenset(group.states)), group.states)
        assert isinstance(found, Chunks)
        held = {h for h, _ in found.held}
        others = self.states.keys() - set(group.states)
        outputs = [o for o in self.rec.outputs if self._sees(o, held)]
        steps = [e for e in self._needed([*group.states, *outputs], others) if e.name not in held]
        changing = _moving(steps, set(group.states) - held)
        counter = _Counter(self.varying, _moving(steps, held), self.shape)
        products = [
            n for e in steps for n in counter.recurrent(e.expr) if not any(r.name in changing for r in reads(n))
        ]
        every = found.clock.every
        chunk = self.shape.elements((every.dim,)) if isinstance(every, Size) else int(every.value.real)
        spared = sum(expr_flops(self.equations[h].expr, self.shape) for h in held)
        return FrozenWork(sum(contract_flops(n, self.shape) for n in products), spared, chunk)

    def wanted(self, group: Group) -> tuple[str, ...]:
        """What others read of a group: its outputs and what later groups and outputs read of it, as states or sums."""
        members = set(group.states)
        alone = len(members) == len(self.states)
        return (
            *(s for s in group.states if s in self.rec.outputs or not (alone or self._readers[s] <= members)),
            *(o for o in self.rec.outputs if self._sees(o, members)),
        )

    def _sees(self, output: str, members: Set[str]) -> bool:
        """Whether an output that is no state is made of some of `members`, and not only of what was made of them."""
        return output in self.equations and output not in self.states and bool(self.on_states[output] & members)

    def _needed(self, roots: Iterable[str], known: Set[str]) -> list[Equation]:
        """The equations of `roots` and those they read at the same step, in order; what is `known` is not looked
        into."""
        pending = [r for r in roots if r in self.equations]
        seen = set(pending)
        while pending:
            for read in reads(self.equations[pending.pop()].expr):
                if read.lag == 0 and read.name in self.equations and read.name not in seen and read.name not in known:
                    seen.add(read.name)
                    pending.append(read.name)
        return [self.equations[n] for n in sorted(seen, key=self._order.__getitem__)]


def _chain(group: Group, update: Iterable[Equation], shape: Shape) -> int:
    """Costly operations that wait for each other in a step: none where all coefficients are known before it."""
    if group.monoid is not None and group.cls != "OS":
        return 0
    solved = [n.args[0].dims[-1:] for e in update for n in walk(e.expr) if isinstance(n, Linalg) and n.op == "solve"]
    return max((function_depth(e.expr) for e in update), default=0) + sum(shape.elements(d) for d in solved)


@dataclass
class _Count:
    flops: float = 0.0
    single: float = 0.0
    dense: float = 0.0

    def add(self, flops: float, single: bool) -> None:
        self.flops += flops
        self.single += flops if single else 0.0


class _Counter:
    """Counts operations of a group's equations. `varying`: what may differ from step to step; `moving`: the group's
    states and what reads them."""

    def __init__(self, varying: Set[str], moving: set[str], shape: Shape) -> None:
        self.varying, self.moving, self.shape = varying, moving, shape

    def steady(self, expr: Expr) -> bool:
        """Whether a value is the same at every step."""
        return not any(isinstance(n, Step) or _reads(n, self.varying) for n in walk(expr))

    def free(self, expr: Expr) -> bool:
        return not any(_reads(n, self.moving) for n in walk(expr))

    def recurrent(self, expr: Expr) -> list[Contract]:
        """Contractions of a value that a state of the group reaches: they stay in the loop."""
        return [n for n in walk(expr) if isinstance(n, Contract) and not self.free(n)]

    def sums(self, exprs: Iterable[Expr]) -> int:
        """How many sums there are over values that a state of the group reaches."""
        return len({id(n) for e in exprs for n in walk(e) if isinstance(n, Contract | Reduce) and not self.free(n)})

    def row(self, exprs: Iterable[Expr], state: tuple[str, ...]) -> tuple[str | None, bool]:
        """The dim of a state that SIMD runs along, and whether its positions never meet. None: there is none."""
        meet = {d for e in exprs for n in walk(e) if not self._leaves(n) for d in crossed(n, self.steady)}
        wide = [d for d in state if self.shape.elements((d,)) > 1]
        apart = [d for d in wide if d not in meet]
        return (apart[-1], True) if apart else (wide[-1] if wide else None, False)

    def _leaves(self, node: Expr) -> bool:
        """Whether a node is a product with params that leaves the loop."""
        if not isinstance(node, Contract) or set(node.left_axes) & set(node.right_axes) & set(node.out_axes):
            return False
        return (self.steady(node.left) or self.steady(node.right)) and self.free(node)

    def nodes(self, exprs: Iterable[Expr], without: set[int]) -> Iterable[Expr]:
        """The nodes that stay in the loop, but those in `without`."""
        pending = list(exprs)
        while pending:
            node = pending.pop()
            if self.steady(node):
                continue
            if id(node) not in without and not self._leaves(node):
                yield node
            pending.extend(children(node))

    def count(self, exprs: Iterable[Expr], row: str | None, without: set[int]) -> _Count:
        found = _Count()
        for node in self.nodes(exprs, without):
            flops = node_flops(node, self.shape)
            found.add(flops, costly(node) and row not in _dims(node))
            found.dense += flops if isinstance(node, Linalg) else 0.0
        return found


def _dims(node: Expr) -> set[str]:
    """The dims that the operations of a node run over."""
    match node:
        case Reduce(arg=arg):
            return set(arg.dims)
        case Contract(left=left, right=right):
            return {*left.dims, *right.dims}
        case _:
            return set(node.dims)


def _reads(node: Expr, names: Iterable[str]) -> bool:
    return isinstance(node, Read) and node.name in names


def _moving(equations: Iterable[Equation], members: set[str]) -> set[str]:
    """The group's states and the equations that read them, directly or through others."""
    moving = set(members)
    for equation in equations:
        if any(r.name in moving for r in reads(equation.expr)):
            moving.add(equation.name)
    return moving


__all__ = ["FrozenWork", "Rows", "Steps", "Work", "rows_of"]
