"""The command line. Results go to stdout, everything else to stderr.

Exit codes: 0 success, 1 the user's error or trouble with the machine, 2 usage, 70 a bug.
Each command is one module, imported when it is used, so that `recurc check` starts fast.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import cast

import click

from recurc.errors import CompilerBug, RecError, RecurcError, UnsupportedError

OK, WRONG, USAGE, BUG, INTERRUPTED = 0, 1, 2, 70, 130

COMMANDS = {
    "check": "Parse and check .rec files: names, dims, dtypes, causality.",
    "explain": "Say what a recurrence is and how it will run, and why; or explain an error code.",
    "run": "Run a recurrence on .npy, .npz, .csv or .parquet files.",
    "compile": "Write kernels that run without recurc.",
    "graph": "Draw what feeds what, and what runs in parallel.",
    "bench": "Time every backend and schedule side by side.",
    "fmt": "Put .rec files into the standard layout.",
    "zoo": "List the systems that come with recurc, or show one.",
    "new": "Start a .rec file from a system of the zoo.",
    "doctor": "Say what this machine can run, and why not.",
    "cache": "Show or clear the cache of built kernels.",
}


class Commands(click.Group):
    """A group whose commands are imported on first use; `--help` needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return cast(click.Command, import_module(f"recurc.cli.{cmd_name}").command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        near = difflib.get_close_matches(args[0], COMMANDS, n=1) if args else []
        if near and args[0] not in COMMANDS:
            raise click.UsageError(f"there is no command {args[0]!r}; did you mean {near[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="recurc", message="recurc %(version)s")
def cli() -> None:
    """A compiler for recurrences: one step in, fast sequential and parallel kernels out."""


def main() -> None:
    """The entry point of `recurc` and `python -m recurc`."""
    gc.set_threshold(100_000, 20, 100)  # what a command makes lives until it ends: looking for garbage finds none
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line; gives the exit code. Messages go to stderr."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  # closed by the caller, as in `recurc >&-`
        say("error: standard output is closed, so there is no place for the result")
        return WRONG
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of few letters shows the others by number
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            result: object = cli.main(args=list(arguments), prog_name="recurc", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else OK
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as wrong:
        wrong.show(sys.stderr)
        return wrong.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return INTERRUPTED
    except CompilerBug as bug:
        return _bug(bug)
    except RecurcError as error:
        told = isinstance(error, RecError | UnsupportedError) and error.diagnostics  # these say what kind they are
        say(str(error) if told else f"{kind_of(error)}: {error}")
        return WRONG
    except (BrokenPipeError, SystemExit):  # the reader of our stdout has gone, e.g. `recurc zoo | head -1`; click exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        say(f"error: {place}{error.strerror or error}")
        return WRONG
    except Exception as bug:
        return _bug(bug)


def _show(message: Warning | str, *_: object, **__: object) -> None:
    """A warning without the line of ours that gave it."""
    say(f"note: {message}")


def say(text: str) -> None:
    """Tell the person something that is not the result."""
    click.echo(text, err=True)


def kind_of(error: RecurcError) -> str:
    return "not supported" if isinstance(error, UnsupportedError) else "error"


def _bug(bug: BaseException) -> int:
    traceback.print_exception(bug, file=sys.stderr)
    say(
        "\nThis is a bug in recurc, not a mistake of yours. Please report it with the text above,\n"
        "the command line and the .rec file: the project's issue tracker is the place."
    )
    return BUG
