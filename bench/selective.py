"""Mamba's selective scan (S6): exponentials bound, and nothing of size T D N may touch memory."""

from __future__ import annotations

import numpy as np

from bench import ours, peers_jax, peers_torch
from bench.floors import count, floor
from bench.machine import Ceilings
from bench.measure import interleaved
from bench.rows import Floor, Row, against

B, T, D, N = 4, 2048, 512, 16
CASE = f"selective scan B{B} T{T} D{D} N{N} f32"


def arrays(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs and params in the ranges a trained layer has (rates -1..-N, steps around 0.05)."""
    normal = {name: rng.standard_normal((B, T, D)) for name in ("x", "delta", "z")}
    normal |= {name: rng.standard_normal((B, T, N)) for name in ("B", "C")}
    rates = np.log(np.broadcast_to(np.arange(1.0, N + 1), (D, N)))
    params = {"A_log": rates, "skip": np.ones(D), "delta_bias": np.full(D, -3.0)}
    return {name: np.ascontiguousarray(a, dtype=np.float32) for name, a in (normal | params).items()}


def measure(rng: np.random.Generator, ceilings: Ceilings, budget: float) -> tuple[list[Row], list[Floor]]:
    given = arrays(rng)
    rec = ours.system("selective_scan")
    candidates = {
        "ours": ours.call(rec, given),
        "step": peers_jax.selective_scan_step(given),
        "materialised": peers_jax.selective_scan_materialised(given),
        "eager": peers_torch.selective_scan_eager(given),
    }
    result = candidates["ours"]()
    ours.check_against(result, np.moveaxis(np.asarray(candidates["step"]()), 0, 1), CASE)
    ours.check_against(result, np.moveaxis(np.asarray(candidates["materialised"]()), 0, 1), CASE)
    ours.check_against(result, candidates["eager"](), CASE)
    times = interleaved(candidates, budget, warmups=1)
    rows = [
        against(CASE, times["ours"], "jit lax.scan, decay formed in the step", times["step"], 3.5),
        against(CASE, times["ours"], "jit lax.scan over materialised (T, B, D, N)", times["materialised"], 3.5),
        against(CASE, times["ours"], "torch eager loop", times["eager"], 12.0),
    ]
    return rows, [floor(CASE, count(rec.ir, {"D": D, "N": N}, B, T), ceilings, times["ours"].median)]
