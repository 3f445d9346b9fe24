"""Hoisted products by a BLAS: the projections before a loop, of all sequences and steps, as one GEMM each.

The kernel has code of its own for them, and the caller may also hand it the result. Which of the two is faster depends
on the machine's BLAS, the threads and the shape, so the first call of a kind measures both and the answer is kept with
the built kernels. The BLAS is torch's where torch is loaded (it then has the threads torch was given), else NumPy's.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recurc.backends.base import Specialization
from recurc.ir import Contract, Read
from recurc.plan import Matmul, Plan, Role
from recurc.runtime.cache import cached_file, content_key
from recurc.runtime.memory import empty
from recurc.runtime.threads import team_is_lost

SWITCH = "RECURC_BLAS"  # 1: always, 0: never, anything else: as measured
_WORTH_A_GEMM = 4_000_000  # operations below which calling a BLAS costs more than it can bring
_PROBE_FLOPS, _PROBE_STEPS = 500_000_000, 512  # enough to see what many steps cost, without waiting for it
_TURNS = 5
_MARGIN = 0.9  # a BLAS must be faster by more than a busy machine can feign


@dataclass(frozen=True)
class Product:
    """`target[t] = data[t] @ weight.T` for all t. `rows` and `summed` count what `data` has per step, `columns` what
    `weight` adds; `order` brings the axes of `weight` into (columns, summed)."""

    target: str
    data: str
    weight: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    rows: int
    columns: int
    summed: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.columns * self.summed


def hoisted_products(plan: Plan, spec: Specialization) -> tuple[Product, ...]:
    """The products of a plan between an input and a param whose result never leaves the plan. None if only some of
    its products before a loop are of that kind."""
    found = [_product(stage, plan, spec) for stage in plan.stages if isinstance(stage, Matmul) and _early(stage, plan)]
    products = [p for p in found if p is not None]
    return tuple(products) if len(products) == len(found) else ()


def _early(stage: Matmul, plan: Plan) -> bool:
    """Whether the product needs nothing that the plan computes, and is for the plan alone."""
    operands = (stage.expr.left, stage.expr.right)
    given = all(isinstance(o, Read) and plan.buffer(o.name).role in (Role.INPUT, Role.PARAM) for o in operands)
    return given and plan.buffer(stage.target).role is Role.SEQUENCE


def _product(stage: Matmul, plan: Plan, spec: Specialization) -> Product | None:
    expr = stage.expr
    left, right = (expr.left, expr.left_axes), (expr.right, expr.right_axes)
    for (data, a), (weight, b) in ((left, right), (right, left)):
        if isinstance(data, Read) and isinstance(weight, Read) and plan.buffer(data.name).has_time:
            names = (stage.target, data.name, weight.name)
            if any(plan.buffer(n).spacing != 1 for n in names):
                return None
            if any(spec.dtype(plan.buffer(n).dtype).accumulator is not spec.real.accumulator for n in names):
                return None
            return _as_gemm(stage.target, expr, data, weight, a, b, spec)
    return None


def _as_gemm(
    target: str, expr: Contract, data: Read, weight: Read, a: tuple[int, ...], b: tuple[int, ...], spec: Specialization
) -> Product | None:
    """The contraction as rows times columns, or None if its axes do not fall into these two groups in order."""
    summed = tuple(i for i in a if i not in expr.out_axes)
    rows, columns = tuple(i for i in a if i not in summed), tuple(i for i in expr.out_axes if i not in a)
    if a != rows + summed or expr.out_axes != rows + columns or set(b) != {*columns, *summed}:
        return None
    if len(set(a)) < len(a) or len(set(b)) < len(b) or not summed:
        return None
    size = {i: spec.size(d) for i, d in zip((*a, *b), (*data.dims, *weight.dims), strict=True)}

    def count(labels: tuple[int, ...]) -> int:
        return math.prod(size[i] for i in labels)

    order = tuple(b.index(i) for i in (*columns, *summed))
    shape = tuple(size[i] for i in b)
    return Product(target, data.name, weight.name, shape, order, count(rows), count(columns), count(summed))


# --- running ----------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where the result of a product is, as the kernel wants to know it: address and strides in elements."""

    address: int
    batch: int
    time: int
    owner: NDArray[Any]  # keeps the memory


