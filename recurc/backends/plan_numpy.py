"""The plan interpreter (`backend="numpy"`): executes any plan with NumPy, so every schedule can be checked anywhere.

Apart from the reference on purpose: it runs the stages the scheduler chose, in the call's dtype (half precisions are
stored as asked and computed in f32). Values are arrays `(B or 1, T or 1, *dims)`: maps and matrix products take all
steps at once, a loop one step at a time, a scan combines elements of the plan's monoid in a tree over t, a chunk is
products of matrices (`chunk_numpy`), a convolution goes through transforms in double precision, and chunks with frozen
states run a plan of their own one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recurc import ir
from recurc.backends.base import Arrays, Kernel, Specialization
from recurc.backends.chunk_numpy import Lines, Operands, chunkwise
from recurc.backends.convolve import Convolver, Values
from recurc.backends.evaluator import Array, Evaluate, Evaluator, Frame, arrangement
from recurc.backends.storage import loaded, store
from recurc.facts import LowRank
from recurc.plan import (
    Buffer,
    Carry,
    Chunk,
    Convolution,
    Frozen,
    Fused,
    JointChunk,
    Loop,
    Map,
    Matmul,
    Newton,
    Plan,
    Role,
    Scan,
    Stage,
    held_name,
    taken_apart,
)
from recurc.types import Dims, DType

Elements = list[Array]  # one (B, T, *dims) per component of a monoid


Combine = Callable[[Elements, Elements], Elements]


def prefix_scan(elements: Elements, combine: Combine) -> Elements:
    """Inclusive prefixes over axis 1 by pairs, then pairs of pairs: work O(T), depth O(log T); needs associativity
    only, never commutativity (Blelloch 1990, the recursive form)."""
    steps = elements[0].shape[1]
    if steps < 2:
        return elements
    even, odd = [e[:, 0 : steps - 1 : 2] for e in elements], [e[:, 1::2] for e in elements]
    pairs = prefix_scan(combine(even, odd), combine)  # prefixes ending at 1, 3, 5, ...
    out = [np.empty_like(e) for e in elements]
    for o, e, p in zip(out, elements, pairs, strict=True):
        o[:, :1], o[:, 1::2] = e[:, :1], p
    if steps > 2:
        ends = (steps - 1) // 2
        for o, value in zip(out, combine([p[:, :ends] for p in pairs], [e[:, 2::2] for e in elements]), strict=True):
            o[:, 2::2] = value
    return out


Run = Callable[["_Call"], None]


class _Call:
    """One call of a kernel: the buffers seen with their time axes, and the frame of all steps at once."""

    def __init__(self, frame: Frame, arrays: Arrays, batch: int, steps: int) -> None:
        self.frame, self.arrays, self.batch, self.steps = frame, arrays, batch, steps

    @classmethod
    def of(cls, plan: Plan, evaluator: Evaluator, arrays: Arrays, batch: int, steps: int) -> _Call:
        """A call with arrays as stored."""
        frame = Frame({}, np.arange(steps, dtype=np.int64)[np.newaxis])
        for buffer in plan.buffers:
            if buffer.role in (Role.INPUT, Role.PARAM, Role.INITIAL):
                value = loaded(arrays[buffer.name])
                if batch > 1 and value.strides[0] == 0:
                    value = value[:1]
                value = value if buffer.has_time else value[:, np.newaxis]
                frame.values[buffer.name, 0] = value.astype(evaluator.dtype(buffer.dtype), copy=False)
        return cls(frame, arrays, batch, steps)

    def delay(self, names: Sequence[str]) -> None:
        """Makes the whole-sequence values of `names` readable at lag 1."""
        for name in names:
            now, first = self.frame.values[name, 0], self.frame.values[f"{name}@initial", 0]
            shape = (max(now.shape[0], first.shape[0]), *now.shape[2:])
            now = np.broadcast_to(now, (shape[0], self.steps, *shape[1:]))
            first = np.broadcast_to(first, (shape[0], 1, *shape[1:]))
            self.frame.values[name, 1] = np.concatenate([first, now[:, :-1]], axis=1)

    def full(self, value: Array) -> Array:
        return np.broadcast_to(value, (self.batch, self.steps, *value.shape[2:]))


class PlanKernel:
    """A plan as a list of closures. Called as `backends.base.Kernel` says.

    `instead` runs the whole plan in place of a convolution whose numbers a transform would spoil; without it, the
    interpreter goes step by step."""

    def __init__(self, plan: Plan, spec: Specialization, instead: Kernel | None = None) -> None:
        self._instead = instead
        self.source: dict[str, str] = {}
        self.rounds: dict[str, NDArray[np.int32]] = {}  # by states: see `CpuKernel.rounds`
        plan = taken_apart(plan, lambda stage: isinstance(stage, Fused))
        self._plan, self._evaluator = plan, Evaluator(spec)
        solvers = [s for s in plan.stages if isinstance(s, Newton)]
        self._own = {b.name: b for s in solvers for k in _GUESSES for b in s.values(k)}
        self._own |= {b.name: b for s in solvers for b in s.products}
        self._stages = [self._stage(stage) for stage in plan.stages]

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None:
        with np.errstate(all="ignore"):
            self._run(_Call.of(self._plan, self._evaluator, arrays, batch, steps))

    def _run(self, call: _Call) -> None:
        for run in self._stages:
            run(call)

    def _stage(self, stage: Stage) -> Run:
        match stage:
            case Map():
                return self._map(stage)
            case Matmul():
                return self._matmul(stage)
            case Loop():
                return self._loop(stage)
            case Scan():
                return self._scan(stage)
            case Newton():
                return self._newton(stage)
            case Chunk():
                return self._chunk(stage)
            case JointChunk():
                return self._joint(stage)
            case Convolution():
                return self._convolution(stage)
            case Frozen():
                return self._frozen(stage)
            case Fused():
                raise TypeError("fused scans are taken apart before")

    def _buffer(self, name: str) -> Buffer:
        return self._own[name] if name in self._own else self._plan.buffer(name)

    def _body(self, body: Sequence[ir.Equation], dims: dict[str, Dims]) -> list[tuple[str, Evaluate]]:
        """Each equation with its function; one that defines a carry has the carry's axes, in full."""
        make = self._evaluator
        return [
            (e.name, make.aligned(e.expr, dims[e.name], full=True) if e.name in dims else make(e.expr)) for e in body
        ]

    def _writer(self, name: str, dims: Dims) -> Callable[[_Call, Array], None]:
        """Stores a stage's value `(B or 1, T or 1, *dims)` in the buffer of that name."""
        buffer = self._buffer(name)
        arrange, shape = arrangement(dims, buffer.dims), self._evaluator.shape(buffer.dims)

        def write(call: _Call, value: Array) -> None:
            value = arrange(value)
            value = np.broadcast_to(value, (*value.shape[:2], *shape))
            call.frame.values[name, 0] = value
            if buffer.role is Role.OUTPUT:
                store(call.arrays[name], call.full(value))

        return write

    def _writers(
        self, body: Sequence[ir.Equation], carries: Sequence[Carry], names: Sequence[str]
    ) -> dict[str, Callable[[_Call, Array], None]]:
        dims = {e.name: e.expr.dims for e in body} | {c.name: c.dims for c in carries}
        return {name: self._writer(name, dims[name]) for name in names}

    def _map(self, stage: Map) -> Run:
        body, writers = self._body(stage.body, {}), self._writers(stage.body, (), stage.writes)
        delayed = _delayed(stage.body, {e.name for e in stage.body})

        def run(call: _Call) -> None:
            call.delay(delayed)
            values = call.frame.values
            for name, value in body:
                values[name, 0] = value(call.frame)
            for name, write in writers.items():
                write(call, values[name, 0])

        return run

    def _matmul(self, stage: Matmul) -> Run:
        value, write = self._evaluator(stage.expr), self._writer(stage.target, stage.expr.dims)
        return lambda call: write(call, value(call.frame))

    def _loop(self, stage: Loop) -> Run:
        steps = self._steps(stage)
        writers, finals = self._writers(stage.body, stage.carries, stage.writes), self._finals(stage.carries)

        def run(call: _Call) -> None:
            stored, last = steps(call)
            for name, write in writers.items():
                write(call, stored[name])
            for name, target in finals:
                self._keep(call, target, last[name])

        return run

    @staticmethod
    def _keep(call: _Call, target: str, last: Array) -> None:
        """Stores the value of a state after the last step, `(B or 1, 1, *dims)`."""
        call.frame.values[target, 0] = last
        store(call.arrays[target], np.broadcast_to(last[:, 0], call.arrays[target].shape))

    def _steps(self, stage: Loop) -> Callable[[_Call], tuple[dict[str, Array], dict[str, Array]]]:
        """One step after another: what the stage writes, `(B, T, *dims)`, and the states after the last one."""
        own = {c.name: c.dims for c in stage.carries}
        body, delayed = self._body(stage.body, own), _delayed(stage.body, set(own))
        defined = {e.name for e in stage.body}
        buffers = tuple(
            dict.fromkeys(r.name for e in stage.body for r in ir.reads(e.expr) if r.lag == 0 and r.name not in defined)
        )

        def run(call: _Call) -> tuple[dict[str, Array], dict[str, Array]]:
            call.delay(delayed)
            whole = call.frame.values
            timed = [((n, 0), whole[n, 0]) for n in buffers] + [((n, 1), whole[n, 1]) for n in delayed]
            frame = Frame({key: value for key, value in timed if value.shape[1] == 1})
            moving = [(key, value) for key, value in timed if value.shape[1] > 1]
            now = frame.values
            for name in own:
                now[name, 1] = whole[f"{name}@initial", 0]
            stored: dict[str, list[Array]] = {name: [] for name in stage.writes}
            for t in range(call.steps):
                frame.t = call.frame.t[:, t : t + 1]
                for key, value in moving:
                    now[key] = value[:, t : t + 1]
                for name, value in body:
                    now[name, 0] = value(frame)
                for name, values in stored.items():
                    values.append(now[name, 0])
                for name in own:
                    now[name, 1] = now[name, 0]
            every = {n: [np.broadcast_to(v, (call.batch, *v.shape[1:])) for v in vs] for n, vs in stored.items()}
            return {n: np.concatenate(vs, axis=1) for n, vs in every.items()}, {n: now[n, 1] for n in own}

        return run

    def _finals(self, carries: Sequence[Carry]) -> list[tuple[str, str]]:
        return [(c.name, f"{c.name}@final") for c in carries if self._plan.has(f"{c.name}@final")]

    def _scan(self, stage: Scan) -> Run:
        own, monoid, make = {c.name: c.dims for c in stage.carries}, stage.monoid, self._evaluator
        pre, post = self._body(stage.pre, {}), self._body(stage.post, {})
        lift = [make.aligned(e, c.dims, full=True) for e, c in zip(monoid.lift, monoid.components, strict=True)]
        merge = [make.aligned(e, c.dims, full=True) for e, c in zip(monoid.combine, monoid.components, strict=True)]
        applied = [(s, make.aligned(e, own[s], full=True)) for s, e in zip(monoid.states, monoid.apply, strict=True)]
        writers, finals = self._writers(stage.body, stage.carries, stage.writes), self._finals(stage.carries)
        needed = [*(ir.Equation("", e) for e in monoid.lift), *stage.pre, *stage.post]
        delayed = _delayed(needed, set(own))
        names = [c.name for c in monoid.components]

        def combine(earlier: Elements, later: Elements) -> Elements:
            values = {(f"1.{n}", 0): e for n, e in zip(names, earlier, strict=True)}
            values |= {(f"2.{n}", 0): e for n, e in zip(names, later, strict=True)}
            shape = later[0].shape[:2]
            return [
                np.broadcast_to(f(Frame(values)), (*shape, *e.shape[2:])) for f, e in zip(merge, later, strict=True)
            ]

        def run(call: _Call) -> None:
            call.delay(delayed)
            values = call.frame.values
            for name, value in pre:
                values[name, 0] = value(call.frame)
            prefixes = prefix_scan([call.full(f(call.frame)) for f in lift], combine)
            frame = Frame({(n, 0): e for n, e in zip(names, prefixes, strict=True)})
            frame.values |= {(s, 1): values[f"{s}@initial", 0] for s in own}
            for name, value in applied:
                values[name, 0] = call.full(value(frame))
            call.delay(tuple(own))
            for name, value in post:
                values[name, 0] = value(call.frame)
            for name, write in writers.items():
                write(call, values[name, 0])
            for name, target in finals:
                values[target, 0] = values[name, 0][:, -1:]
                store(call.arrays[target], values[name, 0][:, -1])

        return run

    def _newton(self, stage: Newton) -> Run:
        """Rounds until every sequence has converged or is given up; those are run step by step."""
        own = {c.name: c.dims for c in stage.carries}
        first, step, one_by_one = self._map(stage.first), self._scan(stage.step), self._steps(stage.loop)
        before = [self._stage(part) for part in stage.before]
        body, delayed = self._body(stage.known, own), _delayed(stage.known, set(own))
        writers, finals = self._writers(stage.body, stage.carries, stage.writes), self._finals(stage.carries)
        bound = stage.tolerance(lambda dtype: self._evaluator.spec.dtype(dtype).accumulator)
        shapes = {n: (1, 1, *self._evaluator.shape(dims)) for n, dims in own.items()}

        def run(call: _Call) -> None:
            values = call.frame.values
            for name in own:
                dtype = self._evaluator.dtype(self._buffer(f"{name}'guess").dtype)
                values[f"{name}'guess@initial", 0] = values[f"{name}@initial", 0]
                values[f"{name}'update@initial", 0] = np.zeros(shapes[name], dtype)
            first(call)
            rounds = self._rounds(stage, call, [*before, step], bound)
            self.rounds[", ".join(own)] = rounds
            done = rounds > 0
            stored, last = ({}, {}) if done.all() else one_by_one(call)
            for part in before:
                part(call)
            call.delay(delayed)
            for name, value in body:
                values[name, 0] = value(call.frame)
            for name, write in writers.items():
                write(call, _rows(done, call.full(values[name, 0]), stored.get(name)))
            for name, target in finals:
                self._keep(call, target, _rows(done, call.full(values[name, 0])[:, -1:], last.get(name)))

        return run

    def _rounds(self, stage: Newton, call: _Call, steps: Sequence[Run], bound: float) -> NDArray[np.int32]:
        """Improves the guess in place; how many rounds each sequence took to converge, 0 for those that did not."""
        values, names = call.frame.values, [c.name for c in stage.carries]
        taken = np.zeros(call.batch, np.int32)
        lost = np.zeros(call.batch, bool)
        for number in range(1, stage.most + 1):
            for step in steps:
                step(call)
            error = call.full(values[stage.error, 0]).reshape(call.batch, -1).max(axis=1)
            open_ = (taken == 0) & ~lost
            for name in names:
                guess, new = (call.full(values[f"{name}'{kind}", 0]) for kind in _GUESSES)
                values[f"{name}'guess", 0] = _rows(open_, new, guess)
            taken[open_ & (error <= bound)] = number
            lost |= ~np.isfinite(error) | (error > stage.limit(number))
            if not ((taken == 0) & ~lost).any():
                break
        return taken

    def _convolution(self, stage: Convolution) -> Run:
        make = Evaluator(replace(self._evaluator.spec, real=DType.F64))

        def evaluate(expr: ir.Expr, dims: Dims) -> Callable[[Values], Array]:
            function = make.aligned(expr, dims, full=True)
            return lambda values: function(Frame(values))

        kinds = {n: (b.dims, b.dtype) for n in stage.sources for b in [self._plan.buffer(n)]}
        convolve = Convolver(stage, make.shape, evaluate, kinds)
        writers, finals = self._writers(stage.body, stage.carries, stage.writes), self._finals(stage.carries)
        step_by_step = self._loop(stage.loop)

        def run(call: _Call) -> None:
            values = call.frame.values
            found = convolve(values, call.batch, call.steps)
            if found is None and self._instead is not None:
                self._instead(call.arrays, call.batch, call.steps)
                return
            if found is None:
                step_by_step(call)
                return
            for name, write in writers.items():
                dtype = self._evaluator.dtype(self._plan.buffer(name).dtype)
                write(call, found[name].astype(dtype, copy=False))
            for _, target in finals:
                values[target, 0] = found[target].astype(self._evaluator.dtype(self._plan.buffer(target).dtype))
                store(call.arrays[target], np.broadcast_to(found[target][:, 0], call.arrays[target].shape))

        return run

    def _frozen(self, stage: Frozen) -> Run:
        """Sequences in which chunks start at the same steps go together."""
        make = self._evaluator
        inside, every = PlanKernel(stage.inside, make.spec), stage.length(make.spec.size)
        kinds = {c.name: (make.shape(c.dims), make.dtype(c.dtype)) for c in stage.carries}
        writers, finals = self._writers(stage.body, stage.carries, stage.writes), self._finals(stage.carries)

        def run(call: _Call) -> None:
            start = np.zeros((1, 1), np.int64) if stage.start is None else call.frame.values[stage.start, 0]
            into = np.broadcast_to((start[:, 0] - stage.first) % every, (call.batch,))  # a chunk, at the first step
            stored: dict[str, Array] = {}
            last = {n: np.empty((call.batch, 1, *shape), dtype) for n, (shape, dtype) in kinds.items()}
            for place in np.unique(into):
                rows = np.flatnonzero(into == place)
                found = self._chunks(stage, inside, call, rows, int(place), every, last)
                for name, value in found.items():
                    whole = stored.setdefault(name, np.empty((call.batch, *value.shape[1:]), value.dtype))
                    whole[rows] = value
            for name, write in writers.items():
                write(call, stored[name])
            for name, target in finals:
                self._keep(call, target, last[name])

        return run

    def _chunks(
        self,
        stage: Frozen,
        inside: PlanKernel,
        call: _Call,
        rows: NDArray[np.int64],
        into: int,
        every: int,
        last: dict[str, Array],
    ) -> dict[str, Array]:
        """What the stage writes for some sequences; puts their states after the last step into `last`."""
        values = {key: v if v.shape[0] == 1 else v[rows] for key, v in call.frame.values.items() if key[1] == 0}
        state = {c.name: values[f"{c.name}@initial", 0] for c in stage.carries}
        stored: dict[str, list[Array]] = {name: [] for name in stage.writes}
        bounds = [0, *range((-into) % every or every, call.steps, every), call.steps]
        for begin, end in pairwise(bounds):
            if (begin + into) % every == 0:
                state |= {held: state[taken] for held, taken in stage.held}
            part = self._inside(stage, values, state, begin, end, len(rows))
            inside._run(part)
            found = part.frame.values
            for name, parts in stored.items():
                parts.append(part.full(found[name, 0]))
            state |= {s.name: found[f"{s.name}@final", 0] for s in stage.inside.recurrence.states}
        for name, value in state.items():
            last[name][rows] = value
        return {name: np.concatenate(parts, axis=1) for name, parts in stored.items()}

    def _inside(
        self,
        stage: Frozen,
        values: dict[tuple[str, int], Array],
        state: dict[str, Array],
        begin: int,
        end: int,
        rows: int,
    ) -> _Call:
        """The call of the plan inside for the steps from `begin` to `end`."""
        own = {held_name(held): held for held, _ in stage.held}
        frame = Frame({}, np.arange(begin, end, dtype=np.int64)[np.newaxis])
        arrays: dict[str, Array] = {}
        for buffer in stage.inside.buffers:
            name, origin = buffer.name, buffer.name.removesuffix("@initial")
            match buffer.role:
                case Role.INPUT:
                    value = values[name, 0]
                    frame.values[name, 0] = value if value.shape[1] == 1 else value[:, begin:end]
                case Role.PARAM:
                    frame.values[name, 0] = state[own[name]] if name in own else values[name, 0]
                case Role.INITIAL if origin in state:
                    frame.values[name, 0] = state[origin]
                case Role.INITIAL:
                    before = values[origin, 0]
                    at = min(begin, before.shape[1]) - 1
                    frame.values[name, 0] = values[name, 0] if begin == 0 else before[:, at : at + 1]
                case Role.OUTPUT | Role.FINAL:
                    steps = (end - begin,) if buffer.has_time else ()
                    shape = (rows, *steps, *self._evaluator.shape(buffer.dims))
                    arrays[name] = np.empty(shape, self._evaluator.dtype(buffer.dtype))
                case Role.ONCE | Role.SEQUENCE:
                    pass
        return _Call(frame, arrays, rows, end - begin)

    def _chunk(self, stage: Chunk) -> Run:
        form, lead = stage.form, len(stage.form.shared)
        kept = {"rows": form.rows, "columns": form.columns, "none": ()}[form.decay_along]
        whole = (*form.shared, *form.rows, *form.columns)
        dims = stage.carries[0].dims
        factors = {p: None if isinstance(f, ir.Const) else self._of_steps(f, form.shared, (), kept)
                   for p, f in form.decays.items()}  # fmt: skip
        writes = [
            (
                [self._operand(k, form, w.rank, form.rows) for k in w.keys],
                [self._operand(p, form, w.rank, form.rows) for p in w.probes],
                self._operand(w.value, form, w.rank, form.columns),
            )
            for w in form.writes
        ]
        reads = [(self._of_steps(r.query, form.shared, r.rank, form.rows), r.state, r.now) for r in stage.readouts]
        writers = [(self._writer(r.name, (*form.shared, *r.rank, *form.columns)), r.rank) for r in stage.readouts]
        arrange, back = arrangement(dims, whole), arrangement(whole, dims)
        shape, columns = self._evaluator.shape(whole), self._evaluator.shape(form.columns)
        finals = dict(self._finals(stage.carries))

        def run(call: _Call) -> None:
            def of(value: Callable[[_Call], Array] | None) -> Array | None:
                return None if value is None else value(call)

            def each(values: Sequence[Callable[[_Call], Array] | None]) -> tuple[Array | None, ...]:
                return tuple(of(v) for v in values)

            operands = Operands(
                {p: None if f is None else f(call)[..., 0, :] for p, f in factors.items()},
                form.paths,
                form.decay_along == "columns",
                tuple(Lines(each(keys), each(probes), of(value)) for keys, probes, value in writes),
                tuple((query(call), state, now) for query, state, now in reads),
            )
            starts: list[Array] = []
            for carry in stage.carries:
                state = arrange(call.frame.values[f"{carry.name}@initial", 0])[:, 0]
                state = np.broadcast_to(state, (call.batch, *shape))
                starts.append(state.reshape(*state.shape[: 1 + lead], -1, math.prod(columns)))
            found, states = chunkwise(operands, starts, call.steps)
            for (write, rank), value in zip(writers, found, strict=True):
                value = np.moveaxis(value, -3, 1)
                write(call, value.reshape(*value.shape[:-2], *self._evaluator.shape(rank), *columns))
            for carry, state in zip(stage.carries, states, strict=True):
                last = back(np.broadcast_to(state, starts[0].shape).reshape(call.batch, 1, *shape))
                if carry.name in finals:
                    call.frame.values[finals[carry.name], 0] = last
                    store(call.arrays[finals[carry.name]], last[:, 0])

        return run

    def _joint(self, stage: JointChunk) -> Run:
        runs = [self._chunk(part) for part in stage.parts]

        def run(call: _Call) -> None:
            for part in runs:
                part(call)

        return run

    def _operand(self, expr: ir.Expr | None, form: LowRank, rank: Dims, dims: Dims) -> Callable[[_Call], Array] | None:
        return None if expr is None else self._of_steps(expr, form.shared, rank, dims)

    def _of_steps(self, expr: ir.Expr, shared: Dims, rank: Dims, dims: Dims) -> Callable[[_Call], Array]:
        """An operand of a chunk, `(B or 1, *shared or 1, T, places along rank, places along dims)`."""
        value = self._evaluator.aligned(expr, (*shared, *rank, *dims))
        sizes = tuple(math.prod(self._evaluator.shape(d)) for d in (rank, dims))

        def of(call: _Call) -> Array:
            array = value(call.frame)
            array = np.broadcast_to(array, (array.shape[0], call.steps, *array.shape[2:]))
            return np.moveaxis(array.reshape(*array.shape[: 2 + len(shared)], *sizes), 1, -3)

        return of


_GUESSES = ("guess", "next")


def _rows(which: NDArray[np.bool_], yes: Array, no: Array | None) -> Array:
    """`(B, T, *dims)`: for sequences that are among `which` those of `yes`, else those of `no`."""
    return yes if no is None else np.where(which.reshape(-1, *(1,) * (yes.ndim - 1)), yes, no)


def _delayed(body: Sequence[ir.Equation], carried: set[str]) -> tuple[str, ...]:
    """The buffers a body reads one step back."""
    return tuple(dict.fromkeys(r.name for e in body for r in ir.reads(e.expr) if r.lag == 1 and r.name not in carried))


class PlanBackend:
    """`backend="numpy"`."""

    name = "numpy"
    real_only = False

    def unavailable(self) -> str | None:
        return None

    def limitations(self, plan: Plan, spec: Specialization) -> list[str]:
        return []

    def build(self, plan: Plan, spec: Specialization) -> Kernel:
        return PlanKernel(plan, spec)


BACKEND = PlanBackend()
__all__ = ["BACKEND", "PlanBackend", "PlanKernel", "prefix_scan"]
