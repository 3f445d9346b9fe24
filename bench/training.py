"""Training: forward and backward pass together, gradients by every input and param.

LSTM and GRU against `torch.nn`; others against `jax.grad` of a jitted `lax.scan` and torch's autograd through a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench import ours, peers_training
from bench.machine import Ceilings
from bench.measure import interleaved
from bench.rows import Floor, Row, against

LAYERS = {(1, 512, 256, 256): 1.0, (32, 512, 256, 256): 1.0, (64, 256, 512, 512): 1.0, (8, 512, 64, 64): 2.0}
BY_JAX, BY_TORCH = 4.0, 10.0


def measure(rng: np.random.Generator, ceilings: Ceilings, budget: float) -> tuple[list[Row], list[Floor]]:
    rows = [row for kind in ("lstm", "gru") for row in _layers(kind, rng, budget)]
    for name, arrays in cases(rng).items():
        rows += _against_both(name, arrays, rng, budget)
    return rows, []


def _layers(kind: str, rng: np.random.Generator, budget: float) -> list[Row]:
    rows: list[Row] = []
    for (batch, steps, width, hidden), target in LAYERS.items():
        case = f"{kind.upper()} forward and backward B{batch} T{steps} D{width} H{hidden} f32"
        torch.manual_seed(int(rng.integers(2**31)))
        peer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](width, hidden, batch_first=True)
        layer = ours.system(kind).module(D=width, H=hidden, backend="cpu").load_torch(peer)
        x = torch.from_numpy(rng.standard_normal((batch, steps, width)).astype(np.float32)).requires_grad_()
        given = torch.from_numpy(rng.standard_normal((batch, steps, hidden)).astype(np.float32))
        candidates = {"ours": _step(layer, x, given), "torch": _step(peer, x, given)}
        for have, want in zip(*(run() for run in candidates.values()), strict=True):
            ours.check_against(have.numpy(), want.numpy(), case)
        times = interleaved(candidates, budget)
        rows.append(against(case, times["ours"], f"torch.nn.{kind.upper()}", times["torch"], target))
    return rows


def _step(layer: torch.nn.Module, x: torch.Tensor, given: torch.Tensor) -> Callable[[], Any]:
    """The output, and the gradient by the input; those by the params are made too."""
    wanted = [x, *layer.parameters()]

    def run() -> Any:
        y = layer(x)[0]
        found = torch.autograd.grad((y * given).sum(), wanted)
        return y.detach(), found[0]

    return run


def cases(rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of usual sizes in the ranges that trained layers have."""

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    b, t, d = 8, 1024, 128
    cases = {"min_gru": {"x": normal(b, t, d), "Wz": normal(d, d) / d**0.5, "Wh": normal(d, d) / d**0.5}}
    b, d, n = 2, 256, 16
    rates = np.log(np.broadcast_to(np.arange(1.0, n + 1), (d, n)))
    cases["selective_scan"] = {
        "x": normal(b, t, d), "delta": normal(b, t, d), "B": normal(b, t, n), "C": normal(b, t, n),
        "z": normal(b, t, d), "A_log": rates, "skip": np.ones(d), "delta_bias": np.full(d, -3.0),
    }  # fmt: skip
    b, t, h, p = 8, 512, 4, 32
    d = h * p
    cases["slstm"] = {
        "x": normal(b, t, d), "W": normal(4, h, p, d) / d**0.5, "U": normal(4, h, p, p) / p**0.5,
        "b": np.zeros((4, h, p)),
    }  # fmt: skip
    b, h, t, d = 4, 8, 2048, 64
    cases["aaren"] = {"s": normal(b * h, t), "v": normal(b * h, t, d)}
    b, t, h, k = 2, 1024, 4, 64
    cases["gated_delta_net"] = {
        "q": normal(b, t, h, k), "k": normal(b, t, h, k), "v": normal(b, t, h, k), "beta": normal(b, t, h),
        "a": normal(b, t, h), "A_log": rng.uniform(0, 2.77, h), "dt_bias": rng.uniform(-7, -2, h),
    }  # fmt: skip
    return {name: {n: np.ascontiguousarray(a, np.float32) for n, a in case.items()} for name, case in cases.items()}


@dataclass(frozen=True)
class Case:
    """A training step of a system of the zoo. `arrays`: inputs `(B, T, *dims)` and params; `given`: the derivatives by
    its output."""

    name: str
    arrays: Mapping[str, np.ndarray]
    given: np.ndarray

    @classmethod
    def of(cls, name: str, arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> Case:
        shape = ours.call(ours.system(name), arrays)().shape
        return cls(name, arrays, rng.standard_normal(shape).astype(np.float32))

    @property
    def inputs(self) -> set[str]:
        return set(ours.system(self.name).inputs)

    def candidate(self, who: str) -> Callable[[], Any]:
        """The step by "ours", "jax" or "torch": its output, and the gradients by name; those of peers time first."""
        if who == "ours":
            return self._ours()
        first = peers_training.time_first(self.arrays, self.inputs)
        given = np.ascontiguousarray(np.moveaxis(self.given, 1, 0))
        return {"jax": peers_training.by_jax, "torch": peers_training.by_torch}[who](self.name, first, given)

    def _ours(self) -> Callable[[], Any]:
        leaves = {n: torch.from_numpy(a).requires_grad_() for n, a in self.arrays.items()}
        compiled, given = ours.system(self.name).compile(backend="cpu"), torch.from_numpy(self.given)

        def run() -> Any:
            y = compiled(**leaves)
            found = torch.autograd.grad((y * given).sum(), list(leaves.values()))
            return y.detach(), dict(zip(leaves, found, strict=True))

        return run

    @property
    def title(self) -> str:
        last = list(ours.system(self.name).inputs)[-1]
        return f"{ours.system(self.name).name} forward and backward {last}{list(self.arrays[last].shape)} f32"


def _against_both(name: str, arrays: Mapping[str, np.ndarray], rng: np.random.Generator, budget: float) -> list[Row]:
    case = Case.of(name, arrays, rng)
    candidates = {who: case.candidate(who) for who in ("ours", "jax", "torch")}
    _, mine = candidates["ours"]()
    for peer in ("jax", "torch"):
        _, theirs = candidates[peer]()
        for n, found in mine.items():
            want = np.asarray(theirs[n])
            want = np.moveaxis(want, 0, 1) if n in case.inputs else want
            ours.check_against(found.numpy(), want, f"{case.title}, {n}", 2e-3)
    times = interleaved(candidates, budget, warmups=1)
    return [
        against(case.title, times["ours"], "jax.grad of jit lax.scan, time first", times["jax"], BY_JAX),
        against(case.title, times["ours"], "torch autograd, eager loop", times["torch"], BY_TORCH),
    ]
