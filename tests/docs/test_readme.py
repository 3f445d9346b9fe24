"""What the README shows is what happens."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import recurc
from recurc.cli import invoke

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/language.md", "docs/python.md", "docs/benchmarks.md", "docs/errors/index.md", "CHANGELOG.md")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_readme_says() -> None:
    example, shown = re.findall(r"```(?:python|text)\n(.*?)```", README, re.DOTALL)[:2]
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=300, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown
    assert len(example.splitlines()) == 12


def commands() -> list[list[str]]:
    lines = re.findall(r"^    recurc (.*)$", README, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_every_command_of_the_readme_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the README, in a folder with the files it speaks of."""
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("day,price\n1,3.5\n2,4.5\n3,2.0\n", encoding="utf-8")
    np.save("alpha.npy", np.float32(0.5))
    assert {c[0] for c in commands()} >= {"zoo", "new", "check", "explain", "graph", "run", "compile", "doctor"}
    for command in commands():
        if command[0] == "compile" and find_spec("cuda") is None:
            continue
        assert invoke(command) == 0, f"{command}: {capsys.readouterr().err}"
    for file in ("my_lstm.rec", "lstm.svg", "smooth.npz", "smooth.png"):
        assert Path(file).stat().st_size > 0
    np.testing.assert_allclose(np.load("smooth.npz")["h"][:, 0], [1.75, 3.125, 2.5625])


def test_every_make_target_of_the_readme_exists() -> None:
    targets = re.findall(r"^([a-z0-9-]+):.*?##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"make ([a-z]+)(?=    |`)", README)
    assert {"demo", "test", "help"} <= set(named) <= set(targets)


def test_the_extras_and_the_versions_of_python_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(re.findall(r"'\.\[(\w+)\]'", README))
    assert extras == {"gpu", "torch", "plot"} <= set(project["optional-dependencies"])
    assert project["requires-python"] == ">=3.11,<3.15" and "Python 3.11 to 3.14" in README


def test_every_setting_of_the_code_is_on_the_page_and_the_other_way_round() -> None:
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "recurc").rglob("*.py"))
    of_the_code = set(re.findall(r"\bRECURC_[A-Z_]+\b", source))
    assert of_the_code == set(re.findall(r"\bRECURC_[A-Z_]+\b", README))
    for name in ("CC", "OMP_NUM_THREADS"):
        assert f'environ.get("{name}"' in source and f"`{name}`" in README


# What "What it does not do yet" says of schedules, as recurrences.
PARALLEL = {
    "elementwise affine": "state s[K] = 0\n    s = g * s[t-1] + k",
    "matrix memories that decay": "state s[K, V] = 0\n    s = g * s[t-1] + k * v",
    "linear maps": "state s[K] = 0\n    s = A @ s[t-1] + k",
    "semiring": "state s[K] = -inf\n    s = max(s[t-1] + g, k)",
    "stabilised-softmax": "state m = -inf, s = 0\n    m = max(m[t-1], b)\n"
    "    s = s[t-1] * exp(m[t-1] - m) + exp(b - m)",
}
IN_TURN = {
    "Several coupled states": "state s[K] = 0, r[K] = 0\n    s = A @ r[t-1] + k\n    r = A @ s[t-1]",
    "a nonlinear state": "state s[K] = 0\n    s = tanh(s[t-1] + k)",
}


@pytest.mark.parametrize("kind", [*PARALLEL, *IN_TURN])
def test_what_is_said_to_be_parallel_over_time_is(kind: str) -> None:
    assert kind in " ".join(README.split())
    body = PARALLEL.get(kind) or IN_TURN[kind]
    rec = recurc.load(
        text=f"recurrence R(K, V):\n    input  k[K], g[K], v[V], b\n    param  A[K, K]\n    {body}\n    output s\n"
    )
    assert {"scan" in group.schedules for group in rec.analyze().groups} == {kind in PARALLEL}


def test_delta_rules_go_in_chunks_where_no_step_needs_all_of_the_memory() -> None:
    assert "those of delta rules and of mLSTM too, may go in chunks of steps" in " ".join(README.split())
    update = "s = s[t-1] + b * k * (v - k @ s[t-1])"
    for output, chunkwise in (("o = g @ s", True), ("s", False)):
        text = f"recurrence R(K, V):\n    input  k[K], g[K], v[V], b\n    state s[K, V] = 0\n    {update}\n"
        (group,) = recurc.load(text=f"{text}    output {output}\n").analyze().groups
        assert ("chunkwise" in group.schedules) == chunkwise


def test_what_is_said_to_be_refused_is_a_limitation_of_the_language_page() -> None:
    refused = README.split("The whole language parses, but ")[1].split(" are refused")[0]
    table = (ROOT / "docs" / "language.md").read_text(encoding="utf-8").split("## Not supported yet")[1]
    forms = "\n".join(line for line in table.splitlines() if line.startswith("|"))
    words = re.findall(r"`(\w+)`", refused)
    assert words
    for word in words:
        assert re.search(rf"`[^`]*\b{word}\b", forms), f"{word} is not in the table of docs/language.md"


def test_forward_mode_derivatives_are_refused_in_words() -> None:
    assert "forward-mode" in README
    torch = pytest.importorskip("torch")
    x = torch.zeros(4, 3)
    with pytest.raises(recurc.UnsupportedError, match="forward-mode"):
        torch.func.jvp(lambda x: recurc.zoo.load("ema").compile()(x=x, alpha=0.5), (x,), (x,))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/files.md", *PAGES])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, place in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        if target.startswith("http"):
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), f"{page} points at {target}, which does not exist"
        if place:
            heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert place in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}, f"{target}#{place}"
