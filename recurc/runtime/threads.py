"""How many threads a native kernel uses."""

from __future__ import annotations

import os
import sys


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


class _Team:
    """Whether threads of native kernels have been started, and whether a fork has left them behind since.

    GNU's OpenMP does not notice that it was forked: a child that asks for its parent's threads waits for ever."""

    started = lost = False

    @classmethod
    def forked(cls) -> None:
        cls.lost = cls.lost or cls.started


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Team.forked)


def team_starts() -> None:
    """To be called before a native kernel runs on several threads."""
    _Team.started = True


def team_is_lost() -> bool:
    """Whether this process was forked from one whose native kernels had threads."""
    return _Team.lost


def thread_count() -> int:
    """torch's setting when torch is loaded, else `OMP_NUM_THREADS`, else the cores of this process; one in a process
    forked from one whose kernels had threads."""
    if _Team.lost:
        return 1
    torch = sys.modules.get("torch")
    get_num_threads = getattr(torch, "get_num_threads", None)
    if get_num_threads is not None:
        return max(1, int(get_num_threads()))
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdigit() and int(first) > 0:
        return int(first)
    return available_cores()
