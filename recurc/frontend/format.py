"""The formatter: only spaces, blank lines and the place of comments change, never a token."""

from __future__ import annotations

from dataclasses import dataclass, field

from recurc.errors import CompilerBug, RecError
from recurc.frontend.lexer import Token, lex
from recurc.frontend.tokens import KEYWORDS
from recurc.source import SourceFile

_STEP = 4
_DECLARATIONS = {"INPUT", "PARAM", "STATE", "CONST", "OUTPUT"}
_KEYWORD_WIDTH = len("output")
_OPERATORS = {
    "DOUBLE_SLASH", "LESS_EQUAL", "GREATER_EQUAL", "EQUALS", "DIFFERS", "LESS", "GREATER", "PLUS", "MINUS", "STAR",
    "SLASH", "AT", "PERCENT", "TILDE", "EQUAL",
}  # fmt: skip
_ENDS_VALUE = {"NAME", "NUMBER", "STRING", "RPAR", "RSQB", "TRANSPOSE", "TRUE", "FALSE"}
_WORDS = frozenset(KEYWORDS.values()) - {"DER", "TRUE", "FALSE"}


@dataclass
class _Line:
    """One physical line: its tokens, the comment at its end, and the depth of the block it stands in."""

    number: int
    level: int = 0
    comment: Token | None = None
    inside: tuple[str, ...] = ()  # brackets open where the line begins
    after_tilde: bool = False
    carried: Token | None = None  # the last token of the line that goes on here
    tokens: list[Token] = field(default_factory=list[Token])


def format_text(text: str, file: str = "<text>") -> str:
    """`text` in the standard layout; formatting twice changes nothing more. Raises `RecError` if it does not parse."""
    from recurc.frontend import normalised
    from recurc.frontend.parse import parse

    text = _without_tabs(normalised(text))
    source = SourceFile(file, text)
    parse(source)
    done = _layout(source)
    after = lex(SourceFile(file, done))
    if after.problems or _essence(after.tokens) != _essence(lex(source).tokens):
        raise CompilerBug("the formatter changed more than the layout")
    return done


def _essence(tokens: list[Token]) -> list[tuple[str, str]]:
    return [(t.kind, "" if t.kind == "INDENT" else t.text) for t in tokens]


