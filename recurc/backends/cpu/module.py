"""The C file of a plan: header, helpers, one function per stage, and the entry that runs them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recurc.backends.base import Specialization
from recurc.backends.cpu import tiles
from recurc.backends.cpu.blas import Product, hoisted_products
from recurc.backends.cpu.body import Body
from recurc.backends.cpu.chunk import fits, print_chunk
from recurc.backends.cpu.chunk import helpers as chunk_helpers
from recurc.backends.cpu.entry import EntryPrinter, StageCode, Unit, all_units, external_buffers
from recurc.backends.cpu.frozen import FrozenParts, call_part, print_frozen, share_steps
from recurc.backends.cpu.held_product import held_product, print_held_product
from recurc.backends.cpu.loop import print_loop
from recurc.backends.cpu.names import STORED
from recurc.backends.cpu.newton import parts
from recurc.backends.cpu.panels import pack_function, packed_params
from recurc.backends.cpu.prelude import base_helpers, helpers, vector_types
from recurc.backends.cpu.program import StageInput, analyse, describe
from recurc.backends.cpu.stages import absorb, as_input, kind_of
from recurc.backends.emit.text import Text, commented, wrapped_names
from recurc.plan import Chunk, Frozen, Fused, JointChunk, Map, Matmul, Newton, Plan, Scan, Stage, taken_apart

_APART = "#define APART(n) ((n) | LANES)  // an odd number of vectors: rows side by side share no place of a cache\n"


@dataclass
class Module:
    """A printed C file and the order in which its entry takes arrays."""

    text: str
    arrays: tuple[str, ...]
    packed: frozenset[str]  # params the kernel packs once for all sequences
    products: tuple[Product, ...]  # what the caller may hand over ready made, in slots after the arrays
    solved: tuple[str, ...]  # the states of each group that Newton's method solves


def print_module(plan: Plan, spec: Specialization, vector_bytes: int, standalone: bool = False) -> Module:
    """The C file of a plan. A `standalone` one makes every product itself."""
    plan = taken_apart(plan, lambda stage: isinstance(stage, JointChunk) and not fits(stage, spec))
    printer = _ModulePrinter(plan, spec, vector_bytes, () if standalone else hoisted_products(plan, spec))
    packed = frozenset(p for s in printer.stages for u in all_units(s) for p in packed_params(u.body))
    solved = tuple(", ".join(c.name for c in n.stage.carries) for n in printer.newtons.values())
    return Module(printer.file(), tuple(external_buffers(plan)), packed, printer.products, solved)


class _ModulePrinter(EntryPrinter):
    def __init__(self, plan: Plan, spec: Specialization, vector_bytes: int, products: tuple[Product, ...]) -> None:
        super().__init__(plan, spec, vector_bytes, products)
        self.stages = [self._stage(k, s) for k, s in enumerate(plan.stages)]

    # --- stages -----------------------------------------------------------------------------------------------

    def _stage(self, number: int, stage: Stage) -> StageCode:
        title = f"{self.plan.recurrence.name.lower()}_{kind_of(stage)}"
        if isinstance(stage, Scan | Fused):
            loops = self.loops[number]
            units = [self._unit(part, f"{title}_{end}", what) for part, end, what in loops.parts()]
            return StageCode(stage, units, loops)
        if isinstance(stage, Newton):
            solver = self.newtons[number]
            units = [self._unit(part, f"{title}_{end}", what) for part, end, what in parts(solver)]
            return StageCode(stage, units, newton=solver)
        if isinstance(stage, Chunk | JointChunk):
            function = self.names.fresh(title).removesuffix("_1")
            return StageCode(stage, [], chunk=(function, print_chunk(stage, self.spell, function)))
        if isinstance(stage, Frozen):
            return self._frozen(stage, self.frozen[number], title)
        match stage:
            case Map():
                what = "No feedback: every step by itself."
            case Matmul():
                what = "One matrix product over all sequences and steps."
            case _:
                what = "One pass over t; states stay close."
        code = StageCode(stage, [self._unit(as_input(stage, f"stage{number}"), title, what)])
        taken = absorb(self.plan, number) if code.units[0].program.tiled else None
        if taken is not None:
            more = "The products before it are computed inside: their sums join the sums over the states."
            whole = self._unit(as_input(taken[0], f"stage{number}"), f"{title}_whole", f"{what}\n{more}")
            if whole.program.tiled and len(whole.program.nests) == len(code.units[0].program.nests):
                code.whole = whole
                self.absorbed |= set(taken[1])
        return code

    def _frozen(self, stage: Frozen, found: FrozenParts, title: str) -> StageCode:
        units, products, calls = list[Unit](), list[str](), list[Text]()
        for part, made in found.parts:
            hint = f"{title}_{kind_of(part)}"
            product = held_product(part, stage, self.spell) if isinstance(part, Matmul) else None
            if product is None:
                units.append(self._unit(made, hint, "The steps of a chunk."))
                calls.append(call_part(self, part, units[-1]))
            else:
                function = self.names.fresh(hint).removesuffix("_1")
                products.append(print_held_product(product, self.spell, function))
                calls.append(share_steps(function, ""))
        function = self.names.fresh(title).removesuffix("_1")
        whole = print_frozen(self, found, calls, function)
        return StageCode(stage, units, frozen=(function, "\n\n".join([*products, whole])))

    def _unit(self, stage: StageInput, hint: str, what: str) -> Unit:
        program = analyse(stage, self.buffers, self.spec)
        body = Body(program, self.spell)
        body.lanes = self.lanes
        function = body.function = self.names.fresh(hint).removesuffix("_1")
        why = f"{what}\n{describe(program)}"
        text = tiles.print_tiled(body, function, why) if program.tiled else print_loop(body, function, why)
        if program.weights and not program.tiled:
            text = f"{pack_function(body)}\n\n{text}"
        return Unit(function, body, text)

    # --- the file ---------------------------------------------------------------------------------------------

    def file(self) -> str:
        texts = [t for s in self.stages for t in _texts(s)]
        chunks = [s.stage for s in self.stages if isinstance(s.stage, Chunk | JointChunk)]
        if chunks or any("rc_product(" in t for t in texts):  # products with what is frozen are of that kind too
            parts = [p for s in chunks for p in (s.parts if isinstance(s, JointChunk) else (s,))]
            texts.insert(0, chunk_helpers(not all(p.form.columns for p in parts)))
        functions = "\n\n".join(texts)
        entry = self.entry()
        code = f"{functions}\n\n{entry}"
        fields = sorted(set(re.findall(r"\b(?:call|self)(?:->|\.)(\w+)", code)) - {"batch", "steps"})
        struct = Text()
        struct("// Every array a stage reads or writes.")
        with struct.braces("struct call", "};"):
            struct("int64_t batch, steps;")
            struct(*wrapped_names("rc_array ", fields, ";"))
        real = self.real.value
        dims = "\n".join(f"enum {{ {self.spell.size(d)} = {n} }};" for d, n in self.spec.sizes)
        types = (
            f"#define RC_VECTOR_BYTES {self.vector_bytes}\n"
            + vector_types(["f32", "f64"])
            + f"\ntypedef {STORED[self.real]} real;\ntypedef v{real} vec;\n"
            + f"#define LANES RC_LANES_v{real}\n"
            + "#define PADDED(n) (((n) + LANES - 1) / LANES * LANES)  // local arrays hold whole vectors\n"
            + (_APART if "APART(" in code else "")
            + "INLINE long rc_lanes(long left) { return left < LANES ? left : LANES; }"
        )
        if "one_row(" in code:
            struct("")
            struct(
                "// A single row reads its weights where they lie: panels only pay for themselves from the second on."
            )
            with struct.braces("INLINE int one_row(const struct call *call)"):
                struct("return call->batch == 1 && call->steps == 1;")
        parts = [self._header(), base_helpers(), types, helpers(code), dims, str(struct), functions, entry]
        return "\n\n".join(p for p in parts if p) + "\n"

    def _header(self) -> str:
        plan, rec = self.plan, self.plan.recurrence
        origin = f" from {rec.span.file}" if rec.span else ""
        lines = [f"{rec.name}{origin}, generated by recurc: native CPU code for {self.spec.real.value} arrays."]
        if rec.doc:
            lines += [line.strip() for line in rec.doc.strip().splitlines()]
        lines.append("")
        lines.append(
            "Sizes: " + (", ".join(f"{d} = {n}" for d, n in self.spec.sizes) or "none") + "; batch and steps are free."
        )
        for group, schedule in zip(plan.analysis.groups, plan.schedules, strict=False):
            lines.append(f"States {', '.join(group.states)}: class {group.cls}, schedule {schedule}.")
            lines += [f"  {reason}" for reason in group.reasons]
        lines += [f"{reason}" for reason in plan.reasons]
        lines.append("Stages: " + "; ".join(f"{kind_of(s)} -> {', '.join(s.writes)}" for s in plan.stages) + ".")
        lines.append("")
        lines.append("Arrays the entry takes, in order (batch and time strides in elements, inner dims contiguous):")
        for name, b in external_buffers(plan).items():
            axes = ["batch", *(["steps"] if b.has_time else []), *b.dims, *(["2"] if b.part else [])]
            what = b.role.value if b.part is None else f"{b.role.value}, complex: pairs of a real and an imaginary part"
            lines.append(f"  {name}[{', '.join(axes)}]: {self.spec.dtype(b.dtype).accumulator.value}, {what}")
        for product in self.products:
            axes = ["batch", "steps", *self.buffers[product.target].dims]
            about = f"{self.real.value}, product of {product.data} and {product.weight}"
            lines.append(f"  {product.target}[{', '.join(axes)}]: {about}; made here if the slot is empty")
        return "\n".join(f"// {commented(line)}".rstrip() for line in lines)


def _texts(code: StageCode) -> list[str]:
    """The C functions of a stage, each behind those it calls."""
    whole = [made[1] for made in (code.chunk, code.frozen) if made is not None]
    return [*(u.text for u in all_units(code)), *whole]


__all__ = ["Module", "print_module"]
