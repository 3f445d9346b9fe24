"""One kernel while it is being written: its lines, its identifiers, its arguments and how it reaches buffers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from recurc.backends.base import Specialization
from recurc.backends.cuda.program import Argument, Kind
from recurc.backends.cuda.scalars import STORAGE
from recurc.backends.emit.names import Names
from recurc.backends.emit.text import commented
from recurc.plan import Buffer, Plan, Role
from recurc.source import Span
from recurc.types import Dims, DType

# Words the emitters themselves use; a value of the recurrence with such a name gets a number appended.
_RESERVED = frozenset(
    # one per position in the generated text, in no order that matters
    """
    b t batch steps lane warp element along slot at advance total best offset memory values carry tile tiles group row
    row_start first last chunk earlier later prefix mine member arrived exchange owned weight parity lift combine apply
    i64 u64 threadIdx blockIdx blockDim gridDim identity result lifted totals column active boundary gate part sequence
    meeting target wanted in_range state left right place value sum rows row_tiles my_row my_column first_row
    first_column segment segments position lifted ticket tickets handed_flags handed_states from to before next now
    RC_INF RC_NAN RC_INLINE RC_SPIN_WAIT RC_DYNAMIC_SHARED linux unix
    """.split()  # noqa: SIM905 - a list of sixty quoted words is harder to read
)
_LARGEST_INT = 2**31 - 1


def storage_dtype(buffer: Buffer, spec: Specialization) -> DType:
    """How a buffer's elements lie in memory. What the plan makes and uses inside keeps the accuracy of arithmetic."""
    dtype = spec.dtype(buffer.dtype)
    inside = buffer.role in (Role.SEQUENCE, Role.ONCE)
    return dtype.accumulator if inside and buffer.dtype.is_generic else dtype


def sizes_of(dims: Dims, spec: Specialization) -> tuple[int, ...]:
    return tuple(spec.size(dim) for dim in dims)


def product(numbers: Sequence[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


def flat(index: Sequence[str], sizes: Sequence[int]) -> str:
    """The row-major offset of an index, as C++."""
    stride, terms = product(sizes), list[str]()
    wide = "LL" if stride > _LARGEST_INT else ""
    for place, size in zip(index, sizes, strict=True):
        stride //= size
        if place != "0" and size > 1:
            terms.append(place if stride == 1 else f"{place} * {stride}{wide}")
    return " + ".join(terms) or "0"


class Scope:
    """Collects the text of one kernel. Arguments are those that the text asked for, in that order."""

    def __init__(self, plan: Plan, spec: Specialization) -> None:
        self.plan, self.spec = plan, spec
        self.names = Names(_RESERVED)
        self.lines: list[str] = []
        self.preamble: list[str] = []  # what stands before the kernel
        self.depth = 1
        self._arguments: dict[Argument, str] = {}
        self._workspaces: dict[str, str] = {}

    # --- text ---

    def line(self, text: str = "") -> None:
        self.lines.append("    " * self.depth + text if text else "")

    @contextmanager
    def block(self, head: str, tail: str = "}") -> Generator[None]:
        self.line(f"{head} {{".lstrip())
        self.depth += 1
        yield
        self.depth -= 1
        self.line(tail)

    @contextmanager
    def unrolled(self, axes: Sequence[tuple[str, int]]) -> Generator[None]:
        """Fully unrolled loops over `(variable, size)` pairs."""
        for variable, size in axes:
            self.line("#pragma unroll")
            self.line(f"for (int {variable} = 0; {variable} < {size}; ++{variable}) {{")
            self.depth += 1
        yield
        for _ in axes:
            self.depth -= 1
            self.line("}")

    def place(self, axis: str) -> str:
        """The variable that runs along an axis."""
        return self.names(f"i@{axis}")

    def comment(self, name: str, span: Span | None) -> None:
        """Points at the source line the next statement comes from."""
        if span:
            file = span.file.replace("\\", "/").rsplit("/", 1)[-1]
            self.line(f"// {commented(file)}:{span.line}: {name}")

    # --- arguments ---

    def _argument(self, kind: Kind, name: str, text: str) -> str:
        return self._arguments.setdefault(Argument(kind, name), text)

    def batch(self) -> str:
        return self._argument(Kind.BATCH, "", "batch")

    def steps(self) -> str:
        return self._argument(Kind.STEPS, "", "steps")

    def pointer(self, buffer: Buffer) -> str:
        return self._argument(Kind.POINTER, buffer.name, self.names(f"{buffer.name}@ptr"))

    def workspace(self, name: str, c_type: str) -> str:
        self._workspaces[name] = c_type
        return self._argument(Kind.WORKSPACE, name, name)

    def address(self, buffer: Buffer, index: Sequence[str], b: str = "b", t: str = "t") -> str:
        """A pointer to one element, as C++."""
        parts = [self.pointer(buffer)]
        if buffer.role is not Role.ONCE and b != "0":
            parts.append(f"{b} * " + self._argument(Kind.BATCH_STRIDE, buffer.name, self.names(f"{buffer.name}@batch")))
        if buffer.has_time:
            parts.append(f"{t} * " + self._argument(Kind.TIME_STRIDE, buffer.name, self.names(f"{buffer.name}@time")))
        offset = flat(index, sizes_of(buffer.dims, self.spec))
        if buffer.spacing != 1 and offset != "0":
            offset = f"({offset}) * {buffer.spacing}"
        return " + ".join(parts if offset == "0" else [*parts, offset])

    def load(self, buffer: Buffer, index: Sequence[str], b: str = "b", t: str = "t") -> str:
        return f"rc_load({self.address(buffer, index, b, t)})"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """In the order of the parameter list: what belongs to one buffer stands together."""
        lines: dict[tuple[str, bool], list[Argument]] = {}
        for argument in self._arguments:
            lines.setdefault((argument.name, argument.kind is Kind.WORKSPACE), []).append(argument)
        return tuple(argument for line in lines.values() for argument in line)

    def parameters(self, written: Sequence[str]) -> str:
        """The C++ parameter list; `written` names the buffers the kernel stores to."""
        lines: dict[tuple[str, bool], list[str]] = {}
        for argument, text in self._arguments.items():
            match argument.kind:
                case Kind.POINTER:
                    const = "" if argument.name in written else "const "
                    stored = STORAGE[storage_dtype(self.plan.buffer(argument.name), self.spec)]
                    declared = f"{const}{stored}* __restrict__ {text}"
                case Kind.WORKSPACE:
                    declared = f"{self._workspaces[argument.name]}* {text}"
                case _:
                    declared = f"const i64 {text}"
            lines.setdefault((argument.name, argument.kind is Kind.WORKSPACE), []).append(declared)
        return ",\n    ".join(", ".join(line) for line in lines.values())
