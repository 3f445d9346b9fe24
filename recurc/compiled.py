"""`Compiled`: a recurrence as a function on arrays: checks what it is given, specialises once per sizes, calls kernels.

A call goes through: receive (arrays as they are) -> settle (sizes, batch, T, dtype) -> prepare (kernel arrays) ->
kernel -> publish. Calls that look like an earlier one take the way of `recurc.runtime.bound` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from recurc import ir
from recurc.arguments import (
    Seen,
    Settled,
    Slot,
    check_count,
    check_flag,
    check_initial,
    check_names,
    check_range,
    need_sizes,
    real_dtype,
    settle,
    slots_of,
    whole_numbers,
    with_defaults,
)  # fmt: skip
from recurc.backends.base import Specialization
from recurc.backends.reference import value_types
from recurc.errors import RecurcError, ShapeError, UnsupportedError
from recurc.options import CALL_OPTIONS, Options
from recurc.passes import resume
from recurc.passes.with_maxima import WithMaxima, with_maxima
from recurc.runtime import bound, ends, torch_ops
from recurc.runtime.host import HostKit, published
from recurc.runtime.kit import Kit
from recurc.runtime.memory import enough
from recurc.runtime.results import result_type
from recurc.runtime.run import Run
from recurc.runtime.specialize import STEP, Builder, Built, Value
from recurc.types import Dims, DType, literal_size

if TYPE_CHECKING:
    from recurc.checkpoints import CheckpointedPullback, Segments
    from recurc.in_range import InRange
    from recurc.plan import Plan
    from recurc.vjp import Differentiated, Pullback

_Prepare = Callable[[str, "_Argument"], Any]
OperatorKey = tuple[str, tuple[str, ...], tuple[ends.GaugeEnds, ...], tuple[ends.TopEnds, ...]]
_MOST_SIGNATURES = 256  # fast ways kept per compiled recurrence


@dataclass(frozen=True)
class _Argument:
    """What a caller gave for one kernel buffer, as received."""

    slot: Slot
    array: Any
    seen: Seen
    tensor: bool = False


class Compiled:
    """A compiled recurrence. Call it with the inputs and params by name; see `Recurrence.compile`."""

    def __init__(self, rec: ir.Recurrence, options: Options, defaults: Mapping[str, Any] | None = None) -> None:
        self._rec, self._options = rec, options
        self._defaults = dict(defaults or {})  # params a call may leave out
        self._slots, self._types = slots_of(rec), value_types(rec)
        self._reads_final = resume.reads_final(rec)
        self._builder = Builder(rec, options.backend, options.schedule, options.device)
        self._sizes: dict[str, int] = with_defaults(rec, options.sizes)
        self._last: Built | None = None
        self._fast: dict[Any, bound.BoundCall] = {}
        self._differentiated: Differentiated | None = None
        self._inner: Compiled | None = None  # what runs a segment; made here, as torch.compile cannot make it
        if options.memory == "minimal":
            self._inner = Compiled(self._in_range.rec, replace(options, memory="fast"), self._defaults)
        self._operator_keys: dict[bool, OperatorKey] = {}
        self._result: Any = None
        if len(rec.outputs) > 1:
            self._result = result_type(rec.name, rec.outputs)
        if options.schedule != "auto":
            self._builder.check_schedule()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled as what it was compiled from: kernels belong to a process and lie in the cache."""
        return Compiled, (self._rec, self._options, self._defaults), {"_sizes": self._sizes}

    # --- calling ---------------------------------------------------------------------------------------------

    def __call__(
        self,
        /,
        *positional: Any,
        initial: Mapping[str, Any] | None = None,
        return_final: bool = False,
        reverse: bool = False,
        lengths: Any = None,
        cu_seqlens: Any = None,
        steps: int | None = None,
        **arrays: Any,
    ) -> Any:
        """Runs all T steps.

        Inputs are `(*batch, T, *dims)` (`(T, *batch, *dims)` with `layout="TB"`), params `(*dims)` or
        `(*batch, *dims)`, `initial` maps states to `(*batch, *dims)`. Returns the output `(*batch, T, *dims)`, or a
        named tuple of several; with `return_final` a pair of that and a dict of the states after the last step, from
        which a further call goes on as `initial`.
        `reverse` runs from the last step to the first. `lengths (*batch)`: row i has `lengths[i]` steps; outputs
        behind them are zero, the final states are those at each row's end. `cu_seqlens (n + 1)`: T holds n sequences
        one after another, without batch dims; initial and final states are `(n, *dims)`. `steps`: how many, for a
        recurrence without inputs.
        Raises `ShapeError` for arrays that do not fit, naming the argument, what it should be and what it is."""
        if positional:
            self._check_named(positional)
        if return_final is not True and return_final is not False:
            return_final = check_flag("return_final", return_final)
        if reverse is not True and reverse is not False:
            reverse = check_flag("reverse", reverse)
        if self._defaults:
            arrays = {**self._defaults, **arrays}
        if torch_ops.is_compiling():
            given = (arrays, initial or {}, reverse, lengths, cu_seqlens, steps)
            return self._by_operator(given, return_final)
        if lengths is None and cu_seqlens is None and steps is None:
            key = bound.signature(arrays, initial, return_final, reverse)
            if key is not None:
                ready = self._fast.get(key)
                if ready is not None:
                    self._last = ready.built
                    return ready(arrays, initial)
        else:
            key = None
            if lengths is not None and cu_seqlens is not None:
                raise ShapeError("give either lengths (a ragged batch) or cu_seqlens (packed sequences), not both")
            if steps is not None:
                steps = check_count("steps", steps)
        values = [*arrays.values(), *(initial.values() if isinstance(initial, Mapping) else ())]
        if torch_ops.is_for_operator(values):
            return self._by_operator((arrays, initial or {}, reverse, lengths, cu_seqlens, steps), return_final)
        with enough(f"a call of {self._rec.name}"):
            return self._run_slowly(
                arrays, {} if initial is None else initial, return_final, reverse, lengths, cu_seqlens, steps, key
            )

    def vjp(
        self,
        /,
        *positional: Any,
        initial: Mapping[str, Any] | None = None,
        return_final: bool = False,
        reverse: bool = False,
        lengths: Any = None,
        cu_seqlens: Any = None,
        steps: int | None = None,
        **arrays: Any,
    ) -> tuple[Any, Pullback | CheckpointedPullback | InRange]:
        """Runs all T steps, as a call does, and keeps what derivatives take: the result of the call, and a function
        that makes derivatives of a loss by the results into those by the arguments (reverse mode; `Pullback`):

            y, pullback = f.vjp(x=x, W=W, initial={"h": h})
            found = pullback(2 * y)        # of the loss sum(y * y): found["x"], found["W"], found["initial"]["h"]

        Raises `UnsupportedError` for a recurrence that has no derivative, and what a call raises."""
        self._check_named(positional)
        options: dict[str, Any] = {"reverse": reverse, "lengths": lengths, "cu_seqlens": cu_seqlens, "steps": steps}
        tops = self._tops()
        start = initial or {}
        if tops:
            check_initial(self._rec, self._builder.continuable, start)
            start = ends.begun(tops, start)
        if self._options.memory != "minimal":
            (result, finals), pullback = self.differentiated(arrays, start, True, **options)
        else:
            from recurc import checkpoints

            outputs, finals, pullback = checkpoints.vjp(self._segments({**self._defaults, **arrays}, options), start)
            result = self._pack(tuple(outputs), finals, False)
        if tops:
            from recurc.in_range import InRange

            return ((result, ends.whole(tops, finals)) if return_final else result), InRange(pullback, tops, finals)
        return ((result, finals) if return_final else result), pullback

    def _check_named(self, positional: Sequence[Any]) -> None:
        if positional:
            wanted = ", ".join(f"{name}=..." for name in self._slots)
            raise ShapeError(f"arrays are given to {self._rec.name} by name: call it with {wanted}")

    def _run_slowly(
        self,
        arrays: Mapping[str, Any],
        initial: Mapping[str, Any],
        return_final: bool,
        reverse: bool,
        lengths: Any,
        cu_seqlens: Any,
        steps: int | None,
        key: Hashable,
    ) -> Any:
        """A call with everything checked; `key`, if there is one, leads further calls like it to the fast way."""
        kit, given = self._receive(arrays, initial)
        settled, prepare = self._settle(kit, given, cu_seqlens is not None, steps)
        prepared = {name: prepare(name, argument) for name, argument in given.items()}
        builder = self._builder.started if f"{STEP}@initial" in given and self._builder.counts_steps else self._builder
        on_device = not isinstance(kit, HostKit)
        built = builder.build(settled, on_device)
        self._last, self._sizes = built, dict(settled.sizes)
        run = Run(self._rec, builder, built, kit, settled, self._options.layout, reverse)
        held = partial(builder.build_held, settled, on_device) if return_final or self._reads_final else None
        self._check_ranges(given, settled, lengths)
        if cu_seqlens is not None:
            outputs, finals = run.packed(prepared, cu_seqlens, held)
        elif lengths is not None:
            outputs, finals = run.ragged(prepared, lengths, held)
        else:
            outputs, finals = run.uniform(prepared)
            if key is not None and all(a.slot.bound is None for a in given.values()):
                self._remember(key, run, given, prepared, prepare, return_final)
        return self._pack(outputs, finals, return_final)

    def _remember(
        self,
        key: Hashable,
        run: Run,
        given: Mapping[str, _Argument],
        prepared: Mapping[str, Any],
        prepare: _Prepare,
        return_final: bool,
    ) -> None:
        """Keeps the fast way for further calls of this signature, if the kernel offers one."""

        def received(name: str, argument: _Argument) -> bound.Received:
            slot = argument.slot
            flipped = run.reverse and slot.role == "input"

            def again(value: Any) -> Any:
                array = prepare(name, _Argument(slot, *run.kit.receive(slot, value)))
                return run.kit.flip(array) if flipped else array

            return bound.Received(argument.array, argument.tensor, again)

        ready = bound.bind(run, {n: received(n, a) for n, a in given.items()}, prepared, self._pack, return_final)
        if ready is not None:
            if len(self._fast) >= _MOST_SIGNATURES:
                self._fast.clear()
            self._fast[key] = ready

    def _pack(self, outputs: tuple[Any, ...], finals: dict[str, Any], return_final: bool) -> Any:
        """The results as the caller gets them."""
        result = outputs[0] if self._result is None else self._result(*outputs)
        return (result, finals) if return_final else result

    def _receive(self, arrays: Mapping[str, Any], initial: Mapping[str, Any]) -> tuple[Kit, dict[str, _Argument]]:
        """The arguments as arrays of one library, by kernel buffer name."""
        check_names(self._rec, self._slots, arrays)
        states = self._builder.continuable
        check_initial(self._rec, states, initial)
        kit = self._kit([*arrays.values(), *initial.values()])
        slots = {name: (slot, arrays[name]) for name, slot in self._slots.items()}
        for name, value in initial.items():
            slots[f"{name}@initial"] = _initial_slot(name, states[name]), value
        given = {k: _Argument(s, *kit.receive(s, v), torch_ops.is_tensor(v)) for k, (s, v) in slots.items()}
        return kit, given

    def _kit(self, values: Sequence[Any]) -> Kit:
        tensors = [v for v in values if torch_ops.is_tensor(v)]
        device = next((v.device for v in tensors if v.device.type != "cpu"), None)
        asked = self._options.backend
        if asked in ("triton", "cuda"):
            where = device or self._options.device or torch_ops.default_device(asked)
            return torch_ops.TorchKit(where, numpy=not tensors)
        if device is not None:
            if device.type != "cuda":
                raise UnsupportedError(f"arrays on the device {device}: kernels take them on `cpu` or `cuda`")
            if asked != "auto":
                raise UnsupportedError(
                    f"the `{asked}` backend runs on arrays in host memory; these are on {device}: use `.cpu()`"
                )
            return torch_ops.TorchKit(device, numpy=False)
        if asked == "auto" and self._options.device is not None and self._options.device != "cpu":
            return torch_ops.TorchKit(self._options.device, numpy=not tensors)
        return HostKit(tensors=bool(tensors))

    def _settle(
        self, kit: Kit, given: Mapping[str, _Argument], packed: bool, steps: int | None
    ) -> tuple[Settled, _Prepare]:
        """What the arguments agree on, and the function that prepares each accordingly."""
        options = self._options
        # The sequences of a packed batch have their own initial values: `(n, *dims)`, whatever the batch is.
        apart = {k: a for k, a in given.items() if packed and a.slot.role == "initial value"}
        slots = {k: a.slot for k, a in given.items() if k not in apart}
        seen = {k: a.seen for k, a in given.items()}
        settled = settle(self._rec, slots, seen, options.layout, options.sizes, options.dtype, steps)
        sizes = dict(settled.sizes)
        for key, argument in apart.items():
            settle(self._rec, {key: argument.slot}, seen, "BT", sizes, None, 0, "the inputs and params")

        def prepare(name: str, argument: _Argument) -> Any:
            slot, have = argument.slot, argument.seen.dtype
            dims = tuple(literal_size(d) or sizes[d] for d in slot.dims)
            batch = settled.batch if name not in apart else argument.seen.shape[: len(argument.seen.shape) - len(dims)]
            want = slot.dtype.settled(settled.real)
            return kit.prepare(slot, argument.array, have, want, batch, settled.steps, dims, options.layout)

        return settled, prepare

    def _check_ranges(self, given: Mapping[str, _Argument], settled: Settled, lengths: Any) -> None:
        """Raises `ShapeError` for an element of an `int(Q)` that is not below Q."""
        limited = [a for a in given.values() if a.slot.bound is not None]
        if not limited:
            return
        batch, sizes = settled.batch, dict(settled.sizes)
        counts = None if lengths is None else whole_numbers("lengths", lengths, batch, f"(*batch,) = {batch}")
        for argument in limited:
            bound = argument.slot.bound or ""
            check_range(
                argument.slot, argument.array, literal_size(bound) or sizes[bound], self._options.layout, counts
            )

    # --- one step at a time ----------------------------------------------------------------------------------

    def init_state(self, /, batch: Sequence[int] | int = (), dtype: Any = None, **params: Any) -> dict[str, Any]:
        """The state before the first step, `(*batch, *dims)` by name, for `step`.

        Besides the states: `h@lag1`, `h@lag2`, ... (`h` so many steps before that) where longer lags are read, inputs
        that are read at earlier steps, and `t`, the index of the next step, where it is read. NumPy arrays of `dtype`
        (default: that of `compile`, else f32); `step` takes and returns whatever library its inputs are of. `params`
        are needed only where an initial value is computed from them. Raises `ShapeError`
        while a size is not known."""
        with enough("init_state()"):
            return self._initial_state(batch, dtype, params)

    def _initial_state(self, batch: Sequence[int] | int, dtype: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        real = real_dtype(dtype) or self._options.dtype or DType.F32
        several = isinstance(batch, (tuple, list))
        shape = tuple(check_count("batch", n) for n in (cast(Sequence[int], batch) if several else (batch,)))
        sizes = self._known_sizes("init_state()")
        spec = Specialization(tuple(sorted(sizes.items())), real)
        kit = HostKit(tensors=False)
        params = {**self._defaults, **params}
        if any(name not in self._slots for name in params):
            check_names(self._rec, self._slots, params)
        state: dict[str, Any] = {}
        for name, value in self._builder.continuable.items():
            needed: dict[str, Any] = {}
            for param in self._builder.initial_reads[name]:
                if param not in params:
                    raise ShapeError(f"the initial value of `{name}` is computed from `{param}`: pass it to init_state")
                slot = self._slots[param]
                array, seen = kit.receive(slot, params[param])
                found = settle(self._rec, {param: slot}, {param: seen}, "BT", sizes, None, 0, "the sizes known so far")
                lead = (1,) * (len(shape) - len(found.batch)) + found.batch
                if len(lead) > len(shape) or any(b not in (1, s) for b, s in zip(lead, shape, strict=True)):
                    raise ShapeError(f"{slot.title} has batch dims {found.batch}, init_state() was asked for {shape}")
                dims = tuple(literal_size(d) or sizes[d] for d in slot.dims)
                want = slot.dtype.settled(real)
                needed[param] = kit.prepare(slot, array, seen.dtype, want, shape, 0, dims, "BT")
            dims = tuple(literal_size(d) or sizes[d] for d in value.dims)
            stored = self._builder.default_initial(name, spec, needed)
            full = np.broadcast_to(stored, (int(np.prod(shape, dtype=np.int64)), *dims)).reshape((*shape, *dims)).copy()
            state[name] = published(full, spec.dtype(value.dtype))
        return state

    def step(self, /, state: Mapping[str, Any], **arrays: Any) -> tuple[Any, dict[str, Any]]:
        """One step: inputs `(*batch, *dims)`, params as ever; returns the outputs of that step and the next state.

        Running T steps so gives what one call over T gives; memory does not grow with T. Raises `UnsupportedError`
        for a recurrence whose outputs read final states (`S[T]`)."""
        if self._reads_final:
            raise UnsupportedError(
                f"an output of {self._rec.name} reads a final state, `S[T]`, which is not known before the last step: "
                "step() cannot give it; call it over all steps"
            )
        if not isinstance(cast(object, state), Mapping):
            raise ShapeError(f"step() takes the state as init_state() or step() gave it, got {type(state).__name__}")
        check_initial(self._rec, self._builder.continuable, state)
        for name in self._builder.continuable:
            if name not in state:
                raise ShapeError(f"the state lacks `{name}`; init_state() gives a complete one, and step() the next")
        for name in arrays:
            if name in CALL_OPTIONS:
                raise ShapeError(f"step() has no option `{name}`: it takes the state, and inputs and params by name")
        timed: dict[str, Any] = {}
        for name, value in arrays.items():
            slot = self._slots.get(name)
            timed[name] = value if slot is None or slot.role != "input" else self._with_time(slot, value)
        steps = None if self._rec.inputs else 1
        results, final = self(**timed, steps=steps, initial=state, return_final=True)
        axis = {n: 0 if self._options.layout == "TB" else -1 - len(self._types[n][0]) for n in self._rec.outputs}
        if self._result is None:
            return _without_axis(results, axis[self._rec.outputs[0]]), final
        return self._result(
            *(_without_axis(r, axis[n]) for n, r in zip(self._rec.outputs, results, strict=True))
        ), final

    def _with_time(self, slot: Slot, value: Any) -> Any:
        """`(*batch, *dims)` with a time axis of one step."""
        if isinstance(value, (bool, int, float, complex)):
            return [value]
        array: Any = value
        if not torch_ops.is_tensor(value):
            HostKit(tensors=False).receive(slot, value)  # refuses what is no array
            array = np.asarray(value)
        if array.ndim < len(slot.dims):
            wanted = ", ".join(("*batch", *slot.dims))
            raise ShapeError(f"{slot.title} should have shape ({wanted}) in one step, got {tuple(array.shape)}")
        place: list[Any] = [slice(None)] * array.ndim
        place.insert(0 if self._options.layout == "TB" else array.ndim - len(slot.dims), None)
        return array[tuple(place)]

    def __repr__(self) -> str:
        return f"<compiled {self._rec.name}: backend={self._options.backend!r}, schedule={self._options.schedule!r}>"

    def _repr_html_(self) -> str:
        """Picture, groups and plan of what the last call ran, or would run before there was one, for a notebook."""
        from recurc.explain import Case
        from recurc.notebook import compiled_html

        try:
            built = self._latest()
        except RecurcError as unknown:
            return compiled_html(self._rec, repr(self), None, None, [str(unknown)])
        about = f"on the `{built.backend}` backend"
        if built.plan is None or built.target is None:
            return compiled_html(self._rec, about, None, None, ["every equation as written, step by step, in float64"])
        case = Case(dict(built.spec.sizes), built.batch, built.steps, built.spec.real, built.target, self._rec)
        return compiled_html(self._rec, about, built.plan, case, list(self._builder.announced))

    # --- derivatives and torch -------------------------------------------------------------------------------

    @property
    def differentiated(self) -> Differentiated:
        """This recurrence with its backward pass; `UnsupportedError` if it has none."""
        if self._differentiated is None:
            from recurc.vjp import Differentiated

            self._differentiated = Differentiated(self._in_range.rec, self._options, self._defaults)
        return self._differentiated

    @cached_property
    def _in_range(self) -> WithMaxima:
        """What is differentiated: this recurrence with its sums of exponentials beside running maxima."""
        return with_maxima(self._rec)

    def _tops(self) -> tuple[ends.TopEnds, ...]:
        """The states that it holds beside maxima."""
        return ends.top_ends(self._in_range)

    cast(Any, _tops)._dynamo_marked_constant = True

    def _by_operator(self, given: tuple[Any, ...], return_final: bool) -> Any:
        """A call on tensors by the operator that torch knows."""
        arrays, initial, reverse, lengths, cu_seqlens, steps = given
        values = [*arrays.values(), *initial.values()]
        if self._options.memory == "minimal" and torch_ops.wants_derivative(values):
            from recurc import checkpoints

            options = {"reverse": reverse, "lengths": lengths, "cu_seqlens": cu_seqlens, "steps": steps}
            tops = self._tops()
            outputs, finals = checkpoints.on_tensors(self._segments(arrays, options), ends.begun(tops, initial))
            return self._pack(tuple(outputs), ends.whole(tops, finals) if return_final else {}, return_final)
        from recurc import torch_function

        outputs, finals = torch_function.call(self, *given, return_final=return_final)
        return self._pack(tuple(outputs[: len(self._rec.outputs)]), finals, return_final)

    def _segments(self, arrays: Mapping[str, Any], options: dict[str, Any]) -> Segments:
        """A call of `memory="minimal"`, in segments of time."""
        from recurc.checkpoints import Segments

        assert self._inner is not None
        return Segments(self, self._inner, arrays, options.pop("reverse"), options)

    def operator_key(self, differentiable: bool) -> OperatorKey:
        """What the operator knows it by, the names of the final states, and what becomes of states at both ends of a
        call; `differentiable`: with what its backward pass reads."""
        if differentiable not in self._operator_keys:
            from recurc import torch_function

            whole = self.differentiated if differentiable else None
            run = self if whole is None else whole.forward
            found = () if whole is None else whole.gauges, () if whole is None else self._tops()
            self._operator_keys[differentiable] = torch_function.key_of(run, whole), run.final_names, *found
        return self._operator_keys[differentiable]

    cast(Any, operator_key)._dynamo_marked_constant = True  # torch.compile takes its result and does not look inside

    @property
    def recurrence(self) -> ir.Recurrence:
        return self._rec

    @property
    def options(self) -> Options:
        return self._options

    def schedules(self, batch: Sequence[int], steps: int, on_device: bool) -> tuple[str, ...]:
        """Those of the groups of states in a call on float32 of that batch and T; all dims have sizes."""
        settled = Settled(tuple(sorted(self.sizes.items())), tuple(batch), steps, self._options.dtype or DType.F32)
        return self._builder.schedules(settled, on_device)

    @property
    def final_names(self) -> tuple[str, ...]:
        """What a call with `return_final` returns values of."""
        return tuple(self._builder.continuable)

    @property
    def output_types(self) -> list[tuple[Dims, DType]]:
        return [self._types[o] for o in self._rec.outputs]

    @property
    def final_types(self) -> list[tuple[Dims, DType]]:
        return [(v.dims, v.dtype) for v in self._builder.continuable.values()]

    def slots(self, names: Sequence[str]) -> dict[str, Slot]:
        """The arrays that a call takes, of those named; `NAME@initial` for initial values."""
        states = self._builder.continuable
        starts = {n: n.removesuffix("@initial") for n in names if n.endswith("@initial")}
        return {n: _initial_slot(starts[n], states[starts[n]]) if n in starts else self._slots[n] for n in names}

    # --- looking inside --------------------------------------------------------------------------------------

    def _known_sizes(self, purpose: str) -> dict[str, int]:
        need_sizes(self._rec, self._sizes, purpose, "compile(sizes=dict({}))")
        return self._sizes

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of dims that are known: those that were given, defaults, and those of the last call."""
        return dict(self._sizes)

    def _latest(self) -> Built:
        """What the last call ran; before the first one, what a call of typical length would run."""
        if self._last is None:
            self._last = self._builder.plan_for(self._known_sizes("a plan"), self._options.dtype or DType.F32)
        return self._last

    @property
    def plan(self) -> Plan:
        """The plan of the last call (or a typical one, before it); the reference has none: `UnsupportedError`."""
        plan = self._latest().plan
        if plan is None:
            raise UnsupportedError("the reference backend evaluates the equations as they stand: it has no plan")
        return plan

    @property
    def source(self) -> dict[str, str]:
        """Generated text by file name; empty for backends that interpret."""
        return self._latest().kernel.source

    @property
    def backend(self) -> str:
        """The backend that runs: the one asked for, or what `auto` settled on."""
        return self._latest().backend

    @property
    def rounds(self) -> dict[str, Any]:
        """Of the kernel's last run, by the states that Newton's method solves (`"h, c"`): how many rounds each sequence
        took, 0 where none sufficed and the loop ran instead, as int32 (sequences). Empty without that schedule."""
        return dict(getattr(self._latest().kernel, "rounds", {}))

    def explain(self) -> str:
        """What runs and why: backend, groups of states with their classes and schedules, stages, detours."""
        from recurc.explain import Case, to_text

        built = self._latest()
        lines = [f"{self._rec.name} on the `{built.backend}` backend", *(f"note: {n}" for n in self._builder.announced)]
        lines += [_rounds_taken(states, rounds) for states, rounds in self.rounds.items()]
        if built.plan is None or built.target is None:
            return "\n".join([*lines, "every equation as written, step by step, in float64"])
        case = Case(dict(built.spec.sizes), built.batch, built.steps, built.spec.real, built.target, self._rec)
        return "\n".join([*lines, to_text(built.plan, case)])


def _rounds_taken(states: str, rounds: Any) -> str:
    """What became of the sequences of a run, of which each took so many rounds, or 0."""
    solved = rounds[rounds > 0]
    found = [f"{solved.size} solved in {solved.min()} to {solved.max()} rounds"] if solved.size else []
    found += [f"{rounds.size - solved.size} by the loop"] if solved.size < rounds.size else []
    return f"Newton's method for {states}: of {rounds.size} sequences of the last run, {', '.join(found)}"


def _initial_slot(name: str, value: Value) -> Slot:
    return Slot(name, value.dims, value.dtype, "initial value", value.bound)


def _without_axis(result: Any, axis: int) -> Any:
    place: list[Any] = [slice(None)] * result.ndim
    place[axis] = 0
    taken = result[tuple(place)]
    return taken if result.ndim > 1 or torch_ops.is_tensor(taken) else np.asarray(taken)
