"""How far rounding alone moves a recurrence: its definition once as it stands, and several times with every operation
rounded to float32 at random, up or down.

That is Monte Carlo arithmetic (Parker, "Monte Carlo arithmetic", 1997; CESTAC, Vignes 1993): the rounded runs are what
float32 loops could give, and how far they are from the exact one says how well the numbers at hand determine the
result at all, with no constant chosen for a system. An operation whose result float32 holds stays exact, so counters,
flags and zeros are themselves in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from recurc import ir
from recurc.backends import reference

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """What the definition gives, and the largest deviation of the rounded runs from it, by the name of the value: of
    an output `(T,)`, up to each step; of a final state `(1,)`."""

    exact: Arrays
    spread: Arrays


def run(
    rec: ir.Recurrence, arrays: Mapping[str, np.ndarray], batch: int, steps: int, rng: np.random.Generator,
    sizes: Mapping[str, int] | None = None, samples: int = 3,
) -> Run:  # fmt: skip
    """`arrays`: inputs `(B, T, *dims)`, params `(*dims)` and `STATE@initial` `(*dims)` or `(B, *dims)`, real ones
    float64. All runs are rows of one batch; params get rows too, so that what is made of them is rounded."""
    rows = 1 + samples
    ranks = {v.name: len(v.dims) for v in (*rec.params, *rec.states)}

    def repeated(name: str, a: np.ndarray) -> np.ndarray:
        alone = name not in {i.name for i in rec.inputs} and a.ndim == ranks.get(name.partition("@")[0], -1)
        return np.concatenate([np.broadcast_to(a, (batch, *a.shape)) if alone else a] * rows)

    def rounded(expr: ir.Expr, *rest: Any) -> np.ndarray:
        value = plain(expr, *rest)
        if value.dtype.kind not in "fc" or value.shape[0] != batch * rows:
            return value
        return np.concatenate([value[:batch], _either_side(value[batch:], rng)])

    plain = reference.evaluate
    with mock.patch.object(reference, "evaluate", rounded):
        found = reference.run(rec, {n: repeated(n, a) for n, a in arrays.items()}, batch * rows, steps, sizes)
    exact = {n: v[:batch] for n, v in found.items()}
    spread: Arrays = {}
    for name, value in found.items():
        again = value.reshape(rows, batch, *value.shape[1:])[1:].astype(np.complex128)
        with np.errstate(all="ignore"):  # a run that leaves the range of float32 is off by any amount
            off = np.where(
                np.isfinite(exact[name]), np.nan_to_num(np.abs(again - exact[name]), nan=np.inf, posinf=np.inf), 0.0
            )
        along = off if name in rec.outputs else off[:, :, np.newaxis]  # (samples, B, T, ...)
        each = along.max(axis=(0, 1, *range(3, along.ndim)), initial=0.0)
        spread[name] = np.maximum.accumulate(each)
    return Run(exact, spread)


def _either_side(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The float32 above or the one below, by chance, as float64."""
    if value.dtype.kind == "c":
        return _either_side(value.real, rng) + 1j * _either_side(value.imag, rng)
    with np.errstate(over="ignore"):
        near = value.astype(np.float32)
        other = np.nextafter(near, np.where(value > near, np.float32(np.inf), np.float32(-np.inf)))
    swap = (near != value) & np.isfinite(value) & (rng.random(value.shape) < 0.5)
    return np.where(swap, other, near).astype(np.float64)
