"""A `Chunk` stage over several states that feed each other by plain numbers, as one kernel.

As for one state, with a small matrix of factors per step in place of a decay. The products of those between two steps
of a chunk are one `tl.associative_scan` down the columns of a tile of steps by steps, in which a factor stands where
its step lies between the two, and the identity elsewhere: nothing is divided. `pairs_A_B` is what reaches state A
before a step of what an earlier step wrote to state B, `until_A_B` what reaches it after the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from recurc import ir
from recurc.backends.triton.chunk import ChunkCode
from recurc.backends.triton.chunk_lines import Pieces, Query, Rows
from recurc.backends.triton.kernel import Options, StageText, triton_type
from recurc.backends.triton.values import Context
from recurc.plan import Chunk

Pair = tuple[int, int]


def emit_chunk(context: Context, stage: Chunk, name: str, options: Options) -> StageText:
    """The stage as one kernel, or as two where what weighs the rows of a chunk is found first."""
    kind = ChunkCode if len(stage.form.states) == 1 else CoupledCode
    chunks, weights = kind(context, stage, options), kind(context, stage, options)
    found = weights.scratch() if weights.tiles.block_s else []
    if not found:
        return (replace(chunks.kernel(name), helpers=chunks.helpers()),)
    first = replace(weights.weights_kernel(f"{name}_weights"), helpers=weights.helpers())
    return (*found, first, chunks.kernel(name))


class CoupledCode(ChunkCode):
    """The kernel of several states."""

    def __init__(self, context: Context, stage: Chunk, options: Options) -> None:
        super().__init__(context, stage, options)
        self.along = "none"
        self.paths = self.form.paths
        self.factors = {p for p in self.paths if p in self.form.decays or p[0] == p[1]}

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

    def helpers(self) -> str:
        """The product of the factors of two stretches of steps, the earlier first."""
        products = [" + ".join(f"later_{a}_{b} * earlier_{b}_{c}" for b in self._between(a, c)) for a, c in self.paths]
        head = f"def {self.combine}({self._all('earlier')}, {self._all('later')}):"
        return "\n".join(["@triton.jit", head, f"    return {', '.join(products)}"])

    def _between(self, a: int, c: int) -> list[int]:
        return [b for b, _ in enumerate(self.form.states) if (a, b) in self.paths and (b, c) in self.paths]

    # --- memory -----------------------------------------------------------------------------------------------------

    def _pairs_of_lines(self) -> list[tuple[int, int]]:
        """Products of factors are those of steps until they meet an operand."""
        system = {(r.lines, r.lines) for r in self.tiles.rows if r.corrects}
        return sorted({(1, 1)} | system)

    def _keys(self, rows: Rows) -> list[tuple[str, Pieces, tuple[int, ...]]]:
        return [(f"keys_{rows.number}_{m}", key, into) for m, (key, into) in enumerate(rows.keys)]

    def _sides(self, left: Query) -> list[tuple[str, Pieces, int]]:
        corrected = self.tiles.corrected
        if left.name != "probe" or corrected is None:
            return [(left.name, left.pieces, left.state)]
        return [(f"probe_{a}", p, a) for a, p in enumerate(corrected.probes) if p]

    def _loads_along_rows(self, *only: Rows) -> None:
        """Queries are loaded when their turn comes: with two states there is no room in registers for all at once."""
        for rows in only or self.tiles.rows:
            for name, key, _ in self._keys(rows):
                self._operand(name, key, rows.lines)
            if rows.corrects:
                for name, probe, _ in self._sides(self.tiles.lefts[0]):
                    self._operand(name, probe, rows.lines)

    def _factor(self, pair: Pair, shift: int) -> str:
        """A factor of each step, or of the one before: the identity where there is no such step."""
        factor = self.form.decays.get(pair)
        other = int(pair[0] == pair[1])
        inside = "(step <= steps) & (r > 0)" if shift else "in_t"  # what counts for the first step behind the last one
        if isinstance(factor, ir.Read):
            return self._of_steps(factor, (), "", shift, inside, other)
        value = 0.0 if factor is None else 1.0
        return f"tl.where({inside}, {value}, {float(other)}).to({triton_type(self.dtype)})"

    def _decays_of_chunk(self) -> None:
        lines = self.lines
        if self.tiles.block_s:
            self._factors()
        else:
            self._decays_between_steps()
        lines.append("# their products before, up to and after steps")
        lines.append(f"{self._all('before')} = tl.associative_scan(({self._all('earlier')}), 0, {self.combine})")
        for a, c in self.paths:
            past = " + ".join(f"factor_{a}_{b} * before_{b}_{c}" for b in self._between(a, c))
            lines += [
                f"past_{a}_{c} = {past}",
                f"total_{a}_{c} = tl.sum(tl.where(r == BLOCK_T - 1, past_{a}_{c}, 0), 0)",
            ]
            self._recall(f"after_{a}_{c}")

    def _factors(self) -> None:
        self.lines.append("# the factors of each step and of the one before")
        for pair in self.paths:
            for name, shift in (("factor", 0), ("earlier", -1)):
                known = pair in self.factors
                value = self._factor(pair, shift) if known else f"tl.full((BLOCK_T,), 0, {triton_type(self.dtype)})"
                self.lines.append(f"{self._named(name, pair)} = {value}")

    def _decays_between_steps(self) -> None:
        lines = self.lines
        self._factors()
        lines.append("# their products between steps, and after them")
        for pair in self.paths:
            own = float(pair[0] == pair[1])
            between = f"tl.where(step[:, None] > step[None, :] + 1, {self._named('earlier', pair)}[:, None], {own})"
            lines.append(f"{self._named('pairs', pair)} = {between}")
        lines.append(f"{self._all('pairs')} = tl.associative_scan(({self._all('pairs')}), 0, {self.combine})")
        for a, c in self.paths:
            until = " + ".join(f"factor_{a}_{b}[:, None] * pairs_{b}_{c}" for b in self._between(a, c))
            lines += [
                f"until_{a}_{c} = tl.where(lower, {until}, tl.where(same, {float(a == c)}, 0.0))",
                f"after_{a}_{c} = tl.sum(tl.where((r == BLOCK_T - 1)[:, None], until_{a}_{c}, 0), 0)",
            ]
        for pair in self.paths:
            name = self._named("pairs", pair)
            lines.append(f"{name} = tl.where(lower, {name}, 0)")

    def _stored(self) -> dict[str, tuple[int, ...]]:
        return super()._stored() | {f"after_{a}_{c}": (1,) for a, c in self.paths}

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def _reaching(self, a: int, into: tuple[int, ...]) -> list[int]:
        return [b for b in into if (a, b) in self.paths]

    def _products(self) -> None:
        for n in sorted(self._left_lines() - {1}):
            for name in ("before", "past"):
                self.lines += [f"{name}_{a}_{c}_{n} = rc_repeated({name}_{a}_{c}, {n})" for a, c in self.paths]
        if not self.tiles.block_s:
            for query in self.tiles.queries:
                self._operand(query.name, query.pieces, query.lines)
            self._weights()
        self._meet_states()
        for n, read in enumerate(self.stage.readouts):
            self._read_out(n, read.name)
        self._next_state()

    def _weights(self) -> None:
        for left in self.tiles.lefts:
            self._weights_of(left)

    def _weights_of(self, left: Query) -> None:
        """What each earlier row of the chunk counts for in a probe or read: `LEFT_by_N`."""
        kernel, sliced = "until" if left.now else "pairs", self.tiles.block_s
        found: dict[int, list[tuple[str, str, str]]] = {rows.number: [] for rows in self.tiles.rows}
        for rows in self.tiles.rows:
            for name, _, a in self._sides(left):
                for key, _, into in self._keys(rows):
                    ways = " + ".join(f"{kernel}_{a}_{b}" for b in self._reaching(a, into))
                    if ways:
                        if not left.lines == rows.lines == 1:
                            ways = f"rc_blocks({ways}, {left.lines}, {rows.lines})"
                        found[rows.number].append((name, key, ways))
        if sliced:
            self._raw_weights_of(left, found)
        for rows in self.tiles.rows:
            terms: list[str] = []
            for name, key, ways in found[rows.number]:
                met = f"{name}_{key}" if sliced else f"({self._sum_over_rows(f'{name}{{p}}', f'tl.trans({key}{{p}})')})"
                terms.append(f"{met} * ({ways})")
            if terms:
                self.lines.append(f"{left.name}_by_{rows.number} = {' + '.join(terms)}")
            else:
                self._zeros(f"{left.name}_by_{rows.number}", left.lines, rows.lines)

    def _raw_weights_of(self, left: Query, found: dict[int, list[tuple[str, str, str]]]) -> None:
        """Products of a left side and keys, slice by slice: `LEFT_KEYS`."""
        for rows in self.tiles.rows:
            for name, key, _ in found[rows.number]:
                self._zeros(f"{name}_{key}", left.lines, rows.lines)
        with self._slices():
            for name, pieces, _ in self._sides(left):
                self._operand(name, pieces, left.lines)
            for rows in self.tiles.rows:
                met = {key: [n for n, k, _ in found[rows.number] if k == key] for key, _, _ in self._keys(rows)}
                for key, pieces, _ in self._keys(rows):
                    if met[key]:
                        self._operand(key, pieces, rows.lines)
                    for name in met[key]:
                        product = self._sum_over_rows(f"{name}{{p}}", f"tl.trans({key}{{p}})")
                        self.lines.append(f"{name}_{key} += {product}")

    def _reaching_state(self, left: Query, place: int, part: str) -> Iterator[str]:
        before = "past" if left.now else "before"
        for name, _, a in self._sides(left):
            if (a, place) in self.paths:
                yield f"{name}{part} * {self._of(f'{before}_{a}_{place}', left.lines)}[:, None]"

    def _next_state(self) -> None:
        lines = self.lines
        lines.append("# the states after the chunk")
        for p in self._each_part():
            if self.tiles.block_s:
                for rows in self.tiles.rows:
                    for name, key, _ in self._keys(rows):
                        self._operand(name, key, rows.lines)
            for a, _ in enumerate(self.form.states):
                kept = [f"total_{a}_{c} * {self.state(c)}{p}" for b, c in self.paths if b == a]
                for rows in self.tiles.rows:
                    for name, _, into in self._keys(rows):
                        ways = " + ".join(f"after_{a}_{b}" for b in self._reaching(a, into))
                        if ways:
                            ways = f"({ways})" if rows.lines == 1 else f"rc_repeated({ways}, {rows.lines})"
                            kept.append(self._dot(f"tl.trans({name}{p} * {ways}[:, None])", f"rows_{rows.number}"))
                lines += [f"next_{a}{p} {'+' if n else ''}= {term}" for n, term in enumerate(kept)]
            lines += [f"{self.state(a)}{p} = next_{a}{p}" for a, _ in enumerate(self.form.states)]


__all__ = ["emit_chunk"]
