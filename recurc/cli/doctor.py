"""`recurc doctor`: what this machine can run, and why not."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from typing import Any, cast

import click

from recurc.cli import OK
from recurc.cli.options import json_option
from recurc.cli.tables import print_table


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `ok` is None for what is neither good nor bad."""

    topic: str
    what: str
    ok: bool | None
    detail: str


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:
    """Say what this machine can run, and why not."""
    findings = list(examine())
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=2, ensure_ascii=False))
        return OK
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    marks = {True: Text("yes", style="green"), False: Text("no", style="red"), None: Text("")}
    topic = ""
    for f in findings:
        if f.topic != topic:
            table.add_row(Text(f.topic, style="bold"))
            topic = f.topic
        table.add_row(Text(f"  {f.what}"), marks[f.ok], Text(f.detail))
    print_table(table)
    return OK


def examine() -> Iterator[Finding]:
    """Everything worth knowing, topic by topic."""
    yield from _python()
    yield from _backends()
    yield from _native()
    yield from _packages()
    yield from _cache()


def _python() -> Iterator[Finding]:
    from recurc.runtime.threads import available_cores, thread_count

    yield Finding("machine", "python", None, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("machine", "recurc", None, _version("recurc") or "not installed")
    cores = f"{available_cores()} of {os.cpu_count()} cores usable; native kernels would use {thread_count()} threads"
    yield Finding("machine", "threads", None, cores)


def _backends() -> Iterator[Finding]:
    from recurc.runtime.choose import BACKENDS, backend

    for name in BACKENDS:
        reason = backend(name).unavailable()
        yield Finding("backends", name, reason is None, reason or _WHAT.get(name, ""))


_WHAT = {
    "reference": "float64, step by step: the definition",
    "numpy": "every schedule, interpreted with NumPy",
    "cpu": "native code from generated C",
    "triton": "generated Triton kernels",
    "cuda": "generated CUDA C++ through NVRTC",
}


def _native() -> Iterator[Finding]:
    from recurc.errors import BackendError
    from recurc.runtime.compiler import find_compiler

    try:
        compiler = find_compiler()
    except BackendError as why:
        yield Finding("native code", "compiler", False, str(why))
    else:
        yield Finding(
            "native code", "compiler", True, f"{' '.join(compiler.command)}: {compiler.version.splitlines()[0]}"
        )
        yield Finding("native code", "flags", None, " ".join(compiler.flags))
        width = f"{compiler.vector_bytes * 8}-bit vectors" + (" with fused multiply-add" if compiler.fma else "")
        yield Finding("native code", "SIMD", True, width)
        without = "kernels use one thread; on macOS: brew install libomp, or CC=gcc-14"
        yield Finding(
            "native code",
            "OpenMP",
            compiler.openmp,
            "batch and lanes are split over threads" if compiler.openmp else without,
        )
    yield _blas()


def _blas() -> Finding:
    import threadpoolctl

    import_module("numpy")  # loads the BLAS that is asked about
    infos: list[dict[str, Any]] = cast(Any, threadpoolctl).threadpool_info()
    found = [i for i in infos if i.get("user_api") == "blas"]
    names = [
        f"{i.get('internal_api')} {i.get('version') or ''}".strip() + f", {i.get('num_threads')} threads" for i in found
    ]
    return Finding(
        "native code", "BLAS", bool(found), "; ".join(names) or "NumPy's own loops: the plan interpreter is slower"
    )


_PACKAGES = {
    "torch": "torch tensors in and out: pip install 'recurc[torch]'",
    "triton": "the triton backend: pip install 'recurc[gpu]'",
    "cuda-bindings": "the cuda backend: pip install 'recurc[gpu]'",
    "nvidia-cuda-nvrtc": "the cuda backend: pip install 'recurc[gpu]'",
    "jax": "only `make bench` compares with it: pip install 'recurc[bench]'",
    "matplotlib": "pictures and plots: pip install 'recurc[plot]'",
    "pyarrow": "reading .parquet: pip install pyarrow",
    "ml_dtypes": "bf16 arrays in NumPy: pip install ml_dtypes",
}


def _packages() -> Iterator[Finding]:
    for name, purpose in _PACKAGES.items():
        version = _version(name)
        yield Finding("optional packages", name, version is not None, version or f"missing; for {purpose}")


def _cache() -> Iterator[Finding]:
    import warnings

    from recurc.runtime.cache import cache_directory

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        folder = cache_directory()
    if said:
        yield Finding("kernel cache", "directory", False, str(said[0].message))
    else:
        yield Finding("kernel cache", "directory", True, str(folder))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
