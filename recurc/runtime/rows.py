"""Batches whose sequences differ in length: where each one lies in the arrays, and which of them run together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_SHORT = 16  # sequences of so few steps run together, however different their lengths are


@dataclass(frozen=True)
class Sequences:
    """n sequences: the row of the arrays that holds each, its first step there and how many it has, all `(n,)`."""

    source: Ints
    start: Ints
    count: Ints

    def of(self, which: Ints) -> Sequences:
        return Sequences(self.source[which], self.start[which], self.count[which])

    @property
    def longest(self) -> int:
        return int(self.count.max())

    @property
    def even(self) -> bool:
        """Whether all have the same number of steps."""
        return int(self.count.min()) == self.longest

    @property
    def together(self) -> bool:
        """Whether they are one block of the arrays: rows that follow each other, from one step to another."""
        follows = bool(np.all(np.diff(self.source) == 1))
        return self.even and follows and bool(np.all(self.start == self.start[0]))

    def times(self, reverse: bool) -> Ints:
        """Where in the arrays the steps of each sequence are, in the order in which they run: `(n, longest)`. Behind
        the end of a shorter sequence its last step is repeated, a value as good as any that the arrays hold there."""
        place = np.minimum(np.arange(self.longest), self.count[:, np.newaxis] - 1)
        return self.start[:, np.newaxis] + (self.count[:, np.newaxis] - 1 - place if reverse else place)

    def steps(self) -> tuple[Ints, Ints]:
        """The sequence and the step of everything that is no repetition, as two lists of indices."""
        sequence, step = np.nonzero(np.arange(self.longest) < self.count[:, np.newaxis])
        return sequence.astype(np.int64), step.astype(np.int64)


def buckets(count: Ints) -> list[Ints]:
    """Which sequences run together, as indices into `count` `(n,)`, the longest first.

    None has less than half the steps of the longest of its bucket, so padding costs at most as much as the steps
    themselves, and there are at most as many buckets as the longest length has binary digits. Those without steps form
    the last one."""
    left: Ints = np.argsort(-count, kind="stable").astype(np.int64)
    found: list[Ints] = []
    while left.size:
        longest = int(count[left[0]])
        least = 1 if 0 < longest <= _SHORT else (longest + 1) // 2
        inside = count[left] >= least
        found.append(np.sort(left[inside]))
        left = left[~inside]
    return found
