"""A recurrence as `.rec` text that loads back to an equal one."""

from __future__ import annotations

import math

from recurc import build, ir, ops
from recurc.errors import UnsupportedError
from recurc.frontend.functions import FUNCTIONS
from recurc.frontend.symbols import DTYPES, RESERVED
from recurc.frontend.tokens import KEYWORDS
from recurc.types import DType, Kind, literal_size, show_dims

_SPELLING = {
    "or": ("or", 1), "and": ("and", 2), "eq": ("==", 4), "ne": ("!=", 4), "lt": ("<", 4), "le": ("<=", 4),
    "gt": (">", 4), "ge": (">=", 4), "add": ("+", 5), "sub": ("-", 5), "mul": ("*", 6), "div": ("/", 6),
    "mod": ("%", 6), "floordiv": ("//", 6), "pow": ("**", 8),
}  # fmt: skip
_CHOICE, _NOT, _SUM, _PRODUCT, _SIGN, _POWER, _POSTFIX, _ATOM = 0, 3, 5, 6, 7, 8, 9, 10
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()} | {DType.I64: "int"}
_LETTERS = "ijklmnpqrsuvwxyz"  # none of which make up a keyword
_Text = tuple[str, int]  # the text of an expression, and how tightly its outermost operator binds


def to_text(rec: ir.Recurrence) -> str:
    """`.rec` text of `rec`, in the standard layout. Raises `UnsupportedError` if something in it has no spelling."""
    from recurc.frontend.format import format_text

    lines = [f"# {line}".rstrip() for line in rec.doc.splitlines()]
    lines.append(
        f"recurrence {_identifier(rec.name)}({', '.join(_dim(d.name, d.default, d.same_as) for d in rec.dims)}):"
    )
    for item in rec.inputs:
        before = "" if item.before is None else f" = {_initial(item.before, item.dtype)}"
        lines.append(f"    input {_declared(item)}{before}")
    for param in rec.params:
        lines.append(f"    param {_declared(param)}{_initializer(param.init, param.dtype)}")
    for state in rec.states:
        initial = _initial(state.initial, state.dtype)
        lines.append(f"    state {_declared(state)} = {initial}")
    lines.append("")
    lines += [f"    {line}" for line in _equations(rec)]
    if rec.reset is not None:
        lines.append(f"    reset when {_identifier(rec.reset)}")
    lines.append(f"    output {', '.join(_identifier(o) for o in rec.outputs)}")
    return format_text("\n".join(lines) + "\n", rec.name)


def expression(expr: ir.Expr) -> str:
    """The text of one expression. Raises `UnsupportedError` if it has none."""
    return _expr(expr)[0]


def _dim(name: str, default: int | None, same_as: str | None) -> str:
    value = default if default is not None else same_as
    return _identifier(name) if value is None else f"{_identifier(name)} = {value}"


def _identifier(name: str) -> str:
    if not name.isidentifier() or name in KEYWORDS or name in RESERVED:
        raise UnsupportedError(f"`{name}` is no name that .rec text can hold")
    return name


def _declared(item: ir.Input | ir.Param | ir.State) -> str:
    shape = f"[{', '.join(item.dims)}]" if item.dims else ""
    kind = _DTYPE_NAMES[item.dtype] + ("" if item.bound is None else f"({item.bound})")
    return f"{_identifier(item.name)}{shape}" + ("" if item.dtype is DType.REAL else f": {kind}")


def _initializer(init: ir.Initializer | None, dtype: DType) -> str:
    if init is None:
        return ""
    if init.name == ir.EXPRESSION:
        return f" ~ {_initial(init.args[0], dtype)}"
    return f" ~ {init.name}" + (f"({', '.join(expression(a) for a in init.args)})" if init.args else "")


def _initial(expr: ir.Expr, dtype: DType) -> str:
    """A declared value; the declaration converts it, so a conversion on the outside need not be written."""
    for plain in _unconverted(expr):
        if ops.convert(plain, dtype) == expr:
            return expression(plain)
    return expression(expr)


