"""Building and caching: broken machines give a person something to act on, and nothing foreign is ever loaded."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import recurc
from recurc import targets
from recurc.backends.base import Specialization
from recurc.backends.cpu import BACKEND
from recurc.backends.cpu.module import print_module
from recurc.errors import BackendError
from recurc.passes import make_plan
from recurc.runtime import cache, compiler
from recurc.runtime.threads import thread_count
from recurc.types import DType
from tests.conftest import Goldens
from tests.systems import plans, random_arrays

NATIVE = pytest.mark.skipif(BACKEND.unavailable() is not None, reason="no C compiler here")
PLAN = plans()["ema", "sequential"]
SPEC = Specialization((("D", 5),), DType.F64)
GOLDEN_SIZES = {
    "ema": {"D": 512}, "lstm": {"D": 256, "H": 256}, "gru": {"D": 64, "H": 60}, "selective_scan": {"D": 512, "N": 16},
    "aaren": {"D": 64},
}  # fmt: skip


def runs(rng: np.random.Generator) -> None:
    """Build the EMA and check one call."""
    arrays = random_arrays("ema", rng, 1, 3)
    out, final = np.empty((1, 3, 5)), np.empty((1, 5))
    BACKEND.build(PLAN, SPEC)({**arrays, "h": out, "h@final": final}, 1, 3)
    h, alpha = arrays["h@initial"][0], arrays["alpha"][0]
    for t in range(3):
        h = (1 - alpha) * h + alpha * arrays["x"][0, t]
    room = 3 * 4 * np.finfo(np.float64).eps * max(np.abs(a).max() for a in arrays.values())  # 3 steps, 4 roundings each
    np.testing.assert_allclose(final[0], h, rtol=0, atol=room)
    np.testing.assert_allclose(out[0, -1], h, rtol=0, atol=room)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path / "kernels"
    monkeypatch.setenv("RECURC_CACHE_DIR", str(folder))
    return folder


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_no_compiler_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"no C compiler.*backend='numpy'"):
        compiler.find_compiler()
    assert "no C compiler" in (BACKEND.unavailable() or "")


def test_a_compiler_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler-anywhere")
    with pytest.raises(BackendError, match="no-such-compiler-anywhere"):
        compiler.find_compiler()


def test_a_compiler_that_says_nothing_or_rubbish_or_hangs_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text, words in (
        ("silent", "exit 3", r"silent --version` failed \(3\): it says nothing; set CC"),
        ("binary", r"printf '\\377\\376' >&2; exit 1", r"binary --version` failed \(1\)"),
        ("hanging", "exec sleep 60", r"took longer than 0.2 s: .*hanging --version"),
    ):
        monkeypatch.setattr(compiler, "_ANSWER_S", 0.2 if name == "hanging" else 20)
        monkeypatch.setenv("CC", script(tmp_path / name, text))
        with pytest.raises(BackendError, match=words):
            compiler.find_compiler()
    monkeypatch.setenv("CC", "gcc 'unclosed")
    with pytest.raises(BackendError, match="CC is no command line"):
        compiler.find_compiler()


@NATIVE
def test_a_failing_build_gives_the_compilers_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: Path
) -> None:
    text = (
        'for a in "$@"; do case "$a" in *.so) echo "fatal: the disk is on fire" >&2; exit 3;; esac; done; exec cc "$@"'
    )
    monkeypatch.setenv("CC", script(tmp_path / "brokencc", text))
    with pytest.raises(BackendError, match="the disk is on fire"):
        BACKEND.build(PLAN, SPEC)
    assert not list(fresh.glob("*.so"))


@NATIVE
def test_a_compiler_without_openmp_still_builds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: Path, rng: np.random.Generator
) -> None:
    text = 'for a in "$@"; do if [ "$a" = -fopenmp ]; then echo "no such option" >&2; exit 1; fi; done; exec cc "$@"'
    monkeypatch.setenv("CC", script(tmp_path / "plaincc", text))
    assert not compiler.find_compiler().openmp
    runs(rng)
    lstm = Specialization((("D", 3), ("H", 7)), DType.F32)
    BACKEND.build(plans()["lstm", "sequential"], lstm)


@NATIVE
def test_the_cache_is_private_and_used_again(fresh: Path, rng: np.random.Generator) -> None:
    runs(rng)
    assert fresh.stat().st_mode & 0o777 == 0o700
    (library,) = fresh.glob("*.so")
    before = library.stat().st_mtime_ns
    runs(rng)
    assert library.stat().st_mtime_ns == before


@NATIVE
@pytest.mark.parametrize("damage", ["truncated", "foreign", "link"])
def test_a_damaged_entry_is_built_again(damage: str, fresh: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    compiler_found = compiler.find_compiler()
    text = print_module(PLAN, SPEC, compiler_found.vector_bytes).text
    key = cache.content_key(text, compiler_found.identity)
    fresh.mkdir(mode=0o700)
    library = fresh / f"{key}.so"
    if damage == "truncated":
        library.write_bytes(b"\x7fELF and nothing more")
        (fresh / f"{key}.sha256").write_text("0" * 64)
    elif damage == "foreign":
        library.write_bytes(b"no digest stands next to this")
    else:
        other = tmp_path / "elsewhere.so"
        other.write_bytes(b"not a library")
        library.symlink_to(other)
    runs(rng)
    assert not library.is_symlink()
    assert library.read_bytes()[:4] == b"\x7fELF" or sys.platform == "darwin"


@NATIVE
@pytest.mark.parametrize("content", [b"\x7fELF cut short", b"for another machine"])
def test_an_entry_that_cannot_be_loaded_is_built_again(content: bytes, fresh: Path, rng: np.random.Generator) -> None:
    found = compiler.find_compiler()
    key = cache.content_key(print_module(PLAN, SPEC, found.vector_bytes).text, found.identity)
    fresh.mkdir(mode=0o700)
    (fresh / f"{key}.so").write_bytes(content)
    (fresh / f"{key}.sha256").write_text(hashlib.sha256(content).hexdigest())
    runs(rng)
    assert (fresh / f"{key}.so").read_bytes() != content


@NATIVE
@pytest.mark.parametrize("suffix", [".so", ".lock"])
def test_a_folder_in_the_way_is_named(suffix: str, fresh: Path) -> None:
    found = compiler.find_compiler()
    key = cache.content_key(print_module(PLAN, SPEC, found.vector_bytes).text, found.identity)
    (fresh / f"{key}{suffix}").mkdir(parents=True)
    with pytest.raises(BackendError, match=r"cannot be written.*remove what is in the way"):
        BACKEND.build(PLAN, SPEC)


@NATIVE
def test_a_cache_folder_of_nobody_is_announced_and_replaced(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setenv("RECURC_CACHE_DIR", "~no-such-user-anywhere/kernels")
    with pytest.warns(RuntimeWarning, match=r"no-such-user-anywhere.* cannot be used"):
        runs(rng)


@NATIVE
def test_an_unusable_cache_is_announced_and_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rng: np.random.Generator
) -> None:
    blocker = tmp_path / "a-file"
    blocker.write_text("in the way")
    monkeypatch.setenv("RECURC_CACHE_DIR", str(blocker / "kernels"))
    with pytest.warns(RuntimeWarning, match=r"kernel cache .* cannot be used"):
        runs(rng)


@NATIVE
def test_two_processes_build_the_same_kernel_at_once(fresh: Path) -> None:
    code = "import sys, numpy as np\nfrom tests.unit.test_cpu_build import runs\nruns(np.random.default_rng(7))"
    root = Path(__file__).parents[2]
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(k)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
        for k in (1, 2)
    ]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    assert len(list(fresh.glob("*.so"))) == 1
    assert not list(fresh.glob("build-*"))


@NATIVE
def test_another_library_in_the_place_of_a_kernel_is_built_again(fresh: Path, rng: np.random.Generator) -> None:
    runs(rng)
    (library,) = fresh.glob("*.so")
    other = fresh / "other.c"
    other.write_text("int other(void) { return 1; }\n", encoding="utf-8")
    found = compiler.find_compiler()
    library.unlink()  # loaded libraries keep their file
    subprocess.run([*found.command, "-shared", "-fPIC", str(other), "-o", str(library)], check=True, timeout=60)
    library.with_suffix(".sha256").write_text(hashlib.sha256(library.read_bytes()).hexdigest(), encoding="ascii")
    runs(rng)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
def test_a_compiler_for_cpp_is_told_that_it_gets_c(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setenv("CC", "g++")
    runs(rng)


def test_threads_follow_the_environment_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert thread_count() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "rubbish")
    assert thread_count() >= 1


@NATIVE
@pytest.mark.parametrize("name", ["lstm", "aaren"])
def test_exported_kernels_run_without_recurc(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    sizes = {"lstm": {"D": 3, "H": 7}, "aaren": {"D": 5}}[name]
    spec = Specialization(tuple(sorted(sizes.items())), DType.F32)
    plan = plans()[name, "sequential"]
    manifest = BACKEND.export(plan, spec, tmp_path)
    assert {a["name"] for a in manifest["arrays"]} >= {b.name for b in plan.buffers if b.role.value == "input"}
    subprocess.run(["sh", "build.sh"], cwd=tmp_path, check=True, timeout=120)
    arrays = {n: a.astype(np.float32) for n, a in random_arrays(name, rng, 2, 6, sizes).items()}
    np.savez(tmp_path / "in.npz", **{n.replace("@", "_"): a for n, a in arrays.items()})
    stem = manifest["runner"].removesuffix(".py")
    code = (
        "import sys, numpy as np\nsys.modules['recurc'] = None\n"
        f"from {stem} import run\nnp.savez('out.npz', **run(**dict(np.load('in.npz'))))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    alone = dict(np.load(tmp_path / "out.npz"))
    here = {}
    for b in plan.buffers:
        if b.role.value in ("output", "final"):
            lead = (2, 6) if b.has_time else (2,)
            here[b.name] = np.empty((*lead, *(spec.size(d) for d in b.dims)), np.float32)
    BACKEND.build(plan, spec)({**arrays, **here}, 2, 6)
    for n, a in here.items():
        np.testing.assert_allclose(alone[n.replace("@", "_")], a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", list(plans()), ids="-".join)
def test_generated_c_is_the_golden_text(key: tuple[str, str], goldens: Goldens) -> None:
    """The same plan gives the same file, for a machine with 64-byte vectors."""
    spec = Specialization(tuple(sorted(GOLDEN_SIZES[key[0]].items())), DType.F32)
    goldens.check(f"cpu/{key[0]}_{key[1]}.c", print_module(plans()[key], spec, 64).text)


def test_neither_a_file_name_nor_a_comment_gets_out_of_the_comments_of_generated_code(tmp_path: Path) -> None:
    path = tmp_path / 'a\n#include "b"\n.rec'
    path.write_text("# last \\\n\nrecurrence R(D):\n    input x[D]\n    output y = 2 * x\n", encoding="utf-8")
    rec = recurc.load(path)
    plan = make_plan(rec.ir, {"D": 3}, 1, 8, DType.F32, targets.cpu(1, 32), "auto")
    lines = print_module(plan, Specialization((("D", 3),), DType.F32), 32).text.splitlines()
    before = lines[: lines.index("#include <math.h>")]
    assert all(not line or (line.startswith("//") and not line.endswith("\\")) for line in before), before


@pytest.mark.parametrize("key", list(plans()), ids="-".join)
def test_generated_c_has_nothing_a_strict_compiler_warns_of(key: tuple[str, str], tmp_path: Path) -> None:
    found = compiler.find_compiler()
    spec = Specialization(tuple(sorted(GOLDEN_SIZES[key[0]].items())), DType.F32)
    source = tmp_path / "kernel.c"
    source.write_text(print_module(plans()[key], spec, found.vector_bytes).text, encoding="utf-8")
    warnings = [
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Wshadow",
        "-Wundef",
        "-Wno-unused-function",
    ]  # helpers come in sets
    flags = [flag for flag in found.flags if flag != "-shared"]  # nothing is linked
    command = [*found.command, *flags, *warnings, "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
