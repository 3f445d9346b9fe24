"""Steps of Kalman filters (`filtering`): kept as they are where two states are the mean and the covariance of one, and
written out everywhere else. The class KF is given to what says that it is a filter, and inferred from nothing else.

A mean and a covariance go through steps as through elements (A, b, C, eta, J), which are what is known of the state
after some steps given the state before them (Särkkä and García-Fernández 2021, "Temporal Parallelization of Bayesian
Smoothers", lemma 8):

    x | x- , z  is  N(A x- + b, C)           z | x-  is as  exp(eta^T x- - 1/2 x-^T J x-)

With E = (I + C1 J2)^-1:

    A = A2 E A1                 b = A2 E (b1 + C1 eta2) + b2              C = A2 E C1 A2^T + C2
    eta = (E A1)^T (eta2 - J2 b1) + eta1                                  J = (E A1)^T J2 A1 + J1

C and J are covariances; their symmetric parts are taken. The identity is (I, 0, 0, 0, 0), and an element is applied to
(m, P) as to what came from the element (0, m, P, 0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from recurc.facts import Component, Group, Monoid, Reason
from recurc.filtering import even, is_filter, product, solved, written_out
from recurc.ir import Apply, Contract, Equation, Expr, Linalg, Read, Recurrence, rewrite, walk
from recurc.ops import apply, number
from recurc.passes.affine import zero
from recurc.passes.algebras import NUMBERS
from recurc.passes.dependence import Dependence, dependence, topological
from recurc.passes.manager import Pass
from recurc.passes.monoid import Parts
from recurc.passes.scene import BOTH, DECIDED, Scene
from recurc.passes.sharing import share
from recurc.passes.star import flipped, matrix, times, unit, view
from recurc.passes.star import solved as inverted
from recurc.passes.verify import used_names
from recurc.types import Dims, second


@dataclass(frozen=True)
class Filter:
    """The states of a filter: its covariance and, if there is one, its mean; the step they take, and the condition
    under which they take it (None: always), else they stay as they are."""

    covariance: str
    step: Linalg
    mean: str | None = None
    observed: Expr | None = None
    taken: Expr | None = None

    @property
    def states(self) -> tuple[str, ...]:
        return (self.covariance,) if self.mean is None else (self.mean, self.covariance)


def filters(rec: Recurrence, dep: Dependence | None = None) -> list[Filter]:
    """The filters of `rec`: states whose equation is a step from themselves, with everything else free of them."""
    if not any(is_filter(n) for e in rec.equations for n in walk(e.expr)):
        return []
    dep = dep or dependence(rec)
    steps = {s.name: found for s in rec.states for e in rec.equations if e.name == s.name and (found := _step(e))}
    made: list[Filter] = []
    for name, (step, taken) in steps.items():
        if step.op != "kalman_covariance" or not _is_old(step.args[0], name):
            continue
        if _free(dep, (*step.args[1:], taken), {name}):
            made.append(Filter(name, step, taken=taken))
    for name, (step, taken) in steps.items():
        for at, found in enumerate(made):
            own = step.op == "kalman_mean" and _is_old(step.args[0], name) and _is_old(step.args[1], found.covariance)
            alike = own and found.mean is None and (step.args[3:], taken) == (found.step.args[1:], found.taken)
            if alike and _free(dep, (*step.args[2:], taken), {name, found.covariance}):
                made[at] = replace(found, mean=name, observed=step.args[2])
                break
    return made


def _step(equation: Equation) -> tuple[Linalg, Expr | None] | None:
    """The step that an equation is, and the condition under which it is not the old value."""
    match equation.expr:
        case Linalg() as node if is_filter(node):
            return node, None
        case Apply(op="select", args=(condition, Linalg() as node, old)) if is_filter(node) and not condition.dims:
            return (node, condition) if _is_old(old, equation.name) else None
        case Apply(op="select", args=(condition, old, Linalg() as node)) if is_filter(node) and not condition.dims:
            return (node, apply("not", condition)) if _is_old(old, equation.name) else None
        case _:
            return None


def _is_old(expr: Expr, state: str) -> bool:
    return isinstance(expr, Read) and expr.name == state and expr.lag == 1


def _free(dep: Dependence, exprs: tuple[Expr | None, ...], states: set[str]) -> bool:
    return not any(e is not None and dep.of(e) & states for e in exprs)


# --- passes -----------------------------------------------------------------------------------------------------------


def keep_filters(rec: Recurrence) -> Recurrence:
    """`rec` with every step written out that is not the whole equation of a filter's state."""
    kept = {s for f in filters(rec) for s in f.states}
    return _written_out(rec, kept)


