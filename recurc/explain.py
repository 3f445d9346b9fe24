"""What a plan is and why, in words and as data."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from recurc.errors import UnsupportedError
from recurc.facts import CLASSES, Group, LowRank
from recurc.formula import equation_lines, formula, wrapped
from recurc.ir import Apply, Const, Expr, Read, Recurrence, children, late_equations, walk, with_children
from recurc.passes import backward_pass
from recurc.passes.backward import Backward
from recurc.passes.residuals import segment_steps
from recurc.passes.with_maxima import with_maxima
from recurc.plan import (
    Candidate,
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
    candidate_name,
)
from recurc.targets import Target
from recurc.types import Dims, DType, literal_size, own_dim

WIDTH = 112  # of lines, where no terminal says otherwise
_NARROWEST = 36
_SHORTEST_LABEL, _LONGEST_LABEL = 12, 34  # of a row in the table of costs; the plan has the whole name
_COLUMN = " " * 16
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"


@dataclass(frozen=True, slots=True)
class Case:
    """What a plan was made for."""

    sizes: Mapping[str, int]
    batch: int
    steps: int
    real: DType
    target: Target
    source: Recurrence | None = None  # what is differentiated: the recurrence as it was written

    def bytes(self, dims: Dims, dtype: DType) -> int:
        """The storage of one value of these dims."""
        count = 1
        for dim in dims:
            count *= literal_size(dim) or self.sizes[own_dim(dim)]
        return count * dtype.settled(self.real).itemsize

    def __str__(self) -> str:
        sizes = ", ".join(f"{d}={n}" for d, n in self.sizes.items())
        parts = [sizes, f"batch {self.batch:,}", f"T {self.steps:,}", self.real.value, f"target {self.target.name}"]
        return " · ".join(p for p in parts if p)


def to_text(plan: Plan, case: Case, width: int = WIDTH) -> str:
    """Groups, classes, schedules, costs, plan and memory, for a person, in lines of `width` characters where words and
    formulas can be broken."""
    width = max(width, _NARROWEST)
    blocks = ["\n".join(_wrap(f"{plan.recurrence.name}   {case}", width, "", "  ")), _groups(plan, width)]
    if plan.candidates:
        blocks.append(_costs(plan, case, width))
    blocks += [_stages(plan, width), _memory(plan, case, width)]
    return "\n\n".join(blocks)


def _wrap(text: str, width: int, first: str, later: str) -> list[str]:
    """`text` in lines that begin with `first`, then with `later`; words are not broken, nor is `(at PLACE)`."""
    kept = text.replace("(at ", "(at\xa0")
    lines = textwrap.wrap(
        kept, width, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("(at\xa0", "(at ") for line in lines] or [first.rstrip()]


def _said(title: str, text: str, width: int) -> list[str]:
    """One entry of a group: its title in a column of its own."""
    return _wrap(text, width, f"    {title:<11} ", f"{_COLUMN}  ")


def _groups(plan: Plan, width: int) -> str:
    lines = ["Groups of states"]
    if not plan.analysis.groups:
        lines += _wrap("none: nothing feeds back, every step is computed on its own", width, "  ", "    ")
    if plan.analysis.triangular:
        text = "together a triangular system (TRI): a group reads states of groups above it, which are known by then"
        lines += _wrap(text, width, "  ", "    ")
    for group, chosen in zip(plan.analysis.groups, plan.schedules, strict=True):
        invariant = ", time-invariant" if group.linear_time_invariant else ""
        name = CLASSES.get(group.cls, "unnamed")
        lines += _wrap(f"{', '.join(group.states)}: class {group.cls}, {name}{invariant}", width, "  ", "    ")
        legal = [*group.schedules, *(f"{name} (when asked for)" for name in group.on_request)]
        lines += _said("legal", ", ".join(legal), width)
        for i, refused in enumerate(group.refused):
            lines += _said("" if i else "not legal", str(refused).removeprefix("no "), width)
        lines += _said("chosen", chosen, width)
        for i, reason in enumerate(group.reasons):
            lines += _said("" if i else "because", str(reason), width)
        for title, formulas in _operator(group):
            for n, text in enumerate(formulas):
                broken = wrapped(text, width - len(_COLUMN))
                lines += [f"    {'' if n or k else title:<11} {line}" for k, line in enumerate(broken)]
        certificate = group.certificate
        lines += _said("certificate", f"{certificate.status} ({certificate.method})", width)
        for detail in certificate.details:
            lines += _said("", detail, width)
    for title, names in (("hoisted", plan.analysis.hoisted), ("sunk", plan.analysis.sunk)):
        if names:
            why = "read no state, so they leave the loop" if title == "hoisted" else "nobody feeds them back"
            lines += _wrap(f"{title}: {', '.join(names)} ({why})", width, "  ", "    ")
    late = late_equations(plan.recurrence)
    if late:
        names = ", ".join(o for o in plan.recurrence.outputs if o in late)
        text = f"not causal: {names} (reads a state after the last step, so it has no value step by step)"
        lines += _wrap(text, width, "  ", "    ")
    return "\n".join(lines)


def _operator(group: Group) -> list[tuple[str, list[str]]]:
    """The operator in formulas: the element of one step, what two elements make, and the state an element gives; and
    the form that chunks of steps are products of matrices for."""
    found: list[tuple[str, list[str]]] = []
    if group.monoid is not None:
        monoid = group.monoid
        names = [c.name for c in monoid.components]
        found.append(("element", _formulas(names, monoid.lift)))
        found.append(("combine", _formulas(names, monoid.combine)))
        found.append(("apply", _formulas(monoid.states, monoid.apply)))
        found.append(("identity", [", ".join(_formulas(names, monoid.identity))]))
        if any(_unguarded(n) is not n for e in (*monoid.combine, *monoid.apply) for n in walk(e)):
            found[2][1].append("(where exp(-∞ - …) is 0)")
    if group.low_rank is not None:
        whole, parts = low_rank_formulas(group.low_rank)
        found.append(("in chunks", [*whole, *(f"{name} = {text}" for name, text in parts.items() if name != text)]))
    return found


def low_rank_formulas(form: LowRank) -> tuple[list[str], dict[str, str]]:
    """`S = decay ∘ S[t-1] + key ⊗ (value + probe · S[t-1])` for each state, and what decays, keys, probes and values
    are. `·` sums over the rows; several writes have a number each, what several states have is named by them."""
    parts: dict[str, str] = {}
    alone = len(form.states) == 1

    def part(word: str, expr: Expr, *states: str) -> str:
        name = word if alone else "_".join([word, *states])
        parts[name] = formula(expr)
        return name

    lines: list[str] = []
    for place, state in enumerate(form.states):
        terms: list[str] = []
        for other, factor in zip(form.states, form.factors[place], strict=True):
            if factor is not None:
                one = isinstance(factor, Const) and factor.value == 1
                word = "decay" if alone else "factor"
                terms.append(f"{other}[t-1]" if one else f"{part(word, factor, state, other)} ∘ {other}[t-1]")
        for i, write in enumerate(form.writes):
            key, number = write.keys[place], _SUBSCRIPTS[i + 1] if len(form.writes) > 1 else ""
            if key is None:
                continue
            inner: list[str] = []
            if write.value is not None:
                parts[f"value{number}"] = formula(write.value)
                inner.append(f"value{number}")
            probes = [(s, p) for s, p in zip(form.states, write.probes, strict=True) if p is not None]
            inner += [f"{part(f'probe{number}', p, s)} · {s}[t-1]" for s, p in probes]
            row = " + ".join(inner)
            product = f"{part(f'key{number}', key, state)} ⊗ {f'({row})' if probes else row}"
            terms.append(f"sum({product}, {', '.join(write.rank)})" if write.rank else product)
        lines.append(f"{state} = {' + '.join(terms)}")
    return lines, parts


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


def _costs(plan: Plan, case: Case, width: int) -> str:
    lines = _wrap("Schedules weighed (estimates of the cost model; depth: what waits for each other)", width, "", "  ")
    head = f"{'time':>9}  {'memory':>9}  {'work':>11}  {'depth':>7}"
    longest = max(_SHORTEST_LABEL, min(_LONGEST_LABEL, width - len(head) - 7))
    names = [c.schedule if len(c.schedule) <= longest else c.schedule[: longest - 1] + "…" for c in plan.candidates]
    label = max(map(len, names))
    beside = width - label - len(head) - 9 >= _NARROWEST
    lines.append(f"     {'':<{label}}  {head}")
    for c, name in zip(plan.candidates, names, strict=True):
        mark = "->" if c.chosen else "  "
        figures = f"{_time(c.seconds):>9}  {_bytes(c.bytes_moved):>9}  {_flops(c.flops):>11}  {c.depth:>7,}"
        row = f"  {mark} {name:<{label}}  {figures}"
        if beside:
            lines += _wrap(c.reason, width, f"{row}  ", " " * (len(row) + 2))
        else:
            lines += [row, *_wrap(c.reason, width, "       ", "       ")]
    for reason in plan.reasons:
        lines += _wrap(str(reason), width, "  ", "    ")
    t = case.target
    rates = f"{t.bandwidth / 1e9:,.0f} GB/s, {t.flops / 1e9:,.0f} Gflop/s, GEMM {t.matmul_flops / 1e9:,.0f} Gflop/s"
    lines += _wrap(f"{t.name}: {t.cores} {'cores' if t.kind == 'cpu' else 'SMs'}, {rates}", width, "  ", "    ")
    return "\n".join(lines)


def _stages(plan: Plan, width: int) -> str:
    lines = ["Plan"]
    for number, stage in enumerate(plan.stages, 1):
        name, what, body = describe(stage, width - 7)
        lines += _wrap(f"{number}. {name}: {what}", width, "  ", "     ")
        lines += [f"       {line}" for line in body]
    return "\n".join(lines)


def describe(stage: Stage, width: int = 96) -> tuple[str, str, list[str]]:
    """A stage's name, what it does in words, and its equations in lines of `width` characters."""
    match stage:
        case Map(body=body, over_time=over_time):
            return "map", "all t at once" if over_time else "once per call", equation_lines(body, width)
        case Matmul(target=target, expr=expr):
            return "matmul", "one matrix product for all t", wrapped(f"{target} = {formula(expr)}", width)
        case Loop(carries=carries, body=body):
            kept = ", ".join(c.name for c in carries)
            return "loop", f"one step after another, keeping {kept}", equation_lines(body, width)
        case Scan(carries=carries, pre=pre, post=post, monoid=monoid):
            kept = ", ".join(c.name for c in carries)
            pairs = zip(monoid.components, monoid.lift, strict=True)
            lifted = [line for c, e in pairs for line in wrapped(f"lift {c.name} = {formula(e)}", width)]
            body = [*equation_lines(pre, width), *lifted, *equation_lines(post, width)]
            return "scan", f"an associative scan over t for {kept} (class {monoid.cls})", body
        case Fused(parts=parts, between=between):
            lines: list[str] = []
            for part in parts:
                name, how, body = describe(part, width - 2)
                lines += [f"{name}: {how}", *(f"  {line}" for line in body)]
            names = [", ".join(c.name for c in part.carries) for part in parts]
            what = f"{', '.join(names[:-1])} and {names[-1]} in one pass over t"
            kept = ", ".join(b.name for b in between)
            return "fused", what + (f"; {kept} never stored" if kept else ""), lines
        case Newton(carries=carries, body=body, most=most, falls=falls):
            kept = ", ".join(c.name for c in carries)
            linear = "the linearised equations" if falls is None else "the equations, linearised element by element"
            what = f"all t at once for {kept}: at most {most} rounds, each a scan of {linear}; "
            what += "the loop for sequences that do not converge" + ("" if falls is None else ", or too slowly")
            return "newton", what, equation_lines(body, width)
        case Convolution(carries=carries, sources=sources, writes=writes):
            kept, driven = ", ".join(c.name for c in carries), ", ".join(sources) or "its initial value alone"
            made = ", ".join(writes) or "the last state"
            what = f"all t at once, by the response of {kept} to an impulse: from {driven} to {made}"
            return "convolution", what, equation_lines(stage.body, width)
        case Chunk(form=form, body=body):
            over = ", ".join(f"{n} {', '.join(d)}" for n, d in (("rows", form.rows), ("columns", form.columns)) if d)
            what = "a triangular system and products of matrices" if form.corrects else "products of matrices"
            kept = ", ".join(form.states)
            return "chunk", f"chunks of steps by {what}, keeping {kept} ({over})", equation_lines(body, width)
        case JointChunk(parts=parts):
            lines = []
            for part in parts:
                name, how, body = describe(part, width - 2)
                lines += [f"{name}: {how}", *(f"  {line}" for line in body)]
            names = [p.form.states[0] for p in parts]
            return (
                "joint",
                f"{', '.join(names[:-1])} and {names[-1]} in the same chunks of steps, by the same keys",
                lines,
            )
        case Frozen(carries=carries, held=held, inside=inside):
            kept, known = ", ".join(c.name for c in carries), ", ".join(h for h, _ in held)
            what = f"one chunk of {stage.spelled} steps after another, keeping {kept}; {known} known in each"
            lines = [f"at the start of a chunk {h} = {s}[t-1]" for h, s in held]
            for part in inside.stages:
                name, how, body = describe(part, width - 2)
                lines += [f"{name}: {how}", *(f"  {line}" for line in body)]
            return "frozen", what, lines


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
        if isinstance(stage, Newton):  # a guess and the next one, and products of a round
            guess = sum(case.bytes(b.dims, b.dtype) for b in (*stage.values("guess"), *stage.values("next")))
            made = sum(case.bytes(b.dims, b.dtype) for b in stage.products)
            out["between stages"] += (guess + made) * case.batch * case.steps
        if isinstance(stage, Frozen):
            every = sum(case.bytes(b.dims, b.dtype) for b in stage.own if b.has_time)
            once = sum(case.bytes(b.dims, b.dtype) for b in stage.own if not b.has_time)
            out["between stages"] += (every * case.steps + once) * case.batch
    return out


