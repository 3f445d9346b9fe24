"""The IR's rules, checked after every pass. What is legal at which stage is data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from recurc import build, ops
from recurc.errors import CompilerBug
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Expr,
    Final,
    Gather,
    Iota,
    Linalg,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    Size,
    Step,
    Unfold,
    children,
    late_equations,
    reads,
    walk,
)
from recurc.types import Dims, DType, Kind, show_dims


@dataclass(frozen=True)
class StageRules:
    """What may stand in the IR at one stage."""

    nodes: tuple[type, ...]
    ops: frozenset[str]
    max_lag: int | None  # None: any
    resets: bool  # whether a condition may start the sequence anew


_NODES = (
    Const, Size, Step, Iota, Final, Read, Apply, Reduce, Contract, Reaxis, Broadcast, Gather, Unfold, Linalg,
)  # fmt: skip
_CORE_OPS = frozenset(name for name, op in ops.OPS.items() if op.expands is None)
STAGES: dict[str, StageRules] = {
    "source": StageRules(_NODES, frozenset(ops.OPS), None, True),
    "expanded": StageRules(_NODES, _CORE_OPS, 1, True),
    "core": StageRules(_NODES, _CORE_OPS, 1, False),
}


@dataclass(frozen=True)
class Scope:
    """What an expression may read: name -> (dims, dtype), by kind of name."""

    values: Mapping[str, tuple[Dims, DType]]  # defined at this step
    states: frozenset[str]
    params: frozenset[str]
    delayed: frozenset[str]  # inputs with a value before the first step
    old: Mapping[str, tuple[Dims, DType]]  # readable with a lag
    final: frozenset[str] = frozenset()  # states whose final value may be read


def verify(rec: Recurrence, stage: str, after: str = "", sound: dict[int, Expr] | None = None) -> None:
    """Check `rec` against the rules of `stage`. Raises `CompilerBug` naming the pass, the equation and the rule.

    `sound` remembers nodes (by id) whose dims and type have been compared with those of their operands, so that a later
    call does not do so again for nodes that a pass has left as they are."""
    try:
        _verify(rec, STAGES[stage], {} if sound is None else sound)
    except _Broken as broken:
        where = f"after pass `{after}`" if after else f"at stage `{stage}`"
        raise CompilerBug(f"{rec.name} {where}: {broken}") from broken


class _Broken(Exception):
    pass


def _verify(rec: Recurrence, rules: StageRules, sound: dict[int, Expr]) -> None:
    declared = [*(i.name for i in rec.inputs), *(p.name for p in rec.params)]
    states = {s.name: s for s in rec.states}
    names = [*declared, *(e.name for e in rec.equations)]
    doubled = [n for n, times in Counter(names).items() if times > 1]
    if doubled:
        raise _Broken(f"defined twice: {', '.join(sorted(doubled))}")
    missing = set(states) - {e.name for e in rec.equations}
    if missing:
        raise _Broken(f"states without an equation: {', '.join(sorted(missing))}")
    if len(states) < len(rec.states):
        raise _Broken("a state is declared twice")
    params = {p.name: (p.dims, p.dtype) for p in rec.params}
    values: dict[str, tuple[Dims, DType]] = {i.name: (i.dims, i.dtype) for i in rec.inputs} | params
    old = {s.name: (s.dims, s.dtype) for s in rec.states} | {i.name: (i.dims, i.dtype) for i in rec.inputs}
    delayed = frozenset(i.name for i in rec.inputs if i.before is not None)
    once = Scope(params, frozenset(), frozenset(params), frozenset(), {})
    for state in rec.states:
        _expr(state.initial, once, rules, sound, f"the initial value of {state.name}")
    for given in rec.inputs:
        if given.before is not None:
            _expr(given.before, once, rules, sound, f"the value of {given.name} before the first step")
    late = late_equations(rec)
    for name in late & set(states):
        raise _Broken(f"state {name} depends on the final value of a state")
    _reset(rec, rules, late)
    for equation in rec.equations:
        may = frozenset(states) if equation.name in late else frozenset[str]()
        scope = Scope(values, frozenset(states), frozenset(params), delayed, old, may)
        _expr(equation.expr, scope, rules, sound, f"equation {equation.name}")
        expr = equation.expr
        if equation.name in states:
            state = states[equation.name]
            if not set(expr.dims) <= set(state.dims):
                raise _Broken(
                    f"state {state.name} is {show_dims(state.dims)} but its equation gives {show_dims(expr.dims)}"
                )
            values[state.name] = (state.dims, state.dtype)
        else:
            values[equation.name] = (expr.dims, expr.dtype)
    for output in rec.outputs:
        if output not in values or output in params:
            raise _Broken(f"output {output} is no input, state or equation")


def _reset(rec: Recurrence, rules: StageRules, late: frozenset[str]) -> None:
    if rec.reset is None:
        return
    if not rules.resets:
        raise _Broken("a reset is not legal here")
    defined = {e.name: e for e in rec.equations}
    found = defined.get(rec.reset)
    if found is None or found.expr.dims or found.expr.dtype is not DType.BOOL or rec.reset in late:
        raise _Broken(f"the reset {rec.reset} is no truth value of a step")
    states = {s.name for s in rec.states}
    for equation in rec.equations:
        for read in reads(equation.expr):
            if read.lag or read.name in states:
                raise _Broken(f"{equation.name} reads {read.name}, and comes before the reset {rec.reset}")
        if equation.name in states:
            raise _Broken(f"state {equation.name} comes before the reset {rec.reset}")
        if equation.name == rec.reset:
            return


def _expr(expr: Expr, scope: Scope, rules: StageRules, sound: dict[int, Expr], where: str) -> None:
    for node in walk(expr):
        if not isinstance(node, rules.nodes):
            raise _Broken(f"{where}: node {type(node).__name__} is not legal here")
        if isinstance(node, Apply) and node.op not in rules.ops:
            raise _Broken(f"{where}: operator {node.op} is not legal here")
        if isinstance(node, Read):
            _read(node, scope, rules, where)
            continue
        if isinstance(node, Final):
            if node.name not in scope.final:
                raise _Broken(f"{where}: reads the final value of {node.name}, which is no state here")
            if scope.old[node.name] != (node.dims, node.dtype):
                raise _Broken(f"{where}: reads the final value of {node.name} with other dims or another type")
            continue
        if id(node) in sound:
            continue
        sound[id(node)] = node
        dims, dtype = recomputed(node)
        if (dims, dtype) != (node.dims, node.dtype):
            raise _Broken(
                f"{where}: {type(node).__name__} says {show_dims(node.dims)} {node.dtype!r}, "
                f"its operands give {show_dims(dims)} {dtype!r}"
            )


def _read(node: Read, scope: Scope, rules: StageRules, where: str) -> None:
    if rules.max_lag is not None and node.lag > rules.max_lag:
        raise _Broken(f"{where}: {node.name}[t-{node.lag}] has a lag above {rules.max_lag}")
    if node.lag < 0:
        raise _Broken(f"{where}: {node.name} is read from the future")
    table = scope.values if node.lag == 0 else scope.old
    if node.name not in table:
        raise _Broken(f"{where}: reads {node.name}, which is not defined there (lag {node.lag})")
    if node.lag and node.name not in scope.states and node.name not in scope.delayed:
        raise _Broken(f"{where}: reads {node.name}[t-{node.lag}], which has no value before the first step")
    if table[node.name] != (node.dims, node.dtype):
        dims, dtype = table[node.name]
        raise _Broken(
            f"{where}: reads {node.name} as {show_dims(node.dims)} {node.dtype!r}, it is {show_dims(dims)} {dtype!r}"
        )


def recomputed(node: Expr) -> tuple[Dims, DType]:
    """The dims and dtype that `node`'s operands give it. Raises `_Broken` if they do not fit."""
    match node:
        case Const(value=value):
            kinds = {bool: Kind.BOOL, int: Kind.INT, float: Kind.REAL, complex: Kind.COMPLEX}
            kind = kinds.get(type(value))
            if kind is not node.dtype.kind:
                raise _Broken(f"constant {value!r} has dtype {node.dtype!r}")
            return (), node.dtype
        case Apply(op="cast", args=(arg,)):
            return arg.dims, node.dtype
        case Apply(op=op, args=args):
            try:
                again = ops.apply(op, *args)
            except ops.TypeProblem as problem:
                raise _Broken(f"{op}: {problem}") from problem
            if again.args != args:
                raise _Broken(
                    f"{op}: its operands are {', '.join(repr(a.dtype) for a in args)}, without the casts between"
                )
            return again.dims, again.dtype
        case Reduce(op=op, arg=arg, over=over):
            try:
                again = build.reduce(op, arg, over)
            except ops.TypeProblem as problem:
                raise _Broken(f"{op}: {problem}") from problem
            return again.dims, again.dtype
        case Contract():
            return _contract(node)
        case Reaxis():
            return _reaxis(node)
        case Iota(dims=dims, dtype=dtype):
            if len(dims) != 1 or dtype is not DType.I64:
                raise _Broken(f"the places along {show_dims(dims)} are integers along one dim")
            return dims, dtype
        case Broadcast() | Gather() | Unfold() | Linalg():
            try:
                again = _rebuilt(node)
            except ops.TypeProblem as problem:
                raise _Broken(f"{type(node).__name__}: {problem}") from problem
            if children(again) != children(node):
                raise _Broken(f"{type(node).__name__}: its operands have other types, without the casts between")
            return again.dims, again.dtype
        case _:
            return node.dims, node.dtype


