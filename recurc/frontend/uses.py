"""`use "other.rec"`: the recurrences, functions and consts of other files.

A stranger's file must not read what it likes: a used file lies below a root (the folder of the file that was asked for,
or those the caller names) and is called `.rec` after symbolic links are followed, is an ordinary file, and the number
and the size of all of them together are bounded. Files may use files; a circle is refused.

What another file defines keeps its own meaning: its functions and consts come in under names no source can spell,
`FILE:NAME`, and read each other by these; those it defines itself are known by their plain names too.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recurc import ir
from recurc.errors import RecError, RecurcError, UnsupportedError
from recurc.frontend import ast
from recurc.frontend.problems import Enough, Problems
from recurc.frontend.symbols import Collector, Kind, Scope, Symbol
from recurc.source import SourceFile

MAX_FILES = 64
MAX_TOTAL = 256 * 1024  # characters of all used files


@dataclass(frozen=True)
class Checked:
    """A file that has been checked: what it defines. `known` maps the functions and consts that it can read to names
    that are the same in every file."""

    source: SourceFile
    scope: Scope
    recurrences: tuple[ir.Recurrence, ...]
    own: frozenset[str]
    known: Mapping[str, str]


@dataclass
class Library:
    """The files of one load: `home` is the folder of the file that was asked for, `roots` are the folders that the
    caller names. `steps` counts the work of checking all files."""

    roots: Sequence[str]
    home: str | None = None
    steps: int = 0
    sources: dict[str, SourceFile] = field(default_factory=dict[str, SourceFile])
    _checked: dict[str, Checked] = field(default_factory=dict[str, Checked])
    _refused: dict[str, RecError | UnsupportedError] = field(default_factory=dict[str, RecError | UnsupportedError])
    _path: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # real and shown names, being checked
    _characters: int = 0

    def check(self, source: SourceFile, folder: str | None, real: str = "") -> Checked:
        """The file and those it uses. Raises `RecError` or `UnsupportedError` with the diagnostics of the files used,
        if one of them is wrong, otherwise of this one."""
        from recurc.frontend.check import check_file
        from recurc.frontend.parse import parse

        self.sources[source.name] = source
        module = parse(source)
        problems = Problems(source, self.sources)
        used: dict[str, Checked] = {}
        wrong: list[RecError | UnsupportedError] = []
        self._path.append((real, source.name))
        for item in module.items:
            if isinstance(item, ast.Use) and item.path not in used:
                try:
                    found = self._used(item, folder, problems)
                except (RecError, UnsupportedError) as trouble:
                    wrong.append(trouble)
                    continue
                except Enough:
                    break
                if found is not None:
                    used[item.path] = found
        self._path.pop()
        if wrong:
            errors = dict.fromkeys(d for w in wrong if isinstance(w, RecError) for d in w.diagnostics)
            if errors:
                raise RecError(list(errors))
            raise wrong[0]
        problems.raise_if_any()  # what a missing file defines would be missing at every place that reads it
        problems.steps = self.steps
        checked = check_file(module, source, problems, used, not self._path)
        self.steps = problems.steps
        return checked

    def _used(self, item: ast.Use, folder: str | None, problems: Problems) -> Checked | None:
        found = self._find(item, folder, problems)
        if found is None:
            return None
        root, real, shown = found
        if real in self._checked:
            return self._checked[real]
        if real in self._refused:
            raise self._refused[real]
        if any(known == real for known, _ in self._path):
            at = next(i for i, (known, _) in enumerate(self._path) if known == real)
            names = [Path(name).name for _, name in self._path[at:]]
            problems.report(
                "E0603",
                f"files use each other in a circle: {' -> '.join([*names, names[0]])}",
                item.span,
                "put what both need into a third file",
            )
            return None
        try:
            text = self._read(item, root, real, shown, problems)
            if text is None:
                return None
            self._checked[real] = self.check(SourceFile(shown, text), str(Path(real).parent), real)
        except (RecError, UnsupportedError) as trouble:
            self._refused[real] = trouble
            raise
        return self._checked[real]

    def _find(self, item: ast.Use, folder: str | None, problems: Problems) -> tuple[str, str, str] | None:
        """The root that a used file lies below, its real path, and how messages call it, which is one name for one
        file."""
        path = item.path
        folders = [*([folder] if folder is not None else []), *self.roots]
        if not folders:
            problems.report(
                "E0602",
                "a text without a file has no folder in which `use` could look",
                item.span,
                "load the file by its path, or name the folders: load(text=..., roots=[...])",
            )
            return None
        odd = any(c in "\\:" or unicodedata.category(c).startswith("C") for c in path)
        if odd or Path(path).is_absolute() or not path.endswith(".rec"):
            problems.report(
                "E0602",
                "`use` takes the path of a `.rec` file, relative to this file",
                item.span,
                'write `use "other.rec"` or `use "folder/other.rec"`',
            )
            return None
        roots = [os.path.realpath(r) for r in (self.roots or [self.home or ""])]
        outside = False
        for start in folders:
            real = os.path.realpath(Path(start) / path)
            root = next((r for r in roots if _below(real, r)), None)
            if root is None:
                outside = True
            elif os.path.lexists(real):
                if not real.endswith(".rec"):
                    problems.report(
                        "E0602",
                        f"`{path}` is a link to a file that is not called `.rec`",
                        item.span,
                        "only `.rec` files are read",
                    )
                    return None
                base = os.path.realpath(start)
                return root, real, str(Path(start) / Path(real).relative_to(base)) if _below(real, base) else real
        if outside:
            problems.report(
                "E0602",
                f"`{path}` lies outside the folders that may be read",
                item.span,
                "a file uses files below its own folder; load(..., roots=[...]) names other folders",
            )
        else:
            problems.report(
                "E0601", f"there is no file `{path}`", item.span, "the path is relative to the file that uses it"
            )
        return None

    def _read(self, item: ast.Use, root: str, real: str, shown: str, problems: Problems) -> str | None:
        from recurc.frontend import decode, normalised

        if len(self._checked) + len(self._path) > MAX_FILES:
            problems.report("E0605", f"more than {MAX_FILES} files are used", item.span, "join some of them")
            return None
        try:
            handle = _opened(root, real)
            with os.fdopen(handle, "rb") as stream:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise OSError(0, "it is no ordinary file")
                data = stream.read(4 * MAX_TOTAL + 1)
        except OSError as trouble:
            problems.report(
                "E0601", f"`{item.path}` cannot be read: {trouble.strerror}", item.span, "check the path and its rights"
            )
            return None
        text = normalised(decode(data, shown))
        self._characters += len(text)
        if self._characters > MAX_TOTAL:
            problems.report(
                "E0605",
                f"the files that are used have more than {MAX_TOTAL // 1024} KiB together",
                item.span,
                "use fewer or smaller files",
            )
            return None
        return text


def _below(real: str, root: str) -> bool:
    """Whether one real path lies inside another."""
    return real.startswith(root.rstrip("/") + "/")


def _opened(root: str, real: str) -> int:
    """The file `real` below the folder `root`, to be read. It is opened folder by folder, none of which may be a link:
    what `real` was found to be is what is read, also if somebody puts a link in its place meanwhile."""
    *inner, name = Path(real).relative_to(root).parts
    folder = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", 0)
    at = os.open(root, folder)
    try:
        for part in inner:
            at, outer = os.open(part, folder, dir_fd=at), at
            os.close(outer)
        return os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def folders(roots: Any) -> list[str]:
    """The `roots` of a load as folder names; raises `RecurcError` for what is none."""
    if roots is None:
        return []
    given: Any = [roots] if isinstance(roots, (str, os.PathLike)) else roots
    try:
        found: list[str] = [os.fspath(r) for r in given]
    except TypeError as wrong:
        raise RecurcError(f"roots should be folders, as in roots=['lib'], got {roots!r}") from wrong
    for root in found:
        if not Path(root).is_dir():
            raise RecurcError(f"roots: there is no folder {root!r}")
    return found


def bring_in(collector: Collector, item: ast.Use, other: Checked) -> None:
    """Makes what `other` defines known to the file that uses it."""
    scope, theirs = collector.scope, other.scope
    for plain, shared in other.known.items():
        source = theirs.symbols[plain]
        if shared in scope.symbols:
            continue
        scope.symbols[shared] = replace(source, name=shared)
        if plain in theirs.functions:
            scope.functions[shared] = _function(theirs.functions[plain], other.known)
        elif plain in theirs.consts:
            scope.consts[shared] = _const(theirs.consts[plain], shared, other.known)
    for name in sorted(other.own):
        symbol = theirs.symbols[name]
        earlier = scope.symbols.get(name)
        if earlier is not None:
            if earlier.span != symbol.span:
                collector.problems.report(
                    "E0604",
                    f"`{name}` is defined in `{Path(symbol.span.file).name}` too",
                    item.span,
                    "rename one of the two",
                    ((earlier.span, f"`{name}`, defined here"), (symbol.span, "and here"), (item.span, "used here")),
                )
            continue
        scope.symbols[name] = symbol
        if symbol.kind is Kind.RECURRENCE:
            scope.cells[name] = theirs.cells.get(name)
        elif name in theirs.functions:
            scope.functions[name] = _function(theirs.functions[name], other.known)
        elif name in theirs.consts:
            scope.consts[name] = _const(theirs.consts[name], name, other.known)


def shared_name(symbol: Symbol) -> str:
    """A name for a function or const that is the same in every file."""
    return f"{symbol.span.file}:{symbol.name}"


def _const(binding: ast.Binding, name: str, known: Mapping[str, str]) -> ast.Binding:
    return replace(binding, name=replace(binding.name, name=name), value=_renamed(binding.value, known, frozenset()))


def _function(function: ast.Function, known: Mapping[str, str]) -> ast.Function:
    local = frozenset(p.name for p in function.parameters)
    body: list[ast.Equation] = []
    for line in function.body:
        body.append(replace(line, value=_renamed(line.value, known, local)))
        local |= {n.name for n in line.names}
    return replace(function, body=tuple(body), value=_renamed(function.value, known, local))


def _renamed(expr: ast.Expr, known: Mapping[str, str], local: frozenset[str]) -> ast.Expr:
    """`expr` with the functions and consts of its file under their shared names."""

    def again(part: ast.Expr) -> ast.Expr:
        return _renamed(part, known, local)

    match expr:
        case ast.Name(name=name):
            return replace(expr, name=known[name]) if name in known and name not in local else expr
        case ast.Unary() | ast.Transpose() | ast.Rename():
            return replace(expr, arg=again(expr.arg))
        case ast.Binary():
            return replace(expr, left=again(expr.left), right=again(expr.right))
        case ast.Conditional(condition=c, then=a, otherwise=b):
            return replace(expr, condition=again(c), then=again(a), otherwise=again(b))
        case ast.Call(function=function, args=args):
            bound = frozenset[str]()
            if function.name == "iterate":
                bound = frozenset(a.name.name for a in args if isinstance(a, ast.Binding))
            name = known.get(function.name, function.name) if function.name not in local else function.name
            made = tuple(
                replace(a, value=again(a.value)) if isinstance(a, ast.Binding) else _renamed(a, known, local | bound)
                for a in args
            )
            return replace(expr, function=replace(function, name=name), args=made)
        case _:
            return expr
