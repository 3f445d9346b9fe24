"""Tensors that only stand for others, or carry derivatives, are taken as torch means them or refused in words: never a
crash, never a wrong zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import recurc
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
