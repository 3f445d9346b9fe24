"""recurc: a compiler for recurrences.

The public names; each is imported when it is first used, so that `import recurc` is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recurc import zoo as zoo
    from recurc.api import Recurrence as Recurrence
    from recurc.api import Signature as Signature
    from recurc.api import compile as compile
    from recurc.api import load as load
    from recurc.compiled import Compiled as Compiled
    from recurc.errors import BackendError as BackendError
    from recurc.errors import CompilerBug as CompilerBug
    from recurc.errors import RecError as RecError
    from recurc.errors import RecurcError as RecurcError
    from recurc.errors import ShapeError as ShapeError
    from recurc.errors import TraceError as TraceError
    from recurc.errors import UnsupportedError as UnsupportedError
    from recurc.frontend.declare import Input as Input
    from recurc.frontend.declare import Int as Int
    from recurc.frontend.declare import Param as Param
    from recurc.frontend.declare import State as State
    from recurc.frontend.declare import init as init
    from recurc.jitted import jit as jit

__version__ = "0.1.0"

_HOMES = {
    "Recurrence": "recurc.api",
    "Signature": "recurc.api",
    "compile": "recurc.api",
    "load": "recurc.api",
    "Compiled": "recurc.compiled",
    "BackendError": "recurc.errors",
    "CompilerBug": "recurc.errors",
    "RecError": "recurc.errors",
    "RecurcError": "recurc.errors",
    "ShapeError": "recurc.errors",
    "TraceError": "recurc.errors",
    "UnsupportedError": "recurc.errors",
    "Input": "recurc.frontend.declare",
    "Int": "recurc.frontend.declare",
    "Param": "recurc.frontend.declare",
    "State": "recurc.frontend.declare",
    "jit": "recurc.jitted",
}


def __getattr__(name: str) -> Any:
    if name == "zoo":
        return import_module("recurc.zoo")
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(import_module(home), name)
    elif name.startswith("_") or find_spec(f"recurc.{name}") is not None:  # `from recurc import build` asks here first
        raise AttributeError(f"module 'recurc' has no attribute {name!r}")
    else:  # the functions of the language: recurc.sigmoid, recurc.sum, ...
        functions = import_module("recurc.functions").NAMED
        if name not in functions:
            raise AttributeError(f"module 'recurc' has no attribute {name!r}")
        value = functions[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({"__version__", "zoo", *_HOMES, *import_module("recurc.functions").NAMED})
