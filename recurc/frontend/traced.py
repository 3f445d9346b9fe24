"""Traced values: what the arguments of a Python step function are while it is traced.

Python operators, NumPy and torch functions and `recurc.*` functions on them build IR, through `recurc.build` and
`recurc.ops.apply` as the text front end does.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn, Protocol, cast

import numpy as np

from recurc import build, ir, ops
from recurc.errors import ShapeError, TraceError
from recurc.frontend.constants import fold
from recurc.types import Dims, DType, literal_size, show_dims

recording: ContextVar[Listener | None] = ContextVar("recording", default=None)  # the trace that runs now
_created = itertools.count()
_HIGHEST = 100  # operations within one expression: passes walk expressions by recursion


class Listener(Protocol):
    """Who listens while a function is traced (`recurc.frontend.recorder`)."""

    def observe(self) -> None:
        """Called before an operation: names bound since the last one become equations."""
        ...

    def expr(self, value: Traced) -> ir.Expr:
        """What a value means in this trace."""
        ...

    def packed(self, value: Traced) -> ir.Expr:
        """A value about to be unpacked, as the read of an equation of its own."""
        ...

    def cut(self, expr: ir.Expr) -> ir.Expr:
        """An expression that nests too deeply to grow further, as the read of an equation of its own."""
        ...

    def where(self) -> str:
        """The line of the step function that runs now, for a message."""
        ...


class Traced:
    """A value at one step: IR with dims and type. `recorder` is None for what belongs to no trace, such as a size."""

    __slots__ = ("created", "expr", "height", "recorder")
    __array_priority__ = 1000

    def __init__(self, expr: ir.Expr, recorder: Listener | None = None, height: int = 0) -> None:
        self.expr, self.recorder, self.created = expr, recorder, next(_created)
        self.height = height  # operations within operations since the last read

    @property
    def dims(self) -> Dims:
        return self.expr.dims

    @property
    def dtype(self) -> DType:
        return self.expr.dtype

    @property
    def T(self) -> Traced:
        """The last two dims swapped."""
        return operate(build.transpose, self)

    def rename(self, *dims: str | int) -> Traced:
        """The same elements over other dims, by position."""
        return operate(partial(build.rename, dims=tuple(str(d) for d in dims)), self)

    def __getattr__(self, name: str) -> Any:
        """`x.sigmoid()`, `x.sum("D")`: the functions of the language as methods."""
        from recurc.frontend.foreign import method

        found = method(self, name)
        if found is None:
            sizes = ', and its sizes are known only in a call: see `.dims` and recurc.size("D")'
            raise AttributeError(
                f"a traced value has no attribute {name!r}{sizes if name in ('shape', 'size', 'ndim', 'numel') else ''}"
            )
        return found

    def __repr__(self) -> str:
        return f"<traced {show_dims(self.dims)}: {self.dtype.value}>"

    # --- Python operators
    def __neg__(self) -> Traced:
        return elementwise("neg", self)

    def __pos__(self) -> Traced:
        return self

    def __abs__(self) -> Traced:
        return elementwise("abs", self)

    def __invert__(self) -> Traced:
        return elementwise("not", self)

    def __round__(self, digits: int | None = None) -> Traced:
        return elementwise("round", self)

    def __add__(self, other: Any) -> Traced:
        return elementwise("add", self, other)

    def __radd__(self, other: Any) -> Traced:
        return elementwise("add", other, self)

    def __sub__(self, other: Any) -> Traced:
        return elementwise("sub", self, other)

    def __rsub__(self, other: Any) -> Traced:
        return elementwise("sub", other, self)

    def __mul__(self, other: Any) -> Traced:
        return elementwise("mul", self, other)

    def __rmul__(self, other: Any) -> Traced:
        return elementwise("mul", other, self)

    def __truediv__(self, other: Any) -> Traced:
        return elementwise("div", self, other)

    def __rtruediv__(self, other: Any) -> Traced:
        return elementwise("div", other, self)

    def __pow__(self, other: Any) -> Traced:
        return elementwise("pow", self, other)

    def __rpow__(self, other: Any) -> Traced:
        return elementwise("pow", other, self)

    def __mod__(self, other: Any) -> Traced:
        return elementwise("mod", self, other)

    def __rmod__(self, other: Any) -> Traced:
        return elementwise("mod", other, self)

    def __floordiv__(self, other: Any) -> Traced:
        return elementwise("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Traced:
        return elementwise("floordiv", other, self)

    def __matmul__(self, other: Any) -> Traced:
        return operate(build.matmul, self, other)

    def __rmatmul__(self, other: Any) -> Traced:
        return operate(build.matmul, other, self)

    def __lt__(self, other: Any) -> Traced:
        return elementwise("lt", self, other)

    def __le__(self, other: Any) -> Traced:
        return elementwise("le", self, other)

    def __gt__(self, other: Any) -> Traced:
        return elementwise("gt", self, other)

    def __ge__(self, other: Any) -> Traced:
        return elementwise("ge", self, other)

    def __eq__(self, other: object) -> Traced:  # pyright: ignore[reportIncompatibleMethodOverride]  # a comparison of values
        return elementwise("eq", self, other)

    def __ne__(self, other: object) -> Traced:  # pyright: ignore[reportIncompatibleMethodOverride]  # as __eq__
        return elementwise("ne", self, other)

    def __and__(self, other: Any) -> Traced:
        return elementwise("and", self, other)

    def __rand__(self, other: Any) -> Traced:
        return elementwise("and", other, self)

    def __or__(self, other: Any) -> Traced:
        return elementwise("or", self, other)

    def __ror__(self, other: Any) -> Traced:
        return elementwise("or", other, self)

    # --- unpacking
    def __iter__(self) -> Iterator[Traced]:
        count = literal_size(self.dims[0]) if self.dims else None
        if count is None:
            raise TraceError(
                f"only a value whose first dim is a number can be unpacked, not {show_dims(self.dims)}{place(self)}"
            )
        recorder = self.recorder or recording.get()
        if recorder is None:
            return iter([Traced(part) for part in build.unpack(self.expr, count)])
        recorder.observe()
        packed = recorder.packed(self)
        return iter([Traced(part, recorder) for part in build.unpack(packed, count)])

    def __len__(self) -> int:
        count = literal_size(self.dims[0]) if self.dims else None
        if count is None:
            raise TraceError(
                f"a traced value {show_dims(self.dims)} has no length: sizes are known only in a call{place(self)}"
            )
        return count

    def __getitem__(self, index: Any) -> Traced:
        """`table[i]`, `table[i, j]`: the element at traced places along the leading dims, as `recurc.lookup`; a number
        picks one slice along a leading literal dim."""
        places = cast("tuple[Any, ...]", index) if isinstance(index, tuple) else (index,)
        if places and all(isinstance(p, Traced) for p in places):
            return operate(build.lookup, self, *places)
        count = literal_size(self.dims[0]) if self.dims else None
        if isinstance(index, int) and not isinstance(index, bool) and count is not None and -count <= index < count:
            return operate(partial(_slice, place=index % count, count=count), self)
        raise TraceError(
            f"a traced value has no positions to index with {index!r}: unpack a leading literal dim with "
            f'`a, b = value`, look up with a traced integer, `table[i]`, reduce with recurc.sum(value, "D"), read '
            f"earlier steps with recurc.lag(h, k){place(self)}"
        )

    def lag(self, k: int) -> Traced:
        """A state (the argument itself, `h[t-1]`) or an input, `k` steps before this one."""
        from recurc.frontend.beyond import lag

        return lag(self, k)

    # --- what a step cannot do
    def __bool__(self) -> NoReturn:
        raise TraceError(
            "Python cannot decide `if`, `while`, `and`, `or`, `not` or `assert` on a traced value, which has no number "
            f"yet: choose with recurc.where(condition, a, b), combine conditions with `&`, `|`, `~`{place(self)}"
        )

    def _number(self, *_: Any) -> NoReturn:
        raise TraceError(
            "a traced value has no number yet: use np.*, torch.* or recurc.* functions on it, not float() or the math "
            f"module{place(self)}"
        )

    __float__ = __int__ = __index__ = __complex__ = _number

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TraceError(
            "a traced value cannot become a NumPy array, nor an argument of a compiled recurrence: it has no numbers "
            f"yet; use np.*, torch.* or recurc.* functions on it{place(self)}"
        )

    def __format__(self, spec: str) -> str:
        return repr(self) if not spec else self._number()

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TraceError(f"a traced value cannot be changed in place: give the new value a name{place(self)}")

    # --- NumPy and torch functions
    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Traced:
        from recurc.frontend.foreign import numpy_ufunc

        return numpy_ufunc(ufunc, method, args, kwargs)

    def __array_function__(self, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
        from recurc.frontend.foreign import numpy_function

        return numpy_function(function, args, kwargs)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Traced:
        from recurc.frontend.foreign import torch_function

        return torch_function(function, args, kwargs or {})


def elementwise(op: str, *operands: Any) -> Traced:
    """An operator of the op table on traced values and numbers."""
    return operate(partial(ops.apply, op), *operands)


def operate(make: Callable[..., ir.Expr], *operands: Any) -> Traced:
    """`make` on the IR of the operands; raises `ShapeError` if their dims or types do not fit."""
    recorder: Listener | None = None
    for operand in operands:
        if isinstance(operand, Traced) and operand.recorder is not None:
            if recorder is not None and operand.recorder is not recorder:
                raise TraceError(
                    f"{operand!r} belongs to another trace: what one step computes reaches the next one only as a "
                    f"state, not through variables outside the function{recorder.where()}"
                )
            recorder = operand.recorder
    if recorder is None:
        recorder = recording.get()
    if recorder is not None:
        recorder.observe()
    exprs = [lift(o, recorder) for o in operands]
    height = 1 + max((_height(o) for o in operands), default=0)
    try:
        made = fold(make(*exprs))
        if recorder is not None and height >= _HIGHEST:
            return Traced(recorder.cut(made), recorder)
        return Traced(made, recorder, height)
    except ops.TypeProblem as problem:
        shown = ", ".join(_described(e) for e in exprs)
        help = f"; {problem.help}" if problem.help else ""
        raise ShapeError(
            f"{problem}{help} (operands: {shown}){'' if recorder is None else recorder.where()}"
        ) from problem
    except ArithmeticError as wrong:
        raise TraceError(
            f"this constant has no value: {wrong}{'' if recorder is None else recorder.where()}"
        ) from wrong


def _slice(expr: ir.Expr, place: int, count: int) -> ir.Expr:
    return build.unpack(expr, count)[place]


def _height(operand: Any) -> int:
    if not isinstance(operand, Traced) or isinstance(operand.expr, ir.Read):
        return 0
    return operand.height


def lift(value: Any, recorder: Listener | None = None) -> ir.Expr:
    """The IR of a traced value (as `recorder` knows it) or a number; anything else raises `TraceError`."""
    if isinstance(value, Traced):
        return value.expr if recorder is None else recorder.expr(value)
    torch = sys.modules.get("torch")
    number: Any = value
    if getattr(number, "ndim", None) == 0 and (
        isinstance(value, (np.generic, np.ndarray)) or (torch is not None and isinstance(value, torch.Tensor))
    ):
        number = number.item() if not getattr(number, "requires_grad", False) else number
    match number:
        case bool():
            return ir.Const(number, DType.BOOL)
        case int():
            if not -(2**63) <= number < 2**63:
                raise TraceError(f"the integer {number} does not fit into 64 bits: write it as a float")
            return ir.Const(number, DType.I64)
        case float():
            if math.isnan(number):
                raise TraceError("NaN cannot be a constant of a recurrence")
            return ir.Const(number, DType.REAL)
        case complex():
            return ir.Const(number, DType.COMPLEX)
        case _:
            shape = getattr(number, "shape", None)
            if shape is not None:
                raise TraceError(
                    f"an array of shape {tuple(shape)} inside a step function has no dims: make it an argument, "
                    'for example W: recurc.Param["H", "D"]'
                )
            raise TraceError(f"a {type(number).__name__} cannot take part in the arithmetic of a step: {number!r}")


def place(value: Traced) -> str:
    return "" if value.recorder is None else value.recorder.where()


def _described(expr: ir.Expr) -> str:
    name = f"{expr.name} " if isinstance(expr, ir.Read) and expr.name.isidentifier() else ""
    return f"{name}{show_dims(expr.dims)}"
