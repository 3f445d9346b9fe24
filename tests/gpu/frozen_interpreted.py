"""Runs chunks with frozen states in Triton's interpreter, by the tests of the other backends, in a process of its own:
`python -m tests.gpu.frozen_interpreted SEED some`, or `all`. Prints one JSON object per case.

TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tests.gpu.interpreted import report


def main(seed: int, everything: bool) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    from tests.numerics.test_chunk_frozen import check

    for name, steps, dtype in cases(seed, everything):
        report(f"{name} T {steps} {dtype.__name__}", partial(check, name, "triton", seed, steps, dtype))


def cases(seed: int, everything: bool) -> Iterator[tuple[str, int, Any]]:
    """Systems, lengths and types: all, or some by the seed. Chunks have four steps, or some of those lengths."""
    from tests.numerics.test_chunk_frozen import OWN, SYSTEMS

    if everything:
        for name in (*SYSTEMS, *OWN):
            for steps in (0, 1, 2, 3, 4, 5, 7, 64 if name in OWN else 21):
                yield name, steps, np.float64 if steps % 2 else np.float32
        return
    rng = np.random.default_rng(seed)
    yield str(rng.choice(SYSTEMS[:4])), int(rng.choice((1, 2, 3, 5, 9))), np.float64
    for name in rng.choice(sorted(OWN), 4, replace=False):
        yield str(name), int(rng.choice((0, 3, 5, 14))), np.float64 if rng.integers(2) else np.float32


if __name__ == "__main__":
    main(int(sys.argv[1]), "all" in sys.argv)
