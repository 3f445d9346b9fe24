"""Compiled recurrences as an operator of torch, `torch.ops.recurc.run`: what autograd, `torch.compile`, `vmap` and
autocast know of them.

One operator runs every recurrence; a key says which. Its outputs are those of the recurrence, then the final states.
Where derivatives are wanted, it runs a recurrence that puts out what its backward pass reads, too, and its derivative
is that pass, run by the same operator, which therefore has a derivative again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from recurc.arguments import Seen, Settled, settle
from recurc.errors import CompilerBug, UnsupportedError
from recurc.irtext import parse, to_text
from recurc.options import Options
from recurc.runtime import ends, torch_ops
from recurc.types import DType, literal_size

if TYPE_CHECKING:
    from recurc.compiled import Compiled
    from recurc.vjp import Differentiated

_KNOWN: dict[str, Compiled] = {}
_DIFFERENTIATED: dict[str, Differentiated] = {}  # those whose `forward` a key means


def key_of(compiled: Compiled, differentiated: Differentiated | None) -> str:
    """What the operator knows a compiled recurrence by: all that it was compiled from, as text. Equal ones have equal
    keys, in every process: torch keeps graphs on disk, which a process runs that has never traced what is in them."""
    operator()
    options = asdict(compiled.options)
    dtype = compiled.options.dtype
    key = json.dumps([to_text(compiled.recurrence), options | {"dtype": None if dtype is None else dtype.value}])
    _KNOWN.setdefault(key, compiled)
    if differentiated is not None:
        _DIFFERENTIATED.setdefault(key, differentiated)
    return key


def _compiled(key: str) -> Compiled:
    """The compiled recurrence of a key."""
    found = _KNOWN.get(key)
    if found is None:
        from recurc.compiled import Compiled

        text, options = json.loads(key)
        dtype = options["dtype"]
        found = Compiled(parse(text), Options(**options | {"dtype": None if dtype is None else DType(dtype)}))
        found = _KNOWN.setdefault(key, found)
    return found


def call(
    compiled: Compiled, arrays: Mapping[str, Any], initial: Mapping[str, Any], reverse: bool, lengths: Any,
    cu_seqlens: Any, steps: int | None, return_final: bool,
) -> tuple[list[Any], dict[str, Any]]:  # fmt: skip
    """Outputs in order and final states by name, by the operator; without `return_final` these may be anything."""
    import torch

    kinds = [v.dtype for v in (*arrays.values(), *initial.values()) if isinstance(v, torch.Tensor)]
    kind = next((k for k in kinds if k.is_floating_point), None)
    given, first = ({n: _tensor(v, kind) for n, v in own.items()} for own in (arrays, initial))
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (*given.values(), *first.values()))
    key, finals, gauges, tops = compiled.operator_key(wanted)
    first = ends.begun(tops, ends.moved_starts(gauges, first))
    values = given | {f"{n}@initial": v for n, v in first.items()}
    names, tensors = list(values), list(values.values())
    if torch.is_autocast_enabled(tensors[0].device.type):
        narrow = torch.get_autocast_dtype(tensors[0].device.type)
        tensors = [t.to(narrow) if t.dtype.is_floating_point and t.dtype != torch.float64 else t for t in tensors]
    counts = [None if c is None else torch.as_tensor(c, dtype=torch.int64) for c in (lengths, cu_seqlens)]
    for name, tensor in zip(names, tensors, strict=True):
        torch_ops.refuse_tangents(name, tensor)
    options = (key, ",".join(names), reverse, -1 if steps is None else steps, counts[0], counts[1])
    made = _again(options, tensors)
    own = made[: len(compiled.recurrence.outputs)]
    last = dict(zip(finals, made[len(made) - len(finals) :], strict=True))
    return own, ends.whole(tops, ends.moved_finals(gauges, last)) if return_final else last


def _tensor(value: Any, kind: Any) -> Any:
    """A tensor of what a caller gave; a plain real number in the type `kind` of the tensors beside it."""
    import torch

    if isinstance(value, torch.Tensor):
        return value
    return torch.as_tensor(value, dtype=kind if isinstance(value, float) else None)


def _split(arrays: Sequence[Any], names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and params, and initial values, by name."""
    given = dict(zip(names.split(",") if names else (), arrays, strict=True))
    initial = {n.removesuffix("@initial"): v for n, v in given.items() if n.endswith("@initial")}
    return {n: v for n, v in given.items() if not n.endswith("@initial")}, initial


