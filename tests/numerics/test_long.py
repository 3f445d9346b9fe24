"""A million steps: every legal schedule of one system of each class stays within what theory allows, in linear memory.

The bounds and their derivation are those of `tests.numerics.long_cases`.

**What is right** is the loop in native float64, whose own errors are 2^-29 of these; its first steps are compared with
the definition, which would take minutes over a million.
"""

from __future__ import annotations

import math
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from recurc.backends import reference
from recurc.plan import Loop, Role
from tests.numerics.long_cases import CASES, STEPS, Arrays, Case, K, forgets, legal, run, varied, wide
from tests.zoo import cases


def right(case: Case, arrays: Arrays, inputs: set[str]) -> Arrays:
    """The loop in float64, once the definition has confirmed how it begins."""
    wanted = run(case, "cpu", "sequential", wide(arrays))
    begin = {n: a[:200] if n in inputs else a for n, a in arrays.items()}
    for name, want in run(case, "reference", "auto", wide(begin)).items():
        if not name.endswith("@final"):
            np.testing.assert_allclose(wanted[name][:200], want, rtol=1e-9, atol=1e-9)
    return wanted


def agree(found: Arrays, wanted: Arrays, room: float, what: str) -> None:
    for name, want in wanted.items():
        error = np.abs(found[name].astype(np.complex128) - want)
        assert np.isfinite(error).all(), f"{what}: {name}"
        largest, mean = error.max() / np.abs(want).max(), np.sqrt((error**2).mean() / (np.abs(want) ** 2).mean())
        said = f"{what}: {name} is off by {largest:.1e}, RMS {mean:.1e}, of the largest; allowed {room:.1e}"
        print(said)
        assert largest <= room, said


def affordable(case: Case, schedule: str, arrays: Arrays) -> bool:
    """In the interpreter a step of a loop costs what a whole array does in native code: a million take minutes."""
    sizes = reference.find_sizes(case.recurrence.ir, arrays, {})
    plan = case.recurrence.compile(backend="numpy", schedule=schedule, sizes=sizes).plan
    return not any(isinstance(stage, Loop) for stage in plan.stages)


def check(what: str, backend: str, schedules: list[str], rng: np.random.Generator) -> None:
    case = CASES[what]
    arrays = case.arrays(rng, STEPS)
    wanted = right(case, arrays, {i.name for i in case.recurrence.ir.inputs})
    for schedule in schedules:
        if backend == "cpu" or affordable(case, schedule, arrays):
            found = run(case, backend, schedule, arrays)
            agree(found, wanted, case.room(STEPS), f"{what} on {backend} by {schedule}, T {STEPS}")


@pytest.fixture(autouse=True)
def native() -> None:
    if reason := cases.cpu_is_missing():
        pytest.skip(reason)


def test_a_million_steps_of_gates_by_scan(rng: np.random.Generator) -> None:
    """The slow tests have every class and schedule."""
    check("EA, gates", "cpu", ["scan"], rng)


@pytest.mark.slow
@pytest.mark.parametrize("what", CASES)
@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
def test_a_million_steps_by_every_legal_schedule(what: str, backend: str, rng: np.random.Generator) -> None:
    check(what, backend, legal(CASES[what]), rng)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["CA, rotations", "GH, reflections"])
def test_what_keeps_lengths_keeps_them(what: str, rng: np.random.Generator) -> None:
    """By no more than the roundings of the steps and of what turns and reflects: each of K numbers within u."""
    case = CASES[what]
    arrays = case.arrays(rng, STEPS)
    room = case.room(STEPS) + varied(2 * K)(STEPS)
    start = arrays.get("S0", np.ones(4))
    for schedule in legal(case):
        (name,) = (s.name for s in case.recurrence.ir.states)
        last = run(case, "cpu", schedule, arrays)[f"{name}@final"]
        assert abs(np.linalg.norm(last) / np.linalg.norm(start) - 1) <= room, f"{what} by {schedule}"


@pytest.mark.slow
@pytest.mark.parametrize(("half", "unit"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_halves_are_storage_and_states_do_not_stall(half: str, unit: float, rng: np.random.Generator) -> None:
    """The state is float32 whatever the arrays are: what comes out is rounded once. A running average whose gate is
    1 - 2^-8 gets to its limit; in a state of bfloat16 it would stop where 2^-8 of what is missing is half a digit."""
    dtype = np.float16 if half == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    case = CASES["EA, gates"]
    arrays = {n: a.astype(dtype) for n, a in case.arrays(rng, STEPS).items()}
    wanted = run(case, "cpu", "sequential", {n: a.astype(np.float64) for n, a in arrays.items()})
    slow = {"a": np.full((STEPS, 4), 1 - 2.0**-8), "b": np.full((STEPS, 4), 2.0**-8)}
    for schedule in legal(case):
        found = run(case, "cpu", schedule, arrays)
        assert found["h"].dtype == dtype
        agree(
            {n: a.astype(np.float64) for n, a in found.items()},
            wanted,
            unit + forgets(STEPS),
            f"{half} by {schedule}",
        )
        last = run(case, "cpu", schedule, {n: a.astype(dtype) for n, a in slow.items()})["h@final"]
        np.testing.assert_array_equal(last.astype(np.float64), 1.0)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says of a process's memory")
@pytest.mark.parametrize("what", CASES)
def test_memory_grows_with_what_is_returned_and_no_faster(
    what: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the steps take, besides the arrays of the call, what the plan passes between its stages; nothing of the
    size of all states. A transform works in double precision on twice the length, some lanes at a time."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # glibc gives back what is freed
    case = CASES[what]
    for schedule in legal(case):
        compiled = case.recurrence.compile(backend="cpu", schedule=schedule)
        arrays = case.arrays(np.random.default_rng(seed), 8)
        compiled(**arrays)
        sizes = reference.find_sizes(case.recurrence.ir, arrays, {})
        passed = sum(
            4 * math.prod(sizes[d] for d in b.dims) * (2 if b.dtype.value == "complex" else 1)
            for b in compiled.plan.buffers
            if b.role in (Role.OUTPUT, Role.SEQUENCE)
        )
        half, whole = (_grown_alone(what, schedule, steps, seed) for steps in (STEPS // 2, STEPS))
        each = (whole - half) / (STEPS - STEPS // 2)
        said = f"{what} by {schedule}: {each:.0f} bytes for a step, {passed} of the plan"
        print(said)
        doubles = 2 * 16 * (2 + 4) * 4 if "convolution" in compiled.plan.schedules else 0
        assert 0 < each <= 1.25 * passed + doubles, said


def _grown_alone(what: str, schedule: str, steps: int, seed: int) -> int:
    """By how many bytes a call makes a new process grow, its results included: an old one has memory at hand."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_grown, what, schedule, steps, seed).result()


def _grown(what: str, schedule: str, steps: int, seed: int) -> int:
    case, rng = CASES[what], np.random.default_rng(seed)
    compiled = case.recurrence.compile(backend="cpu", schedule=schedule)
    compiled(**case.arrays(rng, 8))  # builds, starts threads
    arrays = case.arrays(rng, steps)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = _memory("VmRSS")
    compiled(**arrays)
    return _memory("VmHWM") - before


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))
