"""`der(h) = a * h + b using zoh(dt)`: a continuous-time law as one step of a recurrence.

The right side is taken apart into what multiplies h, element by element (a) or as a matrix (A), and the rest, b. With
z = dt a and phi1(z) = (exp(z) - 1) / z, and h the state one step before:

    euler           h + dt (a h + b)
    bilinear        ((1 + z/2) h + dt b) / (1 - z/2)                       Tustin's rule; a solve for a matrix
    zoh             exp(z) h + dt phi1(z) b                                exact for a and b that hold during the step
    exp_trapezoid   exp(z) h + (1 - lam) dt exp(z) b' + lam dt b           b' is b one step before (Mamba-3)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recurc import build
from recurc.ir import Apply, Const, Contract, Equation, Expr, Read, State, reads
from recurc.ops import TypeProblem, apply, convert, number
from recurc.source import Span
from recurc.types import DType, Kind, show_dims

METHODS = {"euler": 1, "bilinear": 1, "zoh": 1, "exp_trapezoid": 2}  # the most arguments: dt, then lam


@dataclass(frozen=True)
class Law:
    """`elementwise * h + matrix @ h + rest`; None stands for nothing."""

    elementwise: Expr | None = None
    matrix: Expr | None = None
    rest: Expr | None = None


@dataclass(frozen=True)
class Discrete:
    """The value of h at this step; `hidden` and `equation` keep the rest of the law for the next step."""

    value: Expr
    hidden: State | None = None
    equation: Equation | None = None


def discretize(
    state: Read, law: Expr, method: str, dt: Expr, lam: Expr | None, fresh: Callable[[str], str], span: Span | None
) -> Discrete:
    """One step of `der(h) = law`, where `state` is h[t-1], which stands for h in `law`. Shape: that of h.

    `dt` may have dims of h (a scalar, if a matrix multiplies h). Raises `TypeProblem` where the law is not of this
    form, or has dims that h lacks."""
    for what, value in (("the law", law), ("the step", dt), ("the weight", lam)):
        extra = [d for d in (value.dims if value is not None else ()) if d not in state.dims]
        if extra:
            raise TypeProblem(
                "E0318", f"{what} of {state.name} has the dim {extra[0]}, which {state.name} lacks",
                f"{state.name} is {show_dims(state.dims)}: sum over {extra[0]}, or declare it with that dim",
            )  # fmt: skip
    if method == "euler":
        return Discrete(_plus(state, _times(dt, law)))
    parts = _split(law, state)
    if parts.matrix is not None:
        return _by_matrix(state, parts, method, dt, lam, fresh, span)
    factor = number(0.0) if parts.elementwise is None else parts.elementwise
    z = _times(dt, factor)
    match method:
        case "bilinear":
            half = _times(number(0.5), z)
            above = _times(_plus(number(1.0), half), state)
            if parts.rest is not None:
                above = _plus(above, _times(dt, parts.rest))
            return Discrete(apply("div", above, apply("sub", number(1.0), half)))
        case "zoh":
            moved = _times(apply("exp", z), state)
            if parts.rest is None:
                return Discrete(moved)
            return Discrete(_plus(moved, _times(_times(dt, phi1(z)), parts.rest)))
        case _:
            decay = apply("exp", z)
            return _trapezoid(state, parts, dt, lam, fresh, span, lambda value: _times(decay, value))


def phi1(z: Expr) -> Expr:
    """(exp(z) - 1) / z, element by element; near 0 by its series, to 1e-18 of it."""
    small = apply("lt", apply("abs", z), number(1e-3))
    safe = apply("select", small, convert(number(1.0), z.dtype), z)
    series: Expr = number(1 / 120)
    for factorial in (24, 6, 2, 1):
        series = _plus(number(1 / factorial), _times(z, series))
    return apply("select", small, series, apply("div", _expm1(safe), safe))


def _expm1(z: Expr) -> Expr:
    """exp(z) - 1 without cancellation; of x + iy: expm1(x) cos y - 2 sin(y/2)^2 + i exp(x) sin y."""
    if z.dtype.kind is not Kind.COMPLEX:
        return apply("expm1", z)
    x, y = apply("real", z), apply("imag", z)
    sine = apply("sin", _times(number(0.5), y))
    real = apply("sub", _times(apply("expm1", x), apply("cos", y)), _times(number(2.0), _times(sine, sine)))
    imaginary = _times(apply("exp", x), apply("sin", y))
    return _plus(real, _times(Const(1j, DType.COMPLEX), imaginary))


def _by_matrix(
    state: Read, law: Law, method: str, dt: Expr, lam: Expr | None, fresh: Callable[[str], str], span: Span | None
) -> Discrete:
    matrix = law.matrix
    assert matrix is not None
    if dt.dims:
        raise TypeProblem(
            "E0704", f"the step of a law with a matrix is one number, but this one is {show_dims(dt.dims)}",
            "give each its own matrix, with the step multiplied in",
        )  # fmt: skip
    if law.elementwise is not None:
        if law.elementwise.dims or len(matrix.dims) > 2:
            raise TypeProblem(
                "E0704", f"{state.name} is multiplied by a matrix and by a factor for each element",
                "put the factor on the diagonal of the matrix",
            )  # fmt: skip
        rows = next(iter(matrix.dims))  # of two alike
        matrix = _plus(matrix, _times(law.elementwise, build.eye(rows, span)))
    scaled = _times(dt, matrix)
    match method:
        case "bilinear":
            half = _times(number(0.5), scaled)
            right = _plus(state, _onto(build.matmul(half, state, span), state))
            if law.rest is not None:
                right = _plus(right, _times(dt, law.rest))
            solved = build.linalg("solve", apply("sub", _identity(half, span), half), right, span=span)
            return Discrete(_onto(solved, state))
        case "zoh":
            speed = _onto(build.matmul(matrix, state, span), state)
            speed = speed if law.rest is None else _plus(speed, law.rest)
            mean = _onto(build.matmul(build.linalg("phi1", scaled, span=span), speed, span), state)
            return Discrete(_plus(state, _times(dt, mean)))
        case _:
            phi = build.linalg("phi1", scaled, span=span)

            def moved(value: Expr) -> Expr:
                """exp(dt A) times a value: exp(Z) = I + Z phi1(Z)."""
                value = _onto(value, state)
                return _plus(value, _onto(build.matmul(scaled, build.matmul(phi, value, span), span), state))

            return _trapezoid(state, law, dt, lam, fresh, span, moved)


def _trapezoid(
    state: Read,
    law: Law,
    dt: Expr,
    lam: Expr | None,
    fresh: Callable[[str], str],
    span: Span | None,
    moved: Callable[[Expr], Expr],
) -> Discrete:
    if law.rest is None:
        return Discrete(moved(state))
    weight = number(0.5) if lam is None else lam
    name = fresh(f"{state.name}_rest")
    rest = _onto(law.rest, state) if set(law.rest.dims) == set(state.dims) else law.rest
    rest = build.broadcast(convert(rest, state.dtype), state.dims, span) if rest.dims != state.dims else rest
    rest = convert(rest, state.dtype)
    zero = Const(0j if state.dtype.kind is Kind.COMPLEX else 0.0, state.dtype, span)
    hidden = State(name, state.dims, state.dtype, zero, span)
    before, now = (Read(name, lag, state.dims, state.dtype, span) for lag in (1, 0))
    old = _times(_times(apply("sub", number(1.0), weight), dt), before)
    value = _plus(moved(_plus(state, old)), _times(_times(weight, dt), now))
    return Discrete(value, hidden, Equation(name, rest, span))


# --- taking a law apart ----------------------------------------------------------------------------------------------


def _split(law: Expr, state: Read) -> Law:
    """`law` as a sum of parts. Raises `TypeProblem` where it is not affine in the state, or not by these means."""
    if not _has(law, state):
        return Law(rest=law)
    match law:
        case Read():
            return Law(elementwise=convert(number(1.0), law.dtype))
        case Apply(op="neg", args=(arg,)):
            return _each(_split(arg, state), lambda e: apply("neg", e))
        case Apply(op="add" | "sub" as op, args=(a, b)):
            return _sum(op, _split(a, state), _split(b, state))
        case Apply(op="mul", args=(a, b)) if not _has(a, state) or not _has(b, state):
            free, moving = (a, b) if not _has(a, state) else (b, a)
            return _scaled(_split(moving, state), free, lambda e: _times(free, e))
        case Apply(op="div", args=(a, b)) if not _has(b, state):
            return _scaled(_split(a, state), b, lambda e: apply("div", e, b))
        case Apply(op="select", args=(condition, a, b)) if not _has(condition, state):
            return _choice(condition, _split(a, state), _split(b, state))
        case Apply(op="cast", args=(arg,)) if arg.dtype.kind.value <= law.dtype.kind.value:
            return _each(_split(arg, state), lambda e: convert(e, law.dtype))
        case Contract(left=matrix, right=right) if right == state and not _has(matrix, state):
            square = len(matrix.dims) >= 2 and matrix.dims[-1] == matrix.dims[-2] in state.dims
            if square and build.matmul(matrix, right) == law:
                return Law(matrix=matrix)
        case _:
            pass
    raise TypeProblem(
        "E0704",
        f"this law is not of the form `a * {state.name} + b` or `A @ {state.name} + b`, with a square matrix A",
        f"what `{state.name}` is multiplied by must stand beside it; `euler(dt)` takes any law",
    )


def _has(expr: Expr, state: Read) -> bool:
    return any(r == state for r in reads(expr))


def _each(law: Law, function: Callable[[Expr], Expr]) -> Law:
    parts = (None if e is None else function(e) for e in (law.elementwise, law.matrix, law.rest))
    return Law(*parts)


def _scaled(law: Law, by: Expr, function: Callable[[Expr], Expr]) -> Law:
    if law.matrix is not None and by.dims:
        raise TypeProblem(
            "E0704", f"the product with the matrix is multiplied by a value that is {show_dims(by.dims)}",
            "multiply the matrix by it instead",
        )  # fmt: skip
    return _each(law, function)


def _sum(op: str, a: Law, b: Law) -> Law:
    def join(x: Expr | None, y: Expr | None) -> Expr | None:
        if y is None:
            return x
        if x is None:
            return apply("neg", y) if op == "sub" else y
        return apply(op, x, y)

    return Law(join(a.elementwise, b.elementwise), join(a.matrix, b.matrix), join(a.rest, b.rest))


def _choice(condition: Expr, a: Law, b: Law) -> Law:
    if a.matrix is not None or b.matrix is not None:
        raise TypeProblem("E0704", "a choice between products with matrices", "choose between the matrices instead")

    def join(x: Expr | None, y: Expr | None) -> Expr | None:
        if x is None and y is None:
            return None
        return apply("select", condition, number(0.0) if x is None else x, number(0.0) if y is None else y)

    return Law(join(a.elementwise, b.elementwise), None, join(a.rest, b.rest))


# --- small spellings ------------------------------------------------------------------------------------------------


def _plus(a: Expr, b: Expr) -> Expr:
    return apply("add", a, b)


def _times(a: Expr, b: Expr) -> Expr:
    if isinstance(a, Const) and a.value == 1:
        return b
    return apply("mul", a, b)


def _onto(value: Expr, state: Read) -> Expr:
    return value if value.dims == state.dims else build.permute(value, state.dims)


def _identity(like: Expr, span: Span | None) -> Expr:
    """The identity, repeated along the dims before the matrix."""
    *batch, rows, _ = like.dims
    eye = build.eye(rows, span)
    if not batch:
        return eye
    ones = build.broadcast(number(1.0), tuple(batch), span)
    n = len(batch)
    places = tuple(range(n))
    return Contract(ones, eye, places, (n, n + 1), (*places, n, n + 1), like.dims, DType.REAL, span)
