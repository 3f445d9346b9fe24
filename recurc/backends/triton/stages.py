"""From the stages of a plan to the steps of a function that runs them: launches, and tensors to make before them."""

from __future__ import annotations

from dataclasses import replace

from recurc.backends.triton.chunk_lines import chunk_problems
from recurc.backends.triton.chunk_vectors import emit_joint, matrix_of
from recurc.backends.triton.convolution import emit_convolution
from recurc.backends.triton.coupled import emit_chunk
from recurc.backends.triton.frozen import emit_frozen
from recurc.backends.triton.fused import emit_fused
from recurc.backends.triton.kernel import Options, Scratch, StageText, Step, stored
from recurc.backends.triton.loop import emit_loop
from recurc.backends.triton.maps import emit_map
from recurc.backends.triton.matmul import emit_matmul
from recurc.backends.triton.matrix_scan import emit_matrix_scan
from recurc.backends.triton.newton import emit_newton
from recurc.backends.triton.recurrent import emit_recurrent
from recurc.backends.triton.recurrent_layout import recurrent_weights
from recurc.backends.triton.scan import emit_scan
from recurc.backends.triton.scope import plain
from recurc.backends.triton.values import Context
from recurc.errors import UnsupportedError
from recurc.ir import Equation
from recurc.plan import Chunk, Convolution, Frozen, Fused, JointChunk, Loop, Map, Matmul, Newton, Role, Scan, Stage
from recurc.types import Kind

MADE_HERE = (Role.ONCE, Role.SEQUENCE)  # buffers that no caller gives
_IN_REGISTERS = 4096  # elements of recurrent weights a program can keep in registers


def emit_stages(context: Context, name: str, options: Options) -> StageText:
    """The stages of a plan in order. `name` begins the names of their kernels."""
    steps: list[Step] = []
    for number, stage in enumerate(context.plan.stages):
        kernel = context.scope(("kernel", name, number), f"{name}_{type(stage).__name__.lower()}_{number}")
        steps += [f"# {plain(_headline(stage))}", *_made(context, stage), *_emit(context, stage, kernel, options)]
    return tuple(steps)


def _emit(context: Context, stage: Stage, name: str, options: Options) -> tuple[Step, ...]:
    match stage:
        case Map():
            return emit_map(context, stage, name)
        case Matmul(target=target, expr=expr) if expr.dtype.kind is Kind.INT:  # tensor cores do not count so far
            return emit_map(context, Map((Equation(target, expr),), (target,)), name)
        case Matmul():
            return emit_matmul(context, stage, name, options)
        case Loop():
            weights = recurrent_weights(context, stage)
            if options.recurrent == "dot" or (options.recurrent == "auto" and weights > _IN_REGISTERS):
                try:
                    return emit_recurrent(context, stage, name, options)
                except UnsupportedError:
                    if options.recurrent == "dot" or weights > 4 * _IN_REGISTERS:
                        raise
            return emit_loop(context, stage, name, options)
        case Scan(monoid=monoid) if monoid.multiplies:
            return emit_matrix_scan(context, stage, name, options)
        case Scan():
            return emit_scan(context, stage, name, options)
        case Newton():
            return emit_newton(context, stage, name, lambda inner, kernel: emit_stages(inner, kernel, options))
        case Convolution():
            return emit_convolution(context, stage, name, lambda inner, kernel: emit_stages(inner, kernel, options))
        case Chunk():
            problems = chunk_problems(stage, context)
            if problems:
                raise UnsupportedError("the Triton backend does not do: " + "; ".join(problems))
            return emit_chunk(context, stage, name, options)
        case Frozen():
            # What is held is f32 also where arrays are stored in half precision, and then still on tensor cores
            half = context.spec.real is not context.spec.real.accumulator
            inside = replace(options, dot_precision=options.chunk_precision) if half else options
            return emit_frozen(context, stage, name, lambda inner, kernel: emit_stages(inner, kernel, inside))
        case Fused():
            return emit_fused(context, stage, name, options)
        case JointChunk():
            problems = chunk_problems(matrix_of(stage), context)
            if problems:
                raise UnsupportedError("the Triton backend does not do: " + "; ".join(problems))
            return emit_joint(context, stage, name, options)


def _made(context: Context, stage: Stage) -> list[Scratch]:
    """The buffers of the plan that `launch` has to make before this stage."""
    out: list[Scratch] = []
    for target in stage.writes:
        buffer = context.plan.buffer(target)
        if buffer.role not in MADE_HERE:
            continue
        lead = ["sets"] if buffer.role is Role.ONCE else ["batch", "steps"]
        shape = f"({', '.join([*lead, *(str(context.size(d)) for d in buffer.dims)])},)"
        out.append(Scratch(context.scope(("buffer", target), target), shape, stored(buffer, context.spec.real)))
    return out


def _headline(stage: Stage) -> str:
    match stage:
        case Map(over_time=over_time):
            return f"{', '.join(stage.writes)}: " + ("for all t at once" if over_time else "once per call")
        case Matmul():
            return f"{stage.target}: one matrix product over all t"
        case Loop(carries=carries):
            return f"{', '.join(c.name for c in carries)}: one pass over t"
        case Scan(carries=carries):
            return f"{', '.join(c.name for c in carries)}: scan over t"
        case Newton(carries=carries):
            return f"{', '.join(c.name for c in carries)}: all t at once, by the method of Newton"
        case Convolution(carries=carries):
            return f"{', '.join(c.name for c in carries)}: convolution over t"
        case Chunk(form=form):
            return f"{', '.join(form.states)}: chunks of steps by products of matrices"
        case JointChunk(parts=parts):
            return f"{', '.join(p.form.states[0] for p in parts)}: the same chunks of steps by products of matrices"
        case Frozen():
            return f"{', '.join(h for h, _ in stage.held)} frozen for chunks of {stage.spelled} steps"
        case Fused(carries=carries):
            return f"{', '.join(c.name for c in carries)}: scans over t in one pass"
