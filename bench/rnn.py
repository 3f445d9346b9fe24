"""LSTM and GRU forward against `torch.nn` without autograd: matrix products with a long dependence chain."""

from __future__ import annotations

import numpy as np

from bench import ours, peers_torch
from bench.floors import count, floor
from bench.machine import Ceilings
from bench.measure import interleaved
from bench.rows import Floor, Row, against

SIZES = {
    (1, 512, 256, 256): 0.9,
    (4, 256, 512, 512): None,
    (32, 512, 256, 256): 0.9,
    (64, 256, 512, 512): 0.9,
    (8, 512, 64, 64): 1.5,
}


def params(kind: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """torch's weights under the names of the zoo: the LSTM has one bias, the sum of torch's two."""
    if kind == "gru":
        return weights
    return {"W": weights["W"], "U": weights["U"], "b": weights["b"] + weights["d"]}


def measure(rng: np.random.Generator, ceilings: Ceilings, budget: float) -> tuple[list[Row], list[Floor]]:
    rows: list[Row] = []
    floors: list[Floor] = []
    for kind in ("lstm", "gru"):
        rec = ours.system(kind)
        for (batch, steps, width, hidden), target in SIZES.items():
            case = f"{kind.upper()} forward B{batch} T{steps} D{width} H{hidden} f32"
            x = rng.standard_normal((batch, steps, width)).astype(np.float32)
            peer, weights = peers_torch.rnn(kind, x, hidden, seed=int(rng.integers(2**31)))
            candidates = {"ours": ours.call(rec, {"x": x, **params(kind, weights)}), "torch": peer}
            ours.check_against(candidates["ours"](), candidates["torch"](), case)
            times = interleaved(candidates, budget)
            rows.append(against(case, times["ours"], f"torch.nn.{kind.upper()}, no_grad", times["torch"], target))
            counted = count(rec.ir, {"D": width, "H": hidden}, batch, steps)
            floors.append(floor(case, counted, ceilings, times["ours"].median))
    return rows, floors
