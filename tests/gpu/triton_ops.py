"""Every operator of the op table with a Triton spelling, as a one-equation plan, against its NumPy meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from recurc.backends.base import Specialization
from recurc.backends.triton import TritonBackend
from recurc.build import reduce
from recurc.facts import Analysis
from recurc.ir import Equation, Expr, Input, Read, Recurrence
from recurc.ops import OPS, Gives, Takes, apply, cast, number, select
from recurc.plan import Buffer, Map, Plan, Role
from recurc.types import DimDecl, DType, Kind

_HARD = [-1e30, -750.0, -100.0, -45.5, -20.0, -3.0, -1.0, -0.75, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.5, 1.0, 1.5, 2.5, 3.0]
_HARD += [20.0, 45.5, 100.0, 750.0, 1e30]
_DOMAIN = {"log": (0.0, np.inf), "sqrt": (0.0, np.inf), "rsqrt": (1e-30, np.inf), "log1p": (-0.999, np.inf)}
_LIMITS = {"sin": 1e3, "cos": 1e3, "exp": 1e30, "pow": 10.0, "mod": 1e3, "floordiv": 1e3, "expm1": 1e30}
_BINARY = ("pow", "mod", "floordiv", "atan2", "logaddexp", "max", "min")


def plan_of(expr: Expr, reads: tuple[Read, ...]) -> Plan:
    """`y = expr` for all t."""
    recurrence = Recurrence(
        "Op",
        (DimDecl("D"),),
        tuple(Input(r.name, r.dims, r.dtype) for r in reads),
        (), (), (Equation("y", expr),), ("y",),
    )  # fmt: skip
    buffers = (
        *(Buffer(r.name, r.dims, r.dtype, Role.INPUT) for r in reads),
        Buffer("y", expr.dims, expr.dtype, Role.OUTPUT),
    )
    return Plan(recurrence, Analysis(()), buffers, (Map((Equation("y", expr),), ("y",)),), ())


def evaluate(expr: Expr, reads: tuple[Read, ...], values: list[np.ndarray], real: DType, size: int) -> np.ndarray:
    """`expr` by a generated kernel; values are (1, T, D)."""
    import torch

    kernel = TritonBackend().build(plan_of(expr, reads), Specialization((("D", size),), real))
    kinds: dict[DType, Any] = {DType.F32: torch.float32, DType.F64: torch.float64, DType.I64: torch.int64}
    types = kinds | {DType.BOOL: torch.bool, DType.REAL: kinds[real], DType.I32: torch.int32}
    arrays = {
        r.name: torch.from_numpy(np.ascontiguousarray(v)).to(types[r.dtype]) for r, v in zip(reads, values, strict=True)
    }
    steps = values[0].shape[1]
    arrays["y"] = torch.zeros((1, steps, *([size] if expr.dims else [])), dtype=types[expr.dtype])
    kernel(arrays, 1, steps)
    return arrays["y"].double().numpy() if expr.dtype.kind is not Kind.BOOL else arrays["y"].numpy().astype(float)


def op_errors(seed: int) -> Iterator[tuple[str, float, float]]:
    """(name, error, bound) for every operator, in f32 and f64, on ordinary and on extreme operands."""
    rng = np.random.default_rng(seed)
    for real in (DType.F32, DType.F64):
        stored = np.float32 if real is DType.F32 else np.float64
        bound = 6e-7 if real is DType.F32 else 2e-14
        for name, op in OPS.items():
            if op.triton is None or name in ("cast", "select") or op.takes is Takes.BOOL:
                continue
            low, high = _DOMAIN.get(name, (-np.inf, np.inf))
            values = [np.concatenate([_HARD, rng.standard_normal(18) * 3]) for _ in range(op.arity)]
            if op.arity == 2:
                values[1] = rng.permutation(values[1])
                values[1][:6] = values[0][:6]
            limit = _LIMITS.get(name, np.inf)
            values = [np.clip(np.clip(v, low, high), -limit, limit).astype(stored)[None, :-1, None] for v in values]
            if name in ("mod", "floordiv", "div"):
                values[1] = np.where(values[1] == 0, stored(1.0), values[1])
            if name == "pow":
                values[0] = np.abs(values[0]) + stored(0.1)
            reads = tuple(Read(f"x{i}", 0, ("D",), DType.REAL) for i in range(op.arity))
            got = evaluate(apply(name, *reads), reads, values, real, 1)
            with np.errstate(all="ignore"):
                want = np.asarray(op.numpy(*(v.astype(np.float64) for v in values)), dtype=np.float64)
                want = want.astype(stored).astype(np.float64) if op.gives is not Gives.BOOL else want
            # logaddexp is a sum of two terms that may cancel: its error is a share of the larger one
            terms = np.maximum(values[0], values[1]).astype(np.float64) if name == "logaddexp" else 0.0
            yield f"{name} {real.value}", _error(got, want, float(np.finfo(stored).tiny), terms), bound
    yield from _other_errors(rng)


def _other_errors(rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """Reductions with padding, integers, truth values, casts, constants."""
    x = Read("x", 0, ("D",), DType.REAL)
    values = -np.abs(rng.standard_normal((1, 5, 6))) - 1.0
    for name in ("sum", "prod", "max", "min", "argmax", "argmin"):
        got = evaluate(reduce(name, x), (x,), [values], DType.F64, 6)
        yield f"reduce {name}", _error(got, getattr(np, name)(values, axis=-1).astype(float), 0.0), 1e-14
    positive = apply("gt", x, number(-1.5))
    for name in ("any", "all"):
        got = evaluate(reduce(name, positive), (x,), [values], DType.F64, 6)
        yield f"reduce {name}", _error(got, getattr(np, name)(values > -1.5, axis=-1).astype(float), 0.0), 0.0
    i, j = Read("i", 0, ("D",), DType.I64), Read("j", 0, ("D",), DType.I64)
    whole = [rng.integers(-20, 20, (1, 5, 6)), rng.integers(1, 7, (1, 5, 6)) * rng.choice([-1, 1], (1, 5, 6))]
    for name in ("mod", "floordiv", "max", "add", "mul"):
        got = evaluate(apply(name, i, j), (i, j), whole, DType.F32, 6)
        yield f"{name} i64", _error(got, OPS[name].numpy(*whole).astype(float), 0.0), 0.0
    chosen = select(apply("not", positive), number(2.0), cast(x, DType.I64))
    got = evaluate(chosen, (x,), [values], DType.F64, 6)
    yield "select, not and cast", _error(got, np.where(values > -1.5, np.trunc(values), 2.0), 0.0), 0.0
    halves = cast(x, DType.BF16)
    got = evaluate(cast(halves, DType.REAL), (x,), [values], DType.F32, 6)
    bits = (
        values.astype(np.float32).view(np.uint32) + 0x7FFF + ((values.astype(np.float32).view(np.uint32) >> 16) & 1)
    ) & 0xFFFF0000
    yield "cast to bf16 rounds", _error(got, bits.astype(np.uint32).view(np.float32).astype(float), 0.0), 0.0


def _error(got: np.ndarray, want: np.ndarray, tiny: float, terms: np.ndarray | float = 0.0) -> float:
    """The largest error relative to the value, or to the `terms` it is a sum of if those are larger; infinities and
    NaN must stand where they should. Below `tiny` only size counts."""
    got, want, terms = np.broadcast_arrays(np.squeeze(got), np.squeeze(want), np.squeeze(terms))
    if not (np.isnan(got) == np.isnan(want)).all() or not (got[np.isinf(want)] == want[np.isinf(want)]).all():
        return float("inf")
    kept = np.isfinite(want)
    if not np.isfinite(got[kept]).all():
        return float("inf")
    scale = np.maximum(np.maximum(np.abs(want[kept]), np.abs(terms[kept])), max(tiny, 1e-300))
    small = np.abs(want[kept]) <= tiny
    errors = np.where(small & (np.abs(got[kept]) <= 2 * tiny), 0.0, np.abs(got[kept] - want[kept]) / scale)
    return float(errors.max(initial=0.0))
