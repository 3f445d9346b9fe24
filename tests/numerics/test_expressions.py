"""Every form of expression of the language, in several spellings, means the same on every backend as in the definition.

The inputs are float64 on both sides, so the bound is the float64 one of `cases.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.backends.base import Specialization
from recurc.backends.cpu import BACKEND
from recurc.backends.emit.names import module_name
from recurc.backends.numpy_script import script
from recurc.passes import core_form
from recurc.types import DType
from tests.numerics.cases import bound

_INPUTS = {
    "x": "x[D]", "y": "y[D]", "w": "w[N]", "s": "s", "q": "q[D]: int = 0", "m": "m[D]: bool", "z": "z[D]: complex = 0",
}  # fmt: skip
_PARAMS = {"P": "P[D, N]", "Q": "Q[D, R]", "V": "V[2, D]", "A": "A[D, D]", "k": "k[N]", "G": "G[3, N, D]"}
_STATES = "    state  h[D] = 0, S[D, N] = 0\n"
_UPDATES = "    h = 0.5 * h[t-1] + x\n    S = 0.3 * S[t-1] + x * w\n"

REAL = {
    "sums and products": (
        "x + y", "x - y", "x * y", "x / (y * y + 1)", "+x", "--x", "- +x", "-x * y - -y", "x + N", "D * N + x",
        "pi * x",
    ),
    "powers": ("x**2", "-x**2", "x**-2", "x**2**1", "(x * x + 1)**y", "2**x", "x**0.5", "(-2)**3 * x", "2**-1 * x"),
    "remainders": ("x % 3", "x % -3", "-x % 3", "x // 2", "x // -0.5", "t % 3 + x", "t // 2 + x", "t / 2 + x"),
    "numbers": ("1e-3 * x", ".5 * x", "2. * x", "1E5 * x", "0.1e+2 * x", "inf * x", "x + D / N", "x / sqrt(D)"),
    "integers": (
        "q + x", "q / 2", "q // 2", "q // -2", "q % 2", "q % -2", "q * q - 1", "q**2", "q // q", "q % q", "abs(q)",
        "sign(q)", "floor(q)", "exp(q)", "clamp(q, 0, 1)", "max(q, 2)", "max(q, x)", "relu(q)", "sum(q, D)",
        "mean(q, D)",
    ),
    "products of arrays": (
        "A @ x", "A.T @ x", "x @ A", "x @ y", "P @ w", "P.T @ x", "x @ P", "Q @ (x as [R])", "V @ x", "G @ x", "A @ A",
        "(A @ A) @ x", "(x * w) @ k", "S[t-1] @ w", "S.T @ x", "outer(x, y)", "outer(x, y) @ x", "outer(x, w)",
    ),
    "other views": (
        "A.T.T @ x", "(x * w).T", "part(G, 1) @ x", "part(V, 0) + part(V, 1)", "A * outer(x, y)", "A * 2 + A.T",
        "x as [R]", "x as [R] + w", "P as [R, N]", "permute(x * w, N, D)", "permute(G, D, 3, N)", "sum(A as [R, D], R)",
    ),
    "reductions": (
        "sum(x, D)", "sum(x)", "sum(P, D, N)", "sum(P, N, D)", "mean(x * w, N)", "max(x, D)", "max(x)", "min(P, N)",
        "prod(x, D)", "norm(x)", "logsumexp(x, D)", "argmax(x, D)", "argmin(P, N)", "any(m, D)", "all(m)", "max(q, D)",
    ),
    "normalisation": (
        "softmax(x, D)", "softmax(x * w, N)", "l2norm(x, D)", "rmsnorm(x * w, N)", "layernorm(x * w, D, N)",
        "l2norm(x, D, eps = 1e-3)", "layernorm(x, D)", "rmsnorm(x, D, eps=1e-5)",
    ),
    "comparisons": (
        "x < y", "x <= y and y < 1", "x >= y or x == y", "not m", "not m and m", "m or x > 0", "x != y", "q == 2",
        "q < x",
    ),
    "choices": (
        "if x > 0 then x else y", "if m then 1 else 0", "if m then q else x", "if s > 0 then x else w",
        "if m then (if x > 0 then 1 else 2) else 3", "where(m, x, y)", "where(x > 0, 1, 0)", "if true then x else y",
        "if not m then x else 0", "1 + (if m then x else y)", "if not x > 0 then x else y",
        "if x > 0 and not x > 1 then x else 0",
    ),
    "functions of one value": (
        "exp(x)", "log(abs(x))", "log1p(abs(x))", "expm1(x)", "sqrt(abs(x))", "rsqrt(abs(x) + 1)", "sin(x)", "cos(x)",
        "erf(x)", "abs(x)", "sign(x)", "floor(x)", "round(x)", "sigmoid(x)", "tanh(x)", "relu(x)", "silu(x)", "gelu(x)",
        "softplus(x)", "logsigmoid(x)", "elu(x)", "exp(2) * x",
    ),
    "functions of several": (
        "atan2(x, y)", "logaddexp(x, y)", "max(x, 0)", "max(0, x)", "min(x, y)", "max(x, y, )", "clamp(x, -1, 1)",
        "clamp(x, y, 2)", "iterate(3, u = x, u * 0.5 + y)", "iterate(0, u = x, u * 2)",
        "iterate(2, X = x, iterate(2, Y = X, Y + x))",
    ),
    "casts": (
        "cast(q, f32) * x", "cast(x, i32)", "cast(x, f32)", "cast(x, f16)", "cast(x, bf16)", "cast(x, int)",
        "cast(m, f32)", "cast(m, int)", "cast(q, bool)", "cast(x, bool)",
    ),
    "places": (
        "index(D) * x", "lookup(x, q)", "lookup(P, t % 5)", "lookup(P, t, 1)", "lookup(P, q, argmax(w, N))",
        "lookup(G, index(N), index(N))", "one_hot(argmax(x, D), N)", "one_hot(q, N)", "broadcast(s, N, D)",
        "broadcast(x, N, D)", "conv(k, x, D)", "circular_conv(k, x, D)", "conv(k, x * w, D)", "conv(P, x * w, D)",
        "lookup(h[t-1], index(D) + 1)", "lookup(S, q)", "sum(lookup(V, t % 2) * x, D)", "stop_gradient(x) * 2",
        "if index(D) < q then x else y", "cast(index(N), real) / N + x",
    ),
    "small matrices": (
        "eye(D) * 2", "inv(A + 3 * eye(D))", "solve(A + 3 * eye(D), x)", "solve(A + 3 * eye(D), x * w)", "phi1(A)",
        "cholesky(A @ A.T + eye(D))", "phi1(A * s)", "A @ inv(A + 3 * eye(D))", "inv(0 * A)", "cholesky(-eye(D))",
        "solve((A + 3 * eye(D)) as [D, R], x * w)", "dphi1(A, A.T)", "grad(sum(phi1(A * s) @ x), s) * x",
    ),
    "time": ("h", "h[t-1]", "h[ t - 2 ] * x", "h[t-3]", "q[t-1] + x", "q[t-2]", "t + x", "(t + 1) * x"),
}  # fmt: skip

COMPLEX = (
    "z", "real(z)", "imag(z)", "conj(z)", "abs(z)", "real(polar(x, y))", "z * z", "exp(z)", "z / (2 + 1j)", "z + 1",
    "2j * x", "exp(1j * x)", "sum(z, D)", "z[t-1]", "z @ x", "z**2", "if m then z else 0", "z == z", "cast(x, complex)",
    "log(z)", "sqrt(z)", "sin(z)", "cos(z)", "z**3", "z**-2", "z**0.5", "2**z", "z**z", "z**-0.5", "z / z[t-1]",
    "x / z", "z / x", "1j / z", "prod(z, D)", "mean(z, D)", "outer(z, z)", "outer(z, w) @ w", "(A @ z) @ x",
    "A @ (z * z)", "-z",
    "real(x)", "imag(x)", "conj(x)", "imag(q)", "z != z", "z == x", "abs(z * z)", "exp(z) * conj(z)", "z as [R]",
    "if m then z else x", "if x > 0 then x else 1j", "(A * exp(1j * A)) @ z", "z - z", "polar(abs(z), x)", "z * 0",
    "exp(x + 0j)", "iterate(3, u = z, u * u + 1j)", "sqrt(x + 0j)", "log(x + 0j)", "abs(0 * z)", "z * q",
    "cast(z, complex) * x",
)  # fmt: skip


def source(expressions: tuple[str, ...]) -> str:
    """One recurrence with an output per expression, and only the inputs and params these read."""
    used = set(re.findall(r"[^\W\d]\w*", _UPDATES + " ".join(expressions)))
    inputs = ", ".join(text for name, text in _INPUTS.items() if name in used)
    params = ", ".join(text for name, text in _PARAMS.items() if name in used)
    outputs = "".join(f"    output y{i} = {e}\n" for i, e in enumerate(expressions))
    param = f"    param  {params}\n" if params else ""
    return f"recurrence E(D, N = 3, R = D):\n    input  {inputs}\n{param}{_STATES}{_UPDATES}{outputs}"


def values(rec: recurc.Recurrence, rng: np.random.Generator) -> dict[str, Any]:
    """Two sequences of six steps with D = 4; matrices small enough that powers of them stay near 1."""
    sizes = {"D": 4, "N": 3, "R": 4}

    def shape(dims: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(int(d) if d.isdigit() else sizes[d] for d in dims)

    arrays: dict[str, Any] = {}
    for name, signature in rec.inputs.items():
        full = (2, 6, *shape(signature.dims))
        arrays[name] = {
            "q": rng.integers(-5, 6, full), "m": rng.random(full) < 0.5,
            "z": rng.standard_normal(full) + 1j * rng.standard_normal(full),
        }.get(name, rng.standard_normal(full))  # fmt: skip
    return arrays | {n: 0.5 * rng.standard_normal(shape(s.dims)) for n, s in rec.params.items()}


def agree(expressions: tuple[str, ...], backend: str, rng: np.random.Generator) -> None:
    rec = recurc.load(text=source(expressions))
    assert recurc.load(text=rec.to_text()) == rec
    arrays = values(rec, rng)
    wanted = rec.compile(backend="reference")(**arrays)
    found = rec.compile(backend=backend)(**arrays)
    assert [v.dtype for v in found] == [v.dtype for v in wanted]
    near(expressions, found, wanted, backend)


def near(expressions: tuple[str, ...], found: Iterable[Any], wanted: Iterable[Any], where: str) -> None:
    for expression, ref, got in zip(expressions, wanted, found, strict=True):
        assert got.shape == ref.shape, expression
        with np.errstate(invalid="ignore"):
            close = np.isfinite(ref) & (np.abs(got.astype(complex) - ref) <= bound(ref, "f64", 6))
        same = (got == ref) | close | (np.isnan(got) & np.isnan(ref))
        assert same.all(), f"{expression} on {where}: {got[~same][:3]}, by the definition {ref[~same][:3]}"


@pytest.mark.parametrize("form", REAL)
def test_every_form_of_expression_means_what_the_definition_says(
    form: str, backend: str, rng: np.random.Generator
) -> None:
    agree(REAL[form], backend, rng)


@pytest.mark.parametrize("native", ["numpy", "cpu"])
def test_complex_expressions_mean_what_the_definition_says(native: str, rng: np.random.Generator) -> None:
    if native == "cpu" and BACKEND.unavailable():
        pytest.skip("no C compiler here")
    agree(COMPLEX, native, rng)


@pytest.mark.parametrize("form", [*REAL, "complex"])
def test_an_exported_numpy_program_means_what_the_definition_says(form: str, rng: np.random.Generator) -> None:
    """The program is text of its own, beside the plan interpreter. It computes in float64, whatever the call stores."""
    expressions = REAL.get(form, COMPLEX)
    rec = recurc.load(text=source(expressions))
    arrays = values(rec, rng)
    spec = Specialization((("D", 4), ("N", 3), ("R", 4)), DType.F64)
    program: dict[str, Any] = {"__name__": "program"}
    exec(script(core_form(rec.ir), spec), program)
    with np.errstate(all="ignore"):
        made = program[module_name(rec.name)](*arrays.values())
    wanted = rec.compile(backend="reference")(**arrays)
    near(expressions, [made[name] for name in rec.outputs], wanted, "the NumPy program")


@pytest.mark.parametrize("half", ["f16", "bf16"])
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_a_cast_to_half_precision_rounds(half: str, real: type, backend: str, rng: np.random.Generator) -> None:
    """To the nearest, ties to even, over the whole range; a product of two halves is rounded by its own cast. Lanes,
    the ragged rest of them and lone numbers take different ways."""
    rec = recurc.load(
        text=f"recurrence E(D):\n    input  x[D], s\n    output y = cast(cast(x, {half}), real)\n"
        f"    output z = cast(cast(s, {half}), real)\n"
        f"    output p = cast(cast(cast(x, {half}) * cast(1 + 1 / 256, {half}), {half}), real)\n"
    )
    magnitudes = rng.standard_normal((60, 19)) * 10.0 ** rng.uniform(-3, 4, (60, 19))
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-8, -1.5]
    if half == "f16":  # too large, and below the normal range
        odd += [65504, 65519.9, 65520, -65536, 1e6, 2.0**-24, 2.0**-25, 1.001 * 2.0**-25, 2.0**-14 * (1 - 2.0**-12)]
    x = np.concatenate([magnitudes.ravel(), np.resize(odd, 19 * 2)]).reshape(-1, 19).astype(real)
    wanted = rec.compile(backend="reference")(x=x, s=x[:, 3])
    found = rec.compile(backend=backend)(x=x, s=x[:, 3])
    for name, ref, got in zip(rec.outputs, wanted, found, strict=True):
        np.testing.assert_array_equal(got, ref, name)


@pytest.mark.parametrize("operator", ["//", "%"])
def test_integer_division_never_traps(operator: str, backend: str) -> None:
    """Processors trap where an integer is divided by zero, and where the least one is divided by -1."""
    rec = recurc.load(text=f"recurrence E(D):\n    input  p[D]: int, q[D]: int\n    output y = p {operator} q\n")
    least = np.iinfo(np.int64).min
    p, q = np.array([[least, least, -7, 7, 0, least]]), np.array([[-1, 0, 0, -2, 0, 3]])
    with np.errstate(all="ignore"):
        wanted = np.floor_divide(p, q) if operator == "//" else np.mod(p, q)
    np.testing.assert_array_equal(rec.compile(backend=backend)(p=p, q=q), wanted)


@pytest.mark.parametrize("function", ["argmax", "argmin"])
def test_the_place_of_the_first_nan_is_the_place_of_the_extreme(
    function: str, backend: str, rng: np.random.Generator
) -> None:
    rec = recurc.load(text=f"recurrence E(D):\n    input  x[D]\n    output y = {function}(x, D)\n")
    x = rng.standard_normal((200, 5))
    x[rng.random(x.shape) < 0.2] = np.nan
    wanted = np.argmax(x, -1) if function == "argmax" else np.argmin(x, -1)
    np.testing.assert_array_equal(rec.compile(backend=backend)(x=x), wanted)


@pytest.mark.parametrize("function", ["max", "min"])
def test_the_extreme_of_integers_may_be_the_last_of_its_type(function: str, backend: str) -> None:
    rec = recurc.load(text=f"recurrence E(D):\n    input  p[D]: int\n    output y = {function}(p, D)\n")
    ends = np.iinfo(np.int64)
    p = np.array([[ends.min, ends.min], [ends.max, ends.max], [ends.min, ends.max]])
    wanted = np.max(p, -1) if function == "max" else np.min(p, -1)
    np.testing.assert_array_equal(rec.compile(backend=backend)(p=p), wanted)
