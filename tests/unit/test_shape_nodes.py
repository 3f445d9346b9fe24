"""The nodes that move values between places, and the small-matrix operations: the definition and the plan interpreter,
two pieces of code, against loops over the indices."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.linalg

from recurc import build, linalg
from recurc.backends.base import Specialization
from recurc.backends.evaluator import Evaluator, Frame
from recurc.backends.reference import evaluate
from recurc.ir import Expr, Read
from recurc.types import DType

SIZES = {"N": 5, "M": 5, "D": 3, "X": 7, "Y": 4, "K": 3, "C": 2, "O": 3, "W": 4}


def read(name: str, dims: str, dtype: DType = DType.REAL) -> Read:
    return Read(name, 0, tuple(dims.split()), dtype)


def both(expr: Expr, **values: Any) -> list[np.ndarray]:
    """The value (B, *dims) by the reference and by the plan interpreter."""
    first = evaluate(expr, {(n, 0): v for n, v in values.items()}, SIZES)
    spec = Specialization(tuple(SIZES.items()), DType.F64)
    frame = Frame({(n, 0): v[:, np.newaxis] for n, v in values.items()})
    second = Evaluator(spec).aligned(expr, expr.dims, full=True)(frame)
    return [np.asarray(first), np.asarray(second)[:, 0]]


def draw(rng: np.random.Generator, dims: str) -> np.ndarray:
    return rng.standard_normal((2, *(SIZES.get(d, 0) or int(d) for d in dims.split())))


def check(expr: Expr, expected: np.ndarray, **values: Any) -> None:
    for found in both(expr, **values):
        np.testing.assert_allclose(np.broadcast_to(found, expected.shape), expected, rtol=1e-12, atol=1e-12)


def test_index_counts_the_places_of_a_dim() -> None:
    check(build.index("N"), np.arange(5)[np.newaxis])


def test_broadcast_repeats_along_new_dims_in_any_order(rng: np.random.Generator) -> None:
    x = draw(rng, "D")
    check(build.broadcast(read("x", "D"), ("N", "D", "K")), np.broadcast_to(x[:, None, :, None], (2, 5, 3, 3)), x=x)


def test_gather_takes_the_place_each_other_dim_asks_for(rng: np.random.Generator) -> None:
    x, i = draw(rng, "D N K"), rng.integers(-2, 8, (2, 3, 7))
    expr = build.gather(read("x", "D N K"), 1, read("i", "D X", DType.I64))
    assert expr.dims == ("D", "K", "X")
    expected = np.empty((2, 3, 3, 7))
    for b, d, k, at in itertools.product(range(2), range(3), range(3), range(7)):
        expected[b, d, k, at] = x[b, d, min(max(i[b, d, at], 0), 4), k]
    check(expr, expected, x=x, i=i)


def test_lookup_takes_leading_dims_one_after_the_other(rng: np.random.Generator) -> None:
    table, i, j = draw(rng, "N M D"), rng.integers(0, 5, (2,)), rng.integers(0, 5, (2,))
    expr = build.lookup(read("table", "N M D"), read("i", "", DType.I64), read("j", "", DType.I64))
    check(expr, np.stack([table[b, i[b], j[b]] for b in range(2)]), table=table, i=i, j=j)


def test_one_hot_is_one_at_its_place() -> None:
    i = np.array([3, 0])
    check(build.one_hot(read("i", "", DType.I64), "N"), np.eye(5)[i], i=i)


@pytest.mark.parametrize("taps", ["K", "3", "W"])
@pytest.mark.parametrize("circular", [False, True])
def test_convolution_meets_centred_taps(rng: np.random.Generator, taps: str, circular: bool) -> None:
    n = SIZES.get(taps, 3)
    w, x = draw(rng, f"O C {taps}"), draw(rng, "C X")
    expr = build.conv(read("w", f"O C {taps}"), read("x", "C X"), ["X"], circular)
    expected = np.zeros((2, 3, 7))
    for b, o, c, at, k in itertools.product(range(2), range(3), range(2), range(7), range(n)):
        place = at - (k - n // 2) if circular else at + k - n // 2
        if circular:
            place %= 7
        if 0 <= place < 7:
            expected[b, o, at] += w[b, o, c, k] * x[b, c, place]
    assert expr.dims == ("O", "X")
    check(expr, expected, w=w, x=x)


def test_convolution_in_two_dims_with_taps_of_one_name(rng: np.random.Generator) -> None:
    w, x = draw(rng, "O C 3 3"), draw(rng, "C X Y")
    expr = build.conv(read("w", "O C 3 3"), read("x", "C X Y"), ["X", "Y"])
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros((2, 3, 7, 4))
    for i, j in itertools.product(range(3), range(3)):
        expected += np.einsum("boc,bcxy->boxy", w[..., i, j], padded[:, :, i : i + 7, j : j + 4])
    assert expr.dims == ("O", "X", "Y")
    check(expr, expected, w=w, x=x)


def test_convolution_wraps_more_than_once_where_the_taps_are_many(rng: np.random.Generator) -> None:
    w, x = draw(rng, "11"), draw(rng, "Y")
    expected = np.zeros((2, 4))
    for at, k in itertools.product(range(4), range(11)):
        expected[:, at] += w[:, k] * x[:, (at - (k - 5)) % 4]
    check(build.conv(read("w", "11"), read("x", "Y"), ["Y"], True), expected, w=w, x=x)


def test_solve_keeps_batch_dims_and_names_the_columns(rng: np.random.Generator) -> None:
    a, b = draw(rng, "D N M"), draw(rng, "K N D")
    expr = build.linalg("solve", read("a", "D N M"), read("b", "K N D"))
    assert expr.dims == ("K", "M", "D")
    expected = np.einsum("bdmn,bknd->bkmd", np.linalg.inv(a), b)
    for found in both(expr, a=a, b=b):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_inverse_and_cholesky(rng: np.random.Generator) -> None:
    a = draw(rng, "N N")
    spd = a @ a.swapaxes(1, 2) + np.eye(5)
    for found in both(build.linalg("cholesky", read("a", "N N")), a=spd):
        np.testing.assert_allclose(found @ found.swapaxes(1, 2), spd, rtol=1e-10)
        assert np.array_equal(found, np.tril(found))
    for found in both(build.linalg("inv", read("a", "N N")), a=spd):
        np.testing.assert_allclose(found @ spd, np.broadcast_to(np.eye(5), (2, 5, 5)), atol=1e-10)


@pytest.mark.parametrize("scale", [0.0, 1e-9, 0.3, 1.0, 30.0])
def test_phi1_is_the_integral_of_the_exponential(rng: np.random.Generator, scale: float) -> None:
    a = scale * draw(rng, "N N")
    expected = np.stack([_phi1(m) for m in a])
    for found in both(build.linalg("phi1", read("a", "N N")), a=a):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("scale", [0.0, 1e-9, 0.3, 1.0, 30.0])
def test_dphi1_is_the_derivative_of_phi1(rng: np.random.Generator, scale: float) -> None:
    a, along = scale * draw(rng, "N N"), 1e6 * draw(rng, "N N")
    with mpmath.workdps(60):
        expected = np.stack([_slope(m, e) for m, e in zip(a, along, strict=True)])
    for found in both(build.linalg("dphi1", read("a", "N N"), read("e", "N N")), a=a, e=along):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


def _slope(a: np.ndarray, along: np.ndarray) -> np.ndarray:
    """A central difference of the exponential's corner, in 60 digits."""

    def corner(m: Any) -> Any:
        n = len(a)
        block = mpmath.zeros(2 * n)
        block[:n, :n], block[:n, n:] = m, mpmath.eye(n)
        return mpmath.expm(block)[:n, n:]

    step = mpmath.mpf(10) ** -20
    there = step * mpmath.matrix(along.tolist())
    slope = (corner(mpmath.matrix(a.tolist()) + there) - corner(mpmath.matrix(a.tolist()) - there)) / (2 * step)
    return np.array(slope.tolist(), float)


def _phi1(a: np.ndarray) -> np.ndarray:
    """The upper right block of exp([[A, I], [0, 0]])."""
    n = len(a)
    return scipy.linalg.expm(np.block([[a, np.eye(n)], [np.zeros((n, 2 * n))]]))[:n, n:]


def test_matrices_without_a_result_give_nan_and_spare_the_others() -> None:
    a = np.stack([np.eye(3), np.zeros((3, 3))])
    for function in (linalg.inv, linalg.cholesky):
        found = function(np.where(np.arange(2)[:, None, None] == 1, a - (function is linalg.cholesky), a))
        assert np.array_equal(found[0], np.eye(3))
        assert np.isnan(found[1]).all()
