"""With maxima: sums of exponentials that are held beside a running maximum (`passes.stabilize`), as a recurrence of its
own, whose derivative is taken in the same range of numbers.

    u = f * u[t-1] + exp(s)                     u_max = max(u_max[t-1] + log(f), s)
                                    becomes     u     = exp(u_max[t-1] + log(f) - u_max) * u[t-1] + exp(s - u_max)

The states keep their names and are exp(-u_max) of what they were. They begin as they did, with u_max at 0, or at what
stands for log 0 where the caller gives none of them. After the last step they are multiplied by exp(u_max). Nothing
depends on u_max, so derivatives take it for a constant (`passes.gauges`), there as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from recurc.ir import Expr, Final, Read, Recurrence, rewrite
from recurc.passes.expand import expand
from recurc.passes.stabilize import is_mantissa, is_top, source_name, stabilize, stabilized_states
from recurc.passes.terms import fresh
from recurc.passes.verify import used_names


@dataclass(frozen=True)
class WithMaxima:
    """A recurrence, and the running maximum that each state is held beside."""

    rec: Recurrence
    tops: Mapping[str, str] = field(default_factory=dict[str, str])


def with_maxima(rec: Recurrence) -> WithMaxima:
    """`rec` itself, if there is nothing to stabilise in it."""
    plain = expand(rec)
    made = stabilize(plain)
    if made is plain:
        return WithMaxima(rec)
    taken = used_names(rec) | used_names(plain)
    names: dict[str, str] = {}
    for name in (e.name for e in made.equations):
        if is_mantissa(name):
            names[name] = source_name(name)
        elif is_top(name):
            names[name] = fresh(f"{source_name(name)}_max", taken)
            taken.add(names[name])
    tops = {state: names[held.top] for state, held in stabilized_states(made).items()}
    return WithMaxima(_renamed(made, lambda n: names.get(n, n)), tops)


def _renamed(rec: Recurrence, name: Callable[[str], str]) -> Recurrence:
    def moved(node: Expr) -> Expr:
        return replace(node, name=name(node.name)) if isinstance(node, Read | Final) else node

    return replace(
        rec,
        states=tuple(replace(s, name=name(s.name)) for s in rec.states),
        equations=tuple(replace(e, name=name(e.name), expr=rewrite(e.expr, moved)) for e in rec.equations),
    )
