"""Reverse-mode derivatives of compiled recurrences on arrays: `Compiled.vjp`, of NumPy arrays as of torch tensors.

The forward call runs the recurrence with what the backward pass reads as further outputs; the pass itself is a
recurrence that is compiled like any other (`passes.adjoint`). Here its results only get the shapes of what the caller
gave: arrays that sequences share get the sum over these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np

from recurc import ir
from recurc.backends.reference import value_types
from recurc.compiled import Compiled
from recurc.errors import ShapeError, UnsupportedError
from recurc.options import Options
from recurc.passes import backward_pass
from recurc.passes.adjoint import Adjoint, Part, differentiable
from recurc.passes.backward import Backward
from recurc.passes.gauges import attached
from recurc.passes.matrix_adjoint import MatrixAdjoint, Sweep
from recurc.passes.totals import Total, totals
from recurc.runtime import torch_ops
from recurc.runtime.ends import GaugeEnds, gauge_ends, of_finals, of_starts
from recurc.runtime.results import result_type
from recurc.runtime.totals import total
from recurc.sweeps import by_matrix

Arrays = Mapping[str, Any]


class Differentiated:
    """A compiled recurrence with its backward pass, each a `Compiled` of its own. With `whole` the pass is one
    recurrence, and keeps the states before each step, even where that of a matrix memory would do without."""

    adjoint: Adjoint | MatrixAdjoint
    light: Adjoint | MatrixAdjoint  # for calls whose gauges have no derivatives by their final values

    def __init__(self, rec: ir.Recurrence, options: Options, defaults: Arrays, whole: bool = False) -> None:
        self.rec, self.options, self.defaults = rec, options, dict(defaults)
        made, held = backward_pass(rec, options.memory, whole)
        self._made = made
        self.adjoint, self.light = (made.whole, made.adjoint) if isinstance(made, Backward) else (made, made)
        self.gauges = gauge_ends(rec, held)
        forward = self.adjoint.forward
        self.forward = Compiled(attached(forward) if held else forward, options, defaults)
        self._parts: dict[tuple[object, ...], Compiled] = {}
        self._sweeps: dict[tuple[object, ...], tuple[Sweep, ...]] = {}
        self._loops: dict[int, tuple[ir.Recurrence, tuple[Total, ...]]] = {}
        self.result: Any = result_type(rec.name, rec.outputs) if len(rec.outputs) > 1 else None
        self.types = {n: dims for n, (dims, _) in value_types(rec).items()} | {p.name: p.dims for p in rec.params}
        self.carried = self.adjoint.carried

    @cached_property
    def again(self) -> Adjoint | Differentiated:
        """The backward pass where derivatives by what was saved come in as well: of a derivative, that is. Where that
        does without the states before each step, it is that of a call which keeps them."""
        if isinstance(self._made, Backward):
            return self._made.again()
        return Differentiated(self._made.forward, replace(self.options, memory="balanced"), self.defaults, whole=True)

    def loop(self, rec: ir.Recurrence) -> tuple[ir.Recurrence, tuple[Total, ...]]:
        """A backward pass without the sums over time that are products of matrices, and those. `rec` and what it is
        made of live as long as this object, so they are told apart by identity: hashing them takes longer than a small
        call."""
        if id(rec) not in self._loops:
            self._loops[id(rec)] = totals(rec)
        return self._loops[id(rec)]

    def part(self, rec: ir.Recurrence, sizes: Mapping[str, int]) -> Compiled:
        """A part of the backward pass, for dims of `sizes`, which its own arrays need not tell."""
        key = (id(rec), *sorted(sizes.items()))
        if key not in self._parts:
            self._parts[key] = Compiled(rec, replace(self.options, schedule="auto", sizes=dict(sizes)))
        return self._parts[key]

    def sweeps(self, adj: MatrixAdjoint, of: Pullback) -> tuple[Sweep, ...]:
        """How the derivative by the matrix is found in a call: by one sweep, or two where the first runs in chunks."""
        steps, batch = of.extent
        value = next(iter(of.outputs.values()))
        on_device = torch_ops.is_tensor(value) and value.device.type != "cpu"
        key = (id(adj), *sorted(of.sizes.items()), on_device, steps.bit_length(), math.prod(batch).bit_length())
        if key not in self._sweeps:
            chosen = self.part(adj.sides[0].rec, of.sizes).schedules(batch, steps, on_device)
            self._sweeps[key] = adj.sides if "chunkwise" in chosen else (adj.back,)
        return self._sweeps[key]

    def __call__(self, arrays: Arrays, initial: Arrays, return_final: bool, **options: Any) -> tuple[Any, Pullback]:
        """The result of a call, and what takes derivatives by it back to the arguments."""
        arrays = {**self.defaults, **arrays}
        everything, finals = self.forward(initial=initial, return_final=True, **options, **arrays)
        values = dict(zip(self.adjoint.forward.outputs, _several(everything, self.adjoint.forward), strict=True))
        outputs = {n: values[n] for n in self.rec.outputs}
        saved = {n: values[n] for n in self.adjoint.saved}
        result = outputs[self.rec.outputs[0]] if self.result is None else self.result(*outputs.values())
        sizes = self.forward.sizes
        pullback = Pullback(self, arrays, dict(initial), outputs, finals, saved, sizes, options)
        return ((result, finals) if return_final else result), pullback


@dataclass(frozen=True)
class Pullback:
    """Takes the derivative of a loss by the results of a call back to its arguments. It may be called several times."""

    of: Differentiated
    arrays: Arrays
    initial: Arrays
    outputs: Arrays
    finals: Arrays
    saved: Arrays
    sizes: Mapping[str, int]
    options: Mapping[str, Any]

    def __call__(self, outputs: Any = None, final: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The derivatives by every input and param of real or complex numbers, by name, each of the shape of the
        argument, and under `"initial"` a dict of those by the initial states that were given.

        `outputs`: the derivatives by the outputs, shaped like the result of the call: an array, or one for each output,
        in order or by name; None for zeros. `final`: those by final states, `(*batch, *dims)` by name; states that it
        lacks have zeros. For complex values they are those by the real part plus i times those by the imaginary part.
        Raises `ShapeError` for what does not fit."""
        ends = of_finals(self.of.gauges, self._ends(final or {}), self.finals)
        return self.derivatives(self.of.adjoint, self._cotangents(outputs), ends, self.of.gauges)

    def derivatives(
        self, adj: Adjoint | MatrixAdjoint, given: Arrays, ends: dict[str, Any], gauges: Sequence[GaugeEnds] = ()
    ) -> dict[str, Any]:
        """By the pass `adj`: `given` by its inputs, `ends` by state. `gauges`: those of whose initial values there are
        derivatives, as the caller knows them, to be made of those that the pass finds."""
        if adj is self.of.adjoint and not any(name in ends for name, _ in self.of.gauges):
            adj = self.of.light
        found = Sums(self)
        first, _ = self.by(adj, given, ends, found)
        starts = self._first(of_starts(gauges, first, self.initial))
        gradients = {n: found.of(n) for n in self._wanted()}
        return gradients | {"initial": {n: found.start(n, v) for n, v in starts.items() if n in self.initial}}

    def by(
        self, adj: Adjoint | MatrixAdjoint, given: Arrays, ends: dict[str, Any], found: Sums
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The derivatives by the states before the first step, by state, and those by inputs of the pass that are no
        arguments of the call; those by arguments are added to `found`."""
        if isinstance(adj, MatrixAdjoint):
            return by_matrix(self, adj, given, ends, found)
        handed = {} if adj.late is None else self._late(adj.late, given, ends, found)
        known = {**self.arrays, **self.outputs, **self.saved, **given, **handed}
        loop, sums = self.of.loop(adj.back)
        results, carried = self.run(loop, known, {adj.states[n]: v for n, v in ends.items()})
        params = {state: name for name, state in adj.params.items()}
        known |= results
        for of in sums:
            made = self._total(of, known, params.get(of.name))
            (carried if of.over_time else results)[of.name] = made
        inner: dict[str, Any] = {}
        for name, output in adj.inputs.items():
            if name in self.arrays:
                found.add(name, results[output], over_time=True)
            else:
                inner[name] = results[output]
        for name, state in adj.params.items():
            found.add(name, carried[state], over_time=False)
        first = {name: carried[state] for name, state in adj.states.items()}
        if adj.start is not None:
            self._start(adj.start, first, found)
        return first, inner

    # --- what is given

    def has_end(self, name: str) -> bool:
        """Whether there are derivatives by the final state `name`."""
        return name in self.of.carried or f"{name}@lag0" in self.of.carried

    def of_derivative(self, outputs: Sequence[Any], saved: Sequence[Any], final: Mapping[str, Any]) -> dict[str, Any]:
        """The derivatives as a call gives them, where there are also some by what was `saved`, as in a second
        derivative; None for zeros."""
        given = self._cotangents(dict(zip(self.of.rec.outputs, outputs, strict=True)))
        if all(d is None for d in saved):
            return self.derivatives(self.of.adjoint, given, self._ends(final))
        adj = self.of.again
        if isinstance(adj, Differentiated):
            _, back = adj(self.arrays, self.initial, True, **self.options)
            return back.of_derivative((*outputs, *saved), [None] * len(adj.adjoint.saved), final)
        for name, value in zip(self.of.adjoint.saved, saved, strict=True):
            if name in adj.cotangents:
                given[adj.cotangents[name]] = _fitted(value, self.saved[name], f"the derivative by `{name}`")
        return self.derivatives(adj, given, self._ends(final))

    def _cotangents(self, given: Any) -> dict[str, Any]:
        """By the name of the input of the backward pass."""
        by_name = by_output(self.of.rec, given)
        found: dict[str, Any] = {}
        for name, target in self.of.adjoint.cotangents.items():
            value, like = by_name.get(name), self.outputs[name]
            found[target] = _fitted(value, like, f"the derivative by output `{name}`")
        return found

    def _ends(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """By state, of those that have derivatives; zeros are left out."""
        states = self.of.carried
        found: dict[str, Any] = {}
        for name, value in given.items():
            inner = name if name in states else f"{name}@lag0"
            if inner not in states or name not in self.finals:
                known = ", ".join(n for n in self.finals if self.has_end(n)) or "none"
                raise ShapeError(f"there is no final state `{name}` to have a derivative by; there are: {known}")
            if value is not None:
                found[inner] = _fitted(value, self.finals[name], f"the derivative by the final state `{name}`")
        return found

    def _wanted(self) -> list[str]:
        rec = self.of.rec
        return [v.name for v in (*rec.inputs, *rec.params) if differentiable(v.dtype)]

    # --- the parts

    def run(
        self, rec: ir.Recurrence, known: Arrays, initial: Arrays, backwards: bool = True, **changed: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The outputs and final states of a part of the pass, by name; `backwards`: against the time of the call, whose
        options are those of the part but for those that are `changed`."""
        reverse = self.options["reverse"] != backwards
        options = {**self.options, "reverse": reverse, "steps": None if rec.inputs else self._steps, **changed}
        arrays = {v.name: known[v.name] for v in (*rec.inputs, *rec.params)}
        compiled = self.of.part(rec, self.sizes)
        results, finals = compiled(initial=initial, return_final=True, **options, **arrays)
        return dict(zip(rec.outputs, _several(results, rec), strict=True)), dict(finals)

    def _total(self, of: Total, known: Arrays, param: str | None) -> Any:
        """What the loop leaves to a library. If it is the derivative by `param`, one for each sequence only where these
        have params of their own."""
        time_first = self.of.options.layout == "TB"
        steps, batch = self.extent
        rank = {n: len(dims) for n, dims in self.of.types.items()}
        shape = () if param is None else _shape(self.arrays[param])
        apart = param is None or any(n != 1 for n in shape[: len(shape) - rank[param]])
        lengths = self.options.get("lengths")
        values = {f.name: known[f.name] for term in of.terms for f in term.factors}
        if lengths is not None:
            given = {i.name for i in self.of.rec.inputs} & values.keys()
            inside = _inside(lengths, steps, time_first)
            values |= {n: _masked(values[n], inside, rank[n], time_first) for n in given}
        found = total(of, values, batch, time_first, apart)
        return found if apart else found.reshape(shape)

    @property
    def _steps(self) -> int:
        return self.extent[0]

    @property
    def extent(self) -> tuple[int, tuple[int, ...]]:
        """T and the batch dims."""
        name, value = next(iter(self.outputs.items()))
        lead = tuple(int(n) for n in value.shape[: value.ndim - len(self.of.types[name])])
        return (lead[0], lead[1:]) if self.of.options.layout == "TB" else (lead[-1], lead[:-1])

    def _late(self, part: Part, given: Arrays, ends: dict[str, Any], found: Sums) -> dict[str, Any]:
        """The derivatives by values of each step; those by final states are added to `ends`."""
        if self.options.get("cu_seqlens") is not None:
            raise UnsupportedError(
                f"outputs of {self.of.rec.name} read final states, `S[T]`: derivatives of packed sequences are not "
                "supported yet"
            )
        finals = {name: self.finals[state] for state, name in part.given.items()}
        results, carried = self.run(part.rec, {**self.arrays, **self.saved, **given, **finals}, {})
        for name, state in part.found.items():
            if name in part.given:
                ends[name] = ends[name] + carried[state] if name in ends else carried[state]
            else:
                found.add(name, carried[state], over_time=False)
        return dict(results)

    def _first(self, first: Mapping[str, Any]) -> dict[str, Any]:
        """The derivatives by initial values, by the name a caller gives those: what longer lags remember begins as the
        state or input does that they are copies of, unless it is given itself."""
        found: dict[str, Any] = {}
        for name, value in first.items():
            origin, _, lag = name.partition("@lag")
            key = origin if lag == "0" or (lag and name not in self.initial and origin in self.initial) else name
            found[key] = found[key] + value if key in found else value
        return found

    def _start(self, part: Part, first: Mapping[str, Any], found: Sums) -> None:
        """Adds what initial values that were computed from params hand to these. `first`: the derivatives by the states
        of the backward pass before the first step."""
        given: dict[str, Any] = {}
        for state, name in part.given.items():
            value = first[state]
            if not {state, state.partition("@lag")[0]}.isdisjoint(self.initial):
                value = _zeros(value.shape, value)
            given[name] = _with_axis(value, value.ndim - len(self.of.carried[state]))
        params = {p.name: self.arrays[p.name] for p in part.rec.params}
        results = _several(self.of.part(part.rec, self.sizes)(**given, **params), part.rec)
        for name, value in zip(part.found, results, strict=True):
            found.add(name, _without_axis(value, value.ndim - len(self.of.types[name]) - 1), over_time=False)


def by_output(rec: ir.Recurrence, given: Any) -> Mapping[str, Any]:
    """Derivatives by the outputs, given as the result of a call is, by name; None gives none."""
    names = rec.outputs
    if given is None:
        given = {}
    elif not isinstance(given, Mapping):
        given = dict(zip(names, _several(given, rec), strict=True))
    by_name = cast(Mapping[str, Any], given)
    for name in by_name:
        if name not in names:
            raise ShapeError(f"there is no output `{name}` to have a derivative by; there are: {', '.join(names)}")
    return by_name


class Sums:
    """The derivatives by arguments so far, in the shapes of these."""

    def __init__(self, pullback: Pullback) -> None:
        self._of = pullback
        self._sums: dict[str, Any] = {}

    def add(self, name: str, value: Any, over_time: bool) -> None:
        """Adds `value (*batch, T, *dims)`, or without T, to the derivative by the argument `name`."""
        shape = _shape(self._of.arrays[name])
        rank = len(self._of.of.types[name])
        first = over_time and self._of.of.options.layout == "TB"
        value = _summed(value, shape, rank + (over_time and not first), first)
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def of(self, name: str) -> Any:
        if name in self._sums:
            return self._sums[name]
        given = self._of.arrays[name]
        return _zeros(_shape(given), given if hasattr(given, "dtype") else np.asarray(given, np.float64))

    def start(self, name: str, value: Any) -> Any:
        """`value`, the derivative by the initial state `name`, in the shape of what was given."""
        carried = self._of.of.carried
        rank = len(carried[name] if name in carried else carried[f"{name}@lag0"])
        return _summed(value, _shape(self._of.initial[name]), rank, False)


def _summed(value: Any, shape: tuple[int, ...], inner: int, time_first: bool) -> Any:
    """`value` summed over the batch dims that an argument of `shape` lacks or has one of; `inner` axes end both."""
    lead = int(time_first)
    extra = value.ndim - len(shape)
    axes = [lead + i for i in range(extra)]
    axes += [i + extra for i in range(lead, len(shape) - inner) if shape[i] == 1 and value.shape[i + extra] != 1]
    return (value.sum(tuple(axes)) if axes else value).reshape(shape)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


def _several(results: Any, rec: ir.Recurrence) -> Sequence[Any]:
    """The results of a call as one for each output."""
    if len(rec.outputs) == 1:
        return (results,)
    if not isinstance(results, tuple | list) or len(cast(Sequence[Any], results)) != len(rec.outputs):
        raise ShapeError(f"{rec.name} has {len(rec.outputs)} outputs ({', '.join(rec.outputs)}): give one for each")
    return cast(Sequence[Any], results)


def _fitted(value: Any, like: Any, title: str) -> Any:
    """The derivative `value` of the shape of `like`; zeros for None."""
    if value is None:
        return _zeros(tuple(like.shape), like)
    if _shape(value) != tuple(like.shape):
        raise ShapeError(f"{title} should have shape {tuple(like.shape)}, got {_shape(value)}")
    return value


def _inside(lengths: Any, steps: int, time_first: bool) -> Any:
    """Which steps lie within the length of their sequence, `(*batch, T)`, or `(T, *batch)`."""
    if torch_ops.is_tensor(lengths):
        times: Any = torch_ops.library().arange(steps, device=lengths.device)
    else:
        lengths, times = np.asarray(lengths), np.arange(steps)
    if time_first:
        return times.reshape(-1, *(1,) * lengths.ndim) < lengths[None]
    return times < lengths[..., None]


def _masked(value: Any, inside: Any, rank: int, time_first: bool) -> Any:
    """An input `(*batch, T, *dims)` of that many dims, which is zero where `inside` is false."""
    missing = inside.ndim + rank - value.ndim
    if time_first and missing:
        value = value.reshape((value.shape[0], *(1,) * missing, *value.shape[1:]))
    library = torch_ops.library() if torch_ops.is_tensor(value) else np
    return library.where(inside.reshape((*inside.shape, *(1,) * rank)), value, 0)


def _zeros(shape: tuple[int, ...], like: Any) -> Any:
    return like.new_zeros(shape) if torch_ops.is_tensor(like) else np.zeros(shape, like.dtype)


def _with_axis(value: Any, axis: int) -> Any:
    return value[(slice(None),) * axis + (None,)]


def _without_axis(value: Any, axis: int) -> Any:
    return value[(slice(None),) * axis + (0,)]
