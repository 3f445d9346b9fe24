"""Sums over time by a library: what `passes.totals` took out of a recurrence, as products of matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recurc.passes.totals import Factor, Term, Total
from recurc.runtime import torch_ops

_TIME = -1  # labels of time and of batch dims, below those of a term
_Labels = tuple[int, ...]


def total(of: Total, values: Mapping[str, Any], batch: Sequence[int], time_first: bool, apart: bool) -> Any:
    """The sum over all steps, `(*batch, *dims)`, or with `apart` false over all sequences too, `(*dims)`; or, if `of`
    is not a sum over time, the value of each step, `(*batch, T, *dims)`, or with `time_first` `(T, *batch, *dims)`.

    `values`: by name, those of each step of that shape, params `(*batch, *dims)`; batch dims may be missing or 1. Half
    precision is summed in float32 and rounded once."""
    over = tuple(range(_TIME - len(batch), _TIME))
    kept = (over if apart else ()) if of.over_time else (_TIME, *over) if time_first else (*over, _TIME)
    found: Any = None
    for term in of.terms:
        factors = [_Operand.of(f, values[f.name], batch, time_first) for f in term.factors]
        if found is not None and _added(found, term, factors, kept):
            continue
        part = _of_term(term, factors, kept)
        found = part if found is None else found + part
    return found


class _Operand:
    """An array and the labels of its axes."""

    def __init__(self, array: Any, labels: _Labels) -> None:
        self.array, self.labels = array, labels

    @classmethod
    def of(cls, factor: Factor, array: Any, batch: Sequence[int], time_first: bool) -> _Operand:
        lead = array.ndim - len(factor.labels) - (not factor.steady)
        over = tuple(range(_TIME - len(batch), _TIME))
        if factor.steady:
            dims = array.shape[lead:]
            if all(n == 1 for n in array.shape[:lead]):
                return cls(array.reshape(dims), factor.labels)
            return cls(_spread(array, (*batch, *dims)), (*over, *factor.labels))
        if time_first:
            time, dims = array.shape[:1], array.shape[lead + 1 :]
            labels = (_TIME, *over, *factor.labels)
            array = array.reshape((*time, *(1,) * (len(batch) - lead), *array.shape[1:]))
            return cls(_spread(array, (*time, *batch, *dims)), labels)
        return cls(_spread(array, (*batch, *array.shape[lead:])), (*over, _TIME, *factor.labels))

    def ordered(self, *groups: _Labels) -> Any:
        """The array with the axes of each group in one."""
        places = [self.labels.index(label) for group in groups for label in group]
        shape = [math.prod(self.size(label) for label in group) for group in groups]
        turned = self.array.permute(places) if torch_ops.is_tensor(self.array) else self.array.transpose(places)
        return turned.reshape(shape)

    def matrices(self, shared: tuple[_Labels, ...], rows: _Labels, columns: _Labels) -> Any:
        """The array with these groups of axes. What lies side by side stays so, by a view that is turned, as far as
        possible without a copy: a library takes matrices either way, and a copy that turns them costs more than their
        product."""
        if self.labels[-1] not in rows:
            return self.ordered(*shared, rows, columns)
        turned = self.ordered(*shared, columns, rows)
        return turned.mT if torch_ops.is_tensor(turned) else turned.swapaxes(-1, -2)

    def size(self, label: int) -> int:
        return int(self.array.shape[self.labels.index(label)])


def _spread(array: Any, shape: Sequence[int]) -> Any:
    """`array` repeated along batch dims that it lacks, without a copy."""
    if tuple(array.shape) == tuple(shape):
        return array
    return array.expand(*shape) if torch_ops.is_tensor(array) else np.broadcast_to(array, shape)


def _of_term(term: Term, factors: Sequence[_Operand], kept: _Labels) -> Any:
    out = (*kept, *term.out)
    like = factors[0].array.dtype
    wide = not torch_ops.is_tensor(factors[0].array) and like.itemsize < 4
    if wide:
        for factor in factors:
            factor.array = factor.array.astype(np.float32)
    found: Any = _sum(factors[0], out) if len(factors) == 1 else _product(factors[0], factors[1], out)
    if term.number != 1:
        found = found * term.number
    return found.astype(like) if wide else found


def _added(found: Any, term: Term, factors: Sequence[_Operand], kept: _Labels) -> bool:
    """Adds a further product where the sum so far lies, if a library can and nobody watches."""
    if len(factors) != 2 or term.number != 1 or not torch_ops.may_overwrite(found):
        return False
    left, right = factors
    out = (*kept, *term.out)
    shared, rows, columns, summed = _roles(left, right, out)
    if shared or out != (*rows, *columns):
        return False
    matrix = found.view(math.prod(map(left.size, rows)), math.prod(map(right.size, columns)))
    matrix.addmm_(left.matrices((), rows, summed), right.matrices((), summed, columns))
    return True


def _sum(value: _Operand, out: _Labels) -> Any:
    over = tuple(i for i, label in enumerate(value.labels) if label not in out)
    left = _Operand(value.array.sum(over), tuple(label for label in value.labels if label in out))
    return left.ordered(*((label,) for label in out))


def _roles(left: _Operand, right: _Operand, out: _Labels) -> tuple[_Labels, _Labels, _Labels, _Labels]:
    """Labels that both have and the result keeps, those of the rows and of the columns, and what is summed."""
    shared = tuple(label for label in out if label in left.labels and label in right.labels)
    rows = tuple(label for label in out if label in left.labels and label not in shared)
    columns = tuple(label for label in out if label in right.labels and label not in shared)
    return shared, rows, columns, tuple(n for n in left.labels if n in right.labels and n not in shared)


def _product(left: _Operand, right: _Operand, out: _Labels) -> Any:
    """One product of matrices, for each place along what both have and the result keeps."""
    shared, rows, columns, summed = _roles(left, right, out)
    groups = (shared,) if shared else ()
    made = left.matrices(groups, rows, summed) @ right.matrices(groups, summed, columns)
    axes = (*shared, *rows, *columns)
    shape = [(left if label in left.labels else right).size(label) for label in axes]
    return _Operand(made.reshape(shape), axes).ordered(*((label,) for label in out))


__all__ = ["total"]
