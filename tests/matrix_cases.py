"""Updates whose lifted operator multiplies matrices or composes tables, in the words of the language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import recurc

SIZES = {"N": 3, "D": 2, "Q": 4}


@dataclass(frozen=True)
class Mixed:
    """A recurrence over N (with R as another name), D and Q: its class and its lines, joined by `;`. `drifts`: factors
    of its elements may leave the range of numbers over thousands of steps, so it is scanned only when asked for."""

    cls: str
    lines: str
    drifts: bool = False

    @property
    def rec(self) -> recurc.Recurrence:
        words = "".join(c if c.isalnum() else " " for c in self.lines).split()
        header = f"recurrence Mixed(N = 3, D = 2, Q = 4{', R = N' * ('R' in words)}):"
        return recurc.load(text="\n    ".join([header, *self.lines.split("; ")]) + "\n")


CASES = {
    "matrix that never changes": Mixed(
        "DA",
        "input x[N]; param A[N, R]; state h[N] = 1; h = 0.15 * (A @ (h[t-1] as [R])) + x; output h",
    ),
    "matrix of inputs": Mixed(
        "DA",
        "input x[N], A[N, R]; state h[N] = 0; h = x - A @ (h[t-1] as [R]) / 3; output h",
    ),
    "one matrix for each row": Mixed(
        "DA",
        "input x[D, N], A[D, N, R]; state h[D, N] = x0; param x0[D, N]; h = 0.25 * (A @ (h[t-1] as [D, R])) + x; "
        "output h",
    ),
    "columns side by side": Mixed(
        "DA",
        "input A[N, R]; param x[D]; state h[N, D] = 1; h = 0.9 * h[t-1] + 0.1 * (A @ (h[t-1] as [R, D])) + x; output h",
    ),
    "product and decay": Mixed(
        "DA",
        "input a[N], A[N, R]; state h[N] = 1; g = A @ (h[t-1] as [R]); h = tanh(a) * h[t-1] - 0.2 * g; output h, g",
    ),
    "two products": Mixed(
        "DA",
        "input x[N]; param A[R, N], B[N, R]; state h[N] = 1; h = 0.2 * (B @ (A @ h[t-1])) + x; output h",
    ),
    "mean of the state": Mixed(
        "DA",
        "input x[N]; state h[N] = 1; h = 0.5 * h[t-1] + 0.125 * sum(h[t-1], N) + x; output h",
    ),
    "neighbours": Mixed(
        "DA",
        "input x[N]; param w[3]; state h[N] = 1; h = 0.3 * circular_conv(w, h[t-1], N) + x; output h",
    ),
    "neighbours and zeros": Mixed(
        "DA",
        "input x[N, D]; param w[3]; state h[N, D] = 1; h = 0.3 * conv(w, h[t-1], N) + x; output h",
    ),
    "shift": Mixed(
        "DA",
        "input x; param p[N]; state h[N] = p; "
        "h = (if index(N) == 0 then x else lookup(h[t-1], index(N) - 1)) - 0.1 * h[t-1]; output h",
    ),
    "place of an input": Mixed(
        "DA",
        "input x[N], n: int; state h[N] = 1; h = 0.9 * lookup(h[t-1], n + index(N)) + x; output h",
    ),
    "implicit step": Mixed(
        "DA",
        "input x[N]; param A[N, R]; state h[N] = 1; h = solve(eye(N) as [N, R] - 0.1 * A, h[t-1] + x) as [N]; output h",
    ),
    "both dims": Mixed(
        "DA",
        "input x[N, D], A[N, R]; state h[N, D] = 1; "
        "h = 0.3 * (A @ (h[t-1] as [R, D])) + 0.1 * sum(h[t-1], D) + x; output h",
    ),
    "dense remainders": Mixed(
        "DA",
        "input n[N]: int; param K[N, R]: int; state h[N]: int = index(N); h = (K @ (h[t-1] as [R]) + n) % 10007; "
        "output h",
    ),
    "max and plus": Mixed(
        "SL",
        "input A[N, R], x[N]; state h[N] = x0; param x0[N]; h = max(max(A + (h[t-1] as [R]), R), x); output h",
    ),
    "min and plus": Mixed(
        "SL",
        "input x[D, N]; param A[R, N]; state h[D, N] = if index(N) == 0 then 0 else inf; "
        "h = (min(h[t-1] + (A as [N, R]), N) as [D, N]) - x; output h",
    ),
    "log-sum-exp and plus": Mixed(
        "SL",
        "input A[N, R], x[N]; state h[N] = if index(N) == 1 then 0 else -inf; "
        "h = logaddexp(logsumexp(A + (h[t-1] as [R]), R), x); output h",
    ),
    "or and and": Mixed(
        "SL",
        "input A[N, R]: bool, q[N]: bool; state s[N]: bool = index(N) == 0; "
        "s = any(A and (s[t-1] as [R]), R) or q; output s",
    ),
    "and and or": Mixed(
        "SL",
        "input A[N, R]: bool; state s[N]: bool = index(N) == 0; s = all(A or (s[t-1] as [R]), R); output s",
    ),
    "max and min": Mixed(
        "SL",
        "input A[N, R]; state h[N] = index(N); h = max(min(A, (h[t-1] as [R])), R); output h",
    ),
    "truth that holds on": Mixed(
        "SL",
        "input p[N]: bool, q: bool; state s[N]: bool = false; s = p or (q and s[t-1]); output s",
    ),
    "normalised": Mixed(
        "SL",
        "input e[N]; param A[N, R]; state h[N] = 1; j = exp(e) * (abs(A) @ (h[t-1] as [R])); total = sum(j, N); "
        "h = j / total; output h, total",
    ),
    "normalised side by side": Mixed(
        "SL",
        "input e[D, N]; param A[R, N]; state h[D, N] = 1; "
        "j = exp(e) * (((h[t-1] as [D, R]) @ abs(A)) as [D, N]); h = j / sum(j, N); output h",
    ),
    "min and plus in whole numbers": Mixed(
        "SL",
        "input A[N, R]: int(Q), n[N]: int(Q); state h[N]: int = if index(N) == 1 then 0 else 9223372036854775800; "
        "h = min(min((h[t-1] as [R]) + A - 1, R), if n == 0 then h[t-1] - 2 else n + 100); output h",
    ),
    "max and plus in whole numbers": Mixed(
        "SL",
        "input n[N, D]: int(Q); param A[N, R]: int(Q); state h[N, D]: int = -4611686018427387904; "
        "h = max(if A == 2 then -1000000 else A + n + (h[t-1] as [R, D]), R); output h",
    ),
    "a queue in whole numbers": Mixed(
        "SL", "input n[D]: int(Q), k[D]: int(N); state h[D]: int = 5; h = max(h[t-1] + n - k, 0); output h"
    ),
    "max and min in whole numbers": Mixed(
        "SL",
        "input A[N, R]: int; state h[N]: int = index(N) - 1; h = max(min(A, (h[t-1] as [R])), R); output h",
    ),
    "largest values": Mixed(
        "ID",
        "input x[D]; param p[Q, D]; state h[Q, D] = p; "
        "h = max(h[t-1], if index(Q) == 0 then x else min(lookup(h[t-1], index(Q) - 1), x)); output h",
    ),
    "smallest whole numbers": Mixed(
        "ID",
        "input n: int; state h[N]: int = 7; over = lookup(h[t-1], index(N) - 1); "
        "h = min(if index(N) == 0 then n else max(n, over), h[t-1]); output h, last = lookup(h, N - 1)",
    ),
    "largest values after a reset": Mixed(
        "SEG",
        "input x, go: bool; state h[Q] = -inf; reset when go; "
        "h = max(h[t-1], if index(Q) == 0 then x else min(lookup(h[t-1], index(Q) - 1), x)); output h",
    ),
    "Riccati": Mixed(
        "MB",
        "input h[N]; param F[N, N], K[N, N]; state P[N, N] = eye(N); J = (h * (h as [R])) as [N, N]; "
        "P = 0.1 * (F @ inv(inv(P[t-1]) + eye(N) + J) @ F.T + K @ K.T) + eye(N); output P",
    ),
    "two matrices from two sides": Mixed(
        "MB",
        "input J[N, N]; param F[N, N], G[N, N]; state P[N, N] = eye(N); "
        "P = eye(N) - 0.05 * (F @ inv(4 * inv(P[t-1]) + eye(N) + 0.05 * J) @ G) / 2; output P",
        drifts=True,
    ),
    "a choice of maps": Mixed(
        "MB",
        "input J[N, N], go: bool; state P[N, N] = eye(N); "
        "P = if go then 0.5 * P[t-1] + eye(N) else -inv(-eye(N) - inv(P[t-1] + 2 * eye(N)) - 0.01 * J.T); output P",
        drifts=True,
    ),
    "after a reset": Mixed(
        "SEG",
        "input A[N, R], go: bool; state h[N] = index(N); reset when go; h = max(A + (h[t-1] as [R]), R); output h",
    ),
    "automaton": Mixed(
        "FS",
        "input c[D]: int(Q); param move[N, Q]: int(N); state s[D]: int(N) = 0; s = lookup(move, s[t-1], c); output s",
    ),
    "words of permutations": Mixed(
        "FS",
        "input g[N]: int(N); state p[N]: int(N) = index(N); p = lookup(g, p[t-1]); output p",
    ),
    "counter that jumps": Mixed(
        "FS",
        "input c[D]: int(Q); state s: int(N) = 1; "
        "s = if s[t-1] == 2 then lookup(c, 0) else s[t-1] * s[t-1] + lookup(c, 1); output s",
    ),
    "exclusive or": Mixed(
        "FS",
        "input p[D]: bool; state s[D]: bool = false; s = if s[t-1] then not p else p; output s",
    ),
}


def arrays(case: Mixed, rng: np.random.Generator, batch: int, steps: int) -> dict[str, Any]:
    """Inputs (B, T, ...) and params, fresh."""
    rec = case.rec.ir
    sizes = {**SIZES, "R": 3, "3": 3}
    found: dict[str, np.ndarray] = {}
    for given, lead in ((rec.inputs, (batch, steps)), (rec.params, ())):
        for v in given:
            shape = (*lead, *(sizes[d] for d in v.dims))
            match v.dtype.kind.name:
                case "BOOL":
                    found[v.name] = rng.random(shape) < 0.5
                case "INT":
                    found[v.name] = rng.integers(0, sizes[v.bound] if v.bound else 10, shape)
                case _:
                    found[v.name] = rng.standard_normal(shape)
    return found
