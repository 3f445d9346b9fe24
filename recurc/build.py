"""Typed constructors for the IR nodes that change shape. Both front ends and all passes build through these and
`recurc.ops.apply`, so equal programs give equal trees. Each raises `ops.TypeProblem` when dims do not fit."""

from __future__ import annotations

from collections.abc import Sequence

from recurc.ir import Apply, Broadcast, Const, Contract, Expr, Gather, Iota, Linalg, Reaxis, Reduce, Size, Unfold
from recurc.ops import TypeProblem, align, apply, convert, number
from recurc.source import Span
from recurc.types import Dims, DType, Kind, common_dtype, literal_size, show_dims

REDUCTIONS = ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin")


def reduce(op: str, arg: Expr, over: Sequence[str] = (), span: Span | None = None) -> Expr:
    """`op` over the named dims (all of them if none is named). Shape: `arg.dims` without `over`."""
    over = tuple(over) or arg.dims
    for dim in over:
        if dim not in arg.dims:
            raise TypeProblem(
                "E0314",
                f"{op} over {dim}, but the value is {show_dims(arg.dims)}",
                f"reduce over one of {show_dims(arg.dims)}"
                if arg.dims
                else f"a scalar has no dims to reduce; for the size of {dim} as a number, write `{dim} + 0`",
            )
        if arg.dims.count(dim) > 1:
            raise TypeProblem(
                "E0313", f"{dim} appears twice in {show_dims(arg.dims)}: which one?", "rename one with `as [..]`"
            )
    if not over:
        return arg
    if op in ("any", "all") and arg.dtype.kind is not Kind.BOOL:
        raise TypeProblem("E0320", f"`{op}` takes truth values")
    if op not in ("any", "all") and arg.dtype.kind is Kind.BOOL:
        arg = convert(arg, DType.I64)
    if op in ("max", "min", "argmax", "argmin") and arg.dtype.kind is Kind.COMPLEX:
        raise TypeProblem("E0320", f"`{op}` needs an order; complex numbers have none")
    dtype = DType.I64 if op.startswith("arg") else arg.dtype
    if op.startswith("arg") and len(over) > 1:
        raise TypeProblem("E0314", f"{op} is over one dim at a time, got {show_dims(tuple(over))}")
    return Reduce(op, arg, over, tuple(d for d in arg.dims if d not in over), dtype, span)


def mean(arg: Expr, over: Sequence[str] = (), span: Span | None = None) -> Expr:
    over = tuple(over) or arg.dims
    total = reduce("sum", convert(arg, DType.REAL) if arg.dtype.kind in (Kind.INT, Kind.BOOL) else arg, over, span)
    for dim in over:
        size = literal_size(dim)
        total = apply(
            "div",
            total,
            Const(float(size), DType.REAL) if size is not None else convert(Size(dim), DType.REAL),
            span=span,
        )
    return total


def norm(arg: Expr, over: Sequence[str] = (), span: Span | None = None) -> Expr:
    """The Euclidean norm over the named dims."""
    return apply("sqrt", reduce("sum", apply("mul", arg, arg, span=span), over, span), span=span)


def softmax(arg: Expr, over: Sequence[str] = (), span: Span | None = None) -> Expr:
    """exp(x - max x) / sum, over the named dims; keeps the shape of `arg`."""
    weights = apply("exp", apply("sub", arg, reduce("max", arg, over, span), span=span), span=span)
    return apply("div", weights, reduce("sum", weights, over, span), span=span)


def logsumexp(arg: Expr, over: Sequence[str] = (), span: Span | None = None) -> Expr:
    """log sum exp, shifted by the maximum."""
    top = reduce("max", arg, over, span)
    weights = apply("exp", apply("sub", arg, top, span=span), span=span)
    return apply("add", top, apply("log", reduce("sum", weights, over, span), span=span), span=span)


def l2norm(arg: Expr, over: Sequence[str] = (), eps: float = 1e-6, span: Span | None = None) -> Expr:
    """x / sqrt(sum x^2 + eps)."""
    square = reduce("sum", apply("mul", arg, arg, span=span), over, span)
    return apply("mul", arg, apply("rsqrt", apply("add", square, number(eps), span=span), span=span), span=span)


