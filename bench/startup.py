"""What a user waits for besides the arithmetic: import, check, analysis, a C build, and the cost of a call itself.

Each start-up number comes from fresh processes, so nothing is warm that a user would find cold."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import recurc
from bench import ours
from bench.measure import repeated
from bench.rows import Row

SYSTEMS = ("ema", "lstm", "gru", "selective_scan", "aaren")
LIMITS = {"import": 0.15, "check": 0.3, "analysis": 0.05, "build": 2.0, "call": 20e-6}

IMPORT = """
import time
start = time.perf_counter()
import recurc
print(time.perf_counter() - start)
"""
ANALYSIS = """
import sys, time
import recurc
rec = recurc.zoo.load(sys.argv[1])
start = time.perf_counter()
rec.analyze()
print(time.perf_counter() - start)
"""
LOAD = """
import time
start = time.perf_counter()
import recurc
recurc.zoo.load("lstm")
print(time.perf_counter() - start)
"""
BUILD = """
import sys, time
import numpy as np
import recurc
rec = recurc.zoo.load(sys.argv[1])
sizes = {d: 24 + 3 * i for i, d in enumerate(rec.dims)}
shape = lambda value: [int(d) if d.isdigit() else sizes[d] for d in value.dims]
values = {name: np.ones([2, 3, *shape(v)], np.float32) for name, v in rec.inputs.items()}
values |= {name: np.ones(shape(v), np.float32) for name, v in rec.params.items()}
rec.compile(backend="numpy")(**values)
start = time.perf_counter()
rec.compile(backend="cpu")(**values)
print(time.perf_counter() - start)
"""


def _printed(code: str, *args: str, env: dict[str, str] | None = None) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True, timeout=300, env=env
    )
    return float(done.stdout.split()[-1])


def measure(rng: np.random.Generator, rounds: int = 7) -> list[Row]:
    imported = statistics.median(_printed(IMPORT) for _ in range(rounds))
    rows = [
        _limit("import recurc", imported, "import", "NumPy and the rest are loaded when first used"),
        _limit("recurc check lstm.rec", _check(rounds), "check", "a whole process, the interpreter's start counted"),
    ]
    for name in SYSTEMS:
        analysed = statistics.median(_printed(ANALYSIS, name) for _ in range(3))
        rows.append(_limit(f"analysis of {name}", analysed, "analysis", "without --prove, the first of its process"))
    loaded = statistics.median(_printed(LOAD) for _ in range(3))
    note = "in a new process: NumPy, the grammar, the passes and networkx"
    rows.append(Row("latency", "import recurc and load lstm", loaded, "", loaded, None, note))
    for name in SYSTEMS:
        note = "empty cache: plan, C, compiler, load and first run"
        built = statistics.median(_build(name) for _ in range(3))
        rows.append(_limit(f"C build of {name}", built, "build", note))
    note = "EMA with T 1, D 1, no batch: the arithmetic is counted and is nothing"
    return [*rows, _limit("a cached call", _overhead(rng), "call", note)]


def _limit(case: str, value: float, kind: str, note: str) -> Row:
    return Row("latency", case, value, "limit", LIMITS[kind], 1.0, note)


def _check(rounds: int) -> float:
    source = str(Path(recurc.__file__).parent / "zoo" / "lstm.rec")
    command = [sys.executable, "-m", "recurc", "check", source]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    samples: list[float] = []
    for _ in range(1 + rounds):  # the first may compile Python's modules, as it does once after an installation
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, timeout=60, env=env)
        samples.append(time.perf_counter() - start)
    return statistics.median(samples[1:])


def _build(name: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return _printed(BUILD, name, env={**os.environ, "RECURC_CACHE_DIR": folder})


def _overhead(rng: np.random.Generator) -> float:
    x = rng.standard_normal((1, 1)).astype(np.float32)
    alpha = np.asarray(0.5, dtype=np.float32)
    return repeated(ours.call(ours.system("ema"), {"x": x, "alpha": alpha}), calls=200, rounds=51)
