"""Integers, automata and shortest paths, as loops over their definitions."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle


@oracle("fibonacci", x="int:1000")  # large enough to pass the modulus
def fibonacci(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    numbers = [1, 1]
    while len(numbers) < len(xs):
        numbers.append(numbers[-1] + numbers[-2])
    for t in range(len(xs)):
        yield sum(int(x.x) * n for x, n in zip(reversed(xs[: t + 1]), numbers, strict=False)) % 1000007


@oracle("lcg", stir="int:1000")
def lcg(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    s = 12345
    for x in xs:
        s = 16807 * (s + int(x.stir)) % (2**31 - 1)
        yield s


@oracle("lfsr", sizes={"N": 5}, x="int:2", taps="int:2")
def lfsr(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """Every bit that ever entered, newest first: exclusive ors of them."""
    bits = [1] * 5
    for x in xs:
        new = int(x.x)
        for tap, bit in zip(p.taps, bits, strict=False):
            new ^= int(tap) & bit
        bits.insert(0, new)
        yield bits[4]


@oracle("edit_distance", sizes={"N": 6}, letter="int:3", pattern="int:3")
def edit_distance(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    row = list(range(7))
    for x in xs:
        new = [row[0] + 1]
        for j in range(6):
            new.append(min(row[j + 1] + 1, new[j] + 1, row[j] + (p.pattern[j] != x.letter)))
        row = new
        yield row[1:], row[-1]


def _lengths(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Edges of random lengths; most are missing."""
    return np.where(rng.random(shape) < 0.3, rng.uniform(0.1, 1, shape), np.inf)


@oracle("shortest_paths", sizes={"N": 5}, w=_lengths)
def shortest_paths(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    d = [0.0] + [np.inf] * 4
    for x in xs:
        d = [min([d[j], *(d[i] + x.w[i, j] for i in range(5))]) for j in range(5)]
        yield np.array(d)


@oracle("reachability", sizes={"N": 5}, edge="bool:0.3")
def reachability(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    reached = {0}
    for x in xs:
        reached = {j for i in reached for j in range(5) if x.edge[i, j]}
        yield np.array([j in reached for j in range(5)])


@oracle("nfa", sizes={"Q": 2, "N": 4}, letter="int:2", move="bool:0.4")
def nfa(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    states = {0}
    for x in xs:
        states = {j for i in states for j in range(4) if p.move[x.letter, i, j]}
        yield np.array([j in states for j in range(4)]), any(p.final[j] for j in states)


@oracle("dfa", sizes={"N": 4, "Q": 3}, letter="int:3", move="int:4")
def dfa(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    s = 0
    for x in xs:
        s = int(p.move[s, x.letter])
        yield s, bool(p.final[s])


def _permutations(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)


@oracle("permutation_words", sizes={"N": 5}, g=_permutations)
def permutation_words(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """Products of permutation matrices."""
    product = np.eye(5, dtype=int)
    for x in xs:
        product = np.eye(5, dtype=int)[:, x.g] @ product  # column i has its one in row g[i]
        yield product.argmax(0)


@oracle("bottleneck_paths", sizes={"N": 5}, w=lambda rng, shape: rng.uniform(0, 1, shape) * (rng.random(shape) < 0.4))
def bottleneck_paths(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    width = [np.inf] + [0.0] * 4
    for x in xs:
        width = [max([width[j], *(min(width[i], x.w[i, j]) for i in range(5))]) for j in range(5)]
        yield np.array(width)


@oracle("dynamic_time_warping", sizes={"N": 6})
def dynamic_time_warping(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    row = [0.0] + [np.inf] * 6
    for x in xs:
        new = [np.inf]
        for j in range(6):
            new.append(abs(x.x - p.template[j]) + min(row[j + 1], row[j], new[j]))
        row = new
        yield np.array(row[1:]), row[-1]
