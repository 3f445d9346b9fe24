"""What a user is told who gives a recurrence the wrong thing: the argument, what it should be, what it is."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import BackendError, RecurcError, ShapeError, UnsupportedError
from recurc.api import Recurrence
from tests.systems import SYSTEMS

LSTM = Recurrence(SYSTEMS["lstm"]())
EMA = Recurrence(SYSTEMS["ema"]())
D, H = 3, 7


def arrays(**changes: Any) -> dict[str, Any]:
    """A right call of the LSTM with some arguments replaced; None leaves one out."""
    right = {"x": np.zeros((2, 5, D)), "W": np.zeros((4, H, D)), "U": np.zeros((4, H, H)), "b": np.zeros((4, H))}
    return {n: v for n, v in (right | changes).items() if v is not None}


def told(
    *patterns: str, compile: dict[str, Any] | None = None, call: dict[str, Any] | None = None, **changes: Any
) -> None:
    """The call fails with a `ShapeError` whose message has all the patterns."""
    f = LSTM.compile(backend="numpy", **(compile or {}))
    with pytest.raises(ShapeError) as raised:
        f(**arrays(**changes), **(call or {}))
    for pattern in patterns:
        assert re.search(pattern, str(raised.value)), f"{pattern!r} is not in: {raised.value}"


def test_a_right_call_is_right() -> None:
    assert LSTM.compile(backend="numpy")(**arrays()).shape == (2, 5, H)


def test_a_missing_input_is_named_with_its_dims() -> None:
    told("without", r"input `x` \(\*batch, T, D\)", x=None)
    told("without", r"param `U` \(\*batch, 4, H, H\)", U=None)


def test_an_unknown_name_gets_a_suggestion() -> None:
    told("`weights`", "it takes x, W, U, b", weights=np.zeros(3))
    f = EMA.compile(backend="numpy")
    with pytest.raises(ShapeError, match="did you mean `alpha`"):
        f(x=np.zeros((5, 2)), alhpa=0.5)


def test_too_few_axes_show_the_shape_that_is_wanted() -> None:
    told("input `x`", r"\(\*batch, T, D\)", r"got shape \(3,\)", "time axis T", x=np.zeros(D))
    told("param `W`", r"\(\*batch, 4, H, D\)", r"\(28, 3\)", W=np.zeros((4 * H, D)))
    told("input `x`", r"\(T, \*batch, D\)", compile={"layout": "TB"}, x=np.zeros(D))


def test_a_wrong_size_names_both_sides() -> None:
    told("param `W`", "D = 3", "input `x`", "got D = 4", r"\(4, 7, 4\)", W=np.zeros((4, H, 4)))
    told("param `U`", "4 = 4", "the recurrence", "got 4 = 3", U=np.zeros((3, H, H)))
    told("input `x`", "D = 64", "given to compile", "got D = 3", compile={"sizes": {"D": 64}})


def test_two_dims_that_are_the_same_size_by_declaration_must_agree() -> None:
    rec = recurc.load(text="recurrence R(A, B = A):\n    input x[A]\n    param p[B]\n    output y = sum(x, A) * p\n")
    with pytest.raises(ShapeError, match=r"one size.*A is 2 and B is 3|one size.*B is 3 and A is 2|is 3 .* is 2"):
        rec.compile(backend="reference")(x=np.zeros((4, 2)), p=np.zeros(3))


@pytest.mark.parametrize("backend", ["reference", "numpy", "auto"])
def test_a_renamed_dim_keeps_its_size(backend: str) -> None:
    """No backend may read past the end of what is renamed, nor repeat it."""
    rec = recurc.load(
        text="recurrence R(A, B):\n    input x[A], y[B]\n    param p[A]\n    state h[B] = p as [B]\n"
        "    h = h[t-1] + (x as [B]) * y\n    output h\n"
    )
    f = rec.compile(backend=backend)
    assert f(x=np.ones((4, 3)), y=np.ones((4, 3)), p=np.zeros(3))[-1].tolist() == [4, 4, 4]
    for small in (1, 2):
        with pytest.raises(ShapeError, match=rf"renames dim A to B .*A is {small} and B is 3"):
            f(x=np.ones((4, small)), y=np.ones((4, 3)), p=np.zeros(small))
        with pytest.raises(ShapeError, match=rf"renames dim A to B .*A is {small} and B is 3"):
            rec.compile(backend=backend, sizes={"A": small, "B": 3}).init_state(p=np.zeros(small))
    literal = recurc.load(text="recurrence R(A):\n    input x[A]\n    output y = x as [4]\n")
    with pytest.raises(ShapeError, match="A is 3 and 4 is 4"):
        literal.compile(backend=backend)(x=np.ones((2, 3)))


def test_arrays_are_given_by_name() -> None:
    with pytest.raises(ShapeError, match=r"by name: call it with x=..., W=..., U=..., b=..."):
        LSTM.compile(backend="numpy")(*arrays().values())
    with pytest.raises(ShapeError, match="sizes should map dims"):
        LSTM.compile(sizes=("D", 3))  # type: ignore[arg-type]  # the mistake that is tested


def test_batch_and_time_must_agree() -> None:
    rec = Recurrence(SYSTEMS["selective_scan"]())
    right = {n: np.zeros((2, 5, 3 if s.dims == ("D",) else 4)) for n, s in rec.inputs.items()}
    params = {"A_log": np.zeros((3, 4)), "skip": np.zeros(3), "delta_bias": np.zeros(3)}
    f = rec.compile(backend="numpy")
    with pytest.raises(ShapeError, match=r"T does not agree: input `z` has 6 steps .*input `C` has 5"):
        f(**right | {"z": np.zeros((2, 6, 3))}, **params)
    with pytest.raises(ShapeError, match=r"batch dims do not agree.*`z`.*\(3,\).*\(2,\)"):
        f(**right | {"z": np.zeros((3, 5, 3))}, **params)


def test_elements_of_the_wrong_kind_are_refused_with_the_conversion() -> None:
    told("input `x`", "real numbers", "i64", "float", x=np.zeros((2, 5, D), np.int64))
    told("param `b`", "truth|bool", b=np.zeros((4, H), bool))
    told("input `x`", "real numbers", "c128", x=np.zeros((2, 5, D), complex))
    told("input `x`", "array of numbers", "str", x="hello")
    told("input `x`", "array of numbers", "NoneType", call={"x": None}, x=None)
    told("input `x`", "array of numbers", "dict", x={"a": 1})
    told("input `x`", "unequal lengths", x=[[1.0, 2.0], [3.0]])
    rec = recurc.load(text="recurrence R:\n    input i: int\n    state s: int = 0\n    s = s[t-1] + i\n    output s\n")
    f = rec.compile(backend="numpy")
    assert f(i=np.array([1, 2, 3])).tolist() == [1, 3, 6]
    with pytest.raises(ShapeError, match=r"integers.*f64"):
        f(i=np.array([1.0, 2.0]))


@pytest.mark.parametrize("size", [0, -3, 2.5, math.nan, math.inf, "3", None, True])
def test_a_size_that_is_no_positive_integer_is_named(size: Any) -> None:
    with pytest.raises(ShapeError, match="`D` should be a positive integer"):
        LSTM.compile(sizes={"D": size})
    with pytest.raises(ShapeError, match="`H`"):
        LSTM.init_params(0, D=3, H=size)


def test_sizes_of_unknown_dims_and_missing_sizes() -> None:
    with pytest.raises(ShapeError, match=r"no dim `HH`.*did you mean `H`"):
        LSTM.compile(sizes={"HH": 3})
    with pytest.raises(ShapeError, match="size of H: give H="):
        LSTM.init_params(0, D=3)
    f = LSTM.compile(backend="numpy")
    with pytest.raises(ShapeError, match="D, H"):
        f.init_state(batch=2)


def test_initial_states_are_checked_like_arrays() -> None:
    told("no state `hidden`", "its states are h, c", call={"initial": {"hidden": np.zeros((2, H))}})
    told("initial value of `h`", r"\(\*batch, H\)", "H = 7", "got H = 6", call={"initial": {"h": np.zeros((2, 6))}})
    told("batch dims", "initial value of `h`", call={"initial": {"h": np.zeros((3, H))}})
    told("initial should map states to arrays", "'h'", "ndarray", call={"initial": np.zeros((2, H))})
    f = LSTM.compile(backend="numpy", sizes={"D": D, "H": H})
    with pytest.raises(ShapeError, match="lacks `c`"):
        f.step({"h": np.zeros((2, H))}, **arrays(x=np.zeros((2, D))))


def test_lengths_and_packed_bounds_are_checked() -> None:
    told("lengths", r"\(2,\)", call={"lengths": [1, 2, 3]})
    told("lengths", "between 0 and T = 5", "6", call={"lengths": [1, 6]})
    told("lengths", "integers", call={"lengths": [1.0, 2.0]})
    packed = {"x": np.zeros((5, D))}
    told("cu_seqlens", "0 to T = 5", call={"cu_seqlens": [0, 4]}, **packed)
    told("cu_seqlens", "rise", call={"cu_seqlens": [0, 4, 3, 5]}, **packed)
    told("packed sequences have no batch dims", call={"cu_seqlens": [0, 5]})
    told("initial value of `h`", "H = 7", call={"cu_seqlens": [0, 5], "initial": {"h": np.zeros((1, 6))}}, **packed)


def test_options_are_checked_when_they_are_given() -> None:
    with pytest.raises(UnsupportedError, match="no backend `gpu`; there are: auto, reference"):
        LSTM.compile(backend="gpu")
    with pytest.raises(UnsupportedError, match="BT"):
        LSTM.compile(layout="NTC")
    with pytest.raises(UnsupportedError, match="dtype='int8'"):
        LSTM.compile(dtype="int8")
    with pytest.raises(RecurcError, match=r"scan.*sequential|sequential"):
        LSTM.compile(backend="numpy", schedule="scan")
    with pytest.raises(UnsupportedError, match="no schedules"):
        LSTM.compile(backend="reference", schedule="scan")
    with pytest.raises(RecurcError, match="diagonal"):
        LSTM.compile(backend="numpy", schedule="diagonal")


def test_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(RecurcError, match="cannot read"):
        recurc.load(tmp_path / "none.rec")
    with pytest.raises(RecurcError, match="cannot read"):
        recurc.load(tmp_path)
    with pytest.raises(RecurcError, match="takes a file"):
        recurc.load()
    two = tmp_path / "two.rec"
    one = "recurrence {}(D):\n    input x[D]\n    output y = x\n"
    two.write_text(one.format("First") + "\n" + one.format("Second"), encoding="utf-8")
    with pytest.raises(RecurcError, match=r"2 recurrences .First, Second."):
        recurc.load(two)
    with pytest.raises(RecurcError, match="did you mean `Second`"):
        recurc.load(two, name="Secnd")
    assert recurc.load(two, name="Second").name == "Second"
    with pytest.raises(recurc.RecError) as raised:
        recurc.load(text="recurrence R(D):\n    input x[D]\n    output y = z\n")
    assert raised.value.diagnostics


def test_auto_announces_a_detour_and_a_named_backend_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    from recurc.backends import cpu

    monkeypatch.setattr(cpu.CpuBackend, "unavailable", lambda self: "no C compiler was found")
    call = {"x": np.zeros((2, 5, 3)), "alpha": 0.5}
    f = EMA.compile()
    with pytest.warns(RuntimeWarning, match=r"`numpy` backend instead of `cpu`.*no C compiler") as told:
        f(**call)
    assert told[0].filename == __file__  # the line that can do something about it
    assert f.backend == "numpy" and "no C compiler" in f.explain()
    with pytest.raises(BackendError, match="no C compiler"):
        EMA.compile(backend="cpu")(**call)


@pytest.mark.parametrize("options", [{"backend": "triton"}, {"backend": "cuda"}, {"device": "cuda"}])
def test_a_machine_without_torch_is_told_so(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"need torch.*pip install"):
        EMA.compile(**options)(x=np.zeros((2, 5, 3)), alpha=0.5)


@pytest.mark.parametrize("backend", ["reference", "numpy", "cpu"])
def test_a_machine_without_bf16_for_numpy_is_told_so(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(BackendError, match="pip install ml_dtypes"):
        EMA.compile(backend=backend, dtype="bf16")(x=np.zeros((2, 5, 3)), alpha=0.5)


def test_recurrences_show_themselves() -> None:
    assert repr(LSTM) == (
        "<recurrence LSTM(D, H): input x[D]; param W[4, H, D], U[4, H, H], b[4, H]; state h[H], c[H]; output h[H]>"
    )
    assert list(LSTM.states) == ["h", "c"] and LSTM.outputs["h"].dims == ("H",)
    zoo = recurc.zoo.load("selective_scan")
    assert zoo.dims["N"].default == 16 and zoo == recurc.load(text=zoo.to_text())
