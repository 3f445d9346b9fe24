"""Matrix states under products of matrices: is an update a decay plus writes of low rank, and is the state only read
through sums over its rows? Several states of equal shape that feed each other are taken together.

The rows are the dims that the sums go over; the choices that the equations suggest are tried in turn. Names in between
are looked through (`low_rank_values`), so `error = v - k @ S[t-1]` and `S = S[t-1] + outer(k, error)` are the same as
one formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations

from recurc.build import broadcast
from recurc.errors import CompilerBug
from recurc.facts import Analysis, Group, LowRank, Reason, Write
from recurc.ir import (
    Apply,
    Broadcast,
    Contract,
    Equation,
    Expr,
    Final,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    children,
    late_equations,
    reads,
    walk,
    with_children,
)
from recurc.ops import apply, convert
from recurc.passes.affine import is_number, one, sum_over, zero
from recurc.passes.low_rank_values import MOST_WRITES, Matrix, Other, Row, Term, Values, moving, reaches
from recurc.passes.monoid import restricted
from recurc.passes.terms import fresh, too_large
from recurc.passes.verify import used_names
from recurc.source import Span
from recurc.types import Dims, DType, Kind

_MOST_CHOICES = 12  # choices of rows that are tried
_AFFINE = ("EA", "SR1", "DR1", "GH", "DA")
_COUPLED = ("BA", "CA")  # of several real states; those of CA are the two parts of complex numbers
_MOST_STATES = 4  # each pair of them has its own products of factors


@dataclass(frozen=True)
class Restated:
    """A recurrence that says the same with every operand of the form and every sum over the state named.

    `form` reads names only (a factor may be the number 1), and so do `updates`, which say the same. `reads` are the
    equations `name = query . S` or `query . S[t-1]`, contractions of a name and a state. `others` are
    expressions beside the equations, in the same names."""

    rec: Recurrence
    form: LowRank
    updates: tuple[Expr, ...]
    reads: tuple[str, ...]
    operands: tuple[str, ...]
    others: tuple[Expr, ...]


def with_products(rec: Recurrence, analysis: Analysis) -> Analysis:
    """`analysis` with the chunkwise schedule for affine groups whose state is a matrix under products of matrices, and
    the reason why not for matrix states of a class that has it. `rec` is in core form."""
    states, spans = {s.name: s for s in rec.states}, {e.name: e.span or e.expr.span for e in rec.equations}

    def weighed(group: Group) -> Group:
        name = group.states[0]
        if group.cls == "OS":
            return _taken_apart(rec, group)
        alone = len(group.states) == 1
        if len(states[name].dims) < 2 or group.cls not in (_AFFINE if alone else _COUPLED):
            return group
        form = low_rank(rec, group.states)
        if isinstance(form, LowRank):
            schedules = (*group.schedules, "chunkwise")
            reason = Reason(_in_words(form), spans[name])
            return replace(group, schedules=schedules, reasons=(*group.reasons, reason), low_rank=form)
        if group.cls in ("SR1", "DR1", "GH", "BA"):
            return replace(group, reasons=(*group.reasons, Reason(f"not chunkwise: {form.text}", form.span)))
        return group

    groups = tuple(weighed(g) for g in analysis.groups)
    matrices = [g.low_rank for g in groups if g.low_rank is not None]

    def beside(group: Group) -> Group:
        state, *more = group.states
        if group.cls != "EA" or more or group.low_rank is not None:
            return group
        form = _first_column(rec, state, matrices)
        if form is None:
            return group
        reason = Reason(_in_words(form), spans[state])
        schedules = (*group.schedules, "chunkwise")
        return replace(group, schedules=schedules, reasons=(*group.reasons, reason), low_rank=form)

    return replace(analysis, groups=tuple(beside(g) for g in groups))


def _in_words(form: LowRank, after: str = "") -> str:
    if not form.columns:
        (state,), over = form.states, ", ".join(form.rows)
        behind = f"after {after}, " if after else ""
        text = f"{state} has the keys and the decay of a matrix and is read along {over} only"
        return f"{text}: {behind}chunks of steps take it as one more column"
    rows, columns, who = (", ".join(d) for d in (form.rows, form.columns, form.states))
    many = len(form.writes)
    writes = "one outer product" if many == 1 else f"{many} outer products"
    rank = tuple(dict.fromkeys(d for w in form.writes for d in w.rank))
    per_place = f" for every place along {', '.join(rank)}" if rank else ""
    takes, is_ = ("takes", "is") if len(form.states) == 1 else ("take", "are")
    text = f"{who} {takes} {writes} of {rows} and {columns} per step{per_place} and {is_} read along {rows} only"
    size = len(form.states)
    between = f", weighed by products of the {size} by {size} factors of the steps in between" if size > 1 else ""
    behind = f"after {after}, " if after else ""
    return f"{text}: {behind}chunks of steps are matrix products{between}"


def _taken_apart(rec: Recurrence, group: Group) -> Group:
    """A group of class OS with the chunkwise schedule, if one of its sums is a matrix under products of matrices.

    The running maximum depends on no sum, and given it every sum is affine, with a decay and a weight of at most 1. So
    the maximum and the sums that are no such matrices go first, with the operator they have together; decays and keys
    of the matrices are then known (B.10; Beck et al. 2024, the chunkwise form of mLSTM)."""
    assert group.monoid is not None
    states, spans = {s.name: s for s in rec.states}, {e.name: e.span or e.expr.span for e in rec.equations}
    top, *sums = group.states
    found = {s: low_rank(rec, (s,)) for s in sums}
    forms = [f for f in found.values() if isinstance(f, LowRank)]
    vectors = [_first_column(rec, s, forms) for s in sums if not isinstance(found[s], LowRank)]
    forms += [f for f in vectors if f is not None]
    if not forms:
        whole = {n: r for n, r in found.items() if len(set(states[n].dims) - set(states[top].dims)) > 1}
        refused = [Reason(f"{n} is not chunkwise: {r.text}", r.span) for n, r in whole.items() if isinstance(r, Reason)]
        return replace(group, reasons=(*group.reasons, *refused))
    chunked = {s for f in forms for s in f.states}
    first = tuple(s for s in group.states if s not in chunked)
    cls = "OS" if len(first) > 1 else "SL"
    rest = Group(first, cls, ("sequential", "scan"), monoid=restricted(replace(group.monoid, cls=cls), first))
    matrices = (Group(f.states, _class_of(f), ("chunkwise",), low_rank=f) for f in forms)
    after = " and ".join(first)
    reasons = (Reason(f"given {top}, {_in_words(f, after)}", spans[f.states[0]]) for f in forms)
    return replace(
        group, schedules=(*group.schedules, "chunkwise"), reasons=(*group.reasons, *reasons), parts=(rest, *matrices)
    )


def _class_of(form: LowRank) -> str:
    if not form.columns:
        return "EA"
    return "SR1" if form.decay_along == "none" else "DR1"


def _first_column(rec: Recurrence, state: str, matrices: Sequence[LowRank]) -> LowRank | None:
    found = (column(rec, state, m) for m in matrices if m.columns)
    return next((f for f in found if isinstance(f, LowRank)), None)


def column(rec: Recurrence, state: str, like: LowRank) -> LowRank | Reason:
    """The form of a vector that is written with the keys of `like`, times values that its rows do not tell apart, and
    decays by the factor of `like`; or why it has none. `rec` is in core form."""
    states, who = {s.name: s for s in rec.states}, ", ".join(like.states)
    found, other = states[state], states[like.states[0]]
    inside = tuple(tuple(d for d in found.dims if d in part) for part in (like.shared, like.rows))
    if inside != (like.shared, like.rows) or len(found.dims) != len({*like.shared, *like.rows}):
        return Reason(f"{state} has not the rows of {who}")
    if found.dtype is not other.dtype or like.ranked or like.corrects or len(like.states) > 1:
        return Reason(f"{who} is of another type, or takes other writes than keys times values")
    return _Reader(rec, (state,), like.rows, ()).column(like)


def low_rank(rec: Recurrence, group: tuple[str, ...]) -> LowRank | Reason:
    """The form of the updates of the states `group`, which feed each other, or the first reason why they have none.
    `rec` is in core form."""
    state, states = ", ".join(group), {s.name: s for s in rec.states}
    found = states[group[0]]
    if any((states[s].dims, states[s].dtype) != (found.dims, found.dtype) for s in group):
        return Reason(f"{state} differ in shape or type")
    if len(group) > _MOST_STATES:
        return Reason(f"{len(group)} states feed each other")
    if found.dtype.kind is not Kind.REAL or found.dtype in (DType.F16, DType.BF16):
        return Reason(f"{state} is {found.dtype.value}; products of matrices take reals of full precision")
    if len(found.dims) < 2 or len(set(found.dims)) < len(found.dims):
        return Reason(f"{state} is no matrix with two different dims")
    if any(too_large(e.expr) for e in rec.equations):
        return Reason("an equation is too large to take apart")
    refused: list[tuple[int, Reason]] = []
    for rows in _choices(rec, group, found.dims):
        result = _Reader(rec, group, rows).form()
        if isinstance(result, LowRank) and not result.writes:
            return Reason(f"nothing is written to {state}, so there are no products to make")
        if isinstance(result, LowRank):
            known = _Reader(rec, group, rows, result.columns).form()  # now keys need not be taken apart further
            return known if isinstance(known, LowRank) and known.columns == result.columns else result
        refused.append((len(rows), result))
    return min(refused, key=lambda r: r[0])[1]  # what speaks against the simplest choice


def restated(rec: Recurrence, form: LowRank, others: Sequence[Expr] = ()) -> Restated:
    """`rec` (in core form, of which `form` was found) with names for all that a chunk of steps needs. `others`: what
    else is made of its values, such as elements of a scan."""
    try:
        return _Reader(rec, form.states, form.rows, form.columns).restated(form, others)
    except _Whole as whole:
        raise CompilerBug(f"{', '.join(form.states)} is chunkwise, but not everywhere: {whole.reason}") from whole


def _choices(rec: Recurrence, group: tuple[str, ...], dims: Dims) -> list[Dims]:
    """What may be rows: the dims that sums go over, unions of those first (a sum may be taken in two steps)."""
    through = moving(rec, group)
    single: dict[frozenset[str], None] = {}
    for equation in rec.equations:
        for node in walk(equation.expr):
            over: set[str] = set()
            match node:
                case Reduce(arg=arg) if reaches(arg, group, through):
                    over = set(node.over)
                case Contract() if reaches(node, group, through):
                    names = dict(zip(node.left_axes, node.left.dims, strict=True))
                    over = {d for k, d in names.items() if k not in node.out_axes}
                case _:
                    pass
            if over & set(dims):
                single[frozenset(over & set(dims))] = None
    unions = {a | b: None for a, b in combinations(single, 2)}
    proper = [c for c in {**unions, **single} if len(c) < len(dims)]
    found = [tuple(d for d in dims if d in c) for c in dict.fromkeys(proper)]
    return found[:_MOST_CHOICES] or [dims[-2:-1]]


class _Whole(Exception):
    """The state is needed as it is, at every step."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