def rmsnorm(arg: Expr, over: Sequence[str] = (), eps: float = 1e-6, span: Span | None = None) -> Expr:
    """x / sqrt(mean x^2 + eps)."""
    square = mean(apply("mul", arg, arg, span=span), over, span)
    return apply("mul", arg, apply("rsqrt", apply("add", square, number(eps), span=span), span=span), span=span)


def layernorm(arg: Expr, over: Sequence[str] = (), eps: float = 1e-6, span: Span | None = None) -> Expr:
    """(x - mean) / sqrt(var + eps)."""
    centred = apply("sub", arg, mean(arg, over, span), span=span)
    return rmsnorm(centred, over, eps, span)


def matmul(left: Expr, right: Expr, span: Span | None = None) -> Contract:
    """`A @ B`: contract the last dim of A with the first dim of that name in B; other shared names are batch dims.

    Shape: A's remaining dims in order, then B's new ones. `U[H, H] @ h[H]` is `[H]`."""
    if not left.dims or not right.dims:
        raise TypeProblem(
            "E0311",
            f"`@` needs dims on both sides, got {show_dims(left.dims)} @ {show_dims(right.dims)}",
            "use `*` for scalars",
        )
    summed = left.dims[-1]
    if summed not in right.dims:
        raise TypeProblem(
            "E0312",
            f"dims do not match: `@` sums over {summed}, the last dim of {show_dims(left.dims)}, "
            f"which {show_dims(right.dims)} does not have",
            f"the right side needs a dim {summed}, or transpose the left side with `.T`",
        )
    return contract(left, right, len(left.dims) - 1, right.dims.index(summed), span)


def contract(left: Expr, right: Expr, left_axis: int, right_axis: int, span: Span | None = None) -> Contract:
    """Sum over one axis of each; other equal names are batch axes."""
    summed = left.dims[left_axis]
    left_labels = tuple(range(len(left.dims)))
    fresh = len(left.dims)
    right_labels: list[int] = []
    for axis, dim in enumerate(right.dims):
        if axis == right_axis:
            right_labels.append(left_axis)
        elif dim != summed and dim in left.dims:
            if left.dims.count(dim) > 1 or right.dims.count(dim) > 1:
                raise TypeProblem(
                    "E0313", f"{dim} appears twice, so it cannot be a batch dim of `@`", "rename one with `as [..]`"
                )
            right_labels.append(left.dims.index(dim))
        else:
            right_labels.append(fresh)
            fresh += 1
    out = [i for i in left_labels if i != left_axis] + [i for i in right_labels if i >= len(left.dims)]
    names = dict(zip((*left_labels, *right_labels), left.dims + right.dims, strict=True))
    dtype = common_dtype(left.dtype, right.dtype)
    if dtype.kind is Kind.BOOL:
        raise TypeProblem("E0320", "`@` takes numbers, got truth values")
    return Contract(
        convert(left, dtype),
        convert(right, dtype),
        left_labels,
        tuple(right_labels),
        tuple(out),
        tuple(names[i] for i in out),
        dtype,
        span,
    )


def einsum(left: Expr, right: Expr, a: str, b: str, out: str = "", span: Span | None = None) -> Contract:
    """`einsum(A, B, ij, jk, ik)`: products of two values, summed over the letters that `out` lacks. A letter stands for
    an axis by its position, so dims that repeat can be told apart; an axis both have needs one name.

    Shape: one dim for each letter of `out`."""
    help = "one letter for each dim: `einsum(A, B, ij, jk, ik)`"
    names: dict[str, str] = {}
    for letters, arg in ((a, left), (b, right)):
        if len(letters) != len(arg.dims) or not arg.dims:
            raise TypeProblem("E0319", f"`{letters}` does not fit a value that is {show_dims(arg.dims)}", help)
        if len(set(letters)) < len(letters):
            raise TypeProblem("E0319", f"`{letters}` names an axis twice", help)
        for letter, dim in zip(letters, arg.dims, strict=True):
            if names.setdefault(letter, dim) != dim:
                raise TypeProblem(
                    "E0319", f"`{letter}` stands for {names[letter]} and for {dim}", "rename one of them with `as [..]`"
                )
    if len(set(out)) < len(out) or not set(out) <= set(names):
        raise TypeProblem("E0319", f"the letters of the result, `{out}`, are those of the values, once each", help)
    dtype = common_dtype(left.dtype, right.dtype)
    if dtype.kind is Kind.BOOL:
        raise TypeProblem("E0320", "`einsum` takes numbers, got truth values")
    labels = {letter: i for i, letter in enumerate(names)}
    one, two, kept = (tuple(labels[letter] for letter in letters) for letters in (a, b, out))
    dims = tuple(names[letter] for letter in out)
    return Contract(convert(left, dtype), convert(right, dtype), one, two, kept, dims, dtype, span)


