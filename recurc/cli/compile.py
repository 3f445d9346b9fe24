"""`recurc compile FILE --target T --out DIR`: kernels that run without recurc, a manifest, a self-test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recurc.cli import OK, say
from recurc.cli.options import (
    batch_option,
    dtype_option,
    file_argument,
    name_option,
    schedule_option,
    sizes_option,
    steps_option,
)

if TYPE_CHECKING:
    from recurc.ir import Recurrence

TARGETS = ("numpy", "cpu", "triton", "cuda")


@click.command("compile")
@file_argument
@name_option
@click.option("--target", type=click.Choice(TARGETS), required=True)
@sizes_option
@batch_option
@steps_option
@dtype_option
@click.option("--arch", metavar="ARCH", help="The GPU: sm_80, sm_90 (the default) or sm_100.")
@schedule_option
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A directory; made if missing."
)
def command(
    file: Path,
    name: str | None,
    target: str,
    sizes: dict[str, int],
    batch: int,
    steps: int,
    dtype: str | None,
    arch: str | None,
    schedule: str,
    out: Path,
) -> int:
    """Write kernels that run without recurc, with manifest.json, and test them where this machine can run them.
    Sizes of dims are fixed in the kernels; batch and steps stay free, -B and -T only guide the choice of schedule."""
    from recurc.cli.load import load

    if arch is not None and target not in ("triton", "cuda"):
        raise click.BadParameter(f"the target {target!r} is no GPU; it takes no architecture", param_hint="--arch")
    rec = load(file, name).ir
    manifest = export_kernels(rec, target, sizes, out, dtype or "f32", arch or "sm_90", schedule, batch, steps)
    test = manifest["self_test"]
    say(f"self-test: {test['status']}" + (f" ({test['detail']})" if test["detail"] else ""))
    for written in [*manifest["files"], "manifest.json"]:
        click.echo(out / str(written))
    return OK


def export_kernels(
    rec: Recurrence,
    target: str,
    sizes: dict[str, int],
    out: Path,
    dtype: str = "f32",
    arch: str = "sm_90",
    schedule: str = "auto",
    batch: int = 8,
    steps: int = 4096,
) -> dict[str, Any]:
    """Plan, write the kernels and `manifest.json` into `out`, self-test them; gives the manifest.

    Raises `ShapeError` for sizes that are missing, `UnsupportedError` for a limitation, `BackendError` if the self-test
    fails, `FileError` if `out` cannot be written."""
    from recurc import __version__, targets
    from recurc.arguments import check_renames, check_sizes, need_sizes, with_defaults
    from recurc.backends.base import Specialization
    from recurc.cli.files import writable_directory
    from recurc.passes import make_plan
    from recurc.runtime.choose import able_plan, backend
    from recurc.types import DType

    known = with_defaults(rec, check_sizes(rec, sizes))
    need_sizes(rec, known, "compiling", "--sizes {}")
    check_renames(rec, known)
    real = DType(dtype)
    machine = targets.named(arch if target in ("triton", "cuda") else "cpu")
    if target != "triton":  # whose modules need torch, which has transforms; other exported kernels link to no library
        machine = replace(machine, fft_flops=0.0)
    spec = Specialization(tuple(sorted(known.items())), real)
    plan, _, _ = able_plan(
        backend(target), spec, schedule,
        lambda without: make_plan(rec, known, batch, steps, real, machine, schedule, without=without),
    )  # fmt: skip
    writable_directory(out)
    there = _contents(out)
    described = _export(target, plan, spec, out, arch)
    manifest: dict[str, Any] = {
        "recurrence": rec.name,
        "made_by": f"recurc {__version__}",
        "target": target,
        "sizes": known,
        "dtype": dtype,
        "schedules": {", ".join(g.states): s for g, s in zip(plan.analysis.groups, plan.schedules, strict=True)},
        "reasons": [str(r) for r in plan.reasons],
    }
    manifest = {**manifest, **{k: v for k, v in described.items() if k not in manifest}}
    test = _self_test(target, out, described)
    written = [
        path for path, what in _contents(out).items() if there.get(path) != what and path.name != "manifest.json"
    ]
    manifest["files"] = {path.name: _digest(path) for path in written}
    manifest["self_test"] = test
    text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"
    (out / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def _contents(folder: Path) -> dict[Path, tuple[int, int]]:
    """The files of a folder, and what changes about one that is written anew."""
    found = {path: path.stat() for path in sorted(folder.iterdir()) if path.is_file()}
    return {path: (info.st_mtime_ns, info.st_ino) for path, info in found.items()}


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _export(target: str, plan: Any, spec: Any, out: Path, arch: str) -> dict[str, Any]:
    from recurc.cli.selftest import write_check, write_example
    from recurc.passes.complex_parts import split_complex
    from recurc.runtime.choose import backend
    from recurc.types import DType

    if target == "numpy":
        from recurc.backends.numpy_script import export

        write_example(plan, spec, out / "example.npz", DType.F64)
        return export(plan, spec, out)
    exporter: Any = backend(target)
    real = split_complex(plan, spec.real) if exporter.real_only else plan
    if target != "cpu":
        return dict(exporter.export(real, spec, out, arch))
    write_example(plan, spec, out / "example.npz", spec.real)
    described = dict(exporter.export(real, spec, out))
    write_check(out, Path(described["runner"]).stem)
    return described


def _self_test(target: str, out: Path, described: dict[str, Any]) -> dict[str, str]:
    """Run what was written, in a process that cannot see recurc, where this machine can."""
    from recurc.cli.selftest import build_program, run_program
    from recurc.runtime.choose import backend

    if target == "numpy":
        return run_program(out, described["self_test"])
    if target == "cpu":
        build_program(out)
        return run_program(out, ["check.py"])
    reason = backend(target).unavailable()
    return {"status": "not run", "detail": reason or "`make gpu` tests the same kernels on this machine"}
