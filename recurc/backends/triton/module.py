"""The generated module: header, sizes, helpers, kernels, and `launch`. It runs without recurc."""

from __future__ import annotations

from dataclasses import dataclass

from recurc.backends.base import Specialization
from recurc.backends.triton.chunk_lines import chunk_problems
from recurc.backends.triton.coupled import emit_chunk
from recurc.backends.triton.kernel import (
    Arg,
    Choice,
    KernelText,
    Options,
    Scratch,
    Step,
    kernels_of,
    stored,
    torch_type,
)
from recurc.backends.triton.loop import emit_loop
from recurc.backends.triton.maps import emit_map
from recurc.backends.triton.matmul import emit_matmul
from recurc.backends.triton.prelude import HELPER_NAMES, prelude
from recurc.backends.triton.recurrent import emit_recurrent
from recurc.backends.triton.recurrent_layout import recurrent_weights
from recurc.backends.triton.scan import emit_scan
from recurc.backends.triton.scope import Scope, plain
from recurc.backends.triton.values import Context
from recurc.errors import UnsupportedError
from recurc.ir import Equation
from recurc.plan import (
    NO_FROZEN,
    NO_TRANSFORM,
    Chunk,
    Convolution,
    Frozen,
    Loop,
    Map,
    Matmul,
    Newton,
    Plan,
    Role,
    Scan,
    Stage,
)
from recurc.types import Kind

_IN_REGISTERS = 4096  # elements of recurrent weights a program can keep in registers
_MADE_HERE = (Role.ONCE, Role.SEQUENCE)


@dataclass(frozen=True)
class Module:
    """The text of a generated module and what is known of its kernels."""

    name: str  # the file's name without `.py`
    text: str
    kernels: tuple[KernelText, ...]
    arguments: tuple[tuple[str, str], ...]  # (name in `launch`, buffer)


def emit_module(plan: Plan, spec: Specialization, options: Options) -> Module:
    """The whole plan as one Triton module."""
    scope = Scope(HELPER_NAMES | {"arrays", "segments", "per_sequence", "sets"})
    context = Context(plan, spec, scope)
    sizes = [(context.constant(dim), size) for dim, size in spec.sizes]
    for buffer in plan.buffers:
        scope(("buffer", buffer.name), buffer.name)
    name = scope("module", plan.recurrence.name)
    steps: list[Step] = []
    for number, stage in enumerate(plan.stages):
        steps.append(f"# {plain(_headline(stage))}")
        steps += _made(context, stage)
        steps += _emit(
            context, stage, scope(("kernel", number), f"{name}_{type(stage).__name__.lower()}_{number}"), options
        )
    kernels = kernels_of(tuple(steps))
    body = "".join(_kernel_text(k) for k in kernels)
    lines = [_header(plan, spec), "import torch", "import triton", "import triton.language as tl", ""]
    lines += [f"{constant} = tl.constexpr({size})" for constant, size in sizes]
    text = "\n".join(lines) + "\n" + prelude(body) + body + _SUPPORT + _launch(context, tuple(steps))
    arguments = tuple((scope(("buffer", b.name), b.name), b.name) for b in plan.buffers if b.role not in _MADE_HERE)
    return Module(f"{name.lower()}_triton", text, tuple(kernels), arguments)


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
        case Scan():
            return emit_scan(context, stage, name, options)
        case Newton():
            raise UnsupportedError("Newton's method over time has no Triton kernels")
        case Convolution():
            raise UnsupportedError(NO_TRANSFORM)
        case Chunk():
            problems = chunk_problems(stage, context)
            if problems:
                raise UnsupportedError("the Triton backend does not do: " + "; ".join(problems))
            return emit_chunk(context, stage, name, options)
        case Frozen():
            raise UnsupportedError(NO_FROZEN)


def _made(context: Context, stage: Stage) -> list[Scratch]:
    """The buffers of the plan that `launch` has to make before this stage."""
    out: list[Scratch] = []
    for target in stage.writes:
        buffer = context.plan.buffer(target)
        if buffer.role not in _MADE_HERE:
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
        case Newton():
            raise UnsupportedError("Newton's method over time has no Triton kernels")
        case Convolution(carries=carries):
            return f"{', '.join(c.name for c in carries)}: convolution over t"
        case Chunk(form=form):
            return f"{', '.join(form.states)}: chunks of steps by products of matrices"
        case Frozen():
            raise UnsupportedError(NO_FROZEN)