def outer(left: Expr, right: Expr, span: Span | None = None) -> Contract:
    """`outer(a, b)`: all products, also of two vectors over one dim; shape `a.dims + b.dims`."""
    dtype = common_dtype(left.dtype, right.dtype)
    n = len(left.dims)
    out = tuple(range(n + len(right.dims)))
    return Contract(
        convert(left, dtype), convert(right, dtype), out[:n], out[n:], out, left.dims + right.dims, dtype, span
    )


def transpose(arg: Expr, span: Span | None = None) -> Reaxis:
    """`A.T`: the last two dims swapped."""
    if len(arg.dims) < 2:
        raise TypeProblem("E0315", f"`.T` swaps the last two dims, but the value is {show_dims(arg.dims)}")
    axes = (*range(len(arg.dims) - 2), len(arg.dims) - 1, len(arg.dims) - 2)
    return Reaxis(arg, axes, tuple(arg.dims[i] for i in axes), arg.dtype, span=span)


def permute(arg: Expr, dims: Dims, span: Span | None = None) -> Reaxis:
    """The same value with its dims, which must be distinct, in the order `dims`."""
    if sorted(arg.dims) != sorted(dims) or len(set(dims)) < len(dims):
        raise TypeProblem("E0318", f"{show_dims(arg.dims)} cannot be put in the order {show_dims(dims)}")
    return Reaxis(arg, tuple(arg.dims.index(d) for d in dims), dims, arg.dtype, span=span)


def rename(arg: Expr, dims: Dims, span: Span | None = None) -> Expr:
    """`e as [R, ...]`: the same axes under new names (the sizes must agree; checked when they are known)."""
    if len(dims) != len(arg.dims):
        raise TypeProblem(
            "E0316", f"`as` gives {len(dims)} dims to a value with {len(arg.dims)}: {show_dims(arg.dims)}"
        )
    return arg if dims == arg.dims else Reaxis(arg, tuple(range(len(dims))), dims, arg.dtype, span=span)


def unpack(arg: Expr, count: int, span: Span | None = None) -> list[Reaxis]:
    """The `count` slices along a leading literal dim."""
    if not arg.dims or literal_size(arg.dims[0]) != count:
        raise TypeProblem(
            "E0317",
            f"{count} names need a value whose first dim is the literal {count}, got {show_dims(arg.dims)}",
            "the leading dim must be written as a number, e.g. `W[4, H, D]`",
        )
    rest = tuple(range(1, len(arg.dims)))
    return [Reaxis(arg, rest, arg.dims[1:], arg.dtype, at=0, index=i, span=span) for i in range(count)]


def index(dim: str, span: Span | None = None) -> Iota:
    """`index(D)`: 0, 1, ..., D - 1 along D; shape `[D]`."""
    return Iota((dim,), span)


def broadcast(arg: Expr, dims: Dims, span: Span | None = None) -> Expr:
    """`arg` with exactly the dims `dims`, repeated along those it lacks."""
    if len(set(dims)) < len(dims) or not set(arg.dims) <= set(dims) or len(set(arg.dims)) < len(arg.dims):
        raise TypeProblem("E0318", f"{show_dims(arg.dims)} cannot be repeated to {show_dims(dims)}")
    return arg if arg.dims == dims else Broadcast(arg, dims, arg.dtype, span)


