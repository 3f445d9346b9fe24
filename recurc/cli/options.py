"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

Command = TypeVar("Command", bound=Callable[..., Any])

BACKENDS = ("auto", "reference", "numpy", "cpu", "triton", "cuda")
DTYPES = ("f32", "f64", "bf16", "f16")


class Sizes(click.ParamType[dict[str, int]] if TYPE_CHECKING else click.ParamType):
    """`D=64,H=128`: dim names and positive sizes."""

    name = "D=64,H=128"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        if isinstance(value, dict):
            return cast(dict[str, int], value)
        sizes: dict[str, int] = {}
        for item in filter(None, re.split(r"[,\s]+", str(value))):
            name, equals, number = item.partition("=")
            if not equals or not name.isidentifier() or not number.isdigit():
                self.fail(f"{item!r} is not of the form DIM=SIZE with a whole number, e.g. D=64", param, ctx)
            if int(number) < 1:
                self.fail(f"{item!r}: a size is at least 1", param, ctx)
            if name in sizes:
                self.fail(f"{name} is given twice", param, ctx)
            sizes[name] = int(number)
        return sizes


FILE = click.Path(path_type=Path)

file_argument = click.argument("file", type=FILE)
name_option = click.option("--name", metavar="NAME", help="Which recurrence, if the file has several.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
sizes_option = click.option("--sizes", type=Sizes(), default="", help="Sizes of the dims, e.g. D=64,H=128.")
batch_option = click.option(
    "-B", "--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Sequences."
)
steps_option = click.option("-T", "--steps", type=click.IntRange(min=0), default=4096, show_default=True, help="Steps.")
schedule_option = click.option("--schedule", default="auto", show_default=True, help="A schedule by name.")
dtype_option = click.option("--dtype", type=click.Choice(DTYPES), help="Storage of reals (default: f32).")
