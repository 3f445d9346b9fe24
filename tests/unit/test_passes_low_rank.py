"""The form of low rank: what it is found to be behind several spellings, and what it is refused for, in words."""

from __future__ import annotations

import numpy as np
import pytest

import recurc
from recurc.facts import LowRank, Reason
from recurc.passes import core_form
from recurc.passes.low_rank import low_rank, restated
from recurc.types import Dims

HEAD = (
    "recurrence R(H, K, V, J = K):\n    input k[K], q[K], v[V], w[V], a, r[K], c[V], h[H], x[H, K], Q[J, K], on: bool\n"
)


def form(body: str, state: str = "S[K, V] = 0") -> LowRank | Reason:
    rec = recurc.load(text=f"{HEAD}    state {state}\n    {body}\n").ir
    return low_rank(core_form(rec), ("S",))


@pytest.mark.parametrize(
    ("body", "writes", "along", "corrects"),
    [
        ("S = S[t-1] + k * v\n    output o = q @ S", 1, "none", False),
        ("S = a * S[t-1] + outer(k, v)\n    output o = q @ S", 1, "none", False),
        ("S = r * S[t-1] + k * v\n    output o = q @ S", 1, "rows", False),
        ("S = c * S[t-1] + k * v\n    output o = q @ S", 1, "columns", False),
        ("S = r * S[t-1] + k * v\n    output o = S @ w", 1, "columns", False),  # the columns are the rows then
        ("S = (S[t-1] + k * v) * a - q * w\n    output o = q @ S", 2, "none", False),
        ("S = S[t-1] + a * (k * (v - k @ S[t-1]))\n    output o = q @ S", 1, "none", True),
        ("e = v - k @ S[t-1]\n    S = S[t-1] + a * outer(k, e)\n    output o = q @ S", 1, "none", True),
        ("P = r * S[t-1]\n    S = P - (k @ P) * k + q * w\n    output o = q @ S[t-1]", 2, "rows", True),
        ("S = if on then r * S[t-1] + k * v else S[t-1]\n    output o = q @ S", 1, "rows", False),
    ],
)
def test_the_same_form_behind_several_spellings(body: str, writes: int, along: str, corrects: bool) -> None:
    found = form(body)
    assert isinstance(found, LowRank), found
    assert (len(found.writes), found.decay_along, found.corrects) == (writes, along, corrects)


def test_dims_on_the_side_of_the_keys_are_shared() -> None:
    found = form("S = h * S[t-1] + x * v\n    output o = x @ S", "S[H, K, V] = 0")
    assert isinstance(found, LowRank)
    assert (found.shared, found.rows, found.columns) == (("H",), ("K",), ("V",))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("S = a * S[t-1] + k * v\n    output S", "S is an output"),
        ("S = a * S[t-1] + k * v\n    output o = sum(tanh(S), K)", "needed whole"),
        ("S = r * c * S[t-1] + k * v\n    output o = q @ S", "no dim of S is free|along dims"),
        ("S = a * S[t-1] + tanh(k * v)\n    output o = q @ S", "no dim of S is free"),
        ("S = S[t-1] + k * (c * (v - k @ S[t-1]))\n    output o = q @ S", "no dim of S is free"),
        ("S = tanh(S[t-1]) + k * v\n    output o = q @ S", "reaches `tanh`"),
        ("S = if on then k * v else a * S[t-1] + k * v\n    output o = q @ S", "a choice drops"),
        ("S = S[t-1] - k * (k @ S[t-1] @ w) * c\n    output o = q @ S", "is summed over|no dim of S is free"),
        ("S = cast(a * S[t-1], f16) + k * v\n    output o = q @ S", "reaches `cast`"),
    ],
)
def test_what_has_no_such_form_is_told_why(body: str, why: str) -> None:
    found = form(body)
    assert isinstance(found, Reason)
    assert any(part in found.text for part in why.split("|")), found.text


@pytest.mark.parametrize(
    ("body", "ranks", "read"),
    [
        ("S = a * S[t-1] + k * v\n    output o = Q @ S", [()], ("J",)),
        ("S = a * S[t-1] + sum(Q * U, J)\n    output o = q @ S", [("J",)], ()),
        ("S = a * S[t-1] + Q.T @ U\n    output o = q @ S", [("J",)], ()),
        ("S = a * S[t-1] + sum(Q, J) * v\n    output o = q @ S", [()], ()),  # a sum of keys is a key
        (
            "e = U - Q @ S[t-1]\n    S = a * S[t-1] + Q.T @ e + k * v\n    output o = sum(Q @ S, J)",
            [("J",), ()],
            ("J",),
        ),
        ("S = S[t-1] + k * sum(U - Q @ S[t-1], J)\n    output o = q @ S", [()], ()),  # a sum of errors is an error
    ],
)
def test_rows_of_one_step_are_the_rank_of_a_write_or_a_read(body: str, ranks: list[Dims], read: Dims) -> None:
    rec = core_form(recurc.load(text=f"{HEAD}    input U[J, V]\n    state S[K, V] = 0\n    {body}\n").ir)
    found = low_rank(rec, ("S",))
    assert isinstance(found, LowRank), found
    assert [w.rank for w in found.writes] == ranks
    new = restated(rec, found)
    (name,) = new.reads
    (equation,) = (e for e in new.rec.equations if e.name == name)
    assert equation.expr.dims == (*read, "V")


