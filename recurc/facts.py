"""What analysis finds out about a recurrence: groups of states, their classes, monoids, reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

from recurc.ir import Expr, walk
from recurc.source import Span
from recurc.types import Dims, DType, own_dim


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a lifted element."""

    name: str
    dims: Dims
    dtype: DType = DType.REAL
    # What the laws are for: "any", "nonnegative", "flag" (0 or 1), "flagged" (0 without the flag), "symmetric" (a
    # covariance or an information), "definite" (any, and like those in a filter), and, where elements of either sign
    # and 0 are combined differently, "signed" and "unsigned".
    holds: str = "any"


@dataclass(frozen=True, slots=True)
class Monoid:
    """The associative operator a group of states lifts to, in IR expressions.

    `lift[i]` gives component i of the element of one step; it reads per-step values (never the group's states).
    `combine[i]` reads `1.NAME` (earlier) and `2.NAME` (later) for every component NAME.
    `apply[j]` gives the new value of `states[j]`; it reads components by NAME and old states as `STATE` at lag 1.
    `identity[i]` is a constant, of a matrix or a table one of the places alone. `combine` need not be commutative.
    The lifted element is the step where what `symmetric` names (states, inputs, params) holds symmetric matrices.
    """

    cls: str
    states: tuple[str, ...]
    components: tuple[Component, ...]
    identity: tuple[Expr, ...]
    lift: tuple[Expr, ...]
    combine: tuple[Expr, ...]
    apply: tuple[Expr, ...]
    symmetric: frozenset[str] = frozenset()

    @property
    def multiplies(self) -> bool:
        """Whether its elements are matrices, tables or lists, of which two are combined by more than one value for
        another."""
        inside = (n.dims for e in self.combine for n in walk(e))
        return any(own_dim(d) != d for dims in (*(c.dims for c in self.components), *inside) for d in dims)


@dataclass(frozen=True, slots=True)
class Write:
    """One write of low rank: into each state a that has a key, `keys[a]` (x) row, where the row is the sum of
    `probes[b]` . S_b[t-1] over the states b that have a probe, plus `value`. Without probes the value stands alone,
    without a value what was read. `rank`: dims no state has, over which the products are summed, so that one step
    writes several rows, all of them from the states before it."""

    keys: tuple[Expr | None, ...]
    probes: tuple[Expr | None, ...]
    value: Expr | None = None
    rank: Dims = ()

    @property
    def corrects(self) -> bool:
        """Whether its row depends on what the states hold."""
        return any(p is not None for p in self.probes)


