"""What the small-matrix operations of the IR (`ir.Linalg`) mean, in NumPy: one matrix in the last two axes, any number
in front. A matrix without a result (singular, not positive definite) gives NaN, never an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def inv(a: Array) -> Array:
    """The inverse; shape `(..., N, N)`."""
    return _total(np.linalg.inv, a)


def solve(a: Array, b: Array) -> Array:
    """X with A X = b; shapes `(..., N, N)` and `(..., N, M)`."""
    a, b = _same_batch(a, b)
    return _total(np.linalg.solve, a, b)


def cholesky(a: Array) -> Array:
    """Lower triangular L with L L^T = A; only the lower triangle of A is read; shape `(..., N, N)`."""
    return _total(np.linalg.cholesky, a)


def phi1(a: Array) -> Array:
    """sum over k of A^k / (k+1)!, so that exp(A) = I + A phi1(A); shape `(..., N, N)`.

    Scaling and squaring (Higham, *Functions of Matrices*, chapter 10): the Taylor series of A / 2^s with a norm of at
    most 1/2, to 13 terms (remainder below 1e-18), then phi1(2A) = (I + exp(A)) phi1(A) / 2, s times."""
    n = a.shape[-1]
    if n == 0 or a.size == 0:
        return a.copy()
    norm = np.abs(a).sum(-1).max(-1)
    squarings = np.where(np.isfinite(norm) & (norm > 0.5), np.ceil(np.log2(np.maximum(norm, 0.5) / 0.5)), 0)
    squarings = np.minimum(squarings, 1100)
    small = np.ldexp(1.0, -squarings.astype(np.int64)).astype(a.dtype)[..., np.newaxis, np.newaxis] * a
    unit = np.eye(n, dtype=a.dtype)
    phi = unit + small / 14
    for k in range(13, 1, -1):
        phi = unit + small @ phi / k
    exponential = unit + small @ phi
    for k in range(int(squarings.max(initial=0))):
        again = (squarings > k)[..., np.newaxis, np.newaxis]
        phi = np.where(again, (unit + exponential) @ phi / 2, phi)
        exponential = np.where(again, exponential @ exponential, exponential)
    return phi


def dphi1(a: Array, along: Array) -> Array:
    """The derivative of `phi1` at A along E, the limit of (phi1(A + s E) - phi1(A)) / s; shapes `(..., N, N)`.

    The upper right block of phi1([[A, E], [0, A]]) (Higham, *Functions of Matrices*, section 3.2). It is linear in E,
    whose largest element is made 1 for the purpose, so that a large E costs no accuracy."""
    a, along = _same_batch(a, along)
    n = a.shape[-1]
    size = np.abs(along).max((-2, -1), keepdims=True, initial=0)
    size = np.where((size > 0) & np.isfinite(size), size, 1)
    upper = np.concatenate([a, along / size], -1)
    lower = np.concatenate([np.zeros_like(a), a], -1)
    return phi1(np.concatenate([upper, lower], -2))[..., :n, n:] * size


def kalman_mean(m: Any, p: Any, z: Any, f: Any, h: Any, q: Any, r: Any, solve: Callable[..., Any] = solve) -> Any:
    """The mean of a Kalman filter after one step: predicted by F and Q, then corrected by what z, H and R say. Shapes
    `(..., N)`, P `(..., N, N)`, z `(..., M)`, H `(..., M, N)`; of P, Q and R the symmetric parts count."""
    m, z = m[..., None], z[..., None]
    gain = _filtered(p, f, h, q, r, solve)[1]
    ahead = f @ m
    return (ahead + gain.swapaxes(-1, -2) @ (z - h @ ahead))[..., 0]


def kalman_covariance(p: Any, f: Any, h: Any, q: Any, r: Any, solve: Callable[..., Any] = solve) -> Any:
    """The covariance of the same filter; shape `(..., N, N)`."""
    ahead, gain = _filtered(p, f, h, q, r, solve)
    return ahead - (h @ ahead).swapaxes(-1, -2) @ gain


def _filtered(p: Any, f: Any, h: Any, q: Any, r: Any, solve: Callable[..., Any]) -> tuple[Any, Any]:
    """The predicted covariance, and the gain's transpose (H P H^T + R)^-1 H P."""
    p, q, r = ((a + a.swapaxes(-1, -2)) / 2 for a in (p, q, r))
    ahead = f @ p @ f.swapaxes(-1, -2) + q
    seen = h @ ahead
    return ahead, solve(seen @ h.swapaxes(-1, -2) + r, seen)


def _same_batch(a: Array, b: Array) -> tuple[Array, Array]:
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))


def _total(function: Callable[..., Any], *arrays: Array) -> Array:
    """`function` over the leading axes; where it has no result for one matrix, that one is NaN."""
    try:
        return np.asarray(function(*arrays))
    except np.linalg.LinAlgError:
        pass
    batch = arrays[0].shape[:-2]
    result = np.full((*batch, *arrays[-1].shape[-2:]), np.nan, arrays[-1].dtype)
    for place in np.ndindex(*batch):
        try:
            result[place] = function(*(a[place] for a in arrays))
        except np.linalg.LinAlgError:
            continue
    return result