def repeat(arg: Expr, dims: Sequence[str], span: Span | None = None) -> Expr:
    """`broadcast(e, D, N)`: `e` repeated along those of the named dims that it lacks. Shape: `arg.dims`, then the new
    ones; in the order they are named if they are all named."""
    named = tuple(dict.fromkeys(dims))
    if len(named) < len(dims):
        raise TypeProblem("E0314", "`broadcast` names a dim twice", "name each dim once")
    new = tuple(d for d in named if d not in arg.dims)
    wanted = named if set(arg.dims) <= set(named) else arg.dims + new
    return permute(arg, wanted, span) if not new and wanted != arg.dims else broadcast(arg, wanted, span)


def gather(arg: Expr, axis: int, place: Expr, span: Span | None = None) -> Gather:
    """The element of `arg` at the integer `place` along one axis; a place outside means the nearest end.

    Shape: the remaining dims of `arg` in order, then the new ones of `place`; a shared name is a batch dim."""
    if place.dtype.kind is not Kind.INT:
        raise TypeProblem("E0320", "a place along a dim is an integer", "convert it: `cast(e, int)`")
    rest = arg.dims[:axis] + arg.dims[axis + 1 :]
    return Gather(arg, axis, place, align([rest, place.dims]), arg.dtype, span)


def lookup(table: Expr, *places: Expr, span: Span | None = None) -> Expr:
    """`lookup(table, i, j, ...)`: the element of `table` at the places along its leading dims."""
    if len(places) > len(table.dims):
        raise TypeProblem("E0315", f"{len(places)} places for a table that is {show_dims(table.dims)}")
    for at, place in enumerate(places):
        # what an earlier place brought lies behind the table's own dims, so the next one of these is in front
        rank = len(places) - at
        if len(table.dims) < rank:
            raise TypeProblem("E0315", f"{len(places)} places for a table that is {show_dims(table.dims)}")
        table = gather(table, 0, place, span)
    return table


def one_hot(place: Expr, dim: str, span: Span | None = None) -> Expr:
    """`one_hot(i, N)`: 1 at place i along N, 0 elsewhere; shape `i.dims + [N]`."""
    if place.dtype.kind is not Kind.INT:
        raise TypeProblem("E0320", "`one_hot` takes an integer", "convert it: `cast(e, int)`")
    hit = apply("eq", place, index(dim, span), span=span)
    return apply("select", hit, Const(1.0, DType.REAL), Const(0.0, DType.REAL), span=span)


def choose(condition: Expr, yes: Expr, no: Expr, dims: Dims, span: Span | None = None) -> Expr:
    """`if condition then yes else no` with exactly the dims `dims`, in that order; the condition is a scalar."""
    made = apply("select", condition, yes, no, span=span)
    if made.dims == dims:
        return made
    return apply("select", condition, broadcast(yes, dims, span), broadcast(no, dims, span), span=span)


def below(arg: Expr, bound: str, span: Span | None = None) -> Expr:
    """The integer `arg` modulo the size of the dim `bound`, as an `int(Q)` is; `arg` itself if it is that already."""
    literal = literal_size(bound)
    size = Size(bound, span) if literal is None else Const(literal, DType.I64, span)
    if isinstance(arg, Const) and arg.dtype.kind is Kind.INT and 0 <= int(str(arg.value)) < (literal or 1):
        return arg
    if isinstance(arg, Apply) and arg.op == "mod" and arg.args[1] == size:
        return arg
    return apply("mod", arg, size, span=span)


# What a step of a filter takes, and over which dims: the state's N and the observation's M.
FILTERS = {
    "kalman_mean": {"m": "N", "P": "NN", "z": "M", "F": "NN", "H": "MN", "Q": "NN", "R": "MM"},
    "kalman_covariance": {"P": "NN", "F": "NN", "H": "MN", "Q": "NN", "R": "MM"},
}
LINALG = {
    "eye": 0, "inv": 1, "solve": 2, "cholesky": 1, "phi1": 1, "dphi1": 2, "kalman_mean": 7, "kalman_covariance": 5,
}  # operands  # fmt: skip


def eye(dim: str, span: Span | None = None) -> Linalg:
    """`eye(N)`: the identity matrix; shape `[N, N]`."""
    return Linalg("eye", (), (dim, dim), DType.REAL, span)


