"""Derivatives in little memory, `memory="minimal"`: a call runs in about sqrt(T) segments of as many steps, and keeps
the states between them. Backwards, each segment runs forwards once more with all that its derivative reads (T. Chen et
al., 2016, "Training Deep Nets with Sublinear Memory Cost").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recurc.errors import ShapeError, UnsupportedError
from recurc.passes.residuals import segment_steps
from recurc.passes.resume import reads_final
from recurc.runtime import torch_ops
from recurc.vjp import by_output

if TYPE_CHECKING:
    from recurc.compiled import Compiled

Arrays = Mapping[str, Any]


class Segments:
    """A call cut along time. `inner` runs a segment, and keeps in it what its derivative reads."""

    def __init__(self, compiled: Compiled, inner: Compiled, arrays: Arrays, reverse: bool, options: Arrays) -> None:
        if options.get("cu_seqlens") is not None:
            raise UnsupportedError('memory="minimal" is not there for packed sequences yet: use lengths, or "balanced"')
        rec = compiled.recurrence
        if reads_final(rec):
            raise UnsupportedError(
                f'memory="minimal": outputs of {rec.name} read final states, `S[T]`, so it does not run in segments; '
                'use "balanced"'
            )
        self.inner, self.arrays, self.reverse = inner, dict(arrays), reverse
        self.rank = {i.name: len(i.dims) for i in rec.inputs}
        self.outputs = {o: len(dims) for o, (dims, _) in zip(rec.outputs, compiled.output_types, strict=True)}
        self.time_first = compiled.options.layout == "TB"
        self.lengths = options.get("lengths")
        self.steps = self._steps(options.get("steps"))
        each = segment_steps(self.steps)
        spans = [(t, min(t + each, self.steps)) for t in range(0, self.steps, each)] or [(0, 0)]
        self.spans = spans[::-1] if reverse else spans  # as they run

    def _steps(self, given: int | None) -> int:
        if not self.rank:
            if given is None:
                raise ShapeError("without inputs a call needs `steps=`, how many there are")
            return given
        found: dict[str, int] = {}
        for name, rank in self.rank.items():
            if name not in self.arrays:
                raise ShapeError(f"missing input `{name}`")
            shape = np.shape(self.arrays[name])
            if len(shape) < rank + 1:
                raise ShapeError(f"`{name}` should be (*batch, T, *dims) with {rank} dims, got {tuple(shape)}")
            found[name] = int(shape[self.axis(len(shape), rank)])
        first, steps = next(iter(found.items()))
        for name, own in found.items():
            if own != steps:
                raise ShapeError(f"`{name}` should have T = {steps} steps as `{first}` has, got {own}")
        return steps

    def axis(self, ndim: int, rank: int) -> int:
        """The time axis of an array of so many axes, `rank` of them dims."""
        return 0 if self.time_first else ndim - rank - 1

    def cut(self, value: Any, rank: int, span: tuple[int, int]) -> Any:
        """The steps `span` of a value of each step."""
        value = value if hasattr(value, "ndim") else np.asarray(value)
        return value[(slice(None),) * self.axis(value.ndim, rank) + (slice(*span),)]

    def call(self, span: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arrays and options of a segment."""
        arrays = {n: self.cut(a, self.rank[n], span) if n in self.rank else a for n, a in self.arrays.items()}
        lengths = self.lengths
        if lengths is not None:
            lengths = lengths if torch_ops.is_tensor(lengths) else np.asarray(lengths)
            lengths = (lengths - span[0]).clip(0, span[1] - span[0])
        steps = None if self.rank else span[1] - span[0]
        return arrays, {"reverse": self.reverse, "lengths": lengths, "steps": steps}

    def joined(self, made: Sequence[Sequence[Any]]) -> list[Any]:
        """The outputs of all segments, given as they ran, in the order of time."""
        parts = made[::-1] if self.reverse else made
        return [self.join([p[place] for p in parts], rank) for place, rank in enumerate(self.outputs.values())]

    def join(self, values: Sequence[Any], rank: int) -> Any:
        """Values of each step, one segment after another."""
        axis = self.axis(values[0].ndim, rank)
        return torch_ops.library().cat(values, axis) if torch_ops.is_tensor(values[0]) else np.concatenate(values, axis)


