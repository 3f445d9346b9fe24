"""`make gpu`: everything only a real GPU can answer. Correctness, then timings, then one results file."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bench import affine, gpu_peers, ours, selective
from bench.report import RESULTS, ROOT, show
from bench.rows import seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--skip-tests", action="store_true", help="only measure")
    asked = parser.parse_args()
    missing = _no_gpu()
    if missing:
        print(f"skipped: {missing}")
        return 0
    if not asked.skip_tests:
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], cwd=ROOT, check=False)
        if done.returncode not in (0, 5):  # 5: no test is marked so
            return done.returncode
    found = measure(np.random.default_rng(0))
    table = [["case", "recurc", "median", "GB/s"]]
    table += [[r["case"], r["backend"], seconds(r["seconds"]), f"{r['gigabytes_per_second']:.0f}"] for r in found]
    show("On the GPU", table)
    print(f"written: {_save(found).relative_to(ROOT)}")
    return 0


def _no_gpu() -> str | None:
    """Why nothing can be measured here, or None."""
    try:
        import torch
    except ImportError:
        return "torch is not installed; `pip install recurc[gpu]`"
    return None if torch.cuda.is_available() else "this machine has no CUDA GPU that torch can use"


def measure(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Medians by CUDA events of our GPU backends that take a case, and of the peers that are installed."""
    import torch

    from recurc.errors import RecurcError

    b, t, d = affine.B, affine.T, affine.D
    affine_arrays = {"a": rng.uniform(0.8, 1, (b, t, d)), "b": rng.standard_normal((b, t, d))}
    aaren_arrays = {"s": rng.standard_normal((32, 4096)), "v": rng.standard_normal((32, 4096, 64))}
    cases = {"diagonal_affine": affine_arrays, "selective_scan": selective.arrays(rng), "aaren": aaren_arrays}
    rows: list[dict[str, Any]] = []
    ready = {n: {k: torch.from_numpy(np.asarray(a, np.float32)).cuda() for k, a in v.items()} for n, v in cases.items()}
    for name in ("lstm", "gru"):
        ready[name] = gpu_peers.rnn_arrays(name, 64, 512, 512, 512, "cuda", torch.bfloat16)
    for name, given in ready.items():
        rec = ours.system(name)
        for backend in ("triton", "cuda"):
            try:
                compiled = rec.compile(backend=backend)
                result = compiled(**given)
            except RecurcError as refused:
                print(f"{name} on {backend}: {refused}", file=sys.stderr)
                continue
            moved = sum(v.nbytes for v in given.values()) + result.nbytes
            median = _events(lambda call=compiled, values=given: call(**values))
            rows.append(
                {"case": name, "backend": backend, "seconds": median, "gigabytes_per_second": moved / median / 1e9}
            )
        moved = sum(v.nbytes for v in given.values())
        for peer, run in gpu_peers.peers(name, given):
            median = _events(run, rounds=20)
            rows.append(
                {"case": name, "backend": peer, "seconds": median, "gigabytes_per_second": moved / median / 1e9}
            )
    return rows


def _events(run: Callable[[], object], rounds: int = 50) -> float:
    import torch

    for _ in range(5):
        run()
    samples: list[float] = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end) / 1e3)
    return float(np.median(samples))


def _save(rows: list[dict[str, Any]]) -> Path:
    import torch

    RESULTS.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_properties(0)
    content = {
        "command": "make gpu",
        "gpu": device.name,
        "driver": _driver(),
        "versions": {name: metadata.version(name) for name in ("torch", "triton", "numpy")},
        "rows": rows,
    }
    slug = "-".join(device.name.lower().split())
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{slug}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
