"""Runs systems of the zoo in Triton's interpreter, in a process of its own: `python -m tests.gpu.zoo_interpreted SEED
SYSTEM:SCHEDULE...`; with `SYSTEM:call/PART` for a part of a call that is differentiated, by every schedule of it (see
`adjoint_cases`), or for "derivatives", which are taken by such calls. Prints one JSON object per word.

TRITON_INTERPRET must be set before Triton is imported, hence the process."""

from __future__ import annotations

import json
import sys


def main(seed: int, words: list[str]) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    from recurc.backends.triton import Options, TritonBackend
    from recurc.errors import UnsupportedError
    from recurc.runtime import choose
    from tests.gpu import adjoint_cases, zoo_cases

    known, triton = choose.backend, TritonBackend(options=Options(segments=2))  # where matrices fold, all kernels run
    choose.backend = lambda name: triton if name == "triton" else known(name)
    for word in words:
        name, _, what = word.partition(":")
        wrong = refused = ""
        try:
            if what == "derivatives":
                adjoint_cases.derivatives_agree(name, "triton", seed)
            elif what.startswith("call/"):
                adjoint_cases.agree(name, what.removeprefix("call/"), "triton", seed)
            else:
                zoo_cases.agree(name, what, "triton", seed)
        except UnsupportedError as limit:
            refused = str(limit)
        except AssertionError as far:
            wrong = f"{word}: {far}"
        print(json.dumps({"case": word, "wrong": wrong, "refused": refused}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
