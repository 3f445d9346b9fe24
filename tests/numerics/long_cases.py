"""One system of each class for runs of a million steps, with values drawn for it and the error that theory allows.

**The bounds**, relative to the largest value, with u = 2^-24:

* a system that forgets: those of all lengths, `1e-6 (1 + log2 T)` (`tests.numerics.cases`);
* one that keeps everything and meets varied values: roundings are as good as independent with mean zero, and with c of
  them at every step `8 sqrt(T) c u` holds for all steps together but with probability 2 T exp(-32) = 3e-8 (Higham and
  Mary, "A new approach to probabilistic rounding error analysis", 2019, Theorem 2.4 with lambda = 8);
* one that keeps everything and does the same at every step: the roundings may all point one way, `T c u`.

A complex product rounds by sqrt(5) u (Brent, Percival and Zimmermann, 2007), a reflection of K numbers by (K + 3) u.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import recurc
from tests.zoo import cases

Arrays = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator, int], Arrays]
STEPS, U, LAMBDA = 1_000_000, 2.0**-24, 8.0
H, K, V = 2, 4, 5

ROTATION = """
recurrence Rotation(D):
    input  a[D]: complex
    state  z[D]: complex = 1
    z = a * z[t-1]
    output z
"""
REFLECTIONS = """
recurrence Reflections(K, V):
    input  k[K], q[K]
    param  S0[K, V]
    state  S[K, V] = S0
    S = S[t-1] - k * (2 * (k @ S[t-1]))
    output o = q @ S
"""


def forgets(steps: int) -> float:
    return 1e-6 * (1 + math.log2(steps))


def varied(roundings: float) -> Callable[[int], float]:
    return lambda steps: LAMBDA * math.sqrt(steps) * roundings * U


def alike(roundings: float) -> Callable[[int], float]:
    return lambda steps: steps * roundings * U


@dataclass(frozen=True)
class Case:
    system: str  # of the zoo, or text
    draw: Draw
    room: Callable[[int], float]

    @property
    def recurrence(self) -> recurc.Recurrence:
        return recurc.load(text=self.system) if "\n" in self.system else cases.load(self.system)

    def arrays(self, rng: np.random.Generator, steps: int) -> Arrays:
        """In float32 and complex64; every system is one sequence."""
        drawn = self.draw(rng, steps)
        return {n: a.astype(np.complex64 if a.dtype.kind == "c" else np.float32) for n, a in drawn.items()}


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    v = rng.standard_normal(shape)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _gates(rng: np.random.Generator, steps: int) -> Arrays:
    return {"a": 1 / (1 + np.exp(-rng.normal(2, 1, (steps, 4)))), "b": rng.uniform(0.1, 1, (steps, 4))}


def _heads(rng: np.random.Generator, steps: int, *lead: int) -> Arrays:
    return {n: rng.standard_normal((steps, *lead, V if n == "v" else K)) for n in ("q", "k", "v")}


CASES = {
    "EA, gates": Case("diagonal_affine", _gates, forgets),
    "EA, a sum": Case(
        "diagonal_affine", lambda rng, t: {"a": np.ones((t, 4)), "b": rng.uniform(0, 1, (t, 4))}, varied(1)
    ),
    "EA, a sum of equal terms": Case(
        "diagonal_affine", lambda rng, t: {"a": np.ones((t, 4)), "b": np.full((t, 4), 0.1)}, alike(1)
    ),
    "EA, time invariant": Case(
        "ema", lambda rng, t: {"x": rng.standard_normal((t, 4)), "alpha": np.array(0.01)}, forgets
    ),
    "CA, rotations": Case(
        ROTATION, lambda rng, t: {"a": np.exp(1j * rng.uniform(-np.pi, np.pi, (t, 4)))}, varied(math.sqrt(5))
    ),
    "CA, one rotation": Case(
        ROTATION, lambda rng, t: {"a": np.tile(np.exp(0.739j * np.arange(1, 5)), (t, 1))}, alike(math.sqrt(5))
    ),
    "SR1, gates": Case(
        "simple_gla", lambda rng, t: {**_heads(rng, t, H), "g": -rng.uniform(1e-3, 0.5, (t, H))}, forgets
    ),
    "SR1, no decay": Case("linear_attention", _heads, varied(2)),
    "DR1, gates": Case("gla", lambda rng, t: {**_heads(rng, t), "g": rng.standard_normal((t, K))}, forgets),
    "SL, a sum of exponentials": Case("logsumexp_scan", lambda rng, t: {"x": rng.standard_normal((t, 4))}, alike(2)),
    "OS, no decay": Case(
        "aaren", lambda rng, t: {"s": rng.standard_normal(t), "v": rng.standard_normal((t, V))}, varied(2)
    ),
    "OS, gates": Case(
        "rwkv4",
        lambda rng, t: {
            "k": rng.standard_normal((t, 4)),
            "v": rng.standard_normal((t, 4)),
            "omega": rng.uniform(-3, 0, 4),
            "u": rng.standard_normal(4),
        },
        forgets,
    ),
    "GH, gates": Case("delta_net", lambda rng, t: {**_heads(rng, t), "beta": rng.standard_normal(t)}, forgets),
    "GH, reflections": Case(
        REFLECTIONS,
        lambda rng, t: {"k": _unit(rng, t, K), "q": _unit(rng, t, K), "S0": rng.standard_normal((K, V))},
        varied(K + 3),
    ),
}


def legal(case: Case) -> list[str]:
    return sorted({s for g in case.recurrence.analyze().groups for s in g.schedules})


def run(case: Case, backend: str, schedule: str, arrays: Arrays) -> Arrays:
    rec = case.recurrence
    out, final = rec.compile(backend=backend, schedule=schedule)(**arrays, return_final=True)
    found = dict(zip(rec.ir.outputs, cases.several(out), strict=True))
    return found | {f"{s}@final": np.asarray(v) for s, v in final.items()}


def wide(arrays: Arrays) -> Arrays:
    return {n: a.astype(np.complex128 if a.dtype.kind == "c" else np.float64) for n, a in arrays.items()}
