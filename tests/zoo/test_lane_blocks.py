"""Native loops in which several vectors of lanes go through each step together: only long rows have enough of them,
which the small sizes of the other tests do not reach."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import recurc
from tests.zoo.cases import cpu_is_missing, generator, same

pytestmark = pytest.mark.skipif(cpu_is_missing() is not None, reason=str(cpu_is_missing()))

# Which dim becomes the lanes, and the others; 128 float64 are 8 blocks of 2 vectors of 512 bits, or of 4 of 256.
SIZES: dict[str, tuple[str, dict[str, int]]] = {
    "selective_scan": ("D", {"N": 5}),
    "s4d_real": ("D", {"N": 3}),
    "longhorn": ("D", {"N": 6}),
    "linear_attention": ("V", {"K": 3}),
    "delta_net": ("V", {"K": 5}),
    "titans_linear": ("V", {"K": 4}),
}
BLOCKS = re.compile(r"lane \+= ([24]) \* LANES\)")

NAMES = """
recurrence Names(lane, N):
    input  x[lane], v[N]
    param  iu_[N]
    state  each[lane, N] = 0.5
    state  q[lane] = 1
    q = 0.5 * q[t-1] + x
    each = sigmoid(x) * each[t-1] + v * q * iu_
    top = max(each, N)
    output y = sum(each * v, N) + top, q
"""


def _agree(rec: recurc.Recurrence, rng: np.random.Generator, sizes: dict[str, int], batch: int, steps: int) -> str:
    """Runs the definition and native code on one draw; the C source."""

    def value(v: Any, lead: tuple[int, ...]) -> np.ndarray:
        return rng.normal(0, 0.5, (*lead, *(sizes[d] for d in v.dims)))

    given = {n: value(v, (batch, steps)) for n, v in rec.inputs.items()} | {
        n: value(v, ()) for n, v in rec.params.items()
    }
    initial = {n: value(v, (batch,)) for n, v in rec.states.items()}
    compiled = rec.compile(backend="cpu", schedule="sequential")
    wanted, ends = rec.compile(backend="reference")(**given, initial=initial, return_final=True)
    for start in (initial, None):
        want = (wanted, ends) if start else rec.compile(backend="reference")(**given, return_final=True)
        have = compiled(**given, initial=start, return_final=True)
        both = zip(_arrays(have[0]), _arrays(want[0]), strict=True)
        for a, b in [*both, *((have[1][n], want[1][n]) for n in want[1])]:
            same(np.asarray(a), np.asarray(b), f"{rec.name} of {sizes}, {batch} x {steps}")
    return "".join(compiled.source.values())


def _arrays(found: Any) -> tuple[Any, ...]:
    return tuple(found) if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("name", SIZES)
def test_vectors_of_lanes_that_go_together_compute_what_each_would_alone(name: str, session_seed: int) -> None:
    rng = generator(session_seed, name)
    lane, others = SIZES[name]
    rec = recurc.zoo.load(name)
    seen: set[str] = set()
    for extent, batch, steps in (
        (128, 1, 1),
        (128, 3, 2),
        (256, 1, 3),
        (256, 2, 0),
        (256, 5, 17),
        (264, 2, 7),
        (24, 2, 5),
    ):
        found = BLOCKS.findall(_agree(rec, rng, {lane: extent, **others}, batch, steps))
        assert bool(found) == (extent in (128, 256)), f"{lane} = {extent}: {found}"
        seen.update(found)
    assert "4" in seen


def test_names_of_the_source_do_not_meet_those_of_the_blocks(rng: np.random.Generator, tmp_path: Any) -> None:
    path = tmp_path / "names.rec"
    path.write_text(NAMES)
    source = _agree(recurc.load(path), rng, {"lane": 256, "N": 3}, 2, 9)
    assert BLOCKS.search(source)
