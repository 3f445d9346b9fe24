"""IR text back to a recurrence: a tokeniser and a descent without recursion into expressions, so depth is no limit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from recurc.build import LINALG, REDUCTIONS
from recurc.errors import RecurcError
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Equation,
    Expr,
    Final,
    Gather,
    Initializer,
    Input,
    Iota,
    Linalg,
    Param,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    Size,
    State,
    Step,
    Unfold,
)
from recurc.irtext.names import PART
from recurc.ops import OPS
from recurc.types import DimDecl, Dims, DType

_DTYPES = {d.value: d for d in DType}

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<arrow>->)
      | (?P<number>[-+](?:inf|nan)\b|[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)
      | (?P<word>[^\W\d][\w.@']*)
      | (?P<sign>[%(){}\[\],:;=~])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class _Open:
    """An operation whose operands are still being read."""

    build: Callable[[tuple[Expr, ...]], Expr]
    arity: int
    args: list[Expr]
    what: str


def parse(text: str) -> Recurrence:
    """The recurrence `text` spells. Raises `RecurcError` with the line and column of the first mistake.

    Dims and dtypes are taken as written; the stage rules check them like those of any other recurrence."""
    return _Parser(text).recurrence()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split(text)
        self._next = 0

    def _split(self, text: str) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                self._fail(at, f"unexpected character {text[at]!r}")
            if found.lastgroup != "space":
                tokens.append(_Token(str(found.lastgroup), found.group(), at))
            at = found.end()
        tokens.append(_Token("end", "the end of the text", len(text)))
        return tokens

    def _fail(self, at: int, message: str) -> NoReturn:
        line = self._text.count("\n", 0, at) + 1
        column = at - (self._text.rfind("\n", 0, at) + 1) + 1
        raise RecurcError(f"IR text, line {line}, column {column}: {message}")

    # tokens

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _at(self, text: str) -> bool:
        token = self._peek()
        return token.text == text and token.kind in ("sign", "word", "arrow")

    def _skip(self, text: str) -> bool:
        if self._at(text):
            self._take()
            return True
        return False

    def _need(self, text: str) -> None:
        token = self._peek()
        if not self._skip(text):
            self._fail(token.at, f"expected `{text}`, found {token.text}")

    def _string(self, token: _Token) -> str:
        try:
            return str(json.loads(token.text))
        except ValueError:
            self._fail(token.at, f"{token.text} is not a well-formed string")

    def _name(self, what: str) -> str:
        token = self._take()
        if token.kind == "string":
            return self._string(token)
        if token.kind != "word":
            self._fail(token.at, f"expected {what}, found {token.text}")
        return token.text

    def _value_name(self) -> str:
        """The name after `%`; it may begin with digits (`1.a`, a part of a monoid's element)."""
        token = self._peek()
        if token.kind != "number":
            return self._name("a name after `%`")
        found = PART.match(self._text, token.at)
        if found is None:
            self._fail(token.at, f"expected a name after `%`, found {token.text}")
        while self._peek().at < found.end():
            self._take()
        return found.group()

    def _integer(self, what: str) -> int:
        token = self._take()
        if token.kind != "number" or not re.fullmatch(r"[-+]?[0-9]+", token.text):
            self._fail(token.at, f"expected {what}, found {token.text}")
        return int(token.text)

    def _integers(self) -> tuple[int, ...]:
        values: list[int] = []
        while self._peek().kind == "number":
            values.append(self._integer("an axis"))
        return tuple(values)

    def _dim(self) -> str:
        token = self._peek()
        if token.kind == "number" and token.text.isdigit():
            return self._take().text
        return self._name("a dim")

    def _dims(self, end: str) -> Dims:
        dims: list[str] = []
        while not self._at(end):
            dims.append(self._dim())
            if not self._skip(","):
                break
        self._need(end)
        return tuple(dims)

    def _type(self) -> tuple[DType, Dims]:
        self._need(":")
        token = self._take()
        dtype = _DTYPES.get(token.text)
        if dtype is None:
            self._fail(token.at, f"{token.text} is not a dtype; the dtypes are {', '.join(_DTYPES)}")
        return dtype, self._dims("]") if self._skip("[") else ()

    # expressions

    def expr(self) -> Expr:
        open_: list[_Open] = []
        while True:
            head = self._head()
            if isinstance(head, _Open):
                self._need("(")
                open_.append(head)
                continue
            value: Expr = head
            while open_:
                top = open_[-1]
                top.args.append(value)
                if self._skip(","):
                    break
                closing = self._peek()
                self._need(")")
                open_.pop()
                if len(top.args) != top.arity:
                    self._fail(closing.at, f"{top.what} takes {top.arity} operands, found {len(top.args)}")
                value = top.build(tuple(top.args))
            else:
                return value

    def _head(self) -> Expr | _Open:
        token = self._take()
        if token.kind == "number":
            return self._const(self._float_or_int(token))
        if token.text == "%" and token.kind == "sign":
            return self._read()
        if token.kind != "word":
            self._fail(token.at, f"expected an expression, found {token.text}")
        match token.text:
            case "true" | "false":
                return self._const(token.text == "true")
            case "inf" | "nan":
                return self._const(math.inf if token.text == "inf" else math.nan)
            case "complex":
                return self._complex()
            case "t":
                dtype, dims = self._type()
                return Step(dtype=dtype, dims=dims)
            case "size":
                self._need("(")
                dim = self._dim()
                self._need(")")
                dtype, dims = self._type()
                return Size(dim, dtype=dtype, dims=dims)
            case "reduce":
                return self._reduce()
            case "contract":
                return self._contract()
            case "reaxis":
                return self._reaxis()
            case "index":
                return self._index()
            case "broadcast":
                return self._broadcast()
            case "gather":
                return self._gather()
            case "unfold":
                return self._unfold()
            case "linalg":
                return self._linalg()
            case name:
                if name not in OPS:
                    self._fail(token.at, f"{name} is not an operator of the op table")
                dtype, dims = self._type()
                return _Open(lambda a: Apply(name, a, dims, dtype), OPS[name].arity, [], f"`{name}`")

    def _float_or_int(self, token: _Token) -> int | float:
        if re.fullmatch(r"[-+]?[0-9]+", token.text):
            return int(token.text)
        return math.nan if "nan" in token.text else float(token.text)

    def _const(self, value: bool | int | float | complex) -> Const:
        dtype, dims = self._type()
        return Const(value, dtype, dims=dims)

    def _complex(self) -> Const:
        self._need("(")
        real = self._component()
        self._need(",")
        imaginary = self._component()
        self._need(")")
        return self._const(complex(real, imaginary))

    def _component(self) -> float:
        token = self._take()
        if token.text not in ("inf", "nan") and token.kind != "number":
            self._fail(token.at, f"expected a number, found {token.text}")
        return float(token.text)

    def _read(self) -> Read | Final:
        name, lag = self._value_name(), 0
        if self._skip("["):
            if self._skip("T"):
                self._need("]")
                dtype, dims = self._type()
                return Final(name, dims, dtype)
            self._need("t")
            lag = -self._integer("a lag such as -1")
            self._need("]")
        dtype, dims = self._type()
        return Read(name, lag, dims, dtype)

    def _reduce(self) -> _Open:
        self._need("{")
        token = self._take()
        if token.text not in REDUCTIONS:
            self._fail(token.at, f"{token.text} is not a reduction; they are {', '.join(REDUCTIONS)}")
        self._need("over")
        over = self._dims("}")
        dtype, dims = self._type()
        return _Open(lambda a: Reduce(token.text, a[0], over, dims, dtype), 1, [], "a reduction")

    def _contract(self) -> _Open:
        self._need("{")
        left = self._integers()
        self._need(",")
        right = self._integers()
        self._need("->")
        out = self._integers()
        self._need("}")
        dtype, dims = self._type()
        return _Open(lambda a: Contract(a[0], a[1], left, right, out, dims, dtype), 2, [], "a contraction")

    def _reaxis(self) -> _Open:
        self._need("{")
        axes = self._integers()
        at: int | None = None
        index: int | None = None
        if self._skip(";"):
            self._need("axis")
            at = self._integer("an axis")
            self._need("at")
            index = self._integer("a position")
        self._need("}")
        dtype, dims = self._type()
        return _Open(lambda a: Reaxis(a[0], axes, dims, dtype, at, index), 1, [], "a reaxis")

    def _index(self) -> Iota:
        dtype, dims = self._type()
        return Iota(dims, dtype=dtype)

    def _broadcast(self) -> _Open:
        dtype, dims = self._type()
        return _Open(lambda a: Broadcast(a[0], dims, dtype), 1, [], "a broadcast")

    def _gather(self) -> _Open:
        self._need("{")
        axis = self._integer("an axis")
        self._need("}")
        dtype, dims = self._type()
        return _Open(lambda a: Gather(a[0], axis, a[1], dims, dtype), 2, [], "a gather")

    def _unfold(self) -> _Open:
        self._need("{")
        axes = self._integers()
        self._need("taps")
        taps = self._dims(";")
        forward = self._skip("forward")
        if not forward:
            self._need("backward")
        wrap = self._skip("wrap")
        self._need("}")
        dtype, dims = self._type()
        return _Open(lambda a: Unfold(a[0], axes, taps, forward, wrap, dims, dtype), 1, [], "an unfold")

    def _linalg(self) -> Linalg | _Open:
        self._need("{")
        token = self._take()
        if token.text not in LINALG:
            self._fail(token.at, f"{token.text} is no operation on matrices; they are {', '.join(LINALG)}")
        count = self._integer("the number of operands")
        self._need("}")
        dtype, dims = self._type()
        if not count:
            return Linalg(token.text, (), dims, dtype)
        return _Open(lambda a: Linalg(token.text, a, dims, dtype), count, [], f"`{token.text}`")

    # declarations

    def recurrence(self) -> Recurrence:
        self._need("recurrence")
        name = self._name("the recurrence's name")
        dims = self._header()
        self._need("{")
        doc: list[str] = []
        while self._skip("doc"):
            doc.append(self._string(self._take()))
        inputs: list[Input] = []
        params: list[Param] = []
        states: list[State] = []
        while self._skip("input"):
            inputs.append(self._input())
        while self._skip("param"):
            params.append(self._param())
        while self._skip("state"):
            given = self._name("the state's name")
            dtype, shape = self._type()
            bound = self._below()
            self._need("=")
            states.append(State(given, shape, dtype, self.expr(), bound=bound))
        equations: list[Equation] = []
        while self._skip("%"):
            target = self._value_name()
            self._need("=")
            equations.append(Equation(target, self.expr()))
        reset = self._name("the condition of a reset") if self._skip("reset") else None
        outputs = self._outputs() if self._skip("output") else ()
        self._need("}")
        if self._peek().kind != "end":
            self._fail(self._peek().at, f"expected the end of the text, found {self._peek().text}")
        return Recurrence(
            name,
            dims,
            tuple(inputs),
            tuple(params),
            tuple(states),
            tuple(equations),
            outputs,
            "\n".join(doc),
            reset=reset,
        )

    def _header(self) -> tuple[DimDecl, ...]:
        self._need("(")
        decls: list[DimDecl] = []
        while not self._at(")"):
            name = self._dim()
            default = self._integer("a size") if self._skip("=") else None
            decls.append(DimDecl(name, default, self._dim() if self._skip("as") else None))
            if not self._skip(","):
                break
        self._need(")")
        return tuple(decls)

    def _input(self) -> Input:
        name = self._name("the input's name")
        dtype, dims = self._type()
        bound = self._below()
        return Input(name, dims, dtype, self.expr() if self._skip("before") else None, bound=bound)

    def _below(self) -> str | None:
        return self._dim() if self._skip("below") else None

    def _param(self) -> Param:
        name = self._name("the param's name")
        dtype, dims = self._type()
        bound = self._below()
        if not self._skip("~"):
            return Param(name, dims, dtype, bound=bound)
        how = self._name("an initialiser")
        self._need("(")
        args: list[Expr] = []
        while not self._at(")"):
            args.append(self.expr())
            if not self._skip(","):
                break
        self._need(")")
        return Param(name, dims, dtype, Initializer(how, tuple(args)), bound=bound)

    def _outputs(self) -> tuple[str, ...]:
        names = [self._name("an output's name")]
        while self._skip(","):
            names.append(self._name("an output's name"))
        return tuple(names)
