"""What the arguments of a Python step function are: `h: State["D"]`, `x: Input["D"]`, `W: Param[4, "H", "D"]`.

Dims are strings, or positive integers for literal dims; `()` is a scalar. Behind the dims may stand, in any order, an
element type (`int`, `bool`, `complex`, a `DType`, or `Int("Q")` for integers below the size of Q), for a state (or an
input that is read at earlier steps) the value before the first step as a number (a float, or an integer behind the
element type: `State[int, 1]`) or a function of params by their names (`lambda h0: 2 * h0`), and for a param its
initialiser (`init.uniform(a, b)`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any, cast

from recurc import ir
from recurc.errors import TraceError
from recurc.frontend.functions import INITIALIZERS
from recurc.frontend.traced import Traced, lift
from recurc.types import Dims, DType

TYPES: dict[object, DType] = {bool: DType.BOOL, int: DType.I64, float: DType.REAL, complex: DType.COMPLEX}


@dataclass(frozen=True)
class Declared:
    """One argument: its kind ("state", "input" or "param"), dims, type, value before the first step, initialiser, and
    of an integer that is below the size of a dim, that dim."""

    kind: str
    dims: Dims = ()
    dtype: DType = DType.REAL
    before: ir.Expr | Callable[..., Any] | None = None
    init: ir.Initializer | None = None
    bound: str | None = None

    @property
    def first(self) -> ir.Expr | None:
        """The value before the first step, once the params are known that it is computed from."""
        assert self.before is None or not isinstance(self.before, FunctionType)
        return cast("ir.Expr | None", self.before)

    @property
    def mentioned(self) -> Dims:
        """The dims it speaks of."""
        return self.dims if self.bound is None else (*self.dims, self.bound)


@dataclass(frozen=True)
class Int:
    """`Int("Q")`, `Int(4)`: an element type, integers from 0 to below the size of a dim, or below a number."""

    below: str | int

    def __post_init__(self) -> None:
        below: object = self.below
        named = isinstance(below, str) and (below.isidentifier() or (below.isdigit() and int(below) > 0))
        if not named and not (isinstance(below, int) and not isinstance(below, bool) and below > 0):
            raise TraceError(f"Int({below!r}): give the name of a dim or a positive integer")


class _Kind:
    kind = ""

    def __class_getitem__(cls, items: Any) -> Declared:
        given: tuple[Any, ...] = cast("tuple[Any, ...]", items) if isinstance(items, tuple) else (items,)
        found, behind = Declared(cls.kind), False  # behind the dims
        for item in given:
            found = cls._with(found, item, behind)
            behind = behind or not isinstance(item, (str, int)) or item == 0
        return found

    @classmethod
    def _with(cls, found: Declared, item: Any, behind: bool) -> Declared:
        match item:
            case ():
                return found
            case int() if behind and cls.kind != "param":
                return replace(found, before=lift(item))
            case str() if item.isidentifier() or (item.isdigit() and int(item) > 0):
                return replace(found, dims=(*found.dims, item))
            case int() if not isinstance(item, bool) and item > 0:
                return replace(found, dims=(*found.dims, str(item)))
            case type() if item in TYPES:
                return replace(found, dtype=TYPES[item])
            case DType():
                return replace(found, dtype=item)
            case Int(below):
                return replace(found, dtype=DType.I64, bound=str(below))
            case ir.Initializer() if cls.kind == "param":
                return replace(found, init=item)
            case Traced() if cls.kind == "param":
                return replace(found, init=ir.Initializer(ir.EXPRESSION, (lift(item),)))
            case int() | float() | complex() | Traced() if cls.kind != "param":
                return replace(found, before=lift(item))
            case FunctionType() if cls.kind != "param":
                return replace(found, before=item)
            case _:
                more = (
                    "an initialiser such as init.zeros()" if cls.kind == "param" else "the value before the first step"
                )
                raise TraceError(
                    f"{cls.__name__}[{item!r}]: a dim is a name in quotes or a positive integer; behind the dims may "
                    f"stand {more}"
                )


class State(_Kind):
    """A value carried from step to step; the argument is its value one step before."""

    kind = "state"


class Input(_Kind):
    """A value that is different at every step."""

    kind = "input"


class Param(_Kind):
    """A value that is the same at every step."""

    kind = "param"


class _Initializers:
    """The initialisers of the language, for `Param[..., init.NAME(...)]`: numbers or expressions of `recurc.size`."""

    def __getattr__(self, name: str) -> Any:
        if name not in INITIALIZERS:
            raise AttributeError(f"there is no initialiser {name!r}; there are {', '.join(INITIALIZERS)}")
        least, most = INITIALIZERS[name]

        def make(*args: Any) -> ir.Initializer:
            if not least <= len(args) <= most:
                raise TraceError(f"init.{name} takes {most} number{'s' * (most != 1)}, got {len(args)}")
            return ir.Initializer(name, tuple(lift(a) for a in args))

        return make

    def __dir__(self) -> list[str]:
        return sorted(INITIALIZERS)


init = _Initializers()
__all__ = ["Declared", "Input", "Int", "Param", "State", "init"]
