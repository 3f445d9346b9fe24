"""One step of a Kalman filter, `kalman_mean` and `kalman_covariance`, written out.

The state moves by F with noise of covariance Q, and is seen through H with noise of covariance R (Kalman 1960, "A New
Approach to Linear Filtering and Prediction Problems"); P, Q and R stand for their symmetric parts, (P + P^T) / 2:

    predict   m- = F m                          P- = F P F^T + Q
    update    m' = m- + G^T (z - H m-)          P' = P- - (H P-)^T G          G = (H P- H^T + R)^-1 H P-
"""

from __future__ import annotations

from recurc.build import linalg, rename, transpose
from recurc.ir import Contract, Expr, Linalg, placed
from recurc.ops import apply, number

STEPS = ("kalman_mean", "kalman_covariance")


def is_filter(expr: Expr) -> bool:
    """Whether `expr` is one of the two values of a step."""
    return isinstance(expr, Linalg) and expr.op in STEPS


def written_out(node: Linalg) -> Expr:
    """A value of a step by ordinary operators; shape that of the mean `[N]` or of the covariance `[N, N]`."""
    covariance, f, h, q, r = (node.args[n] for n in (1, 3, 4, 5, 6)) if len(node.args) == 7 else node.args
    ahead = apply("add", product(product(f, even(covariance)), f, turned=True), even(q))
    seen = product(h, ahead)
    spread = apply("add", product(seen, h, turned=True), even(r))
    gain = solved(spread, seen)
    if node.op == "kalman_mean":
        mean = product(f, node.args[0])
        error = apply("sub", node.args[2], product(h, mean))
        made = apply("add", mean, _transposed_product(gain, error))
    else:
        made = apply("sub", ahead, _transposed_product(seen, gain))
    return placed(made, node.span)


def even(matrix: Expr) -> Expr:
    """The symmetric part of a matrix `[N, N]`."""
    return apply("mul", number(0.5), apply("add", matrix, transpose(matrix)))


def product(left: Expr, right: Expr, turned: bool = False) -> Expr:
    """A matrix times a matrix, the transpose of one (`turned`), or a vector, by position."""
    if len(right.dims) == 1:
        return Contract(left, right, (0, 1), (1,), (0,), left.dims[:1], left.dtype)
    labels, out = ((2, 1), right.dims[0]) if turned else ((1, 2), right.dims[1])
    return Contract(left, right, (0, 1), labels, (0, 2), (left.dims[0], out), left.dtype)


def _transposed_product(left: Expr, right: Expr) -> Expr:
    """The transpose of a matrix times a matrix or a vector."""
    if len(right.dims) == 1:
        return Contract(left, right, (0, 1), (0,), (1,), left.dims[1:], left.dtype)
    return Contract(left, right, (0, 1), (0, 2), (1, 2), (left.dims[1], right.dims[1]), left.dtype)


def solved(square: Expr, right: Expr) -> Expr:
    """The inverse of a matrix `[M, M]` times one `[M, N]`."""
    if square.dims[0] == right.dims[1]:  # of two axes of one name a solve could not tell which is meant
        return product(linalg("inv", square), right)
    return rename(linalg("solve", square, right), right.dims)


__all__ = ["STEPS", "even", "is_filter", "product", "solved", "written_out"]
