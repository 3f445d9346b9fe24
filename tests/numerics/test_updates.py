"""One state, written in many ways: the class the analysis must see behind the spelling, a proof for each scan, and the
same numbers by every schedule; and spellings that only look like one of those classes."""

from __future__ import annotations

import numpy as np
import pytest

import recurc

SCANNED = """
EA: h[t-1] + a * (x - h[t-1])
EA: (1 - a) * h[t-1] + a * x
EA: h[t-1] - a * (h[t-1] - x)
EA: a * x - (a - 1) * h[t-1]
EA: (h[t-1] + x) / (1 + exp(z))
EA: -(x - h[t-1])
EA: a * (sigmoid(z) * (0.5 * h[t-1] + z) + x) + h[t-1] * 0.1
EA: h[t-1] + (x - h[t-1]) / (t + 1)
EA: h[t-1] * sigmoid(x)
EA: 0.7 * stop_gradient(h[t-1] - x) + z
EA: if on then x else h[t-1]
EA: if on or x > 0.3 then 0 else h[t-1] + 1
EA: if not on and any(x > 0.9, D) then 0.5 * h[t-1] else x
EA: if all(w * x > -0.5, N) then 0 else 0.8 * h[t-1] + z
ID: max(h[t-1], max(x, z))
ID: if x > h[t-1] then x else h[t-1]
ID: if on then max(h[t-1], z) else h[t-1]
ID: min(min(z, h[t-1]), x)
SL: max(x, h[t-1] - a)
SL: max(h[t-1], x) - 0.1
SL: z + min(h[t-1], x)
SL: max(max(h[t-1] - 0.1, x), h[t-1] - 0.2)
SL: max(h[t-1] + 0.1, h[t-1] + x)
SL: max(h[t-1] - 0.1, h[t-1])
SL: relu(h[t-1] + x)
SL: if on then h[t-1] else max(h[t-1] - 0.1, z)
SL: logaddexp(h[t-1] - 0.3, x)
SL: logaddexp(h[t-1], x) - 0.2
SL: max(0.9 * h[t-1], x)
MB: 1 / (2 + abs(x) + h[t-1])
CL: clamp(h[t-1] + x, -1, 1)
DA: 0.1 * sum(h[t-1], D) * z + x
"""

ONLY_ALIKE = """
NL-d: h[t-1] * sigmoid(h[t-1]) + x
NL-d: if h[t-1] > x then h[t-1] else z
NL-d: if h[t-1] > x then 0 else h[t-1] + x
NL-d: max(-h[t-1], x)
NL-d: abs(h[t-1]) * 0.5 + x
NL-d: floor(h[t-1]) + x
NL-d: h[t-1] % 2 + x
NL-d: (0.5 * h[t-1] + x) / (1 + abs(h[t-1]))
NL-b: sigmoid(h[t-2]) * h[t-1] + x
"""


def _table(text: str) -> list[tuple[str, str]]:
    pairs = [line.split(": ", 1) for line in text.strip().splitlines()]
    return [(cls, update) for cls, update in pairs]


def _recurrence(update: str, state: str = "h[D] = 0.25") -> recurc.Recurrence:
    declared = f"input x[D], z[D], on: bool\n    param a[D], w[N]\n    state {state}"
    return recurc.load(text=f"recurrence One(D, N):\n    {declared}\n    h = {update}\n    output h\n")


def _arrays(rng: np.random.Generator, steps: int) -> dict[str, np.ndarray]:
    values = {n: rng.normal(0, 1, (2, steps, 9)) for n in ("x", "z")}
    values["on"] = rng.random((2, steps)) < 0.3
    return values | {"a": rng.uniform(0.1, 0.9, 9), "w": rng.uniform(-1, 1, 1)}


def _same_numbers(rec: recurc.Recurrence, schedules: tuple[str, ...], backend: str, rng: np.random.Generator) -> None:
    arrays = _arrays(rng, 40)
    want = rec.compile(backend="reference")(**arrays)
    for schedule in schedules:
        have = rec.compile(backend=backend, schedule=schedule)(**arrays)
        assert have.dtype == want.dtype
        np.testing.assert_allclose(have, want, rtol=1e-10, atol=1e-10, err_msg=f"{backend} by {schedule}")


@pytest.mark.parametrize(("cls", "update"), _table(SCANNED))
def test_a_spelling_hides_no_scan(cls: str, update: str, backend: str, rng: np.random.Generator) -> None:
    rec = _recurrence(update)
    (group,) = rec.analyze(prove=True).groups
    assert (group.cls, group.schedules[:2], group.certificate.status) == (cls, ("sequential", "scan"), "proved")
    _same_numbers(rec, group.schedules, backend, rng)


@pytest.mark.parametrize(("cls", "update"), _table(ONLY_ALIKE))
def test_what_only_looks_like_a_scan_is_none(cls: str, update: str, rng: np.random.Generator) -> None:
    rec = _recurrence(update)
    group = rec.analyze(prove=True).groups[-1]
    assert (group.cls, group.schedules) == (cls, ("sequential",))
    _same_numbers(rec, group.schedules, "numpy", rng)


WHOLE = """
EA: h[D]: int = 1: 3 * h[t-1] + (if on then 1 else -2)
EA: h[D]: int = -1: if x > 0.5 then t else h[t-1]
EA: h[D]: int = 0: if x > 0 then h[t-1] + 1 else 0
ID: h[D]: int = 0: max(h[t-1], cast(4 * x, int))
EA: h[D]: int = 3: (5 * h[t-1] + 1) % 17
NL-d: h[D]: int = 3: h[t-1] // 2 + cast(x, int)
ID: h[D]: bool = false: h[t-1] or x > 1.2
FS: h[D]: bool = true: if on then z > 0 else h[t-1]
FS: h[D]: bool = true: if x > z then not h[t-1] else h[t-1]
"""


@pytest.mark.parametrize(("cls", "state_and_update"), _table(WHOLE))
def test_integers_and_truth_values_are_carried_exactly(
    cls: str, state_and_update: str, backend: str, rng: np.random.Generator
) -> None:
    state, update = state_and_update.rsplit(": ", 1)
    rec = _recurrence(update, state)
    (group,) = rec.analyze(prove=True).groups
    assert group.cls == cls and group.certificate.status != "failed"
    _same_numbers(rec, group.schedules, backend, rng)


def test_a_proof_looks_at_both_values_of_a_truth_that_is_read() -> None:
    """The lifted factor is wrong where `on` is false, and only there."""
    from dataclasses import replace

    from recurc.ir import Read
    from recurc.ops import number, select
    from recurc.passes import core_form
    from recurc.passes.certify import certificate_of
    from recurc.types import DType

    rec = _recurrence("if on then 0.5 * h[t-1] else 0.25 * h[t-1]")
    (group,) = rec.analyze(prove=True).groups
    assert group.monoid is not None and group.certificate.status == "proved"
    for right, wrong in ((0.5, 0.75), (0.75, 0.25)):
        factor = select(Read("on", 0, (), DType.BOOL), number(right), number(wrong))
        monoid = replace(group.monoid, lift=(factor, *group.monoid.lift[1:]))
        assert certificate_of(core_form(rec.ir), monoid).status != "proved"