def _run(
    arrays: list[Any], key: str, names: str, reverse: bool, steps: int, lengths: Any, cu_seqlens: Any
) -> list[Any]:
    compiled = _compiled(key)
    given, initial = _split([a.detach() for a in arrays], names)
    options = {"reverse": reverse, "lengths": lengths, "cu_seqlens": cu_seqlens, "steps": None if steps < 0 else steps}
    with torch_ops.without_autocast():
        results, finals = compiled(initial=initial, return_final=True, **options, **given)
    outputs = results if len(compiled.recurrence.outputs) > 1 else (results,)
    return [*outputs, *(finals[n] for n in compiled.final_names)]


def _settled(compiled: Compiled, arrays: Sequence[Any], names: str, packed: bool, steps: int) -> Settled:
    """What the arrays of a call agree on."""
    slots, options = compiled.slots(names.split(",")), compiled.options
    values = dict(zip(slots, arrays, strict=True))
    shared = {n: s for n, s in slots.items() if not (packed and s.role == "initial value")}
    seen = {n: Seen(tuple(values[n].shape), torch_ops.dtype_of(s, values[n])) for n, s in shared.items()}
    counted = None if steps < 0 else steps
    return settle(compiled.recurrence, shared, seen, options.layout, options.sizes, options.dtype, counted)


def _shapes(
    arrays: list[Any], key: str, names: str, reverse: bool, steps: int, lengths: Any, cu_seqlens: Any
) -> list[Any]:
    """Empty tensors like the results."""
    compiled, packed = _compiled(key), cu_seqlens is not None
    settled = _settled(compiled, arrays, names, packed, steps)
    sizes = dict(settled.sizes)

    def empty(dims: Sequence[str], dtype: Any, lead: tuple[Any, ...]) -> Any:
        shape = (*lead, *(literal_size(d) or sizes[d] for d in dims))
        return arrays[0].new_empty(shape, dtype=torch_ops.torch_dtype(dtype.settled(settled.real)))

    timed = (settled.steps, *settled.batch) if compiled.options.layout == "TB" else (*settled.batch, settled.steps)
    once = (cu_seqlens.shape[0] - 1,) if packed else settled.batch
    outputs = [empty(dims, dtype, timed) for dims, dtype in compiled.output_types]
    return outputs + [empty(dims, dtype, once) for dims, dtype in compiled.final_types]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Any]) -> None:
    arrays, key, names, reverse, steps, lengths, cu_seqlens = inputs
    differentiated = _DIFFERENTIATED.get(key)
    if differentiated is None:
        raise CompilerBug(f"{_compiled(key).recurrence.name} was run for a derivative, but is no forward pass")
    ctx.set_materialize_grads(False)  # what has no derivative arrives as None: the pass that reads none is far faster
    ctx.key, ctx.names, ctx.options = key, names, (reverse, steps)
    ctx.count = len(arrays)
    ctx.save_for_backward(*arrays, *output, lengths, cu_seqlens)


def _derivative(ctx: Any, grads: list[Any]) -> tuple[Any, ...]:
    from recurc.vjp import Pullback

    of = _DIFFERENTIATED[ctx.key]
    *tensors, lengths, cu_seqlens = ctx.saved_tensors
    arrays, output = tensors[: ctx.count], tensors[ctx.count :]
    given, initial = _split(arrays, ctx.names)
    compiled, (reverse, steps) = of.forward, ctx.options
    names = compiled.recurrence.outputs
    made = dict(zip(names, output, strict=False))
    finals = dict(zip(compiled.final_names, output[len(names) :], strict=True))
    own = of.rec.outputs
    pullback = Pullback(
        of,
        given,
        initial,
        {n: made[n] for n in own},
        finals,
        {n: made[n] for n in of.adjoint.saved},
        {d: int(n) for d, n in _settled(compiled, arrays, ctx.names, cu_seqlens is not None, steps).sizes},
        {"reverse": reverse, "lengths": lengths, "cu_seqlens": cu_seqlens, "steps": None if steps < 0 else steps},
    )
    last = {n: g for n, g in zip(finals, grads[len(names) :], strict=True) if g is not None and pullback.has_end(n)}
    found = pullback.of_derivative(grads[: len(own)], grads[len(own) : len(names)], last)
    starts = found.pop("initial")
    by_name = found | {f"{n}@initial": g for n, g in starts.items()}
    return [by_name.get(n) for n in ctx.names.split(",")], None, None, None, None, None, None