def residuals(plan: Plan, case: Case) -> dict[str, int] | None:
    """What a call that is differentiated keeps of each sequence, beside arguments and results, in bytes: by the
    policies "fast" and "balanced" per step, by "minimal" for all T steps. None if there is no derivative."""
    rec = case.source or plan.recurrence
    ours = with_maxima(rec).rec

    def per_step(memory: str) -> int:
        made, _ = backward_pass(ours, memory)
        found = made.whole if isinstance(made, Backward) else made
        known = {e.name: (e.expr.dims, e.expr.dtype) for e in found.forward.equations}
        return sum(case.bytes(*known[name]) for name in found.saved)

    try:
        fast, balanced, segment = per_step("fast"), per_step("balanced"), segment_steps(case.steps)
    except UnsupportedError:
        return None
    between = sum(case.bytes(s.dims, s.dtype) for s in ours.states) * math.ceil(case.steps / segment)
    return {"fast": fast, "balanced": balanced, "minimal": between + fast * min(segment, case.steps)}


def _memory(plan: Plan, case: Case, width: int) -> str:
    parts = [f"{name} {_bytes(size)}" for name, size in memory(plan, case).items() if size]
    kept = residuals(plan, case)
    if kept is None:
        words = "it has no derivative: nothing in it is a real or complex number, or an operation has none"
    else:
        fast, balanced, minimal = (_bytes(n) for n in kept.values())
        words = (
            "a call that is differentiated keeps of each sequence, beside arguments and results: "
            f"{fast} per step (memory='fast'), {balanced} per step ('balanced'), "
            f"{minimal} for all {case.steps:,} steps ('minimal')"
        )
    return "\n".join(["Memory", *_wrap(", ".join(parts), width, "  ", "    "), *_wrap(words, width, "  ", "    ")])


