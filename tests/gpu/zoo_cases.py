"""The systems of the zoo on the GPU backends: what is compared, and the plans whose kernels are compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from recurc import passes, targets
from recurc.arguments import with_defaults
from recurc.backends.base import Backend, Specialization
from recurc.backends.cuda.compile import compile_cubin
from recurc.backends.cuda.emit import emit
from recurc.errors import UnsupportedError
from recurc.passes.complex_parts import split_complex
from recurc.plan import Plan
from recurc.types import DType
from tests.numerics import rounding, test_schedules
from tests.zoo.cases import BATCH, LACKING, NAMES, call, check, draw, generator, load, looped, schedules
from tests.zoo.oracle import ORACLES

PAIRS = [(name, schedule) for name in NAMES for schedule in schedules(name)]
STEPS = 5

# What a backend refuses at the sizes of the oracle, and a word of its reason. Whatever else is refused fails a test,
# and so does what stands here and runs.
LIMITATIONS = {("dnc", "triton"): "elements held at once in every step"}
# The same of one schedule.
WORDS = {
    "chunkwise": "no CUDA kernel yet",
    "chunk-frozen": "no CUDA kernels",
    "convolution": "fast Fourier transform, which C and CUDA code do not have",
}
BY_SCHEDULE = {(n, s, b): WORDS[s] for n, s in PAIRS for b, lacks in LACKING.items() if s in lacks}
BY_SCHEDULE |= {("kalman_filter_missing", "scan", "triton"): "elements, held at once in every step"}
# Of these the elements stay in registers in f32 only.
IN_F32 = {(name, "scan", "triton") for name in ("kalman_filter_update_first", "riccati")}


def agree(name: str, schedule: str, backend: str, seed: int) -> None:
    """A few steps of two sequences against the loop over the equations of the paper, in float64; or, where that is
    refused, in float32 by the bound of the schedules."""
    inputs, params = draw(name, generator(seed, name), STEPS)
    if (name, schedule, backend) in IN_F32:
        rec, sizes, arrays = load(name), dict(ORACLES[name].sizes), inputs | params
        with pytest.raises(UnsupportedError, match="held at once in every step"):
            call(name, backend, schedule, arrays)
        made = rounding.run(rec.ir, arrays, BATCH, STEPS, generator(seed, name), sizes)
        test_schedules.agree(rec, backend, schedule, STEPS, arrays, made, sizes, reals=("f32",))
        return
    found = call(name, backend, schedule, inputs | params, **({} if inputs else {"steps": STEPS}))
    check(name, found, looped(name, inputs, params, STEPS), f"{backend} by {schedule}, seed {seed}")


def plan_of(name: str, schedule: str, real: DType) -> tuple[Plan, dict[str, int]]:
    """The plan that reaches a GPU backend at the sizes of the oracle."""
    rec = load(name).ir
    known = with_defaults(rec, ORACLES[name].sizes)
    sizes = {d.name: known[d.name] for d in rec.dims}
    plan = passes.make_plan(rec, sizes, 2, 64, real, targets.named("sm_90"), schedule)
    return split_complex(plan, real), sizes


def refusals(name: str, schedule: str, backend: Backend) -> list[str]:
    plan, sizes = plan_of(name, schedule, DType.F32)
    return backend.limitations(plan, Specialization(tuple(sorted(sizes.items())), DType.F32))


def compile_plan_as_cuda(plan: Plan, sizes: dict[str, int], real: DType, what: str) -> None:
    """Machine code for a real chip, about which the compiler has nothing to say."""
    _, report = compile_cubin(emit(plan, Specialization(tuple(sorted(sizes.items())), real)).source, "sm_90")
    assert "warning" not in report, f"{what}: {report}"


def compile_plan_as_triton(plan: Plan, sizes: dict[str, int], real: DType, folder: Path) -> None:
    """Machine code for a real chip, which has the shared memory that each kernel wants."""
    from recurc.backends.triton.aot import compile_kernel
    from tests.gpu.machine_code import SHARED_LIMIT
    from tests.gpu.test_triton_machine_code import kernels

    for kernel, function in kernels(plan, sizes, real, folder):
        code = compile_kernel(function, kernel, "sm_90")
        assert code.shared_bytes <= SHARED_LIMIT["sm_90"], f"{kernel.name}: {code.shared_bytes} bytes shared"
