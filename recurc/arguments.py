"""What a call must be given: names, dims, sizes and element types, checked with a message a person can act on.

Nothing here touches numbers. An array is seen as its name, shape and element type, whatever library it comes from.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from recurc import ir
from recurc.errors import BackendError, ShapeError, UnsupportedError
from recurc.types import Dims, DType, Kind, literal_size

Sizes = dict[str, int]
_MOST_NUMBERS = 2**44  # in one array; NumPy can still count them


@dataclass(frozen=True, slots=True)
class Slot:
    """An array a call takes: an input `(*batch, T, *dims)`, a param or an initial value `(*batch, *dims)`."""

    name: str
    dims: Dims
    dtype: DType
    role: str  # "input", "param" or "initial value"
    bound: str | None = None  # of an `int(Q)`: its elements lie in 0, ..., Q - 1

    @property
    def title(self) -> str:
        return f"the initial value of `{self.name}`" if self.role == "initial value" else f"{self.role} `{self.name}`"

    def wanted(self, layout: str) -> str:
        """The shape it should have, in words."""
        lead = {"BT": ("*batch", "T"), "TB": ("T", "*batch")}[layout] if self.role == "input" else ("*batch",)
        return "(" + ", ".join((*lead, *self.dims)) + ")"


@dataclass(frozen=True, slots=True)
class Seen:
    """An array as the checks see it. `weak`: a Python number, which takes the call's dtype instead of giving one."""

    shape: tuple[int, ...]
    dtype: DType
    weak: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """What the arrays of one call agree on."""

    sizes: tuple[tuple[str, int], ...]
    batch: tuple[int, ...]
    steps: int
    real: DType


def slots_of(rec: ir.Recurrence) -> dict[str, Slot]:
    """The inputs and params of a recurrence, by name, in source order."""
    slots = {i.name: Slot(i.name, i.dims, i.dtype, "input", i.bound) for i in rec.inputs}
    return slots | {p.name: Slot(p.name, p.dims, p.dtype, "param", p.bound) for p in rec.params}


def check_sizes(rec: ir.Recurrence, sizes: Mapping[str, Any]) -> Sizes:
    """Sizes the user wrote, as integers; raises `ShapeError` for an unknown dim, a fraction, NaN or less than 1."""
    known = [d.name for d in rec.dims]
    out: Sizes = {}
    if not hasattr(sizes, "items"):
        raise ShapeError(f"sizes should map dims to integers, as in sizes={{'D': 64}}, got {type(sizes).__name__}")
    for name, size in sizes.items():
        if name not in known:
            raise ShapeError(f"{rec.name} has no dim `{name}`; {_suggest(name, known, 'its dims are')}")
        try:
            whole = 0 if isinstance(size, bool) else operator.index(size)
        except TypeError:
            whole = 0
        if not 1 <= whole < 2**31:
            shown = "NaN" if isinstance(size, float) and math.isnan(size) else repr(size)
            below = " below 2**31" if whole >= 1 else ""
            raise ShapeError(f"the size of dim `{name}` should be a positive integer{below}, got {shown}")
        out[name] = whole
    return out


def with_defaults(rec: ir.Recurrence, sizes: Mapping[str, int]) -> Sizes:
    """`sizes` completed by `R = S` and by the header's defaults."""
    out = dict(sizes)
    for _ in rec.dims:
        for decl in rec.dims:
            if decl.same_as is not None:
                for one, other in ((decl.name, decl.same_as), (decl.same_as, decl.name)):
                    if one in out and out.setdefault(other, out[one]) != out[one]:
                        raise ShapeError(
                            f"{decl.name} and {decl.same_as} are one size in {rec.name}, "
                            f"but {decl.name} is {out[decl.name]} and {decl.same_as} is {out[decl.same_as]}"
                        )
    for decl in rec.dims:
        if decl.default is not None:
            out.setdefault(decl.name, decl.default)
    return out


