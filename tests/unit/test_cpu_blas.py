"""Hoisted products: by the kernel's own tiles or by a BLAS, the results agree; what is measured is measured once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.backends.base import Specialization
from recurc.backends.cpu import BACKEND, blas
from recurc.frontend import load_text
from recurc.passes import core_form, make_plan
from recurc.targets import named
from recurc.types import DType

pytestmark = pytest.mark.skipif(BACKEND.unavailable() is not None, reason="no C compiler here")

SCANNED = """
recurrence Projected(D, H):
    input x[D]
    param W[D, H]
    param a[H]
    state h[H] = 0
    h = sigmoid(a) * h[t-1] + W.T @ x
    output h
"""
TWO_INPUTS = """
recurrence Two(D, E, H):
    input x[D]
    input u[E]
    param W[H, D]
    param V[H, E]
    param U[H, H]
    state h[H] = 0
    h = tanh(W @ x + V @ u + U @ h[t-1])
    output h
"""
SIZES = {"D": 37, "E": 29, "H": 45}


def arrays(rec: Any, rng: np.random.Generator, batch: tuple[int, ...], steps: int) -> dict[str, np.ndarray]:
    def draw(lead: tuple[int, ...], dims: tuple[str, ...]) -> np.ndarray:
        shape = (*lead, *(int(d) if d.isdigit() else SIZES[d] for d in dims))
        return (rng.standard_normal(shape) / math.sqrt(40)).astype(np.float32)

    given = {n: draw((*batch, steps), s.dims) for n, s in rec.inputs.items()}
    return given | {n: draw((), s.dims) for n, s in rec.params.items()}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes of the GEMMs that a BLAS made."""
    seen: list[tuple[int, int]] = []
    gemm: Callable[..., None] = blas._gemm  # pyright: ignore[reportPrivateUsage]

    def counted(rows: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
        seen.append((rows.shape[0], weight.shape[0]))
        gemm(rows, weight, out)

    monkeypatch.setattr(blas, "_gemm", counted)
    monkeypatch.setattr(blas, "_WORTH_A_GEMM", 0)
    return seen


SYSTEMS = {
    "lstm": lambda: recurc.zoo.load("lstm"),
    "gru": lambda: recurc.zoo.load("gru"),
    "projected": lambda: recurc.load(text=SCANNED),
    "two": lambda: recurc.load(text=TWO_INPUTS),
}


@pytest.mark.parametrize(
    "variant", ["plain", "backwards", "time first", "strided", "shared", "f64", "f16", "own params"]
)
@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_a_blas_gives_what_the_tiles_give(
    system: str, variant: str, rng: np.random.Generator, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rec = SYSTEMS[system]()
    steps, batch = 71, (2,)
    given = arrays(rec, rng, batch, steps)
    options: dict[str, Any] = {}
    layout = "TB" if variant == "time first" else "BT"
    match variant:
        case "backwards":
            options["reverse"] = True
        case "time first":
            given = {n: np.ascontiguousarray(a.swapaxes(0, 1)) if n in rec.inputs else a for n, a in given.items()}
        case "strided":
            given = {n: np.repeat(a, 3, axis=1)[:, ::3] if n in rec.inputs else a for n, a in given.items()}
        case "shared":
            given = {n: np.broadcast_to(a[:1], a.shape) if n in rec.inputs else a for n, a in given.items()}
        case "f64":
            given = {n: a.astype(np.float64) for n, a in given.items()}
        case "f16":
            given = {n: a.astype(np.float16) for n, a in given.items()}
        case "own params":
            given = {n: a if n in rec.inputs else np.stack([a, a / 2]) for n, a in given.items()}
        case _:
            pass
    want = np.asarray(rec.compile(backend="reference", layout=layout)(**given, **options), np.float64)
    f = rec.compile(backend="cpu", schedule="sequential", layout=layout)
    monkeypatch.setenv(blas.SWITCH, "0")
    tiles = np.asarray(f(**given, **options), np.float64)
    assert not calls
    monkeypatch.setenv(blas.SWITCH, "1")
    for _turn in range(2):  # the checked call and the fast one
        calls.clear()
        made = np.asarray(f(**given, **options), np.float64)
        assert calls and all(rows in (steps, 2 * steps) for rows, _ in calls)
    unit = {"f64": 2.0**-53, "f16": 2.0**-11}.get(variant, 2.0**-24)
    bound = unit * 64 * (2 + math.log2(1 + steps)) * max(1.0, np.abs(want).max())
    assert np.abs(made - want).max() <= bound
    assert np.abs(tiles - want).max() <= bound


def test_a_scan_over_a_projected_input(
    rng: np.random.Generator, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rec = SYSTEMS["projected"]()
    given = arrays(rec, rng, (3,), 130)
    want = np.asarray(rec.compile(backend="reference")(**given), np.float64)
    monkeypatch.setenv(blas.SWITCH, "1")
    made = np.asarray(rec.compile(backend="cpu", schedule="scan")(**given), np.float64)
    assert calls == [(3 * 130, SIZES["H"])]
    assert np.abs(made - want).max() <= 2.0**-24 * 64 * 9 * max(1.0, np.abs(want).max())


def test_the_first_call_of_a_kind_measures_and_the_answer_is_kept(
    rng: np.random.Generator, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("RECURC_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(blas.SWITCH, raising=False)
    rec = SYSTEMS["two"]()
    given = arrays(rec, rng, (), 64)
    rec.compile(backend="cpu")(**given)
    measured = len(calls)
    assert measured >= 2 * 2 * 5  # two products, each timed and untimed, five turns
    (choice,) = tmp_path.glob("*.choice")
    assert choice.read_text() in ("blas", "tiles")
    uses = 2 if choice.read_text() == "blas" else 0
    rec.compile(backend="cpu")(**given)  # a new kernel of the same build asks the file
    assert len(calls) == measured + uses


def test_small_calls_never_ask_a_blas(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(blas.SWITCH, "1")
    monkeypatch.setattr(blas, "_gemm", lambda *_: pytest.fail("a product this small is not worth a call"))
    rec = SYSTEMS["two"]()
    rec.compile(backend="cpu")(**arrays(rec, rng, (), 2))


def test_only_products_of_inputs_and_params_are_hoisted() -> None:
    def products(text: str) -> tuple[str, ...]:
        (rec,) = load_text(text)
        spec = Specialization(tuple(SIZES.items()), DType.F32)
        plan = make_plan(core_form(rec), SIZES, 1, 64, DType.F32, named("cpu"))
        return tuple(sorted(p.data for p in blas.hoisted_products(plan, spec)))

    assert products(TWO_INPUTS) == ("u", "x")
    assert products(TWO_INPUTS.replace("W @ x", "W @ tanh(x)")) == ("u",)
    assert products(TWO_INPUTS.replace("output h", "output y = W @ x + h\n").replace("W @ x +", "", 1)) == ("u", "x")
