"""The stated accuracy of the generated exp, log, tanh and friends, scalar and SIMD, and their behaviour at the ends."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest

from recurc.backends.cpu import BACKEND
from recurc.backends.cpu.prelude import ULP, base_helpers, helpers, vector_types
from recurc.ops import OPS
from recurc.runtime.compiler import build_shared, find_compiler

pytestmark = pytest.mark.skipif(BACKEND.unavailable() is not None, reason="no C compiler here")

FUNCTIONS = ("exp", "expm1", "log", "log1p", "softplus", "sigmoid", "tanh")
ENDS = [
    0.0,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    1e-30,
    -1e-30,
    1e-40,
    88.0,
    89.5,
    -87.0,
    -104.5,
    700.0,
    -745.0,
    -1.0,
    1.0,
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    lines = []
    for real, c in (("f32", "float"), ("f64", "double")):
        for name in FUNCTIONS:
            lines.append(
                f"void {name}_{real}(const {c} *x, {c} *y, long n) {{\n"
                f"    for (long i = 0; i < n; i++) y[i] = rc_{name}_{real}(x[i]);\n}}"
            )
            step = f"rc_store_v{real}(y + i, rc_{name}_v{real}(rc_load_v{real}(x + i)))"
            lines.append(
                f"void {name}_v{real}(const {c} *x, {c} *y, long n) {{\n"
                f"    for (long i = 0; i < n; i += RC_LANES_v{real}) {step};\n}}"
            )
    code = "\n".join(lines)
    compiler = find_compiler()
    head = f"{base_helpers()}\n#define RC_VECTOR_BYTES {compiler.vector_bytes}\n{vector_types(['f32', 'f64'])}\n"
    folder: Path = tmp_path_factory.mktemp("math")
    source = folder / "math.c"
    source.write_text(head + helpers(code) + "\n" + code, encoding="utf-8")
    build_shared(compiler, source, folder / "math.so")
    return ctypes.CDLL(str(folder / "math.so"))


def call(library: ctypes.CDLL, name: str, suffix: str, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    getattr(library, f"{name}_{suffix}")(
        x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p), ctypes.c_long(x.size)
    )
    return y


def draw(name: str, real: str, rng: np.random.Generator) -> np.ndarray:
    """Arguments over the whole useful range: wide, near zero, and across all magnitudes."""
    size = 1 << 16
    top = 85.0 if real == "f32" else 700.0
    wide = rng.uniform(-top, top, size)
    small = rng.normal(0, 1, size) * 10.0 ** rng.uniform(-12, 0, size)
    x = np.concatenate([wide, small, rng.normal(0, 3, size)])
    if name == "log":
        x = np.concatenate([np.abs(x), 10.0 ** rng.uniform(-37, 37, size), 1 + small])
        x = x[x > 0]
    if name == "log1p":
        x = x[x > -1]
    x = x[: x.size // 64 * 64]
    return x.astype(np.float32 if real == "f32" else np.float64)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("suffix", ["f32", "vf32", "f64", "vf64"])
def test_error_is_within_the_stated_ulp(library: ctypes.CDLL, name: str, suffix: str, rng: np.random.Generator) -> None:
    real = suffix.removeprefix("v")
    x = draw(name, real, rng)
    got = call(library, name, suffix, x)
    wide = x.astype(np.longdouble)  # 11 bits more than f64, enough to judge a few ulp
    with np.errstate(all="ignore"):
        exact = {
            "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh,
            "softplus": lambda v: np.maximum(v, 0) + np.log1p(np.exp(-np.abs(v))),
            "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        }[name](wide)  # fmt: skip
    ok = np.abs(exact) > float(np.finfo(x.dtype).tiny)  # below it an ulp says little
    ulp = np.spacing(np.abs(exact[ok]).astype(x.dtype)).astype(np.longdouble)
    error = np.abs(got[ok].astype(np.longdouble) - exact[ok]) / ulp
    worst = int(np.argmax(error))
    assert error[worst] <= ULP[real][name], f"{name}_{suffix}({x[ok][worst]!r}): {float(error[worst]):.2f} ulp"


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("suffix", ["f32", "vf32", "f64", "vf64"])
def test_ends_are_numpys(library: ctypes.CDLL, name: str, suffix: str) -> None:
    """Infinities, NaN, zeros, overflow and underflow come out as the definition has them."""
    dtype = np.float32 if suffix.endswith("f32") else np.float64
    x = np.resize(np.array(ENDS, dtype), 64)
    got = call(library, name, suffix, x)
    with np.errstate(all="ignore"):
        want = OPS[name].numpy(x.astype(np.float64)).astype(dtype)
    same = np.isclose(got, want, rtol=1e-5, atol=float(np.finfo(dtype).tiny), equal_nan=True)
    assert same.all(), f"{name}({x[~same][0]!r}) = {got[~same][0]!r}, not {want[~same][0]!r}"
