"""What a plan is and why, in words and as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recurc.facts import CLASSES, Group
from recurc.formula import equation_lines, formula, wrapped
from recurc.ir import Apply, Const, Expr, Read, children, late_equations, walk, with_children
from recurc.plan import Candidate, Chunk, Convolution, Loop, Map, Matmul, Newton, Plan, Role, Scan, Stage
from recurc.targets import Target
from recurc.types import Dims, DType


@dataclass(frozen=True, slots=True)
class Case:
    """What a plan was made for."""

    sizes: Mapping[str, int]
    batch: int
    steps: int
    real: DType
    target: Target

    def bytes(self, dims: Dims, dtype: DType) -> int:
        """The storage of one value of these dims."""
        count = 1
        for dim in dims:
            count *= int(dim) if dim.isdigit() else self.sizes[dim]
        return count * dtype.settled(self.real).itemsize

    def __str__(self) -> str:
        sizes = ", ".join(f"{d}={n}" for d, n in self.sizes.items())
        parts = [sizes, f"batch {self.batch:,}", f"T {self.steps:,}", self.real.value, f"target {self.target.name}"]
        return " · ".join(p for p in parts if p)


def to_text(plan: Plan, case: Case) -> str:
    """Groups, classes, schedules, costs, plan and memory, for a person."""
    blocks = [f"{plan.recurrence.name}   {case}", _groups(plan)]
    if plan.candidates:
        blocks.append(_costs(plan, case))
    blocks += [_stages(plan), _memory(plan, case)]
    return "\n\n".join(blocks)


def _groups(plan: Plan) -> str:
    lines = ["Groups of states"]
    if not plan.analysis.groups:
        lines.append("  none: nothing feeds back, every step is computed on its own")
    for group, chosen in zip(plan.analysis.groups, plan.schedules, strict=True):
        invariant = ", time-invariant" if group.linear_time_invariant else ""
        lines.append(f"  {', '.join(group.states)}: class {group.cls}, {CLASSES.get(group.cls, 'unnamed')}{invariant}")
        legal = [*group.schedules, *(f"{name} (when asked for)" for name in group.on_request)]
        lines.append(f"    legal       {', '.join(legal)}")
        lines.append(f"    chosen      {chosen}")
        lines += [f"    {'because' if i == 0 else '':<11} {reason}" for i, reason in enumerate(group.reasons)]
        lines += _lifted(group)
        certificate = group.certificate
        lines.append(f"    certificate {certificate.status} ({certificate.method})")
        lines += [f"                {detail}" for detail in certificate.details]
    for title, names in (("hoisted", plan.analysis.hoisted), ("sunk", plan.analysis.sunk)):
        if names:
            why = "read no state, so they leave the loop" if title == "hoisted" else "nobody feeds them back"
            lines.append(f"  {title}: {', '.join(names)} ({why})")
    late = late_equations(plan.recurrence)
    if late:
        names = ", ".join(o for o in plan.recurrence.outputs if o in late)
        lines.append(f"  not causal: {names} (reads a state after the last step, so it has no value step by step)")
    return "\n".join(lines)


def _lifted(group: Group) -> list[str]:
    """The operator in formulas: the element of one step, what two elements make, and the state an element gives."""
    monoid = group.monoid
    if monoid is None:
        return []
    names = [c.name for c in monoid.components]
    guarded = any(_unguarded(n) is not n for e in (*monoid.combine, *monoid.apply) for n in walk(e))
    blocks = (
        ("element", _formulas(names, monoid.lift)),
        ("combine", _formulas(names, monoid.combine)),
        ("apply", _formulas(monoid.states, monoid.apply)),
    )
    lines: list[str] = []
    for title, formulas in blocks:
        for n, text in enumerate(formulas):
            lines += [f"    {title if n == 0 else '':<11} {line}" for line in wrapped(text, 92)]
    return [*lines, *(["                (where exp(-∞ - …) is 0)"] if guarded else [])]


def _formulas(names: Sequence[str], exprs: Sequence[Expr]) -> list[str]:
    """`name = expr` each; an expression that was given a name before is called by it, `1.a` is written a₁."""
    known: dict[Expr, Read] = {}

    def spoken(node: Expr) -> Expr:
        if node in known:
            return known[node]
        plain = _unguarded(node)
        if isinstance(plain, Read) and plain.name.startswith(("1.", "2.")):
            return replace(plain, name=plain.name[2:] + {"1": "₁", "2": "₂"}[plain.name[0]])
        return plain

    out: list[str] = []
    for name, expr in zip(names, exprs, strict=True):
        said = _top_down(expr, known, spoken)
        out.append(f"{name} = {formula(said)}")
        if not isinstance(expr, Read | Const):
            known[expr] = Read(name, 0, expr.dims, expr.dtype)
    return out


def _top_down(expr: Expr, known: Mapping[Expr, Read], spoken: Callable[[Expr], Expr]) -> Expr:
    if expr in known:
        return known[expr]
    plain = _unguarded(expr)
    if plain is not expr:
        return _top_down(plain, known, spoken)
    return spoken(with_children(expr, tuple(_top_down(c, known, spoken) for c in children(expr))))


def _unguarded(node: Expr) -> Expr:
    """`if m == -∞ then 0 else e` guards e against -∞ - (-∞); a reader needs only e."""
    match node:
        case Apply(op="select", args=(Apply(op="eq", args=(_, Const(value=bound))), Const(value=0.0), kept)):
            return kept if bound == -math.inf else node
        case _:
            return node


def _costs(plan: Plan, case: Case) -> str:
    lines = ["Schedules weighed (estimates of the cost model)"]
    width = max(len(c.schedule) for c in plan.candidates)
    for c in plan.candidates:
        mark = "->" if c.chosen else "  "
        figures = f"{_time(c.seconds):>9}  {_bytes(c.bytes_moved):>9}  {_flops(c.flops):>11}"
        lines.append(f"  {mark} {c.schedule:<{width}}  {figures}  {c.reason}")
    lines += [f"  {reason}" for reason in plan.reasons]
    t = case.target
    rates = f"{t.bandwidth / 1e9:,.0f} GB/s, {t.flops / 1e9:,.0f} Gflop/s, GEMM {t.matmul_flops / 1e9:,.0f} Gflop/s"
    lines.append(f"  {t.name}: {t.cores} {'cores' if t.kind == 'cpu' else 'SMs'}, {rates}")
    return "\n".join(lines)


def _stages(plan: Plan) -> str:
    lines = ["Plan"]
    for number, stage in enumerate(plan.stages, 1):
        name, what, body = describe(stage)
        lines.append(f"  {number}. {name}: {what}")
        lines += [f"       {line}" for line in body]
    return "\n".join(lines)


def describe(stage: Stage) -> tuple[str, str, list[str]]:
    """A stage's name, what it does in words, and its equations."""
    match stage:
        case Map(body=body, over_time=over_time):
            return "map", "all t at once" if over_time else "once per call", equation_lines(body, 96)
        case Matmul(target=target, expr=expr):
            return "matmul", "one matrix product for all t", [f"{target} = {formula(expr)}"]
        case Loop(carries=carries, body=body):
            kept = ", ".join(c.name for c in carries)
            return "loop", f"one step after another, keeping {kept}", equation_lines(body, 96)
        case Scan(carries=carries, pre=pre, post=post, monoid=monoid):
            kept = ", ".join(c.name for c in carries)
            lifted = [f"lift {c.name} = {formula(e)}" for c, e in zip(monoid.components, monoid.lift, strict=True)]
            body = [*equation_lines(pre, 96), *lifted, *equation_lines(post, 96)]
            return "scan", f"an associative scan over t for {kept} (class {monoid.cls})", body
        case Newton(carries=carries, body=body, most=most):
            kept = ", ".join(c.name for c in carries)
            what = f"all t at once for {kept}: at most {most} rounds, each a scan of the linearised equations; "
            return "newton", f"{what}the loop for sequences that do not converge", equation_lines(body, 96)
        case Convolution(carries=carries, sources=sources, writes=writes):
            kept, driven = ", ".join(c.name for c in carries), ", ".join(sources) or "its initial value alone"
            made = ", ".join(writes) or "the last state"
            what = f"all t at once, by the response of {kept} to an impulse: from {driven} to {made}"
            return "convolution", what, equation_lines(stage.body, 96)
        case Chunk(form=form, body=body):
            over = f"rows {', '.join(form.rows)}, columns {', '.join(form.columns)}"
            what = "a triangular system and products of matrices" if form.corrects else "products of matrices"
            kept = ", ".join(form.states)
            return "chunk", f"chunks of steps by {what}, keeping {kept} ({over})", equation_lines(body, 96)


