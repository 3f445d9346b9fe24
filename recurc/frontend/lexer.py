"""Text to tokens: bad characters, indentation, nesting and size are diagnosed here, so the grammar never sees them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from recurc.diagnostics import Diagnostic
from recurc.frontend.functions import FUNCTIONS
from recurc.frontend.tokens import KEYWORDS, SYMBOLS
from recurc.source import SourceFile, Span

MAX_CHARACTERS = 256 * 1024  # a .rec file is written by hand; 64 KiB are checked in well under two seconds
MAX_NESTING = 200
_MAX_ERRORS = 20
_INDENT = 4

_TOKEN = re.compile(
    r"(?P<SPACE>[ \t]+)|(?P<COMMENT>\#[^\n]*)|(?P<NEWLINE>\n)|(?P<NAME>[^\W\d]\w*)"
    r"|(?P<NUMBER>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?j?(?P<TAIL>[\w.]*))"
    r'|(?P<TRANSPOSE>\.T\b)|(?P<STRING>"[^"\n]*")|(?P<SYMBOL>' + "|".join(map(re.escape, SYMBOLS)) + ")"
)
_OPEN, _CLOSE = {"(": ")", "[": "]"}, {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its kind (a terminal of the grammar, or COMMENT), its text and its place."""

    kind: str
    text: str
    span: Span


@dataclass
class Lexed:
    tokens: list[Token] = field(default_factory=list[Token])
    comments: list[Token] = field(default_factory=list[Token])
    problems: list[Diagnostic] = field(default_factory=list[Diagnostic])


def lex(source: SourceFile) -> Lexed:
    """All tokens, with NEWLINE at the end of each logical line and INDENT and DEDENT around blocks."""
    return _Lexer(source).run()


