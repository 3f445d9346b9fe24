"""What the parameters of a function stand for while its body is written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recurc import ir
from recurc.frontend import ast


@dataclass(frozen=True, slots=True)
class Bound:
    """A value, a dim, or both (the name of a dim is also its size); `node` is the argument as written, and `outer`
    the environment it was written in."""

    value: ir.Expr | None
    dim: str | None
    node: ast.Expr
    outer: Environment


Environment = Mapping[str, Bound]
