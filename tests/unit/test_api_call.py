"""How arrays go in and come out: batch dims, layouts, broadcasting, strides, dtypes, ragged batches, single steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.api import Recurrence
from recurc.backends import reference
from tests.systems import SIZES, SYSTEMS, random_arrays

BACKENDS = ("reference", "numpy")
Case = tuple[Recurrence, dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]


def case(system: str, rng: np.random.Generator, batch: tuple[int, ...], steps: int) -> Case:
    """The recurrence, its inputs (*batch, T, *dims), params (*dims) and initial states (*batch, *dims)."""
    rec = Recurrence(SYSTEMS[system]())
    flat = random_arrays(system, rng, int(np.prod(batch, dtype=int)), steps)
    inputs = {n: flat[n].reshape(*batch, steps, *flat[n].shape[2:]) for n in rec.inputs}
    params = {n: flat[n][0] for n in rec.params}
    initial = {n: flat[f"{n}@initial"].reshape((*batch, *flat[f"{n}@initial"].shape[1:])) for n in rec.states}
    return rec, inputs, params, initial


def expected(
    rec: Recurrence, inputs: dict, params: dict, initial: dict, batch: tuple[int, ...], steps: int
) -> dict[str, np.ndarray]:
    """By the reference's own function, on flattened arrays."""
    count = int(np.prod(batch, dtype=int))
    arrays = {n: v.reshape(count, steps, *v.shape[len(batch) + 1 :]) for n, v in inputs.items()} | params
    arrays |= {f"{n}@initial": v.reshape(count, *v.shape[len(batch) :]) for n, v in initial.items()}
    out = reference.run(rec.ir, arrays, count, steps)
    lead = {n: batch if n.endswith("@final") else (*batch, steps) for n in out}
    return {n: v.reshape((*lead[n], *v.shape[1 if n.endswith("@final") else 2 :])) for n, v in out.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("system", SYSTEMS)
def test_any_number_of_batch_dims(system: str, batch: tuple[int, ...], backend: str, rng: np.random.Generator) -> None:
    rec, inputs, params, initial = case(system, rng, batch, 6)
    want = expected(rec, inputs, params, initial, batch, 6)
    y, final = rec.compile(backend=backend)(**inputs, **params, initial=initial, return_final=True)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, want[rec.ir.outputs[0]], rtol=1e-11, atol=1e-11)
    assert set(final) == set(rec.states)
    for name, value in final.items():
        np.testing.assert_allclose(value, want[f"{name}@final"], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_time_first_is_the_same_numbers_with_axes_moved(
    batch: tuple[int, ...], reverse: bool, rng: np.random.Generator
) -> None:
    rec, inputs, params, initial = case("lstm", rng, batch, 5)
    plain = rec.compile(backend="numpy")(**inputs, **params, initial=initial, reverse=reverse)
    moved = {n: np.moveaxis(v, len(batch), 0) for n, v in inputs.items()}
    timed = rec.compile(backend="numpy", layout="TB")(**moved, **params, initial=initial, reverse=reverse)
    np.testing.assert_array_equal(np.moveaxis(timed, 0, len(batch)), plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reverse_runs_from_the_last_step_and_aligns_outputs_with_inputs(backend: str, rng: np.random.Generator) -> None:
    rec, inputs, params, initial = case("gru", rng, (3,), 6)
    f = rec.compile(backend=backend)
    y, final = f(**inputs, **params, initial=initial, reverse=True, return_final=True)
    flipped = {n: v[:, ::-1].copy() for n, v in inputs.items()}
    z, last = f(**flipped, **params, initial=initial, return_final=True)
    np.testing.assert_allclose(y, z[:, ::-1], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(final["h"], last["h"], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(final["h"], y[:, 0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_without_batch_dims_of_their_own_broadcast(backend: str, rng: np.random.Generator) -> None:
    rec, inputs, params, _ = case("selective_scan", rng, (2, 3), 4)
    shared = inputs | {"B": inputs["B"][0, 0], "C": inputs["C"][:1]}
    full = shared | {n: np.broadcast_to(shared[n], inputs[n].shape).copy() for n in ("B", "C")}
    f = rec.compile(backend=backend)
    np.testing.assert_array_equal(f(**shared, **params), f(**full, **params))


@pytest.mark.parametrize("backend", BACKENDS)
def test_params_may_differ_per_sequence(backend: str, rng: np.random.Generator) -> None:
    rec, inputs, _, _ = case("ema", rng, (3,), 5)
    alpha = rng.uniform(0.1, 0.9, 3)
    f = rec.compile(backend=backend)
    together = f(**inputs, alpha=alpha)
    for i in range(3):
        np.testing.assert_allclose(together[i], f(x=inputs["x"][i], alpha=alpha[i]), rtol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_and_read_only_arrays_work_and_stay_as_they_are(backend: str, rng: np.random.Generator) -> None:
    rec, inputs, params, _ = case("lstm", rng, (3,), 5)
    f = rec.compile(backend=backend)
    want = f(**inputs, **params)
    wide = np.zeros((6, 10, 2 * inputs["x"].shape[2]))
    wide[::2, ::2, ::2] = inputs["x"]
    strided = wide[::2, ::2, ::2]
    strided.flags.writeable = False
    transposed = {n: np.asfortranarray(v) for n, v in params.items()}
    for value in transposed.values():
        value.flags.writeable = False
    np.testing.assert_array_equal(f(x=strided, **transposed), want)
    np.testing.assert_array_equal(strided, inputs["x"])
    swapped = inputs["x"].astype(inputs["x"].dtype.newbyteorder())
    np.testing.assert_array_equal(f(x=swapped, **params), want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [(), (3,), (0,)], ids=str)
def test_no_steps_or_no_sequences_give_empty_outputs_and_the_initial_states(
    batch: tuple[int, ...], backend: str, rng: np.random.Generator
) -> None:
    rec, inputs, params, initial = case("lstm", rng, batch, 0)
    f = rec.compile(backend=backend)
    y, final = f(**inputs, **params, initial=initial, return_final=True)
    assert y.shape == (*batch, 0, SIZES["lstm"]["H"])
    np.testing.assert_array_equal(final["c"], initial["c"])
    _, final = f(**inputs, **params, return_final=True)
    np.testing.assert_array_equal(final["h"], np.zeros((*batch, SIZES["lstm"]["H"])))
    full, *_ = (case("lstm", rng, (0,), 4)[1],)
    assert f(**full, **params).shape == (0, 4, SIZES["lstm"]["H"])


def test_the_result_has_the_dtype_of_the_inputs_unless_told(rng: np.random.Generator) -> None:
    rec, inputs, params, _ = case("gru", rng, (2,), 4)
    single = {n: v.astype(np.float32) for n, v in inputs.items()}
    f = rec.compile(backend="numpy")
    assert f(**single, **params).dtype == np.float32  # params follow the inputs
    assert f(**inputs, **params).dtype == np.float64
    assert rec.compile(backend="numpy", dtype="f64")(**single, **params).dtype == np.float64
    half = rec.compile(backend="numpy", dtype=np.float16)(**inputs, **params)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, f(**inputs, **params), atol=5e-3)


def test_python_numbers_take_the_dtype_of_the_call(rng: np.random.Generator) -> None:
    rec, inputs, _, _ = case("ema", rng, (2,), 4)
    f = rec.compile(backend="numpy")
    y = f(x=inputs["x"].astype(np.float32), alpha=0.25)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, f(**inputs, alpha=np.float64(0.25)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(f(x=[[1.0], [2.0]], alpha=1), [[1.0], [2.0]])


def test_several_outputs_come_as_a_named_tuple_in_source_order(rng: np.random.Generator) -> None:
    rec = recurc.load(
        text="recurrence Two(D):\n    input x[D]\n    state h[D] = 0\n"
        "    h = h[t-1] + x\n    output y = 2 * h\n    output h\n"
    )
    x = rng.standard_normal((3, 4))
    result = rec.compile(backend="numpy")(x=x)
    assert result._fields == ("y", "h")
    np.testing.assert_allclose(result.h, np.cumsum(x, axis=0), rtol=1e-13)
    np.testing.assert_allclose(result.y, 2 * result.h, rtol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_output_may_be_an_input_as_it_stands(backend: str, rng: np.random.Generator) -> None:
    rec = recurc.load(text="recurrence R(D):\n    input x[D]\n    output x\n    output y = 2 * x\n")
    x = rng.standard_normal((3, 4, 2))
    result = rec.compile(backend=backend)(x=x)
    np.testing.assert_array_equal(result.x, x)
    np.testing.assert_allclose(result.y, 2 * x)


def test_bf16_and_complex_arrays_come_back_as_such(rng: np.random.Generator) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rec, inputs, params, _ = case("ema", rng, (2,), 4)
    y = rec.compile(backend="numpy")(x=inputs["x"].astype(ml_dtypes.bfloat16), **params)
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(y.astype(float), rec.compile(backend="numpy")(**inputs, **params), atol=3e-2)
    turn = recurc.load(
        text="recurrence Turn(D):\n    input x[D]\n    param a[D]: complex\n    state z[D]: complex = 0\n"
        "    z = a * z[t-1] + x\n    output z\n    output r = real(z)\n"
    )
    a = 0.9 * np.exp(1j * rng.standard_normal(5))
    x = rng.standard_normal((3, 6, 5))
    for backend in BACKENDS:
        result = turn.compile(backend=backend)(x=x, a=a)
        want = np.zeros((3, 5), complex)
        for t in range(6):
            want = a * want + x[:, t]
        assert result.z.dtype == np.complex128 and result.r.dtype == np.float64
        np.testing.assert_allclose(result.z[:, -1], want, rtol=1e-12)
        np.testing.assert_allclose(result.r[:, -1], want.real, rtol=1e-11, atol=1e-13)


# --- ragged and packed batches ---------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_run_each_row_by_itself(reverse: bool, backend: str, rng: np.random.Generator) -> None:
    rec, inputs, params, initial = case("lstm", rng, (2, 3), 7)
    lengths = np.array([[7, 0, 3], [3, 1, 6]])
    f = rec.compile(backend=backend)
    y, final = f(**inputs, **params, initial=initial, lengths=lengths, reverse=reverse, return_final=True)
    for i in np.ndindex(2, 3):
        n = lengths[i]
        row = {k: v[i][:n] for k, v in inputs.items()}
        z, last = f(**row, **params, initial={k: v[i] for k, v in initial.items()}, reverse=reverse, return_final=True)
        np.testing.assert_allclose(y[i][:n], z, rtol=1e-12, atol=1e-13)
        assert not y[i][n:].any()
        for name in last:
            np.testing.assert_allclose(final[name][i], last[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_sequences_do_not_see_each_other(reverse: bool, backend: str, rng: np.random.Generator) -> None:
    rec, inputs, params, _ = case("gru", rng, (), 9)
    bounds = [0, 4, 4, 5, 9]
    h0 = rng.standard_normal((4, SIZES["gru"]["H"]))
    f = rec.compile(backend=backend)
    y, final = f(**inputs, **params, initial={"h": h0}, cu_seqlens=bounds, reverse=reverse, return_final=True)
    assert final["h"].shape == h0.shape
    for i, (start, stop) in enumerate(pairwise(bounds)):
        part = {k: v[start:stop] for k, v in inputs.items()}
        z, last = f(**part, **params, initial={"h": h0[i]}, reverse=reverse, return_final=True)
        np.testing.assert_allclose(y[start:stop], z, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(final["h"][i], last["h"], rtol=1e-12, atol=1e-13)


# --- continuing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_single_steps_and_split_runs_equal_one_run(system: str, rng: np.random.Generator) -> None:
    rec, inputs, params, initial = case(system, rng, (2, 3), 8)
    f = rec.compile(backend="numpy")
    whole, end = f(**inputs, **params, initial=initial, return_final=True)
    cut = int(rng.integers(0, 9))
    print(f"cut at {cut}")
    first, state = f(**{n: v[:, :, :cut] for n, v in inputs.items()}, **params, initial=initial, return_final=True)
    rest = []
    for t in range(cut, 8):
        y, state = f.step(state, **{n: v[:, :, t] for n, v in inputs.items()}, **params)
        rest.append(y)
    joined = np.concatenate([first, np.stack(rest, axis=2)] if rest else [first], axis=2)
    np.testing.assert_allclose(joined, whole, rtol=1e-12, atol=1e-12)
    for name in end:
        np.testing.assert_allclose(state[name], end[name], rtol=1e-12, atol=1e-12)


def test_steps_start_from_the_initial_state(rng: np.random.Generator) -> None:
    rec, inputs, params, _ = case("lstm", rng, (2,), 3)
    f = rec.compile(backend="numpy", sizes=SIZES["lstm"], dtype="f64")
    state = f.init_state(batch=(2,))
    assert {n: v.shape for n, v in state.items()} == {"h": (2, 7), "c": (2, 7)}
    whole = f(**inputs, **params)
    for t in range(3):
        y, state = f.step(state, x=inputs["x"][:, t], **params)
        np.testing.assert_allclose(y, whole[:, t], rtol=1e-12, atol=1e-13)


LAGS = """recurrence Lags(D):
    input x[D] = 0.5
    param p[D]
    state h[D] = 2 * p
    h = 0.5 * h[t-1] - 0.25 * h[t-3] + x[t-2] * x + p
    output h
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_longer_lags_and_computed_initial_values_continue_across_calls(backend: str, rng: np.random.Generator) -> None:
    rec = recurc.load(text=LAGS)
    x, p = rng.standard_normal((2, 9, 3)), rng.standard_normal(3)
    want = reference.run(rec.ir, {"x": x, "p": p}, 2, 9)["h"]
    f = rec.compile(backend=backend, dtype="f64")
    np.testing.assert_allclose(f(x=x, p=p), want, rtol=1e-12, atol=1e-12)
    _, final = f(x=x[:, :4], p=p, return_final=True)
    np.testing.assert_allclose(f(x=x[:, 4:], p=p, initial=final), want[:, 4:], rtol=1e-12, atol=1e-12)
    state = f.init_state(batch=2, p=p)
    for t in range(9):
        y, state = f.step(state, x=x[:, t], p=p)
        np.testing.assert_allclose(y, want[:, t], rtol=1e-12, atol=1e-12)


def test_a_scalar_recurrence_steps_with_python_numbers() -> None:
    rec = recurc.load(text="recurrence Sum():\n    input x\n    state s = 0\n    s = s[t-1] + x\n    output s\n")
    f = rec.compile(backend="numpy")
    state: dict[str, Any] = f.init_state()
    for x, total in [(1.0, 1.0), (2.5, 3.5)]:
        y, state = f.step(state, x=x)
        assert float(y) == total


def test_a_recurrence_without_inputs_is_told_how_many_steps() -> None:
    rec = recurc.load(
        text="recurrence Count(D = 2):\n    param p[D]\n    state s[D] = 0\n    s = s[t-1] + p\n    output s\n"
    )
    f = rec.compile(backend="numpy")
    np.testing.assert_array_equal(f(p=np.array([1.0, 2.0]), steps=3), [[1, 2], [2, 4], [3, 6]])
    with pytest.raises(recurc.ShapeError, match="steps="):
        f(p=np.array([1.0, 2.0]))


# --- looking inside --------------------------------------------------------------------------------------


def test_the_plan_and_its_explanation_are_there_before_and_after_a_call(rng: np.random.Generator) -> None:
    rec, inputs, params, _ = case("selective_scan", rng, (2,), 4)
    f = rec.compile(backend="numpy")
    with pytest.raises(recurc.ShapeError, match="D, N"):
        f.explain()
    f(**inputs, **params)
    assert f.plan.schedules and f.source == {}
    assert "SelectiveScan" in f.explain() and "numpy" in f.explain()
    ready = rec.compile(backend="numpy", schedule="scan", sizes=SIZES["selective_scan"])
    assert ready.plan.schedules == ("scan",)


@pytest.mark.parametrize("schedule", ["sequential", "scan"])
def test_a_forced_schedule_means_the_same(schedule: str, rng: np.random.Generator) -> None:
    rec, inputs, params, initial = case("aaren", rng, (2,), 9)
    want = expected(rec, inputs, params, initial, (2,), 9)
    f = rec.compile(backend="numpy", schedule=schedule)
    np.testing.assert_allclose(f(**inputs, **params, initial=initial), want["o"], rtol=1e-12)
    assert f.plan.schedules == (schedule,)


def test_the_first_use_check_accepts_right_kernels_and_refuses_wrong_ones(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURC_VERIFY", "1")
    for system in SYSTEMS:
        rec, inputs, params, _ = case(system, rng, (2,), 4)
        for dtype in ("f32", "f64", "bf16", "f16"):
            rec.compile(backend="numpy", dtype=dtype)
            f = rec.compile(backend="numpy", dtype=dtype)
            f(**inputs, **params)
    from recurc.backends import plan_numpy

    right = plan_numpy.PlanKernel.__call__

    def wrong(self: Any, arrays: Any, batch: int, steps: int) -> None:
        right(self, arrays, batch, steps)
        arrays["h"][:, 3:] += 0.01

    monkeypatch.setattr(plan_numpy.PlanKernel, "__call__", wrong)
    rec, inputs, params, _ = case("ema", rng, (2,), 4)
    with pytest.raises(recurc.BackendError, match="self-check"):
        rec.compile(backend="numpy")(**inputs, **params)
