"""The LALR table of grammar.lark, made by lark in advance.

Making it and loading lark would take most of the time in which a file is checked; reading it takes little. It is kept
as JSON (data that cannot run, unlike a pickle) next to the grammar, together with the grammar's checksum; if that
differs, it is made from the grammar. `python -m recurc.frontend.tables` writes it.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from recurc.frontend.automaton import Table

_FOLDER = Path(__file__).parent


def load() -> Table:
    """The kept table if it fits this grammar, else one made now."""
    text = _FOLDER.joinpath("grammar.lark").read_text(encoding="utf-8")
    kept = _FOLDER.joinpath("grammar.json")
    if kept.is_file():
        data = json.loads(kept.read_text(encoding="utf-8"))
        if data["key"] == _key(text):
            return Table.of(data)
    return Table.of(made(text))


def parser(text: str) -> Any:
    """lark's own parser of a grammar text."""
    from lark import Lark

    return Lark(text, parser="lalr", lexer="basic", keep_all_tokens=True, maybe_placeholders=False)


def made(text: str) -> dict[str, Any]:
    """What grammar.json should hold, from the grammar text."""
    from lark.grammar import Rule as LarkRule
    from lark.lexer import TerminalDef

    data, memo = parser(text).memo_serialize([TerminalDef, LarkRule])
    inner = data["parser"]["parser"]
    numbers: dict[int, int] = {}
    rules: list[list[Any]] = []
    for place, rule in memo.items():
        if rule["__type__"] != "Rule":
            continue
        numbers[place] = len(rules)
        origin = str(rule["origin"]["name"])
        method = None if origin.startswith("_") else rule["alias"] or origin
        passes = bool(rule["options"]["expand1"]) and not rule["alias"]
        assert not passes or len(rule["expansion"]) == 1, f"{origin} needs a name for what its parts make"
        rules.append([origin, len(rule["expansion"]), None if passes else method, passes])
    order = {state: n for n, state in enumerate(inner["states"])}
    symbols: list[str] = list(inner["tokens"].values())
    states: list[list[int]] = []
    for row in inner["states"].values():
        pairs: list[int] = []
        for symbol, (reduces, to) in row.items():
            pairs += [symbol, -1 - numbers[to["@"]] if reduces else order[to]]
        states.append(pairs)
    start, end = (order[inner[f"{which}_states"]["start"]] for which in ("start", "end"))
    return {"key": _key(text), "start": start, "end": end, "symbols": symbols, "rules": rules, "states": states}


def _key(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def tables_text() -> str:
    """The text of grammar.json."""
    text = _FOLDER.joinpath("grammar.lark").read_text(encoding="utf-8")
    return json.dumps(made(text), separators=(",", ":")) + "\n"


if __name__ == "__main__":
    _FOLDER.joinpath("grammar.json").write_text(tables_text(), encoding="utf-8")
