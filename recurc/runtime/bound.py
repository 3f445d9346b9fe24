"""The fast way of a call: everything about it was checked when a call of the same signature went through the slow way.

What is left per call: reading the arrays' addresses, allocating the results, and the kernel itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from recurc.backends.base import BindableKernel
from recurc.runtime.host import HostKit, storage
from recurc.types import DType

if TYPE_CHECKING:
    from recurc.runtime.run import Run

Pack = Callable[[tuple[Any, ...], dict[str, Any], bool], Any]


def signature(
    arrays: Mapping[str, Any], initial: Mapping[str, Any] | None, return_final: bool, reverse: bool
) -> tuple[Any, ...] | None:
    """A key equal for two calls only if the checks of one answer for the other; None if there is no such key."""
    key: list[Any] = [return_final, reverse]
    torch = sys.modules.get("torch")
    for group in (arrays, initial) if initial else (arrays,):
        for name, value in group.items():
            kind = cast(object, type(value))
            if kind is np.ndarray:
                key += (name, value.shape, value.strides, value.dtype, value.flags.aligned)
            elif kind is float or isinstance(value, np.generic):
                key += (name, kind)
            elif (
                torch is not None
                and kind is torch.Tensor
                and value.device.type == "cpu"
                and value.layout is torch.strided
            ):
                if value.is_conj() or value.is_neg():
                    return None
                wanted = value.requires_grad and torch.is_grad_enabled()
                key += (name, torch, value.shape, value.stride(), value.dtype, wanted)
            else:
                return None
        key.append(None)
    return tuple(key)


class BoundCall:
    """A call by addresses. `direct`: an argument's place, group, name, offset and whether it is a tensor; `made`:
    place, group, name and how to make the array; `results`: place, shape, NumPy dtype, offset from its start and dtype
    of each output, then of each final value."""

    def __init__(
        self,
        call: Callable[[list[int]], None],
        template: list[int],
        direct: list[tuple[int, int, str, int, bool]],
        made: list[tuple[int, int, str, Callable[[Any], Any]]],
        results: list[tuple[int, tuple[int, ...], np.dtype[Any], int, DType]],
        finals: tuple[str, ...],
        finish: Callable[[tuple[Any, ...], dict[str, Any]], Any],
        publish: Callable[[Any, DType], Any] | None,
        alive: object,
    ) -> None:
        self._call, self._template, self._direct, self._made, self._results = call, template, direct, made, results
        self._finals, self._finish, self._publish, self._alive = finals, finish, publish, alive

    def __call__(self, arrays: Mapping[str, Any], initial: Mapping[str, Any] | None) -> Any:
        groups: tuple[Any, Any] = (arrays, initial)
        addresses = self._template.copy()
        for place, group, name, offset, tensor in self._direct:
            value = groups[group][name]
            addresses[place] = (value.data_ptr() if tensor else value.__array_interface__["data"][0]) + offset
        alive: list[Any] = []
        for place, group, name, make in self._made:
            array = make(groups[group][name])
            alive.append(array)
            addresses[place] = array.__array_interface__["data"][0]
        values: list[Any] = []
        for place, shape, dtype, offset, _ in self._results:
            array = np.empty(shape, dtype)
            addresses[place] = array.__array_interface__["data"][0] + offset
            values.append(array)
        self._call(addresses)
        if self._publish is not None:
            values = [self._publish(v, r[4]) for v, r in zip(values, self._results, strict=True)]
        count = len(values) - len(self._finals)
        return self._finish(tuple(values[:count]), dict(zip(self._finals, values[count:], strict=True)))


def bind(
    run: Run,
    received: Mapping[str, tuple[Any, bool]],
    arrays: Mapping[str, Any],
    remake: Mapping[str, Callable[[Any], Any]],
    finish: Callable[..., Any],
) -> BoundCall | None:
    """The fast way of the call that `run` just made, or None if its kernel or its arguments allow none.

    `received`: the arguments as the caller laid them out, in host memory, and whether each was a tensor; `arrays`: as
    prepared from those; `remake`: how to prepare such an argument again from what the caller gives."""
    built, kit = run.built, run.kit
    if not hasattr(built.kernel, "bind") or not isinstance(kit, HostKit) or run.batch == 0 or run.settled.steps == 0:
        return None
    constant = not any(run.builder.initial_reads[n] for n in built.initial if f"{n}@initial" not in arrays)
    if run.delayed or run.builder.remembered or not constant:
        return None
    kernel: BindableKernel = built.kernel  # type: ignore[assignment]  # it has `bind`
    outputs, finals = run.new_outputs(zero=False), run.new_finals(run.settled.batch)
    initial = run.initial_values(arrays, run.batch)
    args = run.arguments(
        arrays, initial, {n: v for n, (_, v) in outputs.items()}, {n: v for n, (_, v) in finals.items()}
    )
    places = {name: i for i, name in enumerate(kernel.arguments)}
    template = [0] * len(places)
    direct: list[tuple[int, int, str, int, bool]] = []
    made: list[tuple[int, int, str, Callable[[Any], Any]]] = []
    for name, place in places.items():
        group, key = int(name.endswith("@initial")), name.removesuffix("@initial")
        if name not in received:
            if name in args:
                template[place] = _address(args[name])
        elif np.may_share_memory(received[name][0], args[name]):
            array, tensor = received[name]
            direct.append((place, group, key, _address(args[name]) - _address(array), tensor))
        else:
            made.append((place, group, key, remake[name]))
    results: list[tuple[int, tuple[int, ...], np.dtype[Any], int, DType]] = []
    for name, (public, _) in outputs.items():
        place = places[built.outputs[name]]
        results.append(
            (place, public.shape, public.dtype, _address(args[built.outputs[name]]) - _address(public), run.dtype(name))
        )
    for name, (public, _) in finals.items():
        dtype = built.spec.dtype(run.builder.continuable[name].dtype)
        results.append((places[f"{name}@final"], public.shape, storage(dtype), 0, dtype))
    plain = not kit.tensors and all(r[4] is not DType.BF16 for r in results)
    call = kernel.bind(args, run.batch, run.settled.steps)
    if call is None:
        return None
    return BoundCall(
        call, template, direct, made, results, tuple(finals), finish, None if plain else kit.publish, (initial, kernel)
    )


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])
