"""The element a scan combines: its struct, identity and combine as C++, and the struct of the states it applies to."""

from __future__ import annotations

from dataclasses import dataclass

from recurc.backends.base import Specialization
from recurc.backends.cuda.body import Body, Local
from recurc.backends.cuda.flatten import flatten
from recurc.backends.cuda.scalars import arithmetic, c_type
from recurc.backends.cuda.scope import Scope, product
from recurc.backends.emit.names import Names
from recurc.facts import Monoid
from recurc.ir import Equation, Expr
from recurc.plan import Plan, Scan
from recurc.types import Dims, DType


@dataclass(frozen=True)
class Struct:
    """A C++ struct with one field per value, laid out as a compiler does."""

    name: str
    values: tuple[tuple[str, Dims, DType], ...]  # (name, dims, dtype)
    lanes: Dims
    spec: Specialization

    def fields(self, holder: str) -> dict[str, Local]:
        """The fields of a variable of this type, by the values' names."""
        names = Names()
        return {n: Local(f"{holder}.{names(n)}", dims, self.lanes, self.spec) for n, dims, _ in self.values}

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        """(elements, bytes of one) per field."""
        inner = [product([self.spec.size(d) for d in dims if d not in self.lanes]) for _, dims, _ in self.values]
        return [(n, arithmetic(t, self.spec).itemsize) for n, (_, _, t) in zip(inner, self.values, strict=True)]

    @property
    def alignment(self) -> int:
        return 8 if any(size == 8 for _, size in self._sizes) else 4

    @property
    def bytes(self) -> int:
        offset = 0
        for count, size in self._sizes:
            offset = -(-offset // size) * size + count * size
        return -(-offset // self.alignment) * self.alignment

    def declare(self, text: Scope) -> None:
        with text.block(f"struct __align__({self.alignment}) {self.name}", "};"):
            fields = self.fields("")
            for name, _, dtype in self.values:
                text.line(f"{c_type(dtype, self.spec)} {fields[name].declarator.removeprefix('.')};")
        text.line()


def element_struct(stage: Scan, lanes: Dims, spec: Specialization, kernel: str) -> Struct:
    components = tuple((c.name, c.dims, c.dtype) for c in stage.monoid.components)
    return Struct(f"{kernel}_element", components, lanes, spec)


def states_struct(stage: Scan, lanes: Dims, spec: Specialization, kernel: str) -> Struct:
    return Struct(f"{kernel}_states", tuple((c.name, c.dims, c.dtype) for c in stage.carries), lanes, spec)


def preamble(monoid: Monoid, element: Struct, states: Struct, plan: Plan) -> list[str]:
    """Both structs, and the functions NAME_identity and NAME_combine."""
    text = Scope(plan, element.spec)
    text.depth = 0
    element.declare(text)
    states.declare(text)
    body, result = Body(text, element.lanes), element.fields("result")
    with text.block(f"RC_INLINE {element.name} {element.name}_identity()"):
        text.line(f"{element.name} result;")
        for component, expr in zip(monoid.components, monoid.identity, strict=True):
            body.define(result[component.name], expr, declare=False)
        text.line("return result;")
    text.line()
    for side, holder in (("1", "earlier"), ("2", "later")):
        for name, field in element.fields(holder).items():
            body.bind(f"{side}.{name}", 0, field)
    pair = f"const {element.name}& earlier, const {element.name}& later"
    with text.block(f"RC_INLINE {element.name} {element.name}_combine({pair})"):
        text.line(f"{element.name} result;")
        _into(body, monoid, list(monoid.combine), result)
        text.line("return result;")
    text.line()
    return text.lines


def _into(body: Body, monoid: Monoid, exprs: list[Expr], result: dict[str, Local]) -> None:
    named = [Equation(f"{c.name}@new", e) for c, e in zip(monoid.components, exprs, strict=True)]
    targets = {f"{c.name}@new": result[c.name] for c in monoid.components}
    for equation in flatten(named):
        if equation.name in targets:
            body.define(targets[equation.name], equation.expr, declare=False)
        else:
            body.equation(equation)


def lift_equations(monoid: Monoid) -> list[Equation]:
    """The components of one step's element, named `COMPONENT@lift`."""
    return [Equation(f"{c.name}@lift", e) for c, e in zip(monoid.components, monoid.lift, strict=True)]
