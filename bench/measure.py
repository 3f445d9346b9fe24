"""Fair timing: candidates take turns, so that a busy moment of the machine meets them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Candidate = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one candidate."""

    median: float
    best: float
    spread: float  # interquartile range
    rounds: int


def interleaved(candidates: Mapping[str, Candidate], budget: float = 8.0, warmups: int = 2) -> dict[str, Timing]:
    """Times of each candidate, measured in turn: warm-up calls first, then rounds in which every candidate runs
    once, the order rotating, until `budget` seconds are spent (at least 11 rounds, at most 200).

    Each turn is one untimed call and then the timed one: what the candidate before left behind (threads still
    spinning, memory being handed back, caches full of its arrays) is paid by nobody. A candidate must have finished
    its work when it returns (block on asynchronous results)."""
    names = list(candidates)
    for name in names:
        for _ in range(warmups):
            candidates[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    rounds = 0
    while rounds < 11 or (rounds < 200 and time.perf_counter() - start < budget):
        turn = rounds % len(names)
        for name in names[turn:] + names[:turn]:
            run = candidates[name]
            run()
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
        rounds += 1
    return {name: _summary(values) for name, values in seconds.items()}


def _summary(values: list[float]) -> Timing:
    low, _, high = statistics.quantiles(values, n=4)
    return Timing(statistics.median(values), min(values), high - low, len(values))


def repeated(run: Candidate, calls: int, rounds: int = 7) -> float:
    """Median seconds of one call, from rounds of `calls` calls: for work far shorter than the clock is fine."""
    run()
    samples: list[float] = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        samples.append((time.perf_counter() - begin) / calls)
    return statistics.median(samples)
