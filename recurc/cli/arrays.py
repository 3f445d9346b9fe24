"""Arrays from files: .npy, .npz, .csv and .parquet."""

from __future__ import annotations

import csv
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from recurc.cli.files import FileError, readable

Array = np.ndarray
FORMATS = (".npy", ".npz", ".csv", ".parquet")


def named_arrays(spec: str, expected: dict[str, tuple[str, ...]]) -> dict[str, Array]:
    """The arrays of one `--input` or `--params`: `NAME=FILE`, `NAME=FILE:COLUMN,...`, or an .npz with all of them.

    `expected` maps the recurrence's names to their dims: a table read for a scalar input drops its one column.
    Raises `FileError` for files that cannot be read or hold no numbers."""
    name, equals, rest = spec.partition("=")
    if not equals:
        path = Path(spec)
        if path.suffix != ".npz":
            raise FileError(f"{spec!r}: write NAME=FILE, or give an .npz with an array for each name")
        return _npz(readable(path))
    if name not in expected:
        raise FileError(f"there is nothing named {name!r} here; there is: {', '.join(expected) or 'nothing'}")
    path, columns = _split_columns(rest)
    array = _one(readable(path), name, columns)
    if not expected[name] and array.ndim >= 2 and array.shape[-1] == 1 and path.suffix in (".csv", ".parquet"):
        array = array[..., 0]
    return {name: array}


def _split_columns(text: str) -> tuple[Path, tuple[str, ...]]:
    """`data.csv:temperature,wind` -> the path and the columns; a file whose name holds a colon is taken as it is."""
    for suffix in (".csv:", ".parquet:"):
        head, found, tail = text.partition(suffix)
        if found and not Path(text).exists():
            return Path(head + suffix[:-1]), tuple(tail.split(","))
    return Path(text), ()


def _one(path: Path, name: str, columns: tuple[str, ...]) -> Array:
    match path.suffix:
        case ".npy":
            return _numpy(path)
        case ".npz":
            arrays = _npz(path)
            if name in arrays:
                return arrays[name]
            if len(arrays) == 1:
                return next(iter(arrays.values()))
            raise FileError(f"{path} has no array {name!r}; it has: {', '.join(arrays)}")
        case ".csv":
            return _csv(path, columns)
        case ".parquet":
            return _parquet(path, columns)
        case other:
            raise FileError(f"{path}: {other or 'no suffix'} is not one of {', '.join(FORMATS)}")


def _numpy(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise FileError(f"{path} is not a NumPy array file: {error}") from error
    except MemoryError as error:
        raise FileError(f"{path} holds, or says it holds, more numbers than memory does: {error}") from error


def _npz(path: Path) -> dict[str, Array]:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {str(key): np.asarray(archive[key]) for key in archive}
    except (ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} is not an .npz archive of numbers: {error}") from error
    except MemoryError as error:
        raise FileError(f"{path} holds, or says it holds, more numbers than memory does: {error}") from error


def _csv(path: Path, columns: tuple[str, ...]) -> Array:
    """A table of numbers, (T, columns); a first row that is not all numbers is the header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path} is not a text table: {error}") from error
    if not rows:
        raise FileError(f"{path} is empty")
    header = [] if all(_is_number(cell) for cell in rows[0]) else [cell.strip() for cell in rows.pop(0)]
    width = len(header) or (len(rows[0]) if rows else 0)
    picked = _picked(path, columns, header) or list(range(width))
    table = np.empty((len(rows), len(picked)))
    for r, row in enumerate(rows):
        if len(row) != width:
            raise FileError(f"{path}: row {r + 1} has {len(row)} cells, the first has {width}")
        for c, at in enumerate(picked):
            if not _is_number(row[at]):
                column = header[at] if header else str(at + 1)
                raise FileError(f"{path}: row {r + 1}, column {column}: {row[at]!r} is {_what_else(row[at])}")
            table[r, c] = float(row[at])
    return table


def _picked(path: Path, columns: tuple[str, ...], header: list[str]) -> list[int]:
    for column in columns:
        if column not in header:
            raise FileError(f"{path} has no column {column!r}; it has: {', '.join(header) or 'no header'}")
    return [header.index(column) for column in columns]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _what_else(cell: str) -> str:
    """What a cell is that is no real number."""
    try:
        complex(cell)
    except ValueError:
        return "not a number"
    return "a complex number, and a table holds real ones; .npy and .npz hold both"


def _parquet(path: Path, columns: tuple[str, ...]) -> Array:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as missing:
        raise FileError(f"reading {path} needs pyarrow: pip install pyarrow (.csv and .npz need nothing)") from missing
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as error:
        raise FileError(f"{path} is not a Parquet file: {error}") from error
    header = [str(n) for n in table.column_names]
    picked = _picked(path, columns, header) or list(range(len(header)))
    cells: list[Array] = []
    for at in picked:
        values: Array = np.asarray(table.column(at).to_numpy())
        if values.dtype.kind not in "biufc":
            raise FileError(f"{path}: column {header[at]!r} does not hold numbers")
        cells.append(values)
    return np.stack(cells, axis=-1) if cells else np.empty((int(table.num_rows), 0))
