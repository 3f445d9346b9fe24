"""The IR and plans as text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence

from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Equation,
    Expr,
    Final,
    Gather,
    Iota,
    Linalg,
    Param,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    Size,
    Step,
    Unfold,
    children,
)
from recurc.irtext.names import NAME, PART, WORD
from recurc.plan import (
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
    Scan,
    Stage,
)
from recurc.types import DimDecl, Dims, DType

_WIDTH = 118


def to_text(rec: Recurrence) -> str:
    """`rec` as text; `parse` gives back an equal recurrence."""
    lines = [f"recurrence {_bare(rec.name)}({', '.join(_dim_decl(d) for d in rec.dims)}) {{"]
    lines += [f"  doc {json.dumps(line, ensure_ascii=False)}" for line in rec.doc.split("\n") if rec.doc]
    for value in rec.inputs:
        head = f"input {_bare(value.name)}: {_type(value.dtype, value.dims)}{_below(value.bound)}"
        lines += _statement(head, "before", value.before)
    for param in rec.params:
        lines += _param(param)
    for state in rec.states:
        head = f"state {_bare(state.name)}: {_type(state.dtype, state.dims)}{_below(state.bound)}"
        lines += _statement(head, "=", state.initial)
    for equation in rec.equations:
        lines += _equation(equation)
    if rec.reset is not None:
        lines.append(f"  reset {_bare(rec.reset)}")
    if rec.outputs:
        lines.append(f"  output {', '.join(_bare(name) for name in rec.outputs)}")
    return "\n".join([*lines, "}", ""])


def _param(param: Param) -> list[str]:
    head = f"  param {_bare(param.name)}: {_type(param.dtype, param.dims)}{_below(param.bound)}"
    if param.init is None:
        return [head]
    args = [_flat(a) for a in param.init.args]
    line = f"{head} ~ {_bare(param.init.name)}({', '.join(args)})"
    if len(line) <= _WIDTH:
        return [line]
    args = [_render(a, 4, _WIDTH) for a in param.init.args]
    return [f"{head} ~ {_bare(param.init.name)}(", *(f"    {a}," for a in args[:-1]), f"    {args[-1]}", "  )"]


def expr_to_text(expr: Expr) -> str:
    """One expression, on one line."""
    return _flat(expr)


def _bare(name: str) -> str:
    return name if NAME.fullmatch(name) else json.dumps(name)


def _read_name(name: str) -> str:
    return "%" + (name if PART.fullmatch(name) else json.dumps(name))


def _dim(name: str) -> str:
    return name if WORD.fullmatch(name) or re.fullmatch(r"[0-9]+", name) else json.dumps(name)


def _dim_decl(decl: DimDecl) -> str:
    default = f" = {decl.default}" if decl.default is not None else ""
    return _dim(decl.name) + default + (f" as {_dim(decl.same_as)}" if decl.same_as is not None else "")


def _type(dtype: DType, dims: Dims) -> str:
    return dtype.value + (f"[{', '.join(_dim(d) for d in dims)}]" if dims else "")


def _below(bound: str | None) -> str:
    return "" if bound is None else f" below {_dim(bound)}"


def _number(value: complex) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return int.__repr__(value)
        case float():
            return float.__repr__(value)
        case _:
            return f"complex({value.real!r}, {value.imag!r})"


def _integers(values: Iterable[int]) -> str:
    return " ".join(str(v) for v in values)


def _head(expr: Expr) -> str:
    """A leaf whole, an operation up to its operands."""
    shape = _type(expr.dtype, expr.dims)
    match expr:
        case Const(value=value):
            return f"{_number(value)}: {shape}"
        case Size(dim=dim):
            return f"size({_dim(dim)}): {shape}"
        case Step():
            return f"t: {shape}"
        case Read(name=name, lag=lag):
            return f"{_read_name(name)}{f'[t{-lag:+d}]' if lag else ''}: {shape}"
        case Apply(op=op):
            return f"{op}: {shape}"
        case Reduce(op=op, over=over):
            return f"reduce{{{op} over {', '.join(_dim(d) for d in over)}}}: {shape}"
        case Contract():
            axes = f"{_integers(expr.left_axes)}, {_integers(expr.right_axes)} -> {_integers(expr.out_axes)}"
            return f"contract{{{axes}}}: {shape}"
        case Reaxis(axes=axes, at=at, index=index):
            fixed = f"; axis {at} at {index}" if at is not None and index is not None else ""
            return f"reaxis{{{_integers(axes)}{fixed}}}: {shape}"
        case Iota():
            return f"index: {shape}"
        case Final(name=name):
            return f"{_read_name(name)}[T]: {shape}"
        case Broadcast():
            return f"broadcast: {shape}"
        case Gather(axis=axis):
            return f"gather{{{axis}}}: {shape}"
        case Unfold(axes=axes, taps=taps, forward=forward, wrap=wrap):
            how = ("forward" if forward else "backward") + (" wrap" if wrap else "")
            return f"unfold{{{_integers(axes)} taps {', '.join(_dim(d) for d in taps)}; {how}}}: {shape}"
        case Linalg(op=op, args=args):
            return f"linalg{{{op} {len(args)}}}: {shape}"


def _widths(expr: Expr) -> dict[int, int]:
    """The length of the one-line form of every subtree, by node identity. Iterative: depth does not matter."""
    widths: dict[int, int] = {}
    stack: list[tuple[Expr, bool]] = [(expr, False)]
    while stack:
        node, ready = stack.pop()
        if id(node) in widths:
            continue
        inner = children(node)
        if not ready:
            stack.append((node, True))
            stack.extend((child, False) for child in inner)
        else:
            widths[id(node)] = len(_head(node)) + sum(widths[id(c)] for c in inner) + 2 * len(inner)
    return widths


def _render(expr: Expr, indent: int, width: float) -> str:
    """`expr` laid out so that lines stay within `width` where they can; continuation lines are indented."""
    widths = _widths(expr)
    out: list[str] = []
    column = indent
    todo: list[tuple[str, Expr | None, int, bool]] = [("", expr, indent, False)]
    while todo:
        text, node, level, broken = todo.pop()
        if node is None:
            out.append(text)
            column = len(text) - text.rfind("\n") - 1 if "\n" in text else column + len(text)
            continue
        head, inner = _head(node), children(node)
        column += len(head)
        out.append(head)
        if not inner:
            continue
        broken = column - len(head) + widths[id(node)] > width
        lead, between, tail = ("", ", ", "") if not broken else _breaks(level)
        pieces: list[tuple[str, Expr | None, int, bool]] = [("(" + lead, None, 0, False)]
        for position, child in enumerate(inner):
            pieces.append((between if position else "", None, 0, False))
            pieces.append(("", child, level + 2 * broken, False))
        pieces.append((tail + ")", None, 0, False))
        todo.extend(reversed(pieces))
    return "".join(out)


def _breaks(level: int) -> tuple[str, str, str]:
    inner = "\n" + " " * (level + 2)
    return inner, "," + inner, "\n" + " " * level


def _flat(expr: Expr) -> str:
    return _render(expr, 0, math.inf)


def _statement(head: str, joiner: str, expr: Expr | None, indent: int = 2) -> list[str]:
    pad = " " * indent
    if expr is None:
        return [pad + head]
    start = f"{pad}{head} {joiner} "
    if len(start) + _widths(expr)[id(expr)] <= _WIDTH:
        return [start + _flat(expr)]
    return [start.rstrip(), f"{pad}  {_render(expr, indent + 2, _WIDTH)}"]


def _equation(equation: Equation, indent: int = 2) -> list[str]:
    return _statement(_read_name(equation.name), "=", equation.expr, indent)


# --- plans ----------------------------------------------------------------------------------------------------


def plan_to_text(plan: Plan) -> str:
    """A plan for a person and for golden files: buffers, stages in order, schedules, reasons. Not read back."""
    lines = [f"plan {plan.recurrence.name} {{"]
    width = max((len(b.name) for b in plan.buffers), default=0)
    lines += [f"  buffer {b.name:<{width}}  {b.role.value:<8} {_type(b.dtype, b.dims)}" for b in plan.buffers]
    for group, schedule in zip(plan.analysis.groups, plan.schedules, strict=False):
        lines.append(f"  group {', '.join(group.states)}: {group.cls}, {schedule}")
    for stage in plan.stages:
        lines += _stage(stage)
    lines += [f"  # {reason.text}" for reason in plan.reasons]
    return "\n".join([*lines, "}", ""])


def _stage(stage: Stage) -> list[str]:
    match stage:
        case Map():
            return [_opening("map" if stage.over_time else "map once", (), stage.writes), *_body(stage.body), "  }"]
        case Matmul():
            return ["  matmul {", *_equation(Equation(stage.target, stage.expr), 4), "  }"]
        case Loop():
            return [_opening("loop", stage.carries, stage.writes), *_body(stage.body), "  }"]
        case Scan():
            return [_opening("scan", stage.carries, stage.writes), *_scan(stage), "  }"]
        case Fused(parts=parts, between=between):
            inner = [f"  {line}" for part in parts for line in _stage(part)]
            handed = [f"    between {b.name} {_type(b.dtype, b.dims)}" for b in between]
            return [_opening("fused", (), stage.writes), *handed, *inner, "  }"]
        case Newton():
            inner = [line for part in (stage.first, *stage.before, stage.step, stage.loop) for line in _stage(part)]
            pace = "" if stage.falls is None else f" that falls by {stage.falls}"
            by = f"{_read_name(stage.error)}{pace}"
            opening = _opening(f"newton at most {stage.most} rounds by {by};", (), stage.writes)
            return [opening, *(f"  {line}" for line in inner), "  }"]
        case Convolution():
            return [_opening("convolution", stage.carries, stage.writes), *_convolution(stage), "  }"]
        case Chunk(form=form):
            parts = [("shared", form.shared), ("rows", form.rows), ("columns", form.columns)]
            split = ", ".join(f"{name} [{', '.join(dims)}]" for name, dims in parts if dims)
            head = _opening("chunk", stage.carries, stage.writes)
            return [head, f"    {split}", *_body(stage.body), "  }"]
        case JointChunk(parts=parts):
            inner = [f"  {line}" for part in parts for line in _stage(part)]
            return [_opening("joint", (), stage.writes), *inner, "  }"]
        case Frozen(held=held, inside=inside):
            place = "t" if stage.start is None else f"(t + {_read_name(stage.start)})"
            when = f"    at {place} mod {stage.spelled} = {stage.first}:"
            taken = [f"    {_read_name(h)} takes over {_read_name(s)}[t-1]" for h, s in held]
            inner = [f"  {line}" for part in inside.stages for line in _stage(part)]
            return [_opening("frozen", stage.carries, stage.writes), when, *taken, *inner, "  }"]


def _opening(kind: str, carries: Sequence[Carry], writes: Sequence[str]) -> str:
    carried = f" carries {', '.join(f'{c.name}: {_type(c.dtype, c.dims)}' for c in carries)};" if carries else ""
    return f"  {kind}{carried} writes {', '.join(writes) or 'nothing'} {{"


def _body(body: Sequence[Equation], indent: int = 4) -> list[str]:
    return [line for equation in body for line in _equation(equation, indent)]


def _convolution(stage: Convolution) -> list[str]:
    lines = [f"    sources {', '.join(_read_name(s) for s in stage.sources) or 'none'}"]
    dims = (("lanes", stage.lanes), ("blocks", stage.blocks))
    lines += [f"    {what} {', '.join(names)}" for what, names in dims if names]
    parts = (("steady", stage.steady), ("enter", stage.enter), ("step", stage.step), ("reads", stage.reads))
    for what, body in parts:
        lines += [f"    {what} {{", *_body(body, 6), "    }"] if body else []
    return lines


def _scan(stage: Scan) -> list[str]:
    monoid = stage.monoid
    lines = ["    pre {", *_body(stage.pre, 6), "    }"] if stage.pre else []
    lines.append(f"    monoid {monoid.cls} {{")
    for component, unit in zip(monoid.components, monoid.identity, strict=True):
        lines += _statement(
            f"component {component.name}: {_type(component.dtype, component.dims)}", "identity", unit, 6
        )
    for part, exprs in (("lift", monoid.lift), ("combine", monoid.combine)):
        for component, expr in zip(monoid.components, exprs, strict=True):
            lines += _statement(f"{part} {component.name}", "=", expr, 6)
    for state, expr in zip(monoid.states, monoid.apply, strict=True):
        lines += _statement(f"apply {state}", "=", expr, 6)
    lines.append("    }")
    return lines + (["    post {", *_body(stage.post, 6), "    }"] if stage.post else [])
