"""The helpers generated C calls (`rc_exp_vf32`, ...), instantiated from the templates next to this file.

A template function starts at a line `//@ name: what it calls`; `$` is the type suffix. Only what a kernel uses is
printed, callees first, so the generated file stays readable and stands alone.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources

# exp(r) = 1 + r + r^2 * EXP(r) on |r| <= 0.348; log through 2 atanh(s) = 2 s + s z LOG(z), z = s^2.
# f32: minimax fits (relative error 3e-9 and 2e-10); f64: the Taylor series.
_SERIES = {
    "f32": {
        "EXP": (
            0.5000000097481405,
            0.1666651645268167,
            0.04166619840448107,
            0.008369175586107926,
            0.0013950984382538627,
        ),
        "LOG": (0.6666682132613441, 0.39973060594082693, 0.29975655282436403),
    },
    "f64": {
        "EXP": tuple(1 / math.factorial(k + 2) for k in range(12)),
        "LOG": tuple(2 / (2 * k + 3) for k in range(10)),
    },
}

# Largest errors in units of the last place, as `tests/unit/test_cpu_math.py` measures them.
ULP = {
    "f32": {"exp": 2, "expm1": 4, "log": 3, "log1p": 4, "softplus": 4, "sigmoid": 4, "tanh": 6},
    "f64": {"exp": 2, "expm1": 4, "log": 3, "log1p": 4, "softplus": 4, "sigmoid": 4, "tanh": 6},
}


def _bits(value: float, real: str) -> int:
    code = "<f" if real == "f32" else "<d"
    return int.from_bytes(struct.pack(code, value), "little")


def _literal(value: float, real: str) -> str:
    text = repr(value) + ("f" if real == "f32" else "")
    return f"({text})" if value < 0 else text


def _constants(real: str) -> dict[str, str]:
    f32 = real == "f32"
    lit = {
        "EXP_LOW": -104.0 if f32 else -746.0, "EXP_HIGH": 89.0 if f32 else 710.0, "EXPM1_LOW": -20.0 if f32 else -40.0,
        "TANH_END": 20.0 if f32 else 40.0, "LOG2E": math.log2(math.e), "LN2": math.log(2),
        "MAGIC": 1.5 * 2.0 ** (23 if f32 else 52),
        "LN2_HIGH": 0.693359375 if f32 else float.fromhex("0x1.62e42feep-1"),
        "LN2_LOW": -2.12194440e-4 if f32 else 1.9082149292705877e-10,
        "TINY": 2.0**-126 if f32 else 2.0**-1022, "LIFT": 2.0**25 if f32 else 2.0**54,
        "LIFT_BITS": 25.0 if f32 else 54.0, "HALF_NORMAL": 2.0**-14, "HALF_SHIFT": 0.5 if f32 else 2.0**28,
    }  # fmt: skip
    out = {name: _literal(value, real) for name, value in lit.items()}
    out |= {
        "BIAS": "127" if f32 else "1023", "MANTISSA": "23" if f32 else "52",
        "MANTISSA_MASK": "0x7fffff" if f32 else "INT64_C(0xfffffffffffff)",
        "SQRT_HALF_BITS": str(_bits(math.sqrt(0.5), real)) if f32 else f"INT64_C({_bits(math.sqrt(0.5), real)})",
        "HALF_DROPPED": "13" if f32 else "42", "HALF_BELOW": "0xfff" if f32 else "INT64_C(0x1ffffffffff)", "REAL": real,
        "ABSMASK": "0x7fffffff" if f32 else "INT64_C(0x7fffffffffffffff)",
        "F": "f" if f32 else "", "P": "ps" if f32 else "pd", "LANES": "16" if f32 else "8",
    }  # fmt: skip
    out |= {f"{name.upper()}_ULP": f"within {ulp} ulp" for name, ulp in ULP[real].items()}
    return out


def _horner(variable: str, series: tuple[float, ...], real: str) -> str:
    text = _literal(series[-1], real)
    for coefficient in reversed(series[:-1]):
        text = f"({_literal(coefficient, real)} + {variable} * {text})"
    return text[1:-1]


_HEAD = re.compile(r"^//@ (\w+):(.*)$", re.MULTILINE)


@lru_cache(maxsize=1)
def _templates() -> dict[str, dict[str, tuple[tuple[str, ...], str]]]:
    """File -> function -> (what it calls, text)."""
    out: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {}
    for file in ("scalar", "integer", "vector", "math", "matrix"):
        pieces = _HEAD.split(resources.files(__name__).joinpath(f"{file}.h").read_text(encoding="utf-8"))
        out[file] = {
            name: (tuple(needs.split()), text.strip("\n"))
            for name, needs, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True)
        }
    return out


def _table(suffix: str) -> dict[str, tuple[tuple[str, ...], str]]:
    files = _templates()
    if suffix[0] == "v":
        return files["vector"] | files["math"]
    return files["scalar"] | files["math"] | files["matrix"] if suffix[0] == "f" else files["integer"]


def _instance(text: str, suffix: str) -> str:
    real = suffix.removeprefix("v")
    if suffix[0] in "ib":
        scalar = {"i32": "int32_t", "i64": "int64_t", "bool": "int"}[suffix]
        unsigned = {"i32": "uint32_t", "i64": "uint64_t", "bool": "unsigned"}[suffix]
        return text.replace("$", f"_{suffix}").replace("@T@", scalar).replace("@U@", unsigned)
    width = real[1:]
    types = {
        "T": "float" if real == "f32" else "double",
        "I": f"vm{width}" if suffix[0] == "v" else f"int{width}_t",
        "M": f"vm{width}",
    }
    types["V"] = f"vf{width}" if suffix[0] == "v" else types["T"]
    table = _constants(real) | types

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        if name.startswith("HORNER:"):
            _, series, variable = name.split(":")
            return _horner(variable, _SERIES[real][series], real)
        return table[name]

    return re.sub(r"@([A-Z0-9_]+(?::\w+:\w+)?)@", fill, text).replace("$", f"_{suffix}")


_CALL = re.compile(r"\brc_(\w+?)_(v?(?:f32|f64)|i32|i64|bool)\b")


def helpers(code: str) -> str:
    """Definitions of every `rc_NAME_SUFFIX` that `code` calls and that the templates define, callees first."""
    done: dict[tuple[str, str], str] = {}

    def need(name: str, suffix: str) -> None:
        if (name, suffix) in done or name not in _table(suffix):
            return
        calls, text = _table(suffix)[name]
        for callee in calls:
            need(callee, suffix)
        body = _instance(text, suffix)
        for callee, other in _CALL.findall(body):
            if (callee, other) != (name, suffix):
                need(callee, other)
        done.setdefault((name, suffix), body)

    for name, suffix in dict.fromkeys(_CALL.findall(code)):
        need(name, suffix)
    return "\n\n".join(done.values())


def base_helpers() -> str:
    """Includes and the few helpers every kernel has."""
    return resources.files(__name__).joinpath("base.h").read_text(encoding="utf-8").strip()


def vector_types(suffixes: Iterable[str]) -> str:
    """Typedefs of the vector types, for the reals in `suffixes` (`f32`, `f64`)."""
    lines: list[str] = []
    for real in suffixes:
        base, mask, width = {"f32": ("float", "int32_t", 32), "f64": ("double", "int64_t", 64)}[real]
        lines += [
            f"typedef {base} vf{width} __attribute__((vector_size(RC_VECTOR_BYTES), may_alias));",
            f"typedef {mask} vm{width} __attribute__((vector_size(RC_VECTOR_BYTES), may_alias)); // a mask: -1 is true",
            f"#define RC_LANES_v{real} (RC_VECTOR_BYTES / {width // 8})",
        ]
    return "\n".join(lines)
