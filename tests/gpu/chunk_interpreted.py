"""Runs chunkwise systems in Triton's interpreter: `python -m tests.gpu.chunk_interpreted SEED some`, or `all`, in a
process of its own.

Prints one JSON object per case: the largest error of each result relative to the largest reference value, and the
bound on it: rounding in the storage type (outputs, and in bf16 the operands of each product, of which a few follow each
other), and in the accumulator."""

from __future__ import annotations

import json
import math
import sys
import zlib
from typing import Any

import numpy as np

LENGTHS = (0, 1, 2, 3, 7, 64, 33)
ROWS = ("gated_delta_product", "omega_net_linear")  # that write several rows of one state in a step
# Rows enough to be read in slices and held in parts: a decay by step, by rows and by columns, with and without a
# correction; several rows; two states.
TALL = ("simple_gla", "gla", "gsa", "gated_delta_net", "kda", "mamba3_mimo", *ROWS, "titans_linear", "omega_net_powers")
# As `OWN` of the tests of the schedule: several rows of one step under each kind of decay.
SEVERAL = {
    "corrections under decays by rows": "P = tanh(r) * S[t-1]\n    half = P + k * (sigmoid(a) * (v - k @ P))"
    "\n    S = half + p * ((w - p @ half) / 2)\n    output o = q @ S + p @ S[t-1]",
    "a correction beside a write": "P = gate(a) * S[t-1]\n    half = P + k * (v - k @ P) / 2"
    "\n    S = half + p * (w - p @ half) / 2 + q * v\n    output o = q @ S",
    "corrections without decay": "half = S[t-1] + k * (v - k @ S[t-1]) / 2"
    "\n    S = half - p * (p @ half) / 2\n    output o = q @ S",
    "rows under decays by columns": "S = tanh(c) * S[t-1] + sum((k * W) * (v * x), D) + p * w"
    "\n    output o = sum(q * W * S, K)\n    output e = p @ S[t-1]",
    "rows under decays by rows": "S = gate(r) * S[t-1] + sum((k * W) * (v * x), D)"
    "\n    output o = sum(q * W * S, K)\n    output e = p @ S",
}  # fmt: skip
UNIT = {"f32": 2.0**-24, "f64": 2.0**-53, "bf16": 2.0**-9, "f16": 2.0**-11}


def main(seed: int, everything: bool) -> None:
    from tests.gpu.interpreter_fixes import repair

    repair()
    import recurc
    from tests.numerics import test_chunkwise_softmax as softmax
    from tests.numerics.test_chunkwise import COUPLED, MORE_SYSTEMS, OWN, SYSTEMS, coupled, own
    from tests.numerics.test_joint_chunks import JOINT, system

    rng = np.random.default_rng(seed)
    for what in sorted(OWN) if everything else rng.choice(sorted(OWN), 2, replace=False):
        run(own(OWN[str(what)]), f"own: {what}", "f64", int(rng.integers(1, 40)), seed)
    for what in sorted(softmax.OWN) if everything else rng.choice(sorted(softmax.OWN), 1):
        run(softmax.own(str(what)), f"softmax: {what}", "f64", int(rng.integers(1, 40)), seed)
    for name in ("simple_gla", "gla", "gsa", "gated_delta_net", "mlstm"):
        for real in UNIT if everything else rng.choice(list(UNIT), 1):
            run(recurc.zoo.load(name), name, str(real), int(rng.integers(17, 50)), seed)
    joint = sorted(what for what, (_, stages) in JOINT.items() if stages)
    for what in joint if everything else rng.choice(joint, 3, replace=False):
        rec = system(JOINT[str(what)][0])
        run(rec, f"joint: {what}", "f64", int(rng.integers(1, 40)), seed)
        run(rec, f"joint: {what}", "f32", int(rng.integers(1, 40)), seed, {"K": 70})  # in slices of rows
    run(recurc.zoo.load("mlstm_sigmoid"), "mlstm_sigmoid", "f32", int(rng.integers(1, 50)), seed)
    for name in ("linear_attention", "jrt", "based"):
        for real in UNIT if everything else rng.choice(list(UNIT), 1):
            run(recurc.zoo.load(name), name, str(real), int(rng.integers(1, 50)), seed)
    for what in sorted(COUPLED) if everything else rng.choice(sorted(COUPLED), 2, replace=False):
        run(coupled(COUPLED[str(what)]), f"coupled: {what}", "f64", int(rng.integers(1, 40)), seed)
    for what in sorted(SEVERAL) if everything else rng.choice(sorted(SEVERAL), 2, replace=False):
        for steps in LENGTHS if everything else rng.choice(LENGTHS, 1):
            run(own(SEVERAL[str(what)]), f"several: {what}", "f64", int(steps), seed)
    for name in ("titans_linear", *ROWS):
        for real in UNIT if everything else rng.choice(list(UNIT), 1):
            run(recurc.zoo.load(name), name, str(real), int(rng.integers(17, 50)), seed)
    for name in ROWS:
        for steps in LENGTHS if everything else rng.choice(LENGTHS, 2, replace=False):
            run(recurc.zoo.load(name), name, "f64", int(steps), seed)
    for name in MORE_SYSTEMS if everything else rng.choice(MORE_SYSTEMS, 1):
        run(recurc.zoo.load(str(name)), str(name), "f32", int(rng.integers(1, 40)), seed)
    # Sums of exponentials are kept scaled: the plan has other states than the caller, who goes through `compile`.
    systems = [name for name in SYSTEMS if name != "mlstm_unstabilised"]
    for name in systems if everything else rng.choice(systems, 2, replace=False):
        run(recurc.zoo.load(str(name)), str(name), "f32", 1 + int(rng.integers(40)), seed)
    for name in TALL if everything else rng.choice(TALL, 1):
        run(recurc.zoo.load(str(name)), str(name), "f32", int(rng.integers(1, 40)), seed, {"K": 70, "M": 35})


