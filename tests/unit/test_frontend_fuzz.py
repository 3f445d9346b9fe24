"""Random text of three kinds: whatever it is, the front end answers with a recurrence or a diagnostic."""

from __future__ import annotations

import random
from pathlib import Path

from recurc import zoo
from recurc.errors import RecError, UnsupportedError
from recurc.frontend import decode, format_text, load_text, parse, tables
from recurc.frontend.tokens import KEYWORDS, SYMBOLS

GRAMMAR = Path(parse.__file__).with_name("grammar.lark")
GOOD = [zoo.text(name) for name in zoo.names()]
GOOD += [p.read_text(encoding="utf-8") for p in sorted((Path(__file__).parents[1] / "good").glob("*.rec"))]


def outcome(text: str) -> str:
    """ "ok", "error" or "limitation"; anything else than these is an exception, which fails the test."""
    try:
        load_text(text, "fuzz.rec")
    except RecError as wrong:
        assert wrong.diagnostics
        for diagnostic in wrong.diagnostics:
            assert diagnostic.severity == "error"
            assert diagnostic.to_text()
            assert diagnostic.to_json()["line"] >= 1
        return "error"
    except UnsupportedError as limit:
        assert limit.diagnostics
        return "limitation"
    return "ok"


def test_changed_bytes(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(400):
        data = bytearray(rng.choice(GOOD).encode())
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randint(1, 20)]
                case 2:
                    data[at:at] = rng.choice(
                        [b"\t", b"\r", b"(", b"]", b"\xef\xbb\xbf", b"\x00", b"\n    ", b"\xce\xb1"]
                    )
                case _:
                    data[at:at] = data[rng.randrange(len(data)) :][: rng.randint(1, 40)]
            data = data or bytearray(b"x")
        try:
            text = decode(bytes(data))
        except RecError as wrong:
            assert [d.code for d in wrong.diagnostics] == ["E0101"]
            continue
        outcome(text)


def test_changed_tokens(seed: int) -> None:
    rng = random.Random(seed)
    words = [
        *KEYWORDS,
        *SYMBOLS,
        "x",
        "h",
        "D",
        "H",
        "t",
        "T",
        "0",
        "1",
        "2.5",
        "exp",
        "sum",
        "grad",
        ".T",
        "\n    ",
        "\n",
    ]
    results = set[str]()
    for _ in range(600):
        pieces = rng.choice(GOOD).replace("(", " ( ").replace(")", " ) ").replace("[", " [ ").split(" ")
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(pieces))
            if rng.random() < 0.5:
                pieces[at] = rng.choice(words)
            else:
                other = rng.randrange(len(pieces))
                pieces[at], pieces[other] = pieces[other], pieces[at]
        results.add(outcome(" ".join(pieces)))
    assert "error" in results


def test_sentences_of_the_grammar(seed: int) -> None:
    """Text that the grammar allows, whatever it means: it never fails to parse."""
    rng = random.Random(seed)
    sentences = Sentences(rng)
    results = set[str]()
    for _ in range(250):
        text = sentences.file()
        results.add(outcome(text))
        try:
            once = format_text(text)
        except RecError as wrong:  # the two rules of form that the grammar leaves to the tree
            assert {d.code for d in wrong.diagnostics} <= {"E0108", "E0120"}
            continue
        assert format_text(once) == once
    assert results & {"error", "limitation"}


class Sentences:
    """Draws sentences from the rules that lark made of grammar.lark, shortest way out once they grow deep."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.rules: dict[str, list[list[tuple[str, bool]]]] = {}
        text = GRAMMAR.read_text(encoding="utf-8")
        for rule in tables.parser(text).rules:
            self.rules.setdefault(rule.origin.name, []).append([(s.name, s.is_term) for s in rule.expansion])
        self.cost = self._costs()

    def _costs(self) -> dict[str, float]:
        cost = dict.fromkeys(self.rules, float("inf"))
        for _ in range(len(self.rules)):
            for name, ways in self.rules.items():
                cost[name] = min(self._way_cost(cost, way) for way in ways)
        return cost

    def _way_cost(self, cost: dict[str, float], way: list[tuple[str, bool]]) -> float:
        return 1 + sum(0 if term else cost[name] for name, term in way)

    def file(self) -> str:
        terminals: list[str] = []
        stack: list[tuple[str, bool, int]] = [("recurrence", False, 0)]
        while stack:
            name, term, depth = stack.pop()
            if term:
                terminals.append(name)
                continue
            ways = self.rules[name]
            if depth > 14 or len(terminals) + len(stack) > 150:
                least = min(self._way_cost(self.cost, way) for way in ways)
                ways = [way for way in ways if self._way_cost(self.cost, way) == least]
            stack += [(n, is_term, depth + 1) for n, is_term in reversed(self.rng.choice(ways))]
        return self._spelled(terminals)

    def _spelled(self, terminals: list[str]) -> str:
        spelling = {kind: text for text, kind in (KEYWORDS | SYMBOLS).items()} | {"TRANSPOSE": ".T"}
        level, out, fresh = 0, "", True
        for kind in terminals:
            match kind:
                case "INDENT":
                    level += 1
                case "DEDENT":
                    level -= 1
                case "NEWLINE":
                    out, fresh = out + "\n", True
                case _:
                    word = spelling.get(kind) or self._word(kind)
                    gap = "    " * level if fresh else " "
                    out, fresh = out + gap + word, False
        return out

    def _word(self, kind: str) -> str:
        match kind:
            case "NAME":
                return self.rng.choice(["x", "h", "y", "D", "N", "exp", "sum", "max", "t", "f32", "zeros", "euler"])
            case "NUMBER":
                return self.rng.choice(["0", "1", "2", "0.5", "1e-6", "2j", "4"])
            case _:
                return '"other.rec"'
