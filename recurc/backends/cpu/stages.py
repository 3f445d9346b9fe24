"""The stages of a plan in the form the CPU backend prints: every `Scan` becomes three loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from recurc.backends.cpu.program import StageInput
from recurc.backends.emit.lanes import stage_exprs
from recurc.ir import Equation, Expr, Read, reads, rewrite
from recurc.plan import (
    Buffer,
    Carry,
    Chunk,
    Convolution,
    Frozen,
    Fused,
    JointChunk,
    Loop,
    Map,
    Matmul,
    Newton,
    Plan,
    Role,
    Scan,
    Stage,
)


@dataclass(frozen=True)
class ScanLoops:
    """Reduce-then-scan over segments of time: fold each segment to one element, carry the states over the segments,
    then every segment runs from its own start."""

    fold: StageInput
    carry: StageInput
    run: StageInput
    totals: tuple[Buffer, ...]  # (B, segments, *dims): the folded elements
    starts: tuple[Buffer, ...]  # (B, segments, *dims): the states before each segment


def kind_of(stage: Stage) -> str:
    return type(stage).__name__.lower()


def as_input(stage: Stage, name: str) -> StageInput:
    match stage:
        case Map(body=body, writes=writes):
            return StageInput(name, (), body, writes)
        case Matmul(target=target, expr=expr):
            return StageInput(name, (), (Equation(target, expr, expr.span),), (target,))
        case Loop(carries=carries, body=body, writes=writes):
            return StageInput(name, carries, body, writes)
        case Scan() | Fused():
            raise TypeError("a scan is several loops")
        case Newton():
            raise TypeError("a Newton stage is a map, a scan and a loop")
        case Convolution():
            raise TypeError("a Convolution is none of this backend's stages")
        case Chunk() | JointChunk() | Frozen():
            raise TypeError(f"a {type(stage).__name__} is printed by itself")


def scan_loops(stage: Scan, name: str, plan: Plan, alone: bool = True) -> ScanLoops:
    """The three loops of a scan; the states before a segment lie in memory as initial values do. Of one that is not
    `alone`, the elements of a step have names that no other scan has."""
    monoid = stage.monoid
    whose = "" if alone else f"{monoid.states[0]}."
    steps = {c.name: f"{whose}{c.name}'step" for c in monoid.components}
    totals = {c.name: f"{monoid.states[0]}.{c.name}'total" for c in monoid.components}  # two scans may both have an `a`
    dims = {c.name: e.dims for c, e in zip(monoid.components, monoid.lift, strict=True)}
    lifted = tuple(Equation(steps[c.name], e) for c, e in zip(monoid.components, monoid.lift, strict=True))
    needed = _needed(stage.pre, [e.expr for e in lifted])

    earlier = {f"1.{c.name}": (totals[c.name], 1, c.dims) for c in monoid.components}
    later = {f"2.{c.name}": (steps[c.name], 0, dims[c.name]) for c in monoid.components}
    combined = tuple(
        Equation(totals[c.name], _renamed(e, earlier | later))
        for c, e in zip(monoid.components, monoid.combine, strict=True)
    )
    fold = StageInput(
        f"{name}@fold",
        tuple(Carry(totals[c.name], c.dims, c.dtype) for c in monoid.components),
        (*needed, *lifted, *combined),
        (),
        {totals[c.name]: e for c, e in zip(monoid.components, monoid.identity, strict=True)},
        packs=False,
    )

    whole = {c.name: (totals[c.name], 0, c.dims) for c in monoid.components}
    carried = {c.name: c for c in stage.carries}
    starts = {s: f"{s}'start" for s in monoid.states}
    carry = StageInput(
        f"{name}@carry",
        stage.carries,
        (
            *(Equation(starts[s], Read(s, 1, carried[s].dims, carried[s].dtype)) for s in monoid.states),
            *(Equation(s, _renamed(e, whole)) for s, e in zip(monoid.states, monoid.apply, strict=True)),
        ),
        tuple(starts.values()),
        packs=False,
    )

    one = {c.name: (steps[c.name], 0, dims[c.name]) for c in monoid.components}
    applied = tuple(Equation(s, _renamed(e, one)) for s, e in zip(monoid.states, monoid.apply, strict=True))
    run = StageInput(
        f"{name}@run", stage.carries, (*stage.pre, *lifted, *applied, *stage.post), stage.writes, packs=False
    )
    return ScanLoops(
        fold,
        carry,
        run,
        tuple(Buffer(totals[c.name], c.dims, c.dtype, Role.SEQUENCE) for c in monoid.components),
        tuple(_start(plan.buffer(f"{s}@initial"), starts[s]) for s in monoid.states),
    )


def _start(initial: Buffer, name: str) -> Buffer:
    part = None if initial.part is None else (name, initial.part[1])
    return replace(initial, name=name, role=Role.SEQUENCE, part=part)


def _needed(body: tuple[Equation, ...], roots: list[Expr]) -> tuple[Equation, ...]:
    """The equations that the roots read, directly or through others."""
    wanted = {r.name for e in roots for r in reads(e)}
    kept: list[Equation] = []
    for equation in reversed(body):
        if equation.name in wanted:
            wanted.update(r.name for r in reads(equation.expr))
            kept.append(equation)
    return tuple(reversed(kept))


def _renamed(expr: Expr, table: Mapping[str, tuple[str, int, tuple[str, ...]]]) -> Expr:
    def rule(node: Expr) -> Expr:
        if isinstance(node, Read) and node.name in table:
            name, lag, dims = table[node.name]
            return replace(node, name=name, lag=lag, dims=dims)
        return node

    return rewrite(expr, rule)


def sequence_lagged(plan: Plan) -> bool:
    """Whether a stage reads a buffer made inside the plan one step back."""
    inside = {b.name for b in plan.buffers if b.role is Role.SEQUENCE}
    if any(sequence_lagged(s.inside) for s in plan.stages if isinstance(s, Frozen)):
        return True
    return any(
        r.lag and r.name in inside
        for stage in plan.stages
        for expr in ([stage.expr] if isinstance(stage, Matmul) else [e.expr for e in stage.body])
        for r in reads(expr)
    )


def absorb(plan: Plan, number: int) -> tuple[Loop, tuple[int, ...]] | None:
    """The loop at `number` with the products only it reads computed inside it, and the stages that then fall away.

    Each sum over an input joins the sum over the state in one accumulator, and what lay between is never stored."""
    loop = plan.stages[number]
    if not isinstance(loop, Loop):
        return None
    inside = {b.name for b in plan.buffers if b.role is Role.SEQUENCE}
    found: dict[str, Expr] = {}
    gone: list[int] = []
    for k, stage in enumerate(plan.stages[:number]):
        if not isinstance(stage, Matmul) or stage.target not in inside:
            continue
        others = [s for j, s in enumerate(plan.stages) if j not in (k, number)]
        elsewhere = any(r.name == stage.target for s in others for e in stage_exprs(s) for r in reads(e))
        own = [r for e in loop.body for r in reads(e.expr) if r.name == stage.target]
        if elsewhere or any(r.lag or r.dims != stage.expr.dims for r in own):
            continue
        found[stage.target] = stage.expr
        gone.append(k)
    if not gone:
        return None

    def rule(node: Expr) -> Expr:
        return found.get(node.name, node) if isinstance(node, Read) else node

    body = tuple(replace(e, expr=rewrite(e.expr, rule)) for e in loop.body)
    return replace(loop, body=body), tuple(gone)
