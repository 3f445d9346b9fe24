"""The automaton that recognises the language: it shifts tokens and reduces by rules, as its table says (LALR(1); Aho,
Sethi and Ullman, *Compilers*, section 4.7). lark makes the table from grammar.lark (`tables`); running it is this page,
so that checking a file need not load lark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recurc.frontend.lexer import Token

END = "$END"


class UnexpectedToken(Exception):
    """A token that cannot come next. The automaton is in the state it was left in by the reductions before it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule `origin: ...` of `size` symbols. `method` names what its children make; None: a part of another rule's
    repetition, whose children are handed on. A rule that `passes` hands on an only child as it is."""

    origin: str
    size: int
    method: str | None
    passes: bool


@dataclass(frozen=True, slots=True)
class Table:
    """In a state, a symbol leads to another (a number from 0) or completes rule r (-1 - r)."""

    rules: tuple[Rule, ...]
    states: tuple[Mapping[str, int], ...]
    start: int
    end: int

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Table:
        """The table from plain data: rules as lists, states as lists of symbols (by number) and where each leads."""
        symbols: Sequence[str] = data["symbols"]
        rows: Sequence[Sequence[int]] = data["states"]
        states = tuple({symbols[s]: to for s, to in zip(row[::2], row[1::2], strict=True)} for row in rows)
        return cls(tuple(Rule(*rule) for rule in data["rules"]), states, data["start"], data["end"])


class _Several(list[Any]):
    """Children that a repetition hands on. It grows in place, so what `restore` brings back may hold more of them."""


def _several(children: list[Any]) -> _Several:
    return children if isinstance(children, _Several) else _Several(children)


class Automaton:
    """One run over tokens; `builder` has the method that each rule names, called with the children in source order."""

    def __init__(self, table: Table, builder: object) -> None:
        self.table = table
        self._make: list[Callable[[list[Any]], Any]] = [
            _several if rule.method is None else getattr(builder, rule.method) for rule in table.rules
        ]
        self._states, self._values = [table.start], list[Any]()

    def feed(self, token: Token) -> Any:
        """Take the token; the value of the whole if it was the end, else None. Raises `UnexpectedToken`."""
        states, kind = self.table.states, token.kind
        while True:
            action = states[self._states[-1]].get(kind)
            if action is None:
                raise UnexpectedToken
            if action >= 0:
                self._states.append(action)
                self._values.append(token)
                return None
            self._reduce(-1 - action)
            if kind == END and self._states[-1] == self.table.end:
                return self._values[-1]

    def _reduce(self, number: int) -> None:
        rule, values = self.table.rules[number], self._values
        children: list[Any] = []
        if rule.size:
            parts = values[-rule.size :]
            if rule.method is None and isinstance(parts[0], _Several):
                children = parts.pop(0)
            for part in parts:
                children.extend(part) if isinstance(part, _Several) else children.append(part)
            del self._states[-rule.size :]
            del values[-rule.size :]
        values.append(children[0] if rule.passes and len(children) == 1 else self._make[number](children))
        self._states.append(self.table.states[self._states[-1]][rule.origin])

    def accepts(self) -> set[str]:
        """The kinds of token that can come next, all reductions before them counted."""
        return {kind for kind in self.table.states[self._states[-1]] if kind.isupper() and self._fits(kind)}

    def _fits(self, kind: str) -> bool:
        states = list(self._states)
        while True:
            action = self.table.states[states[-1]].get(kind)
            if action is None or action >= 0:
                return action is not None
            rule = self.table.rules[-1 - action]
            del states[len(states) - rule.size :]
            states.append(self.table.states[states[-1]][rule.origin])
            if kind == END and states[-1] == self.table.end:
                return True

    def save(self) -> tuple[Sequence[int], Sequence[Any]]:
        """Where the automaton is, for `restore`."""
        return tuple(self._states), tuple(self._values)

    def restore(self, saved: tuple[Sequence[int], Sequence[Any]]) -> None:
        """Back to where it was."""
        self._states[:], self._values[:] = saved