@dataclass(frozen=True, slots=True)
class LowRank:
    """The update of a matrix state, or of several of equal shape, under products of matrices, in IR expressions that
    read no value of the states:

        S_a = sum over b of factors[a][b] o S_b[t-1]
              + sum over writes of keys[a] (x) (sum over b of probes[b] . S_b[t-1] + value)

    The dims of the states are shared ones, rows and columns (any number of each, in the states' order). A vector has no
    columns: it has this form beside a matrix with the same factors and keys only, as one more column of it. A key and a
    probe have the shared dims and the rows, a value the shared dims and the columns, or some of them, and besides them
    the rank of their write; `.` sums over the rows. The factor of a state alone, its decay, has the shared dims and
    besides them nothing, rows, or columns; not columns if there are probes. Factors of several states have shared dims
    only; None is no factor. Whoever reads a state takes a sum over the rows too.

    This holds linear attention and its gated kin (no probes), the delta rule (one write with a probe), products of
    Householder matrices (several), a diagonal plus low rank, a correction on a window of steps (a write with a rank)
    and a delta rule with momentum (two states: what decays between two steps is a semiseparable kernel of order two).
    Yang et al. (2024), arXiv 2406.06484; Behrouz et al. (2025), arXiv 2501.00663 and 2505.23735."""

    states: tuple[str, ...]
    shared: Dims
    rows: Dims
    columns: Dims
    factors: tuple[tuple[Expr | None, ...], ...]
    writes: tuple[Write, ...]

    @property
    def corrects(self) -> bool:
        """Whether a write depends on what the states hold."""
        return any(w.corrects for w in self.writes)

    def alike(self, other: LowRank) -> bool:
        """Whether one stage can take both: they have the same factors and keys, and each has one state, writes without
        probes and rank, and no decay along its columns."""
        if any(len(f.states) > 1 or f.decay_along == "columns" or f.ranked or f.corrects for f in (self, other)):
            return False
        same = (self.shared, self.rows, self.factors) == (other.shared, other.rows, other.factors)
        return same and [w.keys for w in self.writes] == [w.keys for w in other.writes]

    @property
    def ranked(self) -> bool:
        """Whether a step writes several rows at once."""
        return any(w.rank for w in self.writes)

    @property
    def decays(self) -> dict[tuple[int, int], Expr]:
        """The factors there are, by the places of the state they go into and of the one they scale."""
        places = ((a, b, f) for a, row in enumerate(self.factors) for b, f in enumerate(row))
        return {(a, b): f for a, b, f in places if f is not None}

    @property
    def paths(self) -> tuple[tuple[int, int], ...]:
        """The pairs (a, b) of states for which some number of steps, or none, brings b into a."""
        found = {(a, a) for a, _ in enumerate(self.states)} | set(self.decays)
        while more := {(a, d) for a, b in found for c, d in found if b == c} - found:
            found |= more
        return tuple(sorted(found))

    @property
    def decay_along(self) -> str:
        """Which dims the decay tells apart beside the shared ones: "none", "rows" or "columns"."""
        inside = {d for f in self.decays.values() for d in f.dims}
        return "rows" if inside & set(self.rows) else "columns" if inside & set(self.columns) else "none"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Evidence that the monoid is right: how it was established and whether it held."""

    method: str  # "syntactic", "symbolic", "exact", "randomised", "none"
    status: str  # "decided", "proved", "failed", "not applicable"
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence for a person, with the place in the source it speaks of."""

    text: str
    span: Span | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.text} (at {self.span})" if self.span else self.text


@dataclass(frozen=True, slots=True)
class Group:
    """States that feed each other (one strongly connected component, or several fused into one operator)."""

    states: tuple[str, ...]
    cls: str  # a code of `recurc.facts.CLASSES`
    schedules: tuple[str, ...]  # the legal ones, of which the scheduler takes one
    linear_time_invariant: bool = False
    reasons: tuple[Reason, ...] = ()
    monoid: Monoid | None = None
    certificate: Certificate = Certificate("none", "not applicable")
    on_request: tuple[str, ...] = ()  # legal ones that are taken only when the caller asks for them
    refused: tuple[Reason, ...] = ()  # why a schedule that others of its class have is not legal for it
    low_rank: LowRank | None = None
    parts: tuple[Group, ...] = ()  # of several states: the groups that run instead by the chunkwise schedule, in order


@dataclass(frozen=True, slots=True)
class Analysis:
    """Groups in an order in which each reads only earlier ones."""

    groups: tuple[Group, ...]
    hoisted: tuple[str, ...] = ()  # equations that read no state, directly or through others
    sunk: tuple[str, ...] = ()  # equations no state reads
    triangular: bool = False  # class TRI of the whole: a group reads states of an earlier one


CLASSES = {
    "EA": "elementwise affine",
    "CA": "complex diagonal affine",
    "SR1": "matrix state, scalar decay and low-rank write",
    "DR1": "matrix state, diagonal decay and low-rank write",
    "GH": "generalised Householder (delta rule)",
    "DA": "dense affine",
    "BA": "block affine over coupled states",
    "TRI": "triangular system of groups",
    "SL": "linear over a semiring",
    "CL": "clamped sum",
    "OS": "max-stabilised softmax accumulators",
    "MB": "linear fractional (Möbius)",
    "KF": "Kalman filter, as it is declared",
    "ID": "idempotent (running maximum and the like)",
    "SEG": "with resets",
    "FS": "finite state",
    "AM": "associative as it stands",
    "SH": "shift register",
    "CF": "frozen per chunk",
    "NL-d": "nonlinear, diagonal Jacobian",
    "NL-b": "nonlinear, block-diagonal Jacobian",
    "NL-f": "nonlinear, full Jacobian",
    "QP": "polynomial, not closed",
}

NONLINEAR = ("NL-d", "NL-b", "NL-f", "QP")  # the classes that do not compose
