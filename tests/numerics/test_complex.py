"""Recurrences over complex numbers: native code keeps their parts in real arithmetic, and everything a person does with
a recurrence gives what the definition gives."""

from __future__ import annotations

import math
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import targets
from recurc.backends.base import Specialization
from recurc.backends.cpu import BACKEND
from recurc.passes import make_plan
from recurc.passes.complex_parts import split_complex
from recurc.types import DType


@dataclass(frozen=True)
class Case:
    text: str
    sizes: dict[str, int]
    schedules: tuple[str, ...] = ("sequential",)


CASES = {
    "diagonal": Case(
        """recurrence LRU(D, H, O):
    input  x[D]
    param  nu[H], theta[H], B[H, D]: complex, C[O, H]: complex, skip[O, D]
    state  h[H]: complex = 0
    lam = exp(-exp(nu) + 1j * theta)
    h = lam * h[t-1] + sqrt(1 - abs(lam)**2) * (B @ x)
    output y = real(C @ h) + skip @ x
    output h
""",
        {"D": 3, "H": 37, "O": 5},
        ("sequential", "scan"),
    ),
    "a row of modes for each channel": Case(
        """recurrence S4D(D, N):
    input  x[D], dt[D]
    param  A[D, N]: complex, C[D, N]: complex
    state  h[D, N]: complex = 0
    decay = exp(-abs(dt) * (abs(A) + 1j * imag(A)))
    h = decay * h[t-1] + abs(dt) * x
    output y = 2 * sum(real(C * h), N)
""",
        {"D": 19, "N": 5},
        ("sequential", "scan"),
    ),
    "a rotation and a nonlinearity": Case(
        """recurrence Unitary(D, H):
    input  x[D]
    param  W[H, D]: complex, theta[H], U[H, H]: complex, b[H]
    state  h[H]: complex = 0.5 - 0.25j
    z = polar(0.5, theta) * (U @ h[t-1]) + W @ x
    h = z * (relu(abs(z) + b) / (abs(z) + 1e-3))
    output h
    output energy = sum(abs(h)**2, H)
""",
        {"D": 4, "H": 21},
    ),
    "a real state driven by a complex one": Case(
        """recurrence Mixed(D):
    input  z[D]: complex = 1 + 2j, g[D]
    state  h[D]: complex = 0, r[D] = 0, last: complex = 1
    h = sigmoid(g) * h[t-1] + z / (z[t-1] + 3)
    r = 0.5 * r[t-1] + imag(h * conj(z))
    last = 0.3j * last[t-1] + mean(h, D)
    output h
    output r
    output last
""",
        {"D": 16},
    ),
    "one number": Case(
        """recurrence Goertzel(K):
    input  x
    param  f[K]
    state  s[K]: complex = 0
    s = exp(1j * f) * 0.97 * s[t-1] + x
    output s
    output power = abs(s)
""",
        {"K": 1},
        ("sequential", "scan"),
    ),
}


def arrays(case: Case, rec: recurc.Recurrence, rng: np.random.Generator, batch: int, steps: int) -> dict[str, Any]:
    """Single-precision inputs (batch, T, *dims) and params, so that every type is drawn from the same numbers."""

    def draw(lead: tuple[int, ...], dims: tuple[str, ...], complex_: bool, scale: float) -> np.ndarray:
        shape = (*lead, *(case.sizes[d] for d in dims))
        value = scale * rng.standard_normal(shape)
        if complex_:
            return np.asarray(value + 1j * scale * rng.standard_normal(shape), np.complex64)
        return np.asarray(value, np.float32)

    given = {n: draw((batch, steps), s.dims, s.dtype.value == "complex", 1.0) for n, s in rec.inputs.items()}
    return given | {
        n: draw((), s.dims, s.dtype.value == "complex", 1 / math.sqrt(max(case.sizes.values())))
        for n, s in rec.params.items()
    }


def typed(given: dict[str, Any], real: type) -> dict[str, Any]:
    other = {np.float32: np.complex64, np.float64: np.complex128}.get(real, np.complex64)
    return {n: np.asarray(a, other if np.iscomplexobj(a) else real) for n, a in given.items()}


def close(found: Any, wanted: Any, unit: float, what: str) -> None:
    found, wanted = (v if isinstance(v, tuple) else (v,) for v in (found, wanted))
    assert len(found) == len(wanted)
    for number, (got, ref) in enumerate(zip(found, wanted, strict=True)):
        assert got.shape == ref.shape and np.iscomplexobj(got) == np.iscomplexobj(ref), what
        error = np.abs(np.asarray(got, complex) - ref) / (1 + np.abs(ref))
        assert np.all(error < 200 * unit), f"{what}, output {number}: off by {error.max():.1e}"


@pytest.mark.parametrize("name", CASES)
def test_complex_states_by_every_schedule_in_every_precision(name: str, backend: str, rng: np.random.Generator) -> None:
    case = CASES[name]
    rec = recurc.load(text=case.text)
    for batch, steps in ((3, 5), (1, 33)):
        given = arrays(case, rec, rng, batch, steps)
        wanted = rec.compile(backend="reference")(**typed(given, np.float64))
        for schedule in case.schedules:
            for real, unit in ((np.float64, 2.0**-52), (np.float32, 2.0**-23), (np.float16, 2.0**-10)):
                found = rec.compile(backend=backend, schedule=schedule)(**typed(given, real))
                close(found, wanted, unit, f"{name} by {schedule} in {real.__name__}")