class _Lexer:
    def __init__(self, source: SourceFile) -> None:
        self.source, self.out = source, Lexed()
        self.line, self.line_start = 1, 0
        self.levels, self.brackets = [0], list[Token]()

    def run(self) -> Lexed:
        text = self.source.text
        if len(text) > MAX_CHARACTERS:
            self._problem(
                "E0109",
                f"the file has more than {MAX_CHARACTERS:,} characters, the most that recurc reads",
                Span(self.source.name, 1, 1, 1, 2),
                "split it into several files, or check that this is a .rec file",
            )
            return self.out
        at, fresh = 0, True  # `fresh`: no token on this line yet
        while at < len(text) and len(self.out.problems) < _MAX_ERRORS:
            if fresh and not self.brackets:
                at = self._indentation(at)
                fresh = False
                continue
            match = _TOKEN.match(text, at)
            if match is None:
                at = self._bad_character(at)
                continue
            kind, end = str(match.lastgroup), match.end()
            if kind == "TAIL":
                kind = "NUMBER"
            if kind == "NEWLINE":
                self._newline(at)
                fresh = True
            elif kind == "COMMENT":
                self.out.comments.append(Token("COMMENT", match.group().rstrip(), self._span(at, end)))
            elif kind != "SPACE":
                self._token(kind, match, at)
                if len(self.brackets) > MAX_NESTING:
                    self._too_deep(self._span(at, end))
                    return self.out
            at = end
        self._finish(len(text))
        return self.out

    def _indentation(self, at: int) -> int:
        """Measures the line that begins at `at`; returns where its first token stands (or its end, if it is empty)."""
        text, start = self.source.text, at
        while at < len(text) and text[at] in " \t":
            at += 1
        if at == len(text) or text[at] in "\n#":
            return at
        indent = text[start:at]
        if "\t" in indent and all(p.code != "E0103" for p in self.out.problems):
            self._problem(
                "E0103", "a tab in the indentation", self._span(start, at), "indent with 4 spaces; `recurc fmt` does it"
            )
        width = len(indent.expandtabs(_INDENT))
        here = self._span(start, at)
        if width > self.levels[-1]:
            self.levels.append(width)
            self.out.tokens.append(Token("INDENT", indent, here))
        while width < self.levels[-1]:
            self.levels.pop()
            if width > self.levels[-1]:
                self._problem(
                    "E0104",
                    "this line is indented less than its block, but more than the one around it",
                    self._span(start, at + 1),
                    "line it up with one of the lines above",
                )
                self.levels.append(width)
                break
            self.out.tokens.append(Token("DEDENT", "", here))
        if len(self.levels) > MAX_NESTING:
            self._too_deep(here)
        return at

    def _token(self, kind: str, match: re.Match[str], at: int) -> None:
        text, span = match.group(), self._span(at, match.end())
        if kind == "NAME":
            kind = KEYWORDS.get(text, "NAME")
            text = unicodedata.normalize("NFC", text)
        elif kind == "NUMBER":
            if match.group("TAIL"):
                self._bad_number(text, match.group("TAIL"), span)
                text = "0"
        elif kind == "SYMBOL":
            kind = SYMBOLS[text]
            if text in _OPEN:
                self.brackets.append(Token(kind, text, span))
            elif text in _CLOSE and not self._close(text, span):
                return
        self.out.tokens.append(Token(kind, text, span))

    def _bad_number(self, text: str, tail: str, span: Span) -> None:
        if text[:2] in ("0x", "0X", "0b", "0o"):
            help = "write it in decimal"
        elif tail.startswith("_"):
            help = f"write it without underscores: {text.replace('_', '')}"
        elif tail[0].isalpha():
            help = f"a product needs `*`, and a name begins with a letter: {text.removesuffix(tail)} * {tail}"
        else:
            help = "a number looks like 3, 0.5 or 1e-6"
        self._problem("E0107", f"`{text}` is not a number", span, help)

    def _close(self, text: str, span: Span) -> bool:
        if not self.brackets:
            self._problem("E0106", f"`{text}` closes nothing", span, "remove it, or add the opening bracket")
            return False
        opened = self.brackets.pop()
        if opened.text != _CLOSE[text]:
            self._problem(
                "E0106",
                f"`{text}` closes `{opened.text}`",
                span,
                f"close it with `{_OPEN[opened.text]}`",
                ((opened.span, "opened here"), (span, "closed here")),
            )
            return False
        return True

    def _newline(self, at: int) -> None:
        tokens = self.out.tokens
        if not self.brackets and tokens and tokens[-1].kind not in ("NEWLINE", "INDENT", "DEDENT"):
            tokens.append(Token("NEWLINE", "\n", self._span(at, at + 1)))
        self.line, self.line_start = self.line + 1, at + 1

    def _finish(self, at: int) -> None:
        for opened in self.brackets[-1:]:
            self._problem(
                "E0106", f"`{opened.text}` is never closed", opened.span, f"add the missing `{_OPEN[opened.text]}`"
            )
        here = self._span(at, at)
        if self.out.tokens and self.out.tokens[-1].kind != "NEWLINE":
            self.out.tokens.append(Token("NEWLINE", "\n", here))
        self.out.tokens += [Token("DEDENT", "", here)] * (len(self.levels) - 1)

    def _bad_character(self, at: int) -> int:
        """One diagnostic for a run of equal strangers; returns where to go on."""
        text = self.source.text
        ch, end = text[at], at + 1
        while end < len(text) and text[end] == ch:
            end += 1
        span = self._span(at, end)
        if ch == '"':
            stop = text.find("\n", at)
            end = stop if stop >= 0 else len(text)
            self._problem(
                "E0110", "the quoted name does not end on its line", self._span(at, end), 'add the closing `"`'
            )
            return end
        if ch == "\ufeff":
            self._problem("E0102", "a byte-order mark inside the file", span, "save the file as UTF-8 without BOM")
        elif ch == "\N{REPLACEMENT CHARACTER}":
            self._problem("E0101", "the file is not valid UTF-8 here", span, "save the file as UTF-8")
        elif ch == "\r":
            self._problem(
                "E0105", "a carriage return without a line feed", span, "save the file with \\n or \\r\\n line ends"
            )
        elif ch == "." and end < len(text) and (text[end].isalpha() or text[end] == "_"):
            word = re.match(r"\w+", text[end:])
            attribute = word.group() if word else ""
            if attribute == "rec":
                help = 'the name of a file stands in quotes: `use "other.rec"`'
            elif attribute in FUNCTIONS:
                help = f"write `{attribute}(...)`: functions stand before their arguments"
            else:
                help = "only `.T` (swap the last two dims) follows a value with a dot; the size of a dim is its name"
            self._problem(
                "E0111", f"values have no attribute `.{attribute}`", self._span(at, end + len(attribute)), help
            )
            return end + len(attribute)
        else:
            name = unicodedata.name(ch, f"U+{ord(ch):04X}").lower()
            shown = f"`{ch}` ({name})" if ch.isprintable() else name
            self._problem("E0105", f"{shown} has no meaning here", span, _REPLACEMENTS.get(ch, "remove it"))
        return end

    def _too_deep(self, span: Span) -> None:
        self._problem(
            "E0108",
            f"nested more than {MAX_NESTING} levels deep",
            span,
            "give the inner parts names, in equations of their own",
        )

    def _span(self, start: int, end: int) -> Span:
        column = start - self.line_start + 1
        return Span(self.source.name, self.line, column, self.line, column + max(end - start, 1))

    def _problem(
        self, code: str, message: str, span: Span, help: str, labels: tuple[tuple[Span, str], ...] = ()
    ) -> None:
        self.out.problems.append(Diagnostic(code, "error", message, span, labels, help, self.source))


_REPLACEMENTS = {
    "−": "write `-`",
    "–": "write `-`",
    "×": "write `*`",
    "·": "write `*`",
    "⊙": "write `*` (elementwise product)",
    "⊗": "write `*` (dims that differ broadcast) or `outer(a, b)`",
    "÷": "write `/`",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "∞": "write `inf`",
    "←": "write `=`",
    "^": "write `**` for a power",
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`, or `!=`",
    "'": 'write `.T` for a transpose, "..." for a file name',
    ";": "put each equation on its own line",
    "{": "blocks are made by indentation",
    "}": "blocks are made by indentation",
    "$": "names are letters, digits and `_`",
    "\\": "a line goes on inside brackets; no backslash is needed",
    "\N{NO-BREAK SPACE}": "replace it by an ordinary space",
    "“": 'write `"`',
    "”": 'write `"`',
}
