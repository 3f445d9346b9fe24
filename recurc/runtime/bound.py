"""The fast way of a call: everything about it was checked when a call of the same signature went through the slow way.

What is left per call: reading the arrays' addresses, allocating the results, and the kernel itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from ctypes import addressof, c_char
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from recurc.backends.base import BindableKernel
from recurc.runtime import torch_ops
from recurc.runtime.host import HostKit, storage
from recurc.runtime.memory import allocator
from recurc.runtime.specialize import STEP
from recurc.types import DType

if TYPE_CHECKING:
    from recurc.runtime.run import Run
    from recurc.runtime.specialize import Built

Pack = Callable[[tuple[Any, ...], dict[str, Any], bool], Any]


def signature(
    arrays: Mapping[str, Any], initial: Mapping[str, Any] | None, return_final: bool, reverse: bool
) -> tuple[Any, ...] | None:
    """A key equal for two calls only if the checks of one answer for the other; None if there is no such key."""
    key: list[Any] = [return_final, reverse]
    if (initial is not None and not isinstance(initial, dict)) or torch_ops.forward_mode():
        return None
    for group in (arrays, initial) if initial else (arrays,):
        for name, value in group.items():
            kind = cast(object, type(value))
            if kind is np.ndarray:
                key += (name, value.shape, value.strides, value.dtype, value.flags.aligned)
            elif kind is float or isinstance(value, np.generic):
                key += (name, kind)
            elif (
                (torch := sys.modules.get("torch")) is not None
                and kind in (torch.Tensor, torch.nn.Parameter)
                and value.device.type == "cpu"
                and value.layout is torch.strided
                and not value.is_nested  # such a tensor has no shape
            ):
                wanted = value.requires_grad and torch.is_grad_enabled()
                if wanted or value.is_conj() or value.is_neg() or torch_ops.is_transforming():
                    return None
                key += (name, torch, value.shape, value.stride(), value.dtype)
            else:
                return None
        key.append(None)
    return tuple(key)


@dataclass(frozen=True)
class Direct:
    """An argument whose memory the kernel reads where it is."""

    place: int  # in the kernel's addresses
    group: int  # 0: inputs and params, 1: initial values
    name: str
    offset: int  # of the first element the kernel reads, in bytes
    tensor: bool


@dataclass(frozen=True)
class Made:
    """An argument that is converted first: `make` it from what the caller gives, or, a single number, store it."""

    place: int
    group: int
    name: str
    make: Callable[[Any], Any]
    number: np.dtype[Any] | None = None


@dataclass(frozen=True)
class Result:
    """An output or final value: what to allocate, and where in it the kernel starts to write."""

    place: int
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    offset: int
    dtype: DType


@dataclass(frozen=True)
class Counted:
    """How many steps there were, `(*batch)`, where a recurrence reads `t`."""

    batch: tuple[int, ...]
    steps: int

    def after(self, initial: Mapping[str, Any] | None) -> NDArray[np.int64]:
        """After a call that starts from `initial`."""
        before = 0 if initial is None else initial.get(STEP, 0)
        return np.asarray(np.asarray(before, np.int64) + np.full(self.batch, self.steps))  # + makes no 0-d arrays


_Scratch = tuple[list[int], list[Any]]  # addresses, with those of the arrays behind them filled in


@dataclass(frozen=True)
class Received:
    """An argument as the caller laid it out, in host memory, and how to prepare another like it."""

    array: Any
    tensor: bool
    again: Callable[[Any], Any]


class BoundCall:
    """A call by addresses. Memory that no caller sees is kept for the next call; calls of several threads at once each
    take their own."""

    def __init__(
        self,
        call: Callable[[Sequence[int]], None],
        template: Sequence[int],
        direct: Sequence[Direct],
        made: Sequence[Made],
        outputs: Sequence[Result],
        finals: Mapping[str, Result] | None,
        unseen: Sequence[Result],
        pack: Pack,
        publish: Callable[[Any, DType], Any] | None,
        built: Built,
        counted: Counted | None,
        alive: object,
    ) -> None:
        self.built, self._counted = built, counted
        self._call, self._template, self._unseen, self._alive = call, template, unseen, alive
        self._direct = [(d.place, d.group, d.name, d.offset, d.tensor) for d in direct]
        self._made = [m for m in made if m.number is None]
        self._numbers = [m for m in made if m.number is not None]
        self._stores = [(i, m.group, m.name) for i, m in enumerate(self._numbers)]
        self._results = [*outputs, *(finals or {}).values()]
        self._allocate = [(r.place, r.shape, r.stored, r.offset, allocator(r.shape, r.stored)) for r in self._results]
        self._outputs, self._finals = len(outputs), None if finals is None else tuple(finals)
        self._pack, self._publish = pack, publish
        self._free: list[_Scratch] = []

    def __call__(self, arrays: Mapping[str, Any], initial: Mapping[str, Any] | None) -> Any:
        groups: tuple[Any, Any] = (arrays, initial)
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = self._scratch()
        addresses, stored = scratch
        for place, group, name, offset, tensor in self._direct:
            value = groups[group][name]
            if tensor:
                start = torch_ops.address_of(name, value)
            else:
                try:  # takes a third of the time that NumPy's interface takes
                    start = addressof(c_char.from_buffer(value))
                except (TypeError, ValueError, BufferError):  # read-only or not contiguous
                    start = value.__array_interface__["data"][0]
            addresses[place] = start + offset
        for i, group, name in self._stores:
            stored[i][()] = groups[group][name]
        alive: list[Any] = []
        for m in self._made:
            array = m.make(groups[m.group][m.name])
            alive.append(array)
            addresses[m.place] = array.__array_interface__["data"][0]
        values: list[Any] = []
        for place, shape, dtype, offset, new in self._allocate:
            array: Any = new(shape, dtype)
            addresses[place] = addressof(c_char.from_buffer(array)) + offset
            values.append(array)
        self._call(addresses)
        self._free.append(scratch)
        if self._publish is not None:
            values = [self._publish(v, r.dtype) for v, r in zip(values, self._results, strict=True)]
        if self._finals is None:
            return values[0] if len(values) == 1 else self._pack(tuple(values), {}, False)
        finals = dict(zip(self._finals, values[self._outputs :], strict=True))
        if self._counted is not None:
            count = self._counted.after(initial)
            finals[STEP] = count if self._publish is None else self._publish(count, DType.I64)
        return self._pack(tuple(values[: self._outputs]), finals, True)

    def _scratch(self) -> _Scratch:
        addresses = list(self._template)
        stored = [np.empty((), m.number) for m in self._numbers]
        for m, number in zip(self._numbers, stored, strict=True):
            addresses[m.place] = _address(number)
        unseen = [np.empty(r.shape, r.stored) for r in self._unseen]
        for r, array in zip(self._unseen, unseen, strict=True):
            addresses[r.place] = _address(array) + r.offset
        return addresses, [*stored, *unseen]


def bind(
    run: Run, received: Mapping[str, Received], arrays: Mapping[str, Any], pack: Pack, return_final: bool
) -> BoundCall | None:
    """The fast way of the call that `run` just made, or None if its kernel or its arguments allow none.

    `received`: the arguments as the caller laid them out; `arrays`: as prepared from those."""
    built, kit = run.built, run.kit
    if not hasattr(built.kernel, "bind") or not isinstance(kit, HostKit) or run.batch == 0 or run.settled.steps == 0:
        return None
    if run.delayed or run.builder.remembered or built.stabilized:
        return None
    constant = not any(run.builder.initial_reads[n] for n in built.initial if f"{n}@initial" not in arrays)
    if not constant:
        return None
    kernel = cast(BindableKernel, built.kernel)
    outputs, finals = run.new_outputs(zero=False), run.new_finals(run.settled.batch)
    counted = Counted(run.settled.batch, run.settled.steps) if finals.pop(STEP, None) is not None else None
    initial = run.initial_values(built, arrays, run.batch)
    written, last = {n: v for n, (_, v) in outputs.items()}, {n: v for n, (_, v) in finals.items()}
    args = run.arguments(built, arrays, initial, written, last, run.reverse)
    call = kernel.bind(args, run.batch, run.settled.steps)
    if call is None:
        return None
    places = {name: i for i, name in enumerate(kernel.arguments)}
    template = [0] * len(places)
    direct: list[Direct] = []
    made: list[Made] = []
    for name, place in places.items():
        group, key = int(name.endswith("@initial")), name.removesuffix("@initial")
        if name not in received:
            if name in args:
                template[place] = _address(args[name])
            continue
        given = received[name]
        number = given.array.ndim == 0 and not given.tensor  # perhaps a Python number, which has no address of its own
        if not number and np.may_share_memory(given.array, args[name]):
            direct.append(Direct(place, group, key, _address(args[name]) - _address(given.array), given.tensor))
        else:
            plain = number and args[name].dtype != np.uint16
            made.append(Made(place, group, key, given.again, args[name].dtype if plain else None))
    results: list[Result] = []
    for name, (public, _) in outputs.items():
        buffer = built.outputs[name]
        start = _address(args[buffer]) - _address(public)
        results.append(Result(places[buffer], public.shape, public.dtype, start, run.dtype(name)))
    ends: dict[str, Result] = {}
    for name, (public, _) in finals.items():
        dtype = built.spec.dtype(run.builder.continuable[name].dtype)
        ends[name] = Result(places[f"{name}@final"], public.shape, storage(dtype), 0, dtype)
    as_stored = not kit.tensors and all(r.dtype is not DType.BF16 for r in (*results, *ends.values()))
    seen, unseen = (ends, ()) if return_final else (None, tuple(ends.values()))
    publish = None if as_stored else kit.publish
    return BoundCall(call, template, direct, made, results, seen, unseen, pack, publish, built, counted, initial)


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])
