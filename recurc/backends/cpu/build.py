"""From a plan to a loaded kernel, through the cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from recurc.backends.base import Specialization
from recurc.backends.cpu.kernel import CpuKernel
from recurc.backends.cpu.limits import limitations
from recurc.backends.cpu.module import print_module
from recurc.backends.emit.names import safe_name
from recurc.errors import BackendError, UnsupportedError
from recurc.plan import Plan
from recurc.runtime.cache import cached_file, content_key
from recurc.runtime.compiler import Compiler, build_shared, find_compiler, library_suffix


def build(plan: Plan, spec: Specialization) -> CpuKernel:
    problems = limitations(plan, spec)
    if problems:
        raise UnsupportedError("the cpu backend cannot run this plan: " + "; ".join(problems))
    compiler = find_compiler()
    module = print_module(plan, spec, compiler.vector_bytes)
    file = f"{safe_name(plan.recurrence.name).lower()}.c"
    key = content_key(module.text, compiler.identity)
    make = partial(_make, compiler, module.text)
    suffix = library_suffix()
    library = cached_file(key, suffix, make)
    try:
        return CpuKernel(plan, spec, module, library, file)
    except (OSError, AttributeError):  # cut short by a crash, of another machine, or another library: built once more
        library.unlink(missing_ok=True)
    library = cached_file(key, suffix, make)
    try:
        return CpuKernel(plan, spec, module, library, file)
    except (OSError, AttributeError) as error:
        raise BackendError(f"the built kernel {library} cannot be loaded: {error}") from error


def _make(compiler: Compiler, text: str, library: Path) -> None:
    source = library.with_suffix(".c")
    source.write_text(text, encoding="utf-8")
    build_shared(compiler, source, library)