def _equations(rec: ir.Recurrence) -> list[str]:
    states = {s.name: s for s in rec.states}
    lines: list[str] = []
    at = 0
    while at < len(rec.equations):
        equation = rec.equations[at]
        names = _unpacked(rec.equations, at, set(states))
        if names:
            lines.append(f"{', '.join(_identifier(n) for n in names)} = {expression(equation.expr)}")
            at += 1 + len(names)
            continue
        value = equation.expr
        if (call := _filter(rec.equations[at : at + 2])) is not None:
            lines.append(call)
            at += 2
            continue
        if equation.name in states and isinstance(value, ir.Reaxis) and _is_permutation(value):
            value = value.arg  # loading puts a state's value into the declared order by itself
        lines.append(f"{_identifier(equation.name)} = {expression(value)}")
        at += 1
    return lines


def _filter(equations: tuple[ir.Equation, ...]) -> str | None:
    """`m, P = kalman(...)`, if two equations are the mean and the covariance of one step."""
    match equations:
        case (
            ir.Equation(name=m, expr=ir.Linalg(op="kalman_mean", args=args) as mean),
            ir.Equation(name=p, expr=ir.Linalg(op="kalman_covariance") as covariance),
        ) if (args[1], *args[3:]) == covariance.args:
            names = ("", "", "", *(f"{n} = " for n in [*build.FILTERS[mean.op]][3:]))
            given = [n + expression(a) for n, a in zip(names, args, strict=True)]
            return f"{_identifier(m)}, {_identifier(p)} = kalman({', '.join(given)})"
        case _:
            return None


def _unpacked(equations: tuple[ir.Equation, ...], at: int, states: set[str]) -> list[str]:
    """The names that unpack equation `at`, if the equations after it do just that."""
    packed = equations[at]
    count = literal_size(packed.expr.dims[0]) if packed.expr.dims else None
    if count is None or count < 2 or packed.name in states:
        return []
    parts = equations[at + 1 : at + 1 + count]
    read = ir.Read(packed.name, 0, packed.expr.dims, packed.expr.dtype)
    if [p.expr for p in parts] != build.unpack(read, count):
        return []
    joined = "_".join(p.name for p in parts)
    taken = {e.name for e in equations} | states
    while joined in taken - {packed.name}:
        joined += "_"
    return [p.name for p in parts] if joined == packed.name else []


# --- expressions ---------------------------------------------------------------------------------------------------


def _expr(expr: ir.Expr) -> _Text:
    match expr:
        case ir.Const():
            return _const(expr)
        case ir.Size(dim=dim):
            return _identifier(dim), _ATOM
        case ir.Step():
            return "t", _ATOM
        case ir.Read(name=name, lag=lag):
            return (f"{_identifier(name)}[t-{lag}]", _POSTFIX) if lag else (_identifier(name), _ATOM)
        case ir.Final(name=name):
            return f"{_identifier(name)}[T]", _POSTFIX
        case ir.Apply():
            return _apply(expr)
        case ir.Reduce():
            return _reduce(expr)
        case ir.Contract():
            return _contract(expr)
        case ir.Reaxis():
            return _reaxis(expr)
        case ir.Iota(dims=(dim,)):
            return f"index({dim})", _ATOM
        case ir.Broadcast(arg=arg, dims=dims):
            return f"broadcast({', '.join([expression(arg), *dims])})", _ATOM
        case ir.Gather():
            return _gather(expr), _ATOM
        case ir.Unfold():
            return _unfold(expr), _ATOM
        case ir.Linalg(op="eye", dims=(dim, _)):
            return f"eye({dim})", _ATOM
        case ir.Linalg(op=op, args=args):
            return f"{op}({', '.join(expression(a) for a in args)})", _ATOM
        case _:
            raise UnsupportedError(f"{type(expr).__name__} has no spelling in .rec text yet")


def _at_least(text: _Text, level: int) -> str:
    return text[0] if text[1] >= level else f"({text[0]})"