def memory(plan: Plan, case: Case) -> dict[str, int]:
    """Bytes by role: what comes in, what goes out, what the plan makes in between, what it keeps from step to step."""
    out: dict[str, int] = {"inputs": 0, "params": 0, "outputs": 0, "between stages": 0, "states": 0}
    for b in plan.buffers:
        one = case.bytes(b.dims, b.dtype)
        every = one * case.batch * case.steps
        match b.role:
            case Role.INPUT:
                out["inputs"] += every
            case Role.PARAM:
                out["params"] += one
            case Role.OUTPUT:
                out["outputs"] += every
            case Role.SEQUENCE:
                out["between stages"] += every
            case Role.ONCE:
                out["between stages"] += one
            case Role.INITIAL:
                out["states"] += one * case.batch
            case Role.FINAL:
                pass
    for stage in plan.stages:
        if isinstance(stage, Newton):  # a guess and the next one
            guess = sum(case.bytes(b.dims, b.dtype) for b in stage.values("guess"))
            out["between stages"] += 2 * guess * case.batch * case.steps
    return out


def residual_bytes_per_step(plan: Plan, case: Case) -> int:
    """What a backward pass would keep per step and sequence: the states after each step that are not outputs."""
    states = [s for s in plan.recurrence.states if s.name not in plan.recurrence.outputs]
    return sum(case.bytes(s.dims, s.dtype) for s in states)


