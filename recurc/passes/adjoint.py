"""Differentiate: the backward pass of a recurrence, which is one too, and runs from the last step to the first.

For states s with s_t = f(s_{t-1}, x_t, p) and outputs y_t = g(s_t, s_{t-1}, x_t, p), a loss L and lambda_t = dL/ds_t:

    lambda_t   = (df_{t+1}/ds_t)^T lambda_{t+1} + (what the outputs of steps t and t + 1 add)    lambda_T: what is given
    dL/dx_t    = (df_t/dx)^T lambda_t + (dg_t/dx)^T dL/dy_t
    dL/dp      = sum over t of (df_t/dp)^T lambda_t + (dg_t/dp)^T dL/dy_t
    dL/ds_0    = (df_1/ds_0)^T lambda_1 + ...

(reverse accumulation, Griewank and Walther, *Evaluating Derivatives*, 2008, through a recurrence). So `back` has, for
each state s, a state `d_s` that holds before step t what is known of dL/ds_t and after it that of dL/ds_{t-1}; it
starts from the derivative by the final state and ends as that by the initial one. For each param p it has a state
`d_p`, a sum, and for each input x an output `d_x`. It reads inputs and params of the recurrence, the states before each
step, `s_prev`, which `forward` puts out, and the derivatives by the outputs, `d_y`. Values of a step are computed again
from these; nothing of it is sequential.

Two small parts stand beside it. `late`: values that read the state after the last step, `S[T]`; what it finds is given
to `back`. `start`: initial values that are computed from params; what `back` finds of them is given to `start`.

Derivatives by complex numbers are those of `recurc.calculus.cotangents`: by the real part and, times i, that by the
imaginary part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from recurc import build
from recurc.calculus import simplify
from recurc.differentiate import adjoints
from recurc.errors import UnsupportedError
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Equation,
    Expr,
    Final,
    Input,
    Param,
    Read,
    Recurrence,
    State,
    Step,
    late_equations,
    reads,
    rewrite,
)
from recurc.ops import TypeProblem, convert
from recurc.passes.bounds import bounds
from recurc.passes.canonicalize import folded
from recurc.passes.dependence import needed
from recurc.passes.expand import expand, lag_name, shift_states
from recurc.passes.resets import resets
from recurc.passes.terms import fresh
from recurc.passes.verify import used_names
from recurc.types import Dims, DType, Kind


class NothingToDeriveError(UnsupportedError):
    """Results that depend on no real or complex number."""


@dataclass(frozen=True, slots=True)
class Part:
    """A recurrence of a backward pass, by the names of the recurrence it belongs to. `given`: its inputs and params
    that hold derivatives; `found`: its outputs (of inputs) and final states (of states and params) that do."""

    rec: Recurrence
    given: Mapping[str, str]
    found: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Adjoint:
    """A backward pass. `forward` is the recurrence itself with what the pass reads of it as further outputs, the
    `saved`, which are inputs of `back` (or of `late`) by the same names. The mappings name, for those that have a
    derivative, what holds it: for each output an input of `back` and `late`, for each input an output of `back`, for
    each param and state a state of `back`. Among the states are those that hold earlier values of a state or an input
    (`NAME@lagK`). `previous` says which of the saved is the value of which state before the step."""

    forward: Recurrence
    back: Recurrence
    saved: tuple[str, ...]
    previous: Mapping[str, str]
    cotangents: Mapping[str, str]
    inputs: Mapping[str, str]
    params: Mapping[str, str]
    states: Mapping[str, str]
    late: Part | None = None
    start: Part | None = None

    @property
    def given(self) -> frozenset[str]:
        """The values of the recurrence that the pass reads, and names of its own."""
        return frozenset(i.name for i in self.back.inputs)

    @property
    def carried(self) -> dict[str, Dims]:
        """The dims of every state that has a derivative."""
        dims = {s.name: s.dims for s in self.back.states}
        return {name: dims[own] for name, own in self.states.items()}


def differentiable(dtype: DType) -> bool:
    return dtype.kind in (Kind.REAL, Kind.COMPLEX)


def adjoint(rec: Recurrence, first: Adjoint | None = None, taken: Collection[str] = ()) -> Adjoint:
    """The backward pass of `rec`, a recurrence as the front end gives it. With `first`, that pass, one for second
    derivatives: what `first` saves depends on the arguments too, so it counts as further outputs, and the cotangents
    have names for it. `taken` are names that new values must not have. Raises `UnsupportedError` for an operation that
    has no derivative."""
    try:
        return _Differentiation(rec, first, taken).run()
    except TypeProblem as problem:
        raise UnsupportedError(f"the adjoint of {rec.name}: {problem}") from problem


class _Differentiation:
    def __init__(self, rec: Recurrence, first: Adjoint | None, taken: Collection[str]) -> None:
        self.source = rec
        self.taken = used_names(rec).union(taken)
        self.core = self._prepared(rec)
        self.taken |= used_names(self.core)
        self.states = {s.name: s for s in self.core.states}
        self.late = late_equations(self.core)
        self.early = [replace(e, expr=self._stored(e)) for e in self.core.equations if e.name not in self.late]
        self.types: dict[str, tuple[Dims, DType]] = {v.name: (v.dims, v.dtype) for v in self.core.inputs}
        self.types |= {p.name: (p.dims, p.dtype) for p in self.core.params}
        self.types |= {e.name: (e.expr.dims, e.expr.dtype) for e in self.core.equations}
        self.types |= {s.name: (s.dims, s.dtype) for s in self.core.states}
        self.previous: dict[str, str] = {}  # state -> the input that is its value before the step
        self.further: dict[str, str] = {}  # state -> the derivative by that, where it counts as an output
        self.step: str | None = None
        if first is not None:
            self.taken |= set(first.saved)
            self.previous |= first.previous
            self.step = next((n for n in first.saved if n not in first.previous.values()), None)
            self.further = {
                s: self.fresh(f"d_{n}") for s, n in first.previous.items() if differentiable(self.types[s][1])
            }

    def fresh(self, hint: str) -> str:
        name = fresh(hint.replace("@", "_"), self.taken)
        self.taken.add(name)
        return name

    # --- the recurrence in the form that is differentiated

    def _prepared(self, rec: Recurrence) -> Recurrence:
        """Core operators, no resets, and states instead of inputs that are read at an earlier step."""
        rec = bounds(resets(expand(rec)))
        self.lags = {name: (origin, int(name.partition("@lag")[2]) + 1) for name, origin in shift_states(rec).items()}
        delayed = {i.name: i for i in rec.inputs if i.before is not None}
        names = {n: lag_name(n, 0) for n in delayed}
        self.lags |= {held: (n, 1) for n, held in names.items()}

        def moved(node: Expr) -> Expr:
            again = isinstance(node, Read) and node.lag and node.name in names
            return replace(node, name=names[node.name]) if again and isinstance(node, Read) else node

        states = [*rec.states]
        equations = [Equation(e.name, rewrite(e.expr, moved), e.span) for e in rec.equations]
        for name, held in names.items():
            origin = delayed[name]
            assert origin.before is not None
            first = convert(origin.before, origin.dtype)
            states.append(State(held, origin.dims, origin.dtype, first, origin.span, origin.bound))
            equations.append(Equation(held, Read(name, 0, origin.dims, origin.dtype, origin.span), origin.span))
        inputs = tuple(replace(i, before=None) for i in rec.inputs)
        return replace(rec, inputs=inputs, states=tuple(states), equations=tuple(equations), reset=None)

    # --- the parts

    def run(self) -> Adjoint:
        doubled = {*self.states, *(i.name for i in self.core.inputs)}  # which have a derivative to be found, too
        outputs = [o for o in self.core.outputs if differentiable(self.types[o][1])]
        self.given = {o: self.fresh(f"d_{o}_out" if o in doubled else f"d_{o}") for o in outputs}
        late = self._late()
        back = self._back()
        if not (self._states or self._inputs or self._params):
            raise NothingToDeriveError(
                f"the adjoint of {self.source.name}: it has no real or complex numbers to derive by"
            )
        start = self._start()
        forward = self._forward()
        saved = forward.outputs[len(self.source.outputs) :]
        given = self.given | {self.previous[s]: n for s, n in self.further.items()}
        return Adjoint(
            forward, back, saved, self.previous, given, self._inputs, self._params, self._states, late, start
        )

    def _forward(self) -> Recurrence:
        """The source, which puts out what states were before each step too."""
        made = [] if self.step is None else [Equation(self.step, Step())]
        for state, name in self.previous.items():
            origin, lag = self.lags.get(state, (state, 1))
            made.append(Equation(name, Read(origin, lag, *self.types[state])))
        outputs = (*self.source.outputs, *(e.name for e in made))
        return replace(self.source, equations=(*self.source.equations, *made), outputs=outputs)

    def _back(self) -> Recurrence:
        core, early = self.core, self.early
        carried = {s.name: self.fresh(f"d_{s.name}") for s in core.states if differentiable(s.dtype)}
        seeds: list[tuple[Expr, Expr]] = [(r, replace(r, name=n, lag=0)) for r, n in self.handed.items()]
        sources = [Input(n, r.dims, r.dtype) for r, n in self.handed.items()]
        sources += [Input(n, *self.types[o]) for o, n in self.given.items() if o not in self.late]
        for name, held in carried.items():
            dims, dtype = self.types[name]
            seeds.append((self._read(name), Read(held, 1, dims, dtype)))
        for output, name in self.given.items():
            if output not in self.late:
                dims, dtype = self.types[output]
                seeds.append((self._read(output), Read(name, 0, dims, dtype)))
        for state, name in self.further.items():
            dims, dtype = self.types[state]
            seeds.append((Read(state, 1, dims, dtype), Read(name, 0, dims, dtype)))
            sources.append(Input(name, dims, dtype))
        old = [Read(s, 1, *self.types[s]) for s in carried]
        now = [self._read(v.name) for v in (*core.inputs, *core.params) if differentiable(v.dtype)]
        found = adjoints(early, seeds, [*old, *now], self.fresh, {e.expr: self._read(e.name) for e in early})
        values = dict(zip((*carried, *(r.name for r in now)), found.values, strict=True))
        params = {p.name for p in core.params}
        states: list[State] = []
        made: list[Equation] = []
        self._states, self._inputs, self._params = carried, dict[str, str](), dict[str, str]()
        for name, value in values.items():
            dims, dtype = self.types[name]
            if name in carried:
                states.append(_zero(carried[name], dims, dtype))
                made.append(Equation(carried[name], value))
            elif not _nothing(value):
                target = self.fresh(f"d_{name}")
                if name in params:
                    states.append(_zero(target, dims, dtype))
                    value = _sum(target, value, self._read(name))
                    self._params[name] = target
                else:
                    self._inputs[name] = target
                made.append(Equation(target, value))
        kept = needed([*early, *found.equations, *made], {e.name for e in made})
        outputs = tuple(self._inputs.values()) or tuple(e.name for e in made[:1])
        return self._of_step("adjoint", kept, states, outputs, sources)

    def _late(self) -> Part | None:
        """What the values that read final states hand to the others, and to those states."""
        self.handed: dict[Read, str] = {}  # what they read of a step, and the input of `back` with its derivative
        asked = {o: n for o, n in self.given.items() if o in self.late}
        if not asked:
            return None
        finals: dict[str, Read] = {}

        def held(node: Expr) -> Expr:
            if not isinstance(node, Final):
                return node
            if node.name not in finals:
                finals[node.name] = Read(self.fresh(f"{node.name}_end"), 0, node.dims, node.dtype)
            return finals[node.name]

        equations = [
            Equation(e.name, rewrite(e.expr, held), e.span) for e in self.core.equations if e.name in self.late
        ]
        used = dict.fromkeys(replace(r, span=None) for e in equations for r in reads(e.expr) if r.name not in self.late)
        wanted = [r for r in used if differentiable(r.dtype)]
        seeds = [(self._read(o), Read(n, 0, *self.types[o])) for o, n in asked.items()]
        found = adjoints([*self.early, *equations], seeds, wanted, self.fresh)
        sums = {r.name: s for s, r in finals.items()} | {p.name: p.name for p in self.core.params}
        states, made, totals = list[State](), list[Equation](), dict[str, str]()
        for read, value in zip(wanted, found.values, strict=True):
            if _nothing(value):
                continue
            target = self.fresh(f"d_{read.name}_late")
            if read.name in sums:
                states.append(_zero(target, read.dims, read.dtype))
                value = _sum(target, value, read)
                totals[sums[read.name]] = target
            else:
                self.handed[read] = target
            made.append(Equation(target, value))
        kept = needed([*self.early, *equations, *found.equations, *made], {e.name for e in made})
        outputs = tuple(self.handed.values()) or tuple(e.name for e in made[:1])
        sources = [Input(n, *self.types[o]) for o, n in asked.items()]
        rec = self._of_step("late", kept, states, outputs, sources, tuple(finals.values()))
        return Part(rec, {s: r.name for s, r in finals.items()}, totals)

    def _start(self) -> Part | None:
        """What initial values that are computed hand to the params they are computed from."""
        given = {s: self.fresh(f"d_{s}_first") for s in self._states if any(reads(self.states[s].initial))}
        if not given:
            return None
        seeds = [
            (convert(self.states[s].initial, self.states[s].dtype), Read(n, 0, *self.types[s]))
            for s, n in given.items()
        ]
        wanted = [self._read(p.name) for p in self.core.params if differentiable(p.dtype)]
        found = adjoints([], seeds, wanted, self.fresh)
        values = {r.name: v for r, v in zip(wanted, found.values, strict=True) if not _nothing(v)}
        if not values:
            return None
        outputs = {name: self.fresh(f"d_{name}_first") for name in values}
        made = [Equation(outputs[name], value) for name, value in values.items()]
        sources = [Input(n, *self.types[s]) for s, n in given.items()]
        kept = needed([*found.equations, *made], set(outputs.values()))
        return Part(self._of_step("start", kept, [], tuple(outputs.values()), sources), given, outputs)

    # --- their parts

    def _read(self, name: str) -> Read:
        return Read(name, 0, *self.types[name])

    def _stored(self, equation: Equation) -> Expr:
        """What an equation defines, with the dims and the type of the state that has its name."""
        state, expr = self.states.get(equation.name), equation.expr
        if state is None:
            return expr
        expr = convert(expr, state.dtype)
        if set(expr.dims) != set(state.dims):
            return build.broadcast(expr, state.dims)
        return expr if expr.dims == state.dims else build.permute(expr, state.dims)

    def _of_step(
        self, kind: str, equations: Sequence[Equation], states: Sequence[State], outputs: tuple[str, ...],
        sources: Sequence[Input], ends: Sequence[Read] = (),
    ) -> Recurrence:  # fmt: skip
        """A recurrence of these, with inputs for the states before each step and for the index of the step."""
        own = {s.name for s in states}
        further: dict[str, Input] = {}

        def held(node: Expr) -> Expr:
            if isinstance(node, Apply):
                return folded(node) or node
            if isinstance(node, Step):
                self.step = self.step or self.fresh("step")
                further[self.step] = Input(self.step, (), DType.I64)
                return Read(self.step, 0, (), DType.I64, node.span)
            if not isinstance(node, Read) or node.name in own or not node.lag:
                return node
            if node.name not in self.previous:
                self.previous[node.name] = self.fresh(f"{node.name}_prev")
            name = self.previous[node.name]
            further[name] = Input(name, node.dims, node.dtype, bound=self.states[node.name].bound)
            return replace(node, name=name, lag=0)

        equations = [Equation(e.name, rewrite(e.expr, held), e.span) for e in equations]
        used = {r.name for e in equations for r in reads(e.expr)}
        params = [replace(p, init=None) for p in self.core.params if p.name in used]
        return Recurrence(
            f"{self.core.name}_{kind}",
            self.core.dims,
            inputs=tuple(i for i in (*self.core.inputs, *further.values(), *sources) if i.name in used),
            params=(*params, *(Param(r.name, r.dims, r.dtype) for r in ends)),
            states=tuple(states),
            equations=tuple(equations),
            outputs=outputs,
        )


def _zero(name: str, dims: Dims, dtype: DType) -> State:
    return State(name, dims, dtype, convert(Const(0.0, DType.REAL), dtype))


def _sum(name: str, value: Expr, like: Read) -> Expr:
    """What a state that adds up `value` is after a step."""
    return convert(simplify.add(Read(name, 1, like.dims, like.dtype), value), like.dtype)


def _nothing(value: Expr) -> bool:
    """Whether a derivative is zero everywhere."""
    while isinstance(value, Broadcast):
        value = value.arg
    return simplify.is_zero(value) or (isinstance(value, Const) and value.value == 0)
