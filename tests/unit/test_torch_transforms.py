"""Tensors that only stand for others, or carry derivatives, are taken as torch means them or refused in words: never a
crash, never a wrong zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import recurc
from recurc import torch_function
from recurc.errors import ShapeError, UnsupportedError

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")

Call = Callable[..., Any]


@pytest.fixture(params=["first call", "fast way"])
def f(request: pytest.FixtureRequest) -> Call:
    """An EMA before its first call, and one that has seen tensors of these shapes."""
    made = recurc.zoo.load("ema").compile()
    if request.param == "fast way":
        for x in (torch.ones(2, 5, 3), torch.ones(5, 3)):
            made(x=x, alpha=torch.tensor(0.5))
            made(x=x, alpha=0.5)
    return made


X = torch.ones(2, 5, 3)
HALF = torch.tensor(0.5)


@pytest.mark.parametrize("number", [0.5, HALF], ids=["number", "tensor"])
def test_vmap(f: Call, number: Any) -> None:
    found = torch.func.vmap(lambda x: f(x=x, alpha=number))(X)
    torch.testing.assert_close(found, f(x=X, alpha=number), rtol=0, atol=0)


def test_forward_derivatives_are_not_silently_zero(f: Call) -> None:
    with pytest.raises(UnsupportedError, match="forward-mode derivatives"):
        torch.func.jvp(lambda x: f(x=x, alpha=0.5), (X,), (X,))
    with pytest.raises(UnsupportedError, match="forward-mode derivatives"):
        torch.func.jvp(lambda alpha: f(x=X, alpha=alpha), (HALF,), (HALF,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
        with pytest.raises(UnsupportedError, match="`x` carries a tangent"):
            f(x=dual, alpha=0.5)
        assert f(x=X, alpha=0.5).shape == X.shape


def test_functionalized_tensors(f: Call) -> None:
    found = torch.func.functionalize(lambda x: f(x=x, alpha=HALF))(X)
    torch.testing.assert_close(found, f(x=X, alpha=HALF), rtol=0, atol=0)


def test_freed_storage(f: Call) -> None:
    x = torch.ones(2, 5, 3)
    x.untyped_storage().resize_(0)
    with pytest.raises(UnsupportedError, match=r"`x` has no memory of its own.*storage freed"):
        f(x=x, alpha=HALF)


def test_fake_tensors(f: Call) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        y = f(x=torch.ones(2, 5, 3), alpha=0.5)
        assert (y.shape, y.dtype) == ((2, 5, 3), torch.float32)


def test_tracing(f: Call) -> None:
    with pytest.raises(UnsupportedError, match=r"torch\.jit\.trace does not see into a recurrence"):
        torch.jit.trace(lambda x: f(x=x, alpha=0.5), (X,))


def test_lengths_without_memory(f: Call) -> None:
    with pytest.raises(ShapeError, match="lengths should hold integers, got what NumPy cannot read"):
        f(x=X, alpha=0.5, lengths=torch.zeros(2, dtype=torch.int64, device="meta"))


def test_a_graph_that_torch_kept_on_disk_runs_where_it_was_never_traced(
    monkeypatch: pytest.MonkeyPatch, session_seed: int
) -> None:
    """The key of an operator's call is all there is then: of the forward pass as of the backward pass."""
    torch.manual_seed(session_seed % 2**31)
    rec = recurc.zoo.load("lstm")
    layer = rec.module(D=3, H=4, backend="numpy")
    x = torch.randn(2, 5, 3, requires_grad=True)
    torch.compile(lambda a: layer(a)[0].sum(), fullgraph=True, backend="aot_eager")(x).backward()
    asked: list[str] = []
    known = torch_function._KNOWN
    for key, compiled in list(known.items()):
        if compiled.recurrence.name.startswith("LSTM"):
            monkeypatch.delitem(known, key)
            again = torch_function._compiled(key)
            assert again is not compiled
            assert (again.recurrence, again.options) == (compiled.recurrence, compiled.options)
            asked.append(compiled.recurrence.name)
    assert {"LSTM", "LSTM_adjoint"} <= set(asked)
