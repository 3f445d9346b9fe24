"""What emission produces: kernels as text with their parameters, and the scratch they need."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recurc.plan import Buffer, Role
from recurc.types import DType

ALL_REGISTERS = 255  # a thread can have; with up to 8 warps, every one of a program
_TRITON = {
    DType.BOOL: "int1",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.F32: "float32",
    DType.F64: "float64",
}
_POINTER = {
    DType.BOOL: "*i1",
    DType.I32: "*i32",
    DType.I64: "*i64",
    DType.F16: "*fp16",
    DType.BF16: "*bf16",
    DType.F32: "*fp32",
    DType.F64: "*fp64",
}
_TORCH = {DType.BOOL: "bool"} | {k: v for k, v in _TRITON.items() if k is not DType.BOOL}


@dataclass(frozen=True)
class Options:
    """Choices the heuristics leave open. None means: decide from the sizes."""

    block_t: int | None = None  # steps of a scan's tile
    recurrent: str = "auto"  # "registers" or "dot": how a state meets a recurrent weight
    block_h: int | None = None  # output tile of a recurrent product
    block_seq: int | None = None  # sequences of a program that keeps its states in registers
    segments: int | None = None  # parts of the time axis scanned side by side; None: decided at launch
    dot_precision: str = "ieee"  # tl.dot's input_precision for f32 operands
    chunk_precision: str = "tf32x3"  # the same in a chunkwise stage: f32 by three products on tensor cores


@dataclass(frozen=True)
class Arg:
    """One parameter of a kernel: its Triton type ('*fp32', 'i32', 'i64', 'constexpr') and what `launch` passes."""

    name: str
    type: str
    passed: str
    value: int | bool | None = None  # of a constexpr, as the heuristics choose it
    aligned: bool = False  # a multiple of 16 for contiguous arrays


@dataclass(frozen=True)
class KernelText:
    """One @triton.jit kernel and how it is launched."""

    name: str
    form: str  # "map", "matmul", "loop", "recurrent", "scan", ...
    about: tuple[str, ...]  # lines for its docstring
    args: tuple[Arg, ...]
    body: tuple[str, ...]
    grid: str
    num_warps: int
    helpers: str = ""  # jit functions of its own (a combine)
    num_stages: int = 3
    registers: int | None = None  # a thread may have so many; None: the assembler weighs them against more programs

    @property
    def uses_dot(self) -> bool:
        return any("tl.dot(" in line for line in self.body)


@dataclass(frozen=True)
class Scratch:
    """A tensor `launch` makes: its name, shape (as text over `batch`, `steps` and sizes) and element type."""

    name: str
    shape: str
    dtype: DType


@dataclass(frozen=True)
class Choice:
    """Two ways of `launch`, by a condition on the call."""

    condition: str
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]


@dataclass(frozen=True)
class Function:
    """A function beside `launch`, which a stage calls. Everything it takes it takes by name."""

    name: str
    parameters: tuple[str, ...]
    about: str
    device: str  # as text: where the tensors it makes lie
    steps: tuple[Step, ...]


Step = str | Scratch | KernelText | Choice | Function  # a line of Python, a tensor to make, a launch, a choice, ...
StageText = tuple[Step, ...]


def kernels_of(steps: tuple[Step, ...]) -> list[KernelText]:
    """Every kernel among the steps of `launch` and of the functions it calls, in order."""
    out: list[KernelText] = []
    for step in steps:
        match step:
            case KernelText():
                out.append(step)
            case Choice():
                out += kernels_of(step.then) + kernels_of(step.otherwise)
            case Function():
                out += kernels_of(step.steps)
            case _:
                pass
    return out


def functions_of(steps: tuple[Step, ...]) -> list[Function]:
    """Every function among the steps, each after those it calls."""
    out: list[Function] = []
    for step in steps:
        match step:
            case Choice():
                out += functions_of(step.then) + functions_of(step.otherwise)
            case Function():
                out += [*functions_of(step.steps), step]
            case _:
                pass
    return out


def each_its_own(steps: StageText) -> StageText:
    """Kernels that are compiled ahead of time as a function calls them: with params of each sequence's own."""
    found: list[Step] = []
    for step in steps:
        if isinstance(step, KernelText):
            args = tuple(replace(a, value=True) if a.name == "PER_SEQUENCE" else a for a in step.args)
            step = replace(step, args=args)
        found.append(step)
    return tuple(found)


def triton_type(dtype: DType) -> str:
    return f"tl.{_TRITON[dtype]}"


def pointer_type(dtype: DType) -> str:
    return _POINTER[dtype]


def torch_type(dtype: DType) -> str:
    return f"torch.{_TORCH[dtype]}"


def stored(buffer: Buffer, real: DType) -> DType:
    """The element type of a buffer. What the kernels make for themselves keeps the accumulator's precision."""
    dtype = buffer.dtype.settled(real)
    return dtype.accumulator if buffer.role in (Role.ONCE, Role.SEQUENCE) and buffer.dtype.is_generic else dtype


def power_of_two(n: int) -> int:
    """The least power of two that is at least `n`."""
    return 1 << max(n - 1, 0).bit_length()
