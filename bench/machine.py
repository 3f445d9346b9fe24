"""What the numbers were measured on, and what that machine could do at best."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@dataclass(frozen=True)
class Machine:
    """No host name, no user, no path: only what explains a number."""

    cpu: str
    cores: int
    simd: str
    system: str
    python: str
    compiler: str
    versions: dict[str, str]
    load: float  # runnable threads of others when the run began

    def sentence(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.cpu}, {self.cores} cores and all of them for every candidate, {self.simd}; {self.system}; "
            f"{self.compiler}; Python {self.python}; {packages}"
        )

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def describe() -> Machine:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", text)
    flags = set((re.search(r"flags\s*:\s*(.+)", text) or [""])[0].split())
    simd = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else platform.machine()
    return Machine(
        cpu=model[1].strip() if model else platform.processor() or platform.machine(),
        cores=THREADS,
        simd=simd,
        system=platform.system(),
        python=".".join(map(str, sys.version_info[:3])),
        compiler=_compiler(),
        versions={name: metadata.version(name) for name in ("numpy", "torch", "jax")},
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    )


def _compiler() -> str:
    found = shutil.which(os.environ.get("CC", "cc"))
    if found is None:
        return "no C compiler"
    done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.splitlines()[0] if done.stdout else "cc"


@dataclass(frozen=True)
class Ceilings:
    """The best the machine did in this very run, with all threads."""

    bytes_per_second: float  # a large copy: bytes read plus bytes written
    flops_per_second: float  # f32 multiply-adds in registers, two operations each
    product_flops_per_second: float  # a large f32 matrix product by torch's BLAS


def ceilings() -> Ceilings:
    """The median of a 256 MB copy and the best of a 1536 cubed f32 product, both by torch with all threads, and the
    best rate of a loop of multiply-adds that needs no memory."""
    import torch

    from bench.measure import interleaved
    from bench.peak import multiply_adds_per_second

    copy, moved = large_copy()
    k = 1536
    a, b, c = torch.randn(k, k), torch.randn(k, k), torch.empty(k, k)
    with torch.no_grad():
        times = interleaved({"copy": copy, "product": lambda: torch.mm(a, b, out=c)}, budget=3.0)
    return Ceilings(moved / times["copy"].median, multiply_adds_per_second(THREADS), 2 * k**3 / times["product"].best)


def large_copy() -> tuple[Callable[[], object], int]:
    """A copy of 256 MB by torch with all threads, far larger than any cache, and the bytes it reads and writes."""
    import torch

    n = 64 * 1024 * 1024
    source, target = torch.ones(n), torch.zeros(n)
    return lambda: target.copy_(source), 2 * 4 * n


def settle_threads(threads: int = THREADS) -> None:
    """The same number of threads for everyone: torch is told, XLA takes every core by default, and recurc follows
    torch's setting."""
    import torch

    torch.set_num_threads(threads)


def fresh(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
