"""Runs systems of the zoo in Triton's interpreter, in a process of its own: `python -m tests.gpu.zoo_interpreted SEED
SYSTEM:SCHEDULE...`. Prints one JSON object per pair.

TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import json
import sys


def main(seed: int, pairs: list[tuple[str, str]]) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    from recurc.backends.triton import Options, TritonBackend
    from recurc.errors import UnsupportedError
    from recurc.runtime import choose
    from tests.gpu.zoo_cases import agree

    known, triton = choose.backend, TritonBackend(options=Options(segments=2))  # where matrices fold, all kernels run
    choose.backend = lambda name: triton if name == "triton" else known(name)
    for name, schedule in pairs:
        wrong = refused = ""
        try:
            agree(name, schedule, "triton", seed)
        except UnsupportedError as limit:
            refused = str(limit)
        except AssertionError as far:
            wrong = f"{name} by {schedule}: {far}"
        print(json.dumps({"name": name, "schedule": schedule, "wrong": wrong, "refused": refused}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), [(name, schedule) for name, _, schedule in (a.partition(":") for a in sys.argv[2:])])
