"""What a class is claimed for, and what looks like it and is not: pairs of updates that differ in one place."""

from __future__ import annotations

import pytest

import recurc

HEAD = """recurrence R(D, W = 3, N = 4, L = N):
    input  x[D] = 0, z[D], c[N], e[N], q: bool, n: int, letter: int(5)
    param  p[D], A[N, L], U[D, D], move[5, 5]: int(5), H[W, N], Q[N, N], F[N, N]
"""


def groups(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """(class, legal schedules) of each group of the recurrence whose lines are `text`, separated by semicolons."""
    lines = "".join(f"    {line.strip()}\n" if line.strip() else "" for line in text.split(";")).replace("|", "\n    ")
    return [(g.cls, g.schedules) for g in recurc.load(text=HEAD + lines).analyze().groups]


def classes(text: str) -> list[str]:
    return [cls for cls, _ in groups(text)]


# name: what it is, the class; what it is with one thing changed, the class then
PAIRS = {
    "a gate that reads the state": (
        "state h[D] = 0; h = sigmoid(x) * h[t-1] + z; output h", "EA",
        "state h[D] = 0; h = sigmoid(x + p * h[t-1]) * h[t-1] + z; output h", "NL-d",
    ),
    "a reset gate before the product": (
        "state h[D] = 0; h = (1 - sigmoid(z)) * (U @ x) + sigmoid(z) * h[t-1]; output h", "EA",
        "state h[D] = 0; h = (1 - sigmoid(z)) * tanh(U @ (sigmoid(x) * h[t-1])) + sigmoid(z) * h[t-1]; output h",
        "NL-f",
    ),
    "a threshold": (
        "state v[D] = 0; v = 0.9 * v[t-1] + x; output v", "EA",
        "state v[D] = 0; u = 0.9 * v[t-1] + x; v = if u > 1 then u - 1 else u; output v", "NL-d",
    ),
    "a square": (
        "state h[D] = 0.3; h = x * h[t-1] * (1 - z); output h", "EA",
        "state h[D] = 0.3; h = x * h[t-1] * (1 - h[t-1]); output h", "QP",
    ),
    "a square behind a threshold": (
        "state h[D] = 0.3; h = x * h[t-1] * h[t-1] + z; output h", "QP",
        "state h[D] = 0.3; h = x * floor(h[t-1]) * h[t-1] + z; output h", "NL-d",
    ),
    "a sign before a maximum": (
        "state h[D] = 0; h = max(h[t-1], x); output h", "ID",
        "state h[D] = 0; h = max(-h[t-1], x); output h", "NL-d",
    ),
    "an absolute value": (
        "state h[D] = 0; h = 0.9 * h[t-1] + 0.1 * x; output h", "EA",
        "state h[D] = 0; h = 0.9 * abs(h[t-1]) + 0.1 * x; output h", "NL-d",
    ),
    "a rounding error": (
        "state s[D] = 0, b[D] = 0; y = x - b[t-1]; s = s[t-1] + y; b = 0.5 * s - y; output s", "BA",
        "state s[D] = 0, b[D] = 0; y = x - b[t-1]; s = s[t-1] + y; b = (s - s[t-1]) - y; output s", "NL-b",
    ),
    "a scaled rounding error": (
        "state s[D] = 0; s = z * s[t-1] + x; output s", "EA",
        "state s[D] = 0; s = (z * s[t-1] + x) - z * s[t-1]; output s", "NL-d",
    ),
    "addressing by content": (
        "state M[N] = 0; M = M[t-1] * (1 - c * e) + c; output M", "EA",
        "state M[N] = 0; M = M[t-1] * (1 - softmax(M[t-1] * e, N)) + c; output M", "NL-f",
    ),
    "a cast to integers": (
        "state h[D] = 0; h = 0.5 * h[t-1] + x; output h", "EA",
        "state h[D] = 0; h = cast(cast(0.5 * h[t-1], int), real) + x; output h", "NL-d",
    ),
    "a window": (
        "state w[W, D] = 0; w = if index(W) == W - 1 then x else lookup(w[t-1], index(W) + 1); output w", "SH",
        "state w[W, D] = 0; w = if index(W) == 0 then x else lookup(w[t-1], index(W) + 1); output w", "DA",
    ),
    "a window that moves back": (
        "state w[W, D] = 0; w = if index(W) < 1 then x else lookup(w[t-1], index(W) - 1); output w", "SH",
        "state w[W, D] = 0; w = if index(W) < 1 then x else lookup(w[t-1], index(W) - 0); output w", "DA",
    ),
    "a window of the state": (
        "state w[W, D] = 0; w = if index(W) == W - 1 then x else lookup(w[t-1], index(W) + 1); output w", "SH",
        "state w[W, D] = 0; f = lookup(w[t-1], 0); w = if index(W) == W - 1 then f else lookup(w[t-1], index(W) + 1)"
        "; output w", "DA",
    ),
    "a value where it begins anew": (
        "state m[D] = 2; m = max(if q then 2 else m[t-1], x); output m", "SEG",
        "state m[D] = 2; m = max(if q then 3 else m[t-1], x); output m", "SL",
    ),
    "what is reset": (
        "state m[D] = 2; m = max(if q then 2 else m[t-1], x); output m", "SEG",
        "state m[D] = 2; m = max(if q then 2 else m[t-1], x + 0 * max(m[t-1], z)); output m", "NL-d",
    ),
    "a decay below zero": (
        "state h[D] = 0; h = max(exp(z) * h[t-1], x); output h", "SL",
        "state h[D] = 0; h = max(z * h[t-1], x); output h", "NL-d",
    ),
    "an affine map in disguise": (
        "state h[D] = 0; h = sqrt(abs(z) * h[t-1]**2 + x**2); output h", "AM",
        "state h[D] = 0; h = sqrt(abs(z) * h[t-1]**2 + abs(h[t-1]) + x**2); output h", "NL-d",
    ),
    "what undoes the root": (
        "state h[D] = 0; h = (z * h[t-1]**3 + x**2)**(1 / 3); output h", "AM",
        "state h[D] = 0; h = (z * h[t-1]**3 + x**2)**(1 / 2); output h", "NL-d",
    ),
    "one modulus": (
        "state a: int = 1; a = (3 * (a[t-1] + n) % 97 + n) % 97; output a", "EA",
        "state a: int = 1; a = (3 * (a[t-1] + n) % 96 + n) % 97; output a", "NL-d",
    ),
    "a modulus that never changes": (
        "state a: int = 1; a = (3 * a[t-1] + n) % 97; output a", "EA",
        "state a: int = 1; a = (3 * a[t-1] + n) % (n + 97); output a", "NL-d",
    ),
    "a quotient of affine values": (
        "state h[D] = 1; h = (x * h[t-1] + 1) / (h[t-1] + 2); output h", "MB",
        "state h[D] = 1; h = (x * h[t-1] + 1) / (h[t-1] * h[t-1] + 2); output h", "NL-d",
    ),
    "a numerator that cancels": (
        "state h[D] = 1; g = h[t-1] * x / (x * h[t-1] + z); h = (1 - g) * h[t-1]; output h", "MB",
        "state h[D] = 1; g = h[t-1] * z / (x * h[t-1] + z); h = (1 - g) * h[t-1]; output h", "NL-d",
    ),
    "a rotation": (
        "state a[D] = 1, b[D] = 0; a = x * a[t-1] - z * b[t-1]; b = z * a[t-1] + x * b[t-1]; output a", "CA",
        "state a[D] = 1, b[D] = 0; a = x * a[t-1] - z * b[t-1]; b = x * b[t-1] - z * a[t-1]; output a", "BA",
    ),
    "a longest path": (
        "state s[N] = 0; s = (max(s[t-1] + A, N) as [N]) + e; output s", "SL",
        "state s[N] = 0; s = (max(s[t-1] * A, N) as [N]) + e; output s", "NL-f",
    ),
    "two joins": (
        "state s[N] = 0; s = min(s[t-1], min(s[t-1] + A, N) as [N]); output s", "SL",
        "state s[N] = 0; s = logaddexp(s[t-1], min(s[t-1] + A, N) as [N]); output s", "NL-f",
    ),
    "a log-sum-exp": (
        "state s[N] = 0; s = (logsumexp(s[t-1] + A, N) as [N]) + e; output s", "SL",
        "state s[N] = 0; s = (logsumexp(s[t-1] * A, N) as [N]) + e; output s", "NL-f",
    ),
    "a filter that is normalised": (
        "state s[N] = 1; j = ((s[t-1] @ A) as [N]) * e; s = j / sum(j); output s", "SL",
        "state s[N] = 1; j = ((s[t-1] @ A) as [N]) * e; s = j / sqrt(sum(j**2)); output s", "NL-f",
    ),
    "what is normalised has no summand": (
        "state s[N] = 1; j = ((s[t-1] @ A) as [N]) * e; s = j / sum(j); output s", "SL",
        "state s[N] = 1; j = ((s[t-1] @ A) as [N]) * e + c; s = j / sum(j); output s", "NL-f",
    ),
    "a set": (
        "state s[N]: bool = false; s = (s[t-1] and e > 0) or c > 0; output s", "SL",
        "state s[N]: bool = false; s = (not s[t-1] and e > 0) or c > 0; output s", "FS",
    ),
    "a set that only grows": (
        "state s[N]: bool = false; s = s[t-1] or c > 0; output s", "ID",
        "state s[N]: bool = false; s = any((s[t-1] as [L]) and A > 0, L) or c > 0; output s", "SL",
    ),
    "an automaton": (
        "state s: int(5) = 0; s = lookup(move, s[t-1], letter); output s", "FS",
        "state s: int = 0; s = lookup(move, s[t-1], letter); output s", "NL-d",
    ),
    "a sorted list": (
        "state top[W, D] = -inf; a = lookup(top[t-1], index(W) - 1)"
        "; top = max(top[t-1], if index(W) == 0 then x else min(a, x)); output top", "ID",
        "state top[W, D] = -inf; a = lookup(top[t-1], index(W) - 1)"
        "; top = max(top[t-1], if index(W) == 0 then x else min(a, z)); output top", "SL",
    ),
    "a chunk": (
        "state M[D] = 0; every 4:|    state  G[D] = 0|    G = M[t-1];"
        "M = 0.9 * M[t-1] + x * tanh(U @ G); output M", "CF",
        "state M[D] = 0; every 4:|    state  G[D] = 0|    G = M[t-1];"
        "M = 0.9 * tanh(M[t-1]) + x * tanh(U @ G); output M", "NL-f",
    ),
    "a chunk whose clock is the state": (
        "state M[D] = 0; every 4:|    state  G[D] = 0|    G = M[t-1];"
        "M = 0.9 * M[t-1] + x * tanh(U @ G); output M", "CF",
        "state M[D] = 0; when q:|    state  G[D] = 0|    G = M[t-1];"
        "M = 0.9 * M[t-1] + x * tanh(U @ G); output M", "NL-f",
    ),
    "a covariance": (
        "state P[N, N] = eye(N); P = F @ inv(inv(P[t-1]) + Q) @ F.T + Q; output P", "MB",
        "state P[N, N] = eye(N); P = F @ inv(inv(P[t-1]) + P[t-1]) @ F.T + Q; output P", "NL-f",
    ),
    "a matrix write": (
        "state S[N, D] = 0; S = 0.9 * S[t-1] + c * x + e * z; output S", "SR1",
        "state S[N, D] = 0; S = 0.9 * S[t-1] + c * x + tanh(e * z); output S", "EA",
    ),
    "reads that are written back": (
        "state S[N, D] = 0; S = S[t-1] - c * (c @ S[t-1]) + c * x; output S", "GH",
        "state S[N, D] = 0; S = S[t-1] - (F @ S[t-1]) + c * x; output S", "DA",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PAIRS)
def test_one_change_changes_the_class(what: str) -> None:
    good, cls, bad, other = PAIRS[what]
    assert classes(good) == [cls]
    assert classes(bad) == [other]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PAIRS["a decay below zero"][2], "with `abs` or `exp` of that value this would be a scan"),
        ("state h[D] = 1; h = exp(0.5 * log(h[t-1]) + x); output h", "would stay finite where this overflows"),
        (
            PAIRS["a gate that reads the state"][2],
            "if what `sigmoid` reads came from `x` alone, without `h[t-1]`, as in the gates of minGRU",
        ),
        (PAIRS["a rounding error"][2], "what is left are rounding errors"),
        (PAIRS["a threshold"][2], "a threshold or rounding"),
    ],
)
def test_a_refusal_says_what_is_in_the_way_and_what_would_help(text: str, says: str) -> None:
    lines = "".join(f"    {line.strip()}\n" for line in text.split(";"))
    (group,) = recurc.load(text=HEAD + lines).analyze().groups
    assert group.schedules == ("sequential",)
    assert any(says in r.text for r in group.reasons), [r.text for r in group.reasons]
    assert any(r.span for r in group.reasons)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("h = sqrt(abs(z) * h[t-1]**2 + x**2)", 2),
        ("h = sqrt(abs(z) * h[t-1]**2 + x)", 3),
        ("h = (0.5 * h[t-1]**3 + x**2)**(1 / 3)", 3),
        ("h = sqrt(z * h[t-1]**2 + x**2)", 4),
    ],
)
def test_a_scan_keeps_account_of_what_has_no_root_where_a_step_may_have_none(line: str, parts: int) -> None:
    (group,) = recurc.load(text=f"{HEAD}    state h[D] = 0\n    {line}\n    output h\n").analyze().groups
    assert group.cls == "AM" and group.schedules == ("sequential", "scan") and group.monoid is not None
    assert len(group.monoid.components) == parts
    assert any("keeps account" in r.text for r in group.reasons) is (parts > 2)


def test_no_help_is_offered_where_nothing_would_be_left() -> None:
    lines = "    state h[D] = 0\n    h = tanh(U @ h[t-1] + x)\n    output h\n"
    (group,) = recurc.load(text=HEAD + lines).analyze().groups
    assert group.cls == "NL-f"
    assert not any("minGRU" in r.text for r in group.reasons)
