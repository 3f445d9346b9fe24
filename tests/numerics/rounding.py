"""How far rounding alone moves a recurrence: its definition once as it stands, and several times with every operation
rounded to float32 at random, up or down.

That is Monte Carlo arithmetic (Parker, "Monte Carlo arithmetic", 1997; CESTAC, Vignes 1993): the rounded runs are what
float32 loops could give, and how far they are from the exact one says how well the numbers at hand determine the
result at all, with no constant chosen for a system. An operation whose result float32 holds stays exact, so counters,
flags and zeros are themselves in every run.

What is made of params and constants alone is rounded once for a run: a float32 loop makes the same error of it in
every step, and errors that are the same add up to T of them where errors by chance add up to their square root.

What needs no state, and what no state needs, is evaluated for all steps at once; the loop has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np

from recurc import ir
from recurc.backends import reference
from recurc.types import Kind

Arrays = dict[str, np.ndarray]
_LOW = np.int64((1 << 29) - 1)  # of the bits of a float64, those a float32 lacks
_MOVES = (ir.Read, ir.Reaxis, ir.Broadcast, ir.Gather, ir.Unfold)  # what they give was rounded before


@dataclass(frozen=True)
class Run:
    """What the definition gives, and the largest deviation of the rounded runs from it, by the name of the value: of
    an output `(T,)`, up to each step, of integers and truth values at each step; of a final state `(1,)`."""

    exact: Arrays
    spread: Arrays


def run(
    rec: ir.Recurrence, arrays: Mapping[str, np.ndarray], batch: int, steps: int, rng: np.random.Generator,
    sizes: Mapping[str, int] | None = None, samples: int = 3,
) -> Run:  # fmt: skip
    """`arrays`: inputs `(B, T, *dims)`, params `(*dims)` and `STATE@initial` `(*dims)` or `(B, *dims)`, real ones
    float64. All runs are rows of one batch; params get rows too, so that what is made of them is rounded."""
    rows = 1 + samples
    ranks = {v.name: len(v.dims) for v in (*rec.params, *rec.states)}

    def repeated(name: str, a: np.ndarray) -> np.ndarray:
        alone = name not in {i.name for i in rec.inputs} and a.ndim == ranks.get(name.partition("@")[0], -1)
        return np.concatenate([np.broadcast_to(a, (batch, *a.shape)) if alone else a] * rows)

    def rounded(expr: ir.Expr, *rest: Any) -> np.ndarray:
        value = plain(expr, *rest)
        if value.dtype.kind not in "fc" or isinstance(expr, _MOVES) or (isinstance(expr, ir.Const) and _held(expr)):
            return value
        value = np.broadcast_to(value, (all_rows, *value.shape[1:])).copy()  # constants too, by themselves for each run
        either_side(value[exact_rows:])
        return value

    def at_once(part: ir.Recurrence, given: Arrays) -> Arrays:
        """A part without feedback, all steps as rows of one batch."""
        nonlocal exact_rows, all_rows
        exact_rows, all_rows = batch * steps, batch * rows * steps
        flat = {i.name: given[i.name].reshape(all_rows, 1, *given[i.name].shape[2:]) for i in part.inputs}
        used = {r.name for e in part.equations for r in ir.reads(e.expr)}
        part = replace(part, params=tuple(p for p in part.params if p.name in used))
        flat |= {p.name: np.repeat(given[p.name], steps, 0) for p in part.params}
        made = reference.run(part, flat, all_rows, 1, sizes)
        exact_rows, all_rows = batch, batch * rows
        return {n: made[n].reshape(all_rows, steps, *made[n].shape[2:]) for n in part.outputs}

    plain, either_side = reference.evaluate, _EitherSide(rng)
    exact_rows, all_rows = batch, batch * rows
    given = {n: repeated(n, a) for n, a in arrays.items()}
    sizes = reference.find_sizes(rec, given, sizes or {})
    with mock.patch.object(reference, "evaluate", rounded):
        once, whole = _of_params(rec)
        given |= {n: v[:, 0] for n, v in reference.run(once, given, all_rows, 1, sizes).items()}
        before, loop, after = _parts(whole)
        made = at_once(before, given)
        made |= reference.run(loop, given | made, all_rows, steps, sizes)
        made |= at_once(after, given | made)
        finals = [f"{s.name}@final" for s in rec.states]
        found = {n: made[n] for n in (*rec.outputs, *finals)}
    exact = {n: v[:batch] for n, v in found.items()}
    spread: Arrays = {}
    for name, value in found.items():
        again = value.reshape(rows, batch, *value.shape[1:])[1:].astype(np.complex128)
        with np.errstate(all="ignore"):  # a run that leaves the range of float32 is off by any amount
            off = np.where(
                np.isfinite(exact[name]), np.nan_to_num(np.abs(again - exact[name]), nan=np.inf, posinf=np.inf), 0.0
            )
        along = off if name in rec.outputs else off[:, :, np.newaxis]  # (samples, B, T, ...)
        each = along.max(axis=(0, 1, *range(3, along.ndim)), initial=0.0)
        spread[name] = each if value.dtype.kind in "bi" else np.maximum.accumulate(each)
    return Run(exact, spread)


def _of_params(rec: ir.Recurrence) -> tuple[ir.Recurrence, ir.Recurrence]:
    """What is made of params and constants alone, and the rest, whose params they become."""
    kept = {s.name for s in rec.states} | {rec.reset, *rec.outputs}
    params = {p.name: p for p in rec.params}
    found: list[ir.Equation] = []

    def add(name: str, expr: ir.Expr) -> None:
        found.append(ir.Equation(name, expr))
        params[name] = ir.Param(name, expr.dims, expr.dtype)

    def fixed(expr: ir.Expr) -> bool:
        if isinstance(expr, ir.Read | ir.Iota | ir.Size) or (isinstance(expr, ir.Const) and _held(expr)):
            return False
        return _now(expr) and all(r.name in params for r in ir.reads(expr))

    def taken_out(expr: ir.Expr) -> ir.Expr:
        if fixed(expr):
            name = f"once {len(found)}"
            add(name, expr)
            return ir.Read(name, 0, expr.dims, expr.dtype)
        return ir.with_children(expr, tuple(taken_out(c) for c in ir.children(expr)))

    rest: list[ir.Equation] = []
    for equation in rec.equations:
        if equation.name not in kept and fixed(equation.expr):
            add(equation.name, equation.expr)
        else:
            rest.append(replace(equation, expr=taken_out(equation.expr)))
    whole = replace(rec, params=tuple(params.values()), equations=tuple(rest))
    return _part(rec, found, (), tuple(e.name for e in found)), whole


def _parts(rec: ir.Recurrence) -> tuple[ir.Recurrence, ir.Recurrence, ir.Recurrence]:
    """What reads no state, which becomes inputs of the rest; the loop; and what no state reads."""
    states = {s.name for s in rec.states}
    free = {v.name: v for v in (*rec.inputs, *rec.params)}
    before: list[ir.Equation] = []

    def is_free(expr: ir.Expr) -> bool:
        return _now(expr) and all(r.name in free for r in ir.reads(expr))

    def taken_out(expr: ir.Expr) -> ir.Expr:
        if not isinstance(expr, ir.Read) and any(ir.reads(expr)) and is_free(expr):
            name = f"free {len(before)}"
            before.append(ir.Equation(name, expr))
            return ir.Read(name, 0, expr.dims, expr.dtype)
        return ir.with_children(expr, tuple(taken_out(c) for c in ir.children(expr)))

    rest: list[ir.Equation] = []
    for equation in rec.equations:
        if equation.name not in states | {rec.reset} and any(ir.reads(equation.expr)) and is_free(equation.expr):
            before.append(equation)
            free[equation.name] = ir.Input(equation.name, equation.expr.dims, equation.expr.dtype)
        else:
            rest.append(replace(equation, expr=taken_out(equation.expr)))
    kept, after = list[ir.Equation](), list[ir.Equation]()
    needed = states | {rec.reset}
    for equation in reversed(rest):
        if equation.name in needed or not _now(equation.expr):
            kept.insert(0, equation)
            needed |= {r.name for r in ir.reads(equation.expr)}
        else:
            after.insert(0, equation)
    known = {n: ir.Input(n, *kind) for n, kind in reference.value_types(rec).items()}
    known |= {e.name: ir.Input(e.name, e.expr.dims, e.expr.dtype) for e in before}
    early, late = {e.name for e in before}, {e.name for e in after}
    params = {p.name for p in rec.params}
    asked = dict.fromkeys(r.name for e in after for r in ir.reads(e.expr) if r.name not in params | late)
    own = {i.name for i in rec.inputs}
    return (
        _part(rec, before, tuple(i for i in rec.inputs if i.name in own), tuple(early)),
        replace(
            rec, inputs=(*rec.inputs, *(known[n] for n in early)), equations=tuple(kept),
            outputs=tuple(n for n in dict.fromkeys((*rec.outputs, *asked)) if n not in early | late),
        ),
        _part(rec, after, tuple(known[n] for n in asked), tuple(late)),
    )  # fmt: skip


def _part(
    rec: ir.Recurrence, equations: list[ir.Equation], inputs: tuple[ir.Input, ...], outputs: tuple[str, ...]
) -> ir.Recurrence:
    inputs = tuple(replace(i, before=None) for i in inputs)
    return replace(rec, inputs=inputs, states=(), equations=tuple(equations), outputs=outputs, reset=None)


def _held(const: ir.Const) -> bool:
    """Whether float32 holds a number, or it is none that is rounded."""
    return const.dtype.kind not in (Kind.REAL, Kind.COMPLEX) or bool(np.complex64(const.value) == const.value)


def _now(expr: ir.Expr) -> bool:
    """Whether a value needs nothing but other values of its step."""
    return not any(isinstance(e, ir.Step | ir.Final) or (isinstance(e, ir.Read) and e.lag) for e in ir.walk(expr))


class _EitherSide:
    """The float32 above a number or the one below, by chance, as float64; parts of a complex number each by itself."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._coins, self._used = rng, np.zeros(0, np.int64), 0

    def __call__(self, value: np.ndarray) -> None:
        """In place; `value` is contiguous float64 or complex128."""
        near = value.reshape(-1).view(np.float64)
        exact, bits = near.copy(), near.view(np.int64)
        # Where bits that float32 has no room for are set, adding all of them carries to the next float32.
        bits += self._tossed(bits.size)
        bits &= ~_LOW
        if (near.astype(np.float32) != near).any():  # not its range
            near[:] = self._anywhere(exact)

    def _tossed(self, count: int) -> np.ndarray:
        """So many times 0 or all the low bits."""
        if self._used + count > self._coins.size:
            self._coins, self._used = self._rng.integers(0, 2, max(count, 1 << 16)) * _LOW, 0
        self._used += count
        return self._coins[self._used - count : self._used]

    def _anywhere(self, value: np.ndarray) -> np.ndarray:
        near = value.astype(np.float32)
        other = np.nextafter(near, np.where(value > near, np.float32(np.inf), np.float32(-np.inf)))
        swap = (near != value) & np.isfinite(value) & (self._tossed(value.size) > 0)
        return np.where(swap, other, near).astype(np.float64)
