"""Updates that are no weighted sums and still scan, in the words of the language: one for each operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import recurc

DIMS = {"D": 3}


@dataclass(frozen=True)
class Lifted:
    """`update` of the state `h[D] = first` (or of `states`), from inputs x[D], z[D], n[D]: int, go: bool and a param
    p[D]."""

    cls: str
    update: str
    first: str = "1"
    states: str = ""

    @property
    def rec(self) -> recurc.Recurrence:
        states = self.states or f"h[D] = {self.first}"
        lines = self.update.replace("; ", "\n    ")
        known = {"x": "x[D]", "z": "z[D]", "n": "n[D]: int", "go": "go: bool"}
        words = set("".join(c if c.isalnum() else " " for c in f"{self.update} {self.first}").split())
        inputs = ", ".join(v for k, v in known.items() if k in words)
        param = "    param  p[D]\n" if "p" in words else ""
        text = f"recurrence Lifted(D):\n    input  {inputs}\n{param}    state  {states}\n    {lines}\n    output h\n"
        return recurc.load(text=text)


CASES = {
    "clamp": Lifted("CL", "h = clamp(h[t-1] + x, -1 - abs(z), 1.5)"),
    "bounds that cross": Lifted("CL", "h = max(min(h[t-1] - x, z), -z) + 0.25"),
    "floor and ceiling": Lifted("CL", "h = min(max(h[t-1] + x, z), 0.5 + z) - 0.125"),
    "clamp after a reset": Lifted("SEG", "reset when go; h = clamp(h[t-1] + x, -1, 1.5)", "0.5"),
    "continued fraction": Lifted("MB", "h = abs(x) + 0.1 + abs(z) / (h[t-1] + 0.5)"),
    "quotient": Lifted("MB", "h = (abs(x) * h[t-1] + 1) / (0.3 * h[t-1] + 1 + abs(z))"),
    "reciprocal": Lifted("MB", "h = 1 / (1 / h[t-1] + abs(x)) * 1.25 + abs(z)"),
    "fraction by choice": Lifted("MB", "h = if z > 0 then 1 / (1 + h[t-1]) else 0.5 * h[t-1] + abs(x)"),
    "filter of one number": Lifted(
        "MB", "a = 0.81 * h[t-1] + abs(x); k = a / (a + 0.5 + abs(z)); h = (1 - k) * a"
    ),
    "fraction after a reset": Lifted("SEG", "reset when go; h = 1 / (1 + abs(x) + h[t-1])", "0.5 + abs(p)"),
    "remainder of a sum": Lifted("AM", "h = (h[t-1] + x) % (2 * pi)"),
    "remainder of differences": Lifted("AM", "h = (x - 0.5 + h[t-1] - z) % 1.5"),
    "norm": Lifted("AM", "h = sqrt(abs(p) * h[t-1]**2 + x**2)"),
    "fourth root": Lifted("AM", "h = (0.5 * h[t-1]**4 + abs(x))**0.25"),
    "norm whose factor may have any sign": Lifted("AM", "h = sqrt(p * h[t-1]**2 + x**2)"),
    "norm of what may have any sign": Lifted("AM", "h = sqrt(abs(p) * h[t-1]**2 + x + 1.5)"),
    "cube root from below zero": Lifted("AM", "h = (sigmoid(z) * h[t-1]**3 + abs(x)**3)**(1 / 3)", "p"),
    "logarithm of what may have any sign": Lifted("AM", "h = log((z + 2) * exp(h[t-1]) + exp(x))"),
    "logarithm": Lifted("AM", "h = log(sigmoid(z) * exp(h[t-1]) + exp(x))"),
    "fading maximum": Lifted("SL", "h = max(abs(p) * h[t-1], x)"),
    "fading minimum": Lifted("SL", "h = min(sigmoid(z) * h[t-1] / (1 + x**2), x)"),
    "fading maximum after a reset": Lifted("SEG", "reset when go; h = max(0.75 * h[t-1], x)", "p"),
    "maximum after a reset": Lifted("SEG", "reset when go; h = max(h[t-1], x)", "-inf"),
    "maximum of whole numbers": Lifted("ID", "h = max(h[t-1], 2 * n)", states="h[D]: int = -30"),
    "minimum of whole numbers, sometimes": Lifted(
        "ID", "h = if go then min(n, h[t-1]) else h[t-1]", states="h[D]: int = 9223372036854775807"
    ),
    "minimum of whole numbers after a reset": Lifted(
        "SEG", "reset when go; h = if n < h[t-1] then n else h[t-1]", states="h[D]: int = 30"
    ),
    "log-sum-exp after a reset": Lifted("SEG", "reset when go; h = logaddexp(h[t-1] - 0.5, x)", "p"),
    "average after a reset": Lifted("SEG", "reset when go; h = 0.75 * h[t-1] + x", "p"),
    "generator": Lifted("EA", "h = (16807 * (h[t-1] + n)) % 2147483647", states="h[D]: int = 12345"),
    "generator with a falling factor": Lifted("EA", "h = (n - n * h[t-1]) % 97", states="h[D]: int = -200"),
    "two remainders": Lifted(
        "BA", "h = (2 * h[t-1] - g[t-1] + n) % 1009; g = (h[t-1] + n * g[t-1]) % 1009",
        states="h[D]: int = 5, g[D]: int = -1",
    ),
    "Fibonacci numbers below a large number": Lifted(
        "BA", "h = h[t-1] + h[t-2] + n", states="h[D]: int(999999937) = 999999936"
    ),
    "remainders of three steps before": Lifted(
        "BA", "h = 3 * h[t-1] - n * h[t-3] + n", states="h[D]: int(1009) = 5"
    ),
    "rotation": Lifted(
        "CA", "h = 0.9 * (cos(x) * h[t-1] - sin(x) * g[t-1]) + z; g = 0.9 * (sin(x) * h[t-1] + cos(x) * g[t-1])",
        states="h[D] = 1, g[D] = 0.5",
    ),
    "momentum": Lifted(
        "BA", "g = 0.9 * g[t-1] - 0.1 * abs(z) * (h[t-1] - x); h = 0.9 * h[t-1] + g", states="g[D] = 0, h[D] = 1"
    ),
    "three states": Lifted(
        "BA", "h = 0.5 * h[t-1] + 0.25 * g[t-1] + x; g = 0.5 * g[t-1] - 0.25 * f[t-1]; f = 0.5 * h + z",
        states="h[D] = 1, g[D] = 0, f[D] = -1",
    ),
}  # fmt: skip


def whole(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(-50, 50, shape)


def truth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.random(shape) < 0.3


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


DRAW = {"n": whole, "go": truth}


def arrays(rec: recurc.Recurrence, rng: np.random.Generator, batch: int, steps: int) -> dict[str, Any]:
    """Inputs (B, T, ...) and params, fresh."""
    sizes = [DIMS[d] for d in ("D",)]
    found: dict[str, np.ndarray] = {}
    for given in rec.ir.inputs:
        shape = (batch, steps, *(sizes if given.dims else ()))
        found[given.name] = DRAW.get(given.name, normal)(rng, shape)
    return found | {v.name: rng.standard_normal(sizes) for v in rec.ir.params}
