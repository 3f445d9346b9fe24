"""The arrows of docs/architecture.md, read off the import statements: who may know whom, and what stays lazy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "recurc"
FILES = sorted(PACKAGE.rglob("*.py"))
PYTHON = sorted(p for folder in ("recurc", "bench", "tests", "examples") for p in (ROOT / folder).rglob("*.py"))


@dataclass(frozen=True)
class Import:
    module: str  # absolute, `recurc.ops` or `torch.nn`
    line: int
    lazy: bool  # inside a function, so it runs when the function does
    typing_only: bool


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(_imports(ast.parse(path.read_text(encoding="utf-8")), path, lazy=False, typing_only=False))


def _imports(node: ast.AST, path: Path, lazy: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(a.name, child.lineno, lazy, typing_only) for a in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                here = _dotted(path).split(".")
                up = here if path.name == "__init__.py" else here[:-1]
                base = ".".join(up[: len(up) - child.level + 1] + ([base] if base else []))
            yield from (Import(f"{base}.{a.name}", child.lineno, lazy, typing_only) for a in child.names)
        else:
            guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, path, lazy or inside, typing_only or guarded)


def _under(module: str, *roots: str) -> bool:
    return any(module == root or module.startswith(root + ".") for root in roots)


def _offences(path: Path, forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{i.line} imports {i.module}"
        for i in imports(path)
        if not i.typing_only and _under(i.module, *forbidden) and not _under(i.module, *allowed)
    ]


def _files(where: str) -> list[Path]:
    """The files of a module or package, `recurc.ir` or `recurc.passes`."""
    return [p for p in FILES if _under(_dotted(p), where)]


CORE = tuple(
    f"recurc.{m}"
    for m in (
        "types",
        "source",
        "errors",
        "ir",
        "ops",
        "build",
        "windows",
        "filtering",
        "discretize",
        "calculus",
        "differentiate",
        "facts",
        "plan",
        "irtext",
    )
)
BACKENDS = ("reference", "plan_numpy", "cpu", "triton", "cuda")
SHARED = tuple(f"recurc.backends.{m}" for m in ("base", "chunk_numpy", "convolve", "emit", "evaluator", "storage"))


def _assert_none(offences: list[str]) -> None:
    assert not offences, "\n" + "\n".join(offences)


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_nothing_of_ours_but_itself(module: str) -> None:
    assert _files(module), f"{module} is gone: update the list here and docs/architecture.md"
    _assert_none([o for p in _files(module) for o in _offences(p, ("recurc",), CORE)])


def test_the_ir_knows_no_analysis_plan_or_text() -> None:
    lower = ("recurc.types", "recurc.source", "recurc.errors", "recurc.ir", "recurc.ops", "recurc.build")
    _assert_none([o for m in lower for p in _files(m) for o in _offences(p, ("recurc",), lower)])


def test_the_front_end_knows_no_pass_and_no_backend() -> None:
    forbidden = ("recurc.passes", "recurc.backends", "recurc.api", "recurc.runtime", "recurc.cli")
    _assert_none([o for p in _files("recurc.frontend") for o in _offences(p, forbidden)])


def test_passes_know_no_backend_and_no_front_end() -> None:
    forbidden = ("recurc.backends", "recurc.frontend", "recurc.api", "recurc.runtime", "recurc.cli")
    _assert_none([o for p in _files("recurc.passes") for o in _offences(p, forbidden)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_knows_no_other_backend_no_front_end_and_no_pass(backend: str) -> None:
    own = f"recurc.backends.{backend}"
    forbidden = ("recurc.backends", "recurc.frontend", "recurc.passes", "recurc.api", "recurc.cli")
    _assert_none([o for p in _files(own) for o in _offences(p, forbidden, (own, *SHARED))])


def test_what_backends_share_knows_no_backend() -> None:
    forbidden = ("recurc.backends", "recurc.frontend", "recurc.passes", "recurc.api", "recurc.cli")
    _assert_none([o for m in SHARED for p in _files(m) for o in _offences(p, forbidden, SHARED)])


def test_the_reference_knows_only_the_ir_and_the_form_of_a_backend() -> None:
    language = tuple(f"recurc.{m}" for m in ("types", "source", "errors", "ir", "ops", "linalg"))
    allowed = (*language, "recurc.plan", "recurc.backends.base", "recurc.backends.storage")
    _assert_none([o for p in _files("recurc.backends.reference") for o in _offences(p, ("recurc",), allowed)])


# --- what is heavy stays lazy ------------------------------------------------------------------------------------

HEAVY = {
    "torch": (
        "recurc.runtime",
        "recurc.api",
        "recurc.module",
        "recurc.torch_function",
        "recurc.backends.triton",
        "recurc.backends.cuda",
        "recurc.frontend.trace",
        "recurc.cli",
    ),
    "triton": ("recurc.runtime", "recurc.backends.triton", "recurc.cli"),
    "cuda": ("recurc.runtime", "recurc.backends.cuda", "recurc.cli"),
    "jax": (),
    "sympy": ("recurc.passes",),
    "matplotlib": ("recurc.picture", "recurc.cli"),
    "graphviz": ("recurc.picture", "recurc.cli"),
    "pandas": ("recurc.cli", "recurc.runtime"),
}

LAZY = ("recurc.module",)


@pytest.mark.parametrize("package", HEAVY)
def test_a_heavy_package_is_imported_only_where_it_belongs_and_only_when_used(package: str) -> None:
    for path in FILES:
        for found in imports(path):
            if found.module in LAZY:
                assert found.lazy or found.typing_only, f"{path} imports {found.module} at import time"
            if found.typing_only or not _under(found.module, package):
                continue
            place = f"{path.relative_to(ROOT)}:{found.line}"
            assert _under(_dotted(path), *HEAVY[package]), f"{place} has no business with {package}"
            whole = _dotted(path) in LAZY  # imported itself by the function that needs it
            assert found.lazy or whole, (
                f"{place} imports {package} at import time; move it into the function that needs it"
            )


LOADED = """
import sys, time
start = time.perf_counter()
import recurc
seconds = time.perf_counter() - start
heavy = ("torch", "triton", "jax", "sympy", "networkx", "matplotlib", "rich", "lark", "pandas", "cuda")
print(seconds, *(name for name in heavy if name in sys.modules))
"""


def _in_fresh_python(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.split()


def test_importing_recurc_loads_nothing_heavy() -> None:
    _, *loaded = _in_fresh_python(LOADED)
    assert not loaded, f"`import recurc` loaded {', '.join(loaded)}"


def test_checking_a_file_loads_no_pass() -> None:
    """The passes bring networkx along and meanings NumPy; each takes longer to import than a file takes to check."""
    code = "import sys; from recurc.cli import invoke; assert invoke(['check', 'zoo:lstm']) == 0; "
    loaded = _in_fresh_python(code + "print(*sys.modules)")
    assert "recurc.frontend" in loaded and not {"recurc.passes", "networkx", "numpy", "sympy"} & set(loaded)


def test_a_loaded_recurrence_is_ready_to_be_analysed() -> None:
    code = "import sys, recurc; recurc.zoo.load('lstm'); print(*(n for n in ('networkx', 'sympy') if n in sys.modules))"
    assert _in_fresh_python(code) == ["networkx"]


def test_importing_recurc_is_quick() -> None:
    """The promise is 0.15 s with NumPy counted (docs/benchmarks.md); a busy machine gets room, a blunder does not."""
    best = min(float(_in_fresh_python(LOADED)[0]) for _ in range(3))
    assert best < 0.6, f"`import recurc` took {best:.2f} s"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_imports_itself_in_a_circle(path: Path) -> None:
    """No cycle that only resolves when something else was imported first."""
    module = _dotted(path)
    found = _graph_reaches(module)
    assert module not in found, f"{module} imports itself at import time: {' -> '.join(found[module])}"


@cache
def _eager() -> dict[str, tuple[str, ...]]:
    """Module -> modules of ours it imports at import time."""
    known = {_dotted(p): p for p in FILES}

    def target(module: str) -> str | None:
        while module and module not in known:
            module = module.rpartition(".")[0]
        return module or None

    return {
        name: tuple(
            sorted(
                {t for i in imports(p) if not i.lazy and not i.typing_only and (t := target(i.module)) and t != name}
            )
        )
        for name, p in known.items()
    }


def _graph_reaches(start: str) -> dict[str, list[str]]:
    """Every module that importing `start` imports, with the path to it; `start` itself only if there is a cycle.

    A package's `__init__` gathers its parts, which is no cycle, so edges to a package that contains the module
    are left out."""
    graph = _eager()
    paths: dict[str, list[str]] = {}
    stack = [(start, [start])]
    while stack:
        module, path = stack.pop()
        for after in graph.get(module, ()):
            if module.startswith(after + "."):
                continue
            if after not in paths:
                paths[after] = [*path, after]
                stack.append((after, paths[after]))
    return paths


# --- what must not be there at all -------------------------------------------------------------------------------

CALLS = {"eval", "exec", "compile", "__import__"}
MODULES = ("pickle", "marshal", "shelve", "dill", "cloudpickle")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_text_is_ever_run_and_nothing_foreign_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        place = f"{path.relative_to(ROOT)}:{node.lineno}"
        if isinstance(node.func, ast.Name):
            assert node.func.id not in CALLS, f"{place} calls {node.func.id}"
        for keyword in node.keywords:
            shell = keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            )
            assert not shell, f"{place} goes through a shell"
            unpickles = keyword.arg == "allow_pickle" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            )
            assert not unpickles, f"{place} may unpickle a stranger's file"
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func) != "platform.system":
            assert node.func.attr not in ("system", "popen", "sympify", "parse_expr"), f"{place} calls {node.func.attr}"
    _assert_none(_offences(path, MODULES))


def test_nothing_catches_everything_to_carry_on() -> None:
    offences = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and (node.type is None or "Exception'" in ast.dump(node.type)):
                raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                last_resort = path.is_relative_to(PACKAGE / "cli") and "bug" in path.read_text(encoding="utf-8").lower()
                if not raises and not last_resort:
                    caught = "everything" if node.type is None else "Exception"
                    offences.append(f"{path.relative_to(ROOT)}:{node.lineno} catches {caught}")
    _assert_none(offences)


def test_files_stay_short() -> None:
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in PYTHON}
    _assert_none([f"{p.relative_to(ROOT)} has {n} lines; split it at 600" for p, n in lengths.items() if n > 600])


def test_no_work_is_left_as_a_note() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    offences = [
        f"{p.relative_to(ROOT)}:{n}"
        for p in PYTHON
        if p != Path(__file__).resolve()
        for n, line in enumerate(p.read_text(encoding="utf-8").splitlines(), 1)
        if words.search(line)
    ]
    _assert_none(offences)
