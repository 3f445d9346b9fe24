"""Runs convolutions in Triton's interpreter, by the tests of the other backends, in a process of its own:
`python -m tests.gpu.transforms_interpreted SEED some`, or `all`. Prints one JSON object per case.

TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.gpu.interpreted import report

Case = tuple[str, Callable[[], None]]


def main(seed: int, everything: bool) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    seen = watched()
    for what, run in cases(seed, everything, seen):
        seen.clear()
        report(what, run)


def watched() -> list[bool]:
    """Whether each convolution of the case went through a transform, in order."""
    from recurc.backends.triton import launch

    seen: list[bool] = []
    load = launch.load

    def loaded(module: Any) -> Callable[..., None]:
        made: Any = load(module)
        inner = made.__globals__.get("rc_convolved")

        def convolved(*args: Any) -> Any:
            found = inner(*args)
            seen.append(found is not None)
            return found

        if inner is not None:
            made.__globals__["rc_convolved"] = convolved
        return made

    launch.load = loaded
    return seen


def cases(seed: int, everything: bool, seen: list[bool]) -> Iterator[Case]:
    """What a process without a choice runs, and of the rest some by the seed."""
    from tests.numerics import test_convolution as tests

    rng = np.random.default_rng(seed)

    def fresh() -> np.random.Generator:
        return np.random.default_rng(seed)

    def some(names: Any, count: int) -> list[str]:
        return list(names) if everything else [str(n) for n in rng.choice(sorted(names), count, replace=False)]

    for name in some(tests.ZOO, 1):
        yield (
            name,
            lambda name=name: tests.test_systems_of_the_zoo_are_what_their_papers_say(name, "triton", seed, seen),
        )
    for what in some(tests.OWN, 1):
        yield (
            f"{what}: lengths",
            lambda what=what: tests.test_every_length_from_every_start(what, "triton", fresh(), seen),
        )
    for what in some([w for w in tests.OWN if w != "no input"], 1):
        yield (
            f"{what}: ragged, backwards, in pieces",
            lambda what=what: tests.test_ragged_backwards_and_in_pieces(what, "triton", fresh(), seen),
        )
    alone: dict[str, Callable[[], None]] = {
        "own params": lambda: tests.test_params_of_each_sequence_its_own("triton", fresh(), seen),
        "beside chunks": lambda: tests.test_beside_a_state_in_chunks("triton", fresh(), seen),
        "f16": lambda: tests.test_half_precision_is_rounded_once("float16", "triton", fresh()),
        "bf16": lambda: tests.test_half_precision_is_rounded_once("bfloat16", "triton", fresh()),
        "the bound": lambda: tests.test_the_error_keeps_the_bound_of_the_transform("triton", fresh()),
        "spoilt": lambda: tests.test_what_a_transform_would_spoil_goes_step_by_step("triton", fresh(), seen),
    }
    for what in some(alone, 2):
        yield what, alone[what]


if __name__ == "__main__":
    main(int(sys.argv[1]), "all" in sys.argv)
