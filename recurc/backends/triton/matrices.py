"""Operations on small matrices (`ir.Linalg`): a program holds the whole matrix in a tile and eliminates row by row, by
helpers of the prelude that work on two axes of a tile of any rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recurc import ir
from recurc.backends.triton.places import Place, fresh_axis
from recurc.errors import UnsupportedError
from recurc.types import axis_ids

if TYPE_CHECKING:
    from recurc.backends.triton.values import Code, Ids, TileCode

_LARGEST = 64  # rows: beyond it, the tiles of one operation do not fit the registers of a program


def linalg(code: TileCode, expr: ir.Linalg, ids: Ids) -> Code:
    """The tile of an operation's result with its axes on `ids`. Raises `UnsupportedError` for a large matrix."""
    if expr.op == "eye":
        return _identity(code, expr, ids)
    matrix = expr.args[0]
    size = code.context.size(matrix.dims[-1])
    if size > _LARGEST:
        raise UnsupportedError(f"`{expr.op}` of a matrix of {size} rows (at most {_LARGEST})")
    where = dict(zip(axis_ids(expr.dims), ids, strict=True))
    batch = tuple(where[d] for d in matrix.dims[:-2])
    if expr.op == "solve":
        return _solution(code, expr, batch, where)
    row = ids[-2] if isinstance(ids[-2], str) else fresh_axis(matrix.dims[-2], ids)
    column = ids[-1] if isinstance(ids[-1], str) else fresh_axis(matrix.dims[-1], [*ids, row])
    a = _whole(code, matrix, batch, row, column)
    if expr.op == "inv":
        unit = code.named(code.spread(_identity(code, expr, (row, column)), sorted(a.covers)), "unit")
        made = a.of(f"rc_solve({a.text}, {unit.text}, {_shape(code, row, column)})")
    elif expr.op == "dphi1":
        along = _whole(code, expr.args[1], batch, row, column)
        covers = sorted(a.covers | along.covers)
        a, along = (code.named(code.spread(v, covers), "matrix") for v in (a, along))
        made = along.of(f"rc_dphi1({a.text}, {along.text}, {_shape(code, row, column)})")
    else:
        made = a.of(f"rc_{expr.op}({a.text}, {_shape(code, row, column)})")
    return code.moved(code.named(made, expr.op), (row, column), ids[-2:], expr.dtype)


def _solution(code: TileCode, expr: ir.Linalg, batch: Ids, where: dict[str, str | int | Place]) -> Code:
    matrix, side = expr.args
    results = axis_ids(expr.dims)[len(expr.dims) - len(side.dims) :]
    target = next(where[i] for d, i in zip(side.dims, results, strict=True) if d == matrix.dims[-2])
    used = [*where.values()]
    row = target if isinstance(target, str) else fresh_axis(matrix.dims[-2], used)
    column = fresh_axis(matrix.dims[-1], [*used, row])
    a = _whole(code, matrix, batch, row, column)
    inner = tuple(row if d == matrix.dims[-2] else where[i] for d, i in zip(side.dims, results, strict=True))
    right = code.spread(code.value(side, inner), sorted((a.covers | {row}) - {column}))
    right = code.named(right, "right")
    made = right.of(f"rc_solve({a.text}, {right.text}, {_shape(code, row, column)})")
    return code.moved(code.named(made, "solution"), (row,), (target,), expr.dtype)


def _shape(code: TileCode, row: str, column: str) -> str:
    code.crossed |= {row, column}
    size = code.context.size(row.partition("'")[0])
    return f"{code.index(row)}, {code.index(column)}, {size}, {code.position(row)}, {code.position(column)}"


def _whole(code: TileCode, matrix: ir.Expr, batch: Ids, row: str, column: str) -> Code:
    """The matrix as a tile of its own, zero where an axis is padding."""
    value = code.spread(code.value(matrix, (*batch, row, column)), [row, column])
    masks = [m for a in (row, column) if (m := code.mask(a))]
    text = f"tl.where({' & '.join(masks)}, {value.text}, 0.0)" if masks else value.text
    return code.named(value.of(text), "matrix")


def _identity(code: TileCode, expr: ir.Linalg, ids: Ids) -> Code:
    row, column = ids
    zero = code.zero(expr.dtype)
    if isinstance(row, int) and isinstance(column, int):
        return code.one(expr.dtype) if row == column else zero
    covers = code.covered(row) | code.covered(column)
    return zero.of(
        f"tl.where({code.index(row)} == {code.index(column)}, {code.one(expr.dtype).text}, {zero.text})", covers
    )
