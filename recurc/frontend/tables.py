"""The LALR parser of grammar.lark, from tables made in advance.

Making the tables takes about 50 ms, reading them a few. They are kept as JSON (data that cannot run, unlike a pickle)
next to the grammar, together with the grammar's checksum and lark's version; if either differs, the parser is made from
the grammar. `python -m recurc.frontend.tables` writes them.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, cast

import lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from recurc.frontend.build_ast import BuildAst

_FOLDER = Path(__file__).parent


def load() -> lark.Lark:
    """The parser, from the tables if they fit this grammar and this lark."""
    text = _FOLDER.joinpath("grammar.lark").read_text(encoding="utf-8")
    tables = _FOLDER.joinpath("grammar.json")
    if tables.is_file():
        kept = json.loads(tables.read_text(encoding="utf-8"), object_hook=_numbered)
        if kept["key"] == _key(text):
            read: Any = cast(Any, lark.Lark)._load_from_dict
            return read(kept["data"], kept["memo"], transformer=BuildAst())
    return build(text)


def build(text: str) -> lark.Lark:
    """The parser made from the grammar text."""
    return lark.Lark(
        text,
        parser="lalr",
        lexer="basic",
        keep_all_tokens=True,
        maybe_placeholders=False,
        transformer=BuildAst(),
    )


def tables_text() -> str:
    """What grammar.json should hold."""
    text = _FOLDER.joinpath("grammar.lark").read_text(encoding="utf-8")
    made: Any = lark.Lark(text, parser="lalr", lexer="basic", keep_all_tokens=True, maybe_placeholders=False)
    data, memo = made.memo_serialize([TerminalDef, Rule])
    return json.dumps({"key": _key(text), "data": data, "memo": memo}, separators=(",", ":"), sort_keys=True) + "\n"


def _key(text: str) -> str:
    return f"lark {lark.__version__} {zlib.crc32(text.encode()):08x}"


def _numbered(table: dict[str, Any]) -> dict[Any, Any]:
    """JSON knows only text as keys; the tables' numbers are made numbers again."""
    return {int(k) if k.isdigit() else k: v for k, v in table.items()}


if __name__ == "__main__":
    _FOLDER.joinpath("grammar.json").write_text(tables_text(), encoding="utf-8")
