"""Text to syntax tree. Every syntax error becomes a diagnostic in words, and parsing goes on with the next line."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from recurc.diagnostics import Diagnostic
from recurc.errors import RecError
from recurc.frontend import ast
from recurc.frontend.automaton import END, Automaton, Table, UnexpectedToken
from recurc.frontend.build_ast import BuildAst, MisplacedValue, TooDeep
from recurc.frontend.lexer import MAX_NESTING, Lexed, Token, lex
from recurc.frontend.tokens import KEYWORDS, expected_in_words, in_words
from recurc.source import SourceFile, Span

_MAX_ERRORS = 20


def parse(source: SourceFile) -> ast.Module:
    """The syntax tree of a file. Raises `RecError` with every lexical or syntactic error found."""
    lexed = lex(source)
    if lexed.problems:
        raise RecError(lexed.problems)
    parser = _Parser(source, lexed)
    module = parser.run()
    if parser.problems or module is None:
        raise RecError(parser.problems)
    return _with_docs(module, lexed)


@cache
def grammar() -> Table:
    """The LALR table of grammar.lark."""
    from recurc.frontend.tables import load

    return load()


@dataclass(frozen=True)
class _Wrong:
    code: str
    message: str
    help: str
    first: bool = False  # whether the beginning of the line is what is wrong


class _Parser:
    """Feeds the automaton line by line. After an error the line is replaced by a harmless one, so that the rest still
    parses."""

    def __init__(self, source: SourceFile, lexed: Lexed) -> None:
        self.source, self.tokens = source, lexed.tokens
        self.problems: list[Diagnostic] = []
        self.automaton = Automaton(grammar(), BuildAst())

    def run(self) -> ast.Module | None:
        at, start = 0, 0
        saved = self.automaton.save()
        if not any(t.kind not in ("NEWLINE",) for t in self.tokens):
            self._report(
                "E0119", "the file holds no recurrence", _begin(self.source), "begin with `recurrence NAME(D):`"
            )
            return None
        while at < len(self.tokens):
            if at == 0 or self.tokens[at - 1].kind in ("NEWLINE", "INDENT", "DEDENT"):
                start, saved = at, self.automaton.save()
            token = self.tokens[at]
            failed = self._feed(token)
            if not failed:
                at += 1
                continue
            if failed != "reported":
                self.automaton.restore(saved)
                for earlier in self.tokens[start:at]:
                    self._feed(earlier, quiet=True)
                self._unexpected(start, at, self.automaton.accepts())
            if len(self.problems) >= _MAX_ERRORS:
                return None
            self.automaton.restore(saved)
            resumed = self._skip_line(start, at)
            if resumed is None:
                return None
            at = resumed
        end = Token(END, "", self.tokens[-1].span)
        result: list[Any] = []
        if self._feed(end, result=result) == "unexpected" and not self.problems:
            self._unexpected(len(self.tokens) - 1, len(self.tokens) - 1, self.automaton.accepts())
        return result[0] if result else None

    def _feed(self, token: Token, quiet: bool = False, result: list[Any] | None = None) -> str:
        """ "" if the token fits, else "unexpected", or "reported" when a rule itself found something wrong."""
        try:
            made = self.automaton.feed(token)
            if result is not None and made is not None:
                result.append(made)
        except UnexpectedToken:
            return "unexpected"
        except TooDeep as deep:
            if not quiet:
                message = f"nested more than {MAX_NESTING} levels deep"
                self._report(
                    "E0108", message, _first_line(deep.span), "give the inner parts names, in equations of their own"
                )
            return "reported"
        except MisplacedValue as wrong:
            if not quiet and not self.problems:
                message = f"the last line of `{wrong.function}`, and only the last, must be an expression: its value"
                self._report("E0120", message, wrong.span, "the lines before it are equations: `name = expression`")
            return "reported"
        return ""

    def _skip_line(self, start: int, at: int) -> int | None:
        """Puts a harmless line in place of the one at fault; returns the token to go on with, None to stop."""
        if self.tokens[at].kind in ("INDENT", "DEDENT", "$END") or (
            at == start and "INDENT" in self.automaton.accepts()
        ):
            return None
        end = max(start, at)
        while self.tokens[end].kind != "NEWLINE":
            end += 1
        opens = end + 1 < len(self.tokens) and self.tokens[end + 1].kind == "INDENT"
        nested = "DEDENT" in self.automaton.accepts() or (start > 0 and self.tokens[start - 1].kind == "INDENT")
        line = self.tokens[start].kind
        if opens and (line == "RECURRENCE" or (not nested and line != "FN" and self.tokens[start].text != "def")):
            kinds = ["RECURRENCE", "NAME", "COLON", "NEWLINE"]
        elif opens and (line == "FN" or self.tokens[start].text == "def"):
            kinds = ["FN", "NAME", "LPAR", "RPAR", "COLON", "NEWLINE"]
        elif opens:
            kinds = ["WHEN", "TRUE", "COLON", "NEWLINE"]
        elif nested:
            kinds = ["NAME", "EQUAL", "TRUE", "NEWLINE"]
        else:
            kinds = []
        for kind in kinds:
            if self._feed(Token(kind, "_", self.tokens[start].span), quiet=True):
                return None
        return end + 1

    def _unexpected(self, start: int, at: int, accepted: set[str]) -> None:
        token = self.tokens[at]
        previous = self.tokens[at - 1] if at else None
        wrong = explain_unexpected(
            self.tokens[start:at], token, self.tokens[at + 1] if at + 1 < len(self.tokens) else None, accepted
        )
        span = self.tokens[start].span if wrong.first else token.span
        if (
            not wrong.first
            and token.kind in ("NEWLINE", "DEDENT", "$END")
            and previous is not None
            and previous.kind != "NEWLINE"
        ):
            span = Span(
                span.file,
                previous.span.end_line,
                previous.span.end_column,
                previous.span.end_line,
                previous.span.end_column + 1,
            )
        self._report(wrong.code, wrong.message, span, wrong.help)

    def _report(self, code: str, message: str, span: Span, help: str) -> None:
        self.problems.append(Diagnostic(code, "error", message, span, (), help, self.source))


_PYTHON = {
    "def": "write `fn name(u) = expression` for a helper, `recurrence NAME(D):` for a system",
    "class": "write `recurrence NAME(D):`",
    "for": "the equations hold at every step by themselves; a fixed number of rounds is `iterate(n, X = X0, expr)`",
    "while": "equations hold at every step; a fixed number of rounds is `iterate(n, X = X0, expr)`",
    "return": "name the result with `output y = ...`",
    "import": 'write `use "other.rec"`; functions such as exp and tanh are always there',
    "from": 'write `use "other.rec"`',
    "lambda": "write `fn name(u) = expression`",
    "print": "a recurrence has no side effects; make the value an `output`",
    "pass": "leave the line out",
    "elif": "nest them: `if a then x else if b then y else z`",
}
_COMPARE = {"LESS", "GREATER", "LESS_EQUAL", "GREATER_EQUAL", "EQUALS", "DIFFERS"}
_ARITHMETIC = {"PLUS", "MINUS", "STAR", "SLASH", "AT", "PERCENT", "DOUBLE_STAR", "DOUBLE_SLASH"}
_VALUES = {"NAME", "NUMBER", "RPAR", "RSQB", "TRANSPOSE", "TRUE", "FALSE"}


def explain_unexpected(line: list[Token], token: Token, following: Token | None, accepted: set[str]) -> _Wrong:
    """What to say about `token`, which cannot follow the tokens `line` of its logical line."""
    first = line[0] if line else token
    previous = line[-1] if line else None
    found = f"`{token.text}`" if token.kind not in ("NEWLINE", "INDENT", "DEDENT", "$END") else in_words(token.kind)
    kinds = {t.kind for t in line}
    if first.kind == "NAME" and first.text in _PYTHON and "EQUAL" not in kinds:
        return _Wrong("E0114", f"`{first.text}` is Python; Rec has no such statement", _PYTHON[first.text], True)
    if accepted == {"INDENT"}:
        return _Wrong(
            "E0112", f"expected an indented block, found {found}", "indent the lines of the block by 4 spaces"
        )
    if token.kind == "INDENT":
        return _Wrong("E0104", "this line is indented, but no block begins here", "line it up with the line above")
    if not line and token.kind != "RECURRENCE" and "RECURRENCE" in accepted:
        help = "put it into the indented block of a `recurrence NAME(D):`"
        if token.kind == "NAME" and (word := _meant(token.text, ("recurrence",))):
            help = f"did you mean `{word}`?"
        return _Wrong("E0118", f"{found} stands outside of any recurrence", help)
    if first.kind == "NAME" and len(line) == 1 and token.kind in ("NAME", "STRING") and (word := _meant(first.text)):
        return _Wrong("E0100", f"`{first.text}` begins no statement", f"did you mean `{word}`?", True)
    if not line and token.kind == "USE":
        return _Wrong(
            "E0100", "`use` stands at the top of a file, not in a block", 'write `use "other.rec"` without indentation'
        )
    if token.kind in KEYWORDS.values() and token.kind != "IF" and "NAME" in accepted and _wants_name(previous):
        return _Wrong(
            "E0116",
            f"`{token.text}` is a keyword, so it cannot be a name",
            f"choose another name, such as `{token.text}_`",
        )
    if token.kind == "LSQB" and {t.kind for t in line} <= {"NAME", "COMMA"}:
        return _Wrong(
            "E0113",
            "the left side of an equation is a bare name",
            f"write `{first.text} = ...`: a bare name means the value at step t",
        )
    if token.kind in _ARITHMETIC and len(line) == 1 and following is not None and following.kind == "EQUAL":
        message = f"`{token.text}=` changes a name in place; equations define each name once"
        return _Wrong("E0115", message, f"write `{first.text} = {first.text}[t-1] {token.text} ...`")
    if token.kind == "EQUALS" and len(line) == 1:
        return _Wrong("E0100", "`==` compares; a definition is written with `=`", f"write `{first.text} = ...`")
    if token.kind in _COMPARE and kinds & _COMPARE:
        return _Wrong("E0117", "comparisons do not chain", "write `a < b and b < c`")
    return _plain(line, token, following, accepted, found)


def _plain(line: list[Token], token: Token, following: Token | None, accepted: set[str], found: str) -> _Wrong:
    previous = line[-1] if line else None
    kinds = {t.kind for t in line}
    expected = expected_in_words(accepted - {"INDENT"})
    message = f"expected {expected}, found {found}"
    help = ""
    if "COLON" in accepted and token.kind == "NEWLINE":
        message, help = "expected `:` at the end of the line", "a header that opens a block ends with `:`"
    elif token.kind == "COLON" and "IF" in kinds and "THEN" not in kinds:
        help = "a choice is an expression: `if c then a else b`"
    elif "IF" in kinds and "ELSE" in accepted and token.kind in ("NEWLINE", "RPAR"):
        message, help = "this `if` has no `else`", "both branches are needed: `if c then a else b`"
    elif line and line[0].kind == "DER" and "USING" in accepted and token.kind == "NEWLINE":
        message, help = "this law does not say how a step follows from it", "add a method: `using euler(dt)`"
    elif previous is not None and previous.kind == "RESET":
        help = "write `reset when c` with a truth value c"
    elif token.kind == "EQUAL" and line and line[0].kind == "PARAM":
        help = "a param has its value from the call: `~` gives an initialiser, and a fixed number is a `const`"
    elif not line and token.kind == "IF":
        help = "a choice is an expression, not a statement: `name = if c then a else b`"
    elif "IF" not in kinds and token.kind == "IF":
        help = "write `if c then a else b`, in brackets inside a larger expression"
    elif token.kind == "IF":
        help = "write `if c then a else b`: the condition comes first"
    elif token.kind == "TILDE":
        help = "`~` gives the initialiser of a param; a state has `= value`"
    elif (
        token.kind in ("NAME", "NUMBER", "LPAR")
        and previous is not None
        and previous.kind in _VALUES
        and accepted & _ARITHMETIC
    ):
        help = f"a product needs `*`: `{previous.text} * {token.text}`"
    elif token.kind == "EQUAL" and "EQUAL" in kinds:
        help = "`=` defines, `==` compares; one definition per line"
    elif previous is not None and previous.kind == "USE":
        help = 'write the file name in quotes: use "other.rec"'
    elif token.kind == "COLON" and "LSQB" in kinds:
        help = "values are not sliced; `W[4, H, D]` unpacks as `a, b, c, d = ...`, `window(x, n)` keeps the last n"
    elif token.kind == "NAME" and "COMMA" in accepted:
        help = "separate several names by commas"
    elif "EQUAL" in accepted and line and line[0].kind == "NAME" and {"EQUAL"}.isdisjoint(kinds):
        help = "every line of a recurrence is a declaration or an equation `name = expression`"
    elif token.kind == "NEWLINE":
        help = "the line ends too early; an open bracket would continue it"
    return _Wrong("E0100", message, help or "see docs/language.md for the form of this line")


def _wants_name(previous: Token | None) -> bool:
    return (
        previous is None
        or previous.kind
        in {"RECURRENCE", "INPUT", "PARAM", "STATE", "CONST", "OUTPUT", "FN", "COMMA", "LPAR", "LSQB", "EQUAL"}
        | _ARITHMETIC
    )


def _meant(
    word: str, among: tuple[str, ...] = ("input", "param", "state", "const", "output", "use", "every", "when", "reset")
) -> str:
    close = difflib.get_close_matches(word.lower(), among, 1, 0.7)
    return close[0] if close else ""


def _begin(source: SourceFile) -> Span:
    return Span(source.name, 1, 1, 1, 2)


def _first_line(span: Span) -> Span:
    """A span may cover many lines; its beginning is enough to point at."""
    return span if span.end_line == span.line else Span(span.file, span.line, span.column, span.line, span.column + 1)


def _with_docs(module: ast.Module, lexed: Lexed) -> ast.Module:
    """Gives each recurrence the comment lines that stand directly above it."""
    lines = {c.span.line: c.text.lstrip("#").strip() for c in lexed.comments if c.span.column == 1}
    items: list[Any] = []
    for item in module.items:
        if isinstance(item, ast.Recurrence):
            line, found = item.span.line - 1, list[str]()
            while line in lines:
                found.append(lines[line])
                line -= 1
            items.append(replace(item, doc="\n".join(reversed(found))))
        else:
            items.append(item)
    return ast.Module(tuple(items))
