"""Differentiate a matrix memory without its value at every step.

What a recurrence does with a matrix that decays and takes writes of low rank (`facts.LowRank`) is

    S_t = a_t o S_{t-1} + sum of key_t (x) u_t,    u_t = value_t + probe_t . S_{t-1},    read_t = query_t . S_t

(or `query_t . S_{t-1}`), with operands that do not read S. So its backward pass falls into that of what makes the
outputs of the reads (`rear`), that of what makes the operands of inputs and params (`front`), and between them, for the
derivatives d_read by the reads, sweeps over time that each keep one matrix:

    back     L_t = D_{t+1} + query_t (x) d_read_t,  d_u_t = key_t . L_t,  D_t = a_t o L_t + probe_t (x) d_u_t
             d_value_t = d_u_t,  d_key_t = L_t u_t                        (D_t is the derivative by S_{t-1})
    again    S_t from the first step on, from key_t and u_t:  d_query_t = S_t d_read_t,  d_probe_t = S_{t-1} d_u_t
    decays   d(log a_t) = <a_t o L_t, S_{t-1}> without either matrix, from E_t = <D_t, S_{t-1}>:
             d(log a_t) = E_{t+1} + query_t d_query_t - key_t d_key_t,
             E_t = d(log a_t) + probe_t d_probe_t                         E_{T+1}: final state times its derivative

where the products of the last line stand for all reads and writes; each is over the dims that the decay does not tell
apart, so for one decay per memory it is also read_t d_read_t - u_t d_u_t + (probe_t . S_{t-1}) d_u_t, which needs no
matrix. Each sweep is a matrix memory with writes of low rank again, hence chunkwise, if it is read along one side only:
`back` may be taken as two, one for d_u and one for d_key, which knows d_u. Instead of S_{t-1} the forward call keeps
`probe_t . S_{t-1}`, and the reads where they are needed (Yang et al. 2023, arXiv 2312.06635, section C, for gated
linear attention; Yang et al. 2024, arXiv 2406.06484, for the delta rule).

The sum E is one of differences. It errs by as many roundings as there are steps, of the size of its terms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

from recurc.build import broadcast, permute
from recurc.calculus import simplify
from recurc.calculus.logarithm import logarithm
from recurc.facts import Analysis, LowRank, Write
from recurc.ir import (
    Const,
    Contract,
    Equation,
    Expr,
    Final,
    Input,
    Param,
    Read,
    Recurrence,
    State,
    late_equations,
    reads,
    walk,
)
from recurc.ops import apply, convert
from recurc.passes.adjoint import Adjoint, NothingToDeriveError, adjoint
from recurc.passes.affine import is_number, sum_over
from recurc.passes.dependence import needed, topological
from recurc.passes.low_rank import restated
from recurc.passes.residuals import keep_sums
from recurc.passes.terms import fresh
from recurc.passes.verify import used_names
from recurc.types import Dims, DType, Kind


@dataclass(frozen=True, slots=True)
class Sweep:
    """A recurrence over the steps. It reads operands, what the forward call saved and what earlier sweeps put out, by
    name. `carried` is its only state."""

    rec: Recurrence
    backwards: bool
    carried: str


@dataclass(frozen=True)
class MatrixAdjoint:
    """A backward pass for the matrix state `state`. `forward` is the recurrence with the `saved` values as further
    outputs. `rear` and `front` are backward passes of parts of it, None where there is nothing to derive by; `rear`
    reads the reads as inputs, `front` has as outputs the `operands` and logarithms of decays, and `making` makes those
    operands that are not saved.

    `back` is one sweep, or, for chunks of steps, the two of `sides`."""

    forward: Recurrence
    saved: tuple[str, ...]
    state: str
    rear: Adjoint | MatrixAdjoint | None
    front: Adjoint | MatrixAdjoint | None
    making: Recurrence | None
    back: Sweep
    sides: tuple[Sweep, Sweep]
    again: Sweep | None
    decays: Sweep | None
    reads: Mapping[str, str]  # the derivatives by reads of the matrix, as the sweeps call them
    derivatives: Mapping[str, tuple[str, ...]]  # operand, or logarithm of one -> outputs of sweeps to add up

    @cached_property
    def inputs(self) -> frozenset[str]:
        """The inputs that have a derivative."""
        parts = [frozenset(p.inputs) for p in (self.rear, self.front) if p is not None]
        own = {i.name for i in self.forward.inputs} & self.derivatives.keys()
        return frozenset(own).union(*parts) - self.reads.keys()

    @cached_property
    def given(self) -> frozenset[str]:
        """The values of the recurrence that the pass reads and does not make again, and names of its own."""
        recs = [s.rec for s in (self.back, *self.sides, self.again, self.decays) if s is not None]
        made: frozenset[str] = frozenset()
        if self.making is not None:
            recs, made = [*recs, self.making], frozenset(self.making.outputs)
        parts = [p.given for p in (self.rear, self.front) if p is not None]
        return (frozenset(i.name for rec in recs for i in rec.inputs) - made).union(*parts)

    @property
    def carried(self) -> dict[str, Dims]:
        """The dims of every state that has a derivative."""
        sweep = self.back.rec.states[0]
        parts = [p.carried for p in (self.rear, self.front) if p is not None]
        return {self.state: sweep.dims} | {n: dims for part in parts for n, dims in part.items()}

    @cached_property
    def cotangents(self) -> dict[str, str]:
        """For each output, the name of the derivative by it."""
        return {} if self.rear is None else dict(self.rear.cotangents)


def matrix_adjoint(
    core: Recurrence, analyze: Callable[[Recurrence], Analysis], keep: bool, taken: Collection[str] = ()
) -> MatrixAdjoint | None:
    """The backward pass of `core` (in core form), if one of its states is a matrix memory and the others can be carried
    by the passes before and behind it, which may be such passes too; None if not. `keep`: the operands, and sums with
    weights, are saved, not made again. `taken` are names that new values must not have. Raises `UnsupportedError` for
    an operation that has no derivative."""
    if late_equations(core) or any(isinstance(n, Final) for e in core.equations for n in walk(e.expr)):
        return None
    states = {s.name: s for s in core.states}
    for form in _forms(analyze(core)):
        state = states[form.states[0]]
        if form.columns and len(form.states) == 1 and not any(reads(state.initial)):
            found = _Matrix(core, form, state, analyze, keep, taken).run()
            if found is not None:
                return found
    return None


def _forms(analysis: Analysis) -> list[LowRank]:
    groups = [part for group in analysis.groups for part in (group, *group.parts)]
    return [g.low_rank for g in groups if g.low_rank is not None]


@dataclass(frozen=True)
class _Read:
    """`name = query . S[t-lag]`, and the derivative by it."""

    name: str
    query: Read
    lag: int
    derivative: Read


@dataclass(frozen=True)
class _Write:
    """`key (x) u`, where u is `value` plus `before`, what was read by the `probe`; `derivative` is that by u."""

    key: Read
    value: Read | None
    probe: Read | None
    before: Read | None
    derivative: Read
    rank: Dims

    @property
    def row(self) -> Expr:
        parts = [p for p in (self.value, self.before) if p is not None]
        return parts[0] if len(parts) == 1 else apply("add", *parts)


class _Matrix:
    def __init__(
        self, core: Recurrence, form: LowRank, state: State, analyze: Callable[[Recurrence], Analysis], keep: bool,
        taken: Collection[str],
    ) -> None:  # fmt: skip
        found = restated(core, form)
        self.core, self.form, self.state, self.keep, self.analyze = found.rec, found.form, state, keep, analyze
        self.taken = used_names(self.core).union(taken)
        self.own = frozenset(self.taken)  # what both parts keep of a state has one name
        self.equations = {e.name: e for e in self.core.equations}
        self.types: dict[str, tuple[Dims, DType]] = {
            v.name: (v.dims, v.dtype) for v in (*self.core.inputs, *self.core.params)
        }
        self.types |= {e.name: (e.expr.dims, e.expr.dtype) for e in self.core.equations}
        self.aside = tuple(d for d in state.dims if d not in form.rows)  # shared dims and columns
        self.along = tuple(d for d in state.dims if d not in form.columns)  # shared dims and rows
        self.made: list[Equation] = []  # new equations of the forward recurrence
        self.outputs: dict[str, list[str]] = {}  # by operand: outputs of sweeps that are derivatives by it
        self.names, self.operands = found.reads, found.operands
        self._known: dict[str, str] = {}  # names of values of the sweeps, by what they are asked for

    def run(self) -> MatrixAdjoint | None:
        log = self._log_of_decay()
        if log is None and self._decays_vary:
            return None
        rear = self._rear()
        self.reads = tuple(self._read(n) for n in self.names if rear is not None and n in rear.inputs)
        self.writes = tuple(self._write(n, w) for n, w in enumerate(self.form.writes))
        back = self._back(keys=True, rows=True)
        sides = (self._back(keys=False, rows=True), self._back(keys=True, rows=False))
        again = self._again()
        decays = None if log is None else self._decays(log)
        front = self._front(log)
        return self._together(rear, front, back, sides, again, decays)

    # --- the parts beside the matrix

    @property
    def _decays_vary(self) -> bool:
        """Whether there is a derivative by the decay."""
        factor = self.form.factors[0][0]
        return isinstance(factor, Read) and self._varies(factor.name)

    def _log_of_decay(self) -> Equation | None:
        """The logarithm of the decay, where there is a derivative by it."""
        factor = self.form.factors[0][0]
        if not isinstance(factor, Read) or not self._decays_vary:
            return None
        log = logarithm(factor, {n: e.expr for n, e in self.equations.items()})
        if log is None or set(log.dims) != set(factor.dims):
            return None
        log = _in_order(convert(log, self.state.dtype), factor.dims)
        self.types[name := self._fresh(f"log_{factor.name}")] = (log.dims, log.dtype)
        return Equation(name, log)

    def _varies(self, name: str) -> bool:
        """Whether there may be a derivative by what a name is made of."""
        reached = self._reached({name})
        return any(
            v.name in reached and v.dtype.kind in (Kind.REAL, Kind.COMPLEX)
            for v in (*self.core.inputs, *self.core.params, *self.core.states)
        )

    def _reached(self, names: Collection[str], known: Collection[str] = ()) -> set[str]:
        """What `names` are made of, at this step and earlier ones, but not of what `known` are."""
        pending, found = list(names), set[str]()
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                if name in self.equations and name not in known:
                    pending += [r.name for r in reads(self.equations[name].expr)]
        return found

    def _part(self, kind: str, names: set[str], outputs: Sequence[str], more: Sequence[Equation] = ()) -> Recurrence:
        """The equations and states of these names, as a recurrence."""
        reached = names | {r.name for e in more for r in reads(e.expr)}
        own = [e for n, e in self.equations.items() if n in reached and n != self.state.name and n not in self.names]
        inputs = [i for i in self.core.inputs if i.name in reached]
        inputs += [Input(n, *self.types[n]) for n in self.names if n in reached]
        return replace(
            self.core,
            name=f"{self.core.name}_{kind}",
            inputs=tuple(inputs),
            params=tuple(p for p in self.core.params if p.name in reached or p.name in self._of_initials(reached)),
            states=tuple(s for s in self.core.states if s.name in reached and s is not self.state),
            equations=topological([*own, *more]),
            outputs=tuple(outputs),
        )

    def _of_initials(self, reached: Collection[str]) -> set[str]:
        return {r.name for s in self.core.states if s.name in reached for r in reads(s.initial)}

    def _adjoint(self, rec: Recurrence) -> Adjoint | MatrixAdjoint | None:
        """The backward pass of a part."""
        inner = matrix_adjoint(rec, self.analyze, self.keep, self.taken)
        if inner is not None:
            self.taken |= used_names(inner.forward)
            return inner
        try:
            found = adjoint(rec, taken=self.own)
        except NothingToDeriveError:
            return None
        if self.keep:
            _, found = keep_sums(rec, found, self.taken)
            self.taken |= used_names(found.forward)
        return found

    def _rear(self) -> Adjoint | MatrixAdjoint | None:
        """What makes the outputs of the reads; with it goes every state that no operand is made of."""
        before = self._reached(self.operands)
        later = {s.name for s in self.core.states if s.name not in before and s != self.state}
        behind = self._reached({*self.core.outputs, *later}, self.names)
        return self._adjoint(self._part("rear", behind, self.core.outputs))

    def _front(self, log: Equation | None) -> Adjoint | MatrixAdjoint | None:
        """What makes the operands; those that are inputs need nothing made."""
        inputs, params = {i.name for i in self.core.inputs}, {p.name for p in self.core.params}
        more = [] if log is None else [log]
        outputs: list[str] = [] if log is None else [log.name]
        for name in [*self.outputs]:
            if name in params:  # one for each step, to be summed as everything is
                alias = Equation(self._fresh(f"{name}_of_step"), Read(name, 0, *self.types[name]))
                self.outputs[alias.name] = self.outputs.pop(name)
                more.append(alias)
                outputs.append(alias.name)
            elif name not in inputs and name != (log and log.name):
                outputs.append(name)
        if not outputs:
            return None
        reached = self._reached({*outputs, *(r.name for e in more for r in reads(e.expr))})
        return self._adjoint(self._part("front", reached, outputs, more))

    # --- the sweeps

    def _read(self, name: str) -> _Read:
        expr = self.equations[name].expr
        assert isinstance(expr, Contract) and isinstance(expr.left, Read) and isinstance(expr.right, Read)
        derivative = self._named(f"d_{name}", expr.dims)
        return _Read(name, expr.left, expr.right.lag, derivative)

    def _write(self, number: int, write: Write) -> _Write:
        (key,), (probe,), value = write.keys, write.probes, write.value
        assert isinstance(key, Read) and isinstance(probe, Read | None) and isinstance(value, Read | None)
        dims = (*write.rank, *self.aside)
        before = None
        if probe is not None:
            name = next((r.name for r in self.reads if r.lag == 1 and r.query == probe), None)
            if name is None:
                name = self._fresh(f"{self.state.name}_before")
                self.types[name] = (dims, self.state.dtype)
                self.made.append(Equation(name, _product(probe, self._old, dims)))
            before = Read(name, 0, *self.types[name])
        return _Write(
            key, value, probe, before, self._named(f"d_{self.state.name}_row{number or ''}", dims), write.rank
        )

    def _back(self, keys: bool, rows: bool) -> Sweep:
        """The derivative by the matrix, and what is read of it: along its columns the derivatives by the rows written,
        along its rows those by the keys. Without `rows` the former are known."""
        name = f"d_{self.state.name}"
        old = Read(name, 1, self.state.dims, self.state.dtype)
        made: list[Equation] = []
        outputs: list[str] = []

        def named(name: str, expr: Expr) -> Read:
            made.append(Equation(name, expr))
            return Read(name, 0, expr.dims, expr.dtype)

        whole: Expr = old
        now = [r for r in self.reads if r.lag == 0]
        if now:
            whole = named(f"{name}_now", self._plus(old, [(r.query, r.derivative) for r in now]))
        for write in self.writes if rows else ():
            dims = (*write.rank, *self.aside)
            row = named(write.derivative.name, _product(write.key, whole, dims))
            outputs.append(row.name)
            if write.value is not None:
                self._by(write.value, row, made, outputs)
        for number, write in enumerate(self.writes) if keys else ():
            key = self._by_key(number, write)
            named(key.name, _product(whole, write.row, key.dims))
            outputs.append(key.name)
            self._by(write.key, key, made, outputs)
        factor = self.form.factors[0][0]
        kept = [(w.probe, w.derivative) for w in self._probing if w.probe is not None]
        earlier = [(r.query, r.derivative) for r in self.reads if r.lag == 1]
        decayed = whole if factor is None or is_number(factor, 1) else apply("mul", factor, whole)
        made.append(Equation(name, self._plus(_in_order(decayed, self.state.dims), [*kept, *earlier])))
        side = "back" if keys and rows else "rows" if rows else "keys"
        return Sweep(self._sweep(side, name, made, outputs), True, name)

    def _again(self) -> Sweep | None:
        """The matrix from the first step on, read by the derivatives by what was read of it."""
        made: list[Equation] = []
        outputs: list[str] = []
        now = Read(self.state.name, 0, self.state.dims, self.state.dtype)
        factor = self.form.factors[0][0]
        old = self._old if factor is None or is_number(factor, 1) else apply("mul", factor, self._old)
        update = self._plus(_in_order(old, self.state.dims), [(w.key, w.row) for w in self.writes])
        made.append(Equation(self.state.name, update))
        by = [(r.query, now if r.lag == 0 else self._old, r.derivative) for r in self.reads]
        by += [(w.probe, self._old, w.derivative) for w in self._probing if w.probe is not None]
        for number, (operand, matrix, derivative) in enumerate(by):
            read = self._by_query(number, derivative)
            made.append(Equation(read.name, _product(matrix, derivative, read.dims)))
            outputs.append(read.name)
            self._by(operand, read, made, outputs)
        return Sweep(self._sweep("again", self.state.name, made, outputs), False, self.state.name) if by else None

    def _decays(self, log: Equation) -> Sweep:
        """The derivative by the logarithm of the decay."""
        name = self._fresh(f"{self.state.name}_scale")
        factor = self.form.factors[0][0]
        assert isinstance(factor, Read)
        dims, dtype = factor.dims, self.state.dtype
        by_rows = self.form.decay_along == "rows"

        def either(rows: tuple[Expr, Expr], columns: tuple[Expr, Expr]) -> Expr:
            return _product(*(rows if by_rows else columns), dims)

        here: Expr = Read(name, 1, dims, dtype)
        after: list[Expr] = []
        for number, read in enumerate(self.reads):
            columns = (Read(read.name, 0, *self.types[read.name]), read.derivative)
            term = either((read.query, self._by_query(number, read.derivative)), columns)
            if read.lag:
                after.append(term)
            else:
                here = simplify.add(here, term)
        for number, write in enumerate(self.writes):
            here = simplify.sub(here, either((write.key, self._by_key(number, write)), (write.row, write.derivative)))
        for number, write in enumerate(self._probing, len(self.reads)):
            assert write.probe is not None and write.before is not None
            rows = (write.probe, self._by_query(number, write.derivative))
            after.append(either(rows, (write.before, write.derivative)))
        found = self._named(f"d_{log.name}", dims)
        nothing = apply("eq", factor, convert(Const(0.0, DType.REAL), dtype))
        made = [
            Equation(
                found.name, _in_order(apply("select", nothing, convert(Const(0.0, DType.REAL), dtype), here), dims)
            )
        ]
        made.append(Equation(name, reduce(simplify.add, after, found)))
        self.outputs[log.name] = [found.name]
        return Sweep(self._sweep("decays", name, made, [found.name]), True, name)

    # --- names

    def _by_key(self, number: int, write: _Write) -> Read:
        return self._named(f"d_{self.state.name}_key{number or ''}", (*write.rank, *self.along))

    def _by_query(self, number: int, derivative: Read) -> Read:
        more = tuple(d for d in derivative.dims if d not in self.state.dims)
        return self._named(f"d_{self.state.name}_query{number or ''}", (*more, *self.along))

    def _named(self, hint: str, dims: Dims) -> Read:
        """A new value of the state's type, known by `hint` from then on."""
        if hint not in self._known:
            self._known[hint] = self._fresh(hint)
            self.types[self._known[hint]] = (dims, self.state.dtype)
        return Read(self._known[hint], 0, dims, self.state.dtype)

    def _fresh(self, hint: str) -> str:
        name = fresh(hint, self.taken)
        self.taken.add(name)
        return name

    @property
    def _probing(self) -> list[_Write]:
        return [w for w in self.writes if w.probe is not None]

    @property
    def _old(self) -> Read:
        return Read(self.state.name, 1, self.state.dims, self.state.dtype)

    def _plus(self, matrix: Expr, products: Sequence[tuple[Expr, Expr]]) -> Expr:
        for left, right in products:
            matrix = apply("add", matrix, _product(left, right, self.state.dims))
        return matrix

    def _by(self, operand: Expr, whole: Read, made: list[Equation], outputs: list[str]) -> None:
        """Notes that `whole` is a derivative by `operand`, summed over dims that this lacks."""
        assert isinstance(operand, Read)
        if whole.dims != operand.dims:
            name = self._named(f"{whole.name}_sum", operand.dims).name
            missing = tuple(d for d in whole.dims if d not in operand.dims)
            made.append(Equation(name, _in_order(sum_over(whole, missing), operand.dims)))
            outputs.append(name)
        else:
            name = whole.name
        found = self.outputs.setdefault(operand.name, [])
        if name not in found:
            found.append(name)

    def _sweep(self, kind: str, carried: str, made: Sequence[Equation], outputs: Sequence[str]) -> Recurrence:
        last = next(e for e in made if e.name == carried)
        kept = needed(topological(made), {*outputs, carried})
        own = {e.name for e in kept}
        used = dict.fromkeys(r.name for e in kept for r in reads(e.expr) if r.name not in own)
        steady = {p.name for p in self.core.params}
        initial = self.state.initial if carried == self.state.name else convert(Const(0.0, DType.REAL), last.expr.dtype)
        return Recurrence(
            f"{self.core.name}_{kind}",
            self.core.dims,
            inputs=tuple(Input(n, *self.types[n]) for n in used if n not in steady),
            params=tuple(Param(n, *self.types[n]) for n in used if n in steady),
            states=(State(carried, last.expr.dims, last.expr.dtype, initial),),
            equations=tuple(kept),
            outputs=tuple(dict.fromkeys(outputs)),
        )

    # --- all together

    def _together(
        self, rear: Adjoint | MatrixAdjoint | None, front: Adjoint | MatrixAdjoint | None, back: Sweep,
        sides: tuple[Sweep, Sweep], again: Sweep | None, decays: Sweep | None,
    ) -> MatrixAdjoint:  # fmt: skip
        parts = [p for p in (rear, front) if p is not None]
        equations = dict(self.equations) | {e.name: e for e in self.made}
        for part in parts:
            equations |= {e.name: e for e in part.forward.equations}
        sweeps = [s.rec for s in (back, *sides, again, decays) if s is not None]
        wanted = {i.name for rec in sweeps for i in rec.inputs}.union(*(p.given for p in parts))
        again_made = set[str]() if self.keep else wanted & self.outputs.keys() & self.equations.keys()
        kept = wanted - again_made
        shown = {*self.core.outputs, *(i.name for i in self.core.inputs)}
        saved = tuple(n for n in equations if n in kept and n not in shown)
        forward = replace(self.core, equations=topological(equations.values()), outputs=(*self.core.outputs, *saved))
        return MatrixAdjoint(
            forward=forward,
            saved=saved,
            state=self.state.name,
            rear=rear,
            front=front,
            making=self._making(again_made),
            back=back,
            sides=sides,
            again=again,
            decays=decays,
            reads={r.name: r.derivative.name for r in self.reads},
            derivatives={name: tuple(parts) for name, parts in self.outputs.items()},
        )

    def _making(self, names: set[str]) -> Recurrence | None:
        """What makes operands again."""
        if not names:
            return None
        return self._part("operands", self._reached(names), [n for n in self.equations if n in names])


def _product(left: Expr, right: Expr, out: Dims) -> Expr:
    """The product of two values with the dims `out`, summed over all others; each dim has one name."""
    left, right = (
        sum_over(e, tuple(d for d in e.dims if d not in {*o.dims, *out})) for e, o in ((left, right), (right, left))
    )
    dims = tuple(dict.fromkeys((*left.dims, *right.dims)))
    if set(dims) <= set(out):
        return _in_order(simplify.mul(left, right), out)
    place = {d: n for n, d in enumerate(dims)}
    kept = tuple(d for d in out if d in place)
    axes = [tuple(place[d] for d in dims) for dims in (left.dims, right.dims, kept)]
    return _in_order(Contract(left, right, axes[0], axes[1], axes[2], kept, left.dtype), out)


def _in_order(expr: Expr, dims: Dims) -> Expr:
    """`expr` with the dims `dims`, in that order."""
    if set(expr.dims) != set(dims):
        expr = broadcast(expr, dims)
    return expr if expr.dims == dims else permute(expr, dims)
