"""`recurc run`, `graph`, `compile`, `bench`: files in, files out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import recurc as package
from recurc.runtime.compiler import why_no_compiler
from tests.cli.conftest import Invoke, in_a_process


def reference(x: np.ndarray, alpha: float) -> np.ndarray:
    h, rows = np.zeros(x.shape[-1]), []
    for row in x:
        h = (1 - alpha) * h + alpha * row
        rows.append(h)
    return np.array(rows)


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> np.ndarray:
    """x (T=19, D=3) as .npy, .npz, .csv and .parquet, and alpha."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    x = rng.standard_normal((19, 3))
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(tmp_path / "p.npz", alpha=0.25)
    header = "a,b,c\n"
    rows = "".join(",".join(repr(float(v)) for v in row) + "\n" for row in x)
    (tmp_path / "x.csv").write_text(header + rows, encoding="utf-8")
    pq.write_table(pa.table({name: x[:, i] for i, name in enumerate("abc")}), tmp_path / "x.parquet")
    return x


@pytest.mark.parametrize("source", ["x=x.npy", "x=x.npz", "x=x.csv", "x=x.parquet", "x.npz"])
def test_every_file_format_gives_the_same_result(
    recurc: Invoke, tmp_path: Path, ema: Path, data: np.ndarray, source: str
) -> None:
    name, equals, file = source.rpartition("=")
    out = tmp_path / "out.npz"
    got = recurc(
        "run",
        ema,
        "--input",
        f"{name}{equals}{tmp_path / file}",
        "--params",
        tmp_path / "p.npz",
        "--backend",
        "numpy",
        "--out",
        out,
    )
    assert got.code == 0, got.err
    with np.load(out) as written:
        want = reference(data, 0.25)
        np.testing.assert_allclose(written["h"], want, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(written["h@final"], want[-1], rtol=1e-12, atol=1e-14)
    assert got.out.startswith("h  (19, 3)")


def test_columns_of_a_table_are_picked_by_name(recurc: Invoke, tmp_path: Path, ema: Path, data: np.ndarray) -> None:
    out = tmp_path / "out.npz"
    spec = f"x={tmp_path / 'x.csv'}:c,a"
    assert (
        recurc("run", ema, "--input", spec, "--params", tmp_path / "p.npz", "--backend", "reference", "--out", out).code
        == 0
    )
    with np.load(out) as written:
        np.testing.assert_allclose(written["h"], reference(data[:, [2, 0]], 0.25), rtol=1e-12)


def test_params_come_from_the_initialisers_when_asked(recurc: Invoke, tmp_path: Path, data: np.ndarray) -> None:
    arguments = ["run", "zoo:lstm", "--input", f"x={tmp_path / 'x.npy'}", "--backend", "numpy"]
    refused = recurc(*arguments)
    assert refused.code == 1 and "--init-seed" in refused.err and "W, U, b" in refused.err
    unknown = recurc(*arguments, "--init-seed", 0)
    assert unknown.code == 1 and "size of H" in unknown.err
    first = recurc(*arguments, "--init-seed", 0, "--sizes", "H=5")
    assert first.code == 0 and first.out == recurc(*arguments, "--init-seed", 0, "--sizes", "H=5").out
    assert first.out != recurc(*arguments, "--init-seed", 1, "--sizes", "H=5").out


def test_long_work_in_pieces_is_the_whole(
    recurc: Invoke, tmp_path: Path, ema: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rng.standard_normal((2, 101, 3))
    np.save(tmp_path / "long.npy", x)
    np.savez(tmp_path / "p.npz", alpha=0.3)

    def output(name: str) -> np.ndarray:
        out = tmp_path / name
        spec = f"x={tmp_path / 'long.npy'}"
        got = recurc("run", ema, "--input", spec, "--params", tmp_path / "p.npz", "--backend", "numpy", "--out", out)
        assert got.code == 0, got.err
        with np.load(out) as written:
            return np.concatenate([written["h"].ravel(), written["h@final"].ravel()])

    whole = output("whole.npz")
    command = import_module("recurc.cli.run")
    monkeypatch.setattr(command, "_CHUNK", 7)
    monkeypatch.setattr(command, "_LONG", 1)
    np.testing.assert_allclose(output("pieces.npz"), whole, rtol=1e-12, atol=1e-14)


REMEMBERS = {
    "the last state": "h = 0.5 * h[t-1] + x\n    output h, y = x + h[T]",
    "the step and earlier inputs": "h = 0.5 * h[t-2] + x[t-1] + (if t % 5 == 0 then 1 else 0)\n    output h",
    "a clock and a window": "every 3:\n        h = 0.5 * h[t-1] + sum(window(x, 4), 4)\n    output h",
}


@pytest.mark.parametrize("what", REMEMBERS)
def test_long_work_in_pieces_is_the_whole_for_what_remembers_more_than_a_state(
    recurc: Invoke, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    rec = tmp_path / "r.rec"
    rec.write_text(
        f"recurrence R(D):\n    input  x[D] = 0\n    state  h[D] = 0\n    {REMEMBERS[what]}\n", encoding="utf-8"
    )
    np.save(tmp_path / "x.npy", rng.standard_normal((101, 3)))

    def outputs(name: str) -> dict[str, np.ndarray]:
        out = tmp_path / name
        got = recurc("run", rec, "--input", f"x={tmp_path / 'x.npy'}", "--backend", "numpy", "--out", out)
        assert got.code == 0, got.err
        with np.load(out) as written:
            return {key: written[key] for key in written}

    whole = outputs("whole.npz")
    command = import_module("recurc.cli.run")
    monkeypatch.setattr(command, "_CHUNK", 7)
    monkeypatch.setattr(command, "_LONG", 1)
    pieces = outputs("pieces.npz")
    assert list(pieces) == list(whole)
    for key, value in whole.items():
        np.testing.assert_allclose(pieces[key], value, rtol=1e-12, atol=1e-14, err_msg=key)


COUNT = "recurrence C:\n    input  k: int\n    state  n: int = 0\n    n = n[t-1] + k\n    output n\n"
TURN = "recurrence Turn:\n    input  z: complex\n    state  s: complex = 0\n    s = 1j * s[t-1] + z\n    output s\n"


def test_whole_numbers_of_any_type_are_counted_and_others_refused(recurc: Invoke, tmp_path: Path) -> None:
    rec, data, out = tmp_path / "c.rec", tmp_path / "k.npy", tmp_path / "out.npz"
    rec.write_text(COUNT, encoding="utf-8")
    arguments = ("run", rec, "--input", f"k={data}", "--backend", "numpy", "--out", out)
    np.save(data, np.array([1.0, 2.0, -4.0]))
    assert recurc(*arguments).code == 0
    np.testing.assert_array_equal(np.load(out)["n"], [1, 3, -1])
    for wrong in (0.5, np.nan, np.inf, 1e30):
        np.save(data, np.array([1.0, wrong]))
        got = recurc(*arguments)
        assert got.code == 1 and "should hold integers" in got.err, f"{wrong}: {got.err}"


def test_complex_inputs_come_from_arrays_and_a_table_says_what_it_lacks(recurc: Invoke, tmp_path: Path) -> None:
    rec, out = tmp_path / "t.rec", tmp_path / "out.npz"
    rec.write_text(TURN, encoding="utf-8")
    np.savez(tmp_path / "z.npz", z=np.array([1j, 2.0]))
    np.save(tmp_path / "z.npy", np.array([3, 2]))
    (tmp_path / "z.csv").write_text("z\n1+2j\n", encoding="utf-8")
    for file, want in (("z.npz", [1j, 1.0]), ("z.npy", [3, 2 + 3j])):
        got = recurc("run", rec, "--input", f"z={tmp_path / file}", "--backend", "numpy", "--out", out)
        assert got.code == 0, got.err
        np.testing.assert_allclose(np.load(out)["s"], want)
    got = recurc("run", rec, "--input", f"z={tmp_path / 'z.csv'}:z")
    assert got.code == 1 and "'1+2j' is a complex number" in got.err and ".npz" in got.err


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("x={}/nope.npy", "does not exist"),
        ("y={}/x.npy", "nothing named 'y'"),
        ("x={}/x.csv:z", "no column 'z'"),
        ("x={}/words.csv", "is not a number"),
        ("x={}/ragged.csv", "cells"),
        ("x={}/empty.csv", "is empty"),
        ("x={}/fake.npy", "not a NumPy array"),
        ("x={}/fake.npz", "not an .npz"),
        ("x={}/huge.npy", "more numbers than memory"),
        ("alpha={}/x.npy", "'alpha' is given twice"),
        ("x={}/fake.parquet", "not a Parquet"),
        ("x={}/x.txt", "is not one of"),
        ("{}/x.npy", "NAME=FILE"),
        ("x={}", "is a directory"),
    ],
)
def test_data_that_cannot_be_used_is_named(
    recurc: Invoke, tmp_path: Path, ema: Path, data: np.ndarray, spec: str, words: str
) -> None:
    for name in ("fake.npy", "fake.npz", "fake.parquet", "x.txt"):
        (tmp_path / name).write_text("not what it says", encoding="utf-8")
    with (tmp_path / "huge.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6, 3)}
        np.lib.format.write_array_header_1_0(file, header)
    (tmp_path / "words.csv").write_text("a\n1\nhello\n", encoding="utf-8")
    (tmp_path / "ragged.csv").write_text("1,2\n3\n", encoding="utf-8")
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    got = recurc("run", ema, "--input", spec.format(tmp_path), "--params", tmp_path / "p.npz")
    assert got.code == 1, got.err
    assert words in got.err and "Traceback" not in got.err


def test_pickles_are_never_loaded(recurc: Invoke, tmp_path: Path, ema: Path, data: np.ndarray) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    got = recurc("run", ema, "--input", f"x={tmp_path / 'objects.npy'}", "--params", tmp_path / "p.npz")
    assert got.code == 1 and "objects.npy" in got.err


@pytest.mark.parametrize("place", ["{}/file/out.npz", "{}"])
def test_an_output_that_cannot_be_written_is_named(
    recurc: Invoke, tmp_path: Path, ema: Path, data: np.ndarray, place: str
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    out = place.format(tmp_path)
    spec = f"x={tmp_path / 'x.npy'}"
    got = recurc("run", ema, "--input", spec, "--params", tmp_path / "p.npz", "--backend", "numpy", "--out", out)
    assert got.code == 1 and out in got.err and "Traceback" not in got.err
    for arguments in (
        ["graph", ema, "--out", f"{tmp_path}/file/g.dot"],
        ["compile", ema, "--target", "numpy", "--sizes", "D=2", "--out", f"{tmp_path}/file"],
    ):
        refused = recurc(*arguments)
        assert refused.code == 1 and str(tmp_path / "file") in refused.err


@pytest.mark.parametrize("suffix", [".svg", ".png", ".dot"])
@pytest.mark.parametrize("system", ["lstm", "selective_scan"])
def test_graphs_are_drawn(recurc: Invoke, tmp_path: Path, system: str, suffix: str) -> None:
    out = tmp_path / f"g{suffix}"
    got = recurc("graph", f"zoo:{system}", "--out", out, "--sizes", "D=8")
    assert got.code == 0, got.err
    head = {".svg": b"<?xml", ".png": b"\x89PNG", ".dot": b"digraph"}[suffix]
    assert out.read_bytes().startswith(head)


def test_a_graph_in_no_known_format_is_a_usage_error(recurc: Invoke, tmp_path: Path, ema: Path) -> None:
    got = recurc("graph", ema, "--out", tmp_path / "g.gif")
    assert got.code == 2 and ".svg" in got.err


def test_a_plot_is_drawn(recurc: Invoke, tmp_path: Path, ema: Path, data: np.ndarray) -> None:
    out = tmp_path / "plot.png"
    spec = f"x={tmp_path / 'x.npy'}"
    got = recurc("run", ema, "--input", spec, "--params", tmp_path / "p.npz", "--backend", "numpy", "--plot", out)
    assert got.code == 0, got.err
    assert out.read_bytes().startswith(b"\x89PNG")


def _spoiled(example: Path) -> None:
    """The stored results, each off by one."""
    with np.load(example) as stored:
        wrong = {k: stored[k] + (1.0 if k.startswith("expected") else 0.0) for k in stored}
    np.savez(example, **wrong)


@pytest.mark.parametrize("target", ["numpy", "cpu"])
@pytest.mark.parametrize("system", ["ema", "lstm", "gru", "selective_scan", "aaren"])
def test_what_compile_writes_runs_without_recurc_and_agrees(
    recurc: Invoke, tmp_path: Path, system: str, target: str
) -> None:
    if target == "cpu" and why_no_compiler():
        pytest.skip(why_no_compiler())
    sizes = "D=3,H=5" if system in ("lstm", "gru") else "D=3"
    folder = tmp_path / "k"
    got = recurc("compile", f"zoo:{system}", "--target", target, "--sizes", sizes, "--out", folder)
    assert got.code == 0, got.err
    assert "self-test: passed" in got.err
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["target"] == target and manifest["self_test"]["status"] == "passed"
    for program in folder.glob("*.py"):
        text = program.read_text(encoding="utf-8")
        assert "import recurc" not in text and "from recurc" not in text
    check = ["check.py"] if target == "cpu" else [next(folder.glob("*.py")).name, "example.npz"]
    command = [sys.executable, "-I", *check]
    assert subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=120).returncode == 0
    alone = [sys.executable, "-I", folder / check[0]]  # without a word, from anywhere
    assert subprocess.run(alone, cwd=tmp_path, capture_output=True, check=False, timeout=120).returncode == 0
    _spoiled(folder / "example.npz")
    wrong = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=120)
    assert wrong.returncode != 0, "the self-test does not notice wrong results"


@pytest.mark.parametrize("target", ["triton", "cuda"])
def test_gpu_kernels_are_written_where_there_is_no_gpu(recurc: Invoke, tmp_path: Path, target: str) -> None:
    pytest.importorskip("triton" if target == "triton" else "cuda.bindings")
    folder = tmp_path / "k"
    got = recurc("compile", "zoo:ema", "--target", target, "--sizes", "D=32", "--arch", "sm_80", "--out", folder)
    assert got.code == 0, got.err
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["schedules"] == {"h": "scan"} and manifest["self_test"]["detail"]
    assert {p.name for p in folder.iterdir()} == {*manifest["files"], "manifest.json"}
    for program in folder.glob("*.py"):
        assert "import recurc" not in program.read_text(encoding="utf-8")


def test_what_was_in_the_folder_before_is_not_what_compile_wrote(recurc: Invoke, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    for _ in range(2):  # the second time, all files are there already
        got = recurc("compile", "zoo:ema", "--target", "numpy", "--sizes", "D=3", "--out", tmp_path)
        assert {Path(line).name for line in got.out.splitlines()} == {"ema.py", "example.npz", "manifest.json"}
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["files"]) == {"ema.py", "example.npz"}


def _python(folder: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr.strip().rpartition("\n")[2]


def test_the_numpy_program_takes_numbers_and_empty_batches(recurc: Invoke, tmp_path: Path) -> None:
    recurc("compile", "zoo:ema", "--target", "numpy", "--sizes", "D=3", "--out", tmp_path)
    code = "import numpy as np\nfrom ema import ema\nfor B, T in (2, 1), (0, 3), (2, 0):\n    "
    code += "out = ema(np.ones((B, T, 3)), 0.5)\n    print(out['h'].shape, out['h@final'].shape)"
    assert _python(tmp_path, code).splitlines() == ["(2, 1, 3) (2, 3)", "(0, 3, 3) (0, 3)", "(2, 0, 3) (2, 3)"]


def test_the_numpy_program_goes_through_time_twice_for_final_states(recurc: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "last.rec"
    path.write_text(
        "recurrence Last(D):\n    input  x[D] = 0, a\n    state  S[D] = 0, n = 1\n    S = 0.5 * S[t-1] + x\n"
        "    n = n[t-1] + a\n    share = S[t-1] / (1 + S[T] ** 2)\n"
        "    output y = share + x[t-1] * n[T], z = share * a, n, end = n[T]\n",
        encoding="utf-8",
    )
    got = recurc("compile", path, "--target", "numpy", "--sizes", "D=3", "--out", tmp_path)
    assert got.code == 0 and "self-test: passed" in got.err, got.err
    code = "import numpy as np\nfrom last import last\nout = last(np.ones((1, 2, 3)), np.ones((1, 2)))\n"
    code += "print(np.allclose(out['y'][0, 1], 1 / (1 + 1.5**2) + 3), out['end'][0], out['n@final'])"
    assert _python(tmp_path, code).strip() == "True [3. 3.] [3.]"


@pytest.mark.skipif(why_no_compiler() is not None, reason="no C compiler here")
def test_the_runner_of_c_names_what_is_missing_or_unknown(recurc: Invoke, tmp_path: Path) -> None:
    recurc("compile", "zoo:ema", "--target", "cpu", "--sizes", "D=3", "--out", tmp_path)
    call = "from ema import run; run(x=[[[1.0, 2.0, 3.0]]], h_initial=[[0, 0, 0]], "
    assert "alpha (param) is missing; run() takes x, alpha, h_initial" in _python(tmp_path, call + ")")
    assert "there is no beta; run() takes x, alpha" in _python(tmp_path, call + "alpha=0.5, beta=1)")
    assert "[[[0.5 1." in _python(tmp_path, call.replace("; run(", "; print(run(") + "alpha=0.5)['h'])")


def test_an_architecture_is_for_gpus(recurc: Invoke, tmp_path: Path) -> None:
    got = recurc("compile", "zoo:ema", "--target", "cpu", "--sizes", "D=3", "--arch", "sm_90", "--out", tmp_path / "k")
    assert got.code == 2 and "'cpu' is no GPU" in got.err


def test_bf16_results_are_written_so_that_numpy_reads_them(
    recurc: Invoke, tmp_path: Path, ema: Path, data: np.ndarray
) -> None:
    out = tmp_path / "out.npz"
    spec = f"x={tmp_path / 'x.npy'}"
    given = ["run", ema, "--input", spec, "--params", tmp_path / "p.npz", "--backend", "numpy"]
    got = recurc(*given, "--dtype", "bf16", "--out", out)
    assert got.code == 0 and "bfloat16  min" in got.out and "(bf16 as f32)" in got.err
    with np.load(out) as stored:
        assert {stored[k].dtype for k in stored} == {np.dtype(np.float32)}


def test_a_negative_seed_is_a_usage_error(recurc: Invoke, ema: Path) -> None:
    assert recurc("run", ema, "--init-seed", "-1").code == 2


def test_a_detour_is_a_note_without_a_line_of_ours(
    recurc: Invoke, tmp_path: Path, ema: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    got = recurc("run", ema, "--input", f"x={tmp_path / 'x.npy'}", "--params", tmp_path / "p.npz")
    assert got.code == 0 and got.err.startswith("note: recurc runs on the `numpy` backend instead of `cpu`")
    assert ".py" not in got.err


def test_compile_wants_every_size(recurc: Invoke, tmp_path: Path) -> None:
    got = recurc("compile", "zoo:lstm", "--target", "numpy", "--sizes", "D=3", "--out", tmp_path / "k")
    assert got.code == 1 and "H" in got.err


def test_bench_prints_a_row_for_each(recurc: Invoke, ema: Path) -> None:
    got = recurc("bench", ema, "--sizes", "D=4", "-B", 2, "-T", 16, "--seconds", 0.01)
    assert got.code == 0, got.err
    for words in ("reference", "numpy", "sequential", "scan", "torch eager"):
        assert words in got.out


def test_the_module_runs_as_a_program_and_checks_fast(tmp_path: Path, ema: Path) -> None:
    import time

    times = []
    for _ in range(3):
        start = time.perf_counter()
        got = in_a_process("check", ema)
        times.append(time.perf_counter() - start)
        assert got.code == 0, got.err
    assert min(times) < 1.5, f"`recurc check` took {min(times):.2f} s at best; it imports something heavy"


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    for arguments, reader in (("zoo lstm", "head -1"), ("explain zoo:ema", "true"), ("--help", "true")):
        command = f"{sys.executable} -m recurc {arguments} | {reader}"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120, check=False
        )
        assert "Traceback" not in done.stderr and done.returncode == 0, (command, done)
        assert done.stdout.startswith("#" if "head" in reader else "")


def test_tables_have_a_line_for_each_row_in_a_pipe_and_whole_words_on_a_narrow_terminal() -> None:
    plain = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    piped = in_a_process("zoo", env=plain).out.splitlines()
    assert len(piped) == len(package.zoo.names()) + 1
    assert all(line == line.rstrip() for line in piped)
    narrow = in_a_process("zoo", env={**plain, "COLUMNS": "1"}).out
    assert "selective_scan " in narrow


def test_a_terminal_of_few_letters_shows_the_others_by_number() -> None:
    few = {**os.environ, "PYTHONIOENCODING": "latin1", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "recurc", "explain", "zoo:ema"]
    done = subprocess.run(command, capture_output=True, encoding="latin1", timeout=120, check=False, env=few)
    assert done.returncode == 0, done.stderr
    assert "a\\u2082" in done.stdout  # a with a small 2 below


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(recurc: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    got = recurc("new", "a", "--out", folder / "a.rec")
    assert got.code == 1 and str(folder) in got.err