@pytest.mark.parametrize(
    "body",
    [
        "S = a * S[t-1] + sum(Q * sum(Q * U, J), J)",
        "P = S[t-1] + sum(Q * (U - Q @ S[t-1]), J)\n    S = sum(y * P, J)",
        "P = S[t-1] + sum(Q * (U - Q @ S[t-1]), J)\n    S = sum(P / y, J)",
        "P = S[t-1] + sum(Q * (U - Q @ S[t-1]), J)\n    S = sum(if y > 0 then P else S[t-1], J)",
    ],
)
def test_a_name_for_two_dims_is_no_rank(body: str) -> None:
    """A sum over J inside must not catch the J of what multiplies it outside."""
    found = form(f"{body}\n    output o = q @ S", "S[K, V] = 0\n    input U[J, V], y[J]")
    assert isinstance(found, Reason)


COUPLED = "S[K, V] = 0, M[K, V] = 0"


@pytest.mark.parametrize(
    ("body", "writes", "factors", "keys"),
    [
        ("S = a * S[t-1] + k * (v - k @ M[t-1])\n    M = a * M[t-1] + S", 1, {(0, 0), (1, 0), (1, 1)}, [2]),
        ("S = a * S[t-1] + k * (v - k @ M[t-1])\n    M = a * S", 1, {(0, 0), (1, 0)}, [2]),
        (
            "S = a * S[t-1] + k * (v - k @ M[t-1])\n    M = a * M[t-1] + a * S + q * w",
            2,
            {(0, 0), (1, 0), (1, 1)},
            [2, 1],
        ),
        ("S = a * M[t-1] + k * v\n    M = a * S[t-1] + q * w", 2, {(0, 1), (1, 0)}, [1, 1]),
        ("e = v - k @ S[t-1] - q @ M[t-1]\n    S = S[t-1] + k * e\n    M = M[t-1] + q * e", 1, {(0, 0), (1, 1)}, [2]),
    ],
)
def test_states_that_feed_each_other(body: str, writes: int, factors: set[tuple[int, int]], keys: list[int]) -> None:
    """A row that goes into several states is one write, whatever the states multiply it by."""
    rec = recurc.load(text=f"{HEAD}    state {COUPLED}\n    {body}\n    output o = q @ M\n").ir
    found = low_rank(core_form(rec), ("S", "M"))
    assert isinstance(found, LowRank), found
    assert (len(found.writes), found.decays.keys()) == (writes, factors)
    assert [sum(k is not None for k in w.keys) for w in found.writes] == keys


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("S = r * S[t-1] + k * (v - k @ M[t-1])\n    M = a * M[t-1] + S\n    output o = q @ M", "differ along K"),
        ("S = a * S[t-1] + k * (v - k @ M[t-1])\n    M = tanh(M[t-1]) + S\n    output o = q @ M", "reaches `tanh`"),
        ("S = a * S[t-1] + k * (v - k @ M[t-1])\n    M = a * M[t-1] + S\n    output S", "S is an output"),
    ],
)
def test_states_that_feed_each_other_otherwise_are_told_why(body: str, why: str) -> None:
    rec = recurc.load(text=f"{HEAD}    state {COUPLED}\n    {body}\n").ir
    found = low_rank(core_form(rec), ("S", "M"))
    assert isinstance(found, Reason) and why in found.text, found


def test_complex_states_are_left_to_the_loop() -> None:
    rec = recurc.load(
        text="recurrence R(K, V):\n    input k[K]: complex, v[V]: complex\n    state S[K, V]: complex = 0\n"
        "    S = 0.5j * S[t-1] + k * v\n    output o = k @ S\n"
    ).ir
    found = low_rank(core_form(rec), ("S",))
    assert isinstance(found, Reason) and "complex" in found.text


def test_the_restated_recurrence_names_all_that_a_chunk_takes_in() -> None:
    core = core_form(recurc.zoo.load("gated_delta_net").ir)
    found = low_rank(core, ("S",))
    assert isinstance(found, LowRank)
    new = restated(core, found)
    named = {e.name for e in new.rec.equations} | {i.name for i in new.rec.inputs} | {p.name for p in new.rec.params}
    assert set(new.operands) <= named and new.reads == ("o",)


def test_a_scan_behind_chunks_takes_what_they_read_by_name(rng: np.random.Generator) -> None:
    head = "recurrence R(K, V):\n    input k[K], q[K], v[V], a\n    state S[K, V] = 0\n    state y[V] = 0\n"
    body = "    S = a * S[t-1] + k * v\n    y = 0.5 * y[t-1] + tanh(q @ S)\n    output y\n"
    rec = recurc.load(text=head + body)
    given = {n: rng.uniform(-1, 1, (2, 70, *shape)) for n, shape in {"k": (3,), "q": (3,), "v": (5,), "a": ()}.items()}
    chunks, loop = (rec.compile(backend="numpy", schedule=s)(**given) for s in ("S=chunkwise,y=scan", "sequential"))
    np.testing.assert_allclose(chunks, loop, rtol=1e-12, atol=1e-12)


def test_a_matrix_that_only_decays_has_no_products_to_make() -> None:
    text = "recurrence Fading(K, V):\n    input k[K], x\n    state S[K, V] = 1\n    S = S[t-1] * k\n    output y = x\n"
    (group,) = recurc.load(text=text).analyze().groups
    assert group.schedules == ("sequential", "scan") and group.low_rank is None