def _rebuilt(node: Broadcast | Gather | Unfold | Linalg) -> Expr:
    match node:
        case Broadcast(arg=arg, dims=dims):
            return build.broadcast(arg, dims)
        case Gather(arg=arg, axis=axis, index=index):
            if not 0 <= axis < len(arg.dims):
                raise _Broken(f"{show_dims(arg.dims)} has no axis {axis}")
            return build.gather(arg, axis, index)
        case Unfold(arg=arg, axes=axes, taps=taps):
            if not all(0 <= a < len(arg.dims) for a in axes) or len(taps) != len(axes):
                raise _Broken(f"{show_dims(arg.dims)} has no axes {axes}, or their taps {show_dims(taps)} are others")
            return build.unfold(arg, [arg.dims[a] for a in axes], taps, node.forward, node.wrap)
        case Linalg(op="eye"):
            return build.eye(node.dims[0])
        case Linalg(op=op, args=args):
            return build.linalg(op, *args)


def _contract(node: Contract) -> tuple[Dims, DType]:
    names: dict[int, str] = {}
    for side, labels in ((node.left, node.left_axes), (node.right, node.right_axes)):
        if len(labels) != len(side.dims) or len(set(labels)) != len(labels):
            raise _Broken(f"a contraction labels {show_dims(side.dims)} with {labels}")
        for label, dim in zip(labels, side.dims, strict=True):
            if names.setdefault(label, dim) != dim:
                raise _Broken(f"a contraction pairs {names[label]} with {dim}")
    if node.left.dtype is not node.right.dtype:
        raise _Broken("a contraction's sides have different dtypes")
    if len(set(node.out_axes)) != len(node.out_axes) or not set(node.out_axes) <= set(names):
        raise _Broken(f"a contraction's result axes {node.out_axes} are not its operands'")
    return tuple(names[label] for label in node.out_axes), node.left.dtype


def _reaxis(node: Reaxis) -> tuple[Dims, DType]:
    rank = len(node.arg.dims)
    used = (*node.axes, *(() if node.at is None else (node.at,)))
    if sorted(used) != list(range(rank)):
        raise _Broken(f"axes {node.axes} of {show_dims(node.arg.dims)} leave out or repeat one")
    if (node.at is None) != (node.index is None) or len(node.axes) != len(node.dims):
        raise _Broken("an axis is fixed without an index, or the names do not match the axes")
    if node.at is not None and node.index is not None:
        dim = node.arg.dims[node.at]
        if node.index < 0 or (dim.isdigit() and node.index >= int(dim)):
            raise _Broken(f"index {node.index} is outside dim {dim}")
    return node.dims, node.arg.dtype


def used_names(rec: Recurrence) -> set[str]:
    """Every name the recurrence declares, defines or reads."""
    names = {i.name for i in rec.inputs} | {p.name for p in rec.params} | {d.name for d in rec.dims}
    names |= {s.name for s in rec.states} | {e.name for e in rec.equations}
    return names | {r.name for e in rec.equations for r in reads(e.expr)}
