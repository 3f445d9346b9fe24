"""Kernels against the reference on a small instance."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recurc.backends.base import Specialization
from recurc.errors import BackendError
from recurc.ir import Expr, Recurrence, reads
from recurc.plan import Plan
from recurc.types import Dims, DType, Kind

_BATCH, _STEPS = 2, 33
_PATIENCE_S = 300
# What rounding allows after 33 steps of contracting recurrences with inputs around 1: a few hundred units of the type.
_TOLERANCE = {DType.F64: 1e-12, DType.F32: 2e-4, DType.BF16: 8e-2, DType.F16: 1e-2}

Arrays = dict[str, Any]


def small_instance(rec: Recurrence, spec: Specialization) -> Arrays:
    """Inputs (2, 33, *dims) and params (1, *dims) in float64; the same at every call."""
    arrays = random_arrays(rec, dict(spec.sizes), _BATCH, _STEPS, DType.F64)
    return {n: a[None] if n in {p.name for p in rec.params} else a for n, a in arrays.items()}


def random_arrays(rec: Recurrence, sizes: Mapping[str, int], batch: int, steps: int, real: DType) -> Arrays:
    """Inputs (batch, steps, *dims) between -1 and 1, params (*dims) by initialisers or small; the same every time."""
    from recurc.initializers import initial_params

    rng = np.random.default_rng(0)
    fresh = initial_params(rec, rng, dict(sizes), {}) if all(p.init for p in rec.params) else {}

    def draw(lead: tuple[int, ...], dims: Dims, dtype: DType, scale: float) -> Any:
        shape = (*lead, *(int(d) if d.isdigit() else sizes[d] for d in dims))
        if dtype.kind is Kind.BOOL:
            return rng.random(shape) < 0.5
        if dtype.kind is Kind.INT:
            return rng.integers(0, 2, shape)
        return ((rng.random(shape) - 0.5) * scale).astype(dtype.settled(real).to_numpy())

    arrays: Arrays = {i.name: draw((batch, steps), i.dims, i.dtype, 2.0) for i in rec.inputs}
    for p in rec.params:
        width = max([int(d) if d.isdigit() else sizes[d] for d in p.dims], default=1)
        made = p.name in fresh
        value = (
            fresh[p.name].astype(p.dtype.settled(real).to_numpy()) if made else draw((), p.dims, p.dtype, 1.0 / width)
        )
        arrays[p.name] = np.asarray(value)
    return arrays


def expected(rec: Recurrence, spec: Specialization, arrays: Arrays) -> Arrays:
    """Outputs and final states by the reference."""
    from recurc.backends import reference

    return reference.run(rec, arrays, _BATCH, _STEPS, dict(spec.sizes))


def write_example(plan: Plan, spec: Specialization, path: Path, real: DType) -> None:
    """The small instance with what the reference makes of it, to check a program with that computes in `real`."""
    rec = plan.recurrence
    arrays = small_instance(rec, spec)
    wanted = expected(rec, spec, arrays)
    stored = {n: a[0] if n in {p.name for p in rec.params} else a for n, a in arrays.items()}
    known = [(s.name, s.initial, s.dims) for s in rec.states]
    known += [(i.name, i.before, i.dims) for i in rec.inputs if i.before is not None]
    starts = {f"{name}@initial": _initial(expr, dims, spec, arrays) for name, expr, dims in known}
    tolerance = {"tolerance": np.array(_TOLERANCE[real])}
    everything: Arrays = {**stored, **starts, **{f"expected {n}": a for n, a in wanted.items()}, **tolerance}
    np.savez(path, **everything)


def _initial(expr: Expr, dims: Dims, spec: Specialization, arrays: Arrays) -> Any:
    """What a state, or an input that is read one step back, is before the first step: (B, *dims)."""
    from recurc.backends.evaluator import Evaluator, Frame

    evaluate = Evaluator(Specialization(spec.sizes, DType.F64)).aligned(expr, dims, full=True)
    value = evaluate(Frame({(r.name, 0): arrays[r.name][:, np.newaxis] for r in reads(expr)}))[:, 0]
    return np.broadcast_to(value, (_BATCH, *value.shape[1:]))


def run_program(folder: Path, command: Sequence[str]) -> dict[str, str]:
    """Run a written program on its example, in a process of its own that cannot see recurc."""
    done = _run([sys.executable, "-I", "-B", *command], folder)
    if done.returncode != 0:
        raise BackendError(f"the self-test of {command[0]} failed: {(done.stdout + done.stderr).strip()[-2000:]}")
    return {"status": "passed", "detail": done.stdout.strip()}


CHECK = '''"""Compares the kernel with the stored results of recurc's reference: sh build.sh && python check.py"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from {module} import ARRAYS, run  # noqa: E402 - found through the line above

data = np.load(Path(__file__).with_name("example.npz"))
given = {{a["argument"]: data[a["name"]] for a in ARRAYS if a["role"] in ("input", "param", "initial")}}
if not any(a["role"] == "input" for a in ARRAYS):
    made = next(a["name"] for a in ARRAYS if a["role"] == "output")
    given["batch"], given["steps"] = data["expected " + made].shape[:2]
got, worst = run(**given), 0.0
for a in ARRAYS:
    if a["role"] in ("output", "final"):
        value, wanted = got[a["argument"]], data["expected " + a["name"]]
        value = value.astype(np.result_type(value.dtype, np.float64))
        same = (value == wanted) | (np.isnan(value) & np.isnan(wanted))
        error = np.where(same, 0.0, np.abs(value - wanted) / (1 + np.abs(wanted)))
        worst = float(np.max(error, initial=worst))
print(f"largest error {{worst:.2e}}")
sys.exit(not worst <= float(data["tolerance"]))
'''


def write_check(folder: Path, module: str) -> None:
    """`check.py`, beside a C kernel and its runner. `module` is the runner's name, an identifier."""
    (folder / "check.py").write_text(CHECK.format(module=module), encoding="utf-8")


def build_program(folder: Path) -> None:
    """Run the build script of exported C. Raises `BackendError` with the compiler's words."""
    done = _run(["sh", "build.sh"], folder)
    if done.returncode != 0:
        raise BackendError(f"building the exported C failed: {done.stderr.strip()[-2000:]}")


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as slow:
        raise BackendError(f"`{' '.join(command)}` in {folder} took longer than {_PATIENCE_S} s") from slow
