"""The grid of lengths and batch shapes for the GPU backends, through the public API, on a machine without a GPU.

The inputs, the reference and the bounds are those of `tests.numerics.cases`, where they are derived. Batch shapes and
T = 0 are the caller's side of a kernel, so they belong here and not in the tests that call kernels themselves."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.numerics.cases import BATCHES, STEPS, SYSTEMS, Batch, compare, draw, expected, run

NAMES = ("ema", "lstm", "gru", "selective_scan", "aaren")
PAIRS = [(name, schedule) for name in NAMES for schedule in SYSTEMS[name].schedules if schedule != "convolution"]


@dataclass(frozen=True)
class Point:
    """One call of a system by a schedule."""

    steps: int
    batch: Batch
    real: str = "f32"
    given: bool = True  # start from initial states of the caller's, or from the declared ones


def whole_grid() -> Iterator[Point]:
    """Every length with every batch shape."""
    for steps in STEPS:
        for batch in BATCHES:
            yield Point(steps, batch)
        if steps <= 64:
            yield Point(steps, (3,), given=False)
            yield Point(steps, (2, 2), real="f64")


def sample(name: str, schedule: str, seed: int) -> Iterator[Point]:
    """Few and short ones, drawn by the seed: no step at all, and a length with each kind of batch shape."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{name} {schedule}".encode())])
    yield Point(0, BATCHES[int(rng.integers(len(BATCHES)))])
    for batch in (BATCHES[0], BATCHES[3]):
        yield Point(int(rng.choice((1, 2, 3, 7))), batch, given=bool(rng.integers(2)))


def check(name: str, schedule: str, backend: str, point: Point, seed: int) -> None:
    """Raises `AssertionError` where the backend leaves the bound around the float64 definition."""
    system = SYSTEMS[name]
    rng = np.random.default_rng([seed, zlib.crc32(f"{name} {point.batch} {point.steps}".encode())])
    arrays = draw(system, rng, point.batch, point.steps)
    ref = expected(system, arrays, point.batch, point.steps, point.given)
    found = run(system, arrays, point.real, point.given, backend=backend, schedule=schedule)
    compare(found, ref, point.real, point.steps, f"{name} on {backend} by {schedule}, {point}, seed {seed}")
