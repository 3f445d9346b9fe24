"""Integers, automata and shortest paths, as loops over their definitions."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from tests.zoo.oracle import oracle


@oracle("fibonacci")
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