def _without_tabs(text: str) -> str:
    """Tabs in the indentation as spaces; elsewhere the lexer takes them as spaces anyway."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        body = line.lstrip(" \t")
        lines[i] = line[: len(line) - len(body)].expandtabs(_STEP) + body
    return "\n".join(lines)


def _layout(source: SourceFile) -> str:
    lexed = lex(source)
    if lexed.problems:
        raise RecError(lexed.problems)
    lines = _lines(lexed.tokens, lexed.comments)
    if not lines:
        return ""
    written = [_write(line) for line in lines]
    _align_initializers(lines, written)
    out: list[str] = []
    for i, (line, text) in enumerate(zip(lines, written, strict=True)):
        comment = _comment(line.comment)
        full = (text + ("  " if text.strip() and comment else "") + comment).rstrip()
        if i:
            previous = lines[i - 1]
            blank = min(line.number - previous.number - 1, 2 if line.level == 0 else 1)
            if previous.tokens and previous.tokens[-1].kind == "COLON" and line.level > previous.level:
                blank = 0
            out += [""] * (0 if line.inside else blank)
        out.append(full)
    return "\n".join(out) + "\n"


def _lines(tokens: list[Token], comments: list[Token]) -> list[_Line]:
    """The lines that hold something, in order, each with its level."""
    found: dict[int, _Line] = {}
    level, open_brackets, tilde = 0, list[str](), False
    last: Token | None = None
    for token in tokens:
        if token.kind == "INDENT":
            level += 1
        elif token.kind == "DEDENT":
            level -= 1
        elif token.kind == "NEWLINE":
            tilde = False
        else:
            number = token.span.line
            if number not in found:
                carried = last if open_brackets else None
                found[number] = _Line(number, level, None, tuple(open_brackets), tilde, carried)
            found[number].tokens.append(token)
            last = token
            tilde = tilde or token.kind == "TILDE"
            if token.kind in ("LPAR", "LSQB"):
                open_brackets.append(token.text)
            elif token.kind in ("RPAR", "RSQB"):
                open_brackets.pop()
    code = sorted(found)
    for comment in comments:
        number = comment.span.line
        if number in found:
            found[number].comment = comment
            continue
        before = next((found[n] for n in reversed(code) if n < number), None)
        after = next((found[n] for n in code if n > number), None)
        found[number] = _Line(number, _comment_level(comment, before, after), comment=comment)
        if after is not None and after.inside:
            found[number].inside = after.inside
    return [found[n] for n in sorted(found)]


def _comment_level(comment: Token, before: _Line | None, after: _Line | None) -> int:
    """A comment belongs to what follows it, unless it is indented like the block that ends there."""
    following = after.level if after else 0
    preceding = before.level if before else 0
    if preceding <= following:
        return following
    return max(following, min(preceding, (comment.span.column - 1 + _STEP // 2) // _STEP))


def _comment(comment: Token | None) -> str:
    if comment is None:
        return ""
    body = comment.text[1:]
    return "#" + body if not body or body[0] in " #!" else "# " + body


def _write(line: _Line) -> str:
    if not line.tokens:
        return " " * (_STEP * (line.level + (1 if line.inside else 0)))
    text = " " * (_STEP * (line.level + (1 if line.inside and not _only_closes(line) else 0)))
    brackets, tilde = list(line.inside), line.after_tilde
    previous: Token | None = None
    before: Token | None = None
    for token in line.tokens:
        if previous is not None:
            text += " " * _gap(before, previous, token, brackets, tilde)
        text += token.text
        if token.kind in ("LPAR", "LSQB"):
            brackets.append(token.text)
        elif token.kind in ("RPAR", "RSQB") and brackets:
            brackets.pop()
        tilde = tilde or token.kind == "TILDE"
        before, previous = previous or line.carried, token
    return text


def _only_closes(line: _Line) -> bool:
    return line.tokens[0].kind in ("RPAR", "RSQB")


def _gap(before: Token | None, previous: Token, token: Token, brackets: list[str], tilde: bool) -> int:
    """Spaces between two neighbours on a line."""
    last, this = previous.kind, token.kind
    if last in _DECLARATIONS:
        return _KEYWORD_WIDTH - len(previous.text) + 1
    if this == "TRANSPOSE" and last == "NUMBER":
        return 1  # `2.T` would read as a number
    if last in ("LPAR", "LSQB") or this in ("RPAR", "RSQB", "COMMA", "COLON", "TRANSPOSE"):
        return 0
    if this == "DOUBLE_STAR" or last == "DOUBLE_STAR":
        return 0
    if this in ("LPAR", "LSQB"):
        tight = last in ("NAME", "DER", "RPAR", "RSQB", "TRANSPOSE") or _is_sign(before, previous)
        return 0 if tight else 1
    if _is_sign(before, previous):
        return 0
    if (this in ("PLUS", "MINUS") or last in ("PLUS", "MINUS")) and brackets and brackets[-1] == "[":
        return 0
    if tilde and (this in ("SLASH", "STAR") or last in ("SLASH", "STAR")):
        return 0
    return 1


def _is_sign(before: Token | None, token: Token) -> bool:
    """Whether `token` is a sign (`-x`), not an operation between two values."""
    return token.kind in ("PLUS", "MINUS") and (before is None or before.kind not in _ENDS_VALUE)


def _align_initializers(lines: list[_Line], written: list[str]) -> None:
    """Puts the `~` of neighbouring param lines under each other."""
    start = 0
    while start < len(lines):
        end = start
        while (
            end < len(lines)
            and _has_one_initializer(lines[end])
            and lines[end].number - lines[start].number == end - start
        ):
            end += 1
        if end > start + 1:
            columns = [written[i].index("~") for i in range(start, end)]
            for i, column in zip(range(start, end), columns, strict=True):
                written[i] = written[i][:column] + " " * (max(columns) - column) + written[i][column:]
        start = max(end, start + 1)


def _has_one_initializer(line: _Line) -> bool:
    kinds = [t.kind for t in line.tokens]
    return bool(kinds) and kinds[0] == "PARAM" and kinds.count("TILDE") == 1 and not line.inside
