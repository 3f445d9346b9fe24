"""What an export writes, and both launchers on a stand-in for the driver that runs kernels on the CPU."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import targets
from recurc.backends import reference
from recurc.backends.base import Specialization
from recurc.backends.cuda import BACKEND, launch, standalone
from recurc.backends.cuda.compile import missing_compiler
from recurc.backends.cuda.emit import emit
from recurc.backends.cuda.manifest import manifest_of
from recurc.backends.cuda.matmul_stage import roles
from recurc.errors import BackendError, UnsupportedError
from recurc.passes import make_plan
from recurc.plan import Buffer, Matmul, Plan, Role
from recurc.types import DType
from tests.gpu.cuda_shim import build_library, has_compiler
from tests.gpu.fake_driver import Driver
from tests.systems import SIZES, SYSTEMS, plans, random_arrays

needs_gcc = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")
needs_nvrtc = pytest.mark.skipif(missing_compiler() is not None, reason=missing_compiler() or "")
F32 = {name: Specialization(tuple(sorted(sizes.items())), DType.F32) for name, sizes in SIZES.items()}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    fake = Driver()
    real = importlib.import_module
    for module in (standalone, importlib):
        monkeypatch.setattr(
            module, "import_module", lambda name: fake if name == "cuda.bindings.driver" else real(name)
        )
    return fake


def _module(key: tuple[str, str], folder: Path) -> standalone.Module:
    plan, spec = plans()[key], F32[key[0]]
    program, library = emit(plan, spec), folder / "kernel.so"
    build_library(program, library)
    manifest = json.loads(json.dumps(manifest_of(program, plan, spec)))  # as the file would hold it
    return standalone.Module(manifest, str(library).encode())


@needs_gcc
@pytest.mark.parametrize("key", [("lstm", "sequential"), ("selective_scan", "scan")], ids="-".join)
def test_the_standalone_launcher_computes_the_definition(
    key: tuple[str, str], driver: Driver, tmp_path: Path, rng: np.random.Generator
) -> None:
    kernels = standalone.Kernels(_module(key, tmp_path))
    for batch, steps in ((1, 5), (11, 3)):
        arrays = random_arrays(key[0], rng, batch, steps)
        given = {n: a.astype(np.float32) for n, a in arrays.items()}
        found = kernels(given)
        want = reference.run(SYSTEMS[key[0]](), {n: a.astype(np.float64) for n, a in given.items()}, batch, steps)
        for name, value in found.items():
            np.testing.assert_allclose(value, want[name], rtol=0, atol=1e-5 * (1 + np.abs(want[name]).max()))
    assert not driver.memory, "device memory was not freed"
    if key[0] == "lstm":
        assert [name for name, _, together in driver.launched if together] == [
            "lstm_loop_1_batch1",
            "lstm_loop_1_batch8",
        ]


@needs_gcc
def test_what_is_computed_once_per_call_follows_params_that_differ_by_sequence(
    driver: Driver, tmp_path: Path, rng: np.random.Generator
) -> None:
    source = """
