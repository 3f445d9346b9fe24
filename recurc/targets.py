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
    sum_latency: float  # s: one dependent sum over numbers that lie in several lanes
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


# One core of a server's CPU with vectors of `simd_bytes`, for which `cpu` scales the rates: what kernels reached on an
# AMD Zen 4 at 2.6 GHz (`python -m bench choice`), rounded.
_CORE = Target(
    "cpu", "cpu", cores=1, simd_bytes=32, clock_hz=3.0e9, l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20,
    bandwidth=2.0e10, flops=2.0e10, matmul_flops=4.0e10, step_latency=1.5e-9, function_latency=1.0e-8,
    sum_latency=5.0e-9, launch=5.0e-6, barrier=2.0e-6, single_flops=2.5e9, core_bandwidth=3.0e10, fft_flops=2.2e9,
    fft_setup=1.0e-3,
)  # fmt: skip

# What kernels sustain of a data sheet's peak, and times that no sheet has, for every GPU alike.
_SHARE_OF_BANDWIDTH, _SHARE_OF_FLOPS, _SHARE_OF_TENSOR_CORES = 0.85, 0.7, 0.35
_STEP_CYCLES, _FUNCTION_CYCLES = 4, 40
_SUM_CYCLES = 150  # five shuffles and a turn through shared memory
_MEMORY_LATENCY, _LAUNCH, _BARRIER = 0.65e-6, 4.0e-6, 1.2e-6
# Transforms in f64 are bound by memory: about 45 operations for each number, which crosses it some 20 times (two passes
# of cuFFT in each direction, the products of spectra, and what puts arrays in order). Counted, not measured.
_TRANSFORM_OPS_PER_BYTE = 0.25
_TRANSFORM_LAUNCHES = 150  # of torch's functions around them, for some thousand steps


def _gpu(
    name: str,
    sms: int,
    lanes: int,
    l1_kib: int,
    block_kib: int,
    l2_mib: int,
    bandwidth: float,
    flops: float,
    tensor_flops: float,
) -> Target:
    """A GPU by its data sheet: SMs and f32 lanes of each, L1 with shared memory per SM, shared memory of one block, L2,
    peak bytes/s, peak f32 operations/s of these lanes, and peak bf16 operations/s of the tensor cores (dense)."""
    sustained, clock = bandwidth * _SHARE_OF_BANDWIDTH, flops / (sms * lanes * 2)
    return Target(
        name, "gpu", sms, 128, clock, l1_kib << 10, l2_mib << 20, 0, sustained, flops * _SHARE_OF_FLOPS,
        tensor_flops * _SHARE_OF_TENSOR_CORES, _STEP_CYCLES / clock, _FUNCTION_CYCLES / clock, _SUM_CYCLES / clock,
        _LAUNCH, _BARRIER,
        shared_bytes=block_kib << 10, latency_bytes=sustained * _MEMORY_LATENCY,
        fft_flops=sustained * _TRANSFORM_OPS_PER_BYTE, fft_setup=_TRANSFORM_LAUNCHES * _LAUNCH,
    )  # fmt: skip


# SMs, lanes, L1, L2: NVIDIA's whitepapers of the Ampere, Hopper and Blackwell architectures. Shared memory of a block:
# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Rates:
# NVIDIA A100 Tensor Core GPU data sheet (A100 SXM4 80 GB): 19.5 TFLOPS f32, 312 bf16, 2,039 GB/s.
_A100 = _gpu("sm_80", 108, 64, 192, 163, 40, 2.039e12, 19.5e12, 312e12)
# NVIDIA H100 Tensor Core GPU data sheet (H100 SXM5): 67 TFLOPS f32, 989 bf16 (1,979 sparse), 3.35 TB/s.
_H100 = _gpu("sm_90", 132, 128, 256, 227, 50, 3.35e12, 67e12, 989e12)
# NVIDIA HGX B200 data sheet, one of its eight: 75 TFLOPS f32, 2,250 bf16 (4,500 sparse), 7.7 TB/s.
_B200 = _gpu("sm_100", 148, 128, 256, 227, 126, 7.7e12, 75e12, 2250e12)


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