def to_json(plan: Plan, case: Case) -> dict[str, Any]:
    """The same as data; the field names are part of the command line's contract."""
    late, kept = late_equations(plan.recurrence), residuals(plan, case)
    return {
        "recurrence": plan.recurrence.name,
        "sizes": dict(case.sizes),
        "batch": case.batch,
        "steps": case.steps,
        "dtype": case.real.value,
        "target": case.target.name,
        "target_figures": asdict(case.target),
        "triangular": plan.analysis.triangular,
        "groups": [
            _group_json(plan, g, chosen) for g, chosen in zip(plan.analysis.groups, plan.schedules, strict=True)
        ],
        "hoisted": list(plan.analysis.hoisted),
        "sunk": list(plan.analysis.sunk),
        "not_causal": [o for o in plan.recurrence.outputs if o in late],
        "plan": [_stage_json(stage) for stage in plan.stages],
        "memory": memory(plan, case),
        "residual_bytes_per_step": None if kept is None else kept["fast"],
        "residual_bytes": kept,
        "cost": {c.schedule: _cost_json(c) for c in plan.candidates},
        "reasons": [str(r) for r in plan.reasons],
    }


def _group_json(plan: Plan, group: Group, chosen: str) -> dict[str, Any]:
    weighed = {c.schedule: c for c in plan.candidates}
    named = {s: weighed.get(candidate_name(plan.analysis, group, s)) for s in (*group.schedules, *group.on_request)}
    certificate = group.certificate
    return {
        "states": list(group.states),
        "class": group.cls,
        "class_in_words": CLASSES.get(group.cls, "unnamed"),
        "linear_time_invariant": group.linear_time_invariant,
        "schedules": list(group.schedules),
        "on_request": list(group.on_request),
        "refused": [str(r) for r in group.refused],
        "chosen": chosen,
        "candidates": {s: _cost_json(c) for s, c in named.items() if c is not None},
        "reasons": [str(r) for r in group.reasons],
        "operator": _operator_json(group),
        "low_rank": _low_rank_json(group),
        "certificate": {
            "method": certificate.method,
            "status": certificate.status,
            "details": list(certificate.details),
        },
    }


