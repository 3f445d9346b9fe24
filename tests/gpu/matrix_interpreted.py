"""Runs scans of matrices and tables in Triton's interpreter, in a process of its own:
`python -m tests.gpu.matrix_interpreted SEED [CASE...]`; without names, some by the seed. Prints one JSON object per
case.

TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import recurc
from tests.matrix_cases import CASES

POINTS = ((0, 2), (1, 2), (2, 2), (3, 3), (7, 3), (18, 4), (29, 1), (33, 6))  # steps, segments

# What the small cases do not have: columns that several programs share, with a rest; lanes beside them; params of each
# sequence; a step that reads the one before.
LARGE = {
    "columns of several programs": (
        "Large(N = 19, R = N):\n    input  x[N], A[N, R]\n    state  h[N] = 1\n"
        "    h = 0.2 * (A @ (h[t-1] as [R])) + x\n    output h",
        {"N": 19, "R": 19},
    ),
    "lanes beside columns": (
        "Large(D = 37, N = 5, R = N):\n    input  x[D, N] = 0\n    param  A[D, N, R]\n    state  h[D, N] = 1\n"
        "    h = 0.2 * (A @ (h[t-1] as [D, R])) + x - 0.1 * x[t-1]\n    output y = sum(h, N) - h[t-1], h",
        {"D": 37, "N": 5, "R": 5},
    ),
    "paths of several programs": (
        "Large(N = 21, R = N):\n    input  x[N]\n    param  A[N, R]\n"
        "    state  h[N] = if index(N) == 4 then 0 else -inf\n    h = max(A + (h[t-1] as [R]), R) + x\n    output h",
        {"N": 21, "R": 21},
    ),
    "tables of several programs": (
        "Large(C = 6, D = 3, Q = 70):\n    input  c[D]: int(C)\n    param  move[Q, C]: int(Q)\n"
        "    state  s[D]: int(Q) = 0\n    s = lookup(move, s[t-1], c)\n    output s",
        {"C": 6, "D": 3, "Q": 70},
    ),
    "remainders of several programs": (
        "Large(N = 18, R = N):\n    input  n[N]: int\n    param  K[N, R]: int\n    state  h[N]: int = index(N)\n"
        "    h = (K @ (h[t-1] as [R]) + n) % 10007\n    output h",
        {"N": 18, "R": 18},
    ),
    "scaled by all columns": (
        "Large(N = 9, R = N):\n    input  e[N]\n    param  A[N, R]\n    state  h[N] = 1\n"
        "    j = exp(e) * (abs(A) @ (h[t-1] as [R]))\n    h = j / sum(j, N)\n    output h",
        {"N": 9, "R": 9},
    ),
}


def large(name: str) -> recurc.Recurrence:
    return recurc.load(text=f"recurrence {LARGE[name][0]}\n")


def drawn(rec: recurc.Recurrence, sizes: dict[str, int], rng: np.random.Generator, steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for given, lead in ((rec.ir.inputs, (2, steps)), (rec.ir.params, ())):
        for v in given:
            shape = (*lead, *(sizes[d] for d in v.dims))
            whole = v.dtype.kind.name == "INT"
            found[v.name] = (
                rng.integers(0, sizes[v.bound or ""] if v.bound else 9, shape) if whole else rng.normal(size=shape)
            )
    return found


def _large(name: str, seed: int, steps: int) -> None:
    """In f64 to 1e-10 of the largest value: 33 steps of sums of 21 products, which do not grow."""
    rec = large(name)
    given = drawn(rec, LARGE[name][1], np.random.default_rng([seed, steps]), steps)
    wanted, last = rec.compile(backend="reference")(**given, return_final=True)
    found, ended = rec.compile(backend="triton", schedule="scan")(**given, return_final=True)
    several: list[Any] = [*wanted] if isinstance(wanted, tuple) else [wanted]
    have: list[Any] = [*found] if isinstance(found, tuple) else [found]
    for a, b in (*zip(have, several, strict=True), *((ended[n], last[n]) for n in last)):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            continue
        scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * scale)


def _small(name: str, seed: int, steps: int) -> None:
    from tests.numerics.test_matrix_scans import agree

    agree(CASES[name], "triton", np.random.default_rng([seed, steps]), steps)


EDGES = {
    "what is no number reaches later steps only": "h = 0.5 * (A @ (h[t-1] as [R])) + x",
    "no path to anywhere": "h = max(max(A + (h[t-1] as [R]), R), x)",
    "no weight anywhere": "h = logaddexp(logsumexp(A + (h[t-1] as [R]), R), x)",
}


def _edge(name: str, seed: int, steps: int) -> None:
    """Infinities and what is no number stand in the same places as in the loop over the definition."""
    rec = recurc.load(
        text=f"recurrence Edge(N = 5, R = N):\n    input  x[N], A[N, R]\n    param  p[N]\n    state  h[N] = p\n"
        f"    {EDGES[name]}\n    output h\n"
    )
    rng = np.random.default_rng([seed, steps])
    given = drawn(rec, {"N": 5, "R": 5}, rng, steps)
    if name.startswith("what"):
        given["x"][:, steps // 2, 2] = np.nan
    else:
        given["A"][rng.random(given["A"].shape) < 0.6] = -np.inf
        given["x"][rng.random(given["x"].shape) < 0.8] = -np.inf
        given["p"][1:] = -np.inf
        given["A"][:, steps // 3] = given["x"][:, steps // 3] = -np.inf
    # in a sum of logarithms no weight at all is -inf to a scan, and no number in the words of the equation
    scanned = name.startswith("no weight")
    definition = rec.compile(backend="numpy", schedule="scan") if scanned else rec.compile(backend="reference")
    wanted = np.asarray(definition(**given))
    found = rec.compile(backend="triton", schedule="scan")(**given)
    assert not np.isfinite(wanted).all() and np.isfinite(wanted).any()
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)


def some(rng: np.random.Generator) -> list[str]:
    """Cases of every kind by the seed."""
    picked = ((CASES, 8), (LARGE, 2), (EDGES, 1))
    return [str(n) for kind, count in picked for n in rng.choice(list(kind), count, replace=False)]


def cases() -> Iterator[tuple[str, Callable[[str, int, int], None], tuple[tuple[int, int], ...]]]:
    for name in CASES:
        yield name, _small, POINTS
    for name in LARGE:
        yield name, _large, ((1, 2), (5, 2), (13, 3))
    for name in EDGES:
        yield name, _edge, ((7, 3), (16, 4))


def main(seed: int, names: list[str]) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    from recurc.backends.triton import Options, TritonBackend
    from recurc.runtime import choose

    known = choose.backend
    rng = np.random.default_rng(seed)
    wanted = names or some(rng)
    for name, compare, points in cases():
        if name not in wanted:
            continue
        few = [points[int(rng.integers(compare is _small, len(points)))]] + [points[0]] * (rng.random() < 0.2)
        for steps, segments in points if names else few:
            triton = TritonBackend(options=Options(segments=segments))
            choose.backend = lambda name, triton=triton: triton if name == "triton" else known(name)
            wrong = ""
            try:
                compare(name, seed, steps)
            except AssertionError as far:
                wrong = f"{name}, {steps} steps in {segments} segments: {far}"
            print(json.dumps({"name": name, "steps": steps, "segments": segments, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
