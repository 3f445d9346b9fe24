"""Every cell of the README's table "What works where" is worked out here from the code, by running it where that is
possible on a machine without a GPU. A cell that is no longer true fails, and so does a row nobody checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import BackendError, UnsupportedError, targets, zoo
from recurc.backends.base import Specialization
from recurc.passes import make_plan
from recurc.plan import Plan
from recurc.runtime.choose import BACKENDS, able_plan, backend, takes_tensors
from recurc.types import DType
from tests.zoo.cases import LACKING

ROOT = Path(__file__).resolve().parents[2]
STORAGE = ("f32", "f64", "f16", "bf16")
TOLERANCE = {"f32": 1e-5, "f64": 1e-12, "f16": 2e-3, "bf16": 2e-2}  # a few units of the type, for values of about 1
COMPLEX = """recurrence Turn(D):
    input  z[D]: complex
    state  s[D]: complex = 0
    s = 0.5j * s[t-1] + z
    output s
"""
SYSTEMS = ("aaren", "diagonal_affine", "ema", "gla", "gru", "lstm", "selective_scan", "titans_linear_chunked")
SIZES = {"D": 5, "H": 6, "N": 3, "K": 3, "V": 4}
HOST = [name for name in BACKENDS if not takes_tensors(name)]


def table() -> dict[str, dict[str, str]]:
    """Row -> backend -> cell."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## What works where")[1]
    lines = [line for line in text.split("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    head, _, *rows = cells
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


TABLE = table()


@cache
def runnable(name: str) -> str | None:
    return backend(name).unavailable()


def refusals(rec: recurc.Recurrence, name: str, schedule: str = "auto", real: str = "f32") -> list[str]:
    """What a backend for GPUs says it cannot do in a recurrence, without running it."""
    sizes = {d: SIZES[d] for d in rec.dims}
    spec, machine = Specialization(tuple(sorted(sizes.items())), DType(real)), targets.named("sm_90")

    def make(without: Mapping[str, str]) -> Plan:
        return make_plan(rec.ir, sizes, 2, 64, DType(real), machine, schedule, without=without)

    return able_plan(backend(name), spec, schedule, make)[2]


def arrays(rec: recurc.Recurrence) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def shape(dims: Iterable[str]) -> tuple[int, ...]:
        return tuple(int(d) if d.isdigit() else SIZES[d] for d in dims)

    given = {n: 0.5 * rng.standard_normal((2, 9, *shape(s.dims))) for n, s in rec.inputs.items()}
    return given | {n: 0.3 * rng.standard_normal(shape(s.dims)) for n, s in rec.params.items()}


def runs(rec: recurc.Recurrence, name: str, schedule: str) -> bool:
    """Whether a backend on the host runs this schedule: in the plan, and agreeing with the definition."""
    try:
        f = rec.compile(backend=name, schedule=schedule)
    except UnsupportedError:
        return False
    given = arrays(rec)
    np.testing.assert_allclose(f(**given), rec.compile(backend="reference")(**given), rtol=1e-9, atol=1e-9)
    assert set(f.plan.schedules) == {schedule}
    return True


def schedules(name: str) -> str:
    if name == "reference":
        with pytest.raises(UnsupportedError, match="no schedules: it evaluates the equations step by step"):
            zoo.load("ema").compile(backend=name, schedule="sequential")
        return "step by step"
    found: dict[str, None] = {}
    for system in SYSTEMS:
        rec = zoo.load(system)
        for group in rec.analyze().groups:
            for schedule in group.schedules:
                able = runs(rec, name, schedule) if name in HOST else not refusals(rec, name, schedule)
                assert able or schedule in LACKING.get(name, ()), f"{name} cannot run {system} by {schedule}"
                if not able:
                    continue
                found[schedule] = None
    return ", ".join(sorted(found, key=lambda s: s != "sequential"))


def stored(name: str, real: str) -> bool:
    if name not in HOST:
        return not any(refusals(zoo.load(s), name, real=real) for s in SYSTEMS)
    rec = zoo.load("ema")
    given = arrays(rec)
    found = rec.compile(backend=name, dtype=real)(**given)
    assert found.dtype == DType(real).to_numpy()
    error = np.abs(found.astype(np.float64) - rec.compile(backend="reference")(**given))
    assert float(error.max()) < TOLERANCE[real], f"{real} on {name}"
    return True


def storage(name: str) -> str:
    pytest.importorskip("ml_dtypes")
    return ", ".join(real for real in STORAGE if stored(name, real)) + " (computes in f64)" * (name == "reference")


def complex_numbers(name: str) -> str:
    rec = recurc.load(text=COMPLEX)
    if name not in HOST:
        return "no" if refusals(rec, name) else "yes"
    z = arrays(rec)["z"] * (1 + 1j)
    try:
        found = rec.compile(backend=name)(z=z)
    except UnsupportedError as reason:
        assert "complex" in str(reason)
        return "no"
    wanted = np.zeros(z.shape, complex)
    for t in range(z.shape[1]):
        wanted[:, t] = z[:, t] + (0.5j * wanted[:, t - 1] if t else 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    return "yes"


def kinds_of_arrays(name: str) -> str:
    torch = pytest.importorskip("torch")
    rec = zoo.load("ema")
    given = arrays(rec)
    if name in HOST:
        f = rec.compile(backend=name)
        made = f(**given)
        tensors = f(**{n: torch.as_tensor(a) for n, a in given.items()})
        assert isinstance(made, np.ndarray) and isinstance(tensors, torch.Tensor) and tensors.device.type == "cpu"
        np.testing.assert_array_equal(made, tensors.numpy())
        return "NumPy, torch (CPU)"
    from recurc.arguments import slots_of
    from recurc.runtime.torch_ops import TorchKit, default_device

    for library in (np.ndarray, torch.Tensor):  # the way of a call's arrays to kernels that take tensors, and back
        kit = TorchKit(default_device(name), numpy=library is np.ndarray)
        value = given["x"] if library is np.ndarray else torch.as_tensor(given["x"], device=kit.device)
        tensor, _ = kit.receive(slots_of(rec.ir)["x"], value)
        back = kit.publish(tensor, DType.F64)
        assert isinstance(tensor, torch.Tensor) and isinstance(back, library)
        np.testing.assert_array_equal(np.asarray(back if library is np.ndarray else back.cpu()), given["x"])
    return "torch (GPU), NumPy (copied)"


def alone(name: str) -> str:
    from recurc.cli.compile import TARGETS

    return ALONE[name][0] if name in TARGETS else "-"


# What `recurc compile` writes: the words of the README, and the endings of the files that they speak of.
ALONE = {
    "numpy": ("a NumPy program", {".py"}),
    "cpu": ("C", {".c"}),
    "triton": ("a Python module", {".py"}),
    "cuda": ("source, cubin, launcher", {".cu", ".cubin", ".py"}),
}
# How a backend is tested: the words of the README, and the tests that do it.
TESTED = {
    "reference": ("by hand-written loops", ("unit/test_reference.py",)),
    "numpy": ("against the reference", ("numerics/test_conformance.py", "numerics/test_expressions.py")),
    "cpu": ("against the reference", ("numerics/test_conformance.py", "numerics/test_expressions.py")),
    "triton": (
        "in Triton's interpreter, and by machine code for sm_80, sm_90, sm_100",
        ("gpu/test_triton_interpreter.py", "gpu/test_triton_grid.py", "gpu/test_triton_machine_code.py"),
    ),
    "cuda": (
        "on the CPU by a shim, and by machine code",
        ("gpu/test_cuda_on_cpu.py", "gpu/test_cuda_grid.py", "gpu/test_cuda_machine_code.py"),
    ),
}


def how_tested(name: str) -> str:
    words, files = TESTED[name]
    for file in files:
        assert "\ndef test_" in (ROOT / "tests" / file).read_text(encoding="utf-8")
    return words


def needs(name: str) -> str:
    """Where a backend runs, held to what it says where it cannot."""
    reason = runnable(name) or ""
    if name in ("reference", "numpy"):
        assert not reason
        return "anything"
    if name == "cpu":
        assert not reason or "compiler" in reason
        return "Linux with gcc or clang; macOS untried"
    assert not reason or re.search("GPU|CUDA|torch|cuda-bindings|triton", reason)
    return "NVIDIA GPU, torch"


ROWS: dict[str, Callable[[str], str]] = {
    "runs on": needs,
    "schedules": schedules,
    "storage": storage,
    "complex numbers": complex_numbers,
    "arrays": kinds_of_arrays,
    "kernels that stand alone": alone,
    "how it is tested": how_tested,
}
WORDS = {"what it is"}  # a name for the thing, no claim


def test_the_table_has_a_column_for_every_backend_and_no_row_that_nobody_checks() -> None:
    assert set(TABLE) == {*ROWS, *WORDS}
    for row in TABLE.values():
        assert list(row) == list(BACKENDS)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("row", ROWS)
def test_a_cell_says_what_is_so(row: str, name: str) -> None:
    if name == "cpu" and runnable(name):
        pytest.skip(runnable(name))
    if not (row == "kernels that stand alone" or name in HOST):
        pytest.importorskip("torch")
    assert TABLE[row][name] == ROWS[row](name)


@pytest.mark.parametrize("name", ALONE)
def test_kernels_that_stand_alone_are_the_files_the_readme_speaks_of(name: str, tmp_path: Path) -> None:
    from recurc.cli.compile import export_kernels

    try:
        export_kernels(zoo.load("ema").ir, name, {"D": 5}, tmp_path)
    except BackendError as missing:
        pytest.skip(str(missing))
    assert {p.suffix for p in tmp_path.iterdir()} >= ALONE[name][1]


def test_the_readme_names_systems_of_the_zoo() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("The zoo has ")[1].split("\n\n")[0]
    assert len(set(re.findall(r"`(\w+)`", text)) & set(zoo.names())) > 5
