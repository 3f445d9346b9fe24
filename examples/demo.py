"""`make demo`: five systems on real data, one table, pictures and generated kernels in one folder."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import recurc
from examples import attend_sunspots, forecast_sunspots, read_digits, smooth_sunspots
from examples.case import Array, Example
from recurc.errors import BackendError, UnsupportedError
from recurc.plan import Plan

KERNELS = ("numpy", "cpu", "triton", "cuda")
GPU = "sm_90"


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    example: Example
    classes: str
    schedule: str
    gpu_schedule: str
    why: str
    shape: str
    backend: str
    milliseconds: float
    error: float
    finding: str


def examples() -> list[Example]:
    return [
        smooth_sunspots.example(),
        read_digits.example("lstm"),
        read_digits.example("gru"),
        forecast_sunspots.example(),
        attend_sunspots.example(),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    out: Path = parser.parse_args().out
    for folder in ("graphs", "data", "kernels"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    notes: list[str] = []
    for number, example in enumerate(examples(), 1):
        print(f"[{number}/5] {example.title}", flush=True)
        outcomes.append(measure(example, out))
        notes += list(write_kernels(example, out / "kernels"))
    report(outcomes, notes, out)


def measure(example: Example, out: Path) -> Outcome:
    """Run the example, compare it with the reference, draw its graph and its data."""
    from recurc.picture.draw import draw
    from recurc.picture.model import picture

    rec = recurc.zoo.load(example.system)
    compiled = rec.compile()
    got = np.asarray(compiled(**example.arrays))
    milliseconds = best_of(lambda: compiled(**example.arrays)) * 1e3
    wanted = np.asarray(
        rec.compile(backend="reference")(**{k: np.asarray(v, np.float64) for k, v in example.arrays.items()})
    )
    plan = compiled.plan
    draw(picture(plan, f"{example.title} · zoo/{example.system}.rec"), out / "graphs" / f"{example.system}.svg")
    draw(picture(plan, f"{example.title} · zoo/{example.system}.rec"), out / "graphs" / f"{example.system}.png")
    example.draw(got, out / "data" / f"{example.system}.png")
    (out / "graphs" / f"{example.system}.explain.txt").write_text(compiled.explain() + "\n", encoding="utf-8")
    first = next(iter(rec.inputs))
    return Outcome(
        example,
        ", ".join(g.cls for g in plan.analysis.groups),
        ", ".join(plan.schedules),
        ", ".join(on_gpu(rec, example).schedules),
        why(plan),
        "x".join(str(n) for n in np.shape(example.arrays[first])),
        compiled.backend,
        milliseconds,
        relative_error(got, wanted),
        example.says(got),
    )


def why(plan: Plan) -> str:
    """The scheduler's sentence for each group, and for a group without choice what it is about the group."""
    forced = [str(g.reasons[0].text) for g in plan.analysis.groups if len(g.schedules) == 1 and g.reasons]
    return "; ".join([*forced, *(r.text for r in plan.reasons)]).replace("`", "")


def on_gpu(rec: recurc.Recurrence, example: Example) -> Plan:
    """What the scheduler would choose for the same call on a GPU."""
    from recurc import targets
    from recurc.passes import make_plan
    from recurc.types import DType

    name = next(iter(rec.inputs))
    lead = np.shape(example.arrays[name])[: np.ndim(example.arrays[name]) - len(rec.inputs[name].dims)]
    batch = int(np.prod(lead[:-1], dtype=int))
    return make_plan(rec.ir, sizes_of(rec, example), batch, lead[-1], DType.F32, targets.named(GPU))


def relative_error(got: Array, wanted: Array) -> float:
    """The largest error, against the size of the output as a whole."""
    return float(np.max(np.abs(got - wanted)) / max(float(np.max(np.abs(wanted))), 1e-300))


def best_of(call: Callable[[], object], budget: float = 0.3) -> float:
    """The shortest of as many runs as fit into `budget` seconds, at least three."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 1000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def write_kernels(example: Example, folder: Path) -> Iterator[str]:
    """Generated programs for every target, at hand or not; yields what could not be written."""
    from recurc.cli.compile import export_kernels

    rec = recurc.zoo.load(example.system)
    sizes = sizes_of(rec, example)
    for target in KERNELS:
        try:
            export_kernels(rec.ir, target, sizes, folder / target / example.system, dtype="f32", arch=GPU)
        except (BackendError, UnsupportedError) as why:
            yield f"{example.system} for {target}: {why}"


def sizes_of(rec: recurc.Recurrence, example: Example) -> dict[str, int]:
    """Every dim's size, read off the arrays."""
    sizes: dict[str, int] = {}
    for name, signature in {**rec.inputs, **rec.params}.items():
        shape = np.shape(example.arrays[name])
        for dim, size in zip(signature.dims, shape[len(shape) - len(signature.dims) :], strict=True):
            if not dim.isdigit():
                sizes[dim] = size
    return sizes


def report(outcomes: list[Outcome], notes: list[str], out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, width=max(Console().width, 132))
    table = Table(title="Five systems on real data", title_justify="left", show_lines=True)
    for heading in ("system", "class", "schedule, and why", "on an H100", "backend", "time", "error"):
        table.add_column(heading, justify="right" if heading in ("time", "error") else "left")
    for o in outcomes:
        system = f"[bold]{o.example.title}[/bold]\n[dim]{o.shape}[/dim]"
        schedule = f"{o.schedule}\n[dim]{escape(o.why)}[/dim]"
        figures = f"{o.milliseconds:.2f} ms", f"{o.error:.1e}"
        table.add_row(system, o.classes, schedule, o.gpu_schedule, o.backend, *figures)
    console.print(table)
    console.print("error: largest difference from the float64 reference, against the largest output")
    for o in outcomes:
        console.print(f"[bold]{o.example.title}[/bold]: {o.finding}")
    for note in notes:
        console.print(f"not written: {note}", markup=False)
    files = sum(1 for p in out.rglob("*") if p.is_file())
    console.print(
        f"\n{files} files in {out}: graphs/ what feeds what, data/ data and output, kernels/ generated programs"
    )


if __name__ == "__main__":
    main()
