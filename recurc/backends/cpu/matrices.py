"""Operations on small matrices: the operands are copied into scratch memory, a helper of the prelude works on it, and
the result is kept like any value of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from recurc.backends.emit.expr import C_TYPES
from recurc.backends.emit.nodes import Matrix, Stmt, Var, dim_of
from recurc.backends.emit.text import Text
from recurc.types import DType

if TYPE_CHECKING:
    from recurc.backends.cpu.body import Body

# matrices of scratch memory, besides the right side of `solve`
_MATRICES = {"inv": 2, "cholesky": 1, "phi1": 4, "dphi1": 8, "solve": 1}


def scratch(body: Body, stmt: Stmt, matrix: Matrix) -> tuple[str, DType, str, int]:
    """The scratch memory of an operation: its name, element type, and how many elements, as C and as a number."""
    n, others = body.spell.size(dim_of(matrix.square[0])), [body.spell.size(dim_of(v)) for v in matrix.others]
    count = f"{_MATRICES[matrix.op]} * {n} * {n}"
    extents = [body.spell.extent(dim_of(v)) for v in (matrix.square[0], *matrix.others)]
    number = _MATRICES[matrix.op] * extents[0] ** 2
    if matrix.op == "solve":
        count += " + " + " * ".join([n, *others])
        number += math.prod(extents)
    return body.spell(f"{stmt.name}@work"), body.compute(matrix.dtype), count, number


def print_matrix(body: Body, stmt: Stmt, matrix: Matrix, text: Text) -> None:
    """The operation at every place of its batch dims."""
    spell, inner = body.spell, Text()
    work, dtype, _, _ = scratch(body, stmt, matrix)
    row, column = matrix.square
    n = spell.size(dim_of(row))
    second = f"{work} + {n} * {n}"
    _fill(body, matrix, 0, (row, column), work, inner)
    result: tuple[Var, ...] = matrix.square
    found, suffix = work, dtype.value
    match matrix.op:
        case "inv":
            inner(f"rc_inv_{suffix}({n}, {work}, {second});")
            found, result = f"({second})", (column, row)
        case "solve":
            _fill(body, matrix, 1, (row, *matrix.others), f"({second})", inner)
            count = " * ".join(spell.size(dim_of(v)) for v in matrix.others) or "1"
            inner(f"rc_solve_{suffix}({n}, {count}, {work}, {second});")
            found, result = f"({second})", (column, *matrix.others)
        case "cholesky":
            inner(f"rc_cholesky_{suffix}({n}, {work});")
        case _:
            if matrix.op == "dphi1":
                _fill(body, matrix, 1, (row, column), f"({second})", inner)
            found = spell(f"{stmt.name}@found")
            inner(f"const {C_TYPES[dtype]} *{found} = rc_{matrix.op}_{suffix}({n}, {work});")
    copy = Text()
    place = spell.place(result, tuple(dim_of(v) for v in result))
    body.keep(stmt, copy, f"{found}[{place}]")
    body.loops(result, copy, inner)
    body.loops(body.program.nests[body.nest].vars, inner, text)


def _fill(body: Body, matrix: Matrix, which: int, order: tuple[Var, ...], target: str, text: Text) -> None:
    inner = Text()
    place = body.spell.place(order, tuple(dim_of(v) for v in order))
    inner(f"{target}[{place}] = {body.printer(matrix.args[which])};")
    body.loops(order, inner, text)
