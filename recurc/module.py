"""`Recurrence.module`: a recurrence as a layer of torch, or several of them on top of each other, in one direction or
both, with trained parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from recurc.arguments import check_count, check_sizes, need_sizes, with_defaults
from recurc.errors import ShapeError, UnsupportedError
from recurc.types import Kind, literal_size

if TYPE_CHECKING:
    from recurc.api import Recurrence


class RecurrenceModule(torch.nn.Module):
    """A recurrence with parameters, drawn by their `~` initialisers (of torch's random numbers). See
    `Recurrence.module`.

    The parameters have the names of the recurrence; with several layers or both directions, `NAME_l0`,
    `NAME_l0_reverse`, `NAME_l1`, ..., as in torch.nn. Params of whole numbers and truth values are buffers."""

    def __init__(
        self,
        rec: Recurrence,
        sizes: Mapping[str, int],
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
    ) -> None:
        super().__init__()
        self.recurrence, self.num_layers = rec, check_count("num_layers", num_layers)
        self.bidirectional, self.dropout, self.layout = bool(bidirectional), float(dropout), layout
        if self.num_layers < 1:
            raise ShapeError("num_layers should be 1 or more, got 0")
        if not 0 <= self.dropout < 1:
            raise ShapeError(f"dropout should be a probability below 1, got {dropout}")
        # `torch.compile` traces a call, and cannot trace how a recurrence makes these when it is first asked for them.
        self._inputs, self._params, self._outputs = tuple(rec.inputs), tuple(rec.params), tuple(rec.outputs)
        first = with_defaults(rec.ir, check_sizes(rec.ir, sizes))
        need_sizes(rec.ir, first, "module()")
        self._check_stack()
        self._run = rec.compile(backend, schedule, layout=layout, memory=memory)
        self.sizes = [first]
        for _ in range(1, self.num_layers):
            self.sizes.append(self._above(self.sizes[-1]))
        for layer in range(self.num_layers):
            for backwards in range(1 + self.bidirectional):
                seed = int(torch.randint(2**31, ()))
                for name, value in rec.init_params(seed, **self.sizes[layer]).items():
                    tensor = torch.as_tensor(value, device=device)
                    where = self._name(name, layer, bool(backwards))
                    if tensor.is_floating_point() or tensor.is_complex():
                        if dtype is not None and tensor.is_floating_point():
                            tensor = tensor.to(dtype)
                        self.register_parameter(where, torch.nn.Parameter(tensor.clone()))
                    else:
                        self.register_buffer(where, tensor.clone())

    # --- how layers lie on each other

    @property
    def _single(self) -> bool:
        return self.num_layers == 1 and not self.bidirectional

    def _check_stack(self) -> None:
        """Raises `UnsupportedError` where outputs cannot be joined, or be the input of a layer above."""
        rec = self.recurrence
        if self.bidirectional and any(not s.dims for s in rec.outputs.values()):
            raise UnsupportedError(f"{rec.name} has an output without dims: two directions cannot be joined in it")
        if self.num_layers == 1:
            return
        one = len(rec.inputs) == 1 and len(rec.outputs) == 1
        ends = [*rec.inputs.values(), *rec.outputs.values()]
        if not one or any(len(s.dims) != 1 or s.dtype.kind is not Kind.REAL for s in ends):
            raise UnsupportedError(
                f"layers of {rec.name} cannot stand on each other: that takes one input and one output, each real and "
                "over one dim"
            )

    def _above(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The sizes of the layer above one of `sizes`."""
        rec = self.recurrence
        (given,), (made,) = (next(iter(v.values())).dims for v in (rec.inputs, rec.outputs))
        width = (literal_size(made) or sizes[made]) * (1 + self.bidirectional)
        if literal_size(given) not in (None, width):
            raise UnsupportedError(f"layers of {rec.name} cannot stand on each other: its input has {given} elements")
        kept = {d: n for d, n in sizes.items() if d != given and rec.dims[d].same_as != given}
        return with_defaults(rec.ir, kept | {given: width})

    def _name(self, param: str, layer: int, backwards: bool) -> str:
        return param if self._single else f"{param}_l{layer}" + "_reverse" * backwards

    # --- calling

    def forward(
        self,
        *inputs: torch.Tensor,
        initial: Mapping[str, Any] | None = None,
        lengths: Any = None,
        cu_seqlens: Any = None,
        steps: int | None = None,
        **named: torch.Tensor,
    ) -> tuple[Any, dict[str, Any]]:
        """Inputs `(*batch, T, *dims)` in source order or by name (`(T, *batch, *dims)` with `layout="TB"`); returns the
        output `(*batch, T, *dims)` (of both directions joined along its last dim; several: a named tuple) and the final
        states `(*batch, *dims)` by name.

        With several layers or both directions, final and initial states have one more axis in front, of length
        `num_layers * directions`: layer 0, layer 0 backwards, layer 1, ..., as in torch.nn; where the states of layers
        differ in size, they are tuples. `lengths`, `cu_seqlens` and `steps` are those of a compiled recurrence."""
        if len(inputs) > len(self._inputs):
            raise ShapeError(f"{self.recurrence.name} has {len(self._inputs)} inputs, got {len(inputs)}")
        arrays = dict(zip(self._inputs, inputs, strict=False)) | named
        finals: list[dict[str, Any]] = []
        out: Any = None
        for layer in range(self.num_layers):
            made: list[Any] = []
            for backwards in (False, True)[: 1 + self.bidirectional]:
                params = {p: getattr(self, self._name(p, layer, backwards)) for p in self._params}
                start = {} if initial is None else initial if self._single else {
                    s: v[len(finals)] for s, v in initial.items()
                }  # fmt: skip
                out, final = self._run(
                    initial=start, return_final=True, reverse=backwards, lengths=lengths, cu_seqlens=cu_seqlens,
                    steps=steps, **arrays, **params,
                )  # fmt: skip
                made.append(out)
                finals.append(final)
            out = self._joined(made)
            if layer + 1 < self.num_layers:
                out = torch.nn.functional.dropout(out, self.dropout, self.training)
                arrays = {self._inputs[0]: out}
        if self._single:
            return out, finals[0]
        return out, {s: _stacked([f[s] for f in finals]) for s in finals[0]}

    def _joined(self, made: list[Any]) -> Any:
        if len(made) == 1:
            return made[0]
        if len(self._outputs) == 1:
            return torch.cat(made, -1)
        return type(made[0])(*(torch.cat(pair, -1) for pair in zip(*made, strict=True)))

    def extra_repr(self) -> str:
        shown = [f"{d}={n}" for d, n in self.sizes[0].items()]
        usual = {"num_layers": 1, "bidirectional": False, "dropout": 0.0, "layout": "BT"}
        shown += [f"{n}={getattr(self, n)!r}" for n, v in usual.items() if getattr(self, n) != v]
        return ", ".join([self.recurrence.name, *shown])

    # --- weights from elsewhere

    @torch.no_grad()
    def load_torch(self, other: torch.nn.LSTM | torch.nn.GRU) -> RecurrenceModule:
        """Takes over the weights of a `torch.nn.LSTM` or `torch.nn.GRU` of the same layers, directions and sizes; for
        the systems `lstm` and `gru` of the zoo and others with their params. Gates stand in torch's order; of an LSTM
        the two biases become one. Raises `UnsupportedError` if they do not fit."""
        gates = {torch.nn.LSTM: 4, torch.nn.GRU: 3}.get(type(other))
        wanted = {"W": (str(gates), "H", "D"), "U": (str(gates), "H", "H"), "b": (str(gates), "H")}
        if gates == 3:
            wanted["d"] = ("3", "H")
        if gates is None or {n: s.dims for n, s in self.recurrence.params.items()} != wanted:
            raise UnsupportedError(
                f"weights of a {type(other).__name__} do not fit {self.recurrence.name}: `lstm` and `gru` of the zoo "
                "take those of torch.nn.LSTM and torch.nn.GRU"
            )
        if (other.num_layers, other.bidirectional) != (self.num_layers, self.bidirectional):
            raise UnsupportedError(f"this has {self.num_layers} layers, and the {type(other).__name__} another number")
        if getattr(other, "proj_size", 0):
            raise UnsupportedError("an LSTM with projections (proj_size) is another model")
        for layer in range(self.num_layers):
            for backwards in (False, True)[: 1 + self.bidirectional]:
                suffix = f"l{layer}" + "_reverse" * backwards
                own = {p: getattr(self, self._name(p, layer, backwards)) for p in wanted}
                first, second = getattr(other, f"weight_ih_{suffix}"), getattr(other, f"weight_hh_{suffix}")
                zero = torch.zeros(first.shape[0])
                left, right = (getattr(other, f"bias_{k}_{suffix}") if other.bias else zero for k in ("ih", "hh"))
                given = {"W": first, "U": second, "b": left + right if gates == 4 else left, "d": right}
                for name, param in own.items():
                    if given[name].numel() != param.numel():
                        raise UnsupportedError(f"the sizes differ: `{name}` of layer {layer} is {tuple(param.shape)}")
                    param.copy_(given[name].reshape(param.shape))
        return self


def _stacked(values: list[Any]) -> Any:
    return torch.stack(values) if len({v.shape for v in values}) == 1 else tuple(values)
