"""One line of a result: ours against a peer, a floor or a limit, always in seconds of the same run."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bench.measure import Timing


@dataclass(frozen=True)
class Row:
    """`ratio` above 1 means ours is the faster. A `target` of None is information, not a promise."""

    group: str  # kernels, floors, latency
    case: str
    ours: float
    peer: str
    peer_seconds: float
    target: float | None = None
    note: str = ""
    best_ratio: float | None = None  # of the best rounds: what a quiet machine would show

    @property
    def ratio(self) -> float:
        return self.peer_seconds / self.ours

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def against(case: str, ours: Timing, peer: str, theirs: Timing, target: float | None = None) -> Row:
    """A row of two candidates that took turns."""
    return Row("kernels", case, ours.median, peer, theirs.median, target, best_ratio=theirs.best / ours.best)


@dataclass(frozen=True)
class Floor:
    """The least time a case can take on this machine: its bytes at the speed of a large copy, or its operations at
    the speed of multiply-adds in registers, whichever is longer."""

    case: str
    bytes: float
    flops: float
    floor: float
    ours: float

    @property
    def share(self) -> float:
        return self.floor / self.ours

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "share": self.share}


@dataclass(frozen=True)
class Peak:
    """Bytes that a training step takes beside its arguments, ours and a peer's. Ours are promised to be no more."""

    case: str
    ours: int
    peer: str
    theirs: int

    @property
    def met(self) -> bool:
        return self.ours <= self.theirs

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "met": self.met}


def seconds(value: float) -> str:
    """`value` seconds with three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"
