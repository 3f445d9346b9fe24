"""One call, its arrays prepared: fills in initial values, runs the kernel, cuts ragged and packed batches into rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc import ir
from recurc.arguments import Settled, whole_numbers
from recurc.backends.reference import value_types
from recurc.errors import ShapeError
from recurc.passes import resume
from recurc.runtime.kit import Kit
from recurc.runtime.rescaling import inner_starts, whole_finals
from recurc.runtime.rows import Sequences, buckets
from recurc.runtime.specialize import STEP, Builder, Built
from recurc.types import Dims, DType, literal_size

Results = tuple[tuple[Any, ...], dict[str, Any]]  # outputs in source order; last values by state
# Where the last values count: the kernel whose states stay as they are behind a row's end (None: there is none).
Held = Callable[[], Built | None] | None
_FEW = 4  # so many lengths run one after another sooner than such a kernel is built


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
        batch, steps = self.batch, self.settled.steps
        self.execute(self.built, arrays, _views(outputs), _views(finals), batch, steps, self.reverse)
        return self.published(outputs, finals)

    def ragged(self, arrays: Mapping[str, Any], lengths: Any, held: Held) -> Results:
        """Row i has `lengths[i]` steps; outputs behind them are zero."""
        batch, steps = self.settled.batch, self.settled.steps
        counts = whole_numbers("lengths", lengths, batch, f"(*batch,) = {batch}")
        if counts.size and (counts.min() < 0 or counts.max() > steps):
            raise ShapeError(f"lengths should lie between 0 and T = {steps}, got {counts.min()} to {counts.max()}")
        outputs, finals = self.new_outputs(zero=True), self.new_finals(batch)
        flat = counts.reshape(-1)
        rows = Sequences(np.arange(flat.size), np.zeros_like(flat), flat)
        self._run_rows(arrays, rows, _views(outputs), _views(finals), held)
        return self.published(outputs, finals)

    def packed(self, arrays: Mapping[str, Any], cu_seqlens: Any, held: Held) -> Results:
        """T holds n sequences in a row, bounded by `cu_seqlens (n + 1)`; initial and last values are `(n, *dims)`."""
        steps = self.settled.steps
        bounds = whole_numbers("cu_seqlens", cu_seqlens, None, "(n + 1,)")
        shown = bounds.tolist()
        if self.batch != 1:
            raise ShapeError(f"packed sequences have no batch dims, got {self.settled.batch}: put them all along T")
        if len(shown) < 2 or shown[0] != 0 or shown[-1] != steps or any(b < a for a, b in pairwise(shown)):
            raise ShapeError(
                f"cu_seqlens should rise from 0 to T = {steps}, got {shown[:8]}{' ...' if len(shown) > 8 else ''}"
            )
        count = len(shown) - 1
        for name, array in arrays.items():
            if name.endswith("@initial") and array.shape[0] not in (1, count):
                raise ShapeError(
                    f"the initial value of `{name.removesuffix('@initial')}` should have one row for each of the "
                    f"{count} packed sequences, got {array.shape[0]}"
                )
        outputs, finals = self.new_outputs(zero=False), self.new_finals((count,))
        rows = Sequences(np.zeros(count, np.int64), bounds[:-1], np.diff(bounds))
        self._run_rows(arrays, rows, _views(outputs), _views(finals), held)
        return self.published(outputs, finals)

    def _run_rows(
        self,
        arrays: Mapping[str, Any],
        rows: Sequences,
        outputs: Mapping[str, Any],
        finals: Mapping[str, Any],
        held: Held,
    ) -> None:
        """Runs sequences of about the same length together, padded to the longest of them.

        Causality keeps the padding out of their outputs. It gets into the last values, so where these count a kernel
        runs whose states stay as they are behind the end, or, without one, the sequences of each length by themselves.
        """
        for which in buckets(rows.count):
            bucket = rows.of(which)
            lengths = np.unique(bucket.count).tolist()
            built = self.built if len(lengths) == 1 or held is None else held() if len(lengths) > _FEW else None
            if built is not None:
                self._run_bucket(arrays, bucket, which, outputs, finals, built)
                continue
            for length in lengths:
                inside = bucket.count == length
                self._run_bucket(arrays, bucket.of(inside), which[inside], outputs, finals, self.built)

    def _run_bucket(
        self,
        arrays: Mapping[str, Any],
        rows: Sequences,
        which: NDArray[np.int64],
        outputs: Mapping[str, Any],
        finals: Mapping[str, Any],
        built: Built,
    ) -> None:
        """Runs the sequences `which` of a batch, which are `rows`, in one call of the kernel of `built`."""
        kit, steps, count = self.kit, rows.longest, len(which)

        def own(name: str, array: Any) -> Any:  # a param or an initial value
            return kit.rows(array, (which if name.endswith("@initial") else rows.source).tolist())

        part = {n: own(n, a) for n, a in arrays.items() if n not in self.inputs}
        if rows.together and not self.reverse:
            lines, span = slice(rows.source[0], rows.source[0] + count), slice(rows.start[0], rows.start[0] + steps)
            part |= {n: arrays[n][lines, span] for n in self.inputs}
            outs = {n: view[lines, span] for n, view in outputs.items()}
            ends = {n: view[which[0] : which[0] + count] for n, view in finals.items()}
            self.execute(built, part, outs, ends, count, steps, reverse=False)
            return
        times = rows.times(self.reverse)
        part |= {n: kit.take(arrays[n], rows.source, times) for n in self.inputs}
        outs = {n: kit.output((count,), steps, self.shape(n), self.dtype(n), "BT", False)[1] for n in outputs}
        ends = {n: self._final(n, (count,))[1] for n in finals}
        self.execute(built, part, outs, ends, count, steps, reverse=False, lengths=rows.count)
        sequence, step = rows.steps()
        for name, value in outs.items():
            kit.put(outputs[name], rows.source[sequence], times[sequence, step], value[sequence, step])
        for name, value in ends.items():
            finals[name][which] = value

    def execute(
        self,
        built: Built,
        arrays: Mapping[str, Any],
        outputs: dict[str, Any],
        finals: dict[str, Any],
        batch: int,
        steps: int,
        reverse: bool,
        lengths: NDArray[np.int64] | None = None,
    ) -> None:
        """Runs `steps` steps of `batch` rows, writing the views `outputs` and `finals`. `lengths (batch,)`: how many
        of the steps count for the last values of each row."""
        initial = self.initial_values(built, arrays, batch)
        if steps == 0 or batch == 0:
            for name, view in finals.items():
                view[...] = initial[f"{name}@initial"]
            return
        args = self.arguments(built, arrays, initial, outputs, finals, reverse)
        args |= self.inner_finals(built, batch)
        count = self.kit.spread(np.asarray([steps]) if lengths is None else lengths, batch, DType.I64)
        if built.plan is not None and built.plan.has(resume.LENGTH):
            args[resume.LENGTH] = count
        built.kernel(args, batch, steps)
        whole_finals(built, finals, args, self.kit)
        if reverse and not self.kit.flips_are_views:
            for name, view in outputs.items():
                view[...] = self.kit.flip(args[built.outputs[name]])
        for name in self.delayed:
            if lengths is None:
                finals[name][...] = args[name][:, -1]
            else:
                finals[name][...] = self.kit.take(args[name], np.arange(batch), lengths[:, np.newaxis] - 1)[:, 0]
        if STEP in finals:
            finals[STEP][...] = initial[f"{STEP}@initial"] + count

    def arguments(
        self,
        built: Built,
        arrays: Mapping[str, Any],
        initial: Mapping[str, Any],
        outputs: Mapping[str, Any],
        finals: Mapping[str, Any],
        reverse: bool,
    ) -> dict[str, Any]:
        """What the kernel is called with, by buffer name."""
        args = {**arrays, **initial}
        if reverse:
            args |= {n: self.kit.flip(arrays[n]) for n in self.inputs}
        for name, view in outputs.items():
            args[built.outputs[name]] = self.kit.flip(view) if reverse else view
        args |= {f"{n}@final": finals[n] for n in built.finals if n in finals}
        return args

    def inner_finals(self, built: Built, batch: int) -> dict[str, Any]:
        """New `NAME@final (B, *dims)` for states of the kernel that the caller does not see."""
        inner = {n for s in built.stabilized.values() for n in (s.mantissa, s.top)}
        found: dict[str, Any] = {}
        for name in inner:
            value = built.initial[name]
            found[f"{name}@final"] = self.kit.final((batch,), self._shape(value.dims), built.spec.dtype(value.dtype))[1]
        return found

    def initial_values(self, built: Built, arrays: Mapping[str, Any], batch: int) -> dict[str, Any]:
        """`NAME@initial` for everything that has a value before the first step: given, or as the recurrence says."""
        found: dict[str, Any] = {}
        inner = {n for s in built.stabilized.values() for n in (s.mantissa, s.top)}
        for name, value in (*self.builder.continuable.items(), *built.initial.items()):
            if name in inner:
                continue
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
        return found | inner_starts(built, found, arrays, self.kit, batch)

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
