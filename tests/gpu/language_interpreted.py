"""Runs the cases of the language in Triton's interpreter, in a process of its own:
`python -m tests.gpu.language_interpreted SEED FORM [all | CASE...]`; FORM is how a state meets a recurrent weight
(`auto`, `dot`). Without names a third of the cases, by the seed. Prints one JSON object per case and schedule.

TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import json
import sys

import numpy as np


def main(seed: int, form: str, names: list[str]) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    from recurc.backends.triton import Options, TritonBackend
    from recurc.errors import UnsupportedError
    from recurc.runtime import choose
    from tests.gpu import complex_cases
    from tests.gpu.language_cases import PAIRS, agree

    known, triton = choose.backend, TritonBackend(options=Options(recurrent=form, block_h=16))
    choose.backend = lambda name: triton if name == "triton" else known(name)
    cases = [(name, schedule, agree) for name, schedule in PAIRS]
    if form == "auto":
        cases += [(name, schedule, complex_cases.agree) for name, schedule in complex_cases.PAIRS]
        cases.append(("every form of complex expression", "auto", _forms))
    rng = np.random.default_rng(seed)
    picked = set(rng.choice(len(cases), len(cases) // 3, replace=False).tolist())
    for number, (name, schedule, compare) in enumerate(cases):
        if name not in names if names and names != ["all"] else not names and number not in picked:
            continue
        wrong = refused = ""
        try:
            compare(name, schedule, "triton", np.random.default_rng(seed))
        except UnsupportedError as limit:
            refused = str(limit)
        except AssertionError as far:
            wrong = str(far)
        print(json.dumps({"name": name, "schedule": schedule, "wrong": wrong, "refused": refused}), flush=True)


def _forms(name: str, schedule: str, backend: str, rng: np.random.Generator) -> None:
    from tests.gpu.complex_cases import forms_agree

    forms_agree(backend, rng)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
