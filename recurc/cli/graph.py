"""`recurc graph FILE --out g.svg`: the dependence picture."""

from __future__ import annotations

from pathlib import Path

import click

from recurc.cli import OK, say
from recurc.cli.options import batch_option, file_argument, name_option, schedule_option, sizes_option, steps_option

_FORMATS = (".svg", ".png", ".pdf", ".dot")


@click.command("graph")
@file_argument
@name_option
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="G.svg", help=".svg, .png, .pdf or .dot."
)
@sizes_option
@batch_option
@steps_option
@click.option("--target", default="cpu", show_default=True, help="cpu, sm_80, sm_90 or sm_100.")
@schedule_option
def command(
    file: Path, name: str | None, out: Path, sizes: dict[str, int], batch: int, steps: int, target: str, schedule: str
) -> int:
    """Draw what feeds what, which states belong together, what leaves the recurrence and what runs in parallel."""
    if out.suffix not in _FORMATS:
        raise click.BadParameter(f"{out.name!r} should end in one of {', '.join(_FORMATS)}", param_hint="--out")
    from recurc.cli.cases import case_for
    from recurc.cli.files import write
    from recurc.cli.load import load
    from recurc.passes import make_plan
    from recurc.picture.model import picture

    rec = load(file, name).ir
    case = case_for(rec, sizes, batch, steps, None, target)
    plan = make_plan(rec, case.sizes, batch, steps, case.real, case.target, schedule)
    drawn = picture(plan, f"{file.name} · {case}")
    if out.suffix == ".dot":
        from recurc.picture.dot import to_dot

        write(out, lambda path: path.write_text(to_dot(drawn), encoding="utf-8"))
    else:
        from recurc.picture.draw import draw

        write(out, lambda path: draw(drawn, path))
    say(f"wrote {out}")
    return OK
