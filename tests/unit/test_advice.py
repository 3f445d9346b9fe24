"""What a refusal offers: the term, its place, and the change that would make the recurrence parallel."""

from __future__ import annotations

import pytest

import recurc

OFFERS = {
    "lstm": "if what `sigmoid` and `tanh` read came from `x` alone, without `h[t-1]`, as in the gates of minGRU, this "
    "would be a scan",
    "gru": "came from `x` alone, without `h[t-1]`, as in the gates of minGRU, this would be a scan",
    "sru": "if what `sigmoid` reads came from `x` alone, without `c[t-1]`",
    "elman": "without `tanh` the update would be affine, with a dense matrix; with one factor per element",
    "indrnn": "without `max` this would be a scan",
    "slstm": "without `U @ h[t-1]`, as in minGRU, this would be a scan",
    "lif_neuron": "if what `>` reads came from inputs alone, without `v[t-1]`",
    "logistic_map": "if one of the two factors came from inputs alone, without `x[t-1]`, this would be a scan",
    "kahan_sum": "a scan adds in a tree, where errors grow with log T instead of T",
    "ntm": "no small change is known",
}


@pytest.mark.parametrize("name", OFFERS)
def test_the_last_reason_is_an_offer(name: str) -> None:
    group = recurc.zoo.load(name).analyze().groups[0]
    assert OFFERS[name] in group.reasons[-1].text, group.reasons
    assert group.reasons[0].span is not None


@pytest.mark.parametrize("name", ["elman", "lstm", "kahan_sum"])
def test_an_offer_has_its_place(name: str) -> None:
    text = recurc.zoo.text(name).splitlines()
    last = recurc.zoo.load(name).analyze().groups[0].reasons[-1]
    assert last.span is not None
    term = text[last.span.line - 1][last.span.column - 1 :]
    assert term.startswith({"elman": "tanh(", "lstm": "sigmoid(", "kahan_sum": "(s - s[t-1])"}[name]), term


def test_what_is_offered_for_an_lstm_is_what_minlstm_does() -> None:
    """The offer for the gates, carried out: the cell is a scan."""
    source = recurc.zoo.text("lstm").replace(" + U @ h[t-1]", "")
    offered = recurc.load(text="\n".join(line for line in source.splitlines() if "param  U" not in line))
    assert [g.schedules[:2] for g in offered.analyze().groups if g.states == ("c",)] == [("sequential", "scan")]


def test_a_linear_map_with_a_dense_matrix_is_told_of_a_diagonal_one() -> None:
    body = "s = A @ r[t-1] + x\n    r = A @ s[t-1]\n    output s"
    head = "recurrence R(K):\n    input x[K]\n    param A[K, K]\n    state s[K] = 0, r[K] = 0\n"
    (group,) = recurc.load(text=f"{head}    {body}\n").analyze().groups
    assert group.cls == "DA" and "scan" not in group.schedules
    assert "with one factor per element in place of the matrix" in group.reasons[-1].text


def test_a_negated_past_in_a_maximum_is_told_of_the_sign() -> None:
    rec = recurc.load(
        text="recurrence R(D):\n    input  x[D]\n    state  h[D] = 0\n    h = max(-h[t-1], x)\n    output h\n"
    )
    assert "without the sign this would be a scan" in rec.analyze().groups[0].reasons[-1].text
