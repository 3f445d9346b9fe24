"""Runs the grid in Triton's interpreter, in a process of its own: `python -m tests.gpu.grid_interpreted SEED [PAIR]`.

PAIR is SYSTEM:SCHEDULE for its whole grid; without it, the sample of every pair. Prints one JSON object per call.
TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import json
import sys

from tests.numerics.cases import BATCHES, Batch


def longest(schedule: str) -> tuple[Batch, ...]:
    """The batch shapes of T = 4096. A loop has only the one without batch dims: a program handles one sequence,
    whatever the others are, and in the interpreter that takes tens of seconds."""
    return BATCHES if schedule == "scan" else BATCHES[:1]


def main(seed: int, pairs: list[tuple[str, str]]) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    from tests.gpu.grid import PAIRS, check, sample, whole_grid

    for name, schedule in pairs or PAIRS:
        for point in whole_grid(longest(schedule)) if pairs else sample(name, schedule, seed):
            wrong = ""
            try:
                check(name, schedule, "triton", point, seed)
            except AssertionError as far:
                wrong = str(far)
            print(json.dumps({"name": name, "schedule": schedule, "steps": point.steps, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), [(name, schedule) for name, _, schedule in (a.partition(":") for a in sys.argv[2:])])
