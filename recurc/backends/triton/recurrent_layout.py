"""How a recurrent `Loop` stage is laid out: the phases of a step, what goes through scratch, and the sizes of tiles."""

from __future__ import annotations

import math

from recurc import ir
from recurc.backends.triton.kernel import Options, Scratch, Step, power_of_two
from recurc.backends.triton.places import Place
from recurc.backends.triton.scope import Scope
from recurc.backends.triton.values import Context, Ids, label_ids
from recurc.errors import UnsupportedError
from recurc.plan import Loop
from recurc.types import Dims, DType, axis_ids

ROWS = 16  # sequences of one program: the smallest tile of a tensor core
WARPS = 8
_SUMS = 16  # registers of a thread for the running sums of products; operands on their way need several times as many
Phase = tuple[int, str | None]  # level within the step, dim whose tiles it walks over


def recurrent_weights(context: Context, stage: Loop) -> int:
    """How many elements the params have that the stage contracts with values it computes."""
    states = {c.name for c in stage.carries} | {e.name for e in stage.body}
    total = 0
    for equation in stage.body:
        for node in ir.walk(equation.expr):
            if isinstance(node, ir.Contract) and (found := sides(context, node, states)):
                total += math.prod(context.size(d) for d in found[1].dims)
    return total


def sides(context: Context, node: ir.Contract, states: set[str]) -> tuple[ir.Expr, ir.Expr] | None:
    """(data, weight) of a contraction that sums over one axis, with a param on one side and on the other what changes
    over time; None for any other."""
    if len({*node.left_axes, *node.right_axes} - set(node.out_axes)) != 1:
        return None
    for data, weight in ((node.left, node.right), (node.right, node.left)):
        steady = not any(r.name in states or context.plan.buffer(r.name).has_time for r in ir.reads(weight))
        plain = all(
            isinstance(n, ir.Read | ir.Reaxis) or (isinstance(n, ir.Apply) and n.op == "cast") for n in ir.walk(weight)
        )
        moves = any(r.name in states or context.plan.buffer(r.name).has_time for r in ir.reads(data))
        if steady and plain and moves:
            return data, weight
    return None