def _memory(plan: Plan, case: Case) -> str:
    parts = [f"{name} {_bytes(size)}" for name, size in memory(plan, case).items() if size]
    residual = residual_bytes_per_step(plan, case)
    return "\n".join(
        [
            "Memory",
            f"  {', '.join(parts)}",
            f"  states a backward pass would keep, beside inputs and outputs: {_bytes(residual)} per step and sequence",
        ]
    )


def to_json(plan: Plan, case: Case) -> dict[str, Any]:
    """The same as data; the field names are part of the command line's contract."""
    return {
        "recurrence": plan.recurrence.name,
        "sizes": dict(case.sizes),
        "batch": case.batch,
        "steps": case.steps,
        "dtype": case.real.value,
        "target": case.target.name,
        "groups": [
            {
                "states": list(g.states),
                "class": g.cls,
                "linear_time_invariant": g.linear_time_invariant,
                "schedules": list(g.schedules),
                "on_request": list(g.on_request),
                "chosen": chosen,
                "reasons": [str(r) for r in g.reasons],
                "certificate": {
                    "method": g.certificate.method,
                    "status": g.certificate.status,
                    "details": list(g.certificate.details),
                },
            }
            for g, chosen in zip(plan.analysis.groups, plan.schedules, strict=True)
        ],
        "hoisted": list(plan.analysis.hoisted),
        "sunk": list(plan.analysis.sunk),
        "plan": [_stage_json(stage) for stage in plan.stages],
        "memory": memory(plan, case),
        "residual_bytes_per_step": residual_bytes_per_step(plan, case),
        "cost": {c.schedule: _cost_json(c) for c in plan.candidates},
        "reasons": [str(r) for r in plan.reasons],
    }


def _stage_json(stage: Stage) -> dict[str, Any]:
    name, what, body = describe(stage)
    return {"stage": name, "what": what, "equations": body, "writes": list(stage.writes)}


def _cost_json(c: Candidate) -> dict[str, Any]:
    return {
        "seconds": c.seconds,
        "bytes_moved": c.bytes_moved,
        "flops": c.flops,
        "reason": c.reason,
        "chosen": c.chosen,
    }


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _bytes(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"


def _flops(count: float) -> str:
    for unit, scale in (("Tflop", 1e12), ("Gflop", 1e9), ("Mflop", 1e6), ("kflop", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} flop"
