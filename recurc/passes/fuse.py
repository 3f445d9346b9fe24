"""Fusion: neighbouring scans become one stage that walks over time once, and what one hands to the next is no buffer;
neighbouring chunks with the same keys and factors become one that makes what the two share once.

Scans are neighbours if nothing between them makes what the later one reads; a later scan may read values of an earlier
one at this step and the one before, but not its final states. Loops of neighbouring groups are joined where they are
made (`lower`).

Together scans must be able to do what each does by itself, to run side by side along a dim: see `beside`. Chunks go
side by side by their columns; one does not read what another of its stage makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from recurc.facts import Reason
from recurc.ir import Equation, Expr, Read, rewrite
from recurc.passes.affine import is_number
from recurc.passes.beside import Walk, together, walk_of
from recurc.passes.cost import Shape
from recurc.passes.lower import stage_reads
from recurc.passes.terms import fresh
from recurc.passes.verify_plan import verify_plan
from recurc.plan import Buffer, Chunk, Fused, JointChunk, Map, Matmul, Plan, Role, Scan, Stage

Together = Callable[[Sequence[Scan]], bool]


def fuse(plan: Plan, allowed: Together, told: bool = False) -> Plan:
    """The plan with neighbouring scans in fused stages, as far as `allowed` says yes to them, and neighbouring chunks
    in joint ones; the same meaning. The reasons say so, if they have not been `told`. Raises `CompilerBug` if the plan
    breaks a rule of `plan.py`."""
    runs: list[list[Stage]] = []  # scans or chunks that run together, or one stage of another kind
    for stage in plan.stages:
        home = _home(stage, runs, allowed)
        if home is None:
            runs.append([stage])
        else:
            runs[home].append(stage)
    if all(len(run) == 1 for run in runs):
        return plan
    stages: list[Stage] = []
    reasons: list[Reason] = []
    taken = {b.name for b in plan.buffers} | {e.name for s in plan.stages for e in s.body}
    for run in runs:
        chunks = tuple(s for s in run if isinstance(s, Chunk))
        if len(run) == 1:
            stages += run
            continue
        if chunks:
            stages.append(JointChunk(chunks))
            reasons += [] if told else [Reason(_why_joint(chunks))]
            continue
        parts = _scans(run)
        outside = {r.name for s in plan.stages if s not in parts for r in stage_reads(s)}
        parts = _distinct(parts, taken)
        made = [plan.buffer(w) for p in parts for w in p.writes]
        between = tuple(b for b in made if b.role is Role.SEQUENCE and b.name not in outside)
        stages.append(Fused(parts, between))
        reasons += [] if told else [Reason(_why(parts, between))]
    inside = {b.name for s in stages if isinstance(s, Fused) for b in s.between}
    buffers = tuple(b for b in plan.buffers if b.name not in inside)
    fused = replace(plan, stages=tuple(stages), buffers=buffers, reasons=(*plan.reasons, *reasons))
    verify_plan(fused)
    return fused


def _scans(run: Sequence[Stage]) -> tuple[Scan, ...]:
    return tuple(s for s in run if isinstance(s, Scan))


def _home(stage: Stage, runs: Sequence[Sequence[Stage]], allowed: Together) -> int | None:
    """The run of scans or chunks that a later one can join: nothing that stands behind it makes what it needs."""
    needed = {r.name for r in stage_reads(stage)}
    for place in reversed(range(len(runs))):
        run, made = runs[place], set[str]()
        ends = {f"{c.name}@final" for s in run if not isinstance(s, Map | Matmul) for c in s.carries}
        if not needed & ends and _joins(stage, run, allowed):
            return place
        made |= {w for s in run for w in s.writes} | ends
        if needed & made:
            return None
    return None


def _joins(stage: Stage, run: Sequence[Stage], allowed: Together) -> bool:
    match stage, run[0]:
        case Scan(), Scan():
            return allowed([*_scans(run), stage])
        case Chunk(), Chunk():
            before = {w for s in run for w in s.writes}
            fits = all(isinstance(s, Chunk) and s.form.alike(stage.form) and not _ranked(s) for s in (*run, stage))
            return fits and not before & {r.name for r in stage_reads(stage)}
        case _:
            return False


def _ranked(chunk: Chunk) -> bool:
    return any(r.rank for r in chunk.readouts)


def _distinct(scans: Sequence[Scan], taken: set[str]) -> tuple[Scan, ...]:
    """The scans with new names, which join those `taken`, for what two of them call alike and is not the same."""
    known: dict[str, Expr] = {}
    found: list[Scan] = []
    for scan in scans:
        table: dict[str, str] = {}

        def renamed(expr: Expr, table: dict[str, str] = table) -> Expr:
            return rewrite(expr, lambda n: replace(n, name=table.get(n.name, n.name)) if isinstance(n, Read) else n)

        body: list[Equation] = []
        for equation in scan.body:
            expr = renamed(equation.expr)
            if known.get(equation.name, expr) != expr and equation.name not in scan.writes:
                table[equation.name] = fresh(equation.name, taken)
                taken.add(table[equation.name])
            body.append(replace(equation, name=table.get(equation.name, equation.name), expr=expr))
            known.setdefault(body[-1].name, expr)
        lift = tuple(map(renamed, scan.monoid.lift))
        pre, post = tuple(body[: len(scan.pre)]), tuple(body[len(scan.pre) :])
        found.append(replace(scan, monoid=replace(scan.monoid, lift=lift), pre=pre, post=post))
    return tuple(found)


def side_by_side(shape: Shape) -> Together:
    """Whether scans lose nothing of what runs side by side, for some sizes (`beside.together`)."""

    def walk(scan: Scan) -> Walk:
        return walk_of(scan.monoid, (c.dims for c in scan.carries), (e.expr for e in scan.body), shape)

    return lambda scans: together([walk(s) for s in scans], shape)


def _why(parts: Sequence[Scan], between: Sequence[Buffer]) -> str:
    names = [", ".join(p.monoid.states) for p in parts]
    text = f"{', '.join(names[:-1])} and {names[-1]} in one pass over time"
    return f"{text}: {', '.join(b.name for b in between)} stay close and are never stored" if between else text


def _why_joint(parts: Sequence[Chunk]) -> str:
    names, vectors = [p.form.states[0] for p in parts], [p.form.states[0] for p in parts if not p.form.columns]
    decays = "" if is_number(parts[0].form.factors[0][0], 1) else ", decays"
    text = f"{', '.join(names[:-1])} and {names[-1]} in one stage"
    more = f"; {', '.join(vectors)} as one more column{'' if len(vectors) == 1 else ' each'}" if vectors else ""
    return f"{text}: what chunks of steps make of keys{decays} and queries is made once{more}"
