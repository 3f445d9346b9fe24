"""Runs Newton's method over time in Triton's interpreter, by the tests of the other backends, in a process of its own:
`python -m tests.gpu.newton_interpreted SEED some`, or `all`. Prints one JSON object per case.

TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from tests.gpu.interpreted import report

LENGTHS = (0, 1, 2, 3, 7, 64)
SMALL = {"D": 3, "H": 5, "N": 2}
SLOW = ("lstm_cifg_diagonal", "exponential", "own params", "ragged", "a state in f64")
SLOW_FULL = ("gru_reset_before", "lstm_peephole", "separate", "heads", "meeting")


def main(seed: int, everything: bool) -> None:
    from recurc.backends.triton import Options, TritonBackend
    from recurc.runtime import choose
    from tests.gpu.interpreter_fixes import repair

    repair()
    rng, known = np.random.default_rng(seed), choose.backend
    for what, run in cases(seed, everything, rng):
        triton = TritonBackend(options=Options(block_t=16 if everything else 64, segments=int(rng.integers(1, 4))))
        choose.backend = lambda name, triton=triton: triton if name == "triton" else known(name)
        report(what, run)


def cases(seed: int, everything: bool, rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], None]]]:
    """All, or some by the seed that are quick."""
    from tests.numerics import test_newton as tests
    from tests.numerics import test_newton_full as full

    tests.SIZES.update(SMALL)

    def fresh() -> np.random.Generator:
        return np.random.default_rng(seed)

    quick = [name for name in tests.NAMES if name not in SLOW]
    for name in tests.NAMES if everything else rng.choice(quick, 2, replace=False):
        for steps in LENGTHS if everything else rng.choice(LENGTHS[:-1], 2, replace=False):
            run = partial(tests.test_newton_agrees_with_the_definition, str(name), int(steps), "triton", seed)
            yield f"{name}, T {steps}", run
    alone: dict[str, Callable[[], None]] = {
        "chaos": lambda: tests.test_chaos_does_not_converge_and_gets_what_the_loop_gives(64, np.float32, "triton"),
        "few steps": lambda: tests.test_chaos_over_few_steps_is_solved_or_left_to_the_loop(16, "triton", fresh()),
        "each by itself": lambda: tests.test_each_sequence_converges_by_itself("triton", fresh()),
        "no number": lambda: tests.test_what_is_not_a_number_comes_out_as_from_the_loop(np.nan, "triton", fresh()),
        "infinite": lambda: tests.test_what_is_not_a_number_comes_out_as_from_the_loop(np.inf, "triton", fresh()),
        "ragged": lambda: tests.test_runs_that_are_ragged_packed_reversed_or_go_on("counted", "triton", fresh()),
        "own params": lambda: tests.test_params_of_each_sequence_and_given_states("triton", fresh()),
        "halves": lambda: tests.test_halves_are_storage("triton", fresh()),
        "a state in f64": lambda: tests.test_a_state_in_float64_among_float32(
            "0.9 * tanh(h[t-1]) + x", 1e-5, "triton", fresh()
        ),
        "only some groups": lambda: tests.test_only_some_groups("triton", fresh()),
    }
    always = "each by itself"
    quick = [what for what in alone if what not in (*SLOW, always)]
    for what in alone if everything else (always, *rng.choice(quick, 2, replace=False)):
        yield str(what), alone[str(what)]
    quick = [name for name in full.NAMES if name not in SLOW_FULL]
    for name in full.NAMES if everything else rng.choice(quick, 2, replace=False):
        for steps in LENGTHS if everything else rng.choice(LENGTHS[:-1], 1):
            run = partial(full.test_cells_that_forget_agree_with_the_definition, str(name), int(steps), "triton", seed)
            yield f"{name}, elements meet, T {steps}", run
    meeting: dict[str, Callable[[], None]] = {
        "each by itself, elements meet": lambda: full.test_each_sequence_converges_by_itself("triton", fresh()),
        "chaos, elements meet": lambda: full.test_chaos_is_given_up_and_comes_from_the_loop(
            np.float32, "triton", fresh()
        ),
        "own params, elements meet": lambda: full.test_params_of_each_sequence_and_given_states(
            "separate", "triton", fresh()
        ),
        "ragged, elements meet": lambda: full.test_runs_that_are_ragged_or_go_on("after", "triton", fresh()),
    }
    if everything:
        yield from meeting.items()


if __name__ == "__main__":
    main(int(sys.argv[1]), "all" in sys.argv)