@pytest.mark.parametrize("name", CASES)
def test_complex_runs_go_on_backwards_and_end_early(name: str, backend: str, rng: np.random.Generator) -> None:
    case = CASES[name]
    rec = recurc.load(text=case.text)
    given = typed(arrays(case, rec, rng, 3, 12), np.float64)
    reference, native = rec.compile(backend="reference"), rec.compile(backend=backend)
    inputs = set(rec.inputs)
    first = {n: a[:, :7] if n in inputs else a for n, a in given.items()}
    rest = {n: a[:, 7:] if n in inputs else a for n, a in given.items()}
    whole = reference(**given, return_final=True)
    _, states = native(**first, return_final=True)
    out, ends = native(**rest, initial=states, return_final=True)
    tail = whole[0] if isinstance(whole[0], tuple) else (whole[0],)
    close(out, tuple(v[:, 7:] for v in tail), 2.0**-52, f"{name}, continued")
    for state, value in ends.items():
        close(value, whole[1][state], 2.0**-52, f"{name}, {state} at the end")
    close(native(**given, reverse=True), reference(**given, reverse=True), 2.0**-52, f"{name}, backwards")
    lengths = np.array([12, 0, 5])
    close(native(**given, lengths=lengths), reference(**given, lengths=lengths), 2.0**-52, f"{name}, ragged")


def test_complex_arrays_of_any_layout_and_torch_tensors(backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    case = CASES["a real state driven by a complex one"]
    rec = recurc.load(text=case.text)
    given = typed(arrays(case, rec, rng, 3, 8), np.float64)
    wanted = rec.compile(backend="reference")(**given)
    call = rec.compile(backend=backend)
    strided = {n: np.repeat(a, 2, axis=-1)[..., ::2] for n, a in given.items()}
    for _ in range(2):  # the second call takes the fast way
        close(call(**strided), wanted, 2.0**-52, "strided")
        close(call(**given), wanted, 2.0**-52, "plain")
    backwards = {n: a[:, ::-1] for n, a in given.items()}
    close(call(**backwards), rec.compile(backend="reference")(**backwards), 2.0**-52, "a view backwards")
    one = {n: a if n == "z" else a[:1] for n, a in given.items()}
    close(call(**one), rec.compile(backend="reference")(**one), 2.0**-52, "a shared gate")
    time_first = {n: np.ascontiguousarray(a.swapaxes(0, 1)) for n, a in given.items()}
    found = rec.compile(backend=backend, layout="TB")(**time_first)
    close(tuple(v.swapaxes(0, 1) for v in found), wanted, 2.0**-52, "time first")
    tensors = call(**{n: torch.from_numpy(a) for n, a in given.items()})
    assert tensors[0].dtype == torch.complex128
    close(tuple(t.numpy() for t in tensors), wanted, 2.0**-52, "tensors")
    conjugate = given | {"z": given["z"].conj()}
    found = call(**(conjugate | {"z": torch.from_numpy(given["z"]).conj(), "g": torch.from_numpy(given["g"])}))
    close(tuple(t.numpy() for t in found), rec.compile(backend="reference")(**conjugate), 2.0**-52, "a conjugate view")


def test_explicit_complex_types_keep_their_width(backend: str, rng: np.random.Generator) -> None:
    text = """recurrence Widths(D):
    input  x[D], z[D]: complex64
    state  h[D]: complex128 = 0, n[D]: complex64 = 1j
    h = 0.5j * h[t-1] + z
    n = 0.5 * n[t-1] + z * x
    output h
    output n
"""
    try:
        rec = recurc.load(text=text)
    except recurc.RecError:
        rec = recurc.load(text=text.replace("complex64", "c64").replace("complex128", "c128"))
    z = np.asarray(rng.standard_normal((2, 9, 7)) + 1j, np.complex64)
    for real in (np.float32, np.float64):
        given = {"x": np.asarray(rng.standard_normal((2, 9, 7)), real), "z": z}
        wanted, found = (rec.compile(backend=b)(**given) for b in ("reference", backend))
        assert [v.dtype for v in found] == [np.complex128, np.complex64]
        close(found[0], wanted[0], 2.0**-52 if real is np.float64 else 2.0**-23, "h")
        close(found[1], wanted[1], 2.0**-23, "n")


@pytest.mark.parametrize("name", ["diagonal", "a row of modes for each channel"])
def test_strict_compilers_have_nothing_to_say_about_parts(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    if BACKEND.unavailable():
        pytest.skip("no C compiler here")
    case = CASES[name]
    rec = recurc.load(text=case.text)
    for schedule in case.schedules:
        plan = make_plan(rec.ir, case.sizes, 2, 5, DType.F32, targets.named("cpu"), schedule)
        spec = Specialization(tuple(sorted(case.sizes.items())), DType.F32)
        for file, text in BACKEND.build(split_complex(plan, DType.F32), spec).source.items():
            (tmp_path / file).write_text(text, encoding="utf-8")
            command = ["gcc", "-std=gnu11", "-march=native", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-c"]
            done = subprocess.run([*command, file], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert not done.returncode, done.stderr
