"""Torch tensors in, torch tensors out; nothing is detached behind the caller's back."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import recurc
from recurc.api import Recurrence
from tests.systems import SIZES, SYSTEMS, random_arrays

HOST = ("reference", "numpy")


def tensors(
    system: str, rng: np.random.Generator, dtype: torch.dtype = torch.float64
) -> tuple[Recurrence, dict[str, torch.Tensor]]:
    rec = Recurrence(SYSTEMS[system]())
    flat = random_arrays(system, rng, 2, 5)
    given = {n: torch.tensor(flat[n]) for n in rec.inputs}
    return rec, given | {n: torch.tensor(flat[n][0]) for n in rec.params}


@pytest.mark.parametrize("backend", HOST)
@pytest.mark.parametrize("system", SYSTEMS)
def test_tensors_give_the_same_numbers_as_arrays(system: str, backend: str, rng: np.random.Generator) -> None:
    rec, given = tensors(system, rng)
    f = rec.compile(backend=backend)
    y, final = f(**given, return_final=True)
    z, last = f(**{n: v.numpy() for n, v in given.items()}, return_final=True)
    assert isinstance(y, torch.Tensor) and y.dtype == torch.float64
    np.testing.assert_array_equal(y.numpy(), z)
    for name, value in final.items():
        assert isinstance(value, torch.Tensor)
        np.testing.assert_array_equal(value.numpy(), last[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_results_have_the_dtype_of_the_tensors(dtype: torch.dtype, rng: np.random.Generator) -> None:
    rec, given = tensors("gru", rng)
    want = rec.compile(backend="reference")(**{n: v.to(dtype).double() for n, v in given.items()})
    y, final = rec.compile(backend="numpy")(**{n: v.to(dtype) for n, v in given.items()}, return_final=True)
    assert y.dtype == dtype and final["h"].dtype == dtype
    bound = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}[dtype]
    assert (y.double() - want).abs().max() <= bound


def test_strided_conjugated_and_mixed_tensors_work(rng: np.random.Generator) -> None:
    rec, given = tensors("lstm", rng)
    f = rec.compile(backend="numpy")
    want = f(**given)
    moved = given | {"x": given["x"].transpose(0, 1).contiguous().transpose(0, 1), "W": given["W"].mT.contiguous().mT}
    torch.testing.assert_close(f(**moved), want, rtol=1e-13, atol=1e-14)
    mixed = given | {"b": given["b"].numpy()}
    assert isinstance(f(**mixed), torch.Tensor)
    torch.testing.assert_close(f(**mixed), want, rtol=0, atol=0)


def test_a_tensor_that_wants_a_gradient_gets_one_unless_gradients_are_off(rng: np.random.Generator) -> None:
    rec, given = tensors("ema", rng)
    given["x"].requires_grad_()
    f = rec.compile(backend="numpy")
    assert f(**given).requires_grad
    with torch.no_grad():
        y = f(**given)
    assert not y.requires_grad
    again = f(**given)  # also after a call of the same shape went without
    assert again.requires_grad
    torch.testing.assert_close(again.detach(), y, rtol=0, atol=0)


def test_tensors_that_are_no_dense_numbers_are_refused(rng: np.random.Generator) -> None:
    rec, given = tensors("ema", rng)
    f = rec.compile(backend="numpy")
    with pytest.raises(recurc.ShapeError, match="dense"):
        f(**given | {"x": given["x"].to_sparse()})
    with pytest.raises(recurc.ShapeError, match="real numbers"):
        f(**given | {"x": given["x"].long()})


def test_tensors_step_and_run_ragged(rng: np.random.Generator) -> None:
    rec, given = tensors("lstm", rng)
    f = rec.compile(backend="numpy", sizes=SIZES["lstm"])
    params = {n: given[n] for n in rec.params}
    y, final = f(**given, lengths=torch.tensor([5, 2]), return_final=True)
    z, last = f(x=given["x"][1, :2], **params, return_final=True)
    torch.testing.assert_close(y[1, :2], z)
    torch.testing.assert_close(final["c"][1], last["c"])
    state = f.init_state(batch=(2,), dtype=torch.float64)
    for t in range(5):
        out, state = f.step(state, x=given["x"][:, t], **params)
    torch.testing.assert_close(out[0], y[0, -1])
    assert isinstance(state["h"], torch.Tensor)


def test_nothing_imports_torch_before_it_is_used() -> None:
    code = (
        "import sys, numpy as np, recurc\n"
        "f = recurc.zoo.load('ema').compile(backend='numpy')\n"
        "f(x=np.zeros((3, 2)), alpha=0.5)\n"
        "@recurc.jit\n"
        "def g(h: recurc.State['D'], x: recurc.Input['D']):\n"
        "    h = 0.5 * h + np.exp(x)\n"
        "    return h\n"
        "g.recurrence\n"
        "print([m for m in ('torch', 'triton', 'sympy') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
