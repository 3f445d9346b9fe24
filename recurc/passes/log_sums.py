"""`log(sum(exp(v)))`, as it is written out: shifted by the maximum of what is summed."""

from __future__ import annotations

from recurc.ir import Apply, Expr, Reduce
from recurc.passes.affine import Forms


def log_sum(forms: Forms, node: Expr) -> Reduce | None:
    """The maximum in `max(v) + log(sum(exp(v - max(v))))`, if `node` is that; names are looked through."""
    if not (isinstance(node, Apply) and node.op == "add"):
        return None
    for top, rest in (node.args, node.args[::-1]):
        found = forms.resolved(top)
        if not (isinstance(found, Reduce) and found.op == "max"):
            continue
        match forms.resolved(rest):
            case Apply(op="log", args=(sum_,)):
                pass
            case _:
                continue
        match forms.resolved(sum_):
            case Reduce(op="sum", arg=weights, over=over) if over == found.over:
                pass
            case _:
                continue
        match forms.resolved(weights):
            case Apply(op="exp", args=(Apply(op="sub", args=(value, shift)),)) if forms.resolved(
                shift
            ) == found and forms.resolved(value) == forms.resolved(found.arg):
                return found
            case _:
                continue
    return None