def check_renames(rec: ir.Recurrence, sizes: Mapping[str, int]) -> None:
    """Raises `ShapeError` where `e as [R]` renames a dim of one size to a dim of another."""
    named = [(e.name, e.expr) for e in rec.equations] + [(s.name, s.initial) for s in rec.states]
    for where, expr in [*named, *((i.name, i.before) for i in rec.inputs if i.before is not None)]:
        for node in ir.walk(expr):
            if not isinstance(node, ir.Reaxis):
                continue
            for axis, new in zip(node.axes, node.dims, strict=True):
                old = node.arg.dims[axis]
                one, other = (literal_size(d) or sizes[d] for d in (old, new))
                if one != other:
                    place = f" (at {node.span})" if node.span else ""
                    raise ShapeError(
                        f"{where} of {rec.name} renames dim {old} to {new}{place}, so both must be one size, "
                        f"but {old} is {one} and {new} is {other}"
                    )


def need_sizes(rec: ir.Recurrence, sizes: Mapping[str, int], purpose: str, how: str = "{}") -> None:
    """Raises `ShapeError` naming the dims whose size is not known; `how` is how they are given, around `D=...`."""
    missing = [d.name for d in rec.dims if d.name not in sizes]
    if missing:
        example = how.format(("," if how.startswith("--") else ", ").join(f"{name}=..." for name in missing))
        raise ShapeError(f"{purpose} needs the size of {', '.join(missing)}: give {example}")


def check_names(rec: ir.Recurrence, slots: Mapping[str, Slot], given: Iterable[str]) -> None:
    """Every name known and none missing, or `ShapeError`."""
    names = list(given)
    missing = [slot for name, slot in slots.items() if name not in names]
    for name in names:
        if name not in slots:
            raise ShapeError(f"{rec.name} has no input or param `{name}`; {_suggest(name, list(slots), 'it takes')}")
    if missing:
        what = ", ".join(f"{slot.title} {slot.wanted('BT')}" for slot in missing)
        raise ShapeError(f"{rec.name} was called without {what}")


def check_dtype(slot: Slot, seen: Seen) -> None:
    """Raises `ShapeError` if the elements are of the wrong kind; numbers of the right kind are converted later."""
    wanted, got = slot.dtype.kind, seen.dtype.kind
    if wanted is got or (wanted is Kind.COMPLEX and got is Kind.REAL):
        return
    if seen.weak and got is Kind.INT and wanted in (Kind.REAL, Kind.COMPLEX):
        return
    needed = {
        Kind.BOOL: "truth values",
        Kind.INT: "integers",
        Kind.REAL: "real numbers",
        Kind.COMPLEX: "complex numbers",
    }
    hint = ""
    if got in (Kind.INT, Kind.BOOL) and wanted in (Kind.REAL, Kind.COMPLEX):
        hint = "; convert it to float first, for example with `.astype('float32')` or `.float()`"
    elif wanted is Kind.INT:
        hint = "; convert it to integers first, for example with `.astype('int64')` or `.long()`"
    raise ShapeError(f"{slot.title} should hold {needed[wanted]}, got {seen.dtype.value}{hint}")


def settle(
    rec: ir.Recurrence,
    slots: Mapping[str, Slot],
    seen: Mapping[str, Seen],
    layout: str,
    declared: Mapping[str, int],
    dtype: DType | None,
    steps: int | None = None,
    source: str = "the sizes given to compile",
) -> Settled:
    """The sizes, batch dims, number of steps and real dtype all arrays agree on; raises `ShapeError` where two do not.

    `seen` has the keys of `slots`. `declared` sizes come from `source`; `steps` is for a recurrence without inputs."""
    sizes, origin = dict(declared), dict.fromkeys(declared, source)
    batch: tuple[int, ...] = ()
    batch_from = ""
    steps_from = "steps="
    for key, slot in slots.items():
        array = seen[key]
        check_dtype(slot, array)
        lead, own = _split(slot, array, layout)
        for dim, size in zip(slot.dims, own, strict=True):
            _bind(slot, array, layout, dim, size, sizes, origin)
        if slot.role == "input":
            count, lead = (lead[0], lead[1:]) if layout == "TB" else (lead[-1], lead[:-1])
            if steps is not None and steps != count:
                raise ShapeError(
                    f"T does not agree: {slot.title} has {count} steps (shape {array.shape}), {steps_from} has {steps}"
                )
            steps, steps_from = count, slot.title
        batch, batch_from = _broadcast(batch, batch_from, lead, slot, array, layout)
    if steps is None:
        raise ShapeError(f"{rec.name} has no inputs, so the call must say how many steps to run: `steps=`")
    complete = with_defaults(rec, sizes)
    need_sizes(rec, complete, f"a call of {rec.name}")
    for key, slot in slots.items():
        numbers = math.prod(batch) * max(steps, 1) * math.prod(literal_size(d) or complete[d] for d in slot.dims)
        if numbers > _MOST_NUMBERS:
            raise BackendError(
                f"a call with T = {steps} and batch dims {batch} makes {numbers:.3g} numbers of {slot.title} (shape "
                f"{seen[key].shape}): no machine has memory for them"
            )
    return Settled(tuple(sorted(complete.items())), batch, steps, dtype or _real(slots, seen))