def without_filters(rec: Recurrence) -> Recurrence:
    """`rec` (in core form) with all steps written out, their common parts named."""
    made = _written_out(rec, set())
    if made is rec:
        return rec
    named, exprs = share([e.expr for e in made.equations], used_names(made))
    whole = [replace(e, expr=x) for e, x in zip(made.equations, exprs, strict=True)]
    return replace(made, equations=topological([*whole, *named]))


def _written_out(rec: Recurrence, kept: set[str]) -> Recurrence:
    if not any(is_filter(n) for e in rec.equations for n in walk(e.expr)):
        return rec

    def rule(node: Expr) -> Expr:
        return written_out(node) if isinstance(node, Linalg) and is_filter(node) else node

    return replace(
        rec,
        equations=tuple(e if e.name in kept else replace(e, expr=rewrite(e.expr, rule)) for e in rec.equations),
    )


FILTERS = Pass("filters", "write out the steps of filters that are not states of one", keep_filters, "core")


# --- classification ---------------------------------------------------------------------------------------------------


def filter_group(scene: Scene, found: Filter) -> Group:
    """KF: the mean and the covariance of a filter, or a covariance alone."""
    names = " and ".join(found.states)
    what = "the covariance" if found.mean is None else "the mean and the covariance"
    text = f"{names}: {what} of a Kalman filter, by {' and '.join(f'`{n}`' for n in _declared(found))}"
    reasons = [Reason(text, scene.span(found.covariance))]
    if found.taken is not None:
        reasons.append(Reason("at some steps it stays as it is", found.taken.span))
    monoid = _monoid(scene, found)
    return Group(found.states, "KF", BOTH, False, tuple(reasons), monoid, DECIDED)


def _declared(found: Filter) -> tuple[str, ...]:
    return ("kalman_covariance",) if found.mean is None else ("kalman_mean", "kalman_covariance")


@dataclass(frozen=True)
class _Element:
    """What is known of one or more steps; without a mean no b and no eta."""

    a: Expr
    c: Expr
    j: Expr
    b: Expr | None = None
    eta: Expr | None = None


def _monoid(scene: Scene, found: Filter) -> Monoid:
    step, covariance = found.step, scene.states[found.covariance]
    (n, _), dtype = covariance.dims, covariance.dtype
    square, vector = (n, second(n)), (n,)
    parts = Parts(scene.taken)
    named = {"A": parts.add("A", square, dtype)}
    if found.mean is not None:
        named["b"] = parts.add("b", vector, dtype)
    named["C"] = parts.add("C", square, dtype, "symmetric")
    if found.mean is not None:
        named["eta"] = parts.add("eta", vector, dtype)
    named["J"] = parts.add("J", square, dtype, "symmetric")

    def element(side: str) -> _Element:
        own = {k: Read(f"{side}{c.name}", 0, c.dims, dtype) for k, c in named.items()}
        return _Element(own["A"], own["C"], own["J"], own.get("b"), own.get("eta"))

    def listed(value: _Element) -> tuple[Expr, ...]:
        known = {"A": value.a, "b": value.b, "C": value.c, "eta": value.eta, "J": value.j}
        return tuple(e for k in named if (e := known[k]) is not None)

    one, nothing = unit(n, dtype), zero(dtype)
    identity = listed(_Element(one, nothing, nothing, nothing, nothing))
    lift = listed(_lifted(step, found.observed, n))
    if found.taken is not None:
        lift = tuple(apply("select", found.taken, e, i) for e, i in zip(lift, identity, strict=True))
    own = element("")
    old = matrix(even(Read(covariance.name, 1, covariance.dims, dtype)), n, n)
    before = None
    if found.mean is not None:
        before = Read(found.mean, 1, vector, scene.states[found.mean].dtype)
    state = _Element(one, old, nothing, before, nothing)
    covariance_now, mean_now = _moved(own, _meet(state, own)[1])
    new = [e for e in (mean_now, view(covariance_now, (0, 1), covariance.dims)) if e is not None]
    components: tuple[Component, ...] = tuple(parts.components)
    combine = listed(_combined(element("1."), element("2.")))
    return Monoid("KF", found.states, components, identity, lift, combine, tuple(new))


