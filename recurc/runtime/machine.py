"""What this machine's processor is: the numbers the cost model asks for, read from the operating system."""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from recurc import targets
from recurc.runtime.threads import thread_count

_CPU = Path("/sys/devices/system/cpu/cpu0/cache")


def cpu_target() -> targets.Target:
    """This machine as a `Target`: as many of its cores as kernels use, its vector width and caches; what cannot be read
    stays generic."""
    return _with_cores(thread_count())


@lru_cache(maxsize=16)
def _with_cores(cores: int) -> targets.Target:
    found = targets.cpu(cores, vector_bytes())
    sizes = cache_bytes()
    return replace(
        found,
        l1_bytes=sizes.get(1, found.l1_bytes),
        l2_bytes=sizes.get(2, found.l2_bytes),
        l3_bytes=sizes.get(3, found.l3_bytes),
    )


def vector_bytes() -> int:
    """Bytes of the widest vector register: 64 with AVX-512, 32 with AVX, else 16 (SSE, NEON)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 16 if platform.machine().lower() in ("arm64", "aarch64") else 32
    words = set(flags.split())
    return 64 if "avx512f" in words else 32 if "avx" in words else 16


def cache_bytes() -> dict[int, int]:
    """Cache level -> bytes, for the data and unified caches the first core sees; empty where it cannot be read."""
    out: dict[int, int] = {}
    for index in sorted(_CPU.glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text(encoding="ascii").strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 0)
        if kind != "Instruction" and level.isdigit() and size[:-1].isdigit() and unit:
            out[int(level)] = int(size[:-1]) * unit
    return out
