"""Rows of different lengths, packed sequences and time run backwards, for every system of the zoo."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.zoo import cases
from tests.zoo.cases import NAMES, Arrays, call, draw, generator, load, looped, same, schedules, sequence, several

FED = [n for n in NAMES if load(n).inputs]  # without inputs there is no batch, and nothing to pack
STEPS = 11


def _ragged(name: str, backend: str, schedule: str, seed: int) -> None:
    """Rows of 0, of some and of all steps; what stands behind the end of a row is never read, and comes out as zero."""
    rng = generator(seed, name, 3)
    inputs, params = draw(name, rng, STEPS, batch=3)
    lengths = rng.permutation([0, int(rng.integers(1, STEPS)), STEPS])
    found = several(call(name, backend, schedule, inputs | params, lengths=lengths))
    for b, length in enumerate(lengths.tolist()):
        wanted = sequence(name, {n: a[b, :length] for n, a in inputs.items()}, params, length) if length else None
        for i, output in enumerate(load(name).ir.outputs):
            row, what = np.asarray(found[i])[b], f"{name} on {backend} by {schedule}, row of {length} steps: {output}"
            assert not row[length:].any(), f"{what} is not zero behind the end"
            if wanted:
                same(row[:length], wanted[i], what)


def _packed(name: str, backend: str, schedule: str, seed: int) -> None:
    rng = generator(seed, name, 4)
    inputs, params = draw(name, rng, STEPS, batch=1)
    bounds = [0, *sorted(rng.integers(0, STEPS + 1, size=3).tolist()), STEPS]
    flat: Arrays = {n: a[0] for n, a in inputs.items()}
    found = several(call(name, backend, schedule, flat | params, cu_seqlens=np.array(bounds)))
    for start, stop in itertools.pairwise(bounds):
        if start == stop:
            continue
        wanted = sequence(name, {n: a[start:stop] for n, a in flat.items()}, params, stop - start)
        for i, output in enumerate(load(name).ir.outputs):
            what = f"{name} on {backend} by {schedule}, packed {bounds}: {output}"
            same(np.asarray(found[i])[start:stop], wanted[i], what)


def _reversed(name: str, backend: str, schedule: str, seed: int) -> None:
    inputs, params = draw(name, generator(seed, name, 5), STEPS)
    found = several(call(name, backend, schedule, inputs | params, reverse=True))
    wanted = looped(name, {n: a[:, ::-1] for n, a in inputs.items()}, params, STEPS)
    for i, output in enumerate(load(name).ir.outputs):
        same(np.asarray(found[i]), wanted[i][:, ::-1], f"{name} on {backend} by {schedule} backwards: {output}")


@pytest.mark.parametrize("name", FED)
@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_rows_of_different_lengths(name: str, backend: str, session_seed: int) -> None:
    for schedule in ("auto",) if backend == "reference" else schedules(name):
        _ragged(name, backend, schedule, session_seed)


@pytest.mark.parametrize("name", FED)
@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_packed_sequences(name: str, backend: str, session_seed: int) -> None:
    for schedule in ("auto",) if backend == "reference" else schedules(name):
        _packed(name, backend, schedule, session_seed)


@pytest.mark.parametrize("name", FED)
@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_time_run_backwards(name: str, backend: str, session_seed: int) -> None:
    for schedule in ("auto",) if backend == "reference" else schedules(name):
        _reversed(name, backend, schedule, session_seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", FED)
def test_all_of_it_in_native_code(name: str, session_seed: int) -> None:
    _skip_without_native_code()
    for schedule in schedules(name):
        for run in (_ragged, _packed, _reversed):
            run(name, "cpu", schedule, session_seed)


def test_a_few_systems_in_native_code(session_seed: int) -> None:
    """Drawn by the seed; the slow test has all of them."""
    _skip_without_native_code()
    runs = [n for n in FED if (n, "cpu") not in cases.NOT_YET]
    for name in np.random.default_rng(session_seed).choice(runs, size=min(4, len(runs)), replace=False):
        for run in (_ragged, _packed, _reversed):
            run(str(name), "cpu", schedules(str(name))[-1], session_seed)


def _skip_without_native_code() -> None:
    reason = cases.cpu_is_missing()
    if reason:
        pytest.skip(reason)
