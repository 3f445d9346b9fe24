"""Runs that go on where earlier ones ended: single steps, pieces, and rows of different lengths, whatever a recurrence
remembers: long lags, inputs of earlier steps, the step index, integers, truth values and complex numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import recurc
from recurc.api import Recurrence
from recurc.backends import reference
from recurc.errors import ShapeError, UnsupportedError

BACKENDS = ("reference", "numpy", "cpu")
D, T = 3, 40
TEXTS = {
    "clock": """recurrence Clock(D):
    input x[D]
    state slow[D] = 0.5, fast[D] = 0
    fast = 0.75 * fast[t-1] + x
    slow = if t % 3 == 0 then 0.5 * slow[t-1] + fast else slow[t-1]
    output y = slow + fast / (t + 1)
""",
    "position": """recurrence Position(D):
    input x[D]
    output y = x * cos(0.1 * t)
""",
    "long memory": """recurrence LongMemory(D):
    input x[D] = 0.5, u[D] = -1
    param p[D]
    state h[D] = 2 * p
    h = 0.5 * h[t-1] - 0.25 * h[t-4] + x[t-2] * x + p * u[t-1] + 0.01 * t
    output h, y = h - h[t-2]
""",
    "kinds": """recurrence Kinds(D):
    input x[D], n: int, up: bool
    state count: int = 3, seen: bool = false, z[D]: complex = polar(1, 0.5), old: int = 1
    count = (count[t-1] + n * old[t-2]) % 7
    old = count
    seen = seen[t-1] or (up and count > 5)
    z = polar(0.9, 0.3) * z[t-1] + x
    output y = real(z) + count, seen, count, w = z
""",
    "running extreme": """recurrence Extreme(D):
    input x[D]
    state top[D] = -inf, mean[D] = 0
    top = max(top[t-1], x)
    mean = (mean[t-1] * t + top) / (t + 1)
    output top, mean
""",
    "time invariant": """recurrence Steady(D):
    input x[D]
    param a[D, D]
    state h[D] = 1
    h = tanh(a @ h[t-1] + x)
    output h
""",
}  # fmt: skip


def arrays(rec: Recurrence, rng: np.random.Generator, batch: tuple[int, ...], steps: int) -> tuple[dict, dict]:
    """Inputs `(*batch, T, *dims)` and params `(*dims)`."""
    drawn: dict[str, Any] = {"n": rng.integers(0, 5, (*batch, steps)), "up": rng.random((*batch, steps)) < 0.2}
    inputs = {n: drawn.get(n, rng.standard_normal((*batch, steps, D))) for n in rec.inputs}
    return inputs, {n: 0.5 * rng.standard_normal((D,) * len(s.dims)) for n, s in rec.params.items()}


def whole(rec: Recurrence, inputs: dict, params: dict, steps: int) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Outputs and final values of a batch `(B, T, ...)` by the reference's own function."""
    batch = next(iter(inputs.values())).shape[0]
    found = reference.run(rec.ir, inputs | params, batch, steps, {"D": D})
    return [found[o] for o in rec.ir.outputs], {n.removesuffix("@final"): v for n, v in found.items() if "@" in n}


def several(results: Any) -> tuple[Any, ...]:
    return tuple(results) if isinstance(results, tuple) else (results,)


def same(found: Any, wanted: Any, what: str = "") -> None:
    found = np.asarray(found)
    if found.dtype.kind in "bi":
        np.testing.assert_array_equal(found, wanted, err_msg=what)
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11, err_msg=what)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TEXTS)
def test_steps_and_pieces_are_the_whole(name: str, backend: str, rng: np.random.Generator) -> None:
    rec = recurc.load(text=TEXTS[name])
    inputs, params = arrays(rec, rng, (2,), T)
    wanted, last = whole(rec, inputs, params, T)
    f = rec.compile(backend=backend, dtype="f64", sizes={"D": D})
    state, at = f.init_state(batch=(2,), **params), 0
    found: list[tuple[Any, ...]] = []
    for drawn in (*sorted(rng.integers(0, T, 3).tolist()), T):
        cut = max(drawn, at)
        piece = {n: a[:, at:cut] for n, a in inputs.items()}
        outputs, state = f(**piece, **params, initial=state, return_final=True)
        found.append(several(outputs))
        at = cut
        if at < T:
            outputs, state = f.step(state, **{n: a[:, at] for n, a in inputs.items()}, **params)
            found.append(tuple(o[:, np.newaxis] for o in several(outputs)))
            at += 1
    for i, output in enumerate(rec.outputs):
        same(np.concatenate([f[i] for f in found], axis=1), wanted[i], output)
    for state_name, value in last.items():
        same(state[state_name], value, state_name)
    assert set(f.init_state(batch=(2,), **params)) == set(state)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TEXTS)
