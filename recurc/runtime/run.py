"""One call, its arrays prepared: fills in initial values, runs the kernel, cuts ragged and packed batches into rows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from recurc import ir
from recurc.arguments import Settled, whole_numbers
from recurc.backends.reference import value_types
from recurc.errors import ShapeError
from recurc.runtime.kit import Kit
from recurc.runtime.specialize import Builder, Built
from recurc.types import Dims, DType, literal_size

Results = tuple[tuple[Any, ...], dict[str, Any]]  # outputs in source order; last values by state


class Run:
    """Arrays are kernel arguments: inputs `(B, T, *dims)`, params and initial values `(B, *dims)`."""

    def __init__(
        self, rec: ir.Recurrence, builder: Builder, built: Built, kit: Kit, settled: Settled, layout: str, reverse: bool
    ) -> None:
        self.rec, self.builder, self.built, self.kit = rec, builder, built, kit
        self.settled, self.layout, self.reverse = settled, layout, reverse
        self.sizes = dict(settled.sizes)
        self.batch = int(np.prod(settled.batch, dtype=np.int64))
        self.types = value_types(rec)
        self.inputs = tuple(i.name for i in rec.inputs)
        self.delayed = tuple(name for name in builder.continuable if name in self.inputs)

    def uniform(self, arrays: Mapping[str, Any]) -> Results:
        """Every row has T steps."""
        outputs, finals = self.new_outputs(zero=False), self.new_finals(self.settled.batch)
        self.execute(arrays, _views(outputs), _views(finals), self.batch, self.settled.steps)
        return self.published(outputs, finals)

    def ragged(self, arrays: Mapping[str, Any], lengths: Any) -> Results:
        """Row i has `lengths[i]` steps; outputs behind them are zero. Rows of one length run together."""
        batch, steps = self.settled.batch, self.settled.steps
        counts = whole_numbers("lengths", lengths, batch, f"(*batch,) = {batch}")
        if counts.size and (counts.min() < 0 or counts.max() > steps):
            raise ShapeError(f"lengths should lie between 0 and T = {steps}, got {counts.min()} to {counts.max()}")
        outputs, finals = self.new_outputs(zero=True), self.new_finals(batch)
        flat = counts.reshape(-1)
        for length in np.unique(flat).tolist():
            which = np.flatnonzero(flat == length).tolist()
            part = {n: self.kit.rows(a, which) for n, a in arrays.items()}
            part |= {n: part[n][:, :length] for n in self.inputs}
            outs = {
                n: self.kit.output((len(which),), length, self.shape(n), self.dtype(n), "BT", False)[1] for n in outputs
            }
            ends = {n: self._final(n, (len(which),))[1] for n in finals}
            self.execute(part, outs, ends, len(which), length)
            for name, value in outs.items():
                outputs[name][1][which, :length] = value
            for name, value in ends.items():
                finals[name][1][which] = value
        return self.published(outputs, finals)

    def packed(self, arrays: Mapping[str, Any], cu_seqlens: Any) -> Results:
        """T holds n sequences in a row, bounded by `cu_seqlens (n + 1)`; initial and last values are `(n, *dims)`."""
        steps = self.settled.steps
        bounds = whole_numbers("cu_seqlens", cu_seqlens, None, "(n + 1,)").tolist()
        if self.batch != 1:
            raise ShapeError(f"packed sequences have no batch dims, got {self.settled.batch}: put them all along T")
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != steps or any(b < a for a, b in pairwise(bounds)):
            raise ShapeError(
                f"cu_seqlens should rise from 0 to T = {steps}, got {bounds[:8]}{' ...' if len(bounds) > 8 else ''}"
            )
        count = len(bounds) - 1
        outputs, finals = self.new_outputs(zero=False), self.new_finals((count,))
        for i, (start, stop) in enumerate(pairwise(bounds)):
            part = {n: a[i : i + 1] if n.endswith("@initial") and a.shape[0] == count else a for n, a in arrays.items()}
            part |= {n: arrays[n][:, start:stop] for n in self.inputs}
            outs = {n: view[:, start:stop] for n, view in _views(outputs).items()}
            self.execute(part, outs, {n: view[i : i + 1] for n, view in _views(finals).items()}, 1, stop - start)
        return self.published(outputs, finals)

    def execute(
        self, arrays: Mapping[str, Any], outputs: dict[str, Any], finals: dict[str, Any], batch: int, steps: int
    ) -> None:
        """Runs `steps` steps of `batch` rows, writing the views `outputs` and `finals`."""
        initial = self.initial_values(arrays, batch)
        if steps == 0 or batch == 0:
            for name, view in finals.items():
                view[...] = initial[f"{name}@initial"]
            return
        args = self.arguments(arrays, initial, outputs, finals)
        self.built.kernel(args, batch, steps)
        if self.reverse and not self.kit.flips_are_views:
            for name, view in outputs.items():
                view[...] = self.kit.flip(args[self.built.outputs[name]])
        for name in self.delayed:
            finals[name][...] = args[name][:, -1]

    def arguments(
        self,
        arrays: Mapping[str, Any],
        initial: Mapping[str, Any],
        outputs: Mapping[str, Any],
        finals: Mapping[str, Any],
    ) -> dict[str, Any]:
        """What the kernel is called with, by buffer name."""
        args = {**arrays, **initial}
        if self.reverse:
            args |= {n: self.kit.flip(arrays[n]) for n in self.inputs}
        for name, view in outputs.items():
            args[self.built.outputs[name]] = self.kit.flip(view) if self.reverse else view
        args |= {f"{n}@final": finals[n] for n in self.built.finals}
        return args

    def initial_values(self, arrays: Mapping[str, Any], batch: int) -> dict[str, Any]:
        """`NAME@initial` for everything that has a value before the first step: given, or as the recurrence says."""
        found: dict[str, Any] = {}
        for name, value in (*self.builder.continuable.items(), *self.built.initial.items()):
            key = f"{name}@initial"
            given = arrays.get(key, arrays.get(f"{self.builder.remembered.get(name, name)}@initial"))
            if given is None and key not in found:
                needed = self.builder.initial_reads[name]
                params = {p: self.kit.host(_once(arrays[p])) for p in needed}
                given = self.kit.spread(
                    self.builder.default_initial(name, self.built.spec, params),
                    batch,
                    self.built.spec.dtype(value.dtype),
                )
            if given is not None:
                found[key] = given
        return found

    def new_outputs(self, zero: bool) -> dict[str, tuple[Any, Any]]:
        """Each output as the caller gets it, and its view for the kernel."""
        settled = self.settled
        return {
            n: self.kit.output(settled.batch, settled.steps, self.shape(n), self.dtype(n), self.layout, zero)
            for n in self.rec.outputs
        }

    def new_finals(self, batch: tuple[int, ...]) -> dict[str, tuple[Any, Any]]:
        return {n: self._final(n, batch) for n in self.builder.continuable}

    def _final(self, name: str, batch: tuple[int, ...]) -> tuple[Any, Any]:
        value = self.builder.continuable[name]
        return self.kit.final(batch, self._shape(value.dims), self.built.spec.dtype(value.dtype))

    def published(self, outputs: Mapping[str, tuple[Any, Any]], finals: Mapping[str, tuple[Any, Any]]) -> Results:
        out = tuple(self.kit.publish(public, self.dtype(n)) for n, (public, _) in outputs.items())
        dtypes = {n: self.built.spec.dtype(v.dtype) for n, v in self.builder.continuable.items()}
        return out, {n: self.kit.publish(public, dtypes[n]) for n, (public, _) in finals.items()}

    def shape(self, output: str) -> tuple[int, ...]:
        return self._shape(self.types[output][0])

    def dtype(self, output: str) -> DType:
        return self.built.spec.dtype(self.types[output][1])

    def _shape(self, dims: Dims) -> tuple[int, ...]:
        return tuple(literal_size(d) or self.sizes[d] for d in dims)


def _views(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {name: view for name, (_, view) in pairs.items()}


def _once(array: Any) -> Any:
    """`(B, *dims)` as `(1, *dims)` if all rows are the same memory."""
    strides: tuple[int, ...] = array.strides if hasattr(array, "strides") else array.stride()
    return array[:1] if strides[0] == 0 else array
