"""`recurc cache`: where built kernels lie, and how to be rid of them."""

from __future__ import annotations

import json

import click

from recurc.cli import OK, say
from recurc.cli.options import json_option


@click.command("cache")
@click.option("--clear", is_flag=True, help="Remove every built kernel.")
@json_option
def command(clear: bool, as_json: bool) -> int:
    """Show or clear the cache of built kernels."""
    from recurc.runtime.cache import cache_directory, clear_cache

    folder = cache_directory()
    if clear:
        count, size = clear_cache()
        say(f"removed {count} files, {_megabytes(size)}, from {folder}")
        return OK
    files = [p for p in folder.iterdir() if p.is_file()]
    kernels = [p for p in files if p.suffix not in (".sha256", ".lock")]
    size = sum(p.stat().st_size for p in files)
    if as_json:
        click.echo(json.dumps({"directory": str(folder), "kernels": len(kernels), "bytes": size}))
    else:
        click.echo(f"{folder}\n{len(kernels)} kernels, {_megabytes(size)}")
    return OK


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
