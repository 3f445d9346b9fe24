"""Products with a matrix that is held for a chunk of steps, as one product of matrices for each chunk: the steps are
the rows. The held matrix is packed to whole vectors first, some steps at a time are multiplied by it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from recurc.backends.cpu.chunk import LARGEST
from recurc.backends.cpu.names import Spelling
from recurc.backends.emit.text import Text
from recurc.ir import Read
from recurc.plan import Frozen, Matmul

SIGNATURE = "const struct call *call, long b0, long b1, long t0, long t1"


@dataclass(frozen=True)
class HeldProduct:
    """`target[rows, columns] = data[rows, summed] . held[summed, columns]` for all `shared` places, by axis labels."""

    target: str
    data: Read
    held: Read
    data_axes: tuple[int, ...]
    held_axes: tuple[int, ...]
    target_axes: tuple[int, ...]

    @property
    def shared(self) -> tuple[int, ...]:
        return tuple(i for i in self.target_axes if i in self.data_axes and i in self.held_axes)

    @property
    def summed(self) -> tuple[int, ...]:
        return tuple(i for i in self.data_axes if i not in self.target_axes)

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(i for i in self.data_axes if i not in self.held_axes)

    @property
    def columns(self) -> tuple[int, ...]:
        return tuple(i for i in self.target_axes if i not in self.data_axes)

    @property
    def dims(self) -> dict[int, str]:
        return dict(zip(self.data_axes, self.data.dims, strict=True)) | dict(
            zip(self.held_axes, self.held.dims, strict=True)
        )


def held_product(part: Matmul, stage: Frozen, spell: Spelling) -> HeldProduct | None:
    """The product a matmul inside is; None if it is not that of two matrices, which plain loops do."""
    expr = part.expr
    sides = ((expr.left, expr.left_axes), (expr.right, expr.right_axes))
    (data, a), (held, b) = sorted(sides, key=lambda s: isinstance(s[0], Read) and not _moves(s[0], stage))
    assert isinstance(data, Read) and isinstance(held, Read)
    found = HeldProduct(part.target, data, held, a, b, expr.out_axes)
    real = spell.spec.real.accumulator
    buffers = [spell.buffers[n] for n in (part.target, data.name, held.name)]
    if any(spell.spec.dtype(x.dtype).accumulator is not real or x.spacing != 1 for x in buffers):
        return None
    once = all(len(set(axes)) == len(axes) for axes in (a, b))
    if not (once and found.summed and found.columns and set(found.summed) <= set(b)):
        return None
    size = prod(spell.spec.size(found.dims[i]) for i in (*found.summed, *found.columns))
    return found if 2 * size * real.itemsize <= LARGEST else None


def _moves(read: Read, stage: Frozen) -> bool:
    return stage.inside.buffer(read.name).has_time


def print_held_product(found: HeldProduct, spell: Spelling, function: str) -> str:
    """`static void FUNCTION(...)`: sequences b0..b1, steps t0..t1, which lie in one chunk."""
    text = Text()
    dims = found.dims

    def count(labels: tuple[int, ...]) -> str:
        return spell.count([dims[i] for i in labels])

    def place(labels: tuple[int, ...]) -> str:
        """Where an element lies in a contiguous array with these axes, by the loops' variables."""
        terms = [" * ".join([f"n{i}", *(spell.size(dims[j]) for j in labels[k + 1 :])]) for k, i in enumerate(labels)]
        return " + ".join(terms) or "0"

    def over(labels: tuple[int, ...]) -> str:
        return " ".join(f"for (long n{i} = 0; n{i} < {spell.size(dims[i])}; n{i}++)" for i in labels)

    def row(name: str, step: str) -> str:
        return f"AT(call->{spell.field(name)}, {spell.stored(name)}, b, {step})"

    data, held, target = found.data.name, found.held.name, found.target
    summed, columns = f"({place(found.summed)})", place(found.columns)
    text(f"// {target}: a product with {held}, for all steps of a chunk.")
    with text.braces(f"static void {function}({SIGNATURE})"):
        text(f"enum {{ inner = {count(found.summed)}, wide = PADDED({count(found.columns)}) }};")
        text("real right[inner * wide] ALIGNED, left[STEPS * inner] ALIGNED, out[STEPS * wide] ALIGNED;")
        text("memset(right, 0, sizeof right);")
        with text.braces("for (long b = b0; b < b1; b++)"), text.braces(over(found.shared)):
            text(f"const {spell.stored(held)} *from = ROW(call->{spell.field(held)}, {spell.stored(held)}, b);")
            text(f"{over(found.summed)} {over(found.columns)}")
            text(f"    right[{summed} * wide + {columns}] = from[{place(found.held_axes)}];")
            with text.braces(" ".join(["for (long t = t0; t < t1; t += STEPS)", over(found.rows)])):
                text("const long count = t1 - t < STEPS ? t1 - t : STEPS;")
                with text.braces("for (long i = 0; i < count; i++)"):
                    text(f"const {spell.stored(data)} *given = {row(data, 't + i')};")
                    text(f"{over(found.summed)} left[i * inner + {summed}] = given[{place(found.data_axes)}];")
                text("rc_product(out, wide, left, inner, right, wide, count, inner, wide, 0);")
                with text.braces("for (long i = 0; i < count; i++)"):
                    text(f"{spell.stored(target)} *to = {row(target, 't + i')};")
                    text(f"{over(found.columns)} to[{place(found.target_axes)}] = out[i * wide + {columns}];")
    return str(text)


__all__ = ["HeldProduct", "held_product", "print_held_product"]