def test_rows_end_where_their_lengths_say(name: str, backend: str, reverse: bool, rng: np.random.Generator) -> None:
    """Few lengths, and more of them than are run one after another; what stands behind a row's end plays no role."""
    rec = recurc.load(text=TEXTS[name])
    for batch in ((3,), (2, 5)):
        inputs, params = arrays(rec, rng, batch, T)
        lengths = rng.integers(0, T + 1, batch)
        lengths.flat[:2] = 0, T
        for value in inputs.values():
            for i in np.ndindex(batch):
                value[i][lengths[i] :] = np.nan if value.dtype.kind == "f" else 0
        f = rec.compile(backend=backend, dtype="f64")
        outputs, final = f(**inputs, **params, lengths=lengths, reverse=reverse, return_final=True)
        plain = several(f(**inputs, **params, lengths=lengths, reverse=reverse))
        for i in np.ndindex(batch):
            n = lengths[i]
            row = {k: a[i][:n][None, :: -1 if reverse else 1] for k, a in inputs.items()}
            wanted, last = whole(rec, row, params, int(n))
            for j, output in enumerate(rec.outputs):
                for found in (several(outputs)[j][i], plain[j][i]):
                    same(found[:n], wanted[j][0, :: -1 if reverse else 1], f"{output}, row {i} of {n} steps")
                    assert not found[n:].any()
            for state_name, value in last.items():
                same(final[state_name][i], value[0], f"{state_name}, row {i} of {n} steps")
            if "t" in final:
                assert final["t"][i] == n


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TEXTS)
def test_packed_sequences_go_on_each_from_its_own_state(
    name: str, backend: str, reverse: bool, rng: np.random.Generator
) -> None:
    rec = recurc.load(text=TEXTS[name])
    inputs, params = arrays(rec, rng, (), 3 * T)
    bounds = np.array([0, *sorted(rng.integers(0, 3 * T, 9).tolist()), 3 * T])
    f = rec.compile(backend=backend, dtype="f64", layout="TB")
    (_, start), count = f(**inputs, **params, cu_seqlens=bounds, return_final=True), len(bounds) - 1
    outputs, final = f(**inputs, **params, cu_seqlens=bounds, reverse=reverse, initial=start, return_final=True)
    for i in range(count):
        part = {n: a[bounds[i] : bounds[i + 1]] for n, a in inputs.items()}
        own = {n: a[i] for n, a in start.items()}
        wanted, last = f(**part, **params, reverse=reverse, initial=own, return_final=True)
        for j, output in enumerate(rec.outputs):
            same(several(outputs)[j][bounds[i] : bounds[i + 1]], several(wanted)[j], output)
        for state_name, value in last.items():
            same(final[state_name][i], value, state_name)
    with pytest.raises(ShapeError, match=rf"one row for each of the {count} packed sequences, got 2"):
        f(**inputs, **params, cu_seqlens=bounds, initial={n: a[:2] for n, a in start.items()})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forced_schedule_holds_for_rows_of_every_length(backend: str, rng: np.random.Generator) -> None:
    if backend == "reference":
        pytest.skip("the reference has no schedules")
    rec = recurc.load(text=TEXTS["running extreme"])
    inputs, _ = arrays(rec, rng, (7,), T)
    lengths = np.array([40, 39, 38, 37, 36, 35, 34])
    f, g = (rec.compile(backend=backend, schedule=s) for s in ("scan", "sequential"))
    (found, final), (wanted, last) = (h(**inputs, lengths=lengths, return_final=True) for h in (f, g))
    assert f.plan.schedules == ("scan",) * len(f.plan.schedules)
    same(found.top, wanted.top)
    same(found.mean, wanted.mean)
    for name in last:
        same(final[name], last[name], name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TEXTS)
