"""Which names an expression reads, and in which order the equations can therefore be worked out."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from recurc.frontend import ast
from recurc.frontend.functions import FOREIGN, FUNCTIONS, INITIALIZERS
from recurc.frontend.problems import Problems
from recurc.frontend.symbols import RESERVED, Definition, Kind, Scope
from recurc.source import Span

_WORDS = {"cast": 1, "einsum": 2}  # functions whose further arguments are words, by the number of values before them
_LONG_LOOP = 12  # equations of a loop that a message shows


@dataclass(frozen=True, slots=True)
class _Summary:
    """What a function needs at this step: of its parameters, and of the names around it."""

    parameters: frozenset[str]
    free: frozenset[str]


class Names:
    """Name checks over one scope. Reports unknown names once per place."""

    def __init__(self, problems: Problems, scope: Scope) -> None:
        self.problems, self.scope = problems, scope
        self._summaries: dict[str, _Summary] = {}

    def check(self, expr: ast.Expr, local: frozenset[str] = frozenset()) -> bool:
        """Reports every unknown name and function in `expr`; True if there is none."""
        good, stack = True, [(expr, local)]
        while stack:
            node, known = stack.pop()
            match node:
                case ast.Name(name=name) if name not in known and name not in RESERVED:
                    good &= self._value(node)
                case ast.Call(function=function):
                    good &= self._function(function)
                    stack += [(value, known | bound) for value, bound in _arguments(node)]
                case ast.Index(base=base):
                    stack.append((base, known))
                case _:
                    stack += [(part, known) for part in ast.parts(node)]
        return good

    def check_function(self, function: ast.Function) -> bool:
        known = {p.name for p in function.parameters}
        good = True
        for line in function.body:
            good &= self.check(line.value, frozenset(known))
            known |= {n.name for n in line.names}
        return self.check(function.value, frozenset(known)) and good

    def _value(self, node: ast.Name) -> bool:
        name = node.name
        symbol = self.scope.symbols.get(name)
        if symbol is not None and symbol.kind not in (Kind.FUNCTION, Kind.RECURRENCE):
            return True
        if symbol is not None or name in FUNCTIONS:
            what = symbol.kind.value if symbol is not None else Kind.FUNCTION.value
            self.problems.report("E0208", f"`{name}` is {what}, not a value", node.span, f"call it: `{name}(...)`")
            return False
        near = self.scope.nearest(name)
        help = (
            f"did you mean `{near}`?"
            if near
            else f"declare it: `input {name}`, `param {name}`, or an equation `{name} = ...`"
        )
        self.problems.report("E0201", f"`{name}` is not defined", node.span, help)
        return False

    def _function(self, node: ast.Name) -> bool:
        name = node.name
        symbol = self.scope.symbols.get(name)
        if name in FUNCTIONS or (symbol is not None and symbol.kind in (Kind.FUNCTION, Kind.RECURRENCE)):
            return True
        if symbol is not None or name in RESERVED:
            what = symbol.kind.value if symbol is not None else RESERVED[name]
            self.problems.report(
                "E0208",
                f"`{name}` is {what}, not a function",
                node.span,
                f"a product needs `*`; the step before is `{name}[t-1]`",
            )
            return False
        if name in FOREIGN:
            help = f"write `{FOREIGN[name]}`" if FOREIGN[name] else "give the parts names of their own"
        elif name in INITIALIZERS:
            help = f"`{name}` is an initialiser: `param W[H] ~ {name}`"
        else:
            pool = [*FUNCTIONS, *self.scope.functions, *(s.name for s in self.scope.of_kind(Kind.RECURRENCE))]
            near = next(iter(difflib.get_close_matches(name, pool, 1, 0.6)), "")
            help = f"did you mean `{near}`?" if near else f"define it: `fn {name}(u) = ...`"
        self.problems.report("E0202", f"there is no function `{name}`", node.span, help)
        return False

    # --- functions that call themselves
    def check_recursion(self) -> bool:
        """Reports functions that call themselves, directly or through others."""
        calls = {
            name: [c.function for e in _expressions(f) for c in ast.walk(e) if isinstance(c, ast.Call)]
            for name, f in self.scope.functions.items()
        }
        done: set[str] = set()
        good = True
        for start in calls:
            path: list[str] = []
            stack: list[tuple[str, Iterable[ast.Name]]] = [(start, iter(calls[start]))] if start not in done else []
            while stack:
                name, rest = stack[-1]
                if len(path) < len(stack):
                    path.append(name)
                for called in rest:
                    if called.name in path:
                        loop = [*path[path.index(called.name) :], called.name]
                        self.problems.report(
                            "E0210",
                            f"`{called.name}` calls itself: {' -> '.join(loop)}",
                            called.span,
                            "functions are written out where they are called; `iterate(n, X = X0, expr)` repeats",
                        )
                        good = False
                    elif called.name in calls and called.name not in done:
                        stack.append((called.name, iter(calls[called.name])))
                        break
                else:
                    done.add(name)
                    self.summarise(name)
                    stack.pop()
                    path.pop()
        return good

    # --- dependence at this step
    def summarise(self, name: str) -> None:
        """Works out what a function reads at this step; those it calls must have been done."""
        function = self.scope.functions[name]
        parameters = frozenset(p.name for p in function.parameters)
        now = frozenset(n for e in _expressions(function) for n in self.reads_now(e))
        local = frozenset(n.name for line in function.body for n in line.names)
        self._summaries[name] = _Summary(now & parameters, now - parameters - local)

    def _needed(self, function: str, args: tuple[ast.Expr | ast.Binding, ...]) -> list[ast.Expr]:
        """The arguments whose value at this step the function needs; `prev(h)` may read only `h[t-1]`."""
        parameters = [p.name for p in self.scope.functions[function].parameters]
        now = self._summaries[function].parameters
        needed: list[ast.Expr] = []
        for at, arg in enumerate(args):
            named = isinstance(arg, ast.Binding)
            name = arg.name.name if named else parameters[at] if at < len(parameters) else ""
            value = arg.value if named else arg
            if name in now or not isinstance(value, ast.Name):
                needed.append(value)
        return needed

    def reads_now(self, expr: ast.Expr) -> dict[str, Span]:
        """The names whose value at this step `expr` needs, with the first place; functions looked through."""
        found: dict[str, Span] = {}
        stack: list[tuple[ast.Expr, frozenset[str], Span | None]] = [(expr, frozenset(), None)]
        while stack:
            node, local, place = stack.pop()
            match node:
                case ast.Name(name=name) if name not in local:
                    found.setdefault(name, place or node.span)
                case ast.Index(base=base, indices=indices):
                    if _reads_this_step(indices):
                        stack.append((base, local, place))
                case ast.Call(function=function, args=args) if function.name in self._summaries:
                    summary = self._summaries[function.name]
                    stack += [(a, local, place) for a in reversed(self._needed(function.name, args))]
                    for name in summary.free - local:
                        found.setdefault(name, place or function.span)
                case ast.Call():
                    stack += [(value, local | bound, place) for value, bound in reversed(_arguments(node))]
                case _:
                    stack += [(part, local, place) for part in reversed(ast.parts(node))]
        return found

    def order(self, definitions: list[Definition]) -> list[Definition] | None:
        """The definitions so that each reads only earlier ones at this step, otherwise in source order; the
        condition of a reset, and what it reads, come first. Reports causality loops; None if there are any."""
        owner = {n.name: i for i, d in enumerate(definitions) for n in d.names}
        reads = [{owner[n]: (n, s) for n, s in self._needs(d).items() if n in owner} for d in definitions]
        waiting = [len(r) for r in reads]
        readers: list[list[int]] = [[] for _ in definitions]
        for i, read in enumerate(reads):
            for j in read:
                readers[j].append(i)
        ready = [i for i, n in enumerate(waiting) if n == 0]
        order: list[int] = []
        while ready:
            i = heapq.heappop(ready)
            order.append(i)
            for reader in readers[i]:
                waiting[reader] -= 1
                if waiting[reader] == 0:
                    heapq.heappush(ready, reader)
        if len(order) == len(definitions):
            first = _behind(owner.get(self.scope.reset.name) if self.scope.reset is not None else None, reads)
            return [definitions[i] for i in sorted(order, key=lambda i: i not in first)]
        self._report_loops(definitions, reads, set(range(len(definitions))) - set(order))
        return None

    def _needs(self, definition: Definition) -> dict[str, Span]:
        """`reads_now` of the right side, and the clock of the block it stands in."""
        found = self.reads_now(definition.value)
        if definition.block is not None:
            found.setdefault(definition.block.clock.name, definition.block.clock.span)
        return found

    def _report_loops(
        self, definitions: list[Definition], reads: list[dict[int, tuple[str, Span]]], stuck: set[int]
    ) -> None:
        """One message per loop: walk from each stuck equation along its reads until one repeats."""
        told: set[int] = set()
        for start in sorted(stuck):
            path: list[int] = []
            at = start
            while at not in path and at not in told:
                path.append(at)
                at = min(j for j in reads[at] if j in stuck)
            if at in told:
                continue
            told |= set(path)
            self._report_loop(definitions, reads, path[path.index(at) :])

    def _report_loop(
        self, definitions: list[Definition], reads: list[dict[int, tuple[str, Span]]], loop: list[int]
    ) -> None:
        steps: list[tuple[int, str, Span]] = []
        for i, j in zip(loop, [*loop[1:], loop[0]], strict=True):
            name, span = reads[i][j]
            steps.append(
                (i, _shown(definitions[j]) if definitions[j].clock_of or definitions[j].resets else name, span)
            )
        labels = tuple((span, f"{_shown(definitions[i])} needs {name} at this step") for i, name, span in steps)
        first, chain = _shown(definitions[loop[0]]), [name for _, name, _ in steps]
        shown = chain if len(chain) <= _LONG_LOOP else [*chain[:_LONG_LOOP], "...", chain[-1]]
        states = [n for n in chain if n in self.scope.symbols and self.scope.symbols[n].kind is Kind.STATE]
        self.problems.report(
            "E0402",
            f"{first} needs itself at the same step: {first} -> {' -> '.join(shown)}",
            labels[0][0],
            f"read one of them a step earlier, as in `{states[0]}[t-1]`"
            if states
            else "make one of them a state, and read it a step earlier with `[t-1]`",
            labels[:_LONG_LOOP],
        )


def _arguments(call: ast.Call) -> list[tuple[ast.Expr, frozenset[str]]]:
    """The values given to a call, each with the names it sees besides: those that `iterate` binds."""
    if call.function.name in _WORDS:
        return [
            (a.value if isinstance(a, ast.Binding) else a, frozenset()) for a in call.args[: _WORDS[call.function.name]]
        ]
    bound = frozenset(a.name.name for a in call.args if isinstance(a, ast.Binding) and call.function.name == "iterate")
    return [(a.value, frozenset[str]()) if isinstance(a, ast.Binding) else (a, bound) for a in call.args]


def _reads_this_step(indices: tuple[ast.Expr, ...]) -> bool:
    """Whether an index says `[t]`. Any other reads another step, or is reported where it is lowered."""
    match indices:
        case (ast.Name(name="t"),):
            return True
        case _:
            return False


def _behind(start: int | None, reads: list[dict[int, tuple[str, Span]]]) -> set[int]:
    """`start` and everything it reads, directly or through others."""
    found: set[int] = set()
    pending = [] if start is None else [start]
    while pending:
        at = pending.pop()
        if at not in found:
            found.add(at)
            pending += reads[at]
    return found


def _shown(definition: Definition) -> str:
    if definition.resets:
        return "the condition of `reset when`"
    if definition.clock_of is not None:
        return f"the condition of `{definition.clock_of.word}`"
    return ", ".join(n.name for n in definition.names)


def _expressions(function: ast.Function) -> list[ast.Expr]:
    return [*(line.value for line in function.body), function.value]
