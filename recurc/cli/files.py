"""Reading what the user points at, writing what was asked for, with messages that name the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from recurc.errors import RecurcError


class FileError(RecurcError):
    """A file cannot be read or written; the message names it and says what to do."""


def readable(path: Path) -> Path:
    """`path`, if it is a file that can be read; raises `FileError`."""
    if path.is_dir():
        raise FileError(f"{path} is a directory; give the files in it, e.g. {path}/*{path.suffix or '.rec'}")
    if not path.exists():
        raise FileError(f"{path} does not exist{_near(path)}")
    if not os.access(path, os.R_OK):
        raise FileError(f"{path} cannot be read: no permission")
    return path


def _near(path: Path) -> str:
    import difflib

    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


def write(path: Path, write_to: Callable[[Path], object]) -> None:
    """Let `write_to` fill a temporary file beside `path`, then put it in place: never half a file.

    Raises `FileError` where the place cannot be written."""
    if path.is_dir():
        raise FileError(f"{path} is a directory; name a file in it")
    if path.exists() and not path.is_file():
        raise FileError(f"{path} is no ordinary file, and putting one in its place would destroy it; name another")
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".recurc-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error
    temporary = Path(name)
    try:
        write_to(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def writable_directory(path: Path) -> Path:
    """`path` as a directory that exists; raises `FileError`."""
    if path.exists() and not path.is_dir():
        raise FileError(f"{path} is a file; --out wants a directory")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path} cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise FileError(f"{path} cannot be written: no permission")
    return path


def source_text(path: Path) -> str:
    """The text of a .rec file. Raises `FileError`, and `RecError` for a file that is not UTF-8 or far too large."""
    from recurc.frontend import read_text

    return read_text(readable(path))