class _Reader(Values):
    """What the updates of the states and their readers come to."""

    def __init__(self, rec: Recurrence, members: tuple[str, ...], rows: Dims, columns: Dims | None = None) -> None:
        super().__init__(rec, members, rows, columns)
        self.taken, self.late = used_names(rec), late_equations(rec)
        self.queries: dict[tuple[Expr, str, int], str] = {}  # reads, by what they sum: the query, the state and its lag
        self.made: dict[str, Expr] = {}  # new equations

    # --- what the analysis asks -------------------------------------------------------------------------------------

    def form(self) -> LowRank | Reason:
        updates: list[Matrix] = []
        for state in self.members:
            update, span = self.update(state), self.equations[state].span
            if isinstance(update, Other):
                return Reason(update.text, update.span or span)
            if not isinstance(update, Matrix) or update.left != self.rows or update.lag != 1:
                return Reason(f"the update of {state} is no decay of {self.old} plus writes", span)
            updates.append(update)
        span = self.equations[self.members[0]].span
        writes = self._joined(updates)
        if len(writes) > MOST_WRITES:
            return Reason(f"{self.who} takes {len(writes)} writes per step", span)
        try:
            self._read_everywhere()
        except _Whole as whole:
            return whole.reason
        factors = [tuple(None if f is None else convert(f, self.dtype) for f in u.factors) for u in updates]
        if factors == [(None,)]:
            factors = [(zero(self.dtype),)]
        return self._with_dims(tuple(factors), writes, span)

    def column(self, like: LowRank) -> LowRank | Reason:
        """The form of a vector with the keys and the factor of `like`."""
        (state,), who = self.members, ", ".join(like.states)
        update, span = self.update(state), self.equations[state].span
        if not isinstance(update, Matrix) or update.left != self.rows or update.lag != 1:
            return Reason(f"the update of {state} is no decay of {self.old} plus writes", span)
        factor = zero(self.dtype) if update.factors[0] is None else convert(update.factors[0], self.dtype)
        if not self._same(factor, like.factors[0][0] or zero(self.dtype)):
            return Reason(f"{state} does not decay as {who} does", span)
        left, writes = list(update.writes), list[Write]()
        for write in like.writes:
            found = ((term, self._over_key(term, write.keys[0])) for term in left)
            term, value = next(((t, v) for t, v in found if v is not None), (None, None))
            if term is None or value is None:
                return Reason(f"{state} is not written with the keys of {who}", span)
            left.remove(term)
            writes.append(replace(write, value=convert(value, self.dtype)))
        if left:
            return Reason(f"{state} takes more writes than {who}", span)
        try:
            self._read_everywhere()
        except _Whole as whole:
            return whole.reason
        if any(not set(query.dims) <= set(self.dims) for query, _, _ in self.queries):
            return Reason(f"{state} is read by several rows in one step", span)
        return replace(like, states=(state,), columns=(), writes=tuple(writes))

    def _over_key(self, term: Term, key: Expr | None) -> Expr | None:
        """The value that a write has beside `key`, if it is the product of the two and the rows share the value."""
        if key is None or any(p is not None for p in term.probes) or term.rank or term.value is None:
            return None
        value = self._over(convert(term.key, self.dtype), key)
        if value is None or set(term.value.dims) & set(self.rows):
            return None
        return (
            value
            if is_number(term.value, 1)
            else term.value
            if is_number(value, 1)
            else apply("mul", value, term.value)
        )

    def _over(self, expr: Expr, key: Expr) -> Expr | None:
        """`expr` without the factor `key`, if it has that and its other factors lie aside of the rows."""
        if self._same(expr, key):
            return one(self.dtype)
        match expr:
            case Apply(op="mul", args=(a, b)):
                for part, other in ((a, b), (b, a)):
                    rest = None if set(other.dims) & set(self.rows) else self._over(part, key)
                    if rest is not None:
                        return other if is_number(rest, 1) else apply("mul", rest, other)
            case Apply(op="div", args=(a, b)) if not set(b.dims) & set(self.rows):
                rest = self._over(a, key)
                return None if rest is None else apply("div", rest, b)
            case Apply(op="neg", args=(a,)):
                rest = self._over(a, key)
                return None if rest is None else apply("neg", rest)
            case Read(name=name, lag=0) if name in self.equations and name not in self.states:
                return self._over(self.equations[name].expr, key)
            case _:
                pass
        return None

    def _same(self, a: Expr, b: Expr) -> bool:
        """Whether two values are the same by their names or by what one of the names stands for."""
        a, b = (e.arg if isinstance(e, Broadcast) else e for e in (a, b))
        return a == b or self._meant(a) == b or a == self._meant(b)

    def _meant(self, expr: Expr) -> Expr:
        if not isinstance(expr, Read) or expr.lag or expr.name in self.states or expr.name not in self.equations:
            return expr
        found = self.equations[expr.name].expr
        return found.arg if isinstance(found, Broadcast) else found

    def _joined(self, updates: list[Matrix]) -> tuple[Write, ...]:
        """The writes of all states; equal rows that go into different ones are one write."""
        found: list[Write] = []
        for place, update in enumerate(updates):
            for term in update.writes:
                key = tuple(convert(term.key, self.dtype) if n == place else None for n, _ in enumerate(updates))
                probes = tuple(None if p is None else convert(p, self.dtype) for p in term.probes)
                new = Write(key, probes, None if term.value is None else convert(term.value, self.dtype), term.rank)
                for n, old in enumerate(found):
                    if old.keys[place] is None and replace(new, keys=old.keys) == old:
                        keys = tuple(b if a is None else a for a, b in zip(old.keys, key, strict=True))
                        found[n] = replace(old, keys=keys)
                        break
                else:
                    found.append(new)
        return tuple(found)

    def _with_dims(
        self, factors: tuple[tuple[Expr | None, ...], ...], writes: tuple[Write, ...], span: Span | None
    ) -> LowRank | Reason:
        """Which dims are shared: those on the side of the rows. The rest are columns."""
        rows, dims = set(self.rows), set(self.dims)
        decays = [f for row in factors for f in row if f is not None]
        keyed = [(set(e.dims), set(w.rank)) for w in writes for e in (*w.keys, *w.probes) if e is not None]
        keyed += [(set(q.dims), set(q.dims) - dims) for q, _, _ in self.queries]
        valued = [(set(w.value.dims), set(w.rank)) for w in writes if w.value is not None]
        along, aside = [d - rank for d, rank in keyed], [d - rank for d, rank in valued]
        outside = [set(e.dims) for e in decays]
        if not all(d <= dims for d in (*along, *aside, *outside)) or any(d & rows for d in aside):
            return Reason(f"{self.who} meets values along dims that it does not have", span)
        inside = [d for d in outside if d & rows]
        along += inside
        shared = {d for e in along for d in e} - rows
        more = {d for e in outside for d in e} - rows - shared
        if any(w.corrects for w in writes) or (dims - rows - shared) > more:
            shared |= more
        columns = tuple(d for d in self.dims if d not in rows | shared)
        if not columns:
            over = ", ".join(self.rows)
            return Reason(f"beside {over}, no dim of {self.who} is free of the vectors it is read and written by", span)
        form = LowRank(self.members, tuple(d for d in self.dims if d in shared), self.rows, columns, factors, writes)
        if len(self.members) > 1 and form.decay_along != "none":
            place = ", ".join(form.rows if form.decay_along == "rows" else form.columns)
            return Reason(
                f"{self.who} feed each other by factors that differ along {place}, not by plain numbers", span
            )
        return form

    # --- who reads the state ------------------------------------------------------------------------------------------

    def _read_everywhere(self) -> dict[str, Expr]:
        """The equations behind outputs and other states, with reads of the states by name. Raises `_Whole`."""
        for state in self.members:
            if state in self.rec.outputs:
                raise _Whole(Reason(f"{state} is an output, so every step needs all of it", self._span(state)))
        found: dict[str, Expr] = {}
        pending = [o for o in self.rec.outputs if o in self.equations]
        pending += [s for s in self.states if s not in self.members]
        while pending:
            name = pending.pop()
            if name in found or name in self.members:
                continue
            found[name] = self._read(self.equations[name].expr, name)
            pending += [r.name for r in reads(found[name]) if r.name in self.equations]
        return found

    def _read(self, expr: Expr, owner: str | None) -> Expr:
        """`expr` with every sum over rows of a state replaced by a name (`owner`, if it is all there is)."""
        if isinstance(expr, Final) or not reaches(expr, self.members, self.moving):
            return expr
        value = self.value(expr)
        if isinstance(value, Matrix):
            raise _Whole(Reason(f"{self.who} is needed whole at every step", expr.span or self._span(owner)))
        if isinstance(expr, Read):
            return expr  # an equation that is rewritten itself
        if isinstance(value, Row) and any(isinstance(self.value(c), Matrix) for c in children(expr)):
            return self._named_read(value, expr, owner)
        return with_children(expr, tuple(self._read(c, None) for c in children(expr)))

    def _named_read(self, row: Row, expr: Expr, owner: str | None) -> Expr:
        whole = tuple(d for d in self.dims if d not in self.rows)
        found = [(m, convert(p, self.dtype)) for m, p in zip(self.members, row.probes, strict=True) if p is not None]
        if not found:
            raise _Whole(Reason(f"{self.who} is read as what it does not hold", expr.span))
        if any(
            isinstance(n, Final) or (isinstance(n, Read) and n.name in self.late) for _, q in found for n in walk(q)
        ):
            raise _Whole(Reason(f"{self.who} is read by what is known after the last step only", expr.span))
        read: Expr | None = None
        for member, query in found:
            dims = (*(d for d in query.dims if d not in self.dims), *whole)
            key = (query, member, row.lag)
            if key not in self.queries:
                alone = len(found) == 1 and row.value is None and expr.dims == dims and expr.dtype is self.dtype
                name = owner if owner and alone and owner not in self.states else self._fresh(f"{member}_read")
                self.queries[key] = name
            part = Read(self.queries[key], 0, dims, self.dtype, expr.span)
            read = part if read is None else apply("add", read, part, span=expr.span)
        assert read is not None
        if row.value is not None:
            read = apply("add", read, row.value, span=expr.span)
        if read.dims != expr.dims:
            if set(read.dims) != set(expr.dims):
                raise _Whole(Reason(f"{self.who} is read into dims that it does not have", expr.span))
            axes = tuple(read.dims.index(d) for d in expr.dims)
            read = Reaxis(read, axes, expr.dims, read.dtype, span=expr.span)
        return convert(read, expr.dtype)

    def _span(self, name: str | None) -> Span | None:
        return self.equations[name].span if name in self.equations else None

    # --- the recurrence with names ------------------------------------------------------------------------------------

    def restated(self, form: LowRank, others: Sequence[Expr]) -> Restated:
        found = self._read_everywhere()
        renamed = tuple(self._read(e, None) for e in others)
        along = {"none": (), "rows": form.rows, "columns": form.columns}[form.decay_along]

        def named(expr: Expr | None, role: str, dims: Dims) -> Expr | None:
            return None if expr is None else self._operand(expr, role, dims)

        writes = tuple(
            Write(
                tuple(named(k, "key", (*w.rank, *form.rows)) for k in w.keys),
                tuple(named(p, "probe", (*w.rank, *form.rows)) for p in w.probes),
                w.value
                if w.value is not None and is_number(w.value, 1) and not form.columns
                else named(w.value, "value", (*w.rank, *form.columns)),
                w.rank,
            )
            for w in form.writes
        )
        role = "decay" if len(form.states) == 1 else "factor"
        factors = tuple(
            tuple(f if f is None or is_number(f, 1) else self._operand(f, role, along) for f in row)
            for row in form.factors
        )
        queries: list[Expr] = []
        for (query, member, lag), name in self.queries.items():
            queries.append(self._operand(query, "query", form.rows))
            found[name] = self._sum(queries[-1], Read(member, lag, self.dims, self.dtype), form)
        new = replace(form, factors=factors, writes=writes)
        updates = tuple(self._updated(new, place) for place, _ in enumerate(form.states))
        taken_in = [*new.decays.values(), *(e for w in writes for e in (*w.keys, *w.probes, w.value)), *queries]
        operands = tuple(dict.fromkeys(r.name for e in taken_in if e is not None for r in reads(e)))
        rec = self._rebuilt(found, dict(zip(form.states, updates, strict=True)))
        return Restated(rec, new, updates, tuple(self.queries.values()), operands, renamed)

    def _updated(self, form: LowRank, place: int) -> Expr:
        """What `form` says of the new value of one state."""
        state = self.states[form.states[place]]
        old = [Read(s, 1, self.dims, self.dtype) for s in form.states]
        terms: list[Expr] = []
        for factor, value in zip(form.factors[place], old, strict=True):
            if factor is not None:
                terms.append(value if is_number(factor, 1) else apply("mul", factor, value))
        for write in form.writes:
            key = write.keys[place]
            if key is None:
                continue
            parts: list[Expr] = [
                self._sum(p, value, form) for p, value in zip(write.probes, old, strict=True) if p is not None
            ]
            parts += [] if write.value is None else [write.value]
            row = reduce(lambda a, b: apply("add", a, b), parts)
            product = key if is_number(row, 1) else apply("mul", key, row)
            terms.append(sum_over(product, write.rank))
        update = reduce(lambda a, b: apply("add", a, b), terms)
        if update.dims != state.dims:
            axes = tuple(update.dims.index(d) for d in state.dims)
            update = Reaxis(update, axes, state.dims, update.dtype)
        return update

    def _rebuilt(self, found: dict[str, Expr], updates: dict[str, Expr]) -> Recurrence:
        """The equations in an order in which each reads only earlier ones."""
        from recurc.passes.dependence import topological

        free = {e.name: e.expr for e in self.rec.equations if e.name not in self.moving and e.name not in self.states}
        everything = free | self.made | found | updates
        spans = {e.name: e.span for e in self.rec.equations}
        order = [e.name for e in self.rec.equations if e.name in everything]
        order = [*(n for n in everything if n not in spans), *order]
        equations = (Equation(n, everything[n], spans.get(n) or everything[n].span) for n in order)
        return replace(self.rec, equations=topological(equations))

    def _operand(self, expr: Expr, role: str, along: Dims) -> Expr:
        """`expr` as a name, with all the dims `along`."""
        missing = tuple(d for d in along if d not in expr.dims)
        full = broadcast(expr, expr.dims + missing) if missing else expr
        if isinstance(full, Read) and not full.lag and full.name not in self.moving:
            return full
        known = ((n, e.expr) for n, e in self.equations.items() if n not in self.moving and n not in self.states)
        name = next((n for n, e in (*self.made.items(), *known) if e == full), None)
        if name is None:
            name = self._fresh(f"{self.members[0]}_{role}")
            self.made[name] = full
        return Read(name, 0, full.dims, full.dtype, full.span)

    def _sum(self, operand: Expr, state: Read, form: LowRank) -> Contract:
        """`operand . state`: a contraction over the rows, the shared dims side by side."""
        more = tuple(d for d in operand.dims if d not in state.dims)
        axes = {d: i for i, d in enumerate((*state.dims, *more))}
        kept = (*more, *(d for d in state.dims if d not in form.rows))
        return Contract(
            operand, state, tuple(axes[d] for d in operand.dims), tuple(axes[d] for d in state.dims),
            tuple(axes[d] for d in kept), kept, self.dtype, operand.span,
        )  # fmt: skip

    def _fresh(self, hint: str) -> str:
        name = fresh(hint, self.taken)
        self.taken.add(name)
        return name
