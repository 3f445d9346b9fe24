"""Equations as a person writes them: `h = exp(-dt · A) · h[t-1] + dt · B · x`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

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
    Read,
    Reaxis,
    Reduce,
    Size,
    Step,
    Unfold,
    reads,
)

_INFIX = {
    "or": (1, " or "),
    "and": (2, " and "),
    "eq": (3, " == "),
    "ne": (3, " != "),
    "lt": (3, " < "),
    "le": (3, " <= "),
    "gt": (3, " > "),
    "ge": (3, " >= "),
    "add": (4, " + "),
    "sub": (4, " - "),
    "mul": (5, "·"),
    "div": (5, " / "),
    "mod": (5, " % "),
    "floordiv": (5, " // "),
    "pow": (7, "**"),
}
_TIGHT = 9


def operator(op: str) -> str:
    """An operator as it is written: `>` for `gt`, `tanh` for `tanh`."""
    return "*" if op == "mul" else _INFIX[op][1].strip() if op in _INFIX else op


def formula(expr: Expr) -> str:
    """`expr` on one line, with as few brackets as its meaning allows."""
    return _text(expr, 0)


def _text(expr: Expr, outer: int) -> str:
    text, level = _spelled(expr)
    return f"({text})" if level < outer else text


def _spelled(expr: Expr) -> tuple[str, int]:
    match expr:
        case Const(value=value):
            text = _number(value)
            return text, 6 if text.startswith("-") else _TIGHT
        case Size(dim=dim):
            return dim, _TIGHT
        case Step():
            return "t", _TIGHT
        case Read(name=name) if name.endswith("@final"):
            return f"{name.removesuffix('@final')}[T]", _TIGHT
        case Read(name=name, lag=lag):
            return (f"{name}[t-{lag}]" if lag else name), _TIGHT
        case Apply(op="select", args=(cond, yes, no)):
            return f"if {_text(cond, 1)} then {_text(yes, 1)} else {_text(no, 1)}", 0
        case Apply(op="neg", args=(arg,)):
            return f"-{_text(arg, 5)}", 5
        case Apply(op="not", args=(arg,)):
            return f"not {_text(arg, 3)}", 3
        case Apply(op="cast", args=(arg,)):
            return _spelled(arg)
        case Apply(op=op, args=(left, right)) if op in _INFIX:
            level, sign = _INFIX[op]
            lower = level + 1 if op in ("sub", "div", "mod", "floordiv", "pow") else level
            return f"{_text(left, level)}{sign}{_text(right, lower)}", level
        case Apply(op=op, args=args):
            return f"{op}({', '.join(_text(a, 0) for a in args)})", _TIGHT
        case Reduce(op=op, arg=arg, over=over):
            return f"{op}({_text(arg, 0)}, {', '.join(over)})", _TIGHT
        case Contract(left=left, right=right, left_axes=a, right_axes=b, out_axes=out):
            sign = " @ " if (set(a) | set(b)) - set(out) else " ⊗ "
            return f"{_text(left, 6)}{sign}{_text(right, 7)}", 6
        case Reaxis(arg=arg, at=at, index=index) if at is not None:
            return f"{_text(arg, _TIGHT)}[{index}]", _TIGHT
        case Reaxis(arg=arg, axes=axes) if axes == tuple(range(len(axes))):
            return _spelled(arg)
        case Reaxis(arg=arg):
            return f"{_text(arg, _TIGHT)}.T", _TIGHT
        case Iota(dims=dims):
            return f"index({dims[0]})", _TIGHT
        case Final(name=name):
            return f"{name}[T]", _TIGHT
        case Broadcast(arg=arg):
            return _spelled(arg)
        case Gather(arg=arg, index=place):
            return f"{_text(arg, _TIGHT)}[{_text(place, 0)}]", _TIGHT
        case Unfold(arg=arg, axes=axes):
            return f"near({_text(arg, 0)}, {', '.join(arg.dims[a] for a in axes)})", _TIGHT
        case Linalg(op="eye", dims=dims):
            return f"eye({dims[0]})", _TIGHT
        case Linalg(op=op, args=args):
            return f"{op}({', '.join(_text(a, 0) for a in args)})", _TIGHT


def _number(value: complex) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, complex):
        if value.imag == 0:
            return _number(value.real)
        return f"{value.imag:g}j" if value.real == 0 else f"({value:g})"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:g}"


def equation_lines(equations: Sequence[Equation], width: int = 46) -> list[str]:
    """One line per equation, all slices of one value on one (`i, f, g, o = ...`); long ones wrap at `width`."""
    slices = _slices(equations)
    unpacked = {w: parts for w, parts in slices.items() if _whole(parts)}
    elsewhere = {r.name for e in equations if _sliced(e) is None for r in reads(e.expr) if r.lag == 0}
    only_sliced = {e.name: e.expr for e in equations if e.name in slices and e.name not in elsewhere}
    spoken = {n: x for n, x in only_sliced.items() if n in unpacked or isinstance(x, Read) or len(slices[n]) == 1}
    lines: list[str] = []
    for e in equations:
        sliced = _sliced(e)
        if e.name in spoken:
            continue
        if sliced is None:
            lines += wrapped(f"{e.name} = {formula(e.expr)}", width)
        elif sliced.name not in unpacked:
            lines += wrapped(f"{e.name} = {formula(replace(e.expr, arg=spoken.get(sliced.name, sliced)))}", width)
        elif e is slices[sliced.name][0]:
            names = ", ".join(part.name for part in slices[sliced.name])
            lines += wrapped(f"{names} = {formula(spoken.get(sliced.name, sliced))}", width)
    return lines


def _sliced(e: Equation) -> Read | None:
    """The value that `e` is a slice of along its first dim, if it is nothing else."""
    match e.expr:
        case Reaxis(arg=Read(lag=0) as whole, at=0):
            return whole
        case _:
            return None


def _slices(equations: Sequence[Equation]) -> dict[str, list[Equation]]:
    """The equations that are slices, by the value they are slices of, in the order of their places in it."""
    found: dict[str, list[Equation]] = {}
    for e in equations:
        whole = _sliced(e)
        if whole is not None:
            found.setdefault(whole.name, []).append(e)
    return {name: sorted(parts, key=_place) for name, parts in found.items()}


def _place(e: Equation) -> int:
    return e.expr.index or 0 if isinstance(e.expr, Reaxis) else 0


def _whole(parts: Sequence[Equation]) -> bool:
    """Whether slices of one value are all there are of it, each once."""
    whole = _sliced(parts[0])
    return whole is not None and whole.dims[0] == str(len(parts)) and [*map(_place, parts)] == [*range(len(parts))]


def wrapped(text: str, width: int) -> list[str]:
    """`text` broken at spaces, outside the innermost brackets if possible; later lines are indented."""
    lines: list[str] = []
    while len(text) > width:
        at = _break(text, width)
        if at <= 0:
            break
        lines.append(text[:at].rstrip())
        text = "    " + text[at:].lstrip()
    return [*lines, text]


def _break(text: str, width: int) -> int:
    """Where to break: the last space before `width` at the smallest bracket depth, never right after an operator; where
    there is none, the first space behind."""
    depth, best, best_depth = 0, -1, len(text)
    start = len(text) - len(text.lstrip()) + 8
    for i, ch in enumerate(text):
        if i > width and best > 0:
            break
        depth += (ch in "([") - (ch in ")]")
        operator_before = i >= 2 and text[i - 2] == " " and not text[i - 1].isalnum()
        if ch == " " and i >= start and depth <= best_depth and not operator_before:
            best, best_depth = i, depth
    return best
