"""Finding the system's C compiler, asking what it can do, and building shared libraries with it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from recurc.errors import BackendError

_CANDIDATES = ("cc", "gcc", "clang")
_TIMEOUT_S = 120
_ANSWER_S = 20  # for a question that takes a compiler milliseconds
# What must be unrolled says so in the source; -O3 would take half as long again and find nothing more.
_FAST = (
    "-ftree-vectorize", "-fvect-cost-model=dynamic", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
    "-fno-semantic-interposition",
)  # fmt: skip


@dataclass(frozen=True)
class Compiler:
    """A C compiler and the flags it was found to understand."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    openmp: bool
    vector_bytes: int  # the widest SIMD registers of this machine
    fma: bool
    target: str  # what -march=native stands for here: part of a cached kernel's identity

    @property
    def identity(self) -> str:
        return "\n".join((*self.command, self.version, *self.flags, *self.libraries, self.target))


def find_compiler() -> Compiler:
    """The compiler named by `CC`, else the first of cc, gcc, clang on PATH. Raises `BackendError` if none works."""
    return _find(os.environ.get("CC", ""), os.environ.get("PATH", ""))


def why_no_compiler() -> str | None:
    """A sentence saying why nothing can be built here, or None."""
    try:
        find_compiler()
    except BackendError as error:
        return str(error)
    return None


@lru_cache(maxsize=8)
def _find(named: str, path: str) -> Compiler:
    try:
        command = shlex.split(named) if named.strip() else []
    except ValueError as wrong:
        raise BackendError(f"CC is no command line: `{named}` ({wrong}); set it to a C compiler such as gcc") from wrong
    if not command:
        found = next((p for p in (shutil.which(c, path=path) for c in _CANDIDATES) if p), None)
        if found is None:
            raise BackendError(
                "no C compiler: `CC` is not set and none of cc, gcc, clang is on PATH; install one "
                "or use backend='numpy'"
            )
        command = [found]
    elif shutil.which(command[0], path=path) is None:
        raise BackendError(f"the C compiler named by CC, `{named}`, does not exist or cannot be run")
    return _probe(tuple(command))


def _probe(command: tuple[str, ...]) -> Compiler:
    version = _run([*command, "--version"], _ANSWER_S)
    if version.returncode != 0:
        words = version.stderr.strip()[-1000:] or "it says nothing"
        raise BackendError(
            f"the C compiler does not work: `{shlex.join(command)} --version` failed ({version.returncode}): {words}; "
            "set CC to another one"
        )
    native: tuple[str, ...] = ()
    macros = ""
    for choice in (("-march=native",), ("-mcpu=native",), ()):
        asked = _run([*command, *choice, "-dM", "-E", "-x", "c", "-"])
        if asked.returncode == 0:
            native, macros = choice, asked.stdout
            break
    lines = sorted(line for line in macros.splitlines() if line.startswith("#define __"))
    defined = {line.split()[1] for line in lines}
    openmp = _links(command, ("-fopenmp",), "#include <omp.h>\nint rc_probe(void) { return omp_get_max_threads(); }\n")
    fast = _FAST if _takes(command, _FAST) else tuple(flag for flag in _FAST if _takes(command, (flag,)))
    flags = ("-O2", *native, *fast, "-std=gnu11", "-fPIC", "-shared", *(("-fopenmp",) if openmp else ()))
    width = 64 if "__AVX512F__" in defined else 32 if "__AVX__" in defined else 16
    # GCC defines OpenMP's and the CPU's macros only; they say what `native` means on this machine.
    target = "\n".join(line for line in lines if line.split()[-1] == "1" and line.split()[1].isupper())
    return Compiler(command, version.stdout.strip(), flags, ("-lm",), openmp, width, "__FMA__" in defined, target)


def _takes(command: tuple[str, ...], flags: tuple[str, ...]) -> bool:
    """Whether the compiler knows all of the flags."""
    return _run([*command, "-Werror", *flags, "-E", "-x", "c", "-"]).returncode == 0


def _links(command: tuple[str, ...], flags: tuple[str, ...], text: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="recurc-probe-") as folder:
        source = Path(folder) / "probe.c"
        source.write_text(text, encoding="utf-8")
        return (
            _run([*command, *flags, "-shared", "-fPIC", str(source), "-o", str(source.with_suffix(".so"))]).returncode
            == 0
        )


def build_shared(compiler: Compiler, source: Path, library: Path) -> None:
    """Compile one C file into a shared library. Raises `BackendError` with the compiler's words."""
    # A C++ compiler named by CC would take the file for C++, and change the names of its functions.
    command = [*compiler.command, *compiler.flags, "-x", "c", str(source), "-o", str(library), *compiler.libraries]
    done = _run(command)
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise BackendError(f"the C compiler failed ({done.returncode}): {shlex.join(command)}\n{words[-4000:]}")
    if not library.exists():
        raise BackendError(f"the C compiler said nothing but made no library: {shlex.join(command)}")


def _run(command: list[str], timeout: float = _TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input="",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise BackendError(f"the C compiler `{command[0]}` cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"the C compiler took longer than {timeout} s: {shlex.join(command)}") from error


def library_suffix() -> str:
    return ".dylib" if sys.platform == "darwin" else ".so"
