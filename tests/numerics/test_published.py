"""Published systems, each against a loop over its equations that shares nothing with recurc."""

from __future__ import annotations

import math
import zlib
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import recurc
from recurc.types import literal_size
from tests.numerics.published import GATED, SIZES
from tests.numerics.published_linear import LINEAR
from tests.numerics.published_signals import SIGNALS

SYSTEMS = GATED | LINEAR | SIGNALS
BATCH, STEPS = 2, 23


def _drawn(rng: np.random.Generator, how: str, shape: tuple[int, ...]) -> np.ndarray:
    match how:
        case "unit":
            return rng.uniform(0.1, 0.95, shape)
        case "small":
            return rng.uniform(-0.4, 0.4, shape)
        case _:
            return rng.normal(0, 0.7, shape)


def _arrays(name: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs `(B, T, *dims)` and params `(*dims)` that float32 holds exactly."""
    system, rec = SYSTEMS[name], recurc.load(text=SYSTEMS[name].text)
    sizes = SIZES | {"E": SIZES["D"]}

    def shape(dims: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(literal_size(d) or sizes[d] for d in dims)

    def exact(value: np.ndarray, dtype: Any) -> np.ndarray:
        whole = dtype.kind.name == "INT"
        return value.astype(np.int64) if whole else value.astype(np.float32).astype(np.float64)

    inputs = {
        n: exact(_drawn(rng, system.draw.get(n, ""), (BATCH, STEPS, *shape(s.dims))), s.dtype)
        for n, s in rec.inputs.items()
    }
    params = {n: exact(_drawn(rng, system.draw.get(n, ""), shape(s.dims)), s.dtype) for n, s in rec.params.items()}
    return inputs, params


def _several(found: Any) -> tuple[Any, ...]:
    return cast("tuple[Any, ...]", found) if isinstance(found, tuple) else (found,)


def _looped(name: str, inputs: dict[str, np.ndarray], params: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Each output `(B, T, *dims)` by the loop."""
    rows: list[list[Any]] = []
    for b in range(BATCH):
        steps = (SimpleNamespace(**{n: a[b, t] for n, a in inputs.items()}) for t in range(STEPS))
        found = [_several(y) for y in SYSTEMS[name].loop(SimpleNamespace(**params), steps)]
        rows.append([np.array([y[i] for y in found]) for i in range(len(found[0]))])
    return [np.stack([row[i] for row in rows]) for i in range(len(rows[0]))]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_published_system_is_what_its_equations_say(name: str, backend: str, session_seed: int) -> None:
    rng = np.random.default_rng([session_seed, zlib.crc32(name.encode())])
    rec = recurc.load(text=SYSTEMS[name].text)
    assert recurc.load(text=rec.to_text()).ir == rec.ir
    analysis = rec.analyze()
    assert " ".join(g.cls for g in analysis.groups) == SYSTEMS[name].classes
    inputs, params = _arrays(name, rng)
    want, arrays = _looped(name, inputs, params), inputs | params
    schedules = sorted({s for g in analysis.groups for s in g.schedules})
    for how in [("reference", "auto"), *((backend, s) for s in schedules)]:
        for real in (np.float64, np.float32):
            given: dict[str, Any] = {n: a.astype(real) if a.dtype == np.float64 else a for n, a in arrays.items()}
            have: Any = _several(rec.compile(backend=how[0], schedule=how[1])(**given))
            for output, a, b in zip(rec.ir.outputs, have, want, strict=True):
                assert a.shape == b.shape
                # A step rounds about ten times and the systems forget; a scan adds as much once per level of its tree.
                room = 1e-11 if real is np.float64 else 1e-6 * (1 + math.log2(STEPS)) * 4
                scale = max(1.0, float(np.abs(b).max()))
                worst = float(np.abs(a.astype(np.float64) - b).max()) / scale
                assert worst < room, f"{name} on {how} in {real.__name__}: {output} is off by {worst:.1e}"
