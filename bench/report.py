"""Results on the screen, as JSON, and in the marked tables of docs/benchmarks.md."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import Ceilings, Machine
from bench.rows import Floor, Peak, Row, seconds

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "bench" / "results"

Table = list[list[str]]


def met(row: Row | Peak) -> str:
    return {True: "met", False: "not met", None: ""}[row.met]


def kernels_table(rows: Sequence[Row]) -> Table:
    table = [["case", "recurc", "peer", "its time", "ratio", "best", "target", ""]]
    for row in rows:
        ratio, target = _ratio(row)
        best = "" if row.best_ratio is None else f"{row.best_ratio:.2f}x"
        times = [row.case, seconds(row.ours), row.peer, seconds(row.peer_seconds)]
        table.append([*times, ratio, best, target, met(row)])
    return table


def _ratio(row: Row) -> tuple[str, str]:
    """The ratio and its target; of a copy as a share."""
    if row.peer.startswith("large copy"):
        return f"{row.ratio:.0%}", "" if row.target is None else f"{row.target:.0%}"
    return f"{row.ratio:.2f}x", "" if row.target is None else f"{row.target:g}x"


def latency_table(rows: Sequence[Row]) -> Table:
    table = [["what", "measured", "limit", "", "counted"]]
    for row in rows:
        limit = "" if row.target is None else seconds(row.peer_seconds)
        table.append([row.case, seconds(row.ours), limit, met(row), row.note])
    return table


def floors_table(floors: Sequence[Floor]) -> Table:
    table = [["case", "MB moved", "GFLOP", "floor", "recurc", "share of the floor"]]
    for f in floors:
        moved, flops = f"{f.bytes / 1e6:.1f}", f"{f.flops / 1e9:.2f}"
        table.append([f.case, moved, flops, seconds(f.floor), seconds(f.ours), f"{f.share:.0%}"])
    return table


def peaks_table(peaks: Sequence[Peak]) -> Table:
    table = [["case", "recurc, MB", "peer", "its MB", "no more"]]
    for peak in peaks:
        table.append([peak.case, f"{peak.ours / 1e6:.1f}", peak.peer, f"{peak.theirs / 1e6:.1f}", met(peak)])
    return table


def missed(rows: Sequence[Row], peaks: Sequence[Peak]) -> str:
    """Which targets are not met, and by how much."""
    short = [
        f"- {row.case}" + (f", against {row.peer}" if row.group == "kernels" else "") + f": {_far(row)}"
        for row in rows
        if row.met is False
    ]
    short += [
        f"- memory of {p.case}, against {p.peer}: {p.ours / 1e6:.1f} MB to {p.theirs / 1e6:.1f}"
        for p in peaks
        if not p.met
    ]
    return "\n".join(["Not met in this run:", "", *short]) if short else "Every target is met in this run."


def _far(row: Row) -> str:
    if row.group == "latency":
        return f"{seconds(row.ours)}, the limit is {seconds(row.peer_seconds)}"
    ratio, target = _ratio(row)
    return f"{ratio}, the target is {target}"


def machine_lines(machine: Machine, ceilings: Ceilings, command: str) -> str:
    return (
        f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}.\n\n"
        f"{machine.sentence()}.{_busy(machine)}\n\n"
        f"In this run a large copy moved {ceilings.bytes_per_second / 1e9:.1f} GB/s (read plus written), f32 "
        f"multiply-adds in registers ran at {ceilings.flops_per_second / 1e9:.0f} GFLOP/s, and a large product by "
        f"torch's BLAS at {ceilings.product_flops_per_second / 1e9:.0f} GFLOP/s, each with all {machine.cores} cores."
    )


def _busy(machine: Machine) -> str:
    if machine.load < 0.5 * machine.cores:
        return ""
    return (
        f" **The machine was busy with other work (load {machine.load:.1f}): the medians below say little; the column "
        "`best` compares the best rounds.**"
    )


def markdown(table: Table) -> str:
    head, *body = table
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(line)} |" for line in body])


def show(title: str, table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    colours = {"met": "green", "not met": "red"}
    head, *body = table
    view = RichTable(title=title, title_justify="left", title_style="bold")
    for column in head:
        view.add_column(column, justify="left" if column in ("case", "what", "peer", "counted", "") else "right")
    for line in body:
        view.add_row(*(f"[{colours[cell]}]{cell}[/]" if cell in colours else cell for cell in line))
    Console().print(view)


def put(page: str, name: str, text: str) -> str:
    """`page` with what stands between the marks of `name` replaced. Raises `ValueError` if the marks are missing."""
    marks = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", re.DOTALL)
    if not marks.search(page):
        raise ValueError(f"the page has no marks for {name}")
    return marks.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def save(
    rows: Sequence[Row], floors: Sequence[Floor], peaks: Sequence[Peak], machine: Machine, ceilings: Ceilings,
    seed: int, command: str,
) -> Path:  # fmt: skip
    """Everything measured, as JSON under bench/results, named by date and machine."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", f"{machine.cpu} {machine.cores} cores".lower()).strip("-")
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{slug}.json"
    content = {
        "command": command,
        "seed": seed,
        "machine": machine.to_json(),
        "copy_bytes_per_second": ceilings.bytes_per_second,
        "flops_per_second": ceilings.flops_per_second,
        "product_flops_per_second": ceilings.product_flops_per_second,
        "rows": [row.to_json() for row in rows],
        "floors": [f.to_json() for f in floors],
        "peaks": [p.to_json() for p in peaks],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def write_page(
    rows: Sequence[Row], floors: Sequence[Floor], peaks: Sequence[Peak], machine: Machine, ceilings: Ceilings,
    command: str,
) -> None:  # fmt: skip
    """The tables of docs/benchmarks.md, between their marks; the words around them are left alone."""
    page = PAGE.read_text(encoding="utf-8")
    page = put(page, "machine", machine_lines(machine, ceilings, command))
    page = put(page, "kernels", markdown(kernels_table([r for r in rows if r.group == "kernels"])))
    page = put(page, "latency", markdown(latency_table([r for r in rows if r.group == "latency"])))
    page = put(page, "floors", markdown(floors_table(floors)))
    page = put(page, "peaks", markdown(peaks_table(peaks)))
    page = put(page, "missed", missed(rows, peaks))
    PAGE.write_text(page, encoding="utf-8")