def _split(slot: Slot, array: Seen, layout: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The leading axes (batch, and time for an input) and the axes of `slot.dims`."""
    rank, least = len(slot.dims), len(slot.dims) + (slot.role == "input")
    if len(array.shape) < least:
        if not array.shape and not slot.dims:
            raise ShapeError(f"{slot.title} should have shape {slot.wanted(layout)}, got a single number")
        missing = "" if slot.role != "input" or len(array.shape) != rank else "; the time axis T seems to be missing"
        raise ShapeError(
            f"{slot.title} should have shape {slot.wanted(layout)}, "
            f"that is at least {least} axes, got shape {array.shape}{missing}"
        )
    return array.shape[: len(array.shape) - rank], array.shape[len(array.shape) - rank :]


def _bind(slot: Slot, array: Seen, layout: str, dim: str, size: int, sizes: Sizes, origin: dict[str, str]) -> None:
    expected, source = literal_size(dim), "the recurrence"
    if expected is None:
        expected, source = sizes.setdefault(dim, size), origin.setdefault(dim, slot.title)
    if size < 1:
        raise ShapeError(f"dim {dim} of {slot.title} has size {size}; only batch and T may be 0 (shape {array.shape})")
    if size != expected:
        raise ShapeError(
            f"{slot.title} should have shape {slot.wanted(layout)} with {dim} = {expected} (from {source}), "
            f"got {dim} = {size} (shape {array.shape})"
        )


def _broadcast(
    batch: tuple[int, ...], origin: str, lead: tuple[int, ...], slot: Slot, array: Seen, layout: str
) -> tuple[tuple[int, ...], str]:
    """The batch dims so far and those of one more array, broadcast against each other as NumPy does."""
    width = max(len(batch), len(lead))
    one, other = (1,) * (width - len(batch)) + batch, (1,) * (width - len(lead)) + lead
    if any(a != b and 1 not in (a, b) for a, b in zip(one, other, strict=True)):
        raise ShapeError(
            f"batch dims do not agree: {slot.title} {slot.wanted(layout)} has {lead} (shape {array.shape}), "
            f"{origin} has {batch}"
        )
    joined = tuple(b if a == 1 else a for a, b in zip(one, other, strict=True))
    return joined, slot.title if joined != batch or not origin else origin


def _real(slots: Mapping[str, Slot], seen: Mapping[str, Seen]) -> DType:
    """The call's real dtype: the widest of the inputs whose type the source leaves open, else of the params."""
    for role in ("input", "param", "initial value"):
        found = [
            DType.F64
            if seen[key].dtype is DType.C128
            else DType.F32
            if seen[key].dtype is DType.C64
            else seen[key].dtype
            for key, slot in slots.items()
            if slot.role == role and slot.dtype.is_generic and not seen[key].weak
        ]
        if found:
            return DType.F32 if {DType.F16, DType.BF16} <= set(found) else max(found, key=lambda d: d.itemsize)
    return DType.F64 if slots and all(s.weak for s in seen.values()) else DType.F32


def check_range(slot: Slot, array: Any, size: int, layout: str, lengths: NDArray[np.int64] | None) -> None:
    """Raises `ShapeError`, naming the first place, if an element of an `int(Q)` is not one of 0, ..., `size` - 1.

    `array` as the caller gave it, of NumPy or torch. Behind the `lengths` of a ragged batch may lie anything."""
    wrong = (array < 0) | (array >= size)
    if not bool(wrong.any()):
        return
    places = np.argwhere(np.asarray(wrong.cpu() if hasattr(wrong, "cpu") else wrong))
    if lengths is not None and slot.role == "input":
        axis = 0 if layout == "TB" else array.ndim - len(slot.dims) - 1
        lead = np.delete(places, axis, 1)[:, : array.ndim - len(slot.dims) - 1]
        known = lead.shape[1] == lengths.ndim
        last = lengths[tuple(lead.T)] if known else np.full(len(places), lengths.max(initial=0))
        places = places[places[:, axis] < last]
    if len(places):
        place = tuple(int(i) for i in places[0])
        shown = f"[{', '.join(map(str, place))}]" if place else "the only place"
        raise ShapeError(
            f"{slot.title} is int({slot.bound}): integers from 0 to {size - 1}, got {int(array[place])} at {shown}"
        )


def check_initial(rec: ir.Recurrence, states: Iterable[str], given: object) -> None:
    """Every initial value belongs to a state, or `ShapeError`."""
    known = list(states)
    if not isinstance(given, Mapping):
        example = f"initial={{{known[0]!r}: ...}}" if known else "nothing, as there is no state"
        raise ShapeError(f"initial should map states to arrays ({example}), got {type(given).__name__}")
    for name in cast("Mapping[str, object]", given):
        if name not in known:
            raise ShapeError(
                f"{rec.name} has no state `{name}` to give an initial value; {_suggest(name, known, 'its states are')}"
            )


def whole_numbers(name: str, value: Any, shape: tuple[int, ...] | None, wanted: str) -> NDArray[np.int64]:
    """`lengths` or `cu_seqlens` as int64 in host memory; raises `ShapeError` if they are not integers of that shape
    (None: any number of them in a row)."""
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except ValueError as wrong:  # lists of unequal lengths
        raise ShapeError(f"{name} should have shape {wanted}, got rows of unequal lengths") from wrong
    except (TypeError, RuntimeError) as wrong:  # tensors of another kind, or without memory: on `meta`, under vmap
        raise ShapeError(f"{name} should hold integers, got what NumPy cannot read: {wrong}") from wrong
    if array.size == 0 and isinstance(value, (list, tuple)):
        array = array.astype(np.int64)  # an empty list says nothing of its type
    if array.dtype.kind not in "iu":
        raise ShapeError(f"{name} should hold integers, got {array.dtype}")
    if array.shape != shape if shape is not None else array.ndim != 1:
        raise ShapeError(f"{name} should have shape {wanted}, got {array.shape}")
    return array.astype(np.int64)


_NAMES = {
    "float16": DType.F16, "half": DType.F16, "bfloat16": DType.BF16, "float32": DType.F32, "float": DType.F32,
    "single": DType.F32, "float64": DType.F64, "double": DType.F64,
}  # fmt: skip


def real_dtype(dtype: Any) -> DType | None:
    """The `dtype=` of a compilation, from a `DType`, a NumPy or torch dtype or a name; None stays None.

    Raises `UnsupportedError` for what is not a real dtype recurc stores."""
    if dtype is None:
        return None
    if isinstance(dtype, DType):
        found = dtype
    else:
        text = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype)
        text = text.removeprefix("torch.")
        found = _NAMES.get(text) or next((d for d in DType if d.value == text), None)
    if found not in (DType.F16, DType.BF16, DType.F32, DType.F64):
        raise UnsupportedError(f"dtype={dtype!r}: a call computes in one of f16, bf16, f32, f64")
    return found


def check_count(what: str, value: object) -> int:
    """A number of things, 0 or more; raises `ShapeError` for anything else."""
    try:
        count = -1 if isinstance(value, bool) else operator.index(cast(SupportsIndex, value))
    except TypeError:
        count = -1
    if count < 0:
        raise ShapeError(f"{what} should be an integer, 0 or more, got {value!r}")
    if count >= 2**48:
        raise ShapeError(f"{what} should be an integer from 0 to 2**48, got {count}")
    return count


def check_flag(what: str, value: object) -> bool:
    """A truth value (an integer is one too); raises `ShapeError` for anything else."""
    if value is None or isinstance(value, (bool, int)):
        return bool(value)
    if isinstance(value, np.bool_):
        return bool(cast(Any, value))
    raise ShapeError(f"{what} should be True or False, got {type(value).__name__}")


def _suggest(name: object, known: list[str], otherwise: str) -> str:
    close = difflib.get_close_matches(str(name), known, 1)
    return f"did you mean `{close[0]}`?" if close else f"{otherwise} {', '.join(known) or 'none'}"
