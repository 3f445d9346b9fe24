"""The public face: `load`, `Recurrence` and what it compiles to."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from recurc import ir, passes
from recurc.errors import RecurcError
from recurc.types import Dims, DType

if TYPE_CHECKING:
    import numpy as np

    from recurc.compiled import Compiled
    from recurc.facts import Analysis
    from recurc.module import RecurrenceModule


@dataclass(frozen=True, slots=True)
class Signature:
    """What a dim, input, param, state or output of a recurrence is. A dim has a `default` size or is the `same_as`
    another; a param has the initialiser behind `~`; a state has its value before the first step."""

    dims: Dims
    dtype: DType
    default: int | None = None
    same_as: str | None = None
    init: ir.Initializer | None = None
    initial: ir.Expr | None = None


class Recurrence:
    """One step of a computation that is repeated over time, typed and checked. `ir` is its intermediate form;
    `defaults` are values of params that a call may leave out (those of a Python step function)."""

    def __init__(self, rec: ir.Recurrence, defaults: Mapping[str, Any] | None = None) -> None:
        self.ir, self.defaults = rec, dict(defaults or {})

    @property
    def name(self) -> str:
        return self.ir.name

    @property
    def doc(self) -> str:
        """The comment above it in the source."""
        return self.ir.doc

    @cached_property
    def dims(self) -> dict[str, Signature]:
        return {d.name: Signature((), DType.I64, default=d.default, same_as=d.same_as) for d in self.ir.dims}

    @cached_property
    def inputs(self) -> dict[str, Signature]:
        return {i.name: Signature(i.dims, i.dtype, initial=i.before) for i in self.ir.inputs}

    @cached_property
    def params(self) -> dict[str, Signature]:
        return {p.name: Signature(p.dims, p.dtype, init=p.init) for p in self.ir.params}

    @cached_property
    def states(self) -> dict[str, Signature]:
        return {s.name: Signature(s.dims, s.dtype, initial=s.initial) for s in self.ir.states}

    @cached_property
    def outputs(self) -> dict[str, Signature]:
        from recurc.backends.reference import value_types

        types = value_types(self.ir)
        return {name: Signature(*types[name]) for name in self.ir.outputs}

    def analyze(self, prove: bool = False) -> Analysis:
        """Groups of states with their class, legal schedules and the reasons; `prove` adds a symbolic proof (SymPy)."""
        return passes.analyze(self.ir, prove=prove)

    def to_text(self) -> str:
        """Formatted `.rec` text that loads back to an equal recurrence."""
        from recurc.frontend.render import to_text

        return to_text(self.ir)

    def adjoint(self) -> Recurrence:
        """The backward pass as a recurrence, which runs from the last step to the first: reverse mode.

        For each state `s` it has a state `d_s`: it starts from the derivative of a loss by the final value of `s` and
        ends as that by the initial one. For each param `p` it has a state `d_p`, a sum over the steps, and for each
        input `x` an output `d_x`. It reads what `s` was before each step as an input `s_prev`, and the derivatives by
        the outputs as `d_y` (`d_s_out` for an output that is a state).

        `Compiled.vjp` runs it, and what stands beside it: derivatives through `S[T]` and through initial values that
        are computed from params; of softmax accumulators it runs a pass that takes their maximum for a constant.
        Raises `UnsupportedError` for a recurrence of whole numbers or truth values alone."""
        from recurc.passes.adjoint import adjoint

        return Recurrence(adjoint(self.ir).back)

    def init_params(self, rng: int | np.random.Generator = 0, **sizes: int) -> dict[str, Any]:
        """New params `(*dims)` in float32 by their `~` initialisers; `rng` is a seed or a generator.

        Needs the size of every dim that has no default; raises `ShapeError` naming those that are missing."""
        import numpy as np

        from recurc.arguments import check_count, check_sizes, need_sizes, with_defaults
        from recurc.initializers import initial_params

        complete = with_defaults(self.ir, check_sizes(self.ir, sizes))
        need_sizes(self.ir, complete, "init_params()")
        if not isinstance(rng, np.random.Generator):
            rng = np.random.default_rng(check_count("rng (a seed)", rng))
        return initial_params(self.ir, rng, complete, self.defaults)

    def compile(
        self,
        backend: str = "auto",
        schedule: str = "auto",
        dtype: Any = None,
        layout: str = "BT",
        device: Any = None,
        sizes: Mapping[str, int] | None = None,
        memory: str = "fast",
    ) -> Compiled:
        """A function on arrays.

        `backend`: "reference" (the definition, float64), "numpy" (the plan interpreter), "cpu" (native code), "triton",
        "cuda", or "auto": the fastest that the arrays and this machine allow. `schedule`: "auto" or a name; an illegal
        one is refused with the reason. `dtype`: what reals are stored in (default: as the inputs). `layout`: "BT"
        for `(*batch, T, *dims)` or "TB" for `(T, *batch, *dims)`. `sizes` are optional: missing ones come from the
        arrays of a call; each new combination is specialised once and kept.

        `memory`: what a call that is differentiated keeps, beside its arguments and results. "fast": the states before
        each step that a derivative reads, and sums of products with weights; "balanced": those states; "minimal": the
        states before each of about sqrt(T) segments, which run a second time."""
        from recurc.compiled import Compiled
        from recurc.options import Options

        options = Options.checked(self.ir, backend, schedule, dtype, layout, device, sizes, memory)
        return Compiled(self.ir, options, self.defaults)

    def __call__(self, /, *values: Any, **named: Any) -> Any:
        """The recurrence as a cell, inside a step function that `recurc.jit` traces: its output at this step (several:
        a named tuple). Its states are private to this call.

        Values without a name are its inputs, then its params; also by name, an initial value of a state, or the dim
        that one of its dims is. Raises `TraceError` or `ShapeError` if they do not fit."""
        from recurc.frontend.traced import recording
        from recurc.frontend.traced_cells import call_cell

        if recording.get() is None:
            raise RecurcError(
                f"{self.name} is called with arrays once it is compiled, `f = rec.compile()`, then `f(...)`; as it is, "
                "it can be a cell of a step function that recurc.jit traces"
            )
        return call_cell(self.ir, self.defaults, values, named)

    def module(
        self,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        backend: str = "auto",
        schedule: str = "auto",
        layout: str = "BT",
        dtype: Any = None,
        device: Any = None,
        memory: str = "fast",
        **sizes: int,
    ) -> RecurrenceModule:
        """A `torch.nn.Module` around the recurrence, for dims of `sizes`: `y, final = layer(x)`.

        `num_layers` stand on each other, each with the output of the one below as its input and `dropout` between
        them; `bidirectional`: each in both directions, whose outputs are joined. `dtype` and `device` are those of the
        parameters; the others are as in `compile`. Raises `ShapeError` for a size that is missing, `UnsupportedError`
        where layers or directions cannot be joined, and `BackendError` without torch."""
        from recurc.runtime.torch_ops import library

        library()
        from recurc.module import RecurrenceModule

        return RecurrenceModule(
            self, sizes, num_layers=num_layers, bidirectional=bidirectional, dropout=dropout, backend=backend,
            schedule=schedule, layout=layout, dtype=dtype, device=device, memory=memory,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recurrence) and self.ir == other.ir

    def __hash__(self) -> int:
        return hash(self.ir)

    def __repr__(self) -> str:
        def shown(kind: str, values: Mapping[str, Signature]) -> str:
            return f"{kind} " + ", ".join(f"{n}[{', '.join(s.dims)}]" if s.dims else n for n, s in values.items())

        kinds = {"input": self.inputs, "param": self.params, "state": self.states, "output": self.outputs}
        inside = "; ".join(shown(kind, values) for kind, values in kinds.items() if values)
        return f"<recurrence {self.name}({', '.join(self.dims)}): {inside}>"

    def _repr_html_(self) -> str:
        """Source, picture, groups and plan, for a notebook."""
        from recurc.notebook import recurrence_html

        return recurrence_html(self.ir, self.to_text())


def load(
    path: str | PathLike[str] | None = None, *, text: str | None = None, name: str | None = None, roots: Any = None
) -> Recurrence:
    """The recurrence in a `.rec` file, or in `text`; `name` says which, if the file has several.

    Files that it uses (`use "other.rec"`) lie below its own folder; `roots` names other folders to read from. A text
    uses files only if `roots` are given.

    Raises `RecError` (with `.diagnostics`) for a wrong source, `UnsupportedError` for one this version cannot do, and
    `RecurcError` for a file that cannot be read or does not hold that recurrence."""
    from recurc import frontend
    from recurc.frontend.uses import folders

    if (path is None) == (text is None):
        raise RecurcError('load() takes a file, or source text: load("lstm.rec") or load(text="...")')
    given: tuple[tuple[Any, Any], ...] = ((path, (str, PathLike)), (text, str), (name, str))
    for value, kinds in given:
        if value is not None and not isinstance(value, kinds):
            raise RecurcError(f"load() takes a file name, source text or a name, got {type(value).__name__}")
    where = "the text" if path is None else fspath(path)
    if "\0" in where:
        raise RecurcError(f"cannot read {where!r}: a file name has no null characters")
    if path is None:
        found = frontend.load_text(text or "", roots=folders(roots))
    else:
        try:
            found = frontend.load_file(fspath(path), folders(roots))
        except OSError as trouble:
            raise RecurcError(f"cannot read {where}: {trouble.strerror or trouble}") from trouble
    names = [rec.name for rec in found]
    if name is None:
        if len(found) != 1:
            raise RecurcError(f"{where} has {len(found)} recurrences ({', '.join(names)}): say which with name=")
        return Recurrence(found[0])
    for rec in found:
        if rec.name == name:
            return Recurrence(rec)
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean `{close[0]}`?" if close else f"it has {', '.join(names)}"
    raise RecurcError(f"{where} has no recurrence `{name}`; {hint}")


def compile(recurrence: Recurrence | str | PathLike[str], **options: Any) -> Compiled:
    """`Recurrence.compile` of a recurrence or of the one in a `.rec` file."""
    return (recurrence if isinstance(recurrence, Recurrence) else load(recurrence)).compile(**options)


__all__ = ["Recurrence", "Signature", "compile", "load"]