recurrence Fading(D):
    input x[D]
    param rate[D], floor[D]
    state h[D] = 0
    h = exp(-exp(rate)) * h[t-1] + log1p(exp(floor)) * x
    output h"""
    rec, sizes = recurc.load(text=source).ir, {"D": 5}
    spec = Specialization(tuple(sizes.items()), DType.F32)
    plan = make_plan(rec, sizes, 3, 4, DType.F32, targets.named("sm_90"), "sequential")
    assert any(b.role is Role.ONCE for b in plan.buffers)
    program, library = emit(plan, spec), tmp_path / "kernel.so"
    build_library(program, library)
    kernels = standalone.Kernels(standalone.Module(manifest_of(program, plan, spec), str(library).encode()))
    given = {n: rng.normal(0, 1, (3, 5)).astype(np.float32) for n in ("rate", "floor")}
    given["x"] = rng.normal(0, 1, (3, 4, 5)).astype(np.float32)
    want = reference.run(rec, {n: a.astype(np.float64) for n, a in given.items()}, 3, 4)
    np.testing.assert_allclose(kernels(given)["h"], want["h"], rtol=0, atol=1e-5)
    shared = given | {"rate": given["rate"][:1], "floor": given["floor"][:1]}
    want = reference.run(rec, {n: a.astype(np.float64) for n, a in shared.items()}, 3, 4)
    np.testing.assert_allclose(kernels(shared)["h"], want["h"], rtol=0, atol=1e-5)


@needs_gcc
def test_a_persistent_loop_that_does_not_fit_the_gpu_gives_way(
    driver: Driver, tmp_path: Path, rng: np.random.Generator
) -> None:
    driver.processors = 0
    kernels = standalone.Kernels(_module(("gru", "sequential"), tmp_path))
    given = {n: a.astype(np.float32) for n, a in random_arrays("gru", rng, 2, 3).items()}
    found = kernels(given)
    want = reference.run(SYSTEMS["gru"](), {n: a.astype(np.float64) for n, a in given.items()}, 2, 3)
    np.testing.assert_allclose(found["h"], want["h"], rtol=0, atol=1e-5)
    assert driver.launched[-1][0] == "gru_loop_1_own_weights"


@needs_gcc
def test_the_standalone_launcher_names_the_array_that_does_not_fit(driver: Driver, tmp_path: Path) -> None:
    kernels = standalone.Kernels(_module(("ema", "sequential"), tmp_path))
    x = np.zeros((2, 3, 5), np.float32)
    with pytest.raises(ValueError, match="`alpha` is missing"):
        kernels({"x": x})
    with pytest.raises(ValueError, match=r"`x` should have the shape \(2, 3, 5\)"):
        kernels({"x": x[..., :4], "alpha": np.ones(1, np.float32)})
    assert not driver.memory


@needs_gcc
def test_a_state_not_given_starts_from_its_declared_value(
    driver: Driver, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Aaren's m starts from -inf, not from 0."""
    kernels = standalone.Kernels(_module(("aaren", "scan"), tmp_path))
    given = {n: a.astype(np.float32) - 200 for n, a in random_arrays("aaren", rng, 2, 5).items() if "@" not in n}
    want = reference.run(SYSTEMS["aaren"](), {n: a.astype(np.float64) for n, a in given.items()}, 2, 5)
    np.testing.assert_allclose(kernels(given)["o"], want["o"], rtol=1e-5)