def _operator_json(group: Group) -> dict[str, Any] | None:
    """The lifted operator as formulas by component (`apply`: by state); `a₁` is of the earlier element."""
    monoid = group.monoid
    if monoid is None:
        return None

    def formulas(names: Sequence[str], exprs: Sequence[Expr]) -> dict[str, str]:
        texts = _formulas(names, exprs)
        return {name: text.removeprefix(f"{name} = ") for name, text in zip(names, texts, strict=True)}

    names = [c.name for c in monoid.components]
    return {
        "components": {c.name: list(c.dims) for c in monoid.components},
        "element": formulas(names, monoid.lift),
        "combine": formulas(names, monoid.combine),
        "apply": formulas(monoid.states, monoid.apply),
        "identity": formulas(names, monoid.identity),
    }


def _low_rank_json(group: Group) -> dict[str, Any] | None:
    form = group.low_rank
    if form is None:
        return None
    whole, parts = low_rank_formulas(form)
    dims = {"shared": list(form.shared), "rows": list(form.rows), "columns": list(form.columns)}
    return {"states": list(form.states), **dims, "formulas": whole, "where": parts}


def _stage_json(stage: Stage) -> dict[str, Any]:
    name, what, body = describe(stage)
    return {"stage": name, "what": what, "equations": body, "writes": list(stage.writes)}


def _cost_json(c: Candidate) -> dict[str, Any]:
    return {
        "seconds": c.seconds,
        "bytes_moved": c.bytes_moved,
        "flops": c.flops,
        "depth": c.depth,
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