def _const(expr: ir.Const) -> _Text:
    value = expr.value
    match value:
        case bool():
            return ("true" if value else "false"), _ATOM
        case complex():
            imaginary = f"{_float(abs(value.imag))}j"
            negative = math.copysign(1.0, value.imag) < 0
            if value.real == 0:
                return ("-" if negative else "") + imaginary, _SIGN if negative else _ATOM
            return f"{_float(value.real)} {'-' if negative else '+'} {imaginary}", _SUM
        case int():
            return str(value), _ATOM if value >= 0 else _SIGN
        case float():
            text = _float(value)
            return text, _SIGN if text.startswith("-") else _ATOM


def _float(value: float) -> str:
    if math.isnan(value):
        raise UnsupportedError("not-a-number has no spelling in .rec text")
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    text = repr(value)
    return text if any(c in text for c in ".e") else f"{text}.0"


def _whole(value: float) -> bool:
    """Whether an integer means the same; none is like -0.0, whose sign is that of what is divided by it."""
    return value.is_integer() and abs(value) < 2**53 and (value != 0 or math.copysign(1.0, value) > 0)


def _unconverted(expr: ir.Expr) -> list[ir.Expr]:
    """What `expr` may have been before a conversion: most readable first."""
    match expr:
        case ir.Const(value=float(value), dtype=dtype) if dtype.kind is Kind.REAL and _whole(value):
            return [ir.Const(int(value), DType.I64)]
        case ir.Const(value=float(value), dtype=dtype) if dtype.kind is Kind.REAL and not math.isnan(value):
            return [ir.Const(value, DType.REAL)]
        case ir.Const(value=complex() as value) if value.imag == 0:
            return [ir.Const(int(value.real), DType.I64) if _whole(value.real) else ir.Const(value.real, DType.REAL)]
        case ir.Apply(op="cast", args=(arg,)):
            return [arg]
        case _:
            return []


def _operands(expr: ir.Apply) -> tuple[ir.Expr, ...]:
    """The operands without the conversions that the operator makes by itself."""
    plain = tuple(next(iter(_unconverted(a)), a) for a in expr.args)
    mixed = tuple(p if isinstance(a, ir.Apply) else a for p, a in zip(plain, expr.args, strict=True))
    single = [
        tuple(p if i == j else a for j, (p, a) in enumerate(zip(plain, expr.args, strict=True)))
        for i in range(len(plain))
    ]
    for candidate in (plain, *single, mixed):
        if all(isinstance(c, ir.Const) for c in candidate):
            continue
        try:
            if ops.apply(expr.op, *candidate) == expr:
                return candidate
        except ops.TypeProblem:
            continue
    return expr.args


def _apply(expr: ir.Apply) -> _Text:
    if expr.op == "cast":
        return f"cast({expression(expr.args[0])}, {_DTYPE_NAMES[expr.dtype]})", _ATOM
    args = [_expr(a) for a in _operands(expr)]
    if expr.op in _SPELLING:
        sign, level = _SPELLING[expr.op]
        if expr.op == "pow":
            return f"{_at_least(args[0], _POSTFIX)}**{_at_least(args[1], _SIGN)}", level
        left_level = level + 1 if level == 4 else level  # comparisons do not chain
        return f"{_at_least(args[0], left_level)} {sign} {_at_least(args[1], level + 1)}", level
    match expr.op:
        case "neg":
            return f"-{_at_least(args[0], _SIGN)}", _SIGN
        case "not":
            return f"not {_at_least(args[0], _NOT)}", _NOT
        case "select":
            condition, then, other = (_at_least(a, _CHOICE + 1) for a in args)
            return f"if {condition} then {then} else {other}", _CHOICE
        case _ if expr.op in FUNCTIONS:
            return f"{expr.op}({', '.join(a[0] for a in args)})", _ATOM
        case _:
            raise UnsupportedError(f"the operator `{expr.op}` has no spelling in .rec text")


def _reduce(expr: ir.Reduce) -> _Text:
    over = expr.over
    if expr.op in ("max", "min") and any(literal_size(d) is not None for d in over):
        if over != expr.arg.dims:
            raise UnsupportedError(f"`{expr.op}` over a literal dim has no spelling in .rec text")
        over = ()
    return f"{expr.op}({', '.join([expression(expr.arg), *over])})", _ATOM


