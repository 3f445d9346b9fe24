"""What a system of the zoo means, a second time: a loop of plain NumPy over the steps of one sequence, written from the
equations of the paper and nothing else, registered under the system's name with sizes and ways to draw values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

Loop = Callable[[SimpleNamespace, list[SimpleNamespace]], Iterable[Any]]
Draw = str | Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Oracle:
    """`loop` takes the params and the inputs of every step of one sequence, and gives the output of each step: an
    array, or a tuple of several. `draw`: how inputs and params come that are not normal (see `drawn`)."""

    name: str
    loop: Loop
    sizes: dict[str, int]
    draw: dict[str, Draw]


ORACLES: dict[str, Oracle] = {}


def oracle(name: str, *, sizes: dict[str, int] | None = None, **draw: Draw) -> Callable[[Loop], Loop]:
    """Registers a loop as the meaning of the system `name`; `sizes` has every dim without a default, all different."""

    def keep(loop: Loop) -> Loop:
        assert name not in ORACLES, f"two oracles for {name}"
        ORACLES[name] = Oracle(name, loop, dict(sizes or {}), draw)
        return loop

    return keep


def drawn(rng: np.random.Generator, how: Draw, shape: tuple[int, ...]) -> np.ndarray:
    """Random values: `normal` (0, 0.7), `unit` (vectors of length 1 over the last dim), `gate` in (0, 1), `log_gate`
    below 0, `small`, `positive`, `stable` (a matrix whose exponential shrinks), `halves` (-1.5, -1, ..., 1.5: many are
    equal, and sums of them meet a threshold), `at:X` (all X), `complex`, `bool`, `bool:P` (true with probability P),
    `int:Q` (0 to Q - 1); or by a function of the generator and the shape."""
    if not isinstance(how, str):
        return how(rng, shape)
    kind, _, number = how.partition(":")
    match kind:
        case "normal":
            return rng.normal(0, 0.7, shape)
        case "unit":
            v = rng.normal(size=shape)
            return v / np.linalg.norm(v, axis=-1, keepdims=True)
        case "gate":
            return rng.uniform(0.1, 0.95, shape)
        case "log_gate":
            return -rng.uniform(0.05, 1.5, shape)
        case "small":
            return rng.uniform(-0.4, 0.4, shape)
        case "positive":
            return rng.uniform(0.2, 1.5, shape)
        case "stable":
            found = rng.normal(0, 0.5, shape)
            grows = np.linalg.eigvals(found).real.max(axis=-1)[..., np.newaxis, np.newaxis]
            return found - np.maximum(1.5, grows + 0.2) * np.eye(shape[-1])
        case "halves":
            return rng.integers(-3, 4, shape) / 2
        case "at":
            return np.full(shape, float(number))
        case "complex":
            return rng.normal(0, 0.5, shape) + 1j * rng.normal(0, 0.5, shape)
        case "bool":
            return rng.random(shape) < float(number or 0.5)
        case "int":
            return rng.integers(0, int(number), shape)
        case _:
            raise ValueError(f"no way to draw values is called {how!r}")


# --- functions that many papers share ------------------------------------------------------------------------------


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def silu(x: Any) -> Any:
    return x * sigmoid(x)


def normalised(x: Any) -> Any:
    """A vector divided by its length."""
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


__all__ = ["ORACLES", "Draw", "Loop", "Oracle", "drawn", "normalised", "oracle", "sigmoid", "silu", "softplus"]
