"""The reference against loops written by hand with NumPy and torch: nothing of recurc on the other side."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recurc import ir
from recurc.backends import reference
from recurc.build import matmul, reduce, rename, transpose
from recurc.errors import ShapeError
from recurc.ir import Apply, Const, Equation, Input, Param, Read, Recurrence, Size, State, Step
from recurc.ops import add, apply, cast, mul, number, select
from recurc.types import DimDecl, DType
from tests.systems import SYSTEMS, random_arrays, read

REAL = DType.REAL


def _torch_rnn(
    kind: type, arrays: dict[str, np.ndarray], gates: int, second_bias: str | None
) -> tuple[torch.nn.RNNBase, int]:
    hidden, inputs = arrays["W"].shape[-2:]
    module = kind(inputs, hidden, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        module.weight_ih_l0.copy_(torch.tensor(arrays["W"].reshape(gates * hidden, inputs)))
        module.weight_hh_l0.copy_(torch.tensor(arrays["U"].reshape(gates * hidden, hidden)))
        module.bias_ih_l0.copy_(torch.tensor(arrays["b"].reshape(-1)))
        module.bias_hh_l0.copy_(
            torch.tensor(arrays[second_bias].reshape(-1)) if second_bias else torch.zeros(gates * hidden)
        )
    return module, hidden


def test_lstm_agrees_with_torch(rng: np.random.Generator) -> None:
    arrays = random_arrays("lstm", rng, 3, 17)
    module, _ = _torch_rnn(torch.nn.LSTM, arrays, 4, None)
    out = reference.run(SYSTEMS["lstm"](), arrays, 3, 17)
    with torch.no_grad():
        start = tuple(torch.tensor(arrays[f"{s}@initial"])[None] for s in "hc")
        y, (h, c) = module(torch.tensor(arrays["x"]), start)
    assert np.abs(out["h"] - y.numpy()).max() <= 1e-12
    assert np.abs(out["h@final"] - h[0].numpy()).max() <= 1e-12
    assert np.abs(out["c@final"] - c[0].numpy()).max() <= 1e-12


def test_gru_agrees_with_torch(rng: np.random.Generator) -> None:
    arrays = random_arrays("gru", rng, 3, 17)
    module, _ = _torch_rnn(torch.nn.GRU, arrays, 3, "d")
    out = reference.run(SYSTEMS["gru"](), arrays, 3, 17)
    with torch.no_grad():
        y, h = module(torch.tensor(arrays["x"]), torch.tensor(arrays["h@initial"])[None])
    assert np.abs(out["h"] - y.numpy()).max() <= 1e-12
    assert np.abs(out["h@final"] - h[0].numpy()).max() <= 1e-12


def test_selective_scan_agrees_with_a_loop(rng: np.random.Generator) -> None:
    a = random_arrays("selective_scan", rng, 2, 11)
    h = a["h@initial"].copy()
    dt = np.log1p(np.exp(a["delta"] + a["delta_bias"]))
    expected = np.empty_like(a["x"])
    for t in range(11):
        decay = np.exp(-dt[:, t, :, None] * np.exp(a["A_log"]))
        h = decay * h + (dt[:, t] * a["x"][:, t])[:, :, None] * a["B"][:, t, None, :]
        y = np.einsum("bdn,bn->bd", h, a["C"][:, t]) + a["skip"] * a["x"][:, t]
        expected[:, t] = y * a["z"][:, t] / (1 + np.exp(-a["z"][:, t]))
    out = reference.run(SYSTEMS["selective_scan"](), a, 2, 11)
    np.testing.assert_allclose(out["y"], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(out["h@final"], h, rtol=1e-12, atol=1e-12)


def test_aaren_is_softmax_attention_over_the_past(rng: np.random.Generator) -> None:
    a = {n: v for n, v in random_arrays("aaren", rng, 2, 9).items() if "@" not in n}
    out = reference.run(SYSTEMS["aaren"](), a, 2, 9)
    for t in range(9):
        weights = np.exp(a["s"][:, : t + 1] - a["s"][:, : t + 1].max(axis=1, keepdims=True))
        expected = (weights[..., None] * a["v"][:, : t + 1]).sum(axis=1) / weights.sum(axis=1)[:, None]
        bound = 1e-12 * np.abs(a["v"]).max()  # a weighted mean: its terms may cancel, so the bound is on their size
        np.testing.assert_allclose(out["o"][:, t], expected, rtol=1e-12, atol=bound)


X = (Input("x", ("D",)),)


def _rec(states=(), equations=(), outputs=("y",), inputs=X, params=(), dims=("D",)) -> Recurrence:
    return Recurrence(
        "R",
        tuple(DimDecl(d) for d in dims),
        tuple(inputs),
        tuple(params),
        tuple(states),
        tuple(equations),
        tuple(outputs),
    )


def test_longer_lags_read_the_initial_value_before_the_first_step(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 6, 3))
    fibonacci = Equation("h", add(add(read("h", "D", lag=1), read("h", "D", lag=3)), read("x", "D", lag=2)))
    rec = _rec([State("h", ("D",), REAL, number(2.0))], [fibonacci], ("h",), [Input("x", ("D",), REAL, number(-1.0))])
    h = [np.full((2, 3), 2.0)] * 3
    past = [np.full((2, 3), -1.0)] * 2
    got = reference.run(rec, {"x": x}, 2, 6)["h"]
    for t in range(6):
        h.append(h[-1] + h[-3] + past[-2])
        past.append(x[:, t])
        np.testing.assert_allclose(got[:, t], h[-1], rtol=1e-14)


def test_initial_values_may_come_from_params_and_sizes(rng: np.random.Generator) -> None:
    start = mul(read("p", "D"), ir.Apply("cast", (Size("D"),), (), REAL))
    rec = _rec(
        [State("h", ("D",), REAL, start)],
        [Equation("h", add(read("h", "D", lag=1), read("x", "D")))],
        ("h",),
        params=[Param("p", ("D",))],
    )
    x, p = rng.standard_normal((2, 1, 4)), rng.standard_normal(4)
    np.testing.assert_allclose(reference.run(rec, {"x": x, "p": p}, 2, 1)["h"][:, 0], 4 * p + x[:, 0], rtol=1e-14)


def test_elementwise_operators_align_by_name_and_keep_the_left_order(rng: np.random.Generator) -> None:
    inputs = [Input("v", ("V",)), Input("k", ("K",)), Input("S", ("K", "V"))]
    y = add(mul(read("v", "V"), read("k", "K")), read("S", "K", "V"))
    v, k, s = (rng.standard_normal((2, 3, *shape)) for shape in ((4,), (5,), (5, 4)))
    got = reference.run(
        _rec(equations=[Equation("y", y)], inputs=inputs, dims=("K", "V")), {"v": v, "k": k, "S": s}, 2, 3
    )["y"]
    np.testing.assert_allclose(got, v[..., :, None] * k[..., None, :] + np.swapaxes(s, -1, -2), rtol=1e-14)


def test_matmul_contracts_by_name_with_batch_dims(rng: np.random.Generator) -> None:
    inputs = [Input("R", ("4", "N", "P", "P")), Input("h", ("N", "P"))]
    y = matmul(read("R", "4", "N", "P", "P"), read("h", "N", "P"))
    r, h = rng.standard_normal((2, 3, 4, 5, 6, 6)), rng.standard_normal((2, 3, 5, 6))
    got = reference.run(_rec(equations=[Equation("y", y)], inputs=inputs, dims=("N", "P")), {"R": r, "h": h}, 2, 3)["y"]
    np.testing.assert_allclose(got, np.einsum("btgnpq,btnq->btgnp", r, h), rtol=1e-12)


@pytest.mark.parametrize("op", ["sum", "prod", "max", "min", "argmax", "argmin"])
def test_reductions_over_named_dims(op: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 4, 5))
    rec = _rec(
        equations=[Equation("y", reduce(op, read("x", "D", "E"), ("D",)))],
        inputs=[Input("x", ("D", "E"))],
        dims=("D", "E"),
    )
    np.testing.assert_allclose(reference.run(rec, {"x": x}, 2, 3)["y"], getattr(np, op)(x, axis=2), rtol=1e-14)


def test_transpose_and_rename_move_axes(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 4, 5))
    y = rename(transpose(read("x", "D", "E")), ("A", "B"))
    rec = _rec(equations=[Equation("y", y)], inputs=[Input("x", ("D", "E"))], dims=("D", "E", "A", "B"))
    np.testing.assert_array_equal(reference.run(rec, {"x": x}, 2, 3, {"A": 5, "B": 4})["y"], np.swapaxes(x, -1, -2))


def test_selects_the_step_index_and_integers(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 5, 3))
    even = apply("eq", apply("mod", Step(), Const(2, DType.I64)), Const(0, DType.I64))
    rec = _rec(equations=[Equation("y", select(even, read("x", "D"), number(0.0)))])
    np.testing.assert_array_equal(
        reference.run(rec, {"x": x}, 2, 5)["y"], np.where(np.arange(5)[None, :, None] % 2 == 0, x, 0)
    )


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F32])
def test_explicit_casts_round_and_nothing_else_does(dtype: DType, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 5, 3))
    rounded = cast(cast(read("x", "D"), dtype), REAL)
    got = reference.run(_rec(equations=[Equation("y", rounded)]), {"x": x}, 2, 5)["y"]
    torch_type = {DType.F16: torch.float16, DType.BF16: torch.bfloat16, DType.F32: torch.float32}[dtype]
    value = torch.tensor(x).float() if dtype is DType.BF16 else torch.tensor(x)  # bf16 rounds through f32
    np.testing.assert_array_equal(got, value.to(torch_type).double().numpy())


def test_shorthand_operators_mean_their_numpy_column(rng: np.random.Generator) -> None:
    x = 3 * rng.standard_normal((2, 5, 3))
    for op, function in {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "elu": torch.nn.functional.elu,
    }.items():
        got = reference.run(
            _rec(equations=[Equation("y", Apply(op, (read("x", "D"),), ("D",), REAL))]), {"x": x}, 2, 5
        )["y"]
        np.testing.assert_allclose(got, function(torch.tensor(x)).numpy(), rtol=1e-12, atol=1e-12, err_msg=op)


def test_no_steps_give_empty_outputs_and_the_initial_state(rng: np.random.Generator) -> None:
    arrays = random_arrays("lstm", rng, 2, 0)
    out = reference.run(SYSTEMS["lstm"](), arrays, 2, 0)
    assert out["h"].shape == (2, 0, 7)
    np.testing.assert_array_equal(out["c@final"], arrays["c@initial"])


def test_a_size_nothing_gives_is_named() -> None:
    rec = _rec(
        [State("h", ("N",), REAL, number(math.pi))],
        [Equation("h", Read("h", 1, ("N",), REAL))],
        ("h",),
        inputs=[],
        dims=("N",),
    )
    with pytest.raises(ShapeError, match="size of N"):
        reference.run(rec, {}, 1, 2)
    assert reference.run(rec, {}, 1, 2, {"N": 3})["h"].shape == (1, 2, 3)


def test_an_infinite_state_is_multiplied_before_it_is_summed() -> None:
    """The sum over k of R[k] * -inf is no number when R has both signs, however cheaply the state is broadcast."""
    rec = _rec(
        [State("h", ("D",), REAL, number(-math.inf))],
        [Equation("y", matmul(read("R", "D"), read("h", "D", lag=1))), Equation("h", read("h", "D", lag=1))],
        ("y",),
        inputs=[],
        params=[Param("R", ("D",))],
    )
    assert np.isnan(reference.run(rec, {"R": np.array([0.5, -0.1])}, 1, 1)["y"][0, 0])
    assert reference.run(rec, {"R": np.array([0.5, 0.1])}, 1, 1)["y"][0, 0] == -math.inf
