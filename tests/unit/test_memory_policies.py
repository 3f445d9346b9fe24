"""What a derivative keeps, by policy: the same derivatives from less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import recurc
from recurc.errors import UnsupportedError
from recurc.passes.residuals import segment_steps
from tests.zoo import cases

# Reads the input before, two steps back, and the index of the step.
OLDER = """
recurrence Older(D):
    input  x[D] = 0.5
    param  a[D]
    state  h[D] = 0

    h = tanh(a * h[t-1] + 0.3 * h[t-2] + x[t-1]) + x / (1 + t)
    output h
"""
POLICIES = ("fast", "balanced", "minimal")
STEPS = 11


def _case(name: str, rng: np.random.Generator) -> tuple[recurc.Recurrence, dict[str, Any]]:
    if name == "older":
        return recurc.load(text=OLDER), {"x": rng.standard_normal((3, STEPS, 2)), "a": rng.standard_normal(2)}
    rec = cases.load(name)
    inputs, params = cases.draw(name, rng, STEPS)
    return rec, {**inputs, **params}


@pytest.mark.parametrize(
    "options", [{}, {"reverse": True}, {"lengths": True}, {"lengths": True, "reverse": True}], ids=str
)
@pytest.mark.parametrize("name", ["older", "lstm", "gated_delta_net", "slstm"])
def test_derivatives_are_the_same_by_every_policy(name: str, options: dict[str, Any], rng: np.random.Generator) -> None:
    rec, arrays = _case(name, rng)
    first = next(iter(rec.inputs))
    batch = arrays[first].shape[0]
    if "lengths" in options:
        options = {**options, "lengths": np.array([STEPS, 4, 0, 7, 1][:batch])}
    _, finals = rec.compile(backend="numpy")(**arrays, return_final=True)
    start = {n: rng.standard_normal(v.shape) for n, v in finals.items() if v.dtype.kind == "f"}
    given: Any = None
    wanted: Any = None
    for policy in POLICIES:
        f = rec.compile(backend="numpy", memory=policy)
        (y, ends), back = f.vjp(**arrays, initial=start, return_final=True, **options)
        if given is None:
            given = rng.standard_normal(y.shape)
            by_final = {n: rng.standard_normal(v.shape) for n, v in ends.items() if v.dtype.kind == "f"}
            result = y, ends
        np.testing.assert_allclose(y, result[0], rtol=1e-12, atol=1e-12)
        found = back(given, by_final)
        wanted = found if wanted is None else wanted
        assert found.keys() == wanted.keys() and found["initial"].keys() == wanted["initial"].keys()
        for have, want in ((found, wanted), (found["initial"], wanted["initial"])):
            for n in have.keys() - {"initial"}:
                scale = max(1.0, np.abs(want[n]).max(initial=0.0))
                np.testing.assert_allclose(have[n], want[n], rtol=0, atol=1e-11 * scale, err_msg=f"{policy} {n}")


@pytest.mark.parametrize("layout", ["BT", "TB"])
@pytest.mark.parametrize("policy", POLICIES)
def test_torch_differentiates_by_every_policy(policy: str, layout: str, session_seed: int) -> None:
    torch.manual_seed(session_seed % 2**31)
    rec = cases.load("lstm")
    layers = [rec.module(D=3, H=4, num_layers=2, bidirectional=True, layout=layout, memory=m) for m in (policy, "fast")]
    layers[0].load_state_dict(layers[1].state_dict())
    x = torch.randn(2, STEPS, 3) if layout == "BT" else torch.randn(STEPS, 2, 3)
    xs = [x.clone().requires_grad_() for _ in layers]
    for layer, own in zip(layers, xs, strict=True):
        y, final = layer(own)
        (y.square().sum() + final["c"].sum()).backward()
    for have, want in zip([xs[0].grad, *(p.grad for p in layers[0].parameters())],
                          [xs[1].grad, *(p.grad for p in layers[1].parameters())], strict=True):  # fmt: skip
        assert have is not None and want is not None
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 16, 17])
def test_segments_cover_every_step_once(steps: int, rng: np.random.Generator) -> None:
    assert segment_steps(steps) ** 2 >= steps
    rec = cases.load("min_gru")
    params = {n: p.astype(np.float64) for n, p in rec.init_params(rng, D=3, H=2).items()}
    x = rng.standard_normal((2, steps, 3))
    found = {}
    for policy in POLICIES:
        y, back = rec.compile(backend="numpy", memory=policy).vjp(x=x, **params)
        found[policy] = back(np.ones_like(y))["x"]
        assert found[policy].shape == x.shape
        np.testing.assert_allclose(found[policy], found["fast"], rtol=1e-12, atol=1e-13)


def test_minimal_keeps_the_states_between_segments_alone(rng: np.random.Generator) -> None:
    rec = cases.load("gated_delta_net")
    inputs, params = cases.draw("gated_delta_net", rng, 100)
    _, back = rec.compile(backend="numpy", memory="minimal").vjp(**inputs, **params)
    assert len(back.starts) == 10
    assert all(set(s) == {"S"} for s in back.starts[1:])


def test_what_a_policy_cannot_do_is_said() -> None:
    rec = cases.load("lstm")
    with pytest.raises(UnsupportedError, match=r"fast.*balanced.*minimal"):
        rec.compile(memory="small")
    f = rec.compile(backend="numpy", memory="minimal")
    params = rec.init_params(0, D=2, H=2)
    with pytest.raises(UnsupportedError, match="packed"):
        f.vjp(x=np.ones((4, 2)), cu_seqlens=np.array([0, 4]), **params)
    text = "recurrence Mean(D):\n    input  x[D]\n    state  s[D] = 0\n\n    s = s[t-1] + x\n    output y = x - s[T]\n"
    with pytest.raises(UnsupportedError, match="final states"):
        recurc.load(text=text).compile(backend="numpy", memory="minimal").vjp(x=np.ones((4, 2)))


def test_minimal_is_compiled_by_torch_and_refuses_transforms_in_words(session_seed: int) -> None:
    torch.manual_seed(session_seed % 2**31)
    rec = cases.load("min_gru")
    f, plain = rec.compile(backend="cpu", memory="minimal"), rec.compile(backend="cpu")
    params = {n: torch.as_tensor(p) for n, p in rec.init_params(0, D=3, H=2).items()}
    x = torch.randn(4, STEPS, 3, requires_grad=True)
    torch.compile(lambda a: f(x=a, **params).square().sum(), fullgraph=True)(x).backward()
    assert x.grad is not None
    (want,) = torch.autograd.grad(plain(x=x, **params).square().sum(), [x])
    torch.testing.assert_close(x.grad, want, rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedError, match=r"torch\.func"):
        torch.func.grad(lambda a: f(x=a, **params).sum())(x.detach())
    torch.testing.assert_close(torch.func.vmap(lambda a: f(x=a, **params))(x.detach()), plain(x=x.detach(), **params))


@pytest.mark.parametrize("policy", POLICIES)
def test_shapes_that_do_not_fit_are_refused_by_every_policy(policy: str, rng: np.random.Generator) -> None:
    text = "recurrence Two(D):\n    input x[D], z[D]\n    state h[D] = 0\n\n    h = h[t-1] * z + x\n    output h\n"
    rec = recurc.load(text=text)
    f = rec.compile(backend="numpy", memory=policy)
    x, z = rng.standard_normal((2, STEPS, 3)), rng.standard_normal((2, STEPS + 9, 3))
    with pytest.raises(recurc.ShapeError, match="`z`"):
        f.vjp(x=x, z=z)
    with pytest.raises(recurc.ShapeError, match="`z`"):
        f.vjp(x=x)
    y, back = f.vjp(x=x, z=z[:, :STEPS])
    with pytest.raises(recurc.ShapeError, match="derivative by output `h`"):
        back(np.ones((2, STEPS + 9, 3)))
    with pytest.raises(recurc.ShapeError, match="there is no output `y`"):
        back({"y": y})
