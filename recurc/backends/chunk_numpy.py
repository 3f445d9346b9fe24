"""The chunkwise form of a matrix state in NumPy: what a `Chunk` stage means, in the plan interpreter.

With a for the decay, x for keys, y for probes, o for values and D[i, j] for the product of the decays of the steps
j + 1 ... i - 1 of a chunk that begins with the state S, the rows that are written at its step i are

    p_i = o_i + (y_i D[i]) . S + sum over j < i of (y_i D[i, j] . x_j) p_j      (a unit lower triangular system)

and a query q of the state before the step reads the same way; of the state after it, it reads a q and adds
(q . x_i) p_i. The next chunk begins with D S + sum over j of (D[end, j] x_j) (x) p_j. Products of decays are built
up step by step and never divided, so a decay may be zero, negative or larger than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
STEPS = 64  # of a chunk


@dataclass(frozen=True)
class Operands:
    """Values of all steps, or of those of one chunk; the axes are the sequences and shared dims, steps, then rows (K)
    or columns (V). An axis a value lacks has size 1, but that of the steps has not."""

    decay: Array | None  # (..., T, 1), (..., T, K) or (..., T, V); None: the number 1
    by_columns: bool  # which the decay tells apart
    writes: tuple[
        tuple[Array, Array | None, Array | None], ...
    ]  # key (..., T, K), probe (..., T, K), value (..., T, V)
    reads: tuple[tuple[Array, bool], ...]  # query (..., T, K), whether of the state after the step

    def steps(self, part: slice) -> Operands:
        def cut(a: Array | None) -> Array | None:
            return None if a is None else a[..., part, :]

        writes = tuple((k[..., part, :], cut(y), cut(o)) for k, y, o in self.writes)
        return Operands(cut(self.decay), self.by_columns, writes, tuple((q[..., part, :], s) for q, s in self.reads))


def chunkwise(operands: Operands, state: Array, steps: int) -> tuple[list[Array], Array]:
    """What each read gives, (..., T, V), and the state after the last step; `state` is (..., K, V)."""
    parts: list[list[Array]] = []
    for start in range(0, steps, STEPS):
        part = operands.steps(slice(start, min(start + STEPS, steps)))
        found, new = _chunk(part, state)
        if not (np.isfinite(new).all() and all(np.isfinite(f).all() for f in found)):
            found, new = _steps(part, state)  # an infinity or NaN must not reach the steps before it
        parts.append(found)
        state = new
    return [np.concatenate(list(r), axis=-2) for r in zip(*parts, strict=True)], state


def _chunk(x: Operands, state: Array) -> tuple[list[Array], Array]:
    count = x.writes[0][0].shape[-2]
    before, after, total = _products(x.decay, count, state.dtype)
    rows = _rows(x, state, before)
    found: list[Array] = []
    for query, now in x.reads:
        seen = query * x.decay if now and x.decay is not None and not x.by_columns else query
        if x.by_columns:
            read = before * (query @ state) + _by_columns(query, x, rows)
            read = x.decay * read if now else read
        else:
            read = (seen * before) @ state
            for (key, _, _), p in zip(x.writes, rows, strict=True):
                read = read + _weights(seen, key, x.decay) @ p
        if now:
            for (key, _, _), p in zip(x.writes, rows, strict=True):
                read = read + (query * key).sum(axis=-1, keepdims=True) * p
        found.append(np.broadcast_to(read, np.broadcast_shapes(read.shape, (*state.shape[:-2], 1, 1))))
    new = state * (total if x.by_columns else total.swapaxes(-1, -2))
    for (key, _, _), p in zip(x.writes, rows, strict=True):
        key, p = (key, p * after) if x.by_columns else (key * after, p)
        new = new + key.swapaxes(-1, -2) @ p
    return found, new


def _products(decay: Array | None, count: int, dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
    """Of the decays before each step, after each step, and of all."""
    if decay is None:
        one = np.ones((1, 1), dtype)
        return np.broadcast_to(one, (count, 1)), np.broadcast_to(one, (count, 1)), one
    first = np.ones_like(decay[..., :1, :])
    before = np.concatenate([first, np.cumprod(decay[..., :-1, :], axis=-2)], axis=-2)
    after = np.concatenate([np.cumprod(decay[..., :0:-1, :], axis=-2)[..., ::-1, :], first], axis=-2)
    return before, after, before[..., -1:, :] * decay[..., -1:, :]


def _weights(left: Array, key: Array, decay: Array | None) -> Array:
    """(..., T, T): `left_i D[i, j] . key_j` for j < i, else 0."""
    count = key.shape[-2]
    lower = np.tri(count, k=-1, dtype=bool)
    if decay is None:
        return np.where(lower, left @ key.swapaxes(-1, -2), 0)
    if decay.shape[-1] == 1:
        product = np.zeros((*decay.shape[:-2], count, count), decay.dtype)
        for i in range(1, count):
            product[..., i, : i - 1] = product[..., i - 1, : i - 1] * decay[..., i - 1, :]
            product[..., i, i - 1] = 1
        return np.where(lower, product * (left @ key.swapaxes(-1, -2)), 0)
    lead = np.broadcast_shapes(left.shape[:-2], key.shape[:-2], decay.shape[:-2])
    found = np.zeros((*lead, count, count), key.dtype)
    moved = np.broadcast_to(key, (*lead, *key.shape[-2:])).copy()  # key_j D[i, j], as i grows
    for i in range(1, count):
        moved[..., : i - 1, :] *= decay[..., i - 1 : i, :]
        found[..., i, :i] = (moved[..., :i, :] * left[..., i : i + 1, :]).sum(axis=-1)
    return found


def _by_columns(query: Array, x: Operands, rows: Sequence[Array]) -> Array:
    """What earlier steps of the chunk add to a read, where each column has its own decay."""
    assert x.decay is not None
    count = query.shape[-2]
    total: Array | None = None
    for (key, _, _), p in zip(x.writes, rows, strict=True):
        scores = query @ key.swapaxes(-1, -2)
        lead = np.broadcast_shapes(scores.shape[:-2], p.shape[:-2], x.decay.shape[:-2])
        found = np.zeros((*lead, count, p.shape[-1]), p.dtype)
        moved = np.broadcast_to(p, (*lead, *p.shape[-2:])).copy()  # p_j D[i, j], as i grows
        for i in range(1, count):
            moved[..., : i - 1, :] *= x.decay[..., i - 1 : i, :]
            found[..., i, :] = (scores[..., i, :i, np.newaxis] * moved[..., :i, :]).sum(axis=-2)
        total = found if total is None else total + found
    assert total is not None
    return total


def _rows(x: Operands, state: Array, before: Array) -> list[Array]:
    """The rows each write adds, (..., T, V): as given, or the solution of the triangular system, from the top down."""
    lead = np.broadcast_shapes(*(a.shape[:-2] for w in x.writes for a in w if a is not None), state.shape[:-2])
    if all(probe is None for _, probe, _ in x.writes):
        return [value for _, _, value in x.writes if value is not None]
    count, columns = x.writes[0][0].shape[-2], state.shape[-1]
    rows: list[Array] = []
    weights: list[list[Array] | None] = []
    for _, probe, value in x.writes:
        row = np.zeros((*lead, count, columns), state.dtype)
        if value is not None:
            row += value
        if probe is not None:
            row += (probe * before) @ state
            weights.append([_weights(probe, key, x.decay) for key, _, _ in x.writes])
        else:
            weights.append(None)
        rows.append(row)
    for i in range(1, count):
        for row, own in zip(rows, weights, strict=True):
            for other, weight in zip(rows, own or (), strict=False):
                row[..., i : i + 1, :] += weight[..., i : i + 1, :i] @ other[..., :i, :]
    return rows


def _steps(x: Operands, state: Array) -> tuple[list[Array], Array]:
    """The same one step after another, as the equations say."""
    count = x.writes[0][0].shape[-2]
    found: list[list[Array]] = [[] for _ in x.reads]
    for i in range(count):
        at = slice(i, i + 1)
        new = state
        if x.decay is not None:
            decay = x.decay[..., at, :]
            new = new * (decay if x.by_columns else decay.swapaxes(-1, -2))
        for key, probe, value in x.writes:
            row = None if value is None else value[..., at, :]
            if probe is not None:
                seen = probe[..., at, :] @ state
                row = seen if row is None else seen + row
            assert row is not None
            new = new + key[..., at, :].swapaxes(-1, -2) * row
        for out, (query, now) in zip(found, x.reads, strict=True):
            out.append(query[..., at, :] @ (new if now else state))
        state = new
    return [np.concatenate(r, axis=-2) for r in found], state