def linalg(op: str, *args: Expr, span: Span | None = None) -> Linalg:
    """`inv(A)`, `solve(A, b)`, `cholesky(A)`, `phi1(A)`, `dphi1(A, E)` on the last two dims of A (real numbers).

    Shape: that of A with its last two dims swapped for `inv` (rows of A^-1 are columns of A), that of A for `cholesky`,
    `phi1` and `dphi1`, whose E has the dims of A; for `solve` that of b with A's rows replaced by A's columns."""
    if len(args) != LINALG[op]:
        raise TypeProblem("E0306", f"{op} takes {LINALG[op]} operand{'s' * (LINALG[op] != 1)}, got {len(args)}")
    if op in FILTERS:
        return _filter(op, args, span)
    a = args[0]
    if len(a.dims) < 2:
        raise TypeProblem("E0315", f"`{op}` takes a matrix, but the value is {show_dims(a.dims)}")
    if any(x.dtype.kind is Kind.COMPLEX for x in args):
        raise TypeProblem("E0320", f"`{op}` takes real numbers, got complex numbers")
    if any(x.dtype.kind is Kind.BOOL for x in args):
        raise TypeProblem("E0320", f"`{op}` takes numbers, got truth values")
    *batch, rows, columns = a.dims
    if rows in batch or columns in batch or len(set(batch)) < len(batch):
        raise TypeProblem(
            "E0313", f"{show_dims(a.dims)} repeats a dim beside the matrix", "rename one of them with `as [..]`"
        )
    one, two = literal_size(rows), literal_size(columns)
    if one is not None and two is not None and one != two:
        raise TypeProblem("E0315", f"`{op}` takes a square matrix, but the last two dims are {show_dims(a.dims[-2:])}")
    dtype = common_dtype(*(x.dtype for x in args))
    dtype = DType.REAL if dtype.kind is Kind.INT else dtype
    operands = tuple(convert(x, dtype) for x in args)
    if op == "inv":
        return Linalg(op, operands, (*batch, columns, rows), dtype, span)
    if op == "dphi1" and args[1].dims != a.dims:
        message = f"`dphi1` takes two values of the same dims, got {show_dims(a.dims)} and {show_dims(args[1].dims)}"
        raise TypeProblem("E0312", message)
    if op != "solve":
        return Linalg(op, operands, a.dims, dtype, span)
    b = args[1].dims
    if rows not in b:
        raise TypeProblem(
            "E0312",
            f"dims do not match: `solve` needs the rows of the matrix, {rows}, in the right side, which is "
            f"{show_dims(b)}",
        )
    if len(set(b)) < len(b) and b.count(rows) > 1:
        raise TypeProblem("E0313", f"{rows} appears twice in {show_dims(b)}", "rename one with `as [..]`")
    solved = tuple(columns if d == rows else d for d in b)
    if len(set(solved)) < len(solved):
        raise TypeProblem("E0313", f"{columns} appears twice in the solution", "rename one with `as [..]`")
    missing = tuple(d for d in batch if d not in b)
    return Linalg(op, operands, missing + solved, dtype, span)


def _filter(op: str, args: tuple[Expr, ...], span: Span | None) -> Linalg:
    """`kalman_mean(m, P, z, F, H, Q, R)`, shape `[N]`, and `kalman_covariance(P, F, H, Q, R)`, shape `[N, N]`: one step
    of a Kalman filter, with the dims of `FILTERS`."""
    takes = FILTERS[op]
    shown = ", ".join(f"{name}[{', '.join(dims)}]" for name, dims in takes.items())
    given, help = dict(zip(takes, args, strict=True)), f"its values are {shown}"
    known: dict[str, tuple[str, str]] = {}  # the dims that N and M are, and of what
    for name, arg in given.items():
        if arg.dtype.kind not in (Kind.REAL, Kind.INT):
            raise TypeProblem("E0320", f"`{op}` takes real numbers, but {name} is {arg.dtype.value}")
        if len(arg.dims) != len(takes[name]):
            what = "a vector" if len(takes[name]) == 1 else "a matrix"
            raise TypeProblem("E0315", f"`{op}` takes {what} as {name}, but the value is {show_dims(arg.dims)}", help)
        for letter, dim in zip(takes[name], arg.dims, strict=True):
            first, of = known.setdefault(letter, (dim, name))
            if first != dim:
                wanted = show_dims(tuple(known.get(d, (d, ""))[0] for d in takes[name]))
                text = f"dims do not match: {name} of `{op}` is {wanted} beside {of}, but the value is"
                raise TypeProblem("E0312", f"{text} {show_dims(arg.dims)}", help)
    dtype = common_dtype(*(x.dtype for x in args))
    dtype = DType.REAL if dtype.kind is Kind.INT else dtype
    return Linalg(op, tuple(convert(x, dtype) for x in args), args[0].dims, dtype, span)


