"""The LALR parser of grammar.lark."""

from __future__ import annotations

from importlib.resources import files

from lark import Lark

from recurc.frontend.build_ast import BuildAst


def load() -> Lark:
    return build()


def build() -> Lark:
    """The parser made from the grammar text (about 50 ms)."""
    text = files("recurc.frontend").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(
        text, parser="lalr", lexer="basic", keep_all_tokens=True, maybe_placeholders=False, transformer=BuildAst()
    )
