"""Which dims of a stage are lanes: positions along such a dim never exchange data, so they can run side by side."""

from __future__ import annotations

from collections.abc import Iterable

from recurc.ir import Contract, Expr, Gather, Linalg, Reaxis, Reduce, Unfold, walk
from recurc.plan import Chunk, Convolution, Frozen, Fused, JointChunk, Loop, Map, Matmul, Newton, Scan, Stage
from recurc.types import Dims


def stage_exprs(stage: Stage) -> list[Expr]:
    """Every expression the stage evaluates."""
    match stage:
        case Matmul():
            return [stage.expr]
        case Map() | Loop() | Chunk() | JointChunk() | Convolution():
            return [e.expr for e in stage.body]
        case Scan():
            monoid = stage.monoid
            return [*(e.expr for e in stage.body), *monoid.lift, *monoid.combine, *monoid.apply]
        case Fused(parts=parts):
            return [e for part in parts for e in stage_exprs(part)]
        case Newton():
            return [e for part in (stage.loop, stage.first, *stage.before, stage.step) for e in stage_exprs(part)]
        case Frozen():
            return [e for part in stage.inside.stages for e in stage_exprs(part)]


def crossed_dims(expr: Expr) -> set[str]:
    """Dims along which evaluating `expr` mixes, renames or picks positions."""
    crossed: set[str] = set()
    for node in walk(expr):
        match node:
            case Reduce():
                crossed.update(node.over)
            case Contract():
                names = dict(zip(node.left_axes, node.left.dims, strict=True)) | dict(
                    zip(node.right_axes, node.right.dims, strict=True)
                )
                crossed.update(dim for label, dim in names.items() if label not in node.out_axes)
            case Reaxis():
                kept = [node.arg.dims[a] for a in node.axes]
                crossed.update(d for a, d in enumerate(node.arg.dims) if a not in node.axes)
                for old, new in zip(kept, node.dims, strict=True):
                    if old != new:
                        crossed.update((old, new))
            case Gather(arg=arg, axis=axis):
                crossed.add(arg.dims[axis])
            case Unfold(arg=arg, axes=axes, taps=taps):
                crossed.update(taps, (arg.dims[a] for a in axes))
            case Linalg(dims=dims, args=args):
                crossed.update(args[0].dims[-2:] if args else dims)
            case _:
                pass
        if len(set(node.dims)) < len(node.dims):
            crossed.update(d for d in node.dims if node.dims.count(d) > 1)
    return crossed


def lane_dims(stage: Stage) -> Dims:
    """The lane dims of a stage, largest-rank values' order first.

    A value without a lane dim is the same in every lane (computed in each, or once). For a `Loop`, `Scan`, `Fused`
    or `Map`."""
    exprs = stage_exprs(stage)
    crossed = {dim for e in exprs for dim in crossed_dims(e)}
    every = _dims_in_order(exprs)
    return tuple(d for d in every if d not in crossed)


def _dims_in_order(exprs: Iterable[Expr]) -> list[str]:
    shapes = sorted((e.dims for e in exprs), key=len, reverse=True)
    return list(dict.fromkeys(d for dims in shapes for d in dims))
