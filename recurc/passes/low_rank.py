"""Matrix states under products of matrices: is an update a decay plus writes of low rank, and is the state only read
through sums over its rows?

The rows are the dims that the sums go over; the choices that the equations suggest are tried in turn. Names in between
are looked through (`low_rank_values`), so `error = v - k @ S[t-1]` and `S = S[t-1] + outer(k, error)` are the same as
one formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from recurc.build import broadcast
from recurc.errors import CompilerBug
from recurc.facts import Analysis, Group, LowRank, Reason, Write
from recurc.ir import (
    Contract,
    Equation,
    Expr,
    Final,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    children,
    reads,
    walk,
    with_children,
)
from recurc.ops import apply, convert
from recurc.passes.affine import is_number, shown, zero
from recurc.passes.low_rank_values import MOST_WRITES, Free, Matrix, Other, Row, Values, moving, reaches, spread
from recurc.passes.monoid import restricted
from recurc.passes.terms import fresh, too_large
from recurc.passes.verify import used_names
from recurc.source import Span
from recurc.types import Dims, DType, Kind

_MOST_CHOICES = 12  # choices of rows that are tried
_AFFINE = ("EA", "SR1", "DR1", "GH", "DA")


@dataclass(frozen=True)
class Restated:
    """A recurrence that says the same with every operand of the form and every sum over the state named.

    `form` reads names only (its decay may be the number 1), and so does `update`, which says the same. `reads` are the
    equations `name = query . S` or `query . S[t-1]`, contractions of a name and the state. `others` are expressions
    beside the equations, in the same names."""

    rec: Recurrence
    form: LowRank
    update: Expr
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
        if len(group.states) > 1 or len(states[name].dims) < 2 or group.cls not in _AFFINE:
            return group
        form = low_rank(rec, name)
        if isinstance(form, LowRank):
            reason = Reason(f"{_in_words(form)}: chunks of steps are matrix products", spans[name])
            schedules = (*group.schedules, "chunkwise")
            return replace(group, schedules=schedules, reasons=(*group.reasons, reason), low_rank=form)
        if group.cls in ("SR1", "DR1", "GH"):
            return replace(group, reasons=(*group.reasons, Reason(f"not chunkwise: {form.text}", form.span)))
        return group

    return replace(analysis, groups=tuple(weighed(g) for g in analysis.groups))


def _in_words(form: LowRank) -> str:
    rows, columns = (", ".join(d) for d in (form.rows, form.columns))
    many = len(form.writes)
    writes = "one outer product" if many == 1 else f"{many} outer products"
    return f"{form.state} takes {writes} of {rows} and {columns} per step and is read along {rows} only"


def _taken_apart(rec: Recurrence, group: Group) -> Group:
    """A group of class OS with the chunkwise schedule, if one of its sums is a matrix under products of matrices.

    The running maximum depends on no sum, and given it every sum is affine, with a decay and a weight of at most 1. So
    the maximum and the sums that are no such matrices go first, with the operator they have together; decays and keys
    of the matrices are then known (B.10; Beck et al. 2024, the chunkwise form of mLSTM)."""
    assert group.monoid is not None
    states, spans = {s.name: s for s in rec.states}, {e.name: e.span or e.expr.span for e in rec.equations}
    top, *sums = group.states
    found = {s: low_rank(rec, s) for s in sums}
    forms = [f for f in found.values() if isinstance(f, LowRank)]
    if not forms:
        whole = {n: r for n, r in found.items() if len(set(states[n].dims) - set(states[top].dims)) > 1}
        refused = [Reason(f"{n} is not chunkwise: {r.text}", r.span) for n, r in whole.items() if isinstance(r, Reason)]
        return replace(group, reasons=(*group.reasons, *refused))
    chunked = {f.state for f in forms}
    first = tuple(s for s in group.states if s not in chunked)
    cls = "OS" if len(first) > 1 else "SL"
    rest = Group(first, cls, ("sequential", "scan"), monoid=restricted(replace(group.monoid, cls=cls), first))
    matrices = (
        Group((f.state,), "SR1" if f.decay_along == "none" else "DR1", ("chunkwise",), low_rank=f) for f in forms
    )
    after = " and ".join(first)
    reasons = (
        Reason(f"given {top}, {_in_words(f)}: after {after}, chunks of steps are matrix products", spans[f.state])
        for f in forms
    )
    return replace(
        group, schedules=(*group.schedules, "chunkwise"), reasons=(*group.reasons, *reasons), parts=(rest, *matrices)
    )


def low_rank(rec: Recurrence, state: str) -> LowRank | Reason:
    """The form of the update of `state`, or the first reason why it has none. `rec` is in core form."""
    found = next(s for s in rec.states if s.name == state)
    if found.dtype.kind is not Kind.REAL or found.dtype in (DType.F16, DType.BF16):
        return Reason(f"{state} is {found.dtype.value}; products of matrices take reals of full precision")
    if len(found.dims) < 2 or len(set(found.dims)) < len(found.dims):
        return Reason(f"{state} is no matrix with two different dims")
    if any(too_large(e.expr) for e in rec.equations):
        return Reason("an equation is too large to take apart")
    refused: list[tuple[int, Reason]] = []
    for rows in _choices(rec, state, found.dims):
        result = _Reader(rec, state, rows).form()
        if isinstance(result, LowRank):
            known = _Reader(rec, state, rows, result.columns).form()  # now keys need not be taken apart further
            return known if isinstance(known, LowRank) and known.columns == result.columns else result
        refused.append((len(rows), result))
    return min(refused, key=lambda r: r[0])[1]  # what speaks against the simplest choice


def restated(rec: Recurrence, form: LowRank, others: Sequence[Expr] = ()) -> Restated:
    """`rec` (in core form, of which `form` was found) with names for all that a chunk of steps needs. `others`: what
    else is made of its values, such as elements of a scan."""
    try:
        return _Reader(rec, form.state, form.rows, form.columns).restated(form, others)
    except _Whole as whole:
        raise CompilerBug(f"{form.state} is chunkwise, but not everywhere: {whole.reason}") from whole


def _choices(rec: Recurrence, state: str, dims: Dims) -> list[Dims]:
    """What may be rows: the dims that sums go over, unions of those first (a sum may be taken in two steps)."""
    through = moving(rec, state)
    single: dict[frozenset[str], None] = {}
    for equation in rec.equations:
        for node in walk(equation.expr):
            over: set[str] = set()
            match node:
                case Reduce(arg=arg) if reaches(arg, state, through):
                    over = set(node.over)
                case Contract() if reaches(node, state, through):
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
    """What the state's update and its readers come to."""

    def __init__(self, rec: Recurrence, state: str, rows: Dims, columns: Dims = ()) -> None:
        super().__init__(rec, state, rows, columns)
        self.taken = used_names(rec)
        self.queries: dict[tuple[Expr, int], str] = {}  # reads, by what they sum: the query and the lag of the state
        self.made: dict[str, Expr] = {}  # new equations

    # --- what the analysis asks -------------------------------------------------------------------------------------

    def form(self) -> LowRank | Reason:
        update = self.value(self.equations[self.state].expr)
        span = self.equations[self.state].span
        if isinstance(update, Row):
            update = spread(update, self.rows)
        if isinstance(update, Other):
            return Reason(update.text, update.span or span)
        if isinstance(update, Free) or update.left != self.rows or update.lag != 1:
            return Reason(f"the update of {self.state} is no decay of {shown(self.state)} plus writes", span)
        if len(update.writes) > MOST_WRITES:
            return Reason(f"{self.state} takes {len(update.writes)} writes per step", span)
        try:
            self._read_everywhere()
        except _Whole as whole:
            return whole.reason
        decay = convert(update.factor or zero(self.dtype), self.dtype)
        writes = tuple(self._typed(w) for w in update.writes)
        return self._with_dims(decay, writes, span)

    def _typed(self, write: Write) -> Write:
        probe, value = (None if e is None else convert(e, self.dtype) for e in (write.probe, write.value))
        return Write(convert(write.key, self.dtype), probe, value)

    def _with_dims(self, decay: Expr, writes: tuple[Write, ...], span: Span | None) -> LowRank | Reason:
        """Which dims are shared: those on the side of the rows. The rest are columns."""
        rows, dims = set(self.rows), set(self.dims)
        along = [e for w in writes for e in (w.key, w.probe) if e is not None] + [q for q, _ in self.queries]
        aside = [w.value for w in writes if w.value is not None]
        if not all(set(e.dims) <= dims for e in (*along, *aside, decay)) or any(set(e.dims) & rows for e in aside):
            return Reason(f"{self.state} meets values along dims that it does not have", span)
        if set(decay.dims) & rows:
            along.append(decay)
        shared = {d for e in along for d in e.dims} - rows
        more = set(decay.dims) - rows - shared
        if any(w.probe is not None for w in writes) or (dims - rows - shared) > more:
            shared |= more
        columns = tuple(d for d in self.dims if d not in rows | shared)
        if not columns:
            over = ", ".join(self.rows)
            return Reason(
                f"beside {over}, no dim of {self.state} is free of the vectors it is read and written by", span
            )
        return LowRank(self.state, tuple(d for d in self.dims if d in shared), self.rows, columns, decay, writes)

    # --- who reads the state ------------------------------------------------------------------------------------------

    def _read_everywhere(self) -> dict[str, Expr]:
        """The equations behind outputs and other states, with reads of the state by name. Raises `_Whole`."""
        if self.state in self.rec.outputs:
            raise _Whole(Reason(f"{self.state} is an output, so every step needs all of it", self._span(self.state)))
        found: dict[str, Expr] = {}
        pending = [o for o in self.rec.outputs if o in self.equations]
        pending += [s for s in self.states if s != self.state]
        while pending:
            name = pending.pop()
            if name in found or name == self.state:
                continue
            found[name] = self._read(self.equations[name].expr, name)
            pending += [r.name for r in reads(found[name]) if r.name in self.equations]
        return found

    def _read(self, expr: Expr, owner: str | None) -> Expr:
        """`expr` with every sum over the state's rows replaced by a name (`owner`, if it is all there is)."""
        if isinstance(expr, Final) or not reaches(expr, self.state, self.moving):
            return expr
        value = self.value(expr)
        if isinstance(value, Matrix):
            raise _Whole(Reason(f"{self.state} is needed whole at every step", expr.span or self._span(owner)))
        if isinstance(expr, Read):
            return expr  # an equation that is rewritten itself
        if isinstance(value, Row) and any(isinstance(self.value(c), Matrix) for c in children(expr)):
            return self._named_read(value, expr, owner)
        return with_children(expr, tuple(self._read(c, None) for c in children(expr)))

    def _named_read(self, row: Row, expr: Expr, owner: str | None) -> Expr:
        if row.probe is None or set(row.probe.dims) - set(self.dims):
            raise _Whole(Reason(f"{self.state} is read along several vectors at once", expr.span))
        query = convert(row.probe, self.dtype)
        whole = tuple(d for d in self.dims if d not in self.rows)
        key = (query, row.lag)
        if key not in self.queries:
            alone = row.value is None and expr.dims == whole and expr.dtype is self.dtype
            name = owner if owner and alone and owner not in self.states else self._fresh(f"{self.state}_read")
            self.queries[key] = name
        name = self.queries[key]
        read: Expr = Read(name, 0, whole, self.dtype, expr.span)
        if row.value is not None:
            read = apply("add", read, row.value, span=expr.span)
        if read.dims != expr.dims:
            if set(read.dims) != set(expr.dims):
                raise _Whole(Reason(f"{self.state} is read into dims that it does not have", expr.span))
            axes = tuple(read.dims.index(d) for d in expr.dims)
            read = Reaxis(read, axes, expr.dims, read.dtype, span=expr.span)
        return convert(read, expr.dtype)

    def _span(self, name: str | None) -> Span | None:
        return self.equations[name].span if name in self.equations else None

    # --- the recurrence with names ------------------------------------------------------------------------------------

    def restated(self, form: LowRank, others: Sequence[Expr]) -> Restated:
        found = self._read_everywhere()
        renamed = tuple(self._read(e, None) for e in others)
        state = self.states[self.state]
        writes = tuple(
            Write(
                self._operand(w.key, "key", form.rows),
                None if w.probe is None else self._operand(w.probe, "probe", form.rows),
                None if w.value is None else self._operand(w.value, "value", form.columns),
            )
            for w in form.writes
        )
        along = {"none": (), "rows": form.rows, "columns": form.columns}[form.decay_along]
        decay = form.decay if is_number(form.decay, 1) else self._operand(form.decay, "decay", along)
        queries: list[Expr] = []
        for (query, lag), name in self.queries.items():
            queries.append(self._operand(query, "query", form.rows))
            found[name] = self._sum(queries[-1], Read(self.state, lag, self.dims, self.dtype), form)
        old = Read(self.state, 1, self.dims, self.dtype)
        update: Expr = old if is_number(decay, 1) else apply("mul", decay, old)
        for write in writes:
            row = None if write.probe is None else self._sum(write.probe, old, form)
            parts = [p for p in (row, write.value) if p is not None]
            update = apply("add", update, apply("mul", write.key, apply("add", *parts) if len(parts) > 1 else parts[0]))
        if update.dims != state.dims:
            axes = tuple(update.dims.index(d) for d in state.dims)
            update = Reaxis(update, axes, state.dims, update.dtype)
        named = replace(form, decay=decay, writes=writes)
        taken_in = [decay, *(e for w in writes for e in (w.key, w.probe, w.value) if e is not None), *queries]
        operands = tuple(dict.fromkeys(r.name for e in taken_in for r in reads(e)))
        rec = self._rebuilt(found, update)
        return Restated(rec, named, update, tuple(self.queries.values()), operands, renamed)

    def _rebuilt(self, found: dict[str, Expr], update: Expr) -> Recurrence:
        """The equations in an order in which each reads only earlier ones."""
        from recurc.passes.dependence import topological

        free = {e.name: e.expr for e in self.rec.equations if e.name not in self.moving and e.name not in self.states}
        everything = free | self.made | found | {self.state: update}
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
        name = next((n for n, e in self.made.items() if e == full), None)
        if name is None:
            name = self._fresh(f"{self.state}_{role}")
            self.made[name] = full
        return Read(name, 0, full.dims, full.dtype, full.span)

    def _sum(self, operand: Expr, state: Read, form: LowRank) -> Contract:
        """`operand . state`: a contraction over the rows, the shared dims side by side."""
        axes = {d: i for i, d in enumerate(state.dims)}
        kept = tuple(d for d in state.dims if d not in form.rows)
        return Contract(
            operand, state, tuple(axes[d] for d in operand.dims), tuple(axes.values()), tuple(axes[d] for d in kept),
            kept, self.dtype, operand.span,
        )  # fmt: skip

    def _fresh(self, hint: str) -> str:
        name = fresh(hint, self.taken)
        self.taken.add(name)
        return name