def _again(options: tuple[Any, ...], arrays: Sequence[Any]) -> list[Any]:
    """A call by the operator, or under transforms of `torch.func` by what these can take the derivative of."""
    import torch

    transform = "" if torch.compiler.is_compiling() else torch_ops.transform()
    if transform == "Jvp":
        raise UnsupportedError(
            "forward-mode derivatives (torch.func.jvp) are not supported yet: use vjp, grad or jacrev"
        )
    if transform in ("Grad", "Vmap"):
        return list(_function().apply(*options, *arrays))
    return list(torch.ops.recurc.run(list(arrays), *options))


def _over_batches(
    info: Any, in_dims: tuple[Any, ...], arrays: list[Any], key: str, names: str, reverse: bool, steps: int,
    lengths: Any, cu_seqlens: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """`vmap`: one batch dim more, in front of the others."""
    if cu_seqlens is not None:
        raise UnsupportedError("vmap over packed sequences is not supported yet: they have no batch dims")
    compiled = _compiled(key)
    slots = compiled.slots(names.split(","))
    dims, moved = list(in_dims[0]), list[Any]()
    own = [len(slots[n].dims) + (slots[n].role == "input") for n in names.split(",")]
    mapped = [a.ndim - (d is not None) - o for a, d, o in zip(arrays, dims, own, strict=True)]
    most = max(mapped, default=0)
    time_first = compiled.options.layout == "TB"
    for name, array, dim, batch in zip(names.split(","), arrays, dims, mapped, strict=True):
        if dim is not None:
            lead = int(time_first and slots[name].role == "input")
            array = array.movedim(dim, lead)
            array = array.reshape(*array.shape[: lead + 1], *(1,) * (most - batch), *array.shape[lead + 1 :])
        moved.append(array)
    if lengths is not None and in_dims[5] is not None:
        lengths = lengths.movedim(in_dims[5], 0)
    elif lengths is not None:
        lengths = lengths.expand(info.batch_size, *lengths.shape)
    made = _again((key, names, reverse, steps, lengths, None), moved)
    outputs = len(compiled.recurrence.outputs)
    return made, [int(time_first and i < outputs) for i in range(len(made))]


@cache
def operator() -> Any:
    """The operator, registered with torch."""
    import torch

    arguments = "Tensor[] arrays, str key, str names, bool reverse, int steps, Tensor? lengths, Tensor? cu_seqlens"
    run: Any = torch.library.custom_op("recurc::run", _run, mutates_args=(), schema=f"({arguments}) -> Tensor[]")
    run.register_fake(_shapes)
    run.register_autograd(_derivative, setup_context=_keep)
    run.register_vmap(_over_batches)
    return run


@cache
def _function() -> Any:
    """The same for the transforms of `torch.func`, which do not take derivatives of operators that Python defines."""
    import torch

    class Run(torch.autograd.Function):
        @staticmethod
        def forward(*values: Any) -> tuple[Any, ...]:
            return tuple(torch.ops.recurc.run(list(values[6:]), *values[:6]))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
            if inputs[0] in _DIFFERENTIATED:
                _keep(ctx, (inputs[6:], *inputs[:6]), list(output))

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            arrays, *rest = _derivative(ctx, list(grads))
            return (*rest, *arrays)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *values: Any) -> tuple[Any, Any]:
            dims = (in_dims[6:], *in_dims[:6])
            made, out = _over_batches(info, dims, list(values[6:]), *values[:6])
            return tuple(made), tuple(out)

    return Run