def several(result: Any, count: int) -> tuple[Any, ...]:
    return (result,) if count == 1 else tuple(result)


def on_tensors(segments: Segments, initial: Arrays) -> tuple[list[Any], dict[str, Any]]:
    """Outputs in order and final states, as torch differentiates them: each segment is a checkpoint of torch's."""
    if not torch_ops.is_compiling() and torch_ops.transform():
        raise UnsupportedError('memory="minimal" is not there under transforms of torch.func: use "balanced"')
    again = torch_ops.checkpoint()
    made: list[Sequence[Any]] = []
    final: Any = dict(initial)
    for span in segments.spans:
        arrays, options = segments.call(span)

        def run(arrays: Arrays, start: Arrays, options: Arrays = options) -> Any:
            return segments.inner(initial=start, return_final=True, **options, **arrays)

        out, final = again(run, arrays, final, use_reentrant=False)
        made.append(several(out, len(segments.outputs)))
    return segments.joined(made), final


def vjp(segments: Segments, initial: Arrays) -> tuple[list[Any], dict[str, Any], CheckpointedPullback]:
    """Outputs in order, final states, and what takes derivatives back."""
    starts: list[dict[str, Any]] = [dict(initial)]
    made: list[Sequence[Any]] = []
    for span in segments.spans:
        arrays, options = segments.call(span)
        out, final = segments.inner(initial=starts[-1], return_final=True, **options, **arrays)
        made.append(several(out, len(segments.outputs)))
        starts.append(final)
    outputs = segments.joined(made)
    shapes = {n: tuple(v.shape) for n, v in zip(segments.outputs, outputs, strict=True)}
    return outputs, starts[-1], CheckpointedPullback(segments, tuple(starts[:-1]), shapes)


@dataclass(frozen=True)
class CheckpointedPullback:
    """Takes the derivative of a loss by the results of a call back to its arguments, as `vjp.Pullback` does.
    `starts`: the states before each segment, in the order in which they ran; `shapes`: those of the outputs."""

    segments: Segments
    starts: tuple[dict[str, Any], ...]
    shapes: Mapping[str, tuple[int, ...]]

    def __call__(self, outputs: Any = None, final: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The derivatives as `vjp.Pullback` gives them, from the same."""
        segments = self.segments
        given = by_output(segments.inner.recurrence, outputs)
        for name, value in given.items():
            if value is not None and np.shape(value) != self.shapes[name]:
                title = f"the derivative by output `{name}`"
                raise ShapeError(f"{title} should have shape {self.shapes[name]}, got {np.shape(value)}")
        pieces: list[dict[str, Any]] = []
        found: dict[str, Any] = {}
        carry: Mapping[str, Any] = final or {}
        for start, span in reversed([*zip(self.starts, segments.spans, strict=True)]):
            arrays, options = segments.call(span)
            _, back = segments.inner.vjp(initial=start, **options, **arrays)
            found = back(self._cut(given, span), carry)
            carry = found["initial"]
            pieces.append(found)
        if not segments.reverse:
            pieces.reverse()
        return self._joined(pieces) | {"initial": found["initial"]}

    def _cut(self, given: Mapping[str, Any], span: tuple[int, int]) -> dict[str, Any]:
        """The derivatives by the outputs of a segment."""
        ranks = self.segments.outputs
        return {n: v if v is None else self.segments.cut(v, ranks[n], span) for n, v in given.items()}

    def _joined(self, pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Derivatives by inputs one after another, by params added up."""
        found: dict[str, Any] = {}
        for name in pieces[0]:
            values = [p[name] for p in pieces]
            if name in self.segments.rank:
                found[name] = self.segments.join(values, self.segments.rank[name])
            elif name != "initial":
                found[name] = sum(values[1:], values[0])
        return found
