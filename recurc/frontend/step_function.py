"""A Python step function before it is traced: whether it can be one, and what its arguments are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import CodeType, FunctionType
from typing import Any, cast

from recurc import ir
from recurc.errors import TraceError
from recurc.frontend.declare import Declared
from recurc.frontend.traced import Traced, lift

RESERVED = ("t", "T")  # the step index and the number of steps, in the language
_EXAMPLE = 'def step(h: recurc.State["D"], x: recurc.Input["D"])'


@dataclass(frozen=True)
class StepFunction:
    """The function with its arguments by name. `defaults` has the params that a call may leave out."""

    function: Callable[..., Any]
    name: str
    code: CodeType
    arguments: Mapping[str, Declared]
    positional: tuple[str, ...]  # arguments in front of a `/`
    defaults: Mapping[str, Any]

    def run(self, values: Mapping[str, Any]) -> Any:
        """What it returns for these arguments."""
        named = {n: v for n, v in values.items() if n not in self.positional}
        return self.function(*(values[n] for n in self.positional), **named)


def check_function(function: object) -> None:
    """Raises `TraceError` for what is no step function, whatever its arguments are."""
    name = getattr(function, "__name__", type(function).__name__)
    problem = None
    if isinstance(function, type):
        problem = f"the class {name}"
    elif not (inspect.isfunction(function) or inspect.ismethod(function)):
        problem = (
            f"the builtin {name}" if inspect.isbuiltin(function) else f"an object of type {type(function).__name__}"
        )
    elif inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        problem = f"{name}, which is async"
    elif inspect.isgeneratorfunction(function):
        problem = f"{name}, a generator: a step returns its values, it does not yield them"
    elif name == "<lambda>":
        problem = "a lambda, whose arguments cannot say what they are"
    if problem is not None:
        raise TraceError(f"jit takes a step function, such as `{_EXAMPLE}`; got {problem}")


def step_function(function: Callable[..., Any]) -> StepFunction:
    """The arguments of a step function; raises `TraceError` for one that says not what it is."""
    check_function(function)
    title = function.__name__
    found: dict[str, Declared] = {}
    defaults: dict[str, Any] = {}
    positional: list[str] = []
    for name, argument in _signature(function).parameters.items():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            stars = "*" if argument.kind is argument.VAR_POSITIONAL else "**"
            raise TraceError(f"{title} takes `{stars}{name}`: a step has a fixed list of arguments, name each of them")
        declared = _declared(title, name, argument.annotation, first=not found)
        found[name] = declared
        if argument.default is not argument.empty:
            defaults[name] = _default(title, name, declared, argument.default)
        if argument.kind is argument.POSITIONAL_ONLY:
            positional.append(name)
    for name, declared in found.items():
        for dim in declared.mentioned:
            if dim in found or dim in RESERVED:
                what = "an argument" if dim in found else "the step index or the number of steps"
                raise TraceError(
                    f"dim {dim} of `{name}` is also {what} of {title}: a name is a dim or a value, never both"
                )
    found = {name: _begun(title, name, declared, found) for name, declared in found.items()}
    code = inspect.unwrap(function).__code__
    return StepFunction(function, title, code, found, tuple(positional), defaults)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """With annotations that are text, as under `from __future__ import annotations`, read where they were written."""
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as wrong:
        raise TraceError(
            f"an annotation of {function.__name__} cannot be read ({wrong}): annotations are looked up in the module "
            "of the function, so import or define there what they name"
        ) from wrong


def _declared(title: str, name: str, annotation: Any, first: bool) -> Declared:
    if isinstance(annotation, type) and hasattr(annotation, "kind"):
        return Declared(cast(Any, annotation).kind)  # `x: Input`, a scalar
    if not isinstance(annotation, Declared):
        if first and name in ("self", "cls"):
            raise TraceError(
                f"{title} is a method, and its `{name}` is no value of a step: make it a plain function, or jit the "
                f"bound method, as in `recurc.jit(object.{title})`"
            )
        raise TraceError(
            f'argument `{name}` of {title} says not what it is: write `{name}: recurc.Input["D"]` '
            "(or State, or Param), with its dims; `[()]` for a scalar"
        )
    if name in RESERVED:
        raise TraceError(f"`{name}` cannot be an argument: `t` is the step index and `T` the number of steps")
    return annotation


def _begun(title: str, name: str, declared: Declared, arguments: Mapping[str, Declared]) -> Declared:
    """With the value before the first step computed, if it is a function of params."""
    function = declared.before
    if not isinstance(function, FunctionType):
        return declared
    values: dict[str, Traced] = {}
    for param in inspect.signature(function).parameters:
        given = arguments.get(param)
        if given is None or given.kind != "param":
            raise TraceError(
                f"the value of `{name}` before the first step is a function of `{param}`, which is no param of {title}"
            )
        values[param] = Traced(ir.Read(param, 0, given.dims, given.dtype))
    return replace(declared, before=lift(function(**values)))


def _default(title: str, name: str, declared: Declared, value: Any) -> Any:
    if declared.kind == "state":
        inside = ", ".join([*(repr(d) for d in declared.dims), repr(value)])
        raise TraceError(
            f"state `{name}` of {title} has a default; its value before the first step stands in the brackets: "
            f"`{name}: recurc.State[{inside}]`"
        )
    if declared.kind == "input":
        raise TraceError(
            f"input `{name}` of {title} has a default; an input has a value at every step, so each call gives it: "
            "remove the default, or make it a Param"
        )
    if not isinstance(value, (bool, int, float, complex)) and not hasattr(value, "shape"):
        raise TraceError(
            f"the default of param `{name}` of {title} should be a number or an array, got {type(value).__name__}"
        )
    return value
