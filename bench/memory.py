"""The memory that a training step takes beside its arguments: the most that a process of its own holds, of ours and of
each peer.

The high-water mark of the resident memory is set back when the arrays are there and everything is loaded; what the
process holds then is subtracted; a peer that compiles in its own process has done so before. Freed memory goes back to
the system at once, so that what compiling left behind is used by nobody. Linux only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine, training
from bench.rows import Peak

PEERS = {"jax": "jax.grad of jit lax.scan, time first", "torch": "torch autograd, eager loop"}
_SHORT = 16  # steps of the run that loads and builds
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def measure(seed: int) -> list[Peak]:
    """A row for each system and peer; none where the system keeps no such mark."""
    if not Path("/proc/self/clear_refs").exists():
        return []
    rows: list[Peak] = []
    for name, arrays in training.cases(machine.fresh(seed)).items():
        held = {who: _in_a_process(name, who, seed) for who in ("ours", *PEERS)}
        title = training.Case(name, arrays, np.empty(0)).title
        rows += [Peak(title, held["ours"], peer, held[who]) for who, peer in PEERS.items()]
    return rows


def _in_a_process(name: str, who: str, seed: int) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", name, who, str(seed)],
        capture_output=True, text=True, check=True, timeout=600, env={**os.environ, **_ALLOCATOR},
    )  # fmt: skip
    return int(done.stdout.split()[-1])


def _status(key: str) -> int:
    """Bytes of a line of the process's status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def _peak(run: Callable[[], Any]) -> int:
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    run()
    run()
    return _status("VmHWM") - before


def main(name: str, who: str, seed: int) -> None:
    machine.settle_threads()
    rng = machine.fresh(seed)
    arrays = training.cases(rng)[name]
    case = training.Case.of(name, arrays, rng)
    short = {n: np.ascontiguousarray(a[:, :_SHORT]) if n in case.inputs else a for n, a in arrays.items()}
    training.Case(name, short, np.ascontiguousarray(case.given[:, :_SHORT])).candidate(who)()
    print(_peak(case.candidate(who)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