def _header(plan: Plan, spec: Specialization) -> str:
    sizes = ", ".join(f"{plain(d)} = {s}" for d, s in spec.sizes)
    lines = [
        f'"""{plain(plan.recurrence.name)}: Triton kernels, generated by recurc. Needs torch and triton, not recurc.',
        "",
        f"Sizes: {sizes or 'none'}.",
        f"Arrays are stored as {spec.real.value}; arithmetic is in {spec.real.accumulator.value}.",
        f"Schedule: {', '.join(plain(s) for s in plan.schedules) or 'none'}.",
    ]
    lines += [f"  {plain(str(reason))}" for reason in plan.reasons]
    lines += [
        "",
        "Arrays of `launch` (B sequences, T steps; any batch and time strides, the dims after them contiguous):",
    ]
    for buffer in plan.buffers:
        if buffer.role in _MADE_HERE:
            continue
        lead = "(B, T" if buffer.has_time else "(B"
        dims = "".join(f", {plain(d)}" for d in buffer.dims)
        what = f"{stored(buffer, spec.real).value}, {buffer.role.value}"
        if buffer.part is not None:
            what += f": torch.view_as_real({plain(buffer.part[0])})[..., {buffer.part[1]}]"
        lines.append(f"  {plain(buffer.name)}: {lead}{dims}) {what}")
    span = plan.recurrence.span
    if span:
        lines.append(f"Source: {plain(str(span))}. Comments at the ends of lines name the place of each equation.")
    return "\n".join([*lines, '"""', ""])


def _kernel_text(kernel: KernelText) -> str:
    helpers = f"\n\n{kernel.helpers}\n" if kernel.helpers else ""
    parameters = "".join(
        f"    {a.name}: tl.constexpr,\n" if a.type == "constexpr" else f"    {a.name},\n" for a in kernel.args
    )
    about = "\n    ".join(kernel.about)
    body = "\n".join(kernel.body)
    return f'{helpers}\n\n@triton.jit\ndef {kernel.name}(\n{parameters}):\n    """{about}"""\n{body}\n'


_SUPPORT = '''

def _stride(array, axis):
    """The stride of an axis; 0 where a single entry stands for all."""
    return array.stride(axis) if array.shape[axis] > 1 else 0


def _segments(programs, steps, block_t, device):
    """How many segments of time fill the device: one if the lanes do it alone."""
    if device.type != "cuda":
        return 1
    wanted = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    return max(min(wanted // programs, steps // (4 * block_t)), 1)
'''


def _launch(context: Context, steps: tuple[Step, ...]) -> str:
    plan = context.plan
    buffers = [b for b in plan.buffers if b.role not in _MADE_HERE]
    names = [context.scope(("buffer", b.name), b.name) for b in buffers]
    params = [n for b, n in zip(buffers, names, strict=True) if b.role is Role.PARAM]
    out = next(n for b, n in zip(buffers, names, strict=True) if b.role in (Role.OUTPUT, Role.FINAL))
    own = " or ".join(f"_stride({p}, 0) != 0" for p in params) or "False"
    lines = ["", "", f"def launch(*, {', '.join(names)}, batch, steps, segments=None):"]
    lines.append('    """Runs `batch` sequences of `steps` steps; writes the outputs and final states in place."""')
    lines.append(f"    per_sequence = {own}")
    if any(b.role is Role.ONCE for b in plan.buffers):
        lines.append("    sets = batch if per_sequence else 1")
    lines += _written(context, steps, 1, f"{out}.device")
    return "\n".join(lines) + "\n"


def _written(context: Context, steps: tuple[Step, ...], depth: int, device: str) -> list[str]:
    pad, out = "    " * depth, list[str]()
    for step in steps:
        match step:
            case str():
                out.append(pad + step)
            case Scratch():
                out.append(
                    f"{pad}{step.name} = torch.empty({step.shape}, dtype={torch_type(step.dtype)}, device={device})"
                )
            case KernelText():
                out.append(f"{pad}{step.name}[{step.grid}](")
                out += [f"{pad}    {_passed(a)}," for a in step.args]
                out += [f"{pad}    num_warps={step.num_warps},", f"{pad}    num_stages={step.num_stages},"]
                out += [f"{pad}    maxnreg={step.registers},"] if step.registers else []
                out.append(f"{pad})")
            case Choice():
                out.append(f"{pad}if {step.condition}:")
                out += _written(context, step.then, depth + 1, device)
                out.append(f"{pad}else:")
                out += _written(context, step.otherwise, depth + 1, device)
    return out


def _passed(arg: Arg) -> str:
    return f"{arg.name}={arg.passed}" if arg.type == "constexpr" else arg.passed
