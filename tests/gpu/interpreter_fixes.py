"""Repairs to Triton's interpreter (3.6 to 3.9), so that it can stand in for a GPU in tests.

Import after setting TRITON_INTERPRET=1, before any kernel runs. Without them bf16 arithmetic works on raw bits,
a scan with a combine of one's own calls Python for every element, and Triton 3.6.0 trips over NumPy 2.4."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
import triton.runtime.interpreter as interpreter

Builder = interpreter.InterpreterBuilder
Handle = interpreter.TensorHandle


def _to_bf16(values: np.ndarray) -> np.ndarray:
    """The bits of bf16, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _from_bf16(bits: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _is_bf16(handle: Any) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _widened(handle: Any) -> Any:
    return Handle(_from_bf16(handle.data), tl.float32) if _is_bf16(handle) else handle


def repair() -> None:
    """Puts the repairs in place for this process."""
    cast, binary, unary, dot = Builder.cast_impl, Builder.binary_op, Builder.unary_op, Builder.create_dot

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        have, want = source.dtype.scalar, target.scalar
        if have == want:
            return source
        if have == tl.bfloat16:
            wide = _widened(source)
            return wide if want == tl.float32 else cast(self, wide, target)
        if want == tl.bfloat16:
            return Handle(_to_bf16(source.data.astype(np.float32)), want)
        return cast(self, source, target)

    def binary_op(self: Any, left: Any, right: Any, op: Any) -> Any:
        if not _is_bf16(left):
            return binary(self, left, right, op)
        result = op(_widened(left).data, _widened(right).data)
        return Handle(result, tl.int1) if result.dtype == np.bool_ else Handle(_to_bf16(result), tl.bfloat16)

    def unary_op(self: Any, operand: Any, op: Any) -> Any:
        if not _is_bf16(operand):
            return unary(self, operand, op)
        return Handle(_to_bf16(op(_widened(operand).data)), tl.bfloat16)

    def create_dot(self: Any, left: Any, right: Any, *rest: Any) -> Any:
        return dot(self, _widened(left), _widened(right), *rest)

    def generic_scan(self: Any, parts: Any) -> list[Any]:
        """Hillis and Steele: log2(n) combines of whole tiles, each with the tile moved by a power of two."""
        axis, values, types = self.axis, [p.handle.data for p in parts], [p.dtype for p in parts]
        length = values[0].shape[axis]
        place = np.arange(length).reshape([length if i == axis % values[0].ndim else 1 for i in range(values[0].ndim)])
        shift = 1
        while shift < length:
            earlier = [self.to_tensor(np.roll(v, shift, axis), t) for v, t in zip(values, types, strict=True)]
            later = [self.to_tensor(v, t) for v, t in zip(values, types, strict=True)]
            with np.errstate(all="ignore"):
                made = self.combine_fn.fn(*earlier, *later)
            made = made if isinstance(made, tuple | tl.tuple) else (made,)
            values = [np.where(place >= shift, m.handle.data, v) for m, v in zip(made, values, strict=True)]
            shift *= 2
        return [self.to_tensor(v, t) for v, t in zip(values, types, strict=True)]

    patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    Builder.cast_impl, Builder.binary_op, Builder.unary_op = cast_impl, binary_op, unary_op
    Builder.create_dot = create_dot
    interpreter.ScanOps.generic_scan = generic_scan
    interpreter._patch_lang_tensor = patch_lang_tensor
