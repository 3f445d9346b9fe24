"""A program as plain data, for a JSON file and for the launcher that reads it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from recurc.backends.base import Specialization
from recurc.backends.cuda.program import Program
from recurc.backends.cuda.scope import sizes_of, storage_dtype
from recurc.ir import Const
from recurc.plan import Buffer, Plan, Role


def manifest_of(program: Program, plan: Plan, spec: Specialization) -> dict[str, Any]:
    """Buffers, scratch memory and launches; see `standalone` for what each field does."""
    caller = [b for b in plan.buffers if b.role not in (Role.ONCE, Role.SEQUENCE)]
    return {
        "recurrence": plan.recurrence.name,
        "sizes": dict(spec.sizes),
        "schedules": list(plan.schedules),
        "buffers": [
            {
                "name": b.name,
                "role": b.role.value,
                "dtype": storage_dtype(b, spec).value,
                "dims": list(b.dims),
                "shape": list(sizes_of(b.dims, spec)),
                "default": _declared(b, plan),
            }
            for b in caller
        ],
        "scratch": [_plain(s) for s in program.scratch],
        "steps": [_plain(s) for s in program.steps],
    }


def _declared(buffer: Buffer, plan: Plan) -> str | None:
    """The value before the first step where it is a plain number (as text: JSON has no infinity), else None."""
    if buffer.role is not Role.INITIAL:
        return None
    name = buffer.name.removesuffix("@initial")
    rec = plan.recurrence
    declared = {s.name: s.initial for s in rec.states} | {i.name: i.before for i in rec.inputs}
    value = declared.get(name)
    return repr(value.value) if isinstance(value, Const) and not isinstance(value.value, complex) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    return value
