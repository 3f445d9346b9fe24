"""What `make gpu` measures beside us: torch's eager loop, cuDNN's LSTM and GRU, and scan libraries where installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

Peer = tuple[str, Callable[[], object]]


def rnn_arrays(case: str, batch: int, steps: int, inputs: int, hidden: int, device: str, dtype: Any) -> dict[str, Any]:
    """x (B, T, D) and the params of the zoo's `lstm` or `gru` on the device."""
    import torch

    gates = 4 if case == "lstm" else 3
    make = torch.Generator(device="cpu").manual_seed(0)

    def draw(*shape: int) -> Any:
        return (torch.rand(*shape, generator=make) * 2 - 1).div(hidden**0.5).to(device, dtype)

    arrays = {
        "x": torch.randn(batch, steps, inputs, generator=make).to(device, dtype),
        "W": draw(gates, hidden, inputs),
    }
    arrays |= {"U": draw(gates, hidden, hidden), "b": draw(gates, hidden)}
    return arrays if case == "lstm" else arrays | {"d": draw(gates, hidden)}


def peers(case: str, arrays: dict[str, Any]) -> list[Peer]:
    """Other ways to compute the same case on the arrays' device; those that are not installed are left out."""
    match case:
        case "lstm" | "gru":
            return [_torch_rnn(case, arrays)]
        case "diagonal_affine":
            return [("torch eager loop", lambda: _affine_loop(arrays["a"], arrays["b"])), *_accelerated_scan(arrays)]
        case "selective_scan":
            return _mamba(arrays)
        case _:
            return []


def _torch_rnn(case: str, arrays: dict[str, Any]) -> Peer:
    """torch.nn's module, which runs cuDNN on a GPU."""
    import torch

    x = arrays["x"]
    hidden = arrays["U"].shape[-1]
    kind = torch.nn.LSTM if case == "lstm" else torch.nn.GRU
    module = kind(x.shape[-1], hidden, batch_first=True).to(x.device, x.dtype)

    def run() -> object:
        with torch.no_grad():
            return module(x)[0]

    return f"torch.nn.{kind.__name__} (cuDNN on a GPU)", run


def _affine_loop(a: Any, b: Any) -> Any:
    import torch

    h, out = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = torch.addcmul(b[:, t], a[:, t], h)
        out.append(h)
    return torch.stack(out, 1)


def _accelerated_scan(arrays: dict[str, Any]) -> list[Peer]:
    if importlib.util.find_spec("accelerated_scan") is None:
        return []
    scan: Any = importlib.import_module("accelerated_scan.warp").scan
    gates, tokens = (arrays[k].transpose(1, 2).contiguous() for k in ("a", "b"))
    steps = tokens.shape[-1]
    if steps & (steps - 1):
        return []  # it takes powers of two only
    return [("accelerated-scan", lambda: scan(gates, tokens))]


def _mamba(arrays: dict[str, Any]) -> list[Peer]:
    if importlib.util.find_spec("mamba_ssm") is None:
        return []
    scan: Any = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    x, delta, z, b, c = (arrays[k].transpose(1, 2).contiguous() for k in ("x", "delta", "z", "B", "C"))
    rate = -arrays["A_log"].exp()
    skip, bias = arrays["skip"], arrays["delta_bias"]
    return [("mamba-ssm", lambda: scan(x, delta, rate, b, c, skip, z=z, delta_bias=bias, delta_softplus=True))]
