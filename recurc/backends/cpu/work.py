"""How much arithmetic a plan is, to tell when a second thread would cost more than it brings."""

from __future__ import annotations

import math
from collections.abc import Callable

from recurc.backends.base import Specialization
from recurc.backends.emit.lanes import stage_exprs
from recurc.ir import Apply, Contract, Expr, Reduce, walk
from recurc.ops import OPS
from recurc.plan import Plan
from recurc.targets import WORTH_A_THREAD
from recurc.types import Dims


def step_flops(plan: Plan, spec: Specialization) -> int:
    """Floating-point operations of one step of one sequence, all stages together."""
    return sum(_flops(expr, spec) for stage in plan.stages for expr in stage_exprs(stage))


def useful_threads(flops_per_step: int, batch: int, steps: int, threads: Callable[[], int]) -> int:
    """As many as there is work for, and at most `threads()`, which a short call has no time to ask."""
    wanted = flops_per_step * batch * steps // WORTH_A_THREAD
    return 1 if wanted <= 1 else min(threads(), wanted)


def _flops(expr: Expr, spec: Specialization) -> int:
    total = 0
    for node in walk(expr):
        match node:
            case Apply(op=op, dims=dims):
                total += OPS[op].flops * _elements(dims, spec)
            case Reduce(arg=arg):
                total += _elements(arg.dims, spec)
            case Contract(left=left, right=right, left_axes=la, right_axes=ra):
                labels = dict(zip(la + ra, left.dims + right.dims, strict=True))
                total += 2 * _elements(tuple(labels.values()), spec)
            case _:
                pass
    return total


def _elements(dims: Dims, spec: Specialization) -> int:
    return math.prod(spec.size(d) for d in dims)