def test_options_of_a_call_go_together(name: str, backend: str, rng: np.random.Generator) -> None:
    """Layout, library, direction, lengths, initial and last values in any combination, row by row, as plain calls."""
    rec = recurc.load(text=TEXTS[name])
    plain = rec.compile(backend="reference")
    compiled = {layout: rec.compile(backend=backend, layout=layout) for layout in ("BT", "TB")}
    for _ in range(6):
        layout, batch = str(rng.choice(["BT", "TB"])), ((), (3,), (2, 3))[int(rng.integers(3))]
        steps, reverse, tensors = int(rng.integers(1, 12)), bool(rng.integers(2)), bool(rng.integers(2))
        ragged, starts = bool(rng.integers(2)) and bool(batch), bool(rng.integers(2))
        print(f"{layout} batch={batch} T={steps} reverse={reverse} torch={tensors} lengths={ragged} initial={starts}")
        inputs, params = arrays(rec, rng, batch, steps)
        _, first = plain(**arrays(rec, rng, batch, 3)[0], **params, return_final=True) if starts else (None, {})
        lengths = rng.integers(0, steps + 1, batch) if ragged else np.full(batch, steps)
        given = {n: np.moveaxis(a, len(batch), 0) if layout == "TB" else a for n, a in inputs.items()}
        options: dict[str, Any] = {"initial": first, "reverse": reverse, "return_final": True}
        options |= {"lengths": lengths} if ragged else {}
        if tensors:
            given = {n: torch.from_numpy(a.copy()) for n, a in given.items()}
            options["initial"] = {n: torch.from_numpy(np.array(a)) for n, a in first.items()}
        outputs, final = compiled[layout](**given, **params, **options)
        assert all(torch.is_tensor(a) == tensors for a in (*several(outputs), *final.values()))
        for _ in range(2):  # by the short way, where there is one
            again, end = compiled[layout](**given, **params, **options)
            for one, other in zip((*several(again), *end.values()), (*several(outputs), *final.values()), strict=True):
                np.testing.assert_array_equal(one, other)
        for i in np.ndindex(batch):
            row, own = {n: a[i][: lengths[i]] for n, a in inputs.items()}, {n: a[i] for n, a in first.items()}
            wanted, last = plain(**row, **params, initial=own, reverse=reverse, return_final=True)
            for j, output in enumerate(rec.outputs):
                found = np.asarray(several(outputs)[j])
                found = np.moveaxis(found, 0, len(batch)) if layout == "TB" else found
                same(found[i][: lengths[i]], several(wanted)[j], f"{output}, row {i}")
            for state, value in last.items():
                same(final[state][i], value, f"{state}, row {i}")


def test_the_step_index_is_given_and_returned_by_its_name(rng: np.random.Generator) -> None:
    f = recurc.load(text=TEXTS["position"]).compile(backend="numpy")
    x = rng.standard_normal((2, 5, D))
    for _ in range(2):  # the second time by the short way
        y, final = f(x=x, initial={"t": 10}, return_final=True)
        np.testing.assert_allclose(y, x * np.cos(0.1 * np.arange(10, 15))[:, np.newaxis], rtol=1e-14)
        np.testing.assert_array_equal(final["t"], [15, 15])
        assert final["t"].dtype == np.int64
        own = f(x=x, initial={"t": np.array([10, 0])})
        np.testing.assert_array_equal(own[0], y[0])
        np.testing.assert_allclose(own[1], f(x=x)[1], rtol=1e-14)
    with pytest.raises(ShapeError, match="initial value of `t` should hold integers"):
        f(x=x, initial={"t": 1.5})
    with pytest.raises(ShapeError, match="has no state `t`"):
        recurc.load(text=TEXTS["time invariant"]).compile()(x=x, a=np.eye(D), initial={"t": 1})


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_go_on_too(backend: str, rng: np.random.Generator) -> None:
    rec = recurc.load(text=TEXTS["clock"])
    f = rec.compile(backend=backend)
    x = torch.from_numpy(rng.standard_normal((3, T, D)))
    wanted, end = f(x=x, return_final=True)
    y, state = f(x=x[:, :7], return_final=True)
    found = [y]
    for t in range(7, 12):
        y, state = f.step(state, x=x[:, t])
        assert isinstance(state["t"], torch.Tensor)
        assert state["t"].tolist() == [t + 1] * 3
        found.append(y[:, None])
    y, state = f(x=x[:, 12:], initial=state, return_final=True, lengths=torch.tensor([T - 12, 5, 0]))
    torch.testing.assert_close(torch.cat([*found, y], 1)[0], wanted[0])
    torch.testing.assert_close(state["slow"][0], end["slow"][0])
    assert state["t"].tolist() == [T, 17, 12]


def test_outputs_of_final_states_are_refused_step_by_step() -> None:
    from recurc import ir
    from recurc.types import DimDecl, DType

    h, x = ir.Read("h", 1, ("D",), DType.REAL), ir.Input("x", ("D",))
    rec = Recurrence(
        ir.Recurrence(
            "Late",
            (DimDecl("D"),),
            (x,),
            (),
            (ir.State("h", ("D",), DType.REAL, ir.Const(0.0, DType.REAL)),),
            (ir.Equation("h", h), ir.Equation("y", ir.Final("h", ("D",), DType.REAL))),
            ("y",),
        )
    )
    f = rec.compile(backend="reference", sizes={"D": D})
    with pytest.raises(UnsupportedError, match=r"final state, `S\[T\]`"):
        f.step(f.init_state(), x=np.zeros(D))
