"""`@recurc.jit`: a Python step function as a compiled recurrence."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from recurc.api import Recurrence
    from recurc.compiled import Compiled


class Jitted:
    """A step function that is called with whole sequences. `recurrence` is what it was traced into."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str | None,
        dims: Mapping[str, int | None] | None,
        options: Mapping[str, Any],
    ) -> None:
        self.function, self._name, self._dims, self._options = function, name, dims, dict(options)
        functools.update_wrapper(self, function)

    @cached_property
    def recurrence(self) -> Recurrence:
        """The `Recurrence`; raises `TraceError` or `ShapeError` if the function has no meaning as one."""
        from recurc.api import Recurrence
        from recurc.frontend.trace import trace

        return Recurrence(trace(self.function, self._name, self._dims))

    @cached_property
    def compiled(self) -> Compiled:
        """The recurrence compiled with the options given to `jit`."""
        return self.recurrence.compile(**self._options)

    def __call__(self, *positional: Any, **arrays: Any) -> Any:
        """As `Compiled.__call__`: inputs `(*batch, T, *dims)` and params by name."""
        return self.compiled(*positional, **arrays)

    def compile(self, **options: Any) -> Compiled:
        """As `Recurrence.compile`."""
        return self.recurrence.compile(**options)

    def step(self, state: Mapping[str, Any], **arrays: Any) -> tuple[Any, dict[str, Any]]:
        """As `Compiled.step`."""
        return self.compiled.step(state, **arrays)

    def __repr__(self) -> str:
        return f"<jit of {self.function.__name__}: {self.recurrence!r}>"


@overload
def jit(function: Callable[..., Any], /) -> Jitted: ...
@overload
def jit(
    *, name: str | None = None, dims: Mapping[str, int | None] | Sequence[str] | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Jitted]: ...
def jit(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    dims: Mapping[str, int | None] | Sequence[str] | None = None,
    **options: Any,
) -> Any:
    """Makes a recurrence of a step function whose arguments say what they are, e.g. `h: recurc.State["D"]`.

    A state's argument is its value one step before; the new one is returned: `return h`, `return h, y` or
    `return {"h": h, "c": c}, y`. `dims` gives the dims' order and default sizes, `options` go to `compile`."""
    header = dims if dims is None or isinstance(dims, Mapping) else dict.fromkeys(dims)
    if function is None:

        def decorate(found: Callable[..., Any]) -> Jitted:
            return Jitted(found, name, header, options)

        return decorate
    return Jitted(function, name, header, options)
