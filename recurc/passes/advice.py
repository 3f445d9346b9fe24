"""What would make a recurrence parallel: the smallest change that is known to, tried out on the equations.

Gates, factors and conditions that read the state read an input instead (as in minGRU), or the matrices that feed it to
them, or the functions around the update, are left out. The changed recurrence is classified like any other, and nothing
is said of one that would still be a loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recurc.facts import NONLINEAR, Analysis, Group, Reason
from recurc.formula import formula, operator
from recurc.ir import (
    Apply,
    Const,
    Contract,
    Expr,
    Input,
    Linalg,
    Read,
    Recurrence,
    Reduce,
    children,
    reads,
    walk,
    with_children,
)
from recurc.ops import OPS, Affine
from recurc.passes.affine import Form, Forms, Free, Linear, Nonlinear, shown
from recurc.passes.classify import classify
from recurc.passes.decayed import Unsigned, decayed
from recurc.passes.dependence import dependence
from recurc.passes.scene import Scene
from recurc.source import Span

_MOST_TRIALS = 8  # each is a classification, and few of a large recurrence
_MOST_EQUATIONS = 160  # of all trials
_MOST_KINDS = 3  # of operators: what takes more is no small change
_GATES = frozenset(("sigmoid", "tanh", "exp", "softplus", "log", "sqrt", "sin", "cos", "erf", "hard_sigmoid"))


_DENSE = Reason(
    "a scan would multiply such matrices at every step; with one factor per element in place of the matrix, as in the "
    "LRU, this would be a scan"
)


@dataclass(frozen=True)
class _Outcome:
    """What becomes of a group in a changed recurrence: the groups of its states that still feed back."""

    groups: tuple[Group, ...]

    @property
    def scans(self) -> bool:
        return bool(self.groups) and all("scan" in g.schedules for g in self.groups)

    @property
    def chunks(self) -> bool:
        return bool(self.groups) and all({"scan", "chunkwise"} & {*g.schedules} for g in self.groups)

    @property
    def dense(self) -> bool:
        return bool(self.groups) and all(g.cls == "DA" for g in self.groups)

    def text(self) -> str:
        return "this would be a scan" if self.scans else "this could go in chunks of steps, as products of matrices"


def with_advice(rec: Recurrence, analysis: Analysis) -> Analysis:
    """`analysis` of `rec` with a last reason for each nonlinear or dense group: what would make it parallel."""
    if not any(g.cls in NONLINEAR or _dense(g) for g in analysis.groups):
        return analysis
    scene = Scene(rec, dependence(rec))

    def advised(group: Group) -> Group:
        if group.cls in NONLINEAR:
            return replace(group, reasons=(*group.reasons, _advice(scene, group.states)))
        return replace(group, reasons=(*group.reasons, _DENSE)) if _dense(group) else group

    return replace(analysis, groups=tuple(map(advised, analysis.groups)))


def _dense(group: Group) -> bool:
    return group.cls == "DA" and "scan" not in group.schedules


def _advice(scene: Scene, members: tuple[str, ...]) -> Reason:
    """A sentence on the smallest change that would make the group parallel, or that none is known."""
    forms = scene.forms(members)
    if len(members) == 1:
        found = decayed(forms, members[0])
        if isinstance(found, Unsigned):
            return Reason(f"{found.text}; {found.cure} this would be a scan", found.span)
    made = {m: forms.of_equation(m) for m in members}
    cancels = [f.cancels for f in made.values() if isinstance(f, Linear) and f.cancels]
    if cancels and not any(isinstance(f, Nonlinear) for f in made.values()):
        text = (
            "without the correction this would be a scan, and a scan adds in a tree, where errors grow with log T "
            "instead of T"
        )
        return Reason(text, cancels[0] if isinstance(cancels[0], Span) else None)
    return (
        _freed(scene, members)
        or _unmixed(scene, members)
        or _straightened(scene, members)
        or Reason("no small change is known that would make this parallel over t")
    )


# --- gates, factors and conditions that read inputs -------------------------------------------------------------------


def _freed(scene: Scene, members: tuple[str, ...]) -> Reason | None:
    forms = _Freed(scene.rec, scene.dep, frozenset(members))
    for member in members:
        if isinstance(forms.of_equation(member), Nonlinear):
            return None
    freed = dict(forms.freed)
    outcome = _tried(scene, members, freed)
    if not outcome.chunks:
        return None
    most = min(_MOST_TRIALS, _MOST_EQUATIONS // len(scene.rec.equations))
    for node in list(reversed(freed))[:most] if len(freed) > 1 else ():
        fewer = {n: r for n, r in freed.items() if n != node}
        smaller = _tried(scene, members, fewer)
        if smaller.scans or (smaller.chunks and not outcome.scans):
            freed, outcome = fewer, smaller
    functions, factors = _kinds(forms, freed)
    if len(functions) + factors > _MOST_KINDS:
        return None
    return Reason(_freed_text(scene, members, forms, freed, outcome), next(iter(freed)).span)


def _freed_text(
    scene: Scene, members: tuple[str, ...], forms: _Freed, freed: Mapping[Expr, Read], outcome: _Outcome
) -> str:
    functions, factors = _kinds(forms, freed)
    subjects = [f"what {_listed(functions)} {'read' if len(functions) > 1 else 'reads'}"] if functions else []
    subjects += ["one of the two factors"] if factors else []
    inputs = [f"`{i.name}`" for i in scene.rec.inputs if any(i.name in _behind(scene, n) for n in freed)]
    instead = f"{_listed(inputs)} alone" if 0 < len(inputs) <= 3 else "inputs alone"
    old = _listed([f"`{shown(s)}`" for s in members if any(s in _behind(scene, n) for n in freed)])
    like = ""
    if outcome.scans and all(isinstance(n, Apply) and n.op in _GATES for n in freed):
        like = ", as in the gates of minGRU"
    elif any(isinstance(n, Apply) and OPS[n.op].affine is Affine.DISCONTINUOUS for n in freed):
        like = ", as for a neuron that its own spike does not reset"
    return f"if {' and '.join(subjects)} came from {instead}, without {old}{like}, {outcome.text()}"


def _kinds(forms: _Freed, freed: Mapping[Expr, Read]) -> tuple[list[str], bool]:
    """The operators whose operands would be free, as they are written, and whether there are products among them."""
    because = [forms.because[n] for n in freed]
    factors = [n for n in because if isinstance(n, Contract) or (isinstance(n, Apply) and n.op == "mul")]
    return list(dict.fromkeys(_word(n) for n in because if n not in factors)), bool(factors)


def _word(node: Expr) -> str:
    match node:
        case Apply(op="select"):
            return "a condition"
        case Apply(op=op) | Reduce(op=op) | Linalg(op=op):
            return f"`{operator(op)}`"
        case _:
            return "an index"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


class _Freed(Forms):
    """The forms of a group if whatever makes them nonlinear came from inputs. `freed` has the values that would, and
    what stands for each; `because`, the node that each would be free for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.freed: dict[Expr, Read] = {}
        self.because: dict[Expr, Expr] = {}

    def form(self, expr: Expr) -> Form:
        if expr in self.freed:
            return Free(expr)
        made = super().form(expr)
        if not isinstance(made, Nonlinear) or isinstance(expr, Read):
            return made
        culprit = self._culprit(expr)
        name = f"free {len(self.freed)}"  # no name of a source has a space in it
        self.freed[culprit] = Read(name, 0, culprit.dims, culprit.dtype)
        self.because[culprit] = expr
        return Free(expr) if culprit is expr else self.form(expr)

    def _culprit(self, expr: Expr) -> Expr:
        """The part of `expr`, which is nonlinear where its operands are not, that would have to be free."""
        match expr:
            case Apply(op="select", args=(condition, _, _)) if not self._is_free(condition):
                return condition
            case Apply(op="mul", args=(a, b)) | Contract(left=a, right=b):
                moving = [e for e in (b, a) if not self._is_free(e)]
                return next((e for e in moving if not isinstance(e, Read)), moving[0])
            case Apply(op=op, args=(_, b)) if OPS[op].affine is Affine.NUMERATOR and not self._is_free(b):
                return b
            case _:
                return expr

    def _is_free(self, expr: Expr) -> bool:
        return isinstance(self.form(expr), Free)