class Layout:
    """Phases of a step, which values go through scratch, and their names."""

    def __init__(
        self, context: Context, stage: Loop, body: dict[str, ir.Equation], lanes: Dims, options: Options
    ) -> None:
        self.context, self.stage, self.body, self.lanes, self.options = context, stage, body, lanes, options
        self.carries = {c.name: c for c in stage.carries}
        self.computed = set(body) | set(self.carries)
        self.scope = Scope(frozenset(("place", "now", "k", "k0", "in_k", "data", "tile")))
        for name in body:
            self.scope(("value", name), name)
        self.products = 1  # most of them in one phase; known once the phases have been written as a trial
        self.wanted: dict[str, Phase] = {}
        for target in [*stage.writes, *self.carries]:
            self._phase_of(target)
        self.shared = self._shared()

    def lane(self, dim: str) -> str:
        return self.scope(("index", dim), f"i_{dim}")

    def dims(self, name: str) -> Dims:
        return self.carries[name].dims if name in self.carries else self.body[name].expr.dims

    def dtype(self, name: str) -> DType:
        return self.carries[name].dtype if name in self.carries else self.body[name].expr.dtype

    def tile_dim(self, name: str) -> str | None:
        """The one dim besides the lanes that a value has, if any."""
        own = [d for d in self.dims(name) if d not in self.lanes]
        if len(own) > 1:
            shape = ", ".join(self.dims(name))
            raise UnsupportedError(
                f"a loop that multiplies a state by a large recurrent param and also keeps `{name}[{shape}]`, "
                "which has more than one dim that is not independent"
            )
        return own[0] if own else None

    def _phase_of(self, name: str) -> Phase:
        if name not in self.wanted:
            equation = self.body[name]
            dim = self.tile_dim(name)
            level = self._level(equation.expr, axis_ids(equation.expr.dims), dim)
            self.wanted[name] = (level, dim)
        return self.wanted[name]

    def _level(self, expr: ir.Expr, ids: Ids, dim: str | None) -> int:
        """The earliest phase that can compute an expression: after the phases of what it needs whole."""
        level = 0
        for read, how in reads_on(expr, ids, self.body):
            if read.lag != 0 or read.name not in self.body:
                continue
            other, its_dim = self._phase_of(read.name)
            whole = how != axis_ids(read.dims) or its_dim != dim
            level = max(level, other + 1 if whole else other)
        return level

    def phases(self) -> list[Phase]:
        return sorted(set(self.wanted.values()), key=lambda p: (p[0], p[1] or ""))

    def _shared(self) -> set[str]:
        """Values of one phase that another one reads."""
        out: set[str] = set()
        for name, phase in self.wanted.items():
            expr = self.body[name].expr
            for read, how in reads_on(expr, axis_ids(expr.dims), self.body):
                if read.lag != 0 or read.name not in self.body:
                    continue
                if self.wanted[read.name] != phase or how != axis_ids(read.dims):
                    out.add(read.name)
        return out

    def scratch(self, name: str) -> str:
        """The tensor a value goes through."""
        hint = f"{name}_kept" if name in self.carries else f"{name}_shared"
        return self.context.scope(("scratch", id(self.stage), name), hint)

    def before(self) -> list[Step]:
        out: list[Step] = []
        for name in sorted(self.shared - set(self.carries)):
            out.append(Scratch(self.scratch(name), self._shape([], name), self.context.compute(self.dtype(name))))
        for name, carry in self.carries.items():
            tensor = self.scratch(name)
            initial = self.context.scope(("buffer", f"{name}@initial"), f"{name}@initial")
            out.append(Scratch(tensor, self._shape(["2"], name), self.context.compute(carry.dtype)))
            out.append(f"{tensor}[0].copy_({initial})")
        return out

    def after(self) -> list[Step]:
        return [
            f"{self.context.scope(('buffer', final), final)}.copy_({self.scratch(name)}[steps % 2, 0])"
            for name in self.carries
            if self.context.plan.has(final := f"{name}@final")
        ]

    def copies(self, name: str) -> Dims:
        """The lanes a value lacks. The programs over them each compute it, so each keeps a copy of its own."""
        return tuple(d for d in self.lanes if d not in self.dims(name))

    def _shape(self, lead: list[str], name: str) -> str:
        copies = math.prod(self.context.size(d) for d in self.copies(name))
        return f"({', '.join([*lead, str(copies), 'batch', *(str(self.context.size(d)) for d in self.dims(name))])},)"

    def block(self, dim: str) -> int:
        """Positions of a dim in one tile; all of them where the body reduces over the dim."""
        whole = power_of_two(self.context.size(dim))
        reduced = any(isinstance(n, ir.Reduce) and dim in n.over for e in self.body.values() for n in ir.walk(e.expr))
        if reduced and whole > 1024:
            raise UnsupportedError(
                f"a reduction over {dim} in a loop with a large recurrent param: {dim} can be at most 1024"
            )
        return max(whole, 16) if reduced else min(max(whole, 16), self.options.block_h or self._tile())

    def _tile(self) -> int:
        """As many positions as leave registers for the operands beside the sums of all products: half as many where
        rows of weights start anywhere, since there every element has an address and a mask of its own. Never fewer than
        give each warp a tile of the tensor core (8 x 8 in f64): with fewer, warps repeat each other's work."""
        real = self.context.spec.real
        words = self.products * ROWS * real.accumulator.itemsize // 4
        room = 32 * WARPS * (_SUMS if self._aligned() else _SUMS // 2)
        return max(min(power_of_two(room // words + 1) // 2, 64), 32 if real is DType.F64 else 16)

    def _aligned(self) -> bool:
        """Whether all rows of the recurrent weights start at multiples of 16 elements, as far as Triton can tell."""
        found = [
            pair[1]
            for equation in self.body.values()
            for node in ir.walk(equation.expr)
            if isinstance(node, ir.Contract) and (pair := sides(self.context, node, self.computed))
        ]
        return all(self.context.size(read.dims[-1]) % 16 == 0 for weight in found for read in ir.reads(weight))


def reads_on(expr: ir.Expr, ids: Ids, body: dict[str, ir.Equation]) -> list[tuple[ir.Read, Ids]]:
    """The reads of an expression with the axes they are read on; packed values are looked through."""
    match expr:
        case ir.Read(name=name, lag=0) if name in body and any(isinstance(i, int) for i in ids):
            inner = body[name].expr
            where = dict(zip(axis_ids(expr.dims), ids, strict=True))
            return reads_on(inner, tuple(where[i] for i in axis_ids(inner.dims)), body)
        case ir.Read():
            return [(expr, ids)]
        case ir.Apply():
            where = dict(zip(axis_ids(expr.dims), ids, strict=True))
            return [r for a in expr.args for r in reads_on(a, tuple(where[i] for i in axis_ids(a.dims)), body)]
        case ir.Reduce():
            where = dict(zip(expr.dims, ids, strict=True)) | {d: f"{d}'reduced" for d in expr.over}
            return reads_on(expr.arg, tuple(where[d] for d in expr.arg.dims), body)
        case ir.Contract():
            labels = label_ids(expr, ids)
            summed = {k: f"{i}'summed" for k, i in labels.items() if k not in expr.out_axes}
            labels = labels | summed
            left = reads_on(expr.left, tuple(labels[k] for k in expr.left_axes), body)
            return left + reads_on(expr.right, tuple(labels[k] for k in expr.right_axes), body)
        case ir.Reaxis():
            inner_ids: list[str | int | Place] = [0] * len(expr.arg.dims)
            for axis, target in zip(expr.axes, ids, strict=True):
                inner_ids[axis] = target
            if expr.at is not None and expr.index is not None:
                inner_ids[expr.at] = expr.index
            return reads_on(expr.arg, tuple(inner_ids), body)
        case ir.Broadcast():
            where = dict(zip(axis_ids(expr.dims), ids, strict=True))
            return reads_on(expr.arg, tuple(where[d] for d in expr.arg.dims), body)
        case ir.Gather(arg=arg, axis=axis, index=index):
            where = dict(zip(axis_ids(expr.dims), ids, strict=True))
            rest = [where[i] for i in axis_ids(arg.dims[:axis] + arg.dims[axis + 1 :])]
            rest.insert(axis, f"{arg.dims[axis]}'picked")
            asked = reads_on(index, tuple(where[i] for i in axis_ids(index.dims)), body)
            return asked + reads_on(arg, tuple(rest), body)
        case ir.Unfold(arg=arg, axes=axes):
            near = (f"{i}'near" if at in axes else i for at, i in enumerate(ids[: len(arg.dims)]))
            return reads_on(arg, tuple(near), body)
        case ir.Linalg(args=args):
            return [r for a in args for r in reads_on(a, tuple(f"{i}'matrix" for i in axis_ids(a.dims)), body)]
        case _:
            return []
