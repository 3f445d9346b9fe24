"""Recurrences whose names mean something in the languages backends print, and whether kernels of them are right.

The names to fear are those a generated file uses itself, so they are read off the file of the same recurrence under
plain names; keywords, builtins and what headers declare come on top."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import recurc
from recurc import passes, targets
from recurc.backends import reference
from recurc.backends.base import Specialization
from recurc.frontend.functions import FUNCTIONS
from recurc.frontend.tokens import KEYWORDS
from recurc.plan import Plan, Role
from recurc.types import DType

_TEXT = """recurrence {R}({D}, {E}, {H}):
    input {x}[{D}], {v}[{E}], {s}
    param {a}[{D}], {W}[{H}, {E}], {U}[{H}, {H}]
    state {h}[{D}] = 0, {c}[{H}] = 0, {m} = -inf, {u} = 0, {w}[{D}] = 0, {k} = 0
    {h} = {a} * {h}[t-1] + {x}
    {g} = {W} @ {v}
    {c} = tanh({g} + {U} @ {c}[t-1])
    {m} = max({m}[t-1], {s})
    {u} = {u}[t-1] * exp({m}[t-1] - {m}) + exp({s} - {m})
    {w} = {w}[t-1] * exp({m}[t-1] - {m}) + exp({s} - {m}) * {x}
    {k} = 0.5 * {k}[t-1] + sum({a} * {x}, {D})
    {f} = {h} * {a}
    {y} = {f} + {k}
    {z} = {w} / {u}
    output {y}, {z}, {c}
"""
ROLES = tuple(dict.fromkeys(re.findall(r"{(\w+)}", _TEXT)))
# Sizes of D, E, H by schedule: in one the projection of the input stays in the loop, in the other it is a matmul.
SCHEDULES = {"sequential": (3, 5, 7), "scan": (3, 37, 29)}
_BATCH, _STEPS = 2, 6
_LANGUAGES = """
    auto break case char const continue default do double else enum extern float for goto if inline int long register
    restrict return short signed sizeof static struct switch typedef union unsigned void volatile while bool class
    template typename namespace operator new delete this private public virtual friend mutable explicit typeid try catch
    throw using asm main wchar_t constexpr nullptr decltype noexcept alignas thread_local static_assert co_await final
    and_eq bitand bitor compl not_eq or_eq xor xor_eq concept requires export
    NULL EOF INFINITY NAN M_PI INT_MAX HUGE_VAL FLT_MAX I complex errno stdin stdout stderr linux unix i386 assert
    free malloc memcpy memset printf exp expf log logf sinf cosf tanhf sqrtf fabs fmax fmin fma j0 y0 y1 yn gamma
    tl triton torch np numpy math sys program_id arange constexpr jit num_warps num_stages grid launch stream device
    blockIdx threadIdx blockDim gridDim warpSize half float4 dim3 __global__ __shared__ __init__ __name__ __main__
    R_loop step real vec LANES call self batch steps PADDED rc_exp_f32 kernel data index T_ t_ B b i j l n o p q r
    x_1 x__1 x_2 x__out x_out x_all x_initial x_final h_0 h_prev _ __ ___ _x x_ X Alpha alpha1
""".split()  # noqa: SIM905 - two hundred quoted words would be harder to read


def words(source: str = "") -> list[str]:
    """Names a recurrence may have that mean something to a compiler, or to `source`."""
    used = re.findall(r"[A-Za-z_]\w*", source)
    everything = dict.fromkeys([*used, *_LANGUAGES, *keyword.kwlist, *keyword.softkwlist, *dir(builtins)])
    refused = {*KEYWORDS, *FUNCTIONS, "t", "T", "inf", "pi"}
    return [w for w in everything if w not in refused]


Call = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Case:
    """A recurrence under odd names, by one schedule, with its arrays and what must come out."""

    text: str
    plan: Plan
    spec: Specialization
    given: Mapping[str, np.ndarray]
    wanted: Mapping[str, np.ndarray]
    batch: int = _BATCH
    steps: int = _STEPS

    def check(self, call: Call) -> None:
        """Calls with all arrays of the plan, and compares those it writes."""
        results: dict[str, np.ndarray] = {}
        for b in self.plan.buffers:
            if b.role in (Role.OUTPUT, Role.FINAL):
                lead = (_BATCH, _STEPS) if b.has_time else (_BATCH,)
                results[b.name] = np.full((*lead, *(self.spec.size(d) for d in b.dims)), np.nan)
        call({**self.given, **results})
        for name, have in results.items():
            np.testing.assert_allclose(have, self.wanted[name], rtol=1e-10, atol=1e-10, err_msg=f"{name}\n{self.text}")


def plain_names() -> dict[str, str]:
    return {role: f"{role}{'ABCDEFG'[i % 7]}zq{i}" for i, role in enumerate(ROLES)}


def case(names: Mapping[str, str], schedule: str, rng: np.random.Generator) -> Case:
    """The recurrence with a name for each role."""
    text = _TEXT.format(**names)
    rec = recurc.load(text=text).ir
    sizes = dict(zip((names["D"], names["E"], names["H"]), SCHEDULES[schedule], strict=True))
    shape: Callable[[Any], tuple[int, ...]] = lambda v: tuple(sizes[d] for d in v.dims)  # noqa: E731 - one line
    inputs = {i.name: rng.standard_normal((_BATCH, _STEPS, *shape(i))) for i in rec.inputs}
    params = {p.name: rng.uniform(0.1, 0.9, (1, *shape(p))) for p in rec.params}
    wanted = reference.run(rec, inputs | params, _BATCH, _STEPS, sizes)
    groups = passes.analyze(rec).groups
    forced = ",".join(f"{s}={schedule}" for g in groups if schedule in g.schedules for s in g.states)
    plan = passes.make_plan(rec, sizes, _BATCH, _STEPS, DType.F64, targets.named("cpu"), forced)
    given = {**inputs, **{n: np.broadcast_to(a, (_BATCH, *a.shape[1:])) for n, a in params.items()}}
    starts = {f"{names['m']}@initial": -np.inf}
    for b in plan.buffers:
        if b.role is Role.INITIAL:
            given[b.name] = np.full((_BATCH, *(sizes[d] for d in b.dims)), starts.get(b.name, 0.0))
    return Case(text, plan, Specialization(tuple(sorted(sizes.items())), DType.F64), given, wanted)


def drawn(pool: Sequence[str], rng: np.random.Generator, count: int | None = None) -> Iterator[dict[str, str]]:
    """Names for every role, from a shuffled pool: `count` times, or until each name had a role."""
    order = [pool[i] for i in rng.permutation(len(pool))]
    size = len(ROLES)
    rounds = -(-len(order) // size) if count is None else count
    for k in range(rounds):
        start = k * size % len(order)
        chosen = (order[start:] + order[:start])[:size]
        yield dict(zip(ROLES, chosen, strict=True))


def run_on(build: Callable[[Case], tuple[Call, str]], rng: np.random.Generator, count: int | None) -> int:
    """Checks kernels of recurrences under odd names; how many. `build` gives a kernel's call and its source."""
    checked = 0
    for schedule in SCHEDULES:
        plain = case(plain_names(), schedule, rng)
        call, source = build(plain)
        plain.check(call)
        own = set(plain_names().values())
        for names in drawn([w for w in words(source) if w not in own], rng, count):
            odd = case(names, schedule, rng)
            odd.check(build(odd)[0])
            checked += 1
    return checked
