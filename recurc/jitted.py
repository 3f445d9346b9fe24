"""`@recurc.jit`: a Python step function as a compiled recurrence."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from recurc.errors import TraceError

if TYPE_CHECKING:
    from recurc.api import Recurrence
    from recurc.compiled import Compiled

OPTIONS = ("backend", "schedule", "dtype", "layout", "device", "sizes")  # of `Recurrence.compile`


class Jitted:
    """A step function that is called with whole sequences. `recurrence` is what it was traced into."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str | None,
        dims: Mapping[str, int | str | None] | None,
        options: Mapping[str, Any],
    ) -> None:
        from recurc.frontend.step_function import check_function

        check_function(function)
        unknown = [o for o in options if o not in OPTIONS]
        if unknown:
            raise TraceError(f"jit has no option `{unknown[0]}`; it takes name, dims, {', '.join(OPTIONS)}")
        self.function, self._name, self._dims, self._options = function, name, dims, dict(options)
        functools.update_wrapper(self, function)

    @cached_property
    def recurrence(self) -> Recurrence:
        """The `Recurrence`; raises `TraceError` or `ShapeError` if the function has no meaning as one."""
        from recurc.api import Recurrence
        from recurc.frontend.step_function import step_function
        from recurc.frontend.trace import trace

        defaults = step_function(self.function).defaults
        return Recurrence(trace(self.function, self._name, self._dims), defaults)

    @cached_property
    def compiled(self) -> Compiled:
        """The recurrence compiled with the options given to `jit`."""
        return self.recurrence.compile(**self._options)

    def __call__(self, *positional: Any, **arrays: Any) -> Any:
        """As `Compiled.__call__`: inputs `(*batch, T, *dims)` and params by name. A param that is left out has the
        default of its argument. Inside a step function that is traced: the output at this step, as a cell (see
        `Recurrence.__call__`)."""
        from recurc.frontend.traced import recording

        if recording.get() is not None:
            return self.recurrence(*positional, **arrays)
        return self.compiled(*positional, **arrays)

    def compile(self, **options: Any) -> Compiled:
        """As `Recurrence.compile`."""
        return self.recurrence.compile(**options)

    def init_state(self, batch: Sequence[int] | int = (), **params: Any) -> dict[str, Any]:
        """As `Compiled.init_state`."""
        return self.compiled.init_state(batch, **params)

    def step(self, state: Mapping[str, Any], **arrays: Any) -> tuple[Any, dict[str, Any]]:
        """As `Compiled.step`."""
        return self.compiled.step(state, **arrays)

    def __reduce__(self) -> str:
        """Pickled and copied as functions are: by name, the one in its module."""
        return self.function.__qualname__

    def __repr__(self) -> str:
        traced = f": {self.recurrence!r}" if "recurrence" in vars(self) else ""  # a trace may fail, a repr must not
        return f"<jit of {self.function.__name__}{traced}>"


@overload
def jit(function: Callable[..., Any], /) -> Jitted: ...
@overload
def jit(
    *, name: str | None = None, dims: Mapping[str, int | str | None] | Sequence[str] | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Jitted]: ...
def jit(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    dims: Mapping[str, int | str | None] | Sequence[str] | None = None,
    **options: Any,
) -> Any:
    """Makes a recurrence of a step function whose arguments say what they are, e.g. `h: recurc.State["D"]`.

    A state's argument is its value one step before; the new one is returned: `return h`, `return h, y` or
    `return {"h": h, "c": c}, y`. `dims` gives the dims' order and default sizes, or, for a second name
    of a dim, that one (`dims={"S": None, "R": "S"}`); `options` go to `compile`."""
    if dims is None or isinstance(dims, Mapping):
        header = dims
    elif isinstance(dims, (tuple, list)):
        header = dict.fromkeys(dims)
    else:
        raise TraceError(f"dims={dims!r}: give the dims in order, as in dims=['D', 'H'] or dims={{'D': None, 'H': 64}}")
    if function is None:

        def decorate(found: Callable[..., Any]) -> Jitted:
            return Jitted(found, name, header, options)

        return decorate
    return Jitted(function, name, header, options)
