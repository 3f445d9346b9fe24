"""Operations on small matrices (`ir.Linalg`): copy the operands out, work on the copies, put the result in its place.
One thread does it alone on arrays of its own, or a block together in its memory (`matrices.cuh` has both)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from recurc.backends.base import Specialization
from recurc.backends.cuda.flatten import is_matrix_operation
from recurc.backends.cuda.scalars import arithmetic, c_type
from recurc.backends.cuda.scope import Scope, flat, product
from recurc.backends.emit.text import bare
from recurc.ir import Equation, Expr, Linalg, children, walk
from recurc.types import Dims, axis_ids

if TYPE_CHECKING:
    from recurc.backends.cuda.body import Body, Local

Each = Callable[[Sequence[tuple[str, int]]], AbstractContextManager[None]]  # loops over (variable, size) pairs
IN_REGISTERS = 4  # rows of the largest matrix one thread should work on (`matrices.cuh` unrolls up to here)


def largest_matrix(exprs: Iterable[Expr], spec: Specialization) -> int:
    """The rows of the largest matrix that the expressions invert, solve with or factor; 0 without any."""
    found = [spec.size(n.dims[-1]) for e in exprs for n in walk(e) if is_matrix_operation(n) for n in children(n)[:1]]
    return max(found, default=0)


@dataclass(frozen=True)
class _Form:
    """An operation with its sizes; places are told by the axis ids of the result. Along `lanes` a thread has one place,
    so of the columns that lie there it solves for one."""

    expr: Linalg
    spec: Specialization
    lanes: Dims = ()

    @property
    def rows(self) -> int:
        return self.spec.size(self.expr.args[0].dims[-1])

    @property
    def batch(self) -> Dims:
        return self.expr.args[0].dims[:-2]

    @property
    def _solved(self) -> int:
        """The axis of the result that solves for the columns of the matrix."""
        return self.expr.dims.index(self.expr.args[0].dims[-1])

    @property
    def inner(self) -> tuple[str, ...]:
        """The axes of the result inside one matrix: its rows, then its columns (of a solution any number of axes)."""
        ids = axis_ids(self.expr.dims)
        if self.expr.op != "solve":
            return ids[-2:]
        rest = (i for i, d in zip(ids, self.expr.dims, strict=True) if d not in self.batch and d not in self.lanes)
        return (ids[self._solved], *(i for i in rest if i != ids[self._solved]))

    @property
    def columns(self) -> int:
        return product([self.spec.size(i.partition("'")[0]) for i in self.inner[1:]])

    @property
    def arrays(self) -> tuple[tuple[str, int], ...]:
        """(word, elements) of the copies the work needs, the matrix first."""
        square = self.rows * self.rows
        match self.expr.op:
            case "cholesky":
                return (("matrix", square),)
            case "phi1":
                return ("matrix", square), ("phi", square), ("next", square)
            case "dphi1":
                return tuple((word, square) for word in ("matrix", "along", "phi", "dphi", "next"))
            case _:
                return ("matrix", square), ("right", self.rows * self.columns)

    def call(self, team: str, names: Sequence[str]) -> str:
        sizes = f"{self.rows}, {self.columns}" if self.expr.op == "solve" else f"{self.rows}"
        return f"rc_{self.expr.op}<{team}, {sizes}>({', '.join(names)});"

    @property
    def result(self) -> int:
        """Which of the arrays holds the result."""
        return {"cholesky": 0, "dphi1": 3}.get(self.expr.op, 1)


def work_bytes(equations: Sequence[Equation], spec: Specialization) -> int:
    """The memory a block needs to work on one matrix at a time."""
    sizes = [0]
    for equation in equations:
        if isinstance(equation.expr, Linalg) and is_matrix_operation(equation.expr):
            elements = sum(n for _, n in _Form(equation.expr, spec).arrays)
            sizes.append(elements * arithmetic(equation.expr.dtype, spec).itemsize)
    return max(sizes)


def alone(body: Body, expr: Linalg, value: Local) -> None:
    """Computes `expr` into `value` (declared before) in every thread by itself."""
    scope, form, kind = body.scope, _Form(expr, body.spec, body.lanes), c_type(expr.dtype, body.spec)
    names = [scope.names.fresh(f"{expr.op}@{word}") for word, _ in form.arrays]
    batch = [(scope.place(d), body.spec.size(d)) for d in form.batch if d not in body.lanes]
    each: Each = scope.unrolled if form.rows <= IN_REGISTERS else partial(_loops, scope)
    with scope.unrolled(batch), scope.block(""):
        for name, (_, elements) in zip(names, form.arrays, strict=True):
            scope.line(f"{kind} {name}[{elements}];")
        _fill(body, form, names, each)
        scope.line(form.call("rc_alone", names))
        _empty(body, form, names, value, each)


def together(body: Body, expr: Linalg, value: Local, memory: str, block: int) -> None:
    """Computes `expr` into `value` by all threads of a block, one matrix after another, in `memory`."""
    scope, form, kind = body.scope, _Form(expr, body.spec), c_type(expr.dtype, body.spec)
    names = [scope.names.fresh(f"{expr.op}@{word}") for word, _ in form.arrays]

    @contextmanager
    def dealt(sizes: Sequence[tuple[str, int]]) -> Generator[None]:
        below = product([n for _, n in sizes])
        with scope.block(f"for (int element = threadIdx.x; element < {below}; element += {block})"):
            for place, size in sizes:
                below //= size
                scope.line(f"const int {place} = element / {below} % {size};")
            yield

    with scope.block(""):
        start = 0
        for name, (_, elements) in zip(names, form.arrays, strict=True):
            scope.line(f"{kind}* const {name} = ({kind}*)({memory}) + {start};")
            start += elements
        with _loops(scope, [(scope.place(d), body.spec.size(d)) for d in form.batch]):
            _fill(body, form, names, dealt)
            scope.line("__syncthreads();")
            scope.line(form.call("rc_block", names))
            _empty(body, form, names, value, dealt)
            scope.line("__syncthreads();")


@contextmanager
def _loops(scope: Scope, sizes: Sequence[tuple[str, int]]) -> Generator[None]:
    if not sizes:
        yield
        return
    place, size = sizes[0]
    with scope.block(f"for (int {place} = 0; {place} < {size}; ++{place})"), _loops(scope, sizes[1:]):
        yield


def _fill(body: Body, form: _Form, names: Sequence[str], each: Each) -> None:
    """Copies the operands into the first arrays."""
    scope, expr, matrix = body.scope, form.expr, form.expr.args[0]
    row, column = scope.names.fresh("row@matrix"), scope.names.fresh("column@matrix")
    with each([(row, form.rows), (column, form.rows)]):
        index = [*(scope.place(d) for d in form.batch), row, column]
        for name, square in zip(names, expr.args[: 1 if expr.op == "solve" else None], strict=False):
            scope.line(f"{name}[{row} * {form.rows} + {column}] = {bare(body.scalar_at(square, index))};")
    if expr.op == "solve":
        side, ids = expr.args[1], axis_ids(expr.dims)[len(expr.dims) - len(expr.args[1].dims) :]
        axes = [(row, form.rows), *((scope.place(i), _size(body, i)) for i in form.inner[1:])]
        with each(axes):
            index = [row if d == matrix.dims[-2] else scope.place(i) for d, i in zip(side.dims, ids, strict=True)]
            target = f"{names[1]}[{flat([p for p, _ in axes], [n for _, n in axes])}]"
            scope.line(f"{target} = {bare(body.scalar_at(side, index))};")


def _empty(body: Body, form: _Form, names: Sequence[str], value: Local, each: Each) -> None:
    """Copies the result out."""
    scope = body.scope
    axes = [(scope.place(i), _size(body, i)) for i in form.inner]
    with each(axes):
        source = f"{names[form.result]}[{flat([p for p, _ in axes], [n for _, n in axes])}]"
        scope.line(f"{value.at([scope.place(i) for i in axis_ids(form.expr.dims)])} = {source};")


def _size(body: Body, axis: str) -> int:
    return body.spec.size(axis.partition("'")[0])