# --- matrices that feed a state into its gates ------------------------------------------------------------------------


def _unmixed(scene: Scene, members: tuple[str, ...]) -> Reason | None:
    """Where the gates are more than a function of one sum: the products of a matrix and a state are left out."""
    forms = scene.forms(members)
    feeding = dict.fromkeys(n for m in members for n in forms.behind(m, ()))

    def moving(expr: Expr) -> bool:
        return any(r.name in members if r.lag else not forms.is_free(r.name) for r in reads(expr))

    products = dict.fromkeys(
        n
        for name in feeding
        for n in walk(scene.equations[name].expr)
        if isinstance(n, Contract) and moving(n.left) != moving(n.right)
    )
    if not 0 < len(products) <= _MOST_KINDS:
        return None
    outcome = _tried(scene, members, {n: Read(f"free {i}", 0, n.dims, n.dtype) for i, n in enumerate(products)})
    if not outcome.scans:
        return None
    terms = _listed([f"`{formula(n)}`" for n in products])
    return Reason(f"without {terms}, as in minGRU, {outcome.text()}", next(iter(products)).span)


# --- functions around the update --------------------------------------------------------------------------------------


def _straightened(scene: Scene, members: tuple[str, ...]) -> Reason | None:
    forms = _Straight(scene.rec, scene.dep, frozenset(members))
    for member in members:
        if isinstance(forms.of_equation(member), Nonlinear):
            return None
    outcome = _tried(scene, members, forms.left_out)
    if not (outcome.scans or outcome.dense):
        return None
    ops = _listed(list(dict.fromkeys(f"`{operator(n.op)}`" for n in forms.left_out if isinstance(n, Apply))))
    text = f"without {ops} {outcome.text()}"
    if outcome.dense:
        text = (
            f"without {ops} the update would be affine, with a dense matrix; with one factor per element in place of "
            "the matrix too, as in the LRU, this would be a scan"
        )
    return Reason(text, next(iter(forms.left_out)).span)


