"""What the CPU backend cannot do."""

from __future__ import annotations

from recurc.backends.base import Specialization
from recurc.backends.cpu.chunk import chunk_problems
from recurc.backends.emit.lanes import stage_exprs
from recurc.ir import Apply, walk
from recurc.ops import OPS
from recurc.plan import NO_TRANSFORM, Chunk, Convolution, JointChunk, Plan
from recurc.types import Kind


def limitations(plan: Plan, spec: Specialization) -> list[str]:
    out: list[str] = []
    for buffer in plan.buffers:
        if buffer.dtype.kind is Kind.COMPLEX:
            out.append(f"`{buffer.name}` is complex: C code has complex numbers by their parts only")
    for stage in plan.stages:
        if isinstance(stage, Convolution):
            out.append(NO_TRANSFORM)
        if isinstance(stage, Chunk | JointChunk):
            out += chunk_problems(stage, spec)
        for expr in stage_exprs(stage):
            for node in walk(expr):
                if isinstance(node, Apply) and OPS[node.op].c is None:
                    out.append(f"the operator `{node.op}` has no C form yet")
                elif node.dtype.kind is Kind.COMPLEX:
                    out.append("C code has complex numbers by their parts only")
    return list(dict.fromkeys(out))
