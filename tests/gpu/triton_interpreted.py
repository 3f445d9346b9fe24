"""Runs the interpreter's cases in a process of its own: `python -m tests.gpu.triton_interpreted SEED`.

Prints one JSON object per case. TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import json
import sys


def main(seed: int) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    from tests.gpu.triton_cases import interpreter_cases, run, tolerance
    from tests.gpu.triton_ops import op_errors

    for case in interpreter_cases():
        result = {
            "kind": case.system,
            "case": str(case),
            "errors": run(case, seed, "cpu"),
            "tolerance": tolerance(case),
        }
        print(json.dumps(result), flush=True)
    for name, error, bound in op_errors(seed):
        print(json.dumps({"kind": "op", "case": name, "errors": {"y": error}, "tolerance": bound}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