def _lifted(step: Linalg, observed: Expr | None, n: str) -> _Element:
    """The element of one step: F and Q, then z through H and R."""
    f, h, q, r = step.args[1:]
    q, r = even(q), even(r)
    seen = product(h, q)
    spread = apply("add", product(seen, h, turned=True), r)
    ahead = product(h, f)
    gain, forward = solved(spread, seen), solved(spread, ahead)  # [M, N]

    def across(left: Expr, right: Expr) -> Expr:
        """The transpose of the left, times the right."""
        out = left.dims[1], right.dims[1]
        return matrix(_contracted(left, right, out), n, n)

    def onto(left: Expr, right: Expr) -> Expr:
        return _contracted(left, right, (left.dims[1],))

    def less(value: Expr, lost: Expr) -> Expr:
        return apply("sub", matrix(value, n, n), lost)

    a, c, j = less(f, across(seen, forward)), less(q, across(seen, gain)), across(ahead, forward)
    if observed is None:
        return _Element(a, c, j)
    return _Element(a, c, j, onto(gain, observed), onto(forward, observed))


def _contracted(left: Expr, right: Expr, out: Dims) -> Expr:
    labels = (0, 2) if len(right.dims) == 2 else (0,)
    return Contract(left, right, (0, 1), labels, (1, 2) if len(out) == 2 else (1,), out, left.dtype)


@dataclass(frozen=True)
class _Met:
    """What a combination needs of two elements: E C1, E (b1 + C1 eta2)."""

    c: Expr
    b: Expr | None


def _meet(first: _Element, later: _Element) -> tuple[Expr, _Met]:
    """I + C1 J2, and what is solved for by it."""
    n = first.c.dims[0]
    between = apply("add", unit(n, first.c.dtype), _all(times(first.c, later.j)))
    if first.b is None or later.eta is None:
        return between, _Met(inverted(between, first.c), None)
    known = apply("add", first.b, _onto(first.c, later.eta))
    return between, _Met(inverted(between, first.c), inverted(between, known))


def _moved(later: _Element, met: _Met) -> tuple[Expr, Expr | None]:
    """The C and b of what comes after."""
    c = apply("add", _all(times(later.a, met.c, flipped(later.a))), later.c)
    return c, None if met.b is None or later.b is None else apply("add", _onto(later.a, met.b), later.b)


def _combined(first: _Element, later: _Element) -> _Element:
    """`later` after `first`."""
    between, met = _meet(first, later)
    ahead = inverted(between, first.a)
    c, b = _moved(later, met)
    j = apply("add", _all(times(flipped(ahead), later.j, first.a)), first.j)
    eta = None
    if first.b is not None and first.eta is not None and later.eta is not None:
        left = apply("sub", later.eta, _onto(later.j, first.b))
        eta = apply("add", _onto(flipped(ahead), left), first.eta)
    return _Element(_all(times(later.a, ahead)), _mirrored(c), _mirrored(j), b, eta)


def _onto(square: Expr, vector: Expr) -> Expr:
    """A matrix times a vector over its rows."""
    n = vector.dims[0]
    return NUMBERS.product(square, view(vector, (0,), (second(n),)), (second(n),), (n,))


def _mirrored(value: Expr) -> Expr:
    """The symmetric part of a matrix `[n, n@1]`."""
    return apply("mul", number(0.5), apply("add", value, view(value, (1, 0), value.dims)))


def _all(expr: Expr | None) -> Expr:
    assert expr is not None
    return expr


__all__ = ["FILTERS", "Filter", "filter_group", "filters", "keep_filters", "without_filters"]
