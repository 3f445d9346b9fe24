"""Recurrences in torch's autograd, in `torch.compile`, under `vmap`, `torch.func` and autocast: what training takes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.errors import ShapeError, UnsupportedError
from recurc.vjp import Pullback
from tests.zoo import cases
from tests.zoo.oracle import ORACLES

torch = pytest.importorskip("torch")
torch_function = pytest.importorskip("recurc.torch_function")

# A gate, a network, softmax, a matrix memory, complex numbers, an input of the step before, a state of the end, resets,
# whole numbers beside real ones.
SOME = (
    "ema", "lstm", "aaren", "gated_delta_net", "lru", "qrnn", "bidirectional_rnn", "episodic_lstm", "running_argmax",
)  # fmt: skip


def arguments(name: str, seed: int, steps: int = 3) -> tuple[recurc.Recurrence, dict[str, Any]]:
    """A system and its arguments as tensors of f64; those of real and complex numbers want a derivative."""
    rng = cases.generator(seed, name, steps)
    inputs, params = cases.draw(name, rng, steps)
    moved = {
        n: a + 1e-3 * rng.standard_normal(a.shape) if a.dtype.kind in "fc" else a for n, a in (inputs | params).items()
    }
    tensors = {n: torch.as_tensor(a) for n, a in moved.items()}
    return cases.load(name), {n: t.requires_grad_(t.is_floating_point() or t.is_complex()) for n, t in tensors.items()}


def as_function(f: Any, given: dict[str, Any], **options: Any) -> tuple[Any, list[Any]]:
    """A call as a function of what wants a derivative, with its outputs and final states that have one."""
    wanted = [n for n, t in given.items() if t.requires_grad]

    def function(*values: Any) -> tuple[Any, ...]:
        made, finals = f(**{**given, **dict(zip(wanted, values, strict=True))}, return_final=True, **options)
        found = (*cases.several(made), *finals.values())
        return tuple(v for v in found if v.is_floating_point() or v.is_complex())

    return function, [given[n] for n in wanted]


@pytest.mark.parametrize("name", SOME)
def test_first_and_second_derivatives_are_those_of_differences(name: str, session_seed: int) -> None:
    rec, given = arguments(name, session_seed)
    f = rec.compile(backend="numpy", sizes=ORACLES[name].sizes)
    function, values = as_function(f, given)
    assert torch.autograd.gradcheck(function, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


def test_a_gradient_takes_the_pass_without_derivatives_by_what_was_saved(
    session_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    derivatives = Pullback.derivatives

    def seen(self: Pullback, adj: Any, given: Any, ends: Any) -> Any:
        taken.append(adj is self.of.adjoint)
        return derivatives(self, adj, given, ends)

    monkeypatch.setattr(Pullback, "derivatives", seen)
    rec, given = arguments("lstm", session_seed)
    f, x = rec.compile(backend="numpy"), given["x"]
    torch.autograd.grad(f(**given).sin().sum(), list(given.values()))
    y, final = f(**given, return_final=True)
    torch.autograd.grad(y.sum() + final["c"].sin().sum(), list(given.values()))
    torch.autograd.grad(f(**given, return_final=True)[1]["h"].sum(), list(given.values()))
    torch.func.grad(lambda v: f(**{**given, "x": v}).sin().sum())(x)
    assert taken == [True] * 4
    (first,) = torch.autograd.grad(f(**given).sin().sum(), [x], create_graph=True)
    torch.autograd.grad(first.square().sum(), [x])
    assert taken[4:] == [True, True, False]  # the pass, its own, and that of what it had saved


@pytest.mark.parametrize("options", [{"reverse": True}, {"lengths": [3, 1]}, {"lengths": [1, 2], "reverse": True}])
def test_derivatives_of_ragged_and_reversed_calls(options: dict[str, Any], session_seed: int) -> None:
    for name in ("ema", "lstm", "aaren", "qrnn"):
        rec, given = arguments(name, session_seed)
        f = rec.compile(backend="numpy", sizes=ORACLES[name].sizes)
        function, values = as_function(f, given, **options)
        assert torch.autograd.gradcheck(function, values, fast_mode=True)


def test_derivatives_of_packed_sequences_are_those_of_each_by_itself(session_seed: int) -> None:
    rec, given = arguments("lstm", session_seed, steps=6)
    f = rec.compile(backend="numpy")
    x = given["x"][:1]
    params = {n: t for n, t in given.items() if n != "x"}
    h = torch.randn(3, params["U"].shape[1], dtype=torch.float64, requires_grad=True)
    packed, final = f(x=x[0], **params, cu_seqlens=[0, 2, 2, 6], initial={"h": h}, return_final=True)
    loss = packed.sin().sum() + (final["c"] * torch.arange(3.0)[:, None]).sum()
    apart: Any = torch.zeros((), dtype=torch.float64)
    for i, (start, end) in enumerate(((0, 2), (2, 2), (2, 6))):
        y, last = f(x=x[0, start:end], **params, initial={"h": h[i]}, return_final=True)
        apart = apart + y.sin().sum() + i * last["c"].sum()
    wanted = [given["x"], h, *params.values()]
    for one, other in zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(apart, wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_time_may_come_first_and_arguments_may_lack_batch_dims(session_seed: int) -> None:
    rec, given = arguments("lstm", session_seed, steps=4)
    x = given["x"]
    first = rec.compile(backend="numpy")(**given)
    second = rec.compile(backend="numpy", layout="TB")(**{**given, "x": x.transpose(0, 1)})
    one, other = (torch.autograd.grad(y.sin().sum(), list(given.values())) for y in (first, second))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    lone = {"x": x[0].detach().requires_grad_(), "h": torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)}
    params = {n: t.detach() for n, t in given.items() if n != "x"} | {"W": given["W"].detach().expand(2, -1, -1, -1)}
    size = params["U"].shape[-1]
    lone["h"] = torch.zeros(1, size, dtype=torch.float64, requires_grad=True)
    y = rec.compile(backend="numpy")(x=lone["x"], **params, initial={"h": lone["h"]})
    assert y.shape[0] == 2
    for value, gradient in zip(lone.values(), torch.autograd.grad(y.sum(), list(lone.values())), strict=True):
        assert gradient.shape == value.shape


def test_truncated_backpropagation_carries_detached_states(session_seed: int) -> None:
    rec, given = arguments("lstm", session_seed, steps=6)
    f, x = rec.compile(backend="numpy"), given["x"]
    params = {n: t for n, t in given.items() if n != "x"}
    y, state = f(x=x[:, :3], **params, return_final=True)
    z = f(x=x[:, 3:], **params, initial={n: v.detach() for n, v in state.items()})
    torch.testing.assert_close(torch.cat([y, z], 1), f(x=x, **params))
    (gradient,) = torch.autograd.grad(z.sum(), [x])
    assert not gradient[:, :3].any() and gradient[:, 3:].all()


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_the_operator_is_one_as_torch_wants_them(backend: str, session_seed: int) -> None:
    for name in ("ema", "lstm", "running_argmax"):
        rec, given = arguments(name, session_seed)
        f = rec.compile(backend=backend, sizes=ORACLES[name].sizes)
        names = ",".join(given)
        for lengths in (None, torch.tensor([3, 2])):
            call = (list(given.values()), f.operator_key(True)[0], names, False, -1, lengths, None)
            torch.library.opcheck(torch_function.operator(), call)


def test_compiled_by_torch_without_a_break(session_seed: int) -> None:
    rec, given = arguments("lstm", session_seed)
    f = rec.compile(backend="numpy")

    def model(x: Any, **params: Any) -> Any:
        y, final = f(x=2 * x, **params, return_final=True)
        return torch.tanh(y).sum() + final["c"].sum()

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    wanted = list(given.values())
    torch.testing.assert_close(compiled(**given), model(**given))
    for one, other in zip(
        torch.autograd.grad(compiled(**given), wanted), torch.autograd.grad(model(**given), wanted), strict=True
    ):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**given), model(**given))


def test_transforms_of_functions(session_seed: int) -> None:
    rec, given = arguments("ema", session_seed)
    f = rec.compile(backend="numpy")
    x, alpha = given["x"].detach(), given["alpha"].detach()
    several = torch.stack([alpha, alpha / 2, alpha / 3])
    mapped = torch.func.vmap(lambda a: f(x=x, alpha=a))(several)
    torch.testing.assert_close(mapped, torch.stack([f(x=x, alpha=a) for a in several]))
    rows = torch.func.vmap(torch.func.grad(lambda a, row: f(x=row, alpha=a).sin().sum()), in_dims=(None, 0))(alpha, x)
    whole = torch.func.grad(lambda a: f(x=x, alpha=a).sin().sum())(alpha)
    torch.testing.assert_close(rows.sum(), whole)
    h = torch.func.jacrev(torch.func.grad(lambda a: f(x=x, alpha=a).sin().sum()))(alpha)
    a = alpha.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(x=x, alpha=a).sin().sum(), a, create_graph=True)
    torch.testing.assert_close(h, torch.autograd.grad(first, a)[0])


def test_vmap_over_time_first_and_ragged_rows(session_seed: int) -> None:
    rec, given = arguments("ema", session_seed, steps=4)
    x = torch.stack([given["x"].detach(), given["x"].detach() + 1])  # (2, B, T, D)
    lengths = torch.tensor([[4, 2], [1, 3]])
    f = rec.compile(backend="numpy")
    mapped = torch.func.vmap(lambda x, n: f(x=x, alpha=0.5, lengths=n))(x, lengths)
    torch.testing.assert_close(
        mapped, torch.stack([f(x=a, alpha=0.5, lengths=n) for a, n in zip(x, lengths, strict=True)])
    )
    timed = rec.compile(backend="numpy", layout="TB")
    across = torch.func.vmap(lambda x: timed(x=x, alpha=0.5), in_dims=2, out_dims=2)(x.permute(2, 1, 0, 3))
    torch.testing.assert_close(across.permute(2, 1, 0, 3), f(x=x, alpha=0.5))


def test_autocast_is_respected(session_seed: int) -> None:
    rec, given = arguments("lstm", session_seed)
    single = {n: t.detach().float() for n, t in given.items()}
    f = rec.compile(backend="numpy")
    wide = f(**single)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = f(**single)
        assert f(**{n: t.double() for n, t in single.items()}).dtype is torch.float64
        single["W"].requires_grad_()
        f(**single).float().sum().backward()
    assert narrow.dtype is torch.bfloat16 and single["W"].grad.dtype is torch.float32
    torch.testing.assert_close(narrow.float(), wide, rtol=0, atol=0.05)


def test_what_has_no_derivative_says_so() -> None:
    x = torch.zeros(2, 3, 1, requires_grad=True)
    counter = recurc.load(
        text="recurrence C():\n    input n: int\n    state s: int = 0\n    s = s[t-1] + n\n    output s\n"
    )
    with pytest.raises(UnsupportedError, match="no real or complex numbers"):
        counter.compile().vjp(n=np.arange(3))
    with pytest.raises(UnsupportedError, match="packed"):
        torch.func.vmap(lambda x: recurc.zoo.load("ema").compile()(x=x, alpha=0.5, cu_seqlens=[0, 3]))(x)


# --- modules


@pytest.mark.parametrize(("name", "kind"), [("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)])
@pytest.mark.parametrize(("layers", "both"), [(1, False), (1, True), (3, False), (2, True)])
def test_a_module_with_the_weights_of_torch_computes_the_same(name: str, kind: Any, layers: int, both: bool) -> None:
    other = kind(5, 6, num_layers=layers, bidirectional=both, batch_first=True, dtype=torch.float64)
    layer = recurc.zoo.load(name).module(D=5, H=6, num_layers=layers, bidirectional=both, backend="numpy").double()
    assert layer.load_torch(other) is layer
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    start = torch.randn(layers * (1 + both), 3, 6, dtype=torch.float64, requires_grad=True)
    memory = torch.zeros_like(start)
    (y, final), (wanted, last) = (
        layer(x, initial={"h": start if layers * (1 + both) > 1 else start[0]}),
        other(x, (start, memory) if name == "lstm" else start),
    )
    torch.testing.assert_close(y, wanted)
    end = last[0] if name == "lstm" else last
    torch.testing.assert_close(final["h"], end if layers * (1 + both) > 1 else end[0])
    for one, two in zip(
        torch.autograd.grad(y.sin().sum(), [x, start]), torch.autograd.grad(wanted.sin().sum(), [x, start]), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_a_module_is_one_like_others() -> None:
    rec = recurc.zoo.load("lstm")
    torch.manual_seed(7)
    layer = rec.module(D=3, H=4, num_layers=2, dropout=0.5, backend="numpy")
    torch.manual_seed(7)
    same = rec.module(D=3, H=4, num_layers=2, dropout=0.5, backend="numpy")
    assert list(dict(layer.named_parameters())) == ["W_l0", "U_l0", "b_l0", "W_l1", "U_l1", "b_l1"]
    assert layer.W_l1.shape == (4, 4, 4) and all(
        torch.equal(a, b) for a, b in zip(layer.parameters(), same.parameters(), strict=True)
    )
    x = torch.randn(2, 5, 3)
    layer.eval()
    y, final = layer(x)
    assert final["h"].shape == (2, 2, 4) and "LSTM, D=3, H=4, num_layers=2, dropout=0.5" in repr(layer)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x)[0], y, rtol=0, atol=0)
    fresh = rec.module(D=3, H=4, num_layers=2, backend="numpy")
    fresh.load_state_dict(layer.state_dict())
    torch.testing.assert_close(fresh(x=x)[0], y, rtol=0, atol=0)
    layer.train()
    assert not torch.equal(layer(x)[0], y)
    assert layer.double()(x.double())[0].dtype is torch.float64
    assert layer.to("meta").W_l0.device.type == "meta"


def test_a_module_of_other_systems() -> None:
    labels = recurc.zoo.load("ctc_forward").module(N=3, Q=4, backend="numpy")
    assert dict(labels.named_buffers())["label"].dtype is torch.int64 and not list(labels.parameters())
    attention = recurc.zoo.load("gated_delta_net").module(H=2, K=3, V=2, backend="numpy")
    rec = recurc.zoo.load("gated_delta_net")
    given = [torch.randn(2, 4, *({"H": 2, "K": 3, "V": 2}[d] for d in s.dims)) for s in rec.inputs.values()]
    assert attention(*given)[0].shape == (2, 4, 2, 2)
    both = recurc.zoo.load("min_gru").module(D=3, H=4, num_layers=2, bidirectional=True, layout="TB", backend="numpy")
    y, final = both(torch.randn(5, 2, 3))
    assert y.shape == (5, 2, 8) and final["h"].shape == (4, 2, 4)


def test_modules_that_make_no_sense_are_refused() -> None:
    lstm = recurc.zoo.load("lstm")
    with pytest.raises(ShapeError, match="module\\(\\) needs the size of H"):
        lstm.module(D=3)
    with pytest.raises(ShapeError, match="no dim `K`"):
        lstm.module(D=3, H=4, K=5)
    with pytest.raises(ShapeError, match="dropout"):
        lstm.module(D=3, H=4, dropout=1.5)
    with pytest.raises(ShapeError, match="num_layers"):
        lstm.module(D=3, H=4, num_layers=0)
    with pytest.raises(ShapeError, match="1 inputs, got 2"):
        lstm.module(D=3, H=4)(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    with pytest.raises(UnsupportedError, match="one input and one output"):
        recurc.zoo.load("delta_net").module(K=3, V=3, num_layers=2)
    with pytest.raises(UnsupportedError, match="without dims"):
        recurc.load(text="recurrence S(D):\n    input x[D]\n    output y = sum(x, D)\n").module(D=2, bidirectional=True)
    with pytest.raises(UnsupportedError, match="do not fit"):
        recurc.zoo.load("min_gru").module(D=3, H=4).load_torch(torch.nn.GRU(3, 4))
    with pytest.raises(UnsupportedError, match="another number"):
        lstm.module(D=3, H=4).load_torch(torch.nn.LSTM(3, 4, num_layers=2))
    with pytest.raises(UnsupportedError, match="projections"):
        lstm.module(D=3, H=4).load_torch(torch.nn.LSTM(3, 4, proj_size=2))
    with pytest.raises(UnsupportedError, match="sizes differ"):
        lstm.module(D=3, H=5).load_torch(torch.nn.LSTM(3, 4))
