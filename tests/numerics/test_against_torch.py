"""LSTM and GRU are torch's: the same gates in the same order, to the last digits."""

from __future__ import annotations

import numpy as np
import pytest

import recurc

torch = pytest.importorskip("torch")

SHAPES = [(3, 57, 13, 29), (1, 2, 5, 3), pytest.param((2, 130, 48, 96), marks=pytest.mark.slow)]  # B, T, D, H


@pytest.mark.parametrize(("real", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_rnn_layers_agree_with_torch(
    kind: str, shape: tuple[int, ...], real: str, tolerance: float, backend: str, seed: int
) -> None:
    """Outputs and final states from given initial states. The bound is torch's own accuracy: both sides round
    about H terms per gate (error about sqrt(H) eps, 1e-15 or 6e-7 here) and the gates forget it."""
    batch, steps, width, hidden = shape
    torch.manual_seed(seed)
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](width, hidden, batch_first=True)
    layer = layer.to(getattr(torch, real))
    x, h0, c0 = (
        torch.randn(s, dtype=getattr(torch, real)) for s in ((batch, steps, width), (batch, hidden), (batch, hidden))
    )
    with torch.no_grad():
        state = (h0[None], c0[None]) if kind == "lstm" else h0[None]
        y, last = layer(x, state)
    gates = {"lstm": 4, "gru": 3}[kind]
    part = lambda name, *rest: getattr(layer, name).detach().numpy().reshape(gates, hidden, *rest)  # noqa: E731
    params = {"W": part("weight_ih_l0", width), "U": part("weight_hh_l0", hidden), "b": part("bias_ih_l0")}
    initial = {"h": h0.numpy()}
    if kind == "lstm":
        params["b"] = params["b"] + part("bias_hh_l0")
        initial["c"] = c0.numpy()
    else:
        params["d"] = part("bias_hh_l0")

    ours, final = recurc.zoo.load(kind).compile(backend=backend)(
        x=x.numpy(), **params, initial=initial, return_final=True
    )

    assert ours.dtype == np.dtype(real)
    np.testing.assert_allclose(ours, y.numpy(), rtol=0, atol=tolerance)
    ends = {"h": last[0], "c": last[1]} if kind == "lstm" else {"h": last}
    for name, value in ends.items():
        np.testing.assert_allclose(
            final[name], value[0].numpy(), rtol=0, atol=tolerance * 10 if name == "c" else tolerance
        )
