"""The grammar, its tables and the lexer belong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
from lark import Token as LarkToken

from recurc import zoo
from recurc.frontend import load_text, tables
from recurc.frontend.automaton import END, Automaton, Table
from recurc.frontend.lexer import Token, lex
from recurc.frontend.parse import grammar
from recurc.frontend.tokens import KEYWORDS, SYMBOLS, expected_in_words, in_words
from recurc.source import SourceFile

FOLDER = files("recurc.frontend")
GRAMMAR = FOLDER.joinpath("grammar.lark").read_text(encoding="utf-8")


def test_the_lexer_and_the_grammar_have_the_same_terminals() -> None:
    from_lexer = KEYWORDS | SYMBOLS | {".T": "TRANSPOSE"}
    patterns = {t.name: t.pattern.value for t in tables.parser(GRAMMAR).terminals if t.pattern.type == "str"}
    assert patterns == {name: text for text, name in from_lexer.items()}


def test_every_terminal_is_said_in_words() -> None:
    for terminal in tables.parser(GRAMMAR).terminals:
        assert in_words(terminal.name)
    for kind in ("INDENT", "DEDENT", "$END"):
        assert in_words(kind)
    assert expected_in_words({"COMMA", "RPAR"}) == "`)` or `,`"


def test_the_kept_tables_are_those_of_the_grammar() -> None:
    kept = json.loads(FOLDER.joinpath("grammar.json").read_text(encoding="utf-8"))
    assert kept["key"] == tables.made(GRAMMAR)["key"], "run `python -m recurc.frontend.tables`"


class Trees:
    """Makes of every rule what lark makes of it without callbacks: its name and its children."""

    def __getattr__(self, name: str) -> Callable[[list[Any]], Any]:
        return lambda children: (name, [c.text if isinstance(c, Token) else c for c in children])


def of_lark(tree: Any) -> Any:
    return str(tree) if isinstance(tree, LarkToken) else (str(tree.data), [of_lark(c) for c in tree.children])


def test_the_automaton_reads_what_lark_reads() -> None:
    ours, larks = Table.of(tables.made(GRAMMAR)), tables.parser(GRAMMAR)
    for name in zoo.names():
        tokens = lex(SourceFile(name, zoo.text(name))).tokens
        parser = larks.parse_interactive()
        for token in tokens:
            parser.feed_token(LarkToken(token.kind, token.text))
        wanted = of_lark(parser.feed_eof())
        for table in (ours, grammar()):
            automaton = Automaton(table, Trees())
            for token in tokens:
                automaton.feed(token)
            assert automaton.feed(Token(END, "", tokens[-1].span)) == wanted


def test_what_can_come_next_is_what_lark_accepts(seed: int) -> None:
    """After every token of some systems, drawn by the seed."""
    larks = tables.parser(GRAMMAR)
    for name in np.random.default_rng(seed).choice(zoo.names(), 3):
        parser, automaton = larks.parse_interactive(), Automaton(grammar(), Trees())
        for token in lex(SourceFile(name, zoo.text(name))).tokens:
            assert automaton.accepts() == parser.accepts()
            parser.feed_token(LarkToken(token.kind, token.text))
            automaton.feed(token)
        assert automaton.accepts() == parser.accepts()


def test_positions_survive_lowering() -> None:
    (rec,) = load_text(zoo.text("lstm"), "lstm.rec")
    span = rec.equations[0].span
    assert span is not None
    assert zoo.text("lstm").split("\n")[span.line - 1][span.column - 1 :].startswith("i, f, g, o =")
