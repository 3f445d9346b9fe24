"""The chunkwise form of matrix states in NumPy: what a `Chunk` stage means, in the plan interpreter.

With a for the decay, x for keys, y for probes, o for values and D[i, j] for the product of the decays of the steps
j + 1 ... i - 1 of a chunk that begins with the state S, the rows that are written at its step i are

    p_i = o_i + (y_i D[i]) . S + sum over j < i of (y_i D[i, j] . x_j) p_j      (a unit lower triangular system)

and a query q of the state before the step reads the same way; of the state after it, it reads a q and adds
(q . x_i) p_i. The next chunk begins with D S + sum over j of (D[end, j] x_j) (x) p_j. Products of decays are built
up step by step and never divided, so a decay may be zero, negative or larger than one.

Several states have a small matrix of factors in place of a, and D is a product of those: a probe of state a meets a key
of state b with D[i, j][a, b]. Rows of one step, of a write with a rank, are so many lines of the system; they do not
meet each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = tuple[int, int]
STEPS = 64  # of a chunk


@dataclass(frozen=True)
class Lines:
    """A write: keys and probes for each state (..., T, R, K), a value (..., T, R, V)."""

    keys: tuple[Array | None, ...]
    probes: tuple[Array | None, ...]
    value: Array | None

    @property
    def rank(self) -> int:
        return next(k.shape[-2] for k in self.keys if k is not None)


@dataclass(frozen=True)
class Operands:
    """Values of all steps, or of those of one chunk; the axes are the sequences and shared dims, steps, the rank of a
    write or query, then rows (K) or columns (V). An axis a value lacks has size 1, except those of steps and rank.
    Factors are (..., T, 1); of a state alone also (..., T, K) or (..., T, V); None is the number 1."""

    factors: Mapping[Pair, Array | None]
    paths: tuple[Pair, ...]
    by_columns: bool  # which the decay tells apart
    writes: tuple[Lines, ...]
    reads: tuple[tuple[Array, int, bool], ...]  # query (..., T, R, K), which state, whether after the step

    def steps(self, part: slice) -> Operands:
        def cut(a: Array | None) -> Array | None:
            return None if a is None else a[..., part, :, :]

        def each(parts: Sequence[Array | None]) -> tuple[Array | None, ...]:
            return tuple(cut(a) for a in parts)

        factors = {p: None if f is None else f[..., part, :] for p, f in self.factors.items()}
        writes = tuple(Lines(each(w.keys), each(w.probes), cut(w.value)) for w in self.writes)
        reads = tuple((q[..., part, :, :], a, now) for q, a, now in self.reads)
        return Operands(factors, self.paths, self.by_columns, writes, reads)

    @property
    def decay(self) -> Array | None:
        """That of a state alone."""
        return self.factors.get((0, 0))


def chunkwise(operands: Operands, states: list[Array], steps: int) -> tuple[list[Array], list[Array]]:
    """What each read gives, (..., T, R, V), and the states after the last step; states are (..., K, V)."""
    parts: list[list[Array]] = []
    for start in range(0, steps, STEPS):
        count = min(STEPS, steps - start)
        part = operands.steps(slice(start, start + count))
        found, new = _chunk(part, states, count)
        if not all(np.isfinite(a).all() for a in (*new, *found)):
            found, new = _steps(part, states, count)  # an infinity or NaN must not reach the steps before it
        parts.append(found)
        states = new
    return [np.concatenate(list(r), axis=-3) for r in zip(*parts, strict=True)], states


def _chunk(x: Operands, states: list[Array], count: int) -> tuple[list[Array], list[Array]]:
    kernel = _Kernel(x, count, states[0].dtype)
    rows = _rows(x, states, kernel)
    found: list[Array] = []
    for query, a, now in x.reads:
        if x.by_columns:
            read = kernel.before[0, 0][..., np.newaxis, :] * (query @ states[0][..., np.newaxis, :, :])
            read = read + _by_columns(query, x, rows)
            read = x.decay[..., np.newaxis, :] * read if now and x.decay is not None else read
        else:
            read = np.zeros((), states[0].dtype)
            for b, seen in _seen(query, x, a) if now else ((a, query),):
                for c in kernel.reached(b):
                    read = read + (seen * kernel.before[b, c][..., np.newaxis, :]) @ states[c][..., np.newaxis, :, :]
                for write, p in zip(x.writes, rows, strict=True):
                    left = _flat(seen)
                    read = read + _steps_of(kernel.weights(left, write, b, query.shape[-2]) @ p, query.shape[-2])
        if now:
            for write, p in zip(x.writes, rows, strict=True):
                key = write.keys[a]
                if key is not None:
                    read = read + (query @ key.swapaxes(-1, -2)) @ _steps_of(p, write.rank)
        found.append(np.broadcast_to(read, np.broadcast_shapes(read.shape, (*states[0].shape[:-2], 1, 1, 1))))
    return found, [_moved_on(x, states, kernel, rows, a) for a, _ in enumerate(states)]


def _flat(a: Array) -> Array:
    """(..., T, R, K) as (..., T R, K)."""
    return a.reshape(*a.shape[:-3], a.shape[-3] * a.shape[-2], a.shape[-1])


def _steps_of(a: Array, rank: int) -> Array:
    """(..., T R, V) as (..., T, R, V)."""
    return a.reshape(*a.shape[:-2], a.shape[-2] // rank, rank, a.shape[-1])


def _seen(query: Array, x: Operands, a: int) -> list[tuple[int, Array]]:
    """What a query of state a after a step sees of the states before it, besides what that step writes."""
    return [(c, query if f is None else query * f[..., np.newaxis, :]) for (b, c), f in x.factors.items() if b == a]


def _moved_on(x: Operands, states: list[Array], kernel: _Kernel, rows: list[Array], a: int) -> Array:
    """State a after the chunk."""
    new = np.zeros((), states[0].dtype)
    for c in kernel.reached(a):
        total = kernel.total[a, c]
        new = new + states[c] * (total if x.by_columns else total.swapaxes(-1, -2))
    for write, p in zip(x.writes, rows, strict=True):
        for c in kernel.reached(a):
            key = write.keys[c]
            if key is None:
                continue
            after = np.repeat(kernel.after[a, c], write.rank, axis=-2)
            flat, row = (_flat(key), p * after) if x.by_columns else (_flat(key) * after, p)
            new = new + flat.swapaxes(-1, -2) @ row
    return new


class _Kernel:
    """Products of the factors before each step, after each step, of all, and between any two."""

    def __init__(self, x: Operands, count: int, dtype: np.dtype[Any]) -> None:
        self.x, self.count, self.dtype = x, count, dtype
        self.before: dict[Pair, Array] = {}
        self.after: dict[Pair, Array] = {}
        self.total: dict[Pair, Array] = {}
        self.pairs: dict[Pair, Array] | None = None
        if len({a for a, _ in x.paths}) == 1:
            self.before[0, 0], self.after[0, 0], self.total[0, 0] = _products(x.decay, count, dtype)
            if x.decay is None or x.decay.shape[-1] == 1:
                self.pairs = {(0, 0): self._between()[0, 0][..., :-1, :]} if x.decay is not None else None
            return
        between = self._between()
        self.pairs = {p: d[..., :-1, :] for p, d in between.items()}
        start = self._from_start()
        for pair in x.paths:
            self.after[pair] = between[pair][..., -1, :, np.newaxis]
            self.before[pair], self.total[pair] = start[pair][..., :-1, :], start[pair][..., -1:, :]

    def reached(self, a: int) -> list[int]:
        """The states of which a holds something after some steps."""
        return [c for b, c in self.x.paths if b == a]

    def _on(self, products: dict[Pair, Array], i: int) -> dict[Pair, Array]:
        """Products of factors with those of step i in front of them."""
        found: dict[Pair, Array] = {}
        for (a, b), factor in self.x.factors.items():
            for c in self.reached(b):
                more = products[b, c] if factor is None else factor[..., i, :] * products[b, c]
                found[a, c] = found[a, c] + more if (a, c) in found else more
        nothing = np.zeros(1, self.dtype)
        return {p: found.get(p, nothing) for p in self.x.paths}

    def _from_start(self) -> dict[Pair, Array]:
        """(..., T + 1, 1): the products of the first steps."""
        now = {(a, b): np.full(1, a == b, self.dtype) for a, b in self.x.paths}
        line = [now]
        for i in range(self.count):
            now = self._on(now, i)
            line.append(now)
        return {p: np.stack(np.broadcast_arrays(*(at[p] for at in line)), axis=-2) for p in self.x.paths}

    def _between(self) -> dict[Pair, Array]:
        """(..., T + 1, T): the products of the steps after j and before i, 0 for j >= i."""
        columns = np.arange(self.count)
        now = {p: np.zeros(self.count, self.dtype) for p in self.x.paths}
        line = [now]
        for i in range(self.count):
            moved = self._on(now, i)
            now = {
                (a, b): np.where(columns == i, np.asarray(a == b, self.dtype), np.where(columns < i, d, 0))
                for (a, b), d in moved.items()
            }
            line.append(now)
        return {p: np.stack(np.broadcast_arrays(*(at[p] for at in line)), axis=-2) for p in self.x.paths}

    def weights(self, left: Array, write: Lines, a: int, rank: int) -> Array:
        """(..., T rank, T R): what each earlier row of a write counts for in a probe or query of state a."""
        total = np.zeros((), self.dtype)
        for b in self.reached(a):
            key = write.keys[b]
            if key is not None:
                total = total + self._met(left, _flat(key), (a, b), rank, write.rank)
        return np.broadcast_to(total, np.broadcast_shapes(total.shape, (self.count * rank, self.count * write.rank)))

    def _met(self, left: Array, key: Array, pair: Pair, rank: int, other: int) -> Array:
        decay = self.x.decay
        at, to = np.arange(self.count).repeat(rank), np.arange(self.count).repeat(other)
        lower = at[:, np.newaxis] > to
        if self.pairs is not None:
            between = self.pairs[pair].repeat(rank, axis=-2).repeat(other, axis=-1)
            return np.where(lower, between * (left @ key.swapaxes(-1, -2)), 0)
        if decay is None or self.x.by_columns:
            return np.where(lower, left @ key.swapaxes(-1, -2), 0)
        lead = np.broadcast_shapes(left.shape[:-2], key.shape[:-2], decay.shape[:-2])
        found = np.zeros((*lead, len(at), len(to)), key.dtype)
        moved = np.broadcast_to(key, (*lead, *key.shape[-2:])).copy()  # key_j D[i, j], as i grows
        for i in range(1, self.count):
            moved[..., : (i - 1) * other, :] *= decay[..., i - 1 : i, :]
            own, before = slice(i * rank, (i + 1) * rank), slice(0, i * other)
            found[..., own, before] = left[..., own, :] @ moved[..., before, :].swapaxes(-1, -2)
        return found


def _products(decay: Array | None, count: int, dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
    """Of the decays before each step, after each step, and of all, for a state alone."""
    if decay is None:
        one = np.ones((1, 1), dtype)
        return np.broadcast_to(one, (count, 1)), np.broadcast_to(one, (count, 1)), one
    first = np.ones_like(decay[..., :1, :])
    before = np.concatenate([first, np.cumprod(decay[..., :-1, :], axis=-2)], axis=-2)
    after = np.concatenate([np.cumprod(decay[..., :0:-1, :], axis=-2)[..., ::-1, :], first], axis=-2)
    return before, after, before[..., -1:, :] * decay[..., -1:, :]


def _by_columns(query: Array, x: Operands, rows: Sequence[Array]) -> Array:
    """What earlier steps of the chunk add to a read, where each column has its own decay."""
    assert x.decay is not None
    count, rank = query.shape[-3], query.shape[-2]
    total: Array | None = None
    for write, p in zip(x.writes, rows, strict=True):
        (key,) = write.keys
        assert key is not None
        scores = _flat(query) @ _flat(key).swapaxes(-1, -2)
        lead = np.broadcast_shapes(scores.shape[:-2], p.shape[:-2], x.decay.shape[:-2])
        found = np.zeros((*lead, count, rank, p.shape[-1]), p.dtype)
        moved = np.broadcast_to(p, (*lead, *p.shape[-2:])).copy()  # p_j D[i, j], as i grows
        for i in range(1, count):
            moved[..., : (i - 1) * write.rank, :] *= x.decay[..., i - 1 : i, :]
            before = slice(0, i * write.rank)
            found[..., i, :, :] = scores[..., i * rank : (i + 1) * rank, before] @ moved[..., before, :]
        total = found if total is None else total + found
    assert total is not None
    return total


def _rows(x: Operands, states: list[Array], kernel: _Kernel) -> list[Array]:
    """The rows each write adds, (..., T R, V): as given, or by the unit lower triangular system, from the top down."""
    if all(p is None for w in x.writes for p in w.probes):
        return [_flat(w.value) for w in x.writes if w.value is not None]
    operands = [a for w in x.writes for a in (*w.keys, *w.probes, w.value) if a is not None]
    factors = [f for f in x.factors.values() if f is not None]
    lead = np.broadcast_shapes(
        *(a.shape[:-3] for a in operands), *(f.shape[:-2] for f in factors), states[0].shape[:-2]
    )
    count, columns = kernel.count, states[0].shape[-1]
    rows: list[Array] = []
    weights: list[list[Array] | None] = []
    for write in x.writes:
        row = np.zeros((*lead, count * write.rank, columns), states[0].dtype)
        if write.value is not None:
            row += _flat(write.value)
        own: list[Array] | None = None
        for a, probe in enumerate(write.probes):
            if probe is None:
                continue
            for c in kernel.reached(a):
                row += _flat(probe * kernel.before[a, c][..., np.newaxis, :]) @ states[c]
            met = [kernel.weights(_flat(probe), other, a, write.rank) for other in x.writes]
            own = met if own is None else [m + o for m, o in zip(met, own, strict=True)]
        weights.append(own)
        rows.append(row)
    for i in range(1, count):
        for write, row, own in zip(x.writes, rows, weights, strict=True):
            at = slice(i * write.rank, (i + 1) * write.rank)
            for other, known, weight in zip(x.writes, rows, own or (), strict=False):
                row[..., at, :] += weight[..., at, : i * other.rank] @ known[..., : i * other.rank, :]
    return rows


def _steps(x: Operands, states: list[Array], count: int) -> tuple[list[Array], list[Array]]:
    """The same one step after another, as the equations say."""
    found: list[list[Array]] = [[] for _ in x.reads]
    for i in range(count):
        new = [np.zeros((), states[0].dtype) for _ in states]
        for (a, b), factor in x.factors.items():
            by: Any = 1 if factor is None else factor[..., i : i + 1, :]
            new[a] = new[a] + states[b] * (by if factor is None or x.by_columns else by.swapaxes(-1, -2))
        for write in x.writes:
            row = np.zeros((), states[0].dtype) if write.value is None else write.value[..., i, :, :]
            for b, probe in enumerate(write.probes):
                row = row if probe is None else probe[..., i, :, :] @ states[b] + row
            for a, key in enumerate(write.keys):
                new[a] = new[a] if key is None else new[a] + key[..., i, :, :].swapaxes(-1, -2) @ row
        for out, (query, a, now) in zip(found, x.reads, strict=True):
            out.append((query[..., i, :, :] @ (new if now else states)[a])[..., np.newaxis, :, :])
        states = new
    return [np.concatenate(r, axis=-3) for r in found], states
