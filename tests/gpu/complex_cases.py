"""Complex recurrences on the GPU backends, by the parts of their numbers."""

from __future__ import annotations

import numpy as np

import recurc
from tests.numerics.test_complex import CASES, arrays, close, typed
from tests.numerics.test_expressions import COMPLEX
from tests.numerics.test_expressions import agree as expressions_agree

PAIRS = [(name, schedule) for name, case in CASES.items() for schedule in case.schedules]


def agree(name: str, schedule: str, backend: str, rng: np.random.Generator) -> None:
    """In double precision, within the bound of `tests.numerics.test_complex`, from states that an earlier call left,
    whose parts lie side by side in memory."""
    case = CASES[name]
    rec = recurc.load(text=case.text)
    given = typed(arrays(case, rec, rng, 2, 6), np.float64)
    define = rec.compile(backend="reference")
    _, first = define(**typed(arrays(case, rec, rng, 2, 6), np.float64), return_final=True)
    wanted, last = define(**given, initial=first, return_final=True)
    found, final = rec.compile(backend=backend, schedule=schedule)(**given, initial=first, return_final=True)
    close(found, wanted, 2.0**-52, f"{name} on {backend} by {schedule}")
    for state, value in last.items():
        close(final[state], value, 2.0**-52, f"{name} on {backend} by {schedule}: {state}")


def forms_agree(backend: str, rng: np.random.Generator) -> None:
    """Every form of expression over complex numbers."""
    expressions_agree(COMPLEX, backend, rng)
