"""`recurc run FILE`: a recurrence on the user's data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recurc.cli import OK, say
from recurc.cli.options import BACKENDS, DTYPES, file_argument, name_option, schedule_option, sizes_option
from recurc.errors import ShapeError

if TYPE_CHECKING:
    import numpy as np

    from recurc.api import Recurrence

    Arrays = dict[str, np.ndarray]

_PICTURES = (".png", ".svg", ".pdf")
_CHUNK = 4096  # steps between two moves of the progress bar
_EXACT = 2.0**53  # up to here a whole number of f64 is one number and no other
_LONG = 1 << 22  # elements of input from which a bar is worth it


@click.command("run")
@file_argument
@name_option
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=FILE", help="An input: .npy, .npz, .csv[:columns] or .parquet."
)
@click.option("--params", "params", multiple=True, metavar="P.npz", help="Params: an .npz of all, or NAME=FILE.")
@click.option("--initial", type=click.Path(path_type=Path), metavar="S.npz", help="Initial states.")
@click.option(
    "--init-seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="Make the missing params by their initialisers from this seed.",
)
@sizes_option
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True)
@schedule_option
@click.option("--dtype", type=click.Choice(DTYPES), help="Storage of reals (default: that of the inputs).")
@click.option("--layout", type=click.Choice(["BT", "TB"]), default="BT", help="BT: (*batch, T, *dims); TB: time first.")
@click.option("--out", type=click.Path(path_type=Path), metavar="OUT.npz", help="Where outputs and final states go.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw inputs and outputs over t.")
def command(
    file: Path,
    name: str | None,
    inputs: tuple[str, ...],
    params: tuple[str, ...],
    initial: Path | None,
    init_seed: int | None,
    sizes: dict[str, int],
    backend: str,
    schedule: str,
    dtype: str | None,
    layout: str,
    out: Path | None,
    plot: Path | None,
) -> int:
    """Run a recurrence on .npy, .npz, .csv or .parquet files; outputs are printed in short or written with --out."""
    import numpy as np

    from recurc.cli.arrays import named_arrays
    from recurc.cli.load import load

    if plot is not None and plot.suffix not in _PICTURES:
        raise click.BadParameter(f"{plot.name!r} should end in one of {', '.join(_PICTURES)}", param_hint="--plot")
    if out is not None and out.suffix not in (".npz", ""):
        raise click.BadParameter(f"{out.name!r} should end in .npz", param_hint="--out")
    rec = load(file, name)
    arrays = _gather(rec, inputs, params)
    arrays |= _initialised(rec, arrays, sizes, init_seed)
    start = named_arrays(str(initial), {}) if initial else None
    compiled = rec.compile(backend=backend, schedule=schedule, dtype=dtype, layout=layout, sizes=sizes or None)
    outputs, finals = _run(rec, compiled, arrays, start, layout)
    if plot is not None:
        from recurc.cli.files import write
        from recurc.picture.series import plot_series

        given = {i: arrays[i] for i in rec.inputs}
        axis = 0 if layout == "TB" else None
        write(plot, lambda path: plot_series(rec.ir, given, outputs, path, axis))
        say(f"wrote {plot}")
    if out is not None:
        from recurc.cli.files import write

        everything = {k: _readable(v) for k, v in (outputs | {f"{k}@final": v for k, v in finals.items()}).items()}
        write(out, lambda path: np.savez(path, **everything))  # pyright: ignore[reportArgumentType]
        say(f"wrote {out}: {', '.join(everything)}" + (" (bf16 as f32)" if dtype == "bf16" else ""))
    for key, value in outputs.items():
        click.echo(_summary(key, value, _readable(value)))
    return OK


def _gather(rec: Recurrence, inputs: tuple[str, ...], params: tuple[str, ...]) -> Arrays:
    """Inputs and params from files, by name; whole numbers become real where the recurrence wants real or complex
    ones, and real ones whole where it wants integers and they are."""
    from recurc.arguments import slots_of
    from recurc.cli.arrays import named_arrays
    from recurc.cli.files import FileError
    from recurc.types import Kind

    slots = slots_of(rec.ir)
    dims = {name: slot.dims for name, slot in slots.items()}
    arrays: Arrays = {}
    for spec in (*inputs, *params):
        found = named_arrays(spec, dims)
        twice = [name for name in found if name in arrays]
        if twice:
            raise FileError(f"{twice[0]!r} is given twice; the second time by {spec!r}")
        arrays |= found
    for name, slot in slots.items():
        if name not in arrays:
            continue
        array = arrays[name]
        if slot.dtype.kind in (Kind.REAL, Kind.COMPLEX) and array.dtype.kind in "iub":
            arrays[name] = array.astype("float64")
        elif slot.dtype.kind is Kind.INT and array.dtype.kind == "f":
            whole = (array == array.round()) & (abs(array) <= _EXACT)
            arrays[name] = array.astype("int64") if bool(whole.all()) else array
    return arrays


def _initialised(rec: Recurrence, arrays: Arrays, sizes: dict[str, int], seed: int | None) -> Arrays:
    """The params no file gives, from their initialisers."""
    missing = [p for p in rec.params if p not in arrays]
    if not missing:
        return {}
    if seed is None:
        raise ShapeError(f"no values for {', '.join(missing)}: give --params FILE.npz, or --init-seed 0 for fresh ones")
    from recurc.arguments import with_defaults
    from recurc.types import literal_size

    known = dict(sizes)
    for slot in (*rec.ir.inputs, *rec.ir.params):
        if slot.name in arrays and slot.dims and arrays[slot.name].ndim >= len(slot.dims):
            for dim, size in zip(slot.dims, arrays[slot.name].shape[-len(slot.dims) :], strict=True):
                if literal_size(dim) is None:
                    known.setdefault(dim, size)
    known = with_defaults(rec.ir, known)
    unknown = [d.name for d in rec.ir.dims if d.name not in known]
    if unknown:
        raise ShapeError(
            f"the size of {', '.join(unknown)} is not known: give --sizes {','.join(f'{d}=...' for d in unknown)}"
        )
    fresh = rec.init_params(rng=seed, **known)
    say(f"made {', '.join(missing)} by the initialisers, seed {seed}")
    return {name: fresh[name] for name in missing}


def _run(
    rec: Recurrence, compiled: Callable[..., Any], arrays: Arrays, start: Arrays | None, layout: str
) -> tuple[Arrays, Arrays]:
    """Outputs and final states. Long work goes in pieces of time, with a bar; not where an output reads `S[T]`, which
    is the state after the last step of all and not of a piece."""
    import numpy as np

    from recurc.passes.resume import reads_final

    inputs = {n: arrays[n] for n in rec.inputs if n in arrays}
    fixed = {n: a for n, a in arrays.items() if n not in inputs}
    axes = {n: 0 if layout == "TB" else a.ndim - 1 - len(rec.inputs[n].dims) for n, a in inputs.items()}
    steps = max((a.shape[axes[n]] for n, a in inputs.items() if axes[n] >= 0), default=0)
    work = sum(a.size for a in inputs.values())
    same = all(axes[n] >= 0 and a.shape[axes[n]] == steps for n, a in inputs.items())
    if not (same and not reads_final(rec.ir) and work * steps and steps > 2 * _CHUNK and work > _LONG):
        result, final = compiled(**arrays, initial=start, return_final=True)
        return _by_name(rec, result), final

    def piece(at: int) -> Arrays:
        return {n: np.take(a, range(at, min(at + _CHUNK, steps)), axis=axes[n]) for n, a in inputs.items()}

    parts: list[Arrays] = []
    final = start
    for at in _with_bar(range(0, steps, _CHUNK), f"{rec.ir.name}, {steps:,} steps"):
        result, final = compiled(**piece(at), **fixed, initial=final, return_final=True)
        parts.append(_by_name(rec, result))
    dims = {n: len(s.dims) for n, s in rec.outputs.items()}
    joined = {
        n: np.concatenate([p[n] for p in parts], axis=0 if layout == "TB" else parts[0][n].ndim - 1 - dims[n])
        for n in parts[0]
    }
    return joined, dict(final or {})


def _by_name(rec: Recurrence, result: Any) -> Arrays:
    names = list(rec.outputs)
    return {names[0]: result} if len(names) == 1 else dict(zip(names, result, strict=True))


def _with_bar(pieces: range, what: str) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=len(pieces))
        for at in pieces:
            yield at
            progress.advance(task)


def _readable(value: np.ndarray) -> np.ndarray:
    """bf16 as f32: .npz files know no bf16, and NumPy does no sums in it."""
    return value.astype("float32") if value.dtype.name == "bfloat16" else value


def _summary(name: str, stored: np.ndarray, value: np.ndarray) -> str:
    shown = f"{name}  {stored.shape}  {stored.dtype}"
    if value.size == 0:
        return shown
    flat = value.reshape(-1)

    def extreme(name: str) -> float:
        return float(getattr(value, name)())

    if value.dtype.kind in "fiu":
        shown += f"  min {extreme('min'):.6g}  mean {extreme('mean'):.6g}  max {extreme('max'):.6g}"
    return shown + f"  last {flat[-1]:.6g}" if value.dtype.kind in "fc" else shown + f"  last {flat[-1]}"
