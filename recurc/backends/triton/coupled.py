"""A `Chunk` stage over several states that feed each other by plain numbers, as one kernel.

As for one state, with a small matrix of factors per step in place of a decay. The products of those between two steps
of a chunk are one `tl.associative_scan` down the columns of a tile of steps by steps, in which a factor stands where
its step lies between the two, and the identity elsewhere: nothing is divided. `pairs_A_B` is what reaches state A
before a step of what an earlier step wrote to state B, `until_A_B` what reaches it after the step."""

from __future__ import annotations

from recurc import ir
from recurc.backends.triton.chunk import ChunkCode
from recurc.backends.triton.kernel import Options, StageText, triton_type
from recurc.backends.triton.values import Context
from recurc.plan import Chunk

Pair = tuple[int, int]


def emit_chunk(context: Context, stage: Chunk, name: str, options: Options) -> StageText:
    """The stage as one kernel."""
    kind = ChunkCode if len(stage.form.states) == 1 else CoupledCode
    return (kind(context, stage, options).kernel(name),)


class CoupledCode(ChunkCode):
    """The kernel of several states."""

    def __init__(self, context: Context, stage: Chunk, options: Options) -> None:
        super().__init__(context, stage, options)
        self.along = "none"
        self.paths = self.form.paths
        self.factors = {p for p in self.paths if p in self.form.decays or p[0] == p[1]}
        self.keys = [
            [(k, tuple(a for a, e in enumerate(w.keys) if e == k)) for k in dict.fromkeys(w.keys) if k is not None]
            for w in self.form.writes
        ]
        self.probes = [] if self.probe is None else self._probes(self.probe)

    def _probes(self, write: int) -> list[tuple[str, int]]:
        probes = self.form.writes[write].probes
        return [(f"probe_{a}", a) for a, p in enumerate(probes) if p is not None]

    def state(self, place: int) -> str:
        return f"state_{place}"

    def _named(self, name: str, pair: Pair) -> str:
        return f"{name}_{pair[0]}_{pair[1]}"

    def _all(self, name: str) -> str:
        return ", ".join(self._named(name, p) for p in self.paths)

    @property
    def combine(self) -> str:
        """The name of the function that multiplies factors, which no other kernel of the file has."""
        return self.context.scope(("factors", self.form.states), f"{'_'.join(self.form.states)}_factors")

    def helpers(self, name: str) -> str:
        """The product of the factors of two stretches of steps, the earlier first."""
        products = [" + ".join(f"later_{a}_{b} * earlier_{b}_{c}" for b in self._between(a, c)) for a, c in self.paths]
        head = f"def {self.combine}({self._all('earlier')}, {self._all('later')}):"
        return "\n".join(["@triton.jit", head, f"    return {', '.join(products)}"])

    def _between(self, a: int, c: int) -> list[int]:
        return [b for b, _ in enumerate(self.form.states) if (a, b) in self.paths and (b, c) in self.paths]

    # --- memory -----------------------------------------------------------------------------------------------------

    def _operands_of_chunk(self) -> None:
        form, lines = self.form, self.lines
        for n, write in enumerate(form.writes):
            for m, (key, _) in enumerate(self.keys[n]):
                lines.append(f"keys_{n}_{m} = {self._tile(key, form.rows)}")
            if write.value is not None:
                lines.append(f"rows_{n} = {self._tile(write.value, form.columns)}")
        for name, a in self.probes:
            assert self.probe is not None
            lines.append(f"{name} = {self._tile(form.writes[self.probe].probes[a], form.rows)}")

    def _factor(self, pair: Pair, shift: int) -> str:
        """A factor of each step, or of the one before: the identity where there is no such step."""
        factor = self.form.decays.get(pair)
        other = int(pair[0] == pair[1])
        inside = "(step <= steps) & (r > 0)" if shift else "in_t"  # what counts for the first step behind the last one
        if isinstance(factor, ir.Read):
            return self._tile(factor, (), shift, other, inside)
        value = 0.0 if factor is None else 1.0
        return f"tl.where({inside}, {value}, {float(other)}).to({triton_type(self.dtype)})"

    def _decays_of_chunk(self) -> None:
        lines, kind = self.lines, triton_type(self.dtype)
        lines.append("# the factors of each step and of the one before; their products before, between and up to steps")
        for pair in self.paths:
            own = float(pair[0] == pair[1])
            for name, shift in (("factor", 0), ("earlier", -1)):
                known = pair in self.factors
                value = self._factor(pair, shift) if known else f"tl.full((BLOCK_T,), 0, {kind})"
                lines.append(f"{self._named(name, pair)} = {value}")
            between = f"tl.where(step[:, None] > step[None, :] + 1, {self._named('earlier', pair)}[:, None], {own})"
            lines.append(f"{self._named('pairs', pair)} = {between}")
        for found, given in (("before", "earlier"), ("pairs", "pairs")):
            lines.append(f"{self._all(found)} = tl.associative_scan(({self._all(given)}), 0, {self.combine})")
        for a, c in self.paths:
            own = float(a == c)
            past = " + ".join(f"factor_{a}_{b} * before_{b}_{c}" for b in self._between(a, c))
            until = " + ".join(f"factor_{a}_{b}[:, None] * pairs_{b}_{c}" for b in self._between(a, c))
            lines += [
                f"past_{a}_{c} = {past}",
                f"until_{a}_{c} = tl.where(lower, {until}, tl.where(same, {own}, 0.0))",
                f"total_{a}_{c} = tl.sum(tl.where(r == BLOCK_T - 1, past_{a}_{c}, 0), 0)",
                f"after_{a}_{c} = tl.sum(tl.where((r == BLOCK_T - 1)[:, None], until_{a}_{c}, 0), 0)",
            ]
        for pair in self.paths:
            name = self._named("pairs", pair)
            lines.append(f"{name} = tl.where(lower, {name}, 0)")

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def _reaching(self, a: int, into: tuple[int, ...]) -> list[int]:
        return [b for b in into if (a, b) in self.paths]

    def _lefts(self, left: str) -> list[tuple[str, int]]:
        """The values behind a left side, each with the state it meets."""
        return self.probes if left == "probe" else [(left, self.reads[int(left.removeprefix("query_"))].state)]

    def _products(self) -> None:
        """Queries are loaded when their turn comes: with two states there is no room in registers for all at once."""
        if self.probe is not None:
            self._weights_of("probe", False)
            self._system(self.probe)
        for n, read in enumerate(self.reads):
            self.lines.append(f"query_{n} = {self._tile(read.query, self.form.rows)}")
            self._weights_of(f"query_{n}", read.now)
            self._read_out(n, read.name)
        self._next_state()

    def _weights_of(self, left: str, now: bool) -> None:
        """What each earlier step of the chunk counts for in a probe or read: `LEFT_by_N`."""
        kernel = "until" if now else "pairs"
        for n, _ in enumerate(self.form.writes):
            terms: list[str] = []
            for name, a in self._lefts(left):
                for m, (_, into) in enumerate(self.keys[n]):
                    ways = " + ".join(f"{kernel}_{a}_{b}" for b in self._reaching(a, into))
                    if ways:
                        terms.append(f"{self._dot(name, f'tl.trans(keys_{n}_{m})')} * ({ways})")
            none = f"tl.zeros((BLOCK_T, BLOCK_T), {triton_type(self.dtype)})"
            self.lines.append(f"{left}_by_{n} = {' + '.join(terms) or none}")

    def _from_state(self, left: str, now: bool) -> str:
        before = "past" if now else "before"
        terms = [
            self._dot(f"{name} * {before}_{a}_{c}[:, None]", self.state(c))
            for name, a in self._lefts(left)
            for b, c in self.paths
            if b == a
        ]
        return " + ".join(terms)

    def _next_state(self) -> None:
        lines = self.lines
        lines.append("# the states after the chunk")
        for a, _ in enumerate(self.form.states):
            kept = [f"total_{a}_{c} * {self.state(c)}" for b, c in self.paths if b == a]
            for n, _ in enumerate(self.form.writes):
                for m, (_, into) in enumerate(self.keys[n]):
                    ways = " + ".join(f"after_{a}_{b}" for b in self._reaching(a, into))
                    if ways:
                        kept.append(self._dot(f"tl.trans(keys_{n}_{m} * ({ways})[:, None])", f"rows_{n}"))
            lines += [f"next_{a} {'+' if n else ''}= {term}" for n, term in enumerate(kept)]
        lines += [f"{self.state(a)} = next_{a}" for a, _ in enumerate(self.form.states)]


__all__ = ["emit_chunk"]
