"""Every backend and every legal schedule agree with the float64 definition."""

from __future__ import annotations

import math
import zlib
from functools import cache

import numpy as np
import pytest

from tests.numerics.cases import BATCHES, STEPS, SYSTEMS, Arrays, Batch, compare, draw, expected, run

PAIRS = [(s.name, schedule) for s in SYSTEMS.values() for schedule in s.schedules]


@cache
def _case(seed: int, name: str, batch: Batch, steps: int, which: str) -> tuple[Arrays, dict[bool, Arrays]]:
    """Inputs and reference results, from given and from declared initial states, made once for all backends."""
    system = SYSTEMS[name]
    rng = np.random.default_rng([seed, zlib.crc32(f"{name} {batch} {steps} {which}".encode())])
    arrays = draw(system, rng, batch, steps, which)
    return arrays, {given: expected(system, arrays, batch, steps, given) for given in (False, True)}


def _agree(seed: int, name: str, backend: str, schedule: str, batch: Batch, steps: int, which: str) -> None:
    arrays, references = _case(seed, name, batch, steps, which)
    for given, ref in references.items():
        for real in ("f32", "f64"):
            found = run(SYSTEMS[name], arrays, real, given, backend=backend, schedule=schedule)
            start = "given" if given else "declared"
            what = f"{name} on {backend} by {schedule}, {real}, {which}, batch {batch}, T {steps}, {start} start"
            compare(found, ref, real, steps, what)


@pytest.mark.parametrize(("name", "legal"), [(s.name, s.schedules) for s in SYSTEMS.values()])
def test_the_legal_schedules_are_the_ones_tested_here(name: str, legal: tuple[str, ...]) -> None:
    found = {s for group in SYSTEMS[name].recurrence.analyze().groups for s in group.schedules}
    assert found == set(legal)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_backends_agree_with_the_definition(
    name: str, schedule: str, steps: int, backend: str, session_seed: int
) -> None:
    """One batch shape and one set of sizes per length, drawn by the seed; the sweep has them all."""
    pick = np.random.default_rng([session_seed, steps, zlib.crc32(name.encode())])
    batch = BATCHES[int(pick.integers(len(BATCHES)))] if steps < 4096 else ()
    which = "wide" if steps < 4096 and pick.integers(2) else "small"
    _agree(session_seed, name, backend, schedule, batch, steps, which)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["small", "wide"])
@pytest.mark.parametrize("batch", BATCHES, ids=lambda b: "x".join(map(str, b)) or "none")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_sweep_of_all_lengths_batches_and_sizes(
    name: str, schedule: str, steps: int, batch: Batch, which: str, backend: str, session_seed: int
) -> None:
    if which == "wide" and steps == 4096 and math.prod(batch) > 1:
        batch = (1,)  # the reference takes minutes there and shows nothing new
    _agree(session_seed, name, backend, schedule, batch, steps, which)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_same_call_gives_the_same_bits(name: str, backend: str, session_seed: int) -> None:
    system = SYSTEMS[name]
    arrays, _ = _case(session_seed, name, (3,), 64, "wide")
    for schedule in system.schedules:
        once, again = (run(system, arrays, "f32", True, backend=backend, schedule=schedule) for _ in range(2))
        for key in once:
            assert once[key].tobytes() == again[key].tobytes(), f"{name} by {schedule} on {backend}: {key}"


@pytest.mark.parametrize("name", SYSTEMS)
def test_two_halves_joined_by_the_final_state_are_the_whole(name: str, backend: str, session_seed: int) -> None:
    system, steps = SYSTEMS[name], 64
    rec = system.recurrence.ir
    arrays, references = _case(session_seed, name, (3,), steps, "wide")
    inputs = {i.name for i in rec.inputs}
    for schedule in system.schedules:
        parts: list[Arrays] = []
        start = {n: a for n, a in arrays.items() if "@" in n}
        for half in (slice(0, 23), slice(23, steps)):
            piece = {n: a[:, half] if n in inputs else a for n, a in arrays.items() if "@" not in n}
            parts.append(run(system, piece | start, "f64", True, backend=backend, schedule=schedule))
            start = {n.replace("@final", "@initial"): a for n, a in parts[-1].items() if "@" in n}
        whole = {o: np.concatenate([p[o] for p in parts], axis=1) for o in rec.outputs}
        whole |= {n: a for n, a in parts[-1].items() if "@" in n}
        compare(whole, references[True], "f64", steps, f"{name} in two halves by {schedule} on {backend}")
