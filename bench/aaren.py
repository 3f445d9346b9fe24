"""Aaren, attention as an RNN: a stabilised softmax carried over time, one per batch element and head."""

from __future__ import annotations

import numpy as np

from bench import ours, peers_jax
from bench.floors import count, floor
from bench.machine import Ceilings
from bench.measure import interleaved
from bench.rows import Floor, Row, against

B, H, T, D = 4, 8, 4096, 64
CASE = f"Aaren B{B} T{T} D{D} H{H} f32"


def measure(rng: np.random.Generator, ceilings: Ceilings, budget: float) -> tuple[list[Row], list[Floor]]:
    s = rng.standard_normal((B, H, T)).astype(np.float32)
    v = rng.standard_normal((B, H, T, D)).astype(np.float32)
    flat_s, flat_v = s.reshape(B * H, T), v.reshape(B * H, T, D)
    rec = ours.system("aaren")
    candidates = {
        "ours": ours.call(rec, {"s": s, "v": v}),
        "scan": peers_jax.aaren_scan_batch_first(flat_s, flat_v),
        "scan, time first": peers_jax.aaren_scan(flat_s, flat_v),
    }
    ours.check_against(candidates["ours"]().reshape(B * H, T, D), candidates["scan"](), CASE)
    times = interleaved(candidates, budget)
    rows = [
        against(CASE, times["ours"], "jit lax.scan on the same (B, H, T, D) arrays", times["scan"], 3.0),
        against(CASE, times["ours"], "jit lax.scan handed (T, B H, D)", times["scan, time first"]),
    ]
    return rows, [floor(CASE, count(rec.ir, {"D": D}, B * H, T), ceilings, times["ours"].median)]
