"""Linear fractional maps of matrices (class MB): the Riccati recurrences of filters and of least squares.

A matrix state is moved by P -> (A P + B)(C P + D)^-1. Such maps compose: their block matrices
[[A, B], [C, D]] multiply. Adding a free matrix, multiplying by one and inverting stay inside; so does the step of a
filter that takes in an observation, by the identity of Woodbury (and of Sherman and Morrison, for a vector h):

    P - (H P)^T (H P H^T + R)^-1 (H P) = (P^-1 + H^T R^-1 H)^-1        for a symmetric P
"""

from __future__ import annotations

from dataclasses import dataclass

from recurc.ir import Apply, Contract, Expr, Linalg, Read, Reaxis
from recurc.passes.affine import Forms, Free, reorders_only


@dataclass(frozen=True)
class MatrixFraction:
    """A value that is a linear fractional map of the old state: whether it inverts, and whether by an identity that
    takes the state to be symmetric."""

    inverts: bool = False
    symmetric: bool = False


def matrix_fraction(forms: Forms, state: str) -> MatrixFraction | None:
    """The form of `state`'s update, if it is such a map and not affine."""
    dims = next(s.dims for s in forms.rec.states if s.name == state)
    if len(dims) < 2:
        return None
    found = _Interpreter(forms, state).value(forms.equation(state))
    return found if isinstance(found, MatrixFraction) and found.inverts else None


class _Interpreter:
    def __init__(self, forms: Forms, state: str) -> None:
        self._forms, self._state = forms, state

    def value(self, expr: Expr) -> Free | MatrixFraction | None:
        if isinstance(self._forms.form(expr), Free):
            return Free(expr)
        expr = self._forms.resolved(expr)
        match expr:
            case Read(name=name, lag=lag):
                return MatrixFraction() if lag and name == self._state else None
            case Apply(op="sub", args=(a, b)) if self._takes_in(a, b):
                inner = self.value(a)
                return MatrixFraction(True, True) if isinstance(inner, MatrixFraction) else None
            case Apply(op="add" | "sub", args=args):
                return self._one([self.value(a) for a in args])
            case Apply(op="neg", args=(a,)):
                return self.value(a)
            case Apply(op="mul" | "div" as op, args=(a, b)):
                left, right = self.value(a), self.value(b)
                if isinstance(right, Free) and not b.dims:
                    return left
                return right if op == "mul" and isinstance(left, Free) and not a.dims else None
            case Apply(op="select", args=(condition, yes, no)) if isinstance(self._forms.form(condition), Free):
                branches = [self.value(yes), self.value(no)]
                made = [b for b in branches if isinstance(b, MatrixFraction)]
                both = MatrixFraction(any(b.inverts for b in made), any(b.symmetric for b in made))
                return both if len(made) == 2 else None
            case Contract(left=left, right=right):
                summed = len({*expr.left_axes, *expr.right_axes} - {*expr.out_axes})
                square = summed == 1 and len(left.dims) == len(right.dims) == len(expr.dims) == 2
                return self._one([self.value(left), self.value(right)]) if square else None
            case Linalg(op="inv", args=(a,)):
                inner = self.value(a)
                return MatrixFraction(True, inner.symmetric) if isinstance(inner, MatrixFraction) else None
            case Reaxis(arg=arg) if reorders_only(expr):
                return self.value(arg)
            case _:
                return None

    def _one(self, values: list[Free | MatrixFraction | None]) -> Free | MatrixFraction | None:
        """The only one of two values that is not free."""
        made = [v for v in values if not isinstance(v, Free)]
        return made[0] if len(made) == 1 else None

    # --- taking in an observation -----------------------------------------------------------------------------------

    def _takes_in(self, whole: Expr, lost: Expr) -> bool:
        """Whether `lost` is (H P)^T (H P H^T + R)^-1 (H P) for P = `whole`."""
        lost = self._plain(lost)
        match lost:
            case Contract(left=a, right=b):
                return self._solves(a, b, whole) or self._solves(b, a, whole)
            case Apply(op="mul", args=(a, b)):
                return self._divides(a, b, whole) or self._divides(b, a, whole)
            case _:
                return False

    def _solves(self, gain: Expr, seen: Expr, whole: Expr) -> bool:
        """`gain` = (H P H^T + R)^-1 `seen`, and `seen` = H P."""
        gain, seen = self._plain(gain), self._plain(seen)
        match gain:
            case Linalg(op="solve", args=(matrix, right)) if self._plain(right) == seen:
                row = self._observed(seen, whole)
                return row is not None and self._spread(matrix, seen, row)
            case _:
                return False

    def _divides(self, gain: Expr, seen: Expr, whole: Expr) -> bool:
        """The same for one number: `gain` = `seen` / (h . P h + c), and `seen` = P h."""
        gain, seen = self._plain(gain), self._plain(seen)
        match gain:
            case Apply(op="div", args=(above, below)) if self._plain(above) == seen:
                row = self._observed(seen, whole)
                return row is not None and self._spread(below, seen, row)
            case _:
                return False

    def _observed(self, seen: Expr, whole: Expr) -> Expr | None:
        """H, if `seen` is H P or P H with H free."""
        match seen:
            case Contract(left=left, right=right):
                for state, row in ((left, right), (right, left)):
                    if isinstance(self._forms.form(row), Free) and self._plain(state) == self._plain(whole):
                        plain = self._plain(row)
                        return plain if len(set(plain.dims)) == len(plain.dims) else None
                return None
            case _:
                return None

    def _spread(self, matrix: Expr, seen: Expr, row: Expr) -> bool:
        """Whether `matrix` is `seen` times H^T, plus something free."""
        match self._plain(matrix):
            case Apply(op="add", args=(a, b)):
                for product, noise in ((a, b), (b, a)):
                    if not isinstance(self._forms.form(noise), Free):
                        continue
                    match self._plain(product):
                        case Contract(left=left, right=right) if {self._plain(left), self._plain(right)} == {seen, row}:
                            return True
                        case _:
                            pass
                return False
            case _:
                return False

    def _plain(self, expr: Expr) -> Expr:
        """`expr` without names and other names of axes."""
        while True:
            found = self._forms.resolved(expr)
            found = found.arg if isinstance(found, Reaxis) and found.at is None else found
            if found is expr:
                return expr
            expr = found