def _gather(expr: ir.Gather) -> str:
    """`lookup(table, i, j)`: places along leading axes, one after the other."""
    places: list[ir.Expr] = []
    table: ir.Expr = expr
    while isinstance(table, ir.Gather) and table.axis == 0 and len(places) < len(table.arg.dims):
        places.insert(0, table.index)
        table = table.arg
    if not places:
        raise UnsupportedError("a place along an inner axis has no spelling in .rec text")
    return f"lookup({', '.join(expression(e) for e in (table, *places))})"


def _contract(expr: ir.Contract) -> _Text:
    if isinstance(expr.right, ir.Unfold) and (text := _convolution(expr, expr.right)):
        return text, _ATOM
    left, right = _expr(expr.left), _expr(expr.right)
    for make, shown in (
        (build.matmul, (f"{_at_least(left, _PRODUCT)} @ {_at_least(right, _SIGN)}", _PRODUCT)),
        (build.outer, (f"outer({left[0]}, {right[0]})", _ATOM)),
    ):
        try:
            if make(expr.left, expr.right) == expr:
                return shown
        except ops.TypeProblem:
            continue
    a, b, out = (_letters(axes) for axes in (expr.left_axes, expr.right_axes, expr.out_axes))
    try:
        if build.einsum(expr.left, expr.right, a, b, out) == expr:
            return f"einsum({', '.join(w for w in (left[0], right[0], a, b, out) if w)})", _ATOM
    except ops.TypeProblem:
        pass
    raise UnsupportedError(
        f"a contraction of {show_dims(expr.left.dims)} with {show_dims(expr.right.dims)} has no spelling in .rec text "
        "unless it sums products of axes of the same names"
    )


def _unfold(expr: ir.Unfold) -> str:
    arg = expr.arg
    over = [arg.dims[a] for a in expr.axes]
    if any(arg.dims.count(d) > 1 for d in over):
        raise UnsupportedError(
            f"neighbours along a dim that {show_dims(arg.dims)} repeats have no spelling in .rec text"
        )
    options = ["circular = true"] * expr.wrap + ["turned = true"] * (not expr.forward)
    return f"unfold({', '.join([expression(arg), *over, *expr.taps, *options])})"


def _letters(axes: tuple[int, ...]) -> str:
    return "".join(_LETTERS[a % len(_LETTERS)] for a in axes)


def _convolution(expr: ir.Contract, near: ir.Unfold) -> str:
    """`conv(w, x, X, Y)` or `circular_conv(w, x, N)`, if `expr` is one."""
    over = tuple(near.arg.dims[axis] for axis in near.axes)
    for name, circular in (("conv", False), ("circular_conv", True)):
        try:
            if build.conv(expr.left, near.arg, over, circular) == expr:
                return f"{name}({', '.join([expression(expr.left), expression(near.arg), *over])})"
        except ops.TypeProblem:
            continue
    return ""


def _is_permutation(expr: ir.Reaxis) -> bool:
    dims = expr.arg.dims
    distinct = len(set(dims)) == len(dims) and sorted(dims) == sorted(expr.dims)
    return distinct and dims != expr.dims and build.permute(expr.arg, expr.dims) == expr


def _reaxis(expr: ir.Reaxis) -> _Text:
    arg = _expr(expr.arg)
    dims = expr.arg.dims
    if expr.index is not None:
        count = literal_size(dims[0]) if dims else None
        if expr.at == 0 and count is not None and build.unpack(expr.arg, count)[expr.index] == expr:
            return f"part({arg[0]}, {expr.index})", _ATOM
    elif len(dims) >= 2 and build.transpose(expr.arg) == expr:
        return f"{_at_least(arg, _POSTFIX)}.T", _POSTFIX
    elif build.rename(expr.arg, expr.dims) == expr:
        return f"{_at_least(arg, _POSTFIX)} as [{', '.join(expr.dims)}]", _POSTFIX
    elif _is_permutation(expr):
        return f"permute({', '.join([arg[0], *expr.dims])})", _ATOM
    raise UnsupportedError(f"this view of [{', '.join(dims)}] as [{', '.join(expr.dims)}] has no spelling in .rec text")