def run(rec: Any, what: str, storage: str, steps: int, seed: int, more: dict[str, int] | None = None) -> None:
    """`more`: other sizes than usual, of the dims there are."""
    import torch

    from recurc import targets
    from recurc.backends import reference
    from recurc.backends.base import Specialization
    from recurc.backends.triton import TritonBackend
    from recurc.passes import core_form, make_plan
    from recurc.plan import Role
    from recurc.types import DType
    from tests.numerics.test_chunkwise import drawn, sizes_of

    backend = TritonBackend()
    dtype: Any = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}[storage]
    core, batch = core_form(rec.ir), 2
    sizes = sizes_of(rec)
    sizes |= {d: n for d, n in (more or {}).items() if d in sizes}
    plan = make_plan(rec.ir, sizes, batch, steps, DType(storage), targets.named("sm_90"), "chunkwise")
    spec = Specialization(tuple(sorted(sizes.items())), DType(storage))
    given = drawn(rec, np.random.default_rng([seed, zlib.crc32(what.encode())]), batch, steps, sizes)
    arrays: dict[str, Any] = {}
    for buffer in plan.buffers:
        if buffer.role in (Role.ONCE, Role.SEQUENCE):
            continue
        shape = tuple(spec.size(d) for d in buffer.dims)
        if buffer.name in given:
            array = torch.from_numpy(given[buffer.name]).to(dtype)
            arrays[buffer.name] = array.expand(batch, *shape) if buffer.role is Role.PARAM else array
        else:
            lead = (batch, steps) if buffer.has_time else (batch,)
            arrays[buffer.name] = torch.full((*lead, *shape), math.nan, dtype=dtype)
    backend.build(plan, spec)(arrays, batch, steps)
    rounded = {n: arrays[n].double().numpy() if n in arrays else given[n].astype(np.float64) for n in given}
    errors: dict[str, float] = {}
    for name, want in reference.run(core, rounded, batch, steps, sizes).items():
        have = arrays[name].double().numpy()
        errors[name] = float(np.max(np.abs(have - want), initial=0)) / max(1.0, float(np.max(np.abs(want), initial=0)))
    unit, inner = UNIT[storage], UNIT["f64" if storage == "f64" else "f32"]
    bound = (16 if storage == "bf16" else 4) * unit * (unit > inner) + 64 * inner * (1 + math.log2(max(steps, 2)))
    print(
        json.dumps({"case": f"{what} {storage} T {steps} {more or ''}", "errors": errors, "tolerance": bound}),
        flush=True,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), "all" in sys.argv)
