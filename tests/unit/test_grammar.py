"""The grammar, its tables and the lexer belong together."""

from __future__ import annotations

import json
from importlib.resources import files

from recurc import zoo
from recurc.frontend import load_text, tables
from recurc.frontend.lexer import lex
from recurc.frontend.parse import grammar
from recurc.frontend.tokens import KEYWORDS, SYMBOLS, expected_in_words, in_words
from recurc.source import SourceFile

FOLDER = files("recurc.frontend")


def test_the_lexer_and_the_grammar_have_the_same_terminals() -> None:
    from_lexer = KEYWORDS | SYMBOLS | {".T": "TRANSPOSE"}
    patterns = {t.name: t.pattern.value for t in grammar().terminals if t.pattern.type == "str"}
    assert patterns == {name: text for text, name in from_lexer.items()}


def test_every_terminal_is_said_in_words() -> None:
    for terminal in grammar().terminals:
        assert in_words(terminal.name)
    for kind in ("INDENT", "DEDENT", "$END"):
        assert in_words(kind)
    assert expected_in_words({"COMMA", "RPAR"}) == "`)` or `,`"


def test_the_kept_tables_are_those_of_the_grammar() -> None:
    kept = json.loads(FOLDER.joinpath("grammar.json").read_text(encoding="utf-8"))
    fresh = json.loads(tables.tables_text())
    assert kept["key"].split()[-1] == fresh["key"].split()[-1], "run `python -m recurc.frontend.tables`"


def test_the_parser_made_from_the_grammar_reads_what_the_kept_one_reads() -> None:
    from recurc.frontend.build_ast import Fed

    built = tables.build(FOLDER.joinpath("grammar.lark").read_text(encoding="utf-8"))
    for name in zoo.names():
        trees = []
        for parser in (built, grammar()):
            tokens = lex(SourceFile(name, zoo.text(name))).tokens
            interactive = parser.parse_interactive()
            for token in tokens:
                interactive.feed_token(Fed.of(token))
            trees.append(interactive.feed_eof(Fed.of(tokens[-1])))
        assert repr(trees[0]) == repr(trees[1])


def test_positions_survive_lowering() -> None:
    (rec,) = load_text(zoo.text("lstm"), "lstm.rec")
    span = rec.equations[0].span
    assert span is not None
    assert zoo.text("lstm").split("\n")[span.line - 1][span.column - 1 :].startswith("i, f, g, o =")
