"""Spelling of sizes, loop variables, array places and buffers in generated C."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from recurc.backends.base import Specialization
from recurc.backends.emit.names import Names
from recurc.backends.emit.nodes import Index, Node, Var, extent
from recurc.plan import Buffer
from recurc.types import Dims, DType, own_dim

# What generated functions use for themselves, and macros of the system's headers.
RESERVED = frozenset(
    {
        "batch", "steps", "t", "b", "t0", "t1", "b0", "b1", "q", "q0", "nb", "lanes", "lane", "each", "real", "vec",
        "LANES", "call",
        "self", "thread", "threads", "rows", "row", "I", "panel", "swap", "team", "from", "to", "lane0", "lane1",
        "origin", "bounds", "count", "chunk", "whole", "by_batch", "AT", "ROW", "ALIGNED", "INLINE", "PADDED", "APART",
        "UNROLL", "ONE_BY_ONE", "PREFETCH_L1", "PREFETCH_L2", "NAN", "INFINITY", "memcpy", "memset", "linux", "unix",
        "i386", "sinf", "cosf",
        "atan2f", "erff", "powf", "fmod", "fmodf", "rint", "rintf", "int8_t", "int32_t", "int64_t", "uint8_t",
        "NULL", "EOF", "BUFSIZ", "DOMAIN", "SING", "OVERFLOW", "UNDERFLOW", "PLOSS", "TLOSS", "MAXFLOAT", "HUGE",
        "NFDBITS", "WCONTINUED", "WEXITED", "WNOHANG", "WNOWAIT", "WSTOPPED", "WUNTRACED", "math_errhandling",
        "width", "shift", "sequences", "b_block", "b_end", "t_block", "t_end",
        "alloca", "offsetof", "sched_priority", "signgam", "one_row", "STEPS", "MOST",
    }
)  # fmt: skip
STORED = {DType.BOOL: "uint8_t", DType.I32: "int32_t", DType.I64: "int64_t", DType.F32: "float", DType.F64: "double"}


@dataclass(frozen=True)
class Spelling:
    """Names in one file. Dims keep their names as enum constants, values theirs; a loop variable is `i` and the dim
    (`k`, `l`, ... for the second and third variable over one dim)."""

    names: Names
    spec: Specialization
    buffers: Mapping[str, Buffer]

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        return dict(self.spec.sizes)

    def __call__(self, name: str) -> str:
        return self.names(name)

    def var(self, var: Var) -> str:
        dim, _, number = var.partition("'")
        # ends in _, which no value's name does by itself
        return self.names(f"{'iklmnopqruvwxyz'[int(number or 0)]}{dim}'")

    def size(self, dim: str) -> str:
        base, plus, more = dim.partition("+")
        if plus:
            return f"({self.size(base)} + {more})" if more != "0" else self.size(base)
        dim = own_dim(dim)
        if dim.isdigit():
            return dim
        # A constant of the whole file: in small letters it would meet the locals of functions and what headers declare.
        return self.names(dim if any(c.isupper() for c in dim) else f"size@{dim}")

    def extent(self, dim: str) -> int:
        return extent(dim, self.sizes)

    def field(self, name: str) -> str:
        """The name of the array that holds a buffer: of a part, the caller's complex array."""
        buffer = self.buffers.get(name)
        return self(name if buffer is None or buffer.part is None else buffer.part[0])

    def padded(self, dim: str) -> str:
        """The size of a lane dim in local arrays: whole vectors."""
        return f"PADDED({self.size(dim)})"

    def place(
        self, index: Index, dims: Dims, last_padded: bool = False, computed: Callable[[Node], str] | None = None
    ) -> str:
        """The offset of an element in a contiguous array over `dims`, as C text; "" for the first element. `computed`
        spells the places that are expressions."""
        terms: list[str] = []
        constant = 0
        for axis, at in enumerate(index):
            inner = dims[axis + 1 :]
            scale = 1
            for d in inner:
                scale *= self.extent(d)
            if isinstance(at, int) and not (last_padded and inner):
                constant += at * scale
                continue
            factors = [self.size(d) for d in inner[:-1]]
            if inner:
                factors.append(self.padded(inner[-1]) if last_padded else self.size(inner[-1]))
            if isinstance(at, str | int):
                spelled = str(at) if isinstance(at, int) else self.var(at)
            else:
                assert computed is not None, "a computed place where there can be none"
                spelled = computed(at)
            if spelled != "0":
                terms.append(" * ".join([spelled, *factors]))
        if constant:
            terms.append(str(constant))
        return " + ".join(terms)

    def count(self, dims: Sequence[str], padded: str | None = None) -> str:
        """The number of elements over `dims`, as C text."""
        return " * ".join(self.padded(d) if d == padded else self.size(d) for d in dims) or "1"

    def padded_stride(self, axis: int, dims: Dims) -> str:
        """The distance along an axis of a local array whose last axis is padded."""
        inner = dims[axis + 1 :]
        return " * ".join([*(self.size(d) for d in inner[:-1]), self.padded(inner[-1])]) if inner else "1"

    def stored(self, name: str) -> str:
        """The C type a buffer's elements are stored in (half precisions reach the kernel as f32)."""
        return STORED[self.spec.dtype(self.buffers[name].dtype).accumulator]


def stride_of(axis: int, dims: Dims, spelling: Spelling, buffer: Buffer | None = None) -> str:
    """The distance along an axis, in elements; of a part of a complex array, in real ones."""
    factors = [spelling.size(d) for d in dims[axis + 1 :]]
    return " * ".join([*(["2"] if buffer and buffer.spacing == 2 else []), *factors]) or "1"


def offset(place: str, buffer: Buffer | None) -> str:
    """Where the element at `place` lies in the array that holds a buffer."""
    if buffer is None or buffer.part is None:
        return place
    doubled = pairs(place)
    which = str(buffer.part[1]) if buffer.part[1] or not doubled else ""
    return " + ".join(t for t in (doubled, which) if t and t != "0")


def pairs(place: str) -> str:
    """Where the pair of the element at `place` starts in a complex array seen as real numbers."""
    return f"2 * ({place})" if " " in place else f"2 * {place}" if place else ""


def at(pointer: str, place: str) -> str:
    """`pointer + place` as an address."""
    return f"{pointer} + {place}" if place else pointer


def element(pointer: str, place: str) -> str:
    return f"{pointer}[{place or '0'}]"


def between_pieces(state: str) -> tuple[str, str]:
    """Where a state waits between pieces of time: some lanes may still read it when others write it anew."""
    return f"{state}@saved", f"{state}@saved_next"
