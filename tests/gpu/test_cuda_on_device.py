"""What only a real GPU can answer about the CUDA backend: races, launch limits, streams. Run by `make gpu`."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from recurc.backends import reference
from recurc.backends.base import Kernel, Specialization
from recurc.backends.cuda import BACKEND
from recurc.plan import Role
from recurc.types import DType
from tests.systems import SYSTEMS, plans, random_arrays

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(BACKEND.unavailable() is not None, reason=f"no GPU for CUDA C++: {BACKEND.unavailable()}"),
]

TORCH = {DType.F32: "float32", DType.F64: "float64", DType.F16: "float16", DType.BF16: "bfloat16"}
# The f32 column allows for the reduced-precision products a user may have switched on for torch's own matrix product.
ROOM = {DType.F32: 2e-5, DType.F64: 1e-11, DType.F16: 4e-3, DType.BF16: 3e-2}
SMALL = {
    "ema": {"D": 37},
    "lstm": {"D": 19, "H": 70},
    "gru": {"D": 19, "H": 70},
    "selective_scan": {"D": 37, "N": 11},
    "aaren": {"D": 37},
}
LARGE = {
    "ema": ({"D": 512}, 4, 4096),
    "lstm": ({"D": 256, "H": 256}, 64, 512),
    "gru": ({"D": 512, "H": 512}, 33, 257),
    "selective_scan": ({"D": 512, "N": 16}, 4, 2048),
    "aaren": ({"D": 64}, 32, 4096),
}


@lru_cache(maxsize=64)
def _kernel(key: tuple[str, str], sizes: tuple[tuple[str, int], ...], real: DType) -> Kernel:
    return BACKEND.build(plans()[key], Specialization(sizes, real))


def _run(
    key: tuple[str, str], sizes: dict[str, int], real: DType, batch: int, steps: int, given: dict[str, np.ndarray]
) -> dict[str, Any]:
    torch: Any = importlib.import_module("torch")
    spec = Specialization(tuple(sorted(sizes.items())), real)
    dtype = getattr(torch, TORCH[real])
    arrays = {n: torch.from_numpy(a).to(dtype).cuda() for n, a in given.items()}
    results: dict[str, Any] = {}
    for buffer in plans()[key].buffers:
        if buffer.role in (Role.OUTPUT, Role.FINAL):
            lead = (batch, steps) if buffer.has_time else (batch,)
            shape = (*lead, *(spec.size(d) for d in buffer.dims))
            results[buffer.name] = torch.full(shape, float("nan"), dtype=dtype, device="cuda")
    _kernel(key, spec.sizes, real)({**arrays, **results}, batch, steps)
    return results


def _rounded(given: dict[str, np.ndarray], real: DType) -> dict[str, np.ndarray]:
    torch: Any = importlib.import_module("torch")
    return {n: torch.from_numpy(a).to(getattr(torch, TORCH[real])).double().numpy() for n, a in given.items()}


def _check(key: tuple[str, str], sizes: dict[str, int], real: DType, batch: int, steps: int, rng: Any) -> None:
    given = random_arrays(key[0], rng, batch, steps, sizes)
    found = _run(key, sizes, real, batch, steps, given)
    want = reference.run(SYSTEMS[key[0]](), _rounded(given, real), batch, steps)
    for name, have in found.items():
        error = np.max(np.abs(have.double().cpu().numpy() - want[name])) / (1 + np.max(np.abs(want[name])))
        assert error <= ROOM[real], f"{key} {real.value} B={batch} T={steps}: {name} is off by {error:.2e}"


@pytest.mark.parametrize("real", TORCH, ids=lambda r: r.value)
@pytest.mark.parametrize("key", plans(), ids="-".join)
def test_kernels_compute_the_definition(key: tuple[str, str], real: DType, rng: np.random.Generator) -> None:
    for batch, steps in ((1, 1), (3, 2), (1, 3), (5, 7), (9, 64), (2, 257), (1, 4096)):
        _check(key, SMALL[key[0]], real, batch, steps, rng)


@pytest.mark.parametrize("key", plans(), ids="-".join)
def test_at_the_sizes_of_the_benchmarks_ten_runs_give_the_same_bits(
    key: tuple[str, str], rng: np.random.Generator
) -> None:
    """A race would show as a difference between runs."""
    sizes, batch, steps = LARGE[key[0]]
    given = random_arrays(key[0], rng, batch, steps, sizes)
    first = _run(key, sizes, DType.F32, batch, steps, given)
    for _ in range(9):
        again = _run(key, sizes, DType.F32, batch, steps, given)
        for name, value in first.items():
            assert bool((value == again[name]).all()), f"{name} changed from run to run"
    want = reference.run(SYSTEMS[key[0]](), _rounded(given, DType.F32), batch, steps)
    for name, value in first.items():
        error = np.max(np.abs(value.double().cpu().numpy() - want[name])) / (1 + np.max(np.abs(want[name])))
        assert error <= ROOM[DType.F32], f"{name} is off by {error:.2e}"


def test_kernels_run_on_torch_s_current_stream(rng: np.random.Generator) -> None:
    torch: Any = importlib.import_module("torch")
    sizes, batch, steps = LARGE["ema"]
    given = random_arrays("ema", rng, batch, steps, sizes)
    want = _run(("ema", "scan"), sizes, DType.F32, batch, steps, given)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        found = _run(("ema", "scan"), sizes, DType.F32, batch, steps, given)
        total = found["h"].sum()  # ordered after the kernel by the stream alone
    torch.cuda.synchronize()
    assert float(total) == pytest.approx(float(want["h"].sum()), rel=1e-5)


def test_offsets_beyond_two_to_the_31_are_reached(rng: np.random.Generator) -> None:
    torch: Any = importlib.import_module("torch")
    batch, steps, size = 33, 2**16, 1024  # 2^31 elements and more
    if torch.cuda.mem_get_info()[0] < 5 * batch * steps * size:
        pytest.skip("too little free memory on the GPU for a series of 2^31 elements")
    x = torch.zeros((batch, steps, size), dtype=torch.bfloat16, device="cuda")
    x[-1, -1, -1] = 1
    h = torch.empty_like(x)
    arrays = {
        "x": x,
        "alpha": torch.full((1,), 0.5, dtype=torch.bfloat16, device="cuda"),
        "h@initial": torch.zeros((1, size), dtype=torch.bfloat16, device="cuda"),
        "h": h,
        "h@final": torch.empty((batch, size), dtype=torch.bfloat16, device="cuda"),
    }
    for schedule in ("sequential", "scan"):
        h.fill_(float("nan"))
        _kernel(("ema", schedule), (("D", size),), DType.BF16)(arrays, batch, steps)
        assert float(h[-1, -1, -1]) == 0.5
        assert float(arrays["h@final"].sum()) == 0.5