def unfold(
    arg: Expr, over: Sequence[str], taps: Dims, forward: bool = True, wrap: bool = False, span: Span | None = None
) -> Unfold:
    """The neighbours of every place along the dims `over` (see `ir.Unfold`); shape: `arg.dims + taps`."""
    for dim in over:
        if arg.dims.count(dim) != 1:
            raise TypeProblem("E0314", f"a convolution over {dim}, but the value is {show_dims(arg.dims)}")
    if len(taps) != len(over) or len(set(over)) < len(over):
        raise TypeProblem("E0315", f"{len(over)} dims to look along, and {len(taps)} for what is found there")
    if not arg.dims or arg.dtype.kind is Kind.BOOL:
        raise TypeProblem("E0320", "only numbers over dims have neighbours")
    axes = tuple(arg.dims.index(d) for d in over)
    return Unfold(arg, axes, taps, forward, wrap, arg.dims + taps, arg.dtype, span)


def conv(weight: Expr, value: Expr, over: Sequence[str], circular: bool = False, span: Span | None = None) -> Expr:
    """`conv(w, x, X, Y)`: weighted neighbours along named dims of x, which keep their sizes ('same' padding by zeros).

    The last dims of w are the taps, one for each dim of `over`, centred: tap k of n meets place i + k - n // 2 (a
    correlation, as in neural networks). The dim of w before the taps, if there is one, is summed with the dim of that
    name in x, like the last dim of `A` in `A @ B`; other shared names are batch dims.
    `circular_conv(w, x, N)` wraps around, and is a convolution: tap k meets place i - k + n // 2.
    Shape: the remaining dims of w, then those of x that are new."""
    n, name = len(over), "circular_conv" if circular else "conv"
    if not n or len(weight.dims) < n:
        raise TypeProblem(
            "E0315",
            f"`{name}` over {n} dim{'s' * (n != 1)} needs weights that end with as many dims of taps; they are "
            f"{show_dims(weight.dims)}",
        )
    taps, head = weight.dims[-n:], weight.dims[:-n]
    if head and head[-1] not in value.dims:
        raise TypeProblem(
            "E0312",
            f"dims do not match: `{name}` sums over {head[-1]}, the dim before the taps of {show_dims(weight.dims)}, "
            f"which {show_dims(value.dims)} does not have",
        )
    dtype = common_dtype(weight.dtype, value.dtype)
    if dtype.kind is Kind.BOOL:
        raise TypeProblem("E0320", f"`{name}` takes numbers, got truth values")
    near = unfold(convert(value, dtype), over, taps, not circular, circular, span)
    labels = list(range(len(weight.dims)))
    summed = set(labels[len(head) :]) | ({len(head) - 1} if head else set[int]())
    fresh, right = len(labels), list[int]()
    for at, dim in enumerate(value.dims):
        if head and dim == head[-1]:
            if value.dims.index(dim) != at:
                raise TypeProblem("E0313", f"{dim} appears twice in {show_dims(value.dims)}", "rename one with `as`")
            right.append(len(head) - 1)
        elif dim in head and dim not in over:
            if head.count(dim) > 1 or value.dims.count(dim) > 1:
                raise TypeProblem("E0313", f"{dim} appears twice, so it cannot be a batch dim of `{name}`")
            right.append(head.index(dim))
        else:
            right.append(fresh)
            fresh += 1
    right += labels[len(head) :]
    out = [i for i in labels if i not in summed] + [i for i in right if i >= len(labels)]
    names = dict(zip((*labels, *right), weight.dims + near.dims, strict=True))
    dims = tuple(names[i] for i in out)
    return Contract(convert(weight, dtype), near, tuple(labels), tuple(right), tuple(out), dims, dtype, span)
