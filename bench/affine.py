"""The diagonal affine scan h = a h + b: all memory traffic, so the large copy is the yardstick."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import ours, peers_jax
from bench.floors import count, floor
from bench.machine import Ceilings, large_copy
from bench.measure import interleaved
from bench.rows import Floor, Row, against

B, T, D = 4, 2048, 512
CASE = f"affine scan B{B} T{T} D{D} f32"


def measure(rng: np.random.Generator, ceilings: Ceilings, budget: float) -> tuple[list[Row], list[Floor]]:
    a = rng.uniform(0.8, 1.0, (B, T, D)).astype(np.float32)
    b = rng.standard_normal((B, T, D)).astype(np.float32)
    rec = ours.system("diagonal_affine")
    first = {"a": peers_jax.time_first(a), "b": peers_jax.time_first(b)}
    candidates = {
        "ours": ours.call(rec, {"a": a, "b": b}),
        "ours, from memory": _from_memory(rec, a, b),
        "ours, time first": ours.call(rec, first, layout="TB"),
        "scan": peers_jax.affine_scan_batch_first(a, b),
        "scan, time first": peers_jax.affine_scan(a, b),
        "associative": peers_jax.affine_associative_scan(a, b),
    }
    ours.check_against(candidates["ours"](), candidates["scan"](), CASE)
    ours.check_against(candidates["ours, time first"](), candidates["scan, time first"](), CASE)
    # The copy takes turns with the others: what a machine moves changes from minute to minute where others share it.
    copy_all, copied = large_copy()
    times = interleaved({**candidates, "copy": copy_all}, budget)
    counted = count(rec.ir, {"D": D}, B, T)
    copy = counted[0] * times["copy"].median / copied
    rows = [
        against(CASE, times["ours"], "jit lax.scan on the same (B, T, D) arrays", times["scan"], 5.0),
        against(CASE, times["ours"], "jit lax.associative_scan", times["associative"]),
        Row(
            "kernels",
            CASE,
            times["ours, from memory"].median,
            "large copy of as many bytes; all arrays from memory, not from a cache",
            copy,
            0.70,
        ),
        against(
            f"{CASE}, time first", times["ours, time first"], "jit lax.scan on (T, B, D)", times["scan, time first"]
        ),
    ]
    return rows, [floor(CASE, counted, ceilings, times["ours, from memory"].median)]


def _from_memory(rec: Any, a: np.ndarray, b: np.ndarray, copies: int = 6) -> Callable[[], object]:
    """Calls on one pair of arrays after another, so many that each comes from memory and not from a cache."""
    calls = itertools.cycle([ours.call(rec, {"a": a.copy(), "b": b.copy()}) for _ in range(copies)])
    return lambda: next(calls)()
