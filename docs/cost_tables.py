"""Writes the table of targets in docs/cost_model.md, from the code. `make docs` runs it."""

from __future__ import annotations

import re
from pathlib import Path

from recurc import targets

PAGE = Path(__file__).resolve().parent / "cost_model.md"
_MARKS = re.compile(r"(<!-- targets -->\n).*?(<!-- /targets -->)", re.DOTALL)
_FIGURES = {
    "cores": ("cores or SMs", 1.0, ""),
    "clock_hz": ("clock", 1e9, " GHz"),
    "l1_bytes": ("L1", 1024.0, " KiB"),
    "l2_bytes": ("L2", 2.0**20, " MiB"),
    "l3_bytes": ("L3", 2.0**20, " MiB"),
    "shared_bytes": ("shared memory of a block", 1024.0, " KiB"),
    "bandwidth": ("`bandwidth`", 1e9, " GB/s"),
    "core_bandwidth": ("`core_bandwidth`", 1e9, " GB/s"),
    "flops": ("`flops`", 1e9, " GFLOP/s"),
    "matmul_flops": ("`matmul_flops`", 1e9, " GFLOP/s"),
    "single_flops": ("`single_flops`", 1e9, " GFLOP/s"),
    "fft_flops": ("`fft_flops`", 1e9, " GFLOP/s"),
    "fft_setup": ("`fft_setup`", 1e-6, " µs"),
    "step_latency": ("`step_latency`", 1e-9, " ns"),
    "function_latency": ("`function_latency`", 1e-9, " ns"),
    "sum_latency": ("`sum_latency`", 1e-9, " ns"),
    "launch": ("`launch`", 1e-6, " µs"),
    "barrier": ("`barrier`", 1e-6, " µs"),
    "latency_bytes": ("bytes in flight for the bandwidth", 1e6, " MB"),
}


def table() -> str:
    """The figures of one CPU core and of every GPU; what a target does not have is left empty."""
    machines = [targets.cpu(1), *(t for t in map(targets.named, targets.names()) if t.kind == "gpu")]
    lines = [f"| figure | cpu, one core | {' | '.join(t.name for t in machines[1:])} |", f"|{' --- |' * 5}"]
    for name, (label, unit, suffix) in _FIGURES.items():
        values = [float(getattr(t, name)) for t in machines]
        cells = [f"{round(v / unit, 2):,.10g}{suffix}" if v else "" for v in values]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_MARKS.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", page), encoding="utf-8")


if __name__ == "__main__":
    main()
