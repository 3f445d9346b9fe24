"""Runs recurrences under odd names in Triton's interpreter: `python -m tests.gpu.names_interpreted SEED COUNT`.

COUNT recurrences by each schedule and form of a loop, or with 0 so many that each word had a role; prints how many.
TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np

from tests.odd_names import Call, Case, run_on


def _built(form: str, case: Case) -> tuple[Call, str]:
    import torch

    from recurc.backends.triton import Options, TritonBackend

    options = Options(block_t=8, recurrent=form, block_h=16, segments=2)
    kernel = TritonBackend(options=options).build(case.plan, case.spec)

    def tensor(array: np.ndarray) -> Any:
        if array.strides[0]:
            return torch.from_numpy(array)  # a view: results are written in place
        return torch.from_numpy(array[:1].copy()).expand(*array.shape)

    def call(arrays: dict[str, Any]) -> None:
        kernel({name: tensor(array) for name, array in arrays.items()}, case.batch, case.steps)

    return call, "\n".join(kernel.source.values())


def main(seed: int, count: int) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    rng = np.random.default_rng(seed)
    print(sum(run_on(partial(_built, form), rng, count or None) for form in ("registers", "dot")))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