class TorchOnCpu:
    """torch, with tensors on the CPU where the kernel asks for a GPU."""

    def __init__(self) -> None:
        self._torch: Any = importlib.import_module("torch")
        stream = type("Stream", (), {"cuda_stream": 0})()
        self.cuda = type("Cuda", (), {
            "current_device": staticmethod(lambda: 0),
            "get_device_capability": staticmethod(lambda device: (9, 0)),
            "current_stream": staticmethod(lambda device: stream),
        })  # fmt: skip

    def device(self, *_: Any) -> Any:
        return type("Device", (), {"index": 0, "real": self._torch.device("cpu")})()

    def _on_cpu(self, name: str, *args: Any, device: Any = None, **options: Any) -> Any:
        return getattr(self._torch, name)(*args, **options)

    def zeros(self, *args: Any, **options: Any) -> Any:
        return self._on_cpu("zeros", *args, **options)

    def empty(self, *args: Any, **options: Any) -> Any:
        return self._on_cpu("empty", *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


@needs_gcc
@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_the_torch_launcher_computes_the_definition(
    form: str, driver: Driver, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = TorchOnCpu()
    known = launch.import_module
    monkeypatch.setattr(launch, "import_module", lambda name: torch if name == "torch" else known(name))
    monkeypatch.setattr(launch, "architecture", lambda capability: "sm_90")
    monkeypatch.setattr(launch, "compiler_version", lambda: "0.0")
    monkeypatch.setenv("RECURC_CACHE_DIR", str(tmp_path / "cache"))
    on_device = launch.on_device
    monkeypatch.setattr(launch, "on_device", lambda array, device, dtype: on_device(array, device.real, dtype))
    plan, spec = plans()["lstm", "sequential"], F32["lstm"]

    def built(source: str, arch: str) -> tuple[bytes, str]:
        library = tmp_path / "kernel.so"
        build_library(emit(plan, spec), library)
        return str(library).encode(), ""

    monkeypatch.setattr(launch, "compile_cubin", built)
    kernel = launch.CudaKernel(plan, spec)
    given = {n: a.astype(np.float32) for n, a in random_arrays("lstm", rng, 3, 6).items()}
    want = reference.run(SYSTEMS["lstm"](), {n: a.astype(np.float64) for n, a in given.items()}, 3, 6)
    results = {
        "h": np.empty((3, 6, 7), np.float32),
        "h@final": np.empty((3, 7), np.float32),
        "c@final": np.empty((3, 7), np.float32),
    }
    arrays: dict[str, Any] = {**given, **results}
    if form == "torch":
        arrays = {n: torch.from_numpy(a) for n, a in arrays.items()}
    kernel(arrays, 3, 6)
    for name in results:
        np.testing.assert_allclose(np.asarray(arrays[name]), want[name], rtol=0, atol=1e-5)
    assert [name for name, _, _ in driver.launched] == ["lstm_loop_1_batch8"], "the projection is torch's own product"


def test_projections_agree_with_the_generated_product(rng: np.random.Generator) -> None:
    torch: Any = importlib.import_module("torch")
    plan, spec = plans()["lstm", "sequential"], F32["lstm"]
    stage = plan.stages[0]
    assert isinstance(stage, Matmul)
    r = roles(stage, plan, spec)
    assert launch.is_plain(r)
    x, w = rng.standard_normal((2, 5, 3)), rng.standard_normal((4, 7, 3))
    found = launch.project(torch.from_numpy(x), torch.from_numpy(w), r, Specialization(spec.sizes, DType.F64))
    np.testing.assert_allclose(found.numpy(), np.einsum("btd,ghd->btgh", x, w), rtol=0, atol=1e-13)


@needs_nvrtc
def test_an_export_is_a_folder_that_needs_no_recurc(tmp_path: Path) -> None:
    manifest = BACKEND.export(plans()["gru", "sequential"], F32["gru"], tmp_path, "sm_90")
    assert json.loads((tmp_path / "kernel.json").read_text()) == manifest
    assert (tmp_path / manifest["cubin"]).read_bytes()[:4] == b"\x7fELF"
    source = (tmp_path / manifest["source"]).read_text()
    for step in manifest["steps"]:
        for kernel in step["launches"]:
            assert re.search(rf"\b{kernel['kernel']}\(", source)
    launcher = (tmp_path / manifest["launcher"]).read_text()
    assert not re.search(r"^\s*(from|import) recurc", launcher, re.MULTILINE)
    isolated = [sys.executable, "-I", str(tmp_path / "launch.py")]
    done = subprocess.run(isolated, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "python launch.py inputs.npz outputs.npz" in done.stderr


@needs_nvrtc
def test_the_architecture_is_one_the_compiler_knows() -> None:
    assert launch.architecture((9, 0)) == "sm_90"
    assert launch.architecture((8, 6)) == "sm_86"
    with pytest.raises(BackendError, match=r"compute capability 3\.5"):
        launch.architecture((3, 5))


def test_without_a_gpu_the_backend_says_why() -> None:
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    reason = BACKEND.unavailable()
    assert reason
    with pytest.raises(BackendError, match=re.escape(reason)):
        BACKEND.build(plans()["ema", "sequential"], F32["ema"])


def test_complex_numbers_are_a_named_limitation() -> None:
    plan = plans()["ema", "sequential"]
    odd = Plan(
        plan.recurrence, plan.analysis, (*plan.buffers, Buffer("z", (), DType.COMPLEX, Role.INPUT)), plan.stages, ()
    )
    assert BACKEND.limitations(plan, F32["ema"]) == []
    assert BACKEND.limitations(odd, F32["ema"]) == [
        "`z` is complex, and the CUDA backend has no complex arithmetic yet"
    ]
    with pytest.raises(UnsupportedError, match="`z` is complex"):
        BACKEND.source(odd, F32["ema"])


def test_a_source_comment_cannot_be_left_by_a_file_s_name() -> None:
    from recurc.backends.cuda.scope import Scope
    from recurc.source import Span

    scope = Scope(plans()["ema", "sequential"], F32["ema"])
    scope.comment("h", Span("evil\n#error\\\n.rec", 3, 1, 3, 2))
    assert "\n" not in "".join(scope.lines)
    assert "\\" not in "".join(scope.lines)