def multiply(
    product: Product,
    dtype: np.dtype[Any],
    data: tuple[int, int, int],
    weight: int,
    batch: int,
    steps: int,
) -> Place:
    """One GEMM over all sequences and steps. `data`: address and strides (batch, time) in elements; `weight`: its
    address. Data may lie time first, run backwards, or be one sequence for the whole batch."""
    address, batch_stride, time_stride = data
    size, p = dtype.itemsize, product
    backwards = time_stride < 0
    if backwards:  # a BLAS walks forwards only
        address, time_stride = address + (steps - 1) * time_stride * size, -time_stride
    sequences = 1 if batch_stride == 0 else batch
    x = _view(address, (sequences, steps, p.rows * p.summed), (batch_stride, time_stride, 1), dtype)
    time_first = sequences > 1 and batch_stride < time_stride
    rows = (x.swapaxes(0, 1) if time_first else x).reshape(sequences * steps * p.rows, p.summed)
    w = _view(weight, p.shape, None, dtype).transpose(p.order).reshape(p.columns, p.summed)
    out = empty((rows.shape[0], p.columns), dtype)
    _gemm(np.ascontiguousarray(rows) if rows.strides[0] < p.summed * size else rows, w, out)
    step = p.rows * p.columns
    over_batch, over_time = (step, sequences * step) if time_first else (steps * step, step)
    start = out.__array_interface__["data"][0]
    if backwards:
        start, over_time = start + (steps - 1) * over_time * size, -over_time
    return Place(start, 0 if sequences == 1 else over_batch, over_time, out)


def _gemm(rows: NDArray[Any], weight: NDArray[Any], out: NDArray[Any]) -> None:
    """`out = rows @ weight.T`."""
    torch = _torch()
    if torch is None:
        np.matmul(rows, weight.T, out=out)
        return
    with torch.no_grad():
        torch.mm(torch.from_numpy(rows), torch.from_numpy(weight).T, out=torch.from_numpy(out))


def _torch() -> Any:
    """torch, unless it is absent, still being imported, or left without its threads by a fork."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "mm") and not team_is_lost() else None


class _Memory:
    """Memory at an address, in the form NumPy takes."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def _view(address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(
        _Memory(
            {
                "data": (address, False),
                "shape": shape,
                "strides": None if strides is None else tuple(s * dtype.itemsize for s in strides),
                "typestr": dtype.str,
                "version": 3,
            }
        )
    )


# --- choosing ---------------------------------------------------------------------------------------------------


def worth_asking(products: Sequence[Product], batch: int, steps: int) -> bool:
    """Whether the products are large enough for a BLAS to be a question at all."""
    return bool(products) and batch * steps * sum(p.flops for p in products) >= _WORTH_A_GEMM


def probe_steps(products: Sequence[Product], batch: int, steps: int) -> int:
    """How many steps a measurement runs."""
    affordable = _PROBE_FLOPS // max(1, batch * sum(p.flops for p in products))
    return min(steps, _PROBE_STEPS, max(8, affordable))


def kind_of_call(batch: int, steps: int, threads: int) -> str:
    """What one measurement of `steps` answers for: calls of about this size, with these threads and this BLAS."""
    return f"{batch}x{steps.bit_length()} {threads} {'numpy' if _torch() is None else 'torch'}"


def ordered() -> bool | None:
    """What the environment says, if it does."""
    return {"0": False, "1": True}.get(os.environ.get(SWITCH, ""))


def faster(kernel: str, kind: str, tiles: Callable[[], None], blas: Callable[[], None]) -> bool:
    """Whether `blas` beats `tiles`; measured once per kernel, kind of call and machine."""

    def measure(path: Path) -> None:
        times: tuple[list[float], list[float]] = ([], [])
        for _turn in range(_TURNS):
            for run, found in zip((tiles, blas), times, strict=True):
                run()  # untimed: what the other left behind (threads that still spin) is not this one's cost
                start = time.perf_counter()
                run()
                found.append(time.perf_counter() - start)
        path.write_text("blas" if min(times[1]) < _MARGIN * min(times[0]) else "tiles", encoding="ascii")

    return cached_file(content_key(kernel, kind), ".choice", measure).read_text(encoding="ascii") == "blas"
