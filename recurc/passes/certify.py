"""Certificates: evidence that a lifted operator is the step it replaces.

The symbolic proof, at dims of size 2 with every value a symbol, shows four things: applying the lifted element is the
step; applying a combination is applying one element after the other, for *generic* elements (not only lifted ones, so
that the operator is closed); the operator is associative; the identity is neutral on both sides. Operators that invert
matrices are rational functions too large to write out: the laws are computed for these in exact fractions at random
points, where a polynomial of degree d that is not zero vanishes with a chance of at most d by how many numbers are
drawn from (J. T. Schwartz 1980, "Fast probabilistic algorithms for verification of polynomial identities"). The
randomised check combines long random sequences in float64 with different parenthesisations and compares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recurc.errors import UnsupportedError
from recurc.facts import Analysis, Certificate, Group, Monoid, Reason
from recurc.ir import Apply, Const, Expr, Gather, Iota, Linalg, Read, Recurrence, State, reads, rewrite, walk
from recurc.ops import apply
from recurc.passes.algebras import ordered
from recurc.passes.dependence import dependence
from recurc.passes.random_checks import SEED, is_low, moves, no_value, randomised_error
from recurc.types import Dims, DType, Kind, literal_size

if TYPE_CHECKING:
    from recurc.passes.joins import Joins, Objects
    from recurc.passes.symbolic import Evaluator

_MOST_CASES, _MOST_SIGNED = 128, 1024
_POINTS = 2  # of 2^31 numbers each: what has a degree below 2000 passes wrongly with a chance below 1e-12
_LAWS = ("is neutral", "composes", "associates")  # laws of one, two and three elements
Pattern = bool | str


def certify(rec: Recurrence, analysis: Analysis) -> Analysis:
    """`analysis` with a proof, or the next best evidence, for each lifted operator.

    An operator that fails its check loses its scan: the loop over time, which needs no operator, remains."""
    return replace(analysis, groups=tuple(_certified(rec, group) for group in analysis.groups))


def _certified(rec: Recurrence, group: Group) -> Group:
    if group.monoid is None:
        return group
    certificate = certificate_of(rec, group.monoid)
    if certificate.status == "failed":
        reason = Reason("the lifted operator failed its check, so only a loop over time is offered")
        group = replace(group, schedules=("sequential",), monoid=None, reasons=(*group.reasons, reason))
    return replace(group, certificate=certificate, parts=tuple(_certified(rec, part) for part in group.parts))


def certificate_of(rec: Recurrence, monoid: Monoid) -> Certificate:
    """A symbolic proof where SymPy settles every case, else the randomised check alone."""
    worst = randomised_error(monoid, alike={d.name: d.same_as for d in rec.dims if d.same_as is not None})
    random = f"random parenthesisations of 2 to 257 elements agree to {worst:.0e} in float64"
    if not worst < 1e-9:
        return Certificate("randomised", "failed", (f"parenthesisations differ by {worst:.0e} in float64",))
    points = _POINTS if _inverts(monoid) else 0
    failed, cases = _proved_at_points(rec, monoid) if points else _proof(rec, monoid)
    if failed:
        return Certificate("randomised", "decided", (f"not proved: {failed}", random))
    assumed = f", for symmetric {', '.join(sorted(monoid.symmetric))}" if monoid.symmetric else ""
    how = f"by exact fractions at {points} random points" if points else "by SymPy for finite values"
    details = (
        f"step = apply(lift, state){assumed}",
        "apply(combine(e1, e2), s) = apply(e2, apply(e1, s)) for generic elements",
        "combine is associative",
        "the identity is neutral on both sides",
        f"{how} at dims of size 2, in {cases} case{'s' * (cases != 1)}",
        random,
    )
    return Certificate("exact" if points else "symbolic", "proved", details)


# --- the symbolic proof -----------------------------------------------------------------------------------------------


def _proof(rec: Recurrence, monoid: Monoid) -> tuple[str, int]:
    """The first law that is not shown ("" if all are), and how many cases were looked at."""
    from recurc.passes.joins import Joins
    from recurc.passes.symbolic import Undecided

    joins = Joins()
    if _signs(monoid) and any(c.holds == "flag" for c in monoid.components):
        return "signs and resets together have too many cases", 0
    monoid, scaled = _unscaled(monoid)
    monoid = _one_spelling(rec, monoid, joins)
    laws: dict[str, Callable[[Mapping[object, bool]], bool]] = {}
    for n, old in enumerate(_beginnings(rec, monoid)):
        laws[f"the step is the lifted element applied{f', to value {n}' * bool(n)}"] = lambda assumed, old=old: (
            _step_law(rec, monoid, joins, old, assumed)
        )
    for pattern, which in _patterns(monoid):
        laws[f"generic elements, {len(laws)}"] = lambda assumed, p=pattern, which=which: _monoid_laws(
            rec, monoid, joins, p, assumed, which
        )
    if scaled:
        laws["a common factor does not count"] = lambda assumed: _scale_law(rec, monoid, scaled, joins, assumed)
    cases = 0
    for name, law in laws.items():
        pending: list[dict[object, bool]] = [{}]
        while pending:
            assumed = pending.pop()
            if cases > (_MOST_SIGNED if _signs(monoid) else _MOST_CASES):
                return "too many cases", cases
            try:
                if not law(assumed):
                    return name, cases
            except Undecided as open_question:
                pending += [{**assumed, open_question.key: truth} for truth in (True, False)]
                continue
            except UnsupportedError as refused:
                return str(refused), cases
            cases += 1
    return "", cases


def _inverts(monoid: Monoid) -> bool:
    return any(isinstance(n, Linalg) and n.op != "eye" for e in (*monoid.combine, *monoid.apply) for n in walk(e))


def _proved_at_points(rec: Recurrence, monoid: Monoid) -> tuple[str, int]:
    """As `_proof`, with numbers for all symbols."""
    from recurc.passes.joins import numbers

    cases = 0
    for point in range(_POINTS):
        with numbers(SEED + point):
            failed, found = _proof(rec, monoid)
        cases += found
        if failed:
            return failed, cases
    return "", cases


def _unscaled(monoid: Monoid) -> tuple[Monoid, tuple[str, ...]]:
    """What a proof looks at: elements of which a common factor does not count are combined without the division that
    keeps them in range. Also the components it was taken from: that the factor does not count is a law of its own."""
    scaled: list[str] = []
    scales: set[Expr] = set()

    def plain(expr: Expr) -> Expr:
        match expr:
            case Apply(op="div", args=(value, Apply(op="select", args=(above, size, Const(value=1))) as scale)) if (
                above == apply("gt", size, Const(0.0, size.dtype))
            ):
                scales.add(scale)
                return value
            case Apply(op="select", args=(condition, yes, no)):
                return replace(expr, args=(condition, yes, plain(no)))
            case _:
                return expr

    combine: list[Expr] = []
    for component, expr in zip(monoid.components, monoid.combine, strict=True):
        combine.append(plain(expr))
        scaled += [component.name] if combine[-1] != expr else []
    return (replace(monoid, combine=tuple(combine)), tuple(scaled)) if len(scales) == 1 else (monoid, ())


def _scale_law(
    rec: Recurrence, monoid: Monoid, scaled: Sequence[str], joins: Joins, assumed: Mapping[Any, bool]
) -> bool:
    """A common factor of the `scaled` components changes nothing."""
    from recurc.passes.joins import symbols
    from recurc.passes.symbolic import equal

    element = _element(monoid, "1", False)
    factor = symbols("common", (), positive=True)[()]
    larger = {n: np.asarray(v * factor, object) if n in scaled else v for n, v in element.items()}
    shapes = {s: _dims(rec, s) for s in monoid.states}
    old = _old(rec, monoid)
    once, twice = (_applied(monoid, joins, e, old, shapes, assumed) for e in (element, larger))
    return all(equal(a, b) for a, b in zip(once, twice, strict=True))


def _one_spelling(rec: Recurrence, monoid: Monoid, joins: Joins) -> Monoid:
    """`monoid` without choices between two spellings of one value (one that is safe for small states, one for large
    ones): each choice of its application whose branches are shown to be equal is made."""
    from recurc.passes.symbolic import Undecided, equal

    conditions = dict.fromkeys(
        n.args[0]
        for e in monoid.apply
        for n in walk(e)
        if isinstance(n, Apply) and n.op == "select" and any(r.lag for r in reads(n.args[0]))
    )
    shapes, old, element = {s: _dims(rec, s) for s in monoid.states}, _old(rec, monoid), _element(monoid, "1", False)
    for condition in conditions:
        made = [replace(monoid, apply=tuple(_chosen(e, condition, k) for e in monoid.apply)) for k in (1, 2)]
        try:
            yes, no = (_applied(m, joins, element, old, shapes, {}) for m in made)
        except Undecided:
            continue
        if all(equal(a, b) for a, b in zip(yes, no, strict=True)):
            monoid = made[0]
    return monoid


def _chosen(expr: Expr, condition: Expr, branch: int) -> Expr:
    def rule(node: Expr) -> Expr:
        hit = isinstance(node, Apply) and node.op == "select" and node.args[0] == condition
        return ordered(node.args[branch], node.dims) if hit and isinstance(node, Apply) else node

    return rewrite(expr, rule)


def _patterns(monoid: Monoid) -> Iterator[tuple[tuple[Pattern, ...], tuple[str, ...]]]:
    """Which of three elements hold the value their operator treats apart: factor 0, or nothing yet (-inf); the sign of
    each where that decides. With each pattern, the laws to look at."""
    signs = _signs(monoid)
    for count, law in enumerate(_LAWS if signs else ()):
        for some in itertools.product(signs, repeat=count + 1):
            yield (*some, *signs[:1] * (2 - count)), (law,)
    if signs:
        return
    apart = any(isinstance(n, Apply) and n.op == "select" for e in monoid.combine for n in walk(e))
    apart = apart or any(c.holds == "flag" for c in monoid.components)
    for some in itertools.product((False, True), repeat=3) if apart else [(False, False, False)]:
        yield some, _LAWS


def _signs(monoid: Monoid) -> tuple[Pattern, ...]:
    """The signs that its operator tells apart."""
    kinds = {"unsigned": ("positive", "zero"), "signed": ("positive", "zero", "negative")}
    return next((kinds[c.holds] for c in monoid.components if c.holds in kinds), ())


def _beginnings(rec: Recurrence, monoid: Monoid) -> list[dict[str, Objects]]:
    """Old values to look at a step from: any numbers, or, of a state with a table, each that it may have (its elements
    do not meet, so all of them may have the same)."""
    from recurc.passes.joins import algebra, size

    old = {n: _mirrored(v) if n in monoid.symmetric else v for n, v in _old(rec, monoid).items()}
    if not isinstance(monoid.identity[0], Iota):
        return [old]
    truth = next(s.dtype.kind for s in rec.states if s.name == monoid.states[0]) is Kind.BOOL
    values = [
        (algebra().true if k else algebra().false) if truth else algebra().Integer(k)
        for k in range(size(monoid.components[0].dims[-1]))
    ]
    return [{name: _filled(v, value) for name, v in old.items()} for value in values]


def _step_law(
    rec: Recurrence, monoid: Monoid, joins: Joins, old: Mapping[str, Objects], assumed: Mapping[object, bool]
) -> bool:
    from recurc.passes.symbolic import Evaluator, equal, vanishing

    equations = {e.name: e.expr for e in rec.equations}
    states = {s.name for s in rec.states}
    memo: dict[str, Objects] = {}
    dep = dependence(rec)

    def free(expr: Expr) -> bool:
        return not any(
            (r.name in monoid.states) or (not r.lag and dep.seen(r.name) & {*monoid.states}) for r in reads(expr)
        )

    def lookup(read: Read) -> Objects:
        inside = read.name in monoid.states or read.name not in states
        if read.lag == 0 and read.name in equations and inside:
            if read.name not in memo:
                memo[read.name] = evaluate(equations[read.name])
            return memo[read.name]
        if read.lag and read.name in old:
            return old[read.name]
        return _mirrored(_symbols(read)) if read.name in monoid.symmetric else _symbols(read)

    moved = any(isinstance(n, Gather) and not free(n.arg) for e in rec.equations for n in walk(e.expr))
    evaluate = Evaluator(joins, lookup, assumed, free, moved)  # by what lies where, so places have to be known
    lifted = {c.name: evaluate(e) for c, e in zip(monoid.components, monoid.lift, strict=True)}
    lifted = {
        c.name: _shaped(lifted[c.name], e.dims, c.dims) for c, e in zip(monoid.components, monoid.lift, strict=True)
    }
    if any(c.holds == "unsigned" and evaluate.any_below_zero(lifted[c.name]) for c in monoid.components):
        return True  # the ranges of operators say that this cannot be
    applied = _applied(monoid, joins, lifted, old, {s: _dims(rec, s) for s in monoid.states}, assumed)
    for state, new in zip(monoid.states, applied, strict=True):
        step = _shaped(evaluate(equations[state]), equations[state].dims, _dims(rec, state))
        if equal(step, new) or equal(joins.canonical(step), joins.canonical(new)):
            continue
        if not all(equal(step, new, known) for known in vanishing(assumed)):
            return False
    return True


def _monoid_laws(
    rec: Recurrence,
    monoid: Monoid,
    joins: Joins,
    apart: tuple[Pattern, ...],
    assumed: Mapping[object, bool],
    laws: Collection[str],
) -> bool:
    from recurc.passes.joins import size
    from recurc.passes.symbolic import Evaluator, equal, lying

    def combined(one: Mapping[str, Objects], two: Mapping[str, Objects]) -> dict[str, Objects]:
        def lookup(read: Read) -> Objects:
            which, _, name = read.name.partition(".")
            if which not in ("1", "2"):
                return _symbols(read)  # what never changes, such as a modulus
            return (one if which == "1" else two)[name]

        evaluate = Evaluator(joins, lookup, assumed, places=moves(monoid))
        parts = zip(monoid.components, monoid.combine, strict=True)
        return {c.name: _shaped(evaluate(e), e.dims, c.dims) for c, e in parts}

    e1, e2, e3 = (_element(monoid, str(i + 1), special) for i, special in enumerate(apart))
    old = {n: _alike(v) if _signs(monoid) else v for n, v in _old(rec, monoid).items()}

    def applied(element: Mapping[str, Objects], state: Mapping[str, Objects]) -> list[Objects]:
        return _applied(monoid, joins, element, state, {s: _dims(rec, s) for s in monoid.states}, assumed)

    tables = [c for c, i in zip(monoid.components, monoid.identity, strict=True) if isinstance(i, Iota)]
    known = lying(assumed, size(tables[0].dims[-1])) if tables else {}  # what stands in a table is a place in one

    def same(a: Objects, b: Objects) -> bool:
        return equal(a, b, known) or equal(joins.canonical(a), joins.canonical(b))

    if "composes" in laws:
        once = applied(combined(e1, e2), old)
        twice = applied(e2, dict(zip(monoid.states, applied(e1, old), strict=True)))
        if not all(same(a, b) for a, b in zip(once, twice, strict=True)):
            return False
    if "associates" in laws:
        left, right = combined(combined(e1, e2), e3), combined(e1, combined(e2, e3))
        if not all(same(left[n], right[n]) for n in left):
            return False
    if True in apart or "is neutral" not in laws:
        return True
    neutral: dict[str, Objects] = {}
    for component, identity in zip(monoid.components, monoid.identity, strict=True):
        constant = Evaluator(joins, _symbols, assumed)(identity)
        neutral[component.name] = _shaped(constant, identity.dims, component.dims)
    before, after = combined(neutral, e1), combined(e1, neutral)
    return all(same(before[n], e1[n]) and same(after[n], e1[n]) for n in e1)


def _applied(
    monoid: Monoid,
    joins: Joins,
    element: Mapping[str, Objects],
    old: Mapping[str, Objects],
    shapes: Mapping[str, Dims],
    assumed: Mapping[object, bool],
) -> list[Objects]:
    from recurc.passes.symbolic import Evaluator

    def lookup(read: Read) -> Objects:
        return old[read.name] if read.lag else element[read.name]

    evaluate: Evaluator = Evaluator(joins, lookup, assumed, places=moves(monoid))
    return [_shaped(evaluate(e), e.dims, shapes[s]) for s, e in zip(monoid.states, monoid.apply, strict=True)]


def _symbols(read: Read) -> Objects:
    from recurc.passes.joins import symbols

    return symbols(f"{read.name}__{read.lag}", read.dims, **_assumptions(read.dtype))


def _mirrored(value: Objects) -> Objects:
    """A symmetric matrix: what is below the diagonal is what is above it."""
    out = value.copy()
    for i, j in itertools.combinations(range(value.shape[-1]), 2):
        out[..., j, i] = out[..., i, j]
    return out


def _assumptions(dtype: DType) -> dict[str, bool]:
    return {"integer": True} if dtype.kind is Kind.INT else {"real": True}


def _old(rec: Recurrence, monoid: Monoid) -> dict[str, Objects]:
    """The old values of the states; of one that is declared below a modulus, a remainder by it."""
    states = {s.name: s for s in rec.states}

    def old(state: State, combine: Expr) -> Objects:
        value = _symbols(Read(state.name, 1, state.dims, state.dtype))
        by = combine.args[1] if isinstance(combine, Apply) and combine.op == "mod" else None
        known = isinstance(by, Const) and state.bound is not None and by.value == literal_size(state.bound)
        return _remainder(combine, value, state.dims) if known and isinstance(combine, Apply) else value

    return {s: old(states[s], monoid.combine[0]) for s in monoid.states}


def _element(monoid: Monoid, name: str, apart: Pattern) -> dict[str, Objects]:
    """Generic symbols; apart: the decisive component holds its absorbing value, the others stay generic. With a sign,
    the component whose sign decides has it, and all places hold the same, for they do not meet."""
    from recurc.passes.joins import algebra, symbols

    element: dict[str, Objects] = {}
    for component, combine in zip(monoid.components, monoid.combine, strict=True):
        kind = {"positive": True} if component.holds == "nonnegative" else _assumptions(component.dtype)
        decides = isinstance(apart, str) and component.holds in ("signed", "unsigned")
        if decides:
            kind = {"negative" if apart == "negative" else "positive": True}
        value = symbols(f"e{name}_{component.name}", component.dims, nonzero=True, **kind)
        if decides and apart == "zero":
            value = _filled(value, algebra().Integer(0))
        if isinstance(combine, Apply) and combine.op == "mod":  # lifted and combined ones are remainders
            value = _remainder(combine, value, component.dims)
        if isinstance(apart, str):
            value = _alike(value)
        element[component.name] = _mirrored(value) if component.holds == "symmetric" else value
    if isinstance(apart, str):
        return element
    flag = next((c.name for c in monoid.components if c.holds == "flag"), None)
    if flag is not None:
        element[flag] = _filled(element[flag], algebra().Integer(apart))
        for component in monoid.components:
            if component.holds == "flagged" and not apart:
                element[component.name] = _filled(element[component.name], algebra().Integer(0))
    elif apart:
        decisive, value = _absorbing(monoid)
        element[decisive] = _filled(element[decisive], value)
    return element


def _alike(value: Objects) -> Objects:
    return _filled(value, value.flat[0])


def _filled(like: Objects, value: Any) -> Objects:
    special = np.empty(like.shape, object)
    special.fill(value)
    return special


def _remainder(combine: Apply, value: Objects, dims: Dims) -> Objects:
    from recurc.passes.joins import Joins
    from recurc.passes.symbolic import Evaluator

    held = Read("element", 0, dims, combine.dtype)
    wrapped = replace(combine, args=(held, combine.args[1]), dims=dims)
    return Evaluator(Joins(), lambda read: value if read.name == "element" else _symbols(read), {})(wrapped)


def _absorbing(monoid: Monoid) -> tuple[str, Any]:
    from recurc.passes.joins import algebra

    if monoid.cls == "OS":
        peak = next(c for c, i in zip(monoid.components, monoid.identity, strict=True) if is_low(i))
        return peak.name, -algebra().oo
    nothing = no_value(monoid.identity[0])
    return monoid.components[0].name, algebra().Integer(0) if nothing is None else algebra().oo * int(np.sign(nothing))


def _shaped(value: Objects, dims: Dims, onto: Dims) -> Objects:
    from recurc.passes.joins import size
    from recurc.types import axis_ids

    if dims == onto:
        return value
    ids = axis_ids(dims)
    ordered = value.transpose([ids.index(i) for i in axis_ids(onto) if i in ids])
    shape = tuple(size(d) if i in ids else 1 for d, i in zip(onto, axis_ids(onto), strict=True))
    return np.broadcast_to(ordered.reshape(shape), tuple(size(d) for d in onto))


def _dims(rec: Recurrence, state: str) -> Dims:
    return next(s.dims for s in rec.states if s.name == state)
