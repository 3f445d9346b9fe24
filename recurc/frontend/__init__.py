"""The text front end: a `.rec` file to typed recurrences (`ir.Recurrence`).

    text -> lexer -> tokens -> parse -> ast.Module -> check (symbols, names, lower) -> ir.Recurrence

What an equation becomes is a plain function of its text, built through `recurc.build` and `recurc.ops.apply` only, so
that another front end (the tracer of Python functions) can make the same trees. The rules where one could choose:

- An equation bears the name it defines; `output y = e` defines `y` and lists it as an output. A state's equation bears
  the state's name; its value is put into the declared order of the state's dims and its element type.
- `i, f, g, o = e` is five equations: one for `e`, named by joining the names with `_` (`i_f_g_o`; with further `_` at
  the end while that name is taken), and one per name, a `Reaxis` of a read of it.
- Equations stand in dependence order; among those that could come next, the first of the source comes first.
- A function call is written out where it stands; its arguments are the same nodes wherever its body reads them.
- An operation on numbers is done at once (`constants.fold`): `-1`, `1/2`, `2*pi` are one `Const`. Whole literals are
  i64 and take the type of the operand they meet; literals with a point or exponent are real.
- `where(c, a, b)` and `if c then a else b` are `select`; `a % b` is `mod`, `a // b` is `floordiv`, `x**2` is `pow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recurc import ir
from recurc.diagnostics import Diagnostic
from recurc.errors import RecError
from recurc.source import SourceFile, Span


def load_text(text: str, file: str = "<text>", roots: Sequence[str] = ()) -> list[ir.Recurrence]:
    """Every recurrence of a `.rec` text, typed. Raises `RecError` with all errors of the first stage that finds some,
    or `UnsupportedError` if the text is right but uses something this version does not do.

    Files that it uses (`use "other.rec"`) are looked for in the folders `roots`."""
    from recurc.frontend.uses import Library

    return list(Library(roots).check(SourceFile(file, normalised(text)), None).recurrences)


def load_file(path: str | Path, roots: Sequence[str] = ()) -> list[ir.Recurrence]:
    """`load_text` of a file. Files that it uses lie below its own folder, or below one of `roots` if some are given.
    Raises `OSError` if the file itself cannot be read."""
    import os

    from recurc.frontend.uses import Library

    real = os.path.realpath(path)
    folder, source = str(Path(real).parent), SourceFile(str(path), normalised(read_text(path)))
    return list(Library(roots, folder).check(source, folder, real).recurrences)


def read_text(path: str | Path) -> str:
    """The text of a file. Raises `RecError` if it is too large or not UTF-8, `OSError` if it cannot be read."""
    from recurc.frontend.lexer import MAX_CHARACTERS

    with Path(path).open("rb") as stream:
        data = stream.read(4 * MAX_CHARACTERS + 1)
    return decode(data, str(path))


def decode(data: bytes, file: str = "<text>") -> str:
    """UTF-8 bytes as text; a byte-order mark is dropped. Raises `RecError` that points at the first wrong byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        from recurc.frontend.lexer import MAX_CHARACTERS

        before = data[: wrong.start].decode("utf-8-sig")
        if len(before) > MAX_CHARACTERS:
            return before  # too large, which is what the lexer says
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        shown = SourceFile(file, data.decode("utf-8-sig", errors="replace"))
        raise RecError(
            [
                Diagnostic(
                    "E0101",
                    "error",
                    f"the file is not UTF-8: byte 0x{data[wrong.start]:02x} has no meaning here",
                    Span(file, line, column, line, column + 1),
                    (),
                    "save the file as UTF-8",
                    shown,
                )
            ]
        ) from wrong


def format_text(text: str, file: str = "<text>") -> str:
    """`text` in the standard layout; comments stay. Raises `RecError` if it does not parse."""
    from recurc.frontend.format import format_text as run

    return run(text, file)


def normalised(text: str) -> str:
    """Line ends as `\\n`, and no byte-order mark at the beginning."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


__all__ = ["decode", "format_text", "load_file", "load_text", "normalised", "read_text"]
