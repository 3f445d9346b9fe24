"""Arguments of calls that no one should give get a typed error; odd but legal ones give the right numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.cli import invoke
from recurc.errors import BackendError, RecurcError, ShapeError, UnsupportedError

BACKENDS = ("reference", "numpy", "cpu")


def _ema(**options: Any) -> Any:
    return recurc.zoo.load("ema").compile(**options)


def _learned() -> Any:
    """A state whose initial value is a param."""
    source = "recurrence R(D):\n    input x[D]\n    param h0[D]\n    state h[D] = h0\n    h = h[t-1] + x\n    output h"
    return recurc.load(text=source).compile(sizes={"D": 4})


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((6, 4))


@pytest.mark.parametrize("option", ["initial", "return_final", "reverse", "lengths", "cu_seqlens", "steps"])
def test_a_param_named_like_an_option_of_a_call_is_refused_by_name(option: str) -> None:
    rec = recurc.load(text=f"recurrence R(D):\n    input x[D]\n    param {option}[D]\n    output y = x * {option}")
    with pytest.raises(UnsupportedError, match=f"`{option}`, which is also an option of a call"):
        rec.compile()


def test_an_input_may_be_named_self(x: np.ndarray) -> None:
    rec = recurc.load(text="recurrence R(D):\n    input self[D]\n    output y = 2 * self")
    np.testing.assert_allclose(rec.compile()(self=x), 2 * x)


@pytest.mark.parametrize("steps", [-1, 2.5, "a", True, float("nan"), [3], 10**30])
def test_steps_that_are_no_count(steps: Any) -> None:
    rec = recurc.load(text="recurrence R():\n    state h = 0\n    h = h[t-1] + 1\n    output h")
    with pytest.raises(ShapeError, match="steps should be an integer"):
        rec.compile()(steps=steps)
    assert rec.compile()(steps=np.int64(3)).tolist() == [1, 2, 3]


@pytest.mark.parametrize("flag", ["reverse", "return_final"])
def test_an_array_is_no_flag(flag: str, x: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=f"{flag} should be True or False, got ndarray"):
        _ema()(x=x, alpha=0.5, **{flag: x})


@pytest.mark.parametrize("batch", [-1, (-1,), 2.5, "a", None, 10**15])
def test_a_batch_that_is_no_count(batch: Any) -> None:
    with pytest.raises(ShapeError, match="batch should be an integer"):
        _ema(sizes={"D": 4}).init_state(batch=batch)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: _ema()(x=x, alpha=0.5, lengths=[6], cu_seqlens=[0, 6]), ShapeError, "not both"),
        (lambda x: _ema()(x=x, alpha=0.5, initial={1: 2}), ShapeError, "no state `1`"),
        (
            lambda x: _ema().step(None, x=x[0], alpha=0.5),
            ShapeError,
            r"as init_state\(\) or step\(\) gave it, got None",
        ),
        (lambda x: _ema().step({"h": x[0]}, x=[[1], [2, 3]], alpha=0.5), ShapeError, "unequal lengths"),
        (lambda x: _ema(schedule=3), UnsupportedError, "schedule=3"),
        (lambda x: _ema(device="foo"), UnsupportedError, "device='foo'"),
        (lambda x: _ema(sizes={1: 2}), ShapeError, "no dim `1`"),
        (lambda x: recurc.load(3), RecurcError, "got int"),  # type: ignore[arg-type]
        (lambda x: recurc.load(text=b"x"), RecurcError, "got bytes"),  # type: ignore[arg-type]
        (lambda x: recurc.zoo.load("ema").init_params(rng="a", D=3), ShapeError, "rng"),  # type: ignore[arg-type]
        (lambda x: _ema()(x=np.ma.array(x, mask=x > x.min()), alpha=0.5), ShapeError, "masked"),
        (lambda x: _ema()(x=x.astype(object), alpha=0.5), ShapeError, "elements of type object"),
        (lambda x: _ema()(x=np.broadcast_to(x[0, 0], (10**9, 10**6, 4)), alpha=0.5), BackendError, "input `x`"),
        (lambda x: _ema(sizes={"D": 3}).init_state(2**45), BackendError, r"init_state\(\) needs more memory"),
        (lambda x: _ema(sizes={"D": 2**31}), ShapeError, "dim `D`.*below 2..31"),
        (lambda x: recurc.zoo.load("lstm").init_params(D=10**6, H=10**9), BackendError, "param `W.* memory"),
        (lambda x: _ema()(x=x, alpha=0.5, lengths=[[1], [1, 2]]), ShapeError, "lengths.*unequal lengths"),
        (lambda x: _ema().step({"h": x[0]}, x=x[0], alpha=0.5, initial={}), ShapeError, "no option `initial`"),
        (lambda x: _ema(backend=["cpu"]), UnsupportedError, "no backend"),
        (lambda x: recurc.load("a\0b"), RecurcError, "null character"),
        (lambda x: _ema(sizes={"D": np.array([4])}), ShapeError, r"dim `D` should be a positive integer, got array"),
        (lambda x: _ema().init_state(2), ShapeError, r"size of D: give compile\(sizes=dict\(D=\.\.\.\)\)"),
        (lambda x: _ema(sizes={"D": 4}).init_state(2, alfa=x), ShapeError, "no input or param `alfa`; did you mean"),
        (lambda x: _learned().init_state(2, h0=x[0, :3]), ShapeError, r"param `h0`.* D = 4 .*got D = 3"),
        (
            lambda x: _learned().init_state(2, h0=x[:3]),
            ShapeError,
            r"param `h0` has batch dims \(3,\).*asked for \(2,\)",
        ),
        (lambda x: _learned().init_state(2, h0=[1, True, "a", None]), ShapeError, "param `h0` should be an array"),
    ],
)
def test_misuse_is_named(call: Callable[[np.ndarray], Any], error: type[Exception], words: str, x: np.ndarray) -> None:
    with pytest.raises(error, match=words):
        call(x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_lists_of_nothing_are_lengths_of_no_rows(backend: str, x: np.ndarray) -> None:
    f = _ema(backend=backend)
    y, final = f(x=x[None][:0], alpha=0.5, lengths=[], return_final=True)
    assert y.shape == (0, 6, 4) and final["h"].shape == (0, 4)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_named() -> None:
    torch = pytest.importorskip("torch")
    ragged = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)])
    with pytest.raises(ShapeError, match=r"input `x` is a nested tensor.*lengths="):
        _ema()(x=ragged, alpha=0.5)


def test_a_gpu_that_is_not_there_is_said_so() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match="no CUDA device"):
        _ema(device="cuda")


@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_sequences_meet_a_python_number(backend: str, x: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    y = _ema(backend=backend)(x=torch.tensor(x).bfloat16(), alpha=0.5)
    assert y.dtype is torch.bfloat16
    np.testing.assert_allclose(
        y.float().numpy(), _ema(backend="reference")(x=x, alpha=0.5), atol=0.05 * np.abs(x).max()
    )


def test_tensors_of_a_device_get_a_number_as_a_tensor_without_axes() -> None:
    torch = pytest.importorskip("torch")
    from recurc.arguments import Slot
    from recurc.runtime import torch_ops
    from recurc.types import DType

    slot = Slot("alpha", (), DType.REAL, "param")
    for value in (0.5, np.array(0.5, ">f8")):
        tensor, _ = torch_ops.receive(slot, value, torch.device("cpu"))
        assert torch_ops.prepare(slot, tensor, DType.F64, (), 3, (), "BT").tolist() == [0.5]


def test_results_never_take_the_place_of_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    np.save(tmp_path / "x.npy", np.ones((6, 4)))
    np.save(tmp_path / "alpha.npy", np.array(0.5))
    given = ["run", "zoo:ema", "--input", f"x={tmp_path}/x.npy", "--params", f"alpha={tmp_path}/alpha.npy"]
    assert invoke([*given, "--out", str(pipe)]) == 1
    assert pipe.is_fifo()
    assert "no ordinary file" in capsys.readouterr().err
    assert invoke([*given, "--plot", str(tmp_path / "x.foo")]) == 2
    assert "'x.foo' should end in one of .png" in capsys.readouterr().err


def test_a_closed_standard_output_is_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert invoke(["zoo"]) == 1
    assert "standard output is closed" in capsys.readouterr().err
