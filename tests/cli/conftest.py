"""Runs command lines in this process, and in one of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from recurc.cli import invoke

EMA = """recurrence EMA(D):
    input  x[D]
    param  alpha
    state  h[D] = 0

    h = (1 - alpha) * h[t-1] + alpha * x
    output h
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Invoke = Callable[..., Result]


@pytest.fixture
def recurc(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """`recurc("check", path)` runs `recurc check path`; gives the exit code, stdout and stderr."""

    def command(*arguments: object) -> Result:
        capsys.readouterr()
        code = invoke([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return command


@pytest.fixture
def ema(tmp_path: Path) -> Path:
    path = tmp_path / "ema.rec"
    path.write_text(EMA, encoding="utf-8")
    return path


def in_a_process(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Result:
    done = subprocess.run(
        [sys.executable, "-m", "recurc", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False, cwd=cwd, env=env,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)