class _Straight(Forms):
    """The forms of a group if functions of one value that depends on it were left out (`relu(a)` is `max(a, 0)`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.left_out: dict[Expr, Expr] = {}

    def form(self, expr: Expr) -> Form:
        made = super().form(expr)
        if not isinstance(made, Nonlinear) or not isinstance(expr, Apply) or expr.op == "cast":
            return made
        moving = [a for a in expr.args if not isinstance(super(_Straight, self).form(a), Free)]
        fixed = all(isinstance(a, Const) for a in expr.args if a not in moving)
        if len(moving) > 1 or not fixed or OPS[expr.op].affine in (Affine.PRODUCT, Affine.NUMERATOR, Affine.BRANCHES):
            return made
        if moving[0].dtype is not expr.dtype:
            return made
        self.left_out[expr] = moving[0]
        return self.form(moving[0])


# --- trying a change --------------------------------------------------------------------------------------------------


def _tried(scene: Scene, members: tuple[str, ...], changes: Mapping[Expr, Expr]) -> _Outcome:
    """What the group becomes where each key of `changes` is replaced by its value."""
    known = {i.name for i in scene.rec.inputs}
    made = (r for r in changes.values() if isinstance(r, Read) and r.name.startswith("free ") and r.name not in known)
    changed = replace(
        scene.rec,
        inputs=(*scene.rec.inputs, *(Input(r.name, r.dims, r.dtype) for r in made)),
        equations=tuple(replace(e, expr=_replaced(e.expr, changes)) for e in scene.rec.equations),
    )
    inside = [g for g in classify(changed).groups if {*g.states} & {*members}]
    return _Outcome(tuple(g for g in inside if g.cls != "SH"))


def _replaced(expr: Expr, changes: Mapping[Expr, Expr]) -> Expr:
    """From the top: a value that is replaced takes what is inside of it along, unless that is what replaces it."""
    if expr in changes:
        new = changes[expr]
        return new if isinstance(new, Read) else _replaced(new, changes)
    return with_children(expr, tuple(_replaced(c, changes) for c in children(expr)))


def _behind(scene: Scene, expr: Expr) -> set[str]:
    """Every name `expr` sees within the step, through equations; states are not looked into."""
    pending, seen = [r.name for r in reads(expr)], set[str]()
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            if name in scene.equations and name not in scene.states:
                pending += [r.name for r in reads(scene.equations[name].expr)]
    return seen
