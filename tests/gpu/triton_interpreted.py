"""Runs the interpreter's cases in a process of its own: `python -m tests.gpu.triton_interpreted SEED`.

Prints one JSON object per case. TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import json
import sys

import numpy as np

RANDOM = 15  # runs of random recurrences by their schedules and forms, at least; and some that no limit stops


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
    from tests.numerics.test_expressions import REAL, agree

    for form, expressions in REAL.items():
        try:
            agree(expressions, "triton", np.random.default_rng(seed))
            wrong = ""
        except AssertionError as far:
            wrong = str(far)
        error = {"wrong": 1.0 if wrong else 0.0}
        print(
            json.dumps({"kind": "expression", "case": f"{form} {wrong}", "errors": error, "tolerance": 0}), flush=True
        )
    from tests.gpu.triton_random import beside_a_scan, random_errors

    runs = able = 0
    for what, error in random_errors(seed % 100_000, 10 * RANDOM):
        runs, able = runs + 1, able + (error is not None)
        entry = {"kind": "random", "case": what, "errors": {"worst": error or 0.0}, "tolerance": 1e-10}
        print(json.dumps(entry | {"limitation": error is None}), flush=True)
        if runs >= RANDOM and able >= 3:
            break
    for what, error in beside_a_scan(seed):
        print(json.dumps({"kind": "scan", "case": what, "errors": {"worst": error}, "tolerance": 1e-10}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
