"""A system of the zoo run step by step, or in pieces that hand on their states, is the system run at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recurc import ir
from recurc.errors import UnsupportedError
from tests.zoo import cases
from tests.zoo.cases import NAMES, call, draw, excuse, generator, load, looped, same, schedules, several

STEPS = 13
CAUSAL = [n for n in NAMES if not any(isinstance(x, ir.Final) for e in load(n).ir.equations for x in ir.walk(e.expr))]


def _pieces(rng: np.random.Generator, steps: int) -> list[slice]:
    """Two to four pieces, one of them maybe empty."""
    cuts = sorted(rng.integers(0, steps + 1, size=int(rng.integers(1, 4))).tolist())
    return [slice(a, b) for a, b in zip([0, *cuts], [*cuts, steps], strict=True)]


def _in_pieces(name: str, backend: str, schedule: str, seed: int) -> None:
    rng = generator(seed, name, 1)
    inputs, params = draw(name, rng, STEPS)
    wanted = looped(name, inputs, params, STEPS)
    pieces, found, state = _pieces(rng, STEPS), [], None
    for piece in pieces:
        part: dict[str, Any] = {n: a[:, piece] for n, a in inputs.items()}
        count = {} if inputs else {"steps": piece.stop - piece.start}
        out, state = call(name, backend, schedule, part | params, initial=state, return_final=True, **count)
        found.append([np.asarray(o) for o in several(out)])
    for i, output in enumerate(load(name).ir.outputs):
        joined = np.concatenate([f[i] for f in found], axis=1 if inputs else 0)
        same(joined, wanted[i], f"{name} on {backend} by {schedule} in pieces {pieces}: {output}")


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_pieces_that_hand_on_their_states_are_the_whole(name: str, backend: str, session_seed: int) -> None:
    for schedule in ("auto",) if backend == "reference" else schedules(name):
        _in_pieces(name, backend, schedule, session_seed)


@pytest.mark.parametrize("name", CAUSAL)
def test_steps_are_the_whole(name: str, session_seed: int) -> None:
    _by_steps(name, "numpy", session_seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_steps_and_pieces_on_the_other_backends(name: str, backend: str, session_seed: int) -> None:
    _skip_without(backend)
    _by_steps(name, backend, session_seed)
    if backend == "cpu":
        for schedule in schedules(name):
            _in_pieces(name, backend, schedule, session_seed)


def test_a_few_systems_in_native_code(session_seed: int) -> None:
    """Drawn by the seed; the slow tests have all of them."""
    _skip_without("cpu")
    runs = [n for n in CAUSAL if (n, "cpu") not in cases.NOT_YET]
    for name in np.random.default_rng(session_seed).choice(runs, size=min(4, len(runs)), replace=False):
        _by_steps(str(name), "cpu", session_seed)
        _in_pieces(str(name), "cpu", schedules(str(name))[-1], session_seed)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(CAUSAL)))
def test_what_reads_its_final_state_has_no_steps(name: str) -> None:
    """It sees the end of the sequence from its beginning."""
    f = load(name).compile(backend="numpy", sizes=cases.ORACLES[name].sizes)
    with pytest.raises(UnsupportedError, match="final state"):
        f.step(f.init_state())


def _by_steps(name: str, backend: str, seed: int) -> None:
    inputs, params = draw(name, generator(seed, name, 2), STEPS)
    wanted = looped(name, inputs, params, STEPS)
    sizes = {d: s for d, s in cases.ORACLES[name].sizes.items() if d in load(name).dims}
    try:
        f = load(name).compile(backend=backend, dtype="f64", sizes=sizes)
        state = f.init_state(batch=(cases.BATCH,) if inputs else (), **params)
        found: list[tuple[Any, ...]] = []
        for t in range(STEPS):
            out, state = f.step(state, **{n: a[:, t] for n, a in inputs.items()}, **params)
            found.append(several(out))
    except UnsupportedError as refused:
        excuse(name, backend, refused)
        raise
    for i, output in enumerate(load(name).ir.outputs):
        joined = np.stack([f[i] for f in found], axis=1 if inputs else 0)
        same(joined, wanted[i], f"{name} on {backend} step by step: {output}")


def _skip_without(backend: str) -> None:
    reason = cases.cpu_is_missing() if backend == "cpu" else None
    if reason:
        pytest.skip(reason)
