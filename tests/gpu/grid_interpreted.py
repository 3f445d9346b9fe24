"""Runs the grid in Triton's interpreter, in a process of its own: `python -m tests.gpu.grid_interpreted SEED [PAIR]`.

PAIR is SYSTEM:SCHEDULE for its whole grid; without it, the sample of every pair. Prints one JSON object per call.
TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import json
import sys

LONG = 1000  # steps from which on a program takes all sequences of a call at once


def main(seed: int, pairs: list[tuple[str, str]]) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    from recurc.backends.triton import Options, TritonBackend
    from recurc.runtime import choose
    from tests.gpu.grid import PAIRS, check, sample, whole_grid

    known = choose.backend

    for name, schedule in pairs or PAIRS:
        for point in whole_grid() if pairs else sample(name, schedule, seed):
            # The interpreter runs programs one after another, each step of each in milliseconds: a long loop is one
            # program for the whole batch, a short one as many as on a GPU.
            triton = TritonBackend(options=Options(block_seq=4 if point.steps > LONG else None))
            choose.backend = lambda name, triton=triton: triton if name == "triton" else known(name)
            wrong = ""
            try:
                check(name, schedule, "triton", point, seed)
            except AssertionError as far:
                wrong = str(far)
            print(json.dumps({"name": name, "schedule": schedule, "steps": point.steps, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), [(name, schedule) for name, _, schedule in (a.partition(":") for a in sys.argv[2:])])
