"""The machines schedules are weighed for, as numbers from their data sheets (or a probe)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from recurc.errors import UnsupportedError

# Waking a thread takes some microseconds, and waiting for one that another program displaced takes longer; this many
# operations keep one core busy for some tens of microseconds.
WORTH_A_THREAD = 200_000
CHUNK_STEPS = 16  # of a chunk on a CPU: a whole number of vectors of any width


@dataclass(frozen=True, slots=True)
class Target:
    """What the cost model knows of a machine. Rates are for the whole device and sustained, not peak."""

    name: str
    kind: str  # "cpu" or "gpu"
    cores: int  # CPU cores, or SMs
    simd_bytes: int  # width of a vector register; on a GPU of a warp's register
    clock_hz: float
    l1_bytes: int  # per core (data) or per SM (with shared memory)
    l2_bytes: int
    l3_bytes: int  # 0: none
    bandwidth: float  # bytes/s from memory
    flops: float  # f32 multiply-adds count two, ordinary (SIMD or CUDA core) units
    matmul_flops: float  # f32 GEMM: the best unit that keeps f32 accumulation (tensor cores on a GPU)
    step_latency: float  # s: one dependent multiply-add step of a loop
    function_latency: float  # s: one dependent exp or tanh in a loop
    launch: float  # s: starting a stage
    barrier: float  # s: all workers meeting once
    single_flops: float = 0.0  # of one CPU core, for numbers with nothing beside them in a vector
    core_bandwidth: float = 0.0  # bytes/s of one CPU core from its caches
    shared_bytes: int = 0  # per SM, usable by one block
    latency_bytes: float = 0.0  # bytes in flight needed to reach the bandwidth (Little's law)
    fft_flops: float = 0.0  # f64 transforms by a library between kernels, everything around them counted; 0: none here
    fft_setup: float = 0.0  # s: what a stage of transforms takes however small it is

    @property
    def lanes(self) -> int:
        """f32 positions that run side by side."""
        return self.cores * self.simd_bytes // 4 * (1 if self.kind == "cpu" else 16)


# Of one core with vectors of `simd_bytes`; `cpu` scales them.
_CORE = Target(
    "cpu", "cpu", cores=1, simd_bytes=32, clock_hz=3.0e9, l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20,
    bandwidth=2.0e10, flops=2.0e10, matmul_flops=4.0e10, step_latency=1.5e-9, function_latency=1.0e-8, launch=5.0e-6,
    barrier=2.0e-6, single_flops=2.5e9, core_bandwidth=3.0e10, fft_flops=1.5e9, fft_setup=1.0e-3,
)  # fmt: skip
_A100 = Target(
    "sm_80", "gpu", cores=108, simd_bytes=128, clock_hz=1.41e9, l1_bytes=192 << 10, l2_bytes=40 << 20, l3_bytes=0,
    bandwidth=1.6e12, flops=1.4e13, matmul_flops=1.1e14, step_latency=3.0e-9, function_latency=3.0e-8, launch=4.0e-6,
    barrier=1.5e-6, shared_bytes=163 << 10, latency_bytes=1.0e6,
)  # fmt: skip
_H100 = Target(
    "sm_90", "gpu", cores=132, simd_bytes=128, clock_hz=1.75e9, l1_bytes=256 << 10, l2_bytes=50 << 20, l3_bytes=0,
    bandwidth=3.0e12, flops=4.5e13, matmul_flops=3.5e14, step_latency=2.5e-9, function_latency=2.5e-8, launch=4.0e-6,
    barrier=1.2e-6, shared_bytes=227 << 10, latency_bytes=2.0e6,
)  # fmt: skip
_B200 = Target(
    "sm_100", "gpu", cores=148, simd_bytes=128, clock_hz=1.85e9, l1_bytes=256 << 10, l2_bytes=126 << 20, l3_bytes=0,
    bandwidth=7.0e12, flops=6.0e13, matmul_flops=8.0e14, step_latency=2.5e-9, function_latency=2.5e-8, launch=4.0e-6,
    barrier=1.2e-6, shared_bytes=227 << 10, latency_bytes=4.5e6,
)  # fmt: skip


def names() -> tuple[str, ...]:
    return tuple(_TARGETS)


def named(name: str) -> Target:
    """The target of that name: `cpu`, `sm_80` (A100), `sm_90` (H100), `sm_100` (B200); `sm_90a` means `sm_90`.

    Raises `UnsupportedError` for others, listing these."""
    found = _TARGETS.get(name) or _TARGETS.get(name.rstrip("abcdef"))
    if found is None:
        raise UnsupportedError(f"there is no target `{name}`; there are: {', '.join(_TARGETS)}")
    return found


def cpu(cores: int, simd_bytes: int = 32, bandwidth: float | None = None) -> Target:
    """The generic CPU with the numbers a probe of this machine found (cores; vector bytes; bytes/s)."""
    scale = cores * simd_bytes / _CORE.simd_bytes
    return replace(
        _CORE, cores=cores, simd_bytes=simd_bytes, bandwidth=bandwidth or _CORE.bandwidth,
        flops=_CORE.flops * scale, matmul_flops=_CORE.matmul_flops * scale,
    )  # fmt: skip


_TARGETS: Mapping[str, Target] = {t.name: t for t in (cpu(os.cpu_count() or 1), _A100, _H100, _B200)}
