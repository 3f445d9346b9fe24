"""The first-use self-check (`RECURC_VERIFY=1`): a fresh kernel against the reference on a small instance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc import ir
from recurc.backends import reference
from recurc.backends.base import Specialization
from recurc.backends.storage import bf16_bits, loaded
from recurc.errors import BackendError
from recurc.runtime.host import HostKit, storage
from recurc.runtime.rescaling import inner_starts, whole_finals
from recurc.runtime.specialize import Built
from recurc.types import Dims, DType, Kind, literal_size

_BATCH, _STEPS = 2, 6
_ROUNDING = {DType.F64: 2.0**-52, DType.F32: 2.0**-23, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}
# What random data of order one, a few steps and sums over a dim may lose in arithmetic, and what storing intermediate
# values may; both far below any wrong kernel's error.
_SLACK, _STORED = 64.0, 8.0

Initial = Callable[[str, Specialization, Mapping[str, NDArray[Any]]], NDArray[Any]]


def verify(rec: ir.Recurrence, built: Built, tensors: bool, initial: Initial) -> None:
    """Raises `BackendError` if results on random data are further from the reference than rounding allows."""
    rng = np.random.default_rng(0)
    spec = built.spec
    sizes = dict(spec.sizes)
    largest = max(sizes.values(), default=1)
    given: dict[str, NDArray[Any]] = {}
    for value in rec.inputs:
        given[value.name] = _random(rng, (_BATCH, _STEPS), value.dims, spec.dtype(value.dtype), sizes, 1.0)
    for value in rec.params:
        given[value.name] = _random(rng, (1,), value.dims, spec.dtype(value.dtype), sizes, 1 / math.sqrt(largest))
    args: dict[str, Any] = {n: np.broadcast_to(a, (_BATCH, *a.shape[1:])) for n, a in given.items()}
    inner = {n for s in built.stabilized.values() for n in (s.mantissa, s.top)}
    starts: dict[str, Any] = {}
    for name in (*(n for n in built.initial if n not in inner), *built.stabilized):
        start = initial(name, spec, {p: given[p] for p in (q.name for q in rec.params)})
        starts[f"{name}@initial"] = np.broadcast_to(start, (_BATCH, *start.shape[1:]))
    kit = HostKit(tensors=False)
    args |= starts | inner_starts(built, starts, (), kit, _BATCH)
    types = reference.value_types(rec)
    states = {s.name: s for s in rec.states}
    out: dict[str, NDArray[Any]] = {}
    for name, buffer in built.outputs.items():
        out[name] = args[buffer] = np.zeros(
            (_BATCH, _STEPS, *_shape(types[name][0], sizes)), storage(spec.dtype(types[name][1]))
        )
    for name in built.finals:
        value = built.initial[name]
        place = np.zeros((_BATCH, *_shape(value.dims, sizes)), storage(spec.dtype(value.dtype)))
        args[f"{name}@final"] = place
        if name in states:
            out[f"{name}@final"] = place
    whole = {n: np.zeros_like(args[f"{n}@initial"]) for n in built.stabilized}
    _call(built, args, tensors)
    whole_finals(built, whole, args, kit)
    out |= {f"{n}@final": a for n, a in whole.items()}
    expected = reference.run(rec, {n: loaded(a) for n, a in given.items()}, _BATCH, _STEPS, sizes)
    depth = _SLACK * _STEPS * (1 + math.sqrt(largest))
    bound = depth * _ROUNDING[spec.real.accumulator] + _STORED * _ROUNDING[spec.real]
    for name, got in out.items():
        want, have = expected[name], loaded(got)
        scale = float(np.max(np.abs(want[np.isfinite(want)]), initial=0.0)) + 1.0
        exact = want.dtype.kind not in "fc"
        with np.errstate(invalid="ignore"):
            off = np.where((have == want) | (np.isnan(have) & np.isnan(want)), 0.0, np.abs(have - want))
        worst = float(np.max(off, initial=0.0))
        if not worst <= (0.0 if exact else bound * scale):
            raise BackendError(
                f"the `{built.backend}` kernel of {rec.name} failed its self-check: `{name}` is {worst:.3g} away from "
                f"the reference on a batch of {_BATCH} with {_STEPS} steps; use another backend, and please report it"
            )


def _call(built: Built, args: dict[str, Any], tensors: bool) -> None:
    if not tensors:
        built.kernel(args, _BATCH, _STEPS)
        return
    from recurc.runtime import torch_ops

    torch_ops.call_with_host_arrays(built.kernel, args, _BATCH, _STEPS, built.spec.real)


def _random(
    rng: np.random.Generator, lead: tuple[int, ...], dims: Dims, dtype: DType, sizes: Mapping[str, int], scale: float
) -> NDArray[Any]:
    shape = (*lead, *_shape(dims, sizes))
    match dtype.kind:
        case Kind.BOOL:
            return rng.integers(0, 2, shape).astype(np.bool_)
        case Kind.INT:
            return rng.integers(0, 2, shape).astype(storage(dtype))
        case Kind.COMPLEX:
            return (scale * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))).astype(storage(dtype))
        case Kind.REAL:
            values = scale * rng.standard_normal(shape)
            return bf16_bits(values) if dtype is DType.BF16 else values.astype(storage(dtype))


def _shape(dims: Dims, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(literal_size(d) or sizes[d] for d in dims)
