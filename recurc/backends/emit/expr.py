"""Printing index-notation expressions as C or CUDA C++, from the op table.

The printer knows nothing about where values live: the backend gives a function that spells a `Load`. In lane code
(`lane` is a variable) a value that depends on the lane variable is a vector, any other one a scalar, and scalars are
spread over the lanes where an operator meets both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from recurc.backends.emit.nodes import Call, Fold, Load, Matrix, Node, Number, Place, StepIndex, Var, free_vars
from recurc.backends.emit.text import bare
from recurc.errors import CompilerBug
from recurc.ops import OPS
from recurc.types import DType, Kind

C_TYPES = {DType.BOOL: "int", DType.I32: "int32_t", DType.I64: "int64_t", DType.F32: "float", DType.F64: "double"}
_INFIX = {"add", "sub", "mul", "div", "neg"}
WRAPPING = frozenset({"add", "sub", "mul", "neg"})  # of integers
_ROUNDINGS = {DType.F16: "half", DType.BF16: "bfloat"}


@dataclass(frozen=True)
class Printer:
    """`compute` maps an IR dtype to the one arithmetic is done in (half precisions in f32, generic ones settled).
    `bounded` tells whether an integer is known to stay far from the ends of its type: anything else wraps around, which
    C leaves undefined for its own operators."""

    compute: Callable[[DType], DType]
    load: Callable[[Load], str]
    place: Callable[[Var], str]
    bounded: Callable[[Node], bool]
    lane: Var | None = None
    step: str = "t"

    def is_vector(self, node: Node) -> bool:
        return self.lane is not None and self.lane in free_vars(node)

    def suffix(self, dtype: DType, vector: bool) -> str:
        return f"_{'v' if vector else ''}{self.compute(dtype).value}"

    def __call__(self, node: Node) -> str:
        """The C expression; fully parenthesised by the op table's spellings, without the outermost pair."""
        return bare(self.term(node))

    def term(self, node: Node) -> str:
        match node:
            case Number(value=value, dtype=dtype):
                return number(value, self.compute(dtype))
            case StepIndex():
                return self.step
            case Place(var=var):
                return self.place(var)
            case Load():
                return self.load(node)
            case Call("cast", (Place(var=var),), dtype) if var == self.lane and self.compute(dtype).kind is Kind.REAL:
                return f"rc_count{self.suffix(dtype, True)}({self.place(var)})"
            case Call("cast", (arg,), dtype):
                return self._cast(arg, dtype)
            case Call(op=op, args=args):
                return self._call(op, args, node)
            case Fold() | Matrix():
                raise CompilerBug("a fold or matrix operation inside an expression reached the printer")

    def _call(self, op: str, args: tuple[Node, ...], node: Call) -> str:
        spelling = OPS[op].c
        if spelling is None:
            raise CompilerBug(f"the operator {op} has no C spelling and was not reported as a limitation")
        vector = self.is_vector(node)
        texts = [self.term(a) for a in args]
        if vector and op not in _INFIX:
            texts = [
                t if self.is_vector(a) else self.spread(t, a.dtype, args[-1].dtype)
                for t, a in zip(texts, args, strict=True)
            ]
        if op in WRAPPING and self.compute(node.dtype).kind is Kind.INT and not self.bounded(node):
            return f"rc_{op}{self.suffix(node.dtype, False)}({', '.join(bare(t) for t in texts)})"
        width = self._real(args[-1].dtype) if vector else args[-1].dtype  # truth values in lanes are masks
        return spelling.replace("$", self.suffix(width, vector)).format(*texts)

    def spread(self, text: str, dtype: DType, width: DType) -> str:
        """A scalar in every lane; a truth value as a mask as wide as `width`."""
        if dtype is DType.BOOL:
            return f"rc_spread_mask{self.suffix(self._real(width), True)}({text})"
        return f"rc_spread{self.suffix(dtype, True)}({text})"

    def _real(self, dtype: DType) -> DType:
        return dtype if self.compute(dtype).kind is Kind.REAL else DType.REAL

    def _cast(self, arg: Node, dtype: DType) -> str:
        """Values live in wider types than half precisions, so a cast to one is a rounding on the way."""
        rounding = _ROUNDINGS.get(dtype)
        if rounding is None:
            return self._converted(arg, self.term(arg), self.compute(arg.dtype), self.compute(dtype))
        # A real number is rounded as wide as it is: by way of f32, an f64 could be rounded twice.
        width = self.compute(arg.dtype if self.compute(arg.dtype).kind is Kind.REAL else dtype)
        text = self._converted(arg, self.term(arg), self.compute(arg.dtype), width)
        text = f"rc_{rounding}{self.suffix(width, self.is_vector(arg))}({text})"
        return self._converted(arg, text, width, self.compute(dtype))

    def _converted(self, arg: Node, text: str, source: DType, to: DType) -> str:
        if source is to:
            return text
        if self.is_vector(arg):
            if source is DType.BOOL:
                return f"rc_select_v{to.value}({text}, rc_spread_v{to.value}(1), rc_spread_v{to.value}(0))"
            raise CompilerBug(f"lane code has no conversion from {source.value} to {to.value}")
        return f"(({text}) != 0)" if to is DType.BOOL else f"(({C_TYPES[to]})({text}))"


def number(value: bool | int | float | complex, dtype: DType) -> str:
    """A C literal."""
    if isinstance(value, complex):
        raise CompilerBug("a complex constant reached the C printer")
    if dtype.kind is not Kind.REAL:
        if isinstance(value, float) and not value.is_integer():
            raise CompilerBug(f"the constant {value} is not an integer")
        text = str(int(value))
        if int(value) == -(2**63):  # C has no negative numbers, only minus signs
            return f"(INT64_C({int(value) + 1}) - 1)"
        return text if abs(int(value)) < 2**31 else f"INT64_C({text})"
    real = float(value)
    if math.isinf(real):
        return "INFINITY" if real > 0 else "(-INFINITY)"
    if math.isnan(real):
        return "NAN"
    text = repr(real) + ("f" if dtype is DType.F32 else "")
    return f"({text})" if real < 0 or text.startswith("-") else text
