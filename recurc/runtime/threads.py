"""How many threads a native kernel uses."""

from __future__ import annotations

import os
import sys


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def thread_count() -> int:
    """torch's setting when torch is loaded, else `OMP_NUM_THREADS`, else the cores of this process."""
    torch = sys.modules.get("torch")
    get_num_threads = getattr(torch, "get_num_threads", None)
    if get_num_threads is not None:
        return max(1, int(get_num_threads()))
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdigit() and int(first) > 0:
        return int(first)
    return available_cores()
