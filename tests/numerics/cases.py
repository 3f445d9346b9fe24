"""Systems, inputs and bounds the numeric tests share.

**The bounds.** Inputs are drawn in float32 and widened for the float64 reference, so both sides see the same numbers
and only the arithmetic differs.

* float64: both sides are float64 and differ in the order of operations and in the last bits of exp, tanh and the
  like, so `1e-9 (1 + |ref|)` leaves six digits of room over eps = 2.2e-16 and catches any difference in meaning.
* float32: one step rounds each of its c operations (c about 10 here; a transcendental counts as up to 4), so it
  commits about c eps, eps = 6.0e-8, relative to the largest term it adds. The systems forget at the parameters drawn
  here (decays at most 0.95, recurrent weights within 1/sqrt(H) behind gates), so old errors shrink as fast as old
  values and a loop stays within a few times c eps whatever T is; a scan over T multiplies and adds along a tree and
  adds one such error per level, log2 T of them. Aaren's normaliser forgets nothing: a sum of T terms is off by about
  sqrt(T) eps, 4e-6 at T = 4096, within the same. Hence `1e-6 (1 + log2 T)`, relative to the largest reference value
  or, where results cancel, to the inputs' own size of about 1: the usual bound for float32 loops and scans.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import recurc
from recurc.backends import reference

Arrays = dict[str, np.ndarray]
Batch = tuple[int, ...]

STEPS = (0, 1, 2, 3, 7, 64, 257, 4096)
BATCHES: tuple[Batch, ...] = ((), (1,), (3,), (2, 2))


@dataclass(frozen=True)
class System:
    """A recurrence, the schedules that are legal for it, and sizes: unequal, no powers of two, small and with tails."""

    name: str
    schedules: tuple[str, ...]
    small: tuple[tuple[str, int], ...]
    wide: tuple[tuple[str, int], ...]

    @property
    def recurrence(self) -> Any:
        return _load(self.name)

    def sizes(self, which: str) -> dict[str, int]:
        return dict(self.small if which == "small" else self.wide)


@cache
def _load(name: str) -> Any:
    return recurc.zoo.load(name)


def _dims(**sizes: int) -> tuple[tuple[str, int], ...]:
    return tuple(sizes.items())


SYSTEMS = {
    s.name: s
    for s in (
        System("diagonal_affine", ("sequential", "scan"), _dims(D=5), _dims(D=37)),
        System("ema", ("sequential", "scan", "convolution"), _dims(D=5), _dims(D=41)),
        System("lstm", ("sequential",), _dims(D=3, H=7), _dims(D=21, H=35)),
        System("gru", ("sequential",), _dims(D=3, H=7), _dims(D=19, H=37)),
        System("selective_scan", ("sequential", "scan"), _dims(D=6, N=5), _dims(D=35, N=11)),
        System("aaren", ("sequential", "scan"), _dims(D=5), _dims(D=43)),
    )
}


def draw(system: System, rng: np.random.Generator, batch: Batch, steps: int, which: str = "small") -> Arrays:
    """Fresh float32 inputs `(*batch, T, *dims)`, params `(*dims)` and `STATE@initial` `(*batch, *dims)`."""
    rec, sizes = system.recurrence.ir, system.sizes(which)
    shape = lambda dims: tuple(int(d) if d.isdigit() else sizes[d] for d in dims)  # noqa: E731
    arrays = {i.name: rng.standard_normal((*batch, steps, *shape(i.dims))) for i in rec.inputs}
    scale = 1 / math.sqrt(max(sizes.values()))
    arrays |= {p.name: scale * rng.uniform(-1, 1, shape(p.dims)) for p in rec.params}
    arrays |= {f"{s.name}@initial": 0.5 * rng.standard_normal((*batch, *shape(s.dims))) for s in rec.states}
    match system.name:
        case "diagonal_affine":
            arrays["a"] = rng.uniform(-0.95, 0.95, arrays["a"].shape)
        case "ema":
            arrays["alpha"] = rng.uniform(0.05, 0.95, arrays["alpha"].shape)
        case "aaren":  # what a softmax over something leaves behind: a positive normaliser
            arrays["u@initial"] = np.abs(arrays["u@initial"]) + 0.1
        case _:
            pass
    return {name: np.asarray(a, dtype=np.float32) for name, a in arrays.items()}


def expected(system: System, arrays: Mapping[str, np.ndarray], batch: Batch, steps: int, given: bool) -> Arrays:
    """The float64 definition on `arrays`: outputs `(*batch, T, *dims)` by name, final states `(*batch, *dims)` by
    `STATE@final`; from the given initial states or the declared ones."""
    rec = system.recurrence.ir
    flat = math.prod(batch)
    ranks = {v.name: len(v.dims) for v in (*rec.inputs, *rec.params, *rec.states)}
    wide: Arrays = {}
    for name, array in arrays.items():
        base, _, initial = name.partition("@")
        if initial and not given:
            continue
        per_step = any(i.name == base for i in rec.inputs) and not initial
        tail = array.shape[array.ndim - ranks[base] - per_step :]
        shape = tail if any(p.name == base for p in rec.params) else (flat, *tail)
        wide[name] = array.astype(np.float64).reshape(shape)
    found = reference.run(rec, wide, flat, steps)
    return {name: value.reshape((*batch, *value.shape[1:])) for name, value in found.items()}


def run(system: System, arrays: Mapping[str, np.ndarray], real: str, given: bool, **options: Any) -> Arrays:
    """The same through the public API: `compile(**options)` and one call, in float32 or float64."""
    dtype = {"f32": np.float32, "f64": np.float64}[real]
    typed = {name: array.astype(dtype) for name, array in arrays.items()}
    initial = {name.partition("@")[0]: a for name, a in typed.items() if "@" in name} if given else None
    values = {name: a for name, a in typed.items() if "@" not in name}
    out, final = system.recurrence.compile(**options)(**values, initial=initial, return_final=True)
    outputs = system.recurrence.ir.outputs
    results = {outputs[0]: out} if len(outputs) == 1 else dict(zip(outputs, out, strict=True))
    results |= {f"{name}@final": value for name, value in final.items()}
    for name, value in results.items():
        assert value.dtype == dtype, f"{name} came back as {value.dtype}, asked for {real}"
    return results


def bound(ref: np.ndarray, real: str, steps: int) -> np.ndarray | float:
    """The largest error allowed at each element; derived in the docstring of this file."""
    if real == "f64":
        return 1e-9 * (1 + np.abs(ref))
    finite = np.abs(ref[np.isfinite(ref)])
    scale = max(1.0, float(finite.max(initial=0.0)))
    return 1e-6 * (1 + math.log2(max(steps, 1))) * scale


def compare(found: Mapping[str, np.ndarray], ref: Mapping[str, np.ndarray], real: str, steps: int, what: str) -> None:
    """Same names, same shapes, same places of inf and NaN, and everywhere else within `bound`."""
    assert set(found) == set(ref), f"{what}: gave {sorted(found)}, expected {sorted(ref)}"
    for name, want in ref.items():
        have = np.asarray(found[name], dtype=np.float64)
        assert have.shape == want.shape, f"{what}: {name} has shape {have.shape}, expected {want.shape}"
        special = ~np.isfinite(want)
        np.testing.assert_array_equal(have[special], want[special], err_msg=f"{what}: inf and NaN of {name}")
        error = np.where(special, 0.0, np.abs(np.where(special, 0.0, have) - np.where(special, 0.0, want)))
        excess = error / np.where(special, 1.0, bound(want, real, steps))
        worst = float(np.max(excess, initial=0.0))
        assert worst <= 1, f"{what}: {name} is off by {float(error.max()):.3e}, {worst:.2f} times the bound"
