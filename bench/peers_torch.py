"""The peers in torch: `torch.nn` layers without autograd, and an eager loop over time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


def selective_scan_eager(x: dict[str, np.ndarray]) -> Callable[[], torch.Tensor]:
    """S6 as an eager loop: what is free of the state is batched over T in front, the loop does the rest."""
    t = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in x.items()}

    @torch.no_grad()
    def run() -> torch.Tensor:
        u, dt = t["x"], torch.nn.functional.softplus(t["delta"] + t["delta_bias"])
        rate = -torch.exp(t["A_log"])
        du = dt * u
        h = torch.zeros(u.shape[0], *rate.shape)
        ys: list[torch.Tensor] = []
        for i in range(u.shape[1]):
            decay = torch.exp(dt[:, i, :, None] * rate)
            h = decay * h + du[:, i, :, None] * t["B"][:, i, None, :]
            ys.append(torch.bmm(h, t["C"][:, i, :, None]).squeeze(-1))
        y = torch.stack(ys, dim=1) + t["skip"] * u
        return y * torch.nn.functional.silu(t["z"])

    return run


def rnn(kind: str, x: np.ndarray, hidden: int, seed: int) -> tuple[Callable[[], torch.Tensor], dict[str, np.ndarray]]:
    """`torch.nn.LSTM` or `torch.nn.GRU` on x (B, T, D) without autograd, and its weights under recurc's names:
    `W[G, H, D]`, `U[G, H, H]`, and the two biases `b[G, H]`, `d[G, H]` (torch's gate orders are recurc's)."""
    torch.manual_seed(seed)
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](x.shape[-1], hidden, batch_first=True)
    given = torch.from_numpy(x)
    layer = layer.to(given.dtype)
    gates = {"lstm": 4, "gru": 3}[kind]

    def part(name: str, *shape: int) -> np.ndarray:
        return getattr(layer, name).detach().numpy().reshape(gates, hidden, *shape)

    weights = {
        "W": part("weight_ih_l0", x.shape[-1]),
        "U": part("weight_hh_l0", hidden),
        "b": part("bias_ih_l0"),
        "d": part("bias_hh_l0"),
    }

    @torch.no_grad()
    def run() -> torch.Tensor:
        return layer(given)[0]

    return run, weights
