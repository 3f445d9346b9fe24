"""A `Convolution` stage on NumPy arrays: impulse responses by powers, convolutions by the fast Fourier transform.

The stage's equations are linear, so evaluating them on unit vectors gives matrices: A (one step), G (from sources to
states), C and D (from states at lag 0 and 1 to what leaves). All of this is in double precision whatever the call's
type is, and complex values are pairs of real ones, which makes `real`, `imag` and `conj` linear as well.

The response K_j = C A^j G is a product of two short tables: with s near sqrt(T), the rows of the one are C A^(i s), the
columns of the other A^k G, both by doubling. y = K * v by transforms of length 2 T or more; the last state is a sum of
such columns, block by block, and no transform touches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc import ir
from recurc.plan import Convolution, drive_name, step_name
from recurc.types import Dims, DType, Kind

Array = NDArray[Any]
Values = dict[tuple[str, int], Array]  # (B or 1, T or 1, *dims) by name and lag
Evaluate = Callable[[Values], Array]

_GROWTH = 2.0**20  # a response that rises by more leaves its beginning to the rounding of its end
_ROOM = 1 << 22  # numbers that one slice of lanes may take


class Convolver:
    """Runs one stage. `evaluate` turns an equation into a function of values with the axes `dims`, in float64;
    `shape` gives the sizes of dims."""

    def __init__(
        self,
        stage: Convolution,
        shape: Callable[[Dims], tuple[int, ...]],
        evaluate: Callable[[ir.Expr, Dims], Evaluate],
        sources: Mapping[str, tuple[Dims, DType]],
    ) -> None:
        self.stage = stage
        axes = (stage.lanes, stage.blocks, shape)
        self._carries = [(c.name, _Axes(c.dims, c.dtype, *axes)) for c in stage.carries]
        self._sources = [(n, _Axes(*sources[n], stage.lanes, (), shape)) for n in stage.sources]
        known = {e.name: e.expr for e in stage.reads}
        carried = {c.name: (c.dims, c.dtype) for c in stage.carries}
        kinds = {n: carried.get(n) or (known[n].dims, known[n].dtype) for n in stage.writes}
        self._writes = [(n, _Axes(*kinds[n], stage.lanes, (), shape)) for n in stage.writes]
        full = {step_name(c.name): c.dims for c in stage.carries} | {drive_name(c.name): c.dims for c in stage.carries}
        self._steady, self._enter, self._step, self._reads = (
            [(e.name, evaluate(e.expr, full.get(e.name, e.expr.dims))) for e in body]
            for body in (stage.steady, stage.enter, stage.step, stage.reads)
        )
        outside = {r.name for e in (*stage.steady, *stage.enter, *stage.step, *stage.reads) for r in ir.reads(e.expr)}
        self._outside = outside - set(stage.sources) - carried.keys()
        self._lanes, self._blocks = (math.prod(shape(d)) for d in (stage.lanes, stage.blocks))
        self._width = sum(a.width for _, a in self._carries)  # real numbers per lane and block

    def __call__(self, values: Values, batch: int, steps: int) -> dict[str, Array] | None:
        """What the stage writes, `(B, T, *dims)`, and `NAME@final`, `(B, 1, *dims)`, in double precision.

        None where a transform would not do: a number that is not finite would reach steps before its own, and a
        response that grows would leave nothing of the small values before the large ones."""
        with np.errstate(all="ignore"):
            a, g, now, before = self._matrices(values)
            v = [axes.flat(_wide(values[n, 0]))[..., 0, :] for n, axes in self._sources]  # (B, T, lanes or 1, width)
            start = np.concatenate([axes.flat(_wide(values[f"{n}@initial", 0]))[:, 0] for n, axes in self._carries], -1)
            if not all(np.isfinite(x).all() for x in (a, g, now, before, start, *v)):
                return None
            rows = now.shape[-2]
            out = np.zeros((batch, self._lanes, rows, steps))
            last = np.empty((batch, *start.shape[1:]))
            per_lane = 2 * steps * (g.shape[-1] * (1 + rows) + rows) * max(1, batch // 4)
            size = max(1, _ROOM // max(1, per_lane))
            for first in range(0, self._lanes, size):
                lane = slice(first, first + size)
                driven = _side_by_side([_driven(x, steps, lane) for x in v]) if v else None
                response = _Response(a[:, lane], g[:, lane], now[:, lane], before[:, lane], steps)
                if not response.tame():
                    return None
                out[:, lane] = response.outputs(driven, start[:, lane])
                last[:, lane] = response.last(driven, start[:, lane], batch)
        return self._results(out, last)

    def _matrices(self, values: Values) -> tuple[Array, Array, Array, Array]:
        """A `(P, L, E, q, q)`, G `(P, L, E, q, r)`, C and D `(P, L, m, E q)`; P is 1, or B where params differ."""
        fixed = {(n, 0): _wide(values[n, 0]) for n in self._outside if (n, 0) in values}
        for name, value in self._steady:
            fixed[name, 0] = value(fixed)
        blocks, width = self._blocks, self._width
        unit = np.eye(width)[np.newaxis, :, np.newaxis, np.newaxis, :]
        found = self._run(self._step, fixed | self._states(unit, 1))
        a = self._gathered([found[step_name(n), 0] for n, _ in self._carries], width)
        columns = sum(axes.width for _, axes in self._sources)
        found, at = dict(fixed), 0
        for name, axes in self._sources:
            probe = np.zeros((1, columns, 1, 1, axes.width))
            probe[0, at : at + axes.width, 0, 0] = np.eye(axes.width)
            found[name, 0] = axes.full(probe)
            at += axes.width
        found = self._run(self._enter, found)
        g = self._gathered([found[drive_name(n), 0] for n, _ in self._carries], columns)
        every = np.eye(blocks * width).reshape(1, blocks * width, 1, blocks, width)
        return a, g, self._leaving(fixed, every, 0), self._leaving(fixed, every, 1)

    def _states(self, flat: Array, lag: int) -> Values:
        found: Values = {}
        at = 0
        for name, axes in self._carries:
            found[name, lag] = axes.full(flat[..., at : at + axes.width])
            at += axes.width
        return found

    def _run(self, body: Sequence[tuple[str, Evaluate]], values: Values) -> Values:
        for name, value in body:
            values[name, 0] = value(values)
        return values

    def _gathered(self, parts: list[Array], columns: int) -> Array:
        """States `(P, columns, *dims)` as `(P, L, E, q, columns)`."""
        flat = [axes.flat(p) for p, (_, axes) in zip(parts, self._carries, strict=True)]
        lead = max((f.shape[0] for f in flat), default=1)
        full = [np.broadcast_to(f, (lead, columns, self._lanes, *f.shape[3:])) for f in flat]
        return np.concatenate(full, -1).transpose(0, 2, 3, 4, 1)

    def _leaving(self, fixed: Values, every: Array, lag: int) -> Array:
        """What leaves, of states that are unit vectors at `lag` and zero at the other: `(P, L, m, E q)`."""
        values = fixed | self._states(every, lag) | self._states(np.zeros_like(every), 1 - lag)
        found = self._run(self._reads, values)
        count = every.shape[1]
        rows = [axes.flat(found[n, 0])[..., 0, :] for n, axes in self._writes]
        lead = max((r.shape[0] for r in rows), default=1)
        full = [np.broadcast_to(r, (lead, count, self._lanes, r.shape[-1])) for r in rows]
        joined = np.concatenate(full, -1) if full else np.zeros((1, count, self._lanes, 0))
        return joined.transpose(0, 2, 3, 1)

    def _results(self, out: Array, last: Array) -> dict[str, Array]:
        results: dict[str, Array] = {}
        at = 0
        moved = out.transpose(0, 3, 1, 2)[:, :, :, np.newaxis]  # (B, T, L, 1, m)
        for name, axes in self._writes:
            results[name] = axes.full(moved[..., at : at + axes.width])
            at += axes.width
        finals = self._states(last[:, np.newaxis], 0)
        return results | {f"{name}@final": value for (name, _), value in finals.items()}


@dataclass(frozen=True)
class _Axes:
    """How the dims of a value lie in `(B, T, lanes, blocks, width)`; width counts the real numbers of the rest."""

    dims: Dims
    dtype: DType
    lanes: Dims
    blocks: Dims
    shape: Callable[[Dims], tuple[int, ...]]

    @property
    def complex(self) -> bool:
        return self.dtype.kind is Kind.COMPLEX

    @property
    def _rest(self) -> tuple[int, ...]:
        return tuple(i for i, d in enumerate(self.dims) if d not in self.lanes and d not in self.blocks)

    @property
    def width(self) -> int:
        return math.prod(self.shape(tuple(self.dims[i] for i in self._rest))) * (2 if self.complex else 1)

    def _lead(self) -> tuple[tuple[Dims, tuple[int, ...]], tuple[int, ...]]:
        """The dims it has of the lanes (all of them, or it is the same for every lane) and blocks, and their order."""
        inside = tuple(d for d in (*self.lanes, *self.blocks) if d in self.dims)
        return (inside, self.shape(inside)), tuple(self.dims.index(d) for d in inside)

    def flat(self, value: Array) -> Array:
        """`(B, T, *dims)` as `(B, T, L or 1, E, width)`; L where it has any of the lanes."""
        (inside, _), order = self._lead()
        value = value.transpose(0, 1, *(2 + i for i in (*order, *self._rest)))
        own = tuple(d for d in self.lanes if d in inside)
        rest = value.shape[2 + len(inside) :]
        if own and len(own) < len(self.lanes):
            place = [slice(None)] * 2 + [slice(None) if d in own else np.newaxis for d in self.lanes]
            value = value[tuple(place)]
            value = np.broadcast_to(
                value, (*value.shape[:2], *self.shape(self.lanes), *value.shape[2 + len(self.lanes) :])
            )
        lanes = math.prod(self.shape(self.lanes)) if own else 1
        blocks = math.prod(self.shape(tuple(d for d in self.blocks if d in inside)))
        value = value.reshape(*value.shape[:2], lanes, blocks, math.prod(rest))
        if self.complex:
            value = np.asarray(value, np.complex128)
            return np.stack([np.real(value), np.imag(value)], -1).reshape(*value.shape[:-1], -1)
        return value.astype(np.float64, copy=False)

    def full(self, flat: Array) -> Array:
        """The reverse of `flat`; axes of size 1 for lanes and blocks are repeated."""
        (inside, sizes), order = self._lead()
        lanes = math.prod(self.shape(tuple(d for d in self.lanes if d in inside)))
        blocks = math.prod(self.shape(tuple(d for d in self.blocks if d in inside)))
        flat = np.broadcast_to(flat, (*flat.shape[:2], lanes, blocks, flat.shape[-1]))
        if self.complex:
            pairs = flat.reshape(*flat.shape[:-1], -1, 2)
            flat = pairs[..., 0] + 1j * pairs[..., 1]
        rest = self._rest
        value = flat.reshape(*flat.shape[:2], *sizes, *self.shape(tuple(self.dims[i] for i in rest)))
        place = (*order, *rest)
        return value.transpose(0, 1, *(2 + place.index(i) for i in range(len(self.dims))))


class _Response:
    """The response of some lanes over `steps` steps."""

    def __init__(self, a: Array, g: Array, now: Array, before: Array, steps: int) -> None:
        self.a, self.steps = a, steps
        self.size = 1 << max(0, math.ceil(math.log2(steps) / 2))  # s, near sqrt(T)
        self.count = -(-steps // self.size)
        blocks, width = a.shape[2], a.shape[3]
        self.columns, self.leap = _powers(a, g, self.size)  # (P, L, E, q, s, r), A^s
        self.rows = [
            None if not c.any() else _rows(_by_block(c, blocks, width), self.leap, self.count) for c in (now, before)
        ]
        self.lead, self.entering, self.leaving = max(a.shape[0], g.shape[0], now.shape[0]), g.shape[-1], now.shape[2]
        self.kernel = self._applied(self.columns, self.columns)  # (P, L, m, r, T)

    def _applied(self, after: Array, before: Array) -> Array:
        """Both readings of states that begin as the columns `after` (read now) and `before` (read one step late)."""
        shape = (max(self.lead, after.shape[0]), after.shape[1], self.leaving, after.shape[-1], self.steps)
        out = np.zeros(shape)
        if self.rows[0] is not None:
            out += _products(self.rows[0], after, self.steps)
        if self.rows[1] is not None:
            late = _products(self.rows[1], before, self.steps)
            if after is before:
                out[..., 1:] += late[..., :-1]
            else:
                out += late
        return out

    def tame(self) -> bool:
        """Whether a transform keeps what the response begins with."""
        size = np.abs(self.kernel)
        if not size.size:
            return True
        if not np.isfinite(size).all():
            return False
        beginning = size[..., : self.a.shape[2] * self.a.shape[3] + 2].max(-1)
        return bool((size.max(-1) <= _GROWTH * beginning).all())

    def outputs(self, driven: Array | None, start: Array) -> Array:
        """`(B, L, m, T)` for what drives, `(B, L or 1, r, T)`, and the states before the first step, `(B, L, E, q)`."""
        out = np.zeros((1, self.a.shape[1], self.leaving, self.steps))
        if driven is not None and self.entering and self.leaving:
            length = fast_length(2 * self.steps - 1)
            response, drive = np.fft.rfft(self.kernel, length), np.fft.rfft(driven, length)
            spectrum = response[:, :, :, 0] * drive[:, :, np.newaxis, 0]
            for k in range(1, self.entering):
                spectrum += response[:, :, :, k] * drive[:, :, np.newaxis, k]
            out = np.fft.irfft(spectrum, length)[..., : self.steps]
        if start.any() and self.leaving:
            columns, _ = _powers(self.a, start[..., np.newaxis], self.size)
            following = _times(self.a, columns)
            out = out + self._applied(following, columns)[:, :, :, 0]
        return out

    def last(self, driven: Array | None, start: Array, batch: int) -> Array:
        """The states after the last step, `(B, L, E, q)`."""
        blocks, width = self.a.shape[2:4]
        odd = self.steps % self.size
        state = np.broadcast_to(start, (batch, *start.shape[1:]))[..., np.newaxis]
        if odd:
            power = _power(self.a, odd)
            state = _times(power, state)
        pushed: Array | None = None
        if driven is not None and self.entering:
            moving = driven.swapaxes(2, 3)  # (B, L, T, r)
            turned = self.columns[..., ::-1, :]  # the latest input is the least moved
            table = turned.reshape(*turned.shape[:2], blocks * width, -1).swapaxes(2, 3)  # (P, L, s r, E q)
            whole = moving[:, :, odd:].reshape(*moving.shape[:2], self.steps // self.size, self.size * self.entering)
            pushed = whole @ table
            if odd:
                part = turned[..., self.size - odd :, :].reshape(*turned.shape[:2], blocks * width, -1)
                begun = part @ moving[:, :, :odd].reshape(*moving.shape[:2], -1, 1)
                state = state + begun.reshape(*begun.shape[:2], blocks, width, 1)
        for k in range(self.steps // self.size):
            state = _times(self.leap, state)
            if pushed is not None:
                state = state + pushed[:, :, k].reshape(*pushed.shape[:2], blocks, width, 1)
        return state[..., 0]


def _times(a: Array, x: Array) -> Array:
    """A `(P, L, E, q, q)` times columns `(P, L, E, q, ...)`."""
    if a.shape[-1] == 1:
        return a.reshape(*a.shape[:4], *(1,) * (x.ndim - 4)) * x
    flat = a @ x.reshape(*x.shape[:4], math.prod(x.shape[4:]))
    return flat.reshape(*flat.shape[:4], *x.shape[4:])


def _powers(a: Array, x: Array, count: int) -> tuple[Array, Array]:
    """A^k X for k < `count`, `(P, L, E, q, count, r)`, and A^count; `count` is a power of two."""
    found = x[..., np.newaxis, :]
    while found.shape[-2] < count:
        found = np.concatenate(np.broadcast_arrays(found, _times(a, found)), -2)
        a = _times(a, a)
    return found, a


def _power(a: Array, exponent: int) -> Array:
    """A^exponent, exponent at least 1."""
    found: Array | None = None
    while exponent:
        if exponent & 1:
            found = a if found is None else _times(a, found)
        a, exponent = _times(a, a), exponent >> 1
    assert found is not None
    return found


def _by_block(c: Array, blocks: int, width: int) -> Array:
    """`(P, L, m, E q)` as `(P, L, E, m, q)`."""
    return c.reshape(*c.shape[:3], blocks, width).swapaxes(2, 3)


def _rows(c: Array, leap: Array, count: int) -> Array:
    """C B^i for i < `count`, `(P, L, count, m, E q)`."""
    found = c[:, :, :, np.newaxis]  # (P, L, E, i, m, q)
    while found.shape[3] < count:
        if leap.shape[-1] == 1:
            more = found * leap[:, :, :, np.newaxis]
        else:
            flat = found.reshape(*found.shape[:3], -1, found.shape[-1]) @ leap
            more = flat.reshape(*flat.shape[:3], *found.shape[3:])
        found = np.concatenate(np.broadcast_arrays(found, more), 3)
        leap = _times(leap, leap)
    found = found[:, :, :, :count].transpose(0, 1, 3, 4, 2, 5)
    return found.reshape(*found.shape[:4], -1)


def _products(rows: Array, columns: Array, steps: int) -> Array:
    """Every row times every column: `(P, L, m, r, T)`."""
    p, lanes, count, m, inner = rows.shape
    b, _, _, _, size, r = columns.shape
    flat = rows.reshape(p, lanes, count * m, inner) @ columns.reshape(b, lanes, inner, size * r)
    moved = flat.reshape(max(p, b), lanes, count, m, size, r).transpose(0, 1, 3, 5, 2, 4)
    return moved.reshape(*moved.shape[:4], count * size)[..., :steps]


def _driven(v: Array, steps: int, lane: slice) -> Array:
    """`(B or 1, T or 1, L or 1, width)` as `(B or 1, L or 1, width, T)` for some lanes."""
    if v.shape[2] > 1:
        v = v[:, :, lane]
    v = np.broadcast_to(v, (v.shape[0], steps, *v.shape[2:]))
    return np.ascontiguousarray(v.transpose(0, 2, 3, 1))


def _side_by_side(parts: list[Array]) -> Array:
    """Values `(B or 1, L or 1, width, T)` of several sources as those of one."""
    lead = np.broadcast_shapes(*(p.shape[:2] for p in parts))
    return np.concatenate([np.broadcast_to(p, (*lead, *p.shape[2:])) for p in parts], 2)


def _wide(value: Array) -> Array:
    """In double precision."""
    if value.dtype.kind == "f":
        return value.astype(np.float64, copy=False)
    return value.astype(np.complex128, copy=False) if value.dtype.kind == "c" else value


def fast_length(least: int) -> int:
    """The smallest product of powers of 2, 3 and 5 that is not less than `least`."""
    best = 1 << max(0, (least - 1).bit_length())
    five = 1
    while five < best:
        three = five
        while three < best:
            rest = -(-least // three)
            best = min(best, three << max(0, (rest - 1).bit_length()))
            three *= 3
        five *= 5
    return best
