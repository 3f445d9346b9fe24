"""`make bench`: every number of docs/benchmarks.md, ours and the peers' in one run, and the schedules of
docs/cost_model.md."""

from __future__ import annotations

import argparse
import sys

from bench import machine, report
from bench.rows import Floor, Peak, Row

PARTS = ("affine", "selective", "aaren", "rnn", "training", "memory", "startup", "choice", "fused")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)} (default: all, and the page is written)")
    parser.add_argument("--budget", type=float, default=8.0, help="seconds of rounds per case (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random inputs (default 0)")
    parser.add_argument("--threads", type=int, default=machine.THREADS, help="of recurc, for `choice` or `fused` alone")
    asked = parser.parse_args()
    unknown = set(asked.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    parts = asked.parts or PARTS

    if tuple(parts) == ("choice",):
        return 0 if _choices(asked.seed, asked.budget, asked.threads) else 1
    if tuple(parts) == ("fused",):
        _fused(asked.seed, asked.budget, asked.threads)
        return 0
    machine.settle_threads()
    here, most = machine.describe(), machine.ceilings()
    print(report.machine_lines(here, most, "make bench"), file=sys.stderr)
    rows: list[Row] = []
    floors: list[Floor] = []
    peaks: list[Peak] = []
    if "memory" in parts:
        print("measuring memory", file=sys.stderr, flush=True)
        from bench import memory

        peaks = memory.measure(asked.seed)
    for part in (p for p in parts if p not in ("choice", "fused", "memory")):
        print(f"measuring {part}", file=sys.stderr, flush=True)
        new_rows, new_floors = _measure(part, asked.seed, most, asked.budget)
        rows += new_rows
        floors += new_floors
    kernels, latency = ([r for r in rows if r.group == group] for group in ("kernels", "latency"))
    for title, table in (
        ("Against peers (ratio above 1: recurc is faster)", report.kernels_table(kernels)),
        ("Against the machine", report.floors_table(floors)),
        ("Memory of a training step", report.peaks_table(peaks)),
        ("Waiting times", report.latency_table(latency)),
    ):
        if len(table) > 1:
            report.show(title, table)
    if not asked.parts:
        kept = report.save(rows, floors, peaks, here, most, asked.seed, "make bench")
        print(f"written: {kept.relative_to(report.ROOT)}")
        report.write_page(rows, floors, peaks, here, most, "make bench")
        print(f"written: {report.PAGE.relative_to(report.ROOT)}")
    promised = [bool(r.met) for r in (*rows, *peaks) if r.met is not None]
    if "choice" in parts:
        promised.append(_choices(asked.seed, asked.budget, machine.THREADS))
    if "fused" in parts:
        _fused(asked.seed, asked.budget, machine.THREADS)
    print(f"{sum(promised)} of {len(promised)} targets met")
    return 0


def _choices(seed: int, budget: float, threads: int) -> bool:
    """Measures the schedules side by side and writes their page; whether the choices are good enough."""
    from bench import choice

    machine.settle_threads(threads)
    here = machine.describe()
    print("measuring choice", file=sys.stderr, flush=True)
    cells = choice.measure(machine.fresh(seed), budget * 20)
    report.show("The schedules taken", choice.systems_table(cells))
    report.show("Not the best", choice.misses_table(cells))
    choice.KEPT.write_text(choice.kept(cells, here, threads, seed), encoding="utf-8")
    command = "make bench" if threads == machine.THREADS else f"python -m bench choice --threads {threads}"
    choice.write_page(cells, here, threads, command)
    print(f"written: {choice.KEPT.relative_to(report.ROOT)}, {choice.PAGE.relative_to(report.ROOT)}")
    print(choice.verdict(cells))
    return choice.share(cells) >= choice.SHARE


def _fused(seed: int, budget: float, threads: int) -> None:
    """Measures scans in one pass beside scans apart, and writes their page."""
    from bench import fused

    machine.settle_threads(threads)
    here = machine.describe()
    print("measuring fused", file=sys.stderr, flush=True)
    pairs = fused.measure(machine.fresh(seed), budget)
    report.show("Scans in one pass over time, and apart", fused.table(pairs))
    command = "make bench" if threads == machine.THREADS else f"python -m bench fused --threads {threads}"
    fused.write_page(pairs, here, threads, command)
    print(f"written: {fused.PAGE.relative_to(report.ROOT)}")


def _measure(part: str, seed: int, most: machine.Ceilings, budget: float) -> tuple[list[Row], list[Floor]]:
    rng = machine.fresh(seed)
    match part:
        case "affine":
            from bench import affine

            return affine.measure(rng, most, budget)
        case "selective":
            from bench import selective

            return selective.measure(rng, most, budget * 2)
        case "aaren":
            from bench import aaren

            return aaren.measure(rng, most, budget)
        case "rnn":
            from bench import rnn

            return rnn.measure(rng, most, budget)
        case "training":
            from bench import training

            return training.measure(rng, most, budget)
        case _:
            from bench import startup

            return startup.measure(rng), []


if __name__ == "__main__":
    sys.exit(main())
