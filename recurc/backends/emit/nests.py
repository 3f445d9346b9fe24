"""From statements to loop nests: which statements share a loop, and what must be kept between them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from recurc.backends.emit.nodes import Fold, Matrix, Stmt, Var, free_vars, loads


@dataclass
class Nest:
    """Statements under the same loops. A fold over variables of the nest accumulates across it (`accumulated`);
    any other fold has a loop of its own inside. A matrix operation has a nest for itself."""

    vars: tuple[Var, ...]
    stmts: list[Stmt] = field(default_factory=list[Stmt])
    inlinable: frozenset[str] = frozenset()  # values read in this nest only, and not stored

    def accumulated(self, stmt: Stmt) -> bool:
        return isinstance(stmt.value, Fold) and bool(set(stmt.value.over) & set(self.vars))


def build_nests(stmts: Sequence[Stmt], outer: Collection[Var] = ()) -> list[Nest]:
    """Group statements into nests, in order. Variables in `outer` are iterated outside of the step.

    A statement joins a nest if it runs over the same variables and what it reads from the nest, it reads at its own
    place; a fold joins the nest that makes what it folds."""
    nests: list[Nest] = []
    made: dict[str, tuple[int, Stmt]] = {}
    closed: set[int] = set()
    for stmt in stmts:
        own = frozenset(v for v in stmt.loops if v not in outer)
        fold = stmt.value if isinstance(stmt.value, Fold) else None
        earliest, inside = 0, list[tuple[int, bool]]()
        for load in loads(stmt.value):
            if load.lag or load.name not in made:
                continue
            place, producer = made[load.name]
            shareable = load.index == producer.index and place not in closed
            shareable = shareable and not nests[place].accumulated(producer)
            inside.append((place, shareable))
            earliest = max(earliest, place)
        blocked = {place for place, shareable in inside if not shareable}
        choice: int | None = None
        if isinstance(stmt.value, Matrix):
            earliest = len(nests)
            closed.add(earliest)
        for place in range(len(nests) - 1, earliest - 1, -1):
            have = frozenset(nests[place].vars)
            if place in blocked or place in closed:
                continue
            if fold is not None and not own and have == frozenset(fold.over) and any(p == place for p, _ in inside):
                choice = place
                break
            reads_inner = (
                fold is not None
                and any(p == place for p, _ in inside)
                and not _at_own_place(stmt, nests[place], made, place)
            )
            if have == own and not reads_inner:
                choice = place
                break
        if choice is None:
            nests.append(Nest(tuple(v for v in stmt.loops if v not in outer)))
            choice = len(nests) - 1
        nests[choice].stmts.append(stmt)
        made[stmt.name] = (choice, stmt)
    for nest in nests:
        nest.stmts = _folds_first(nest)
    return nests


def _at_own_place(stmt: Stmt, nest: Nest, made: dict[str, tuple[int, Stmt]], place: int) -> bool:
    """Whether every value a fold reads from the nest is read at the nest's place, not along the folded variables."""
    assert isinstance(stmt.value, Fold)
    over = set(stmt.value.over)
    return not any(
        made[load.name][0] == place and over & free_vars(load)
        for load in loads(stmt.value)
        if not load.lag and load.name in made
    )


def _folds_first(nest: Nest) -> list[Stmt]:
    """Inner folds that read nothing of this nest come first, so that those over one variable share a loop."""
    names = {s.name for s in nest.stmts}

    def early(stmt: Stmt) -> bool:
        own_values = any(not load.lag and load.name in names for load in loads(stmt.value))
        return isinstance(stmt.value, Fold) and not nest.accumulated(stmt) and not own_values

    return [s for s in nest.stmts if early(s)] + [s for s in nest.stmts if not early(s)]
