"""A recurrence as a NumPy program of its own, which needs nothing of recurc: `recurc compile --target numpy`."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recurc.backends.base import Specialization
from recurc.backends.emit.names import Names, module_name
from recurc.backends.emit.text import bare
from recurc.errors import UnsupportedError
from recurc.filtering import is_filter, written_out
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Equation,
    Expr,
    Final,
    Gather,
    Iota,
    Linalg,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    Size,
    State,
    Step,
    Unfold,
    children,
    late,
    reads,
    walk,
)
from recurc.ops import OPS
from recurc.plan import Plan
from recurc.types import Dims, DType, Kind, show_dims

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "mod": "%", "floordiv": "//", "pow": "**",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&", "or": "|",
}  # fmt: skip
_HELPERS = {
    "sigmoid": "def sigmoid(x):\n    e = np.exp(-np.abs(x))\n    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))\n",
    "softplus": "def softplus(x):\n    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))\n",
    "rsqrt": "def rsqrt(x):\n    return 1 / np.sqrt(x)\n",
    "bf16": (
        "def bf16(x):\n    bits = np.asarray(x).astype(np.float32).view(np.uint32)\n"
        "    even = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000\n"
        "    return np.where(np.isnan(x), np.nan, even.view(np.float32).astype(np.float64))\n"
    ),
    "repeated": (
        "def repeated(x, shape):\n    x = np.asarray(x)\n    x = x if x.ndim else x[None]\n"
        "    return np.broadcast_to(x, (len(x), *shape))\n"
    ),
    "gather": (
        "def gather(table, axis, place, rest, shape):\n"
        '    """The element at a place along an axis, or at its nearest end; `rest` says where the other axes go."""\n'
        "    rank = len(shape)\n"
        "    index = [np.arange(len(table)).reshape(-1, *(1,) * rank)]\n"
        "    index += [np.arange(shape[k]).reshape(-1, *(1,) * (rank - 1 - k)) for k in rest]\n"
        "    index.insert(axis, np.clip(place, 0, table.shape[axis] - 1))\n"
        "    return table[tuple(index)]\n"
    ),
    "neighbours": (
        "def neighbours(x, axes, taps, forward, wrap):\n"
        '    """The neighbours of every place along some axes, centred, behind the other axes."""\n'
        "    pads = [(0, 0)] * x.ndim\n"
        "    for axis, n in zip(axes, taps):\n"
        "        pads[axis] = (n // 2, n - 1 - n // 2)[:: 1 if forward else -1]\n"
        '    padded = np.pad(x, pads, mode="wrap" if wrap else "constant")\n'
        "    windows = np.lib.stride_tricks.sliding_window_view(padded, taps, axes)\n"
        "    return windows if forward else np.flip(windows, tuple(range(x.ndim, windows.ndim)))\n"
    ),
    "each_matrix": (
        "def each_matrix(function, *arrays):\n"
        '    """A function of matrices, for every one; where it has no result for one, that one is NaN."""\n'
        "    batch = np.broadcast_shapes(*(a.shape[:-2] for a in arrays))\n"
        "    arrays = [np.broadcast_to(a, (*batch, *a.shape[-2:])) for a in arrays]\n"
        "    out = np.full(arrays[-1].shape, np.nan)\n"
        "    for place in np.ndindex(*batch):\n"
        "        try:\n            out[place] = function(*(a[place] for a in arrays))\n"
        "        except np.linalg.LinAlgError:\n            pass\n"
        "    return out\n"
    ),
    "solved": (
        "def solved(a, b, lead):\n"
        '    """X with A X = B; the unknowns lie behind `lead` axes of B, one axis or more."""\n'
        "    x = each_matrix(np.linalg.solve, a, b.reshape(*b.shape[: lead + 1], -1))\n"
        "    return x.reshape(*x.shape[:-1], *b.shape[lead + 1 :])\n"
    ),
    "phi1": (
        "def phi1(a):\n"
        '    """sum over k of A^k / (k + 1)!, by scaling and squaring."""\n'
        "    unit, norm = np.eye(len(a)), np.abs(a).sum(-1).max()\n"
        "    squarings = int(np.ceil(np.log2(norm / 0.5))) if 0.5 < norm < np.inf else 0\n"
        "    small = a / 2.0**squarings\n    phi = unit + small / 14\n"
        "    for k in range(13, 1, -1):\n        phi = unit + small @ phi / k\n"
        "    power = unit + small @ phi\n"
        "    for _ in range(squarings):\n        phi, power = (unit + power) @ phi / 2, power @ power\n"
        "    return phi\n"
    ),
    "dphi1": (
        "def dphi1(a, e):\n"
        '    """The derivative of phi1 at A along E: a block of phi1([[A, E], [0, A]])."""\n'
        "    n, size = len(a), np.abs(e).max(initial=0) or 1.0\n"
        "    return phi1(np.block([[a, e / size], [np.zeros_like(a), a]]))[:n, n:] * size\n"
    ),
    "erf": "def erf(x):\n    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(np.asarray(x).dtype)\n",
}
# What the program itself uses: in the function, and at the end, where names are those of the whole file.
_RESERVED = frozenset({"np", "math", "pathlib", "sys", "t", "B", "T", "out", "v", *_HELPERS, *dir(builtins)}) | {
    "data", "got", "worst", "name", "value", "wanted", "same", "error",
}  # fmt: skip


def export(plan: Plan, spec: Specialization, directory: Path) -> dict[str, Any]:
    """Write the program into `directory`; gives what the manifest says about it.

    Raises `UnsupportedError` for an operator without a spelling, `OSError` if the file cannot be written."""
    name = module_name(plan.recurrence.name)
    text = script(plan.recurrence, spec)
    path = directory / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"files": {path.name: digest}, "entry": name, "self_test": [path.name, "example.npz"]}


def script(rec: Recurrence, spec: Specialization) -> str:
    """The program's text. Arrays are (B, T, *dims) with a time axis and (*dims) for params, states (B, *dims)."""
    return _Writer(rec, spec).text()


class _Writer:
    def __init__(self, rec: Recurrence, spec: Specialization) -> None:
        self.rec, self.spec = rec, spec
        self.function = module_name(rec.name)
        self.names = Names(_RESERVED | {self.function, *(() if rec.inputs else ("steps", "batch"))})
        self.inputs = {i.name for i in rec.inputs}
        self.states = {s.name for s in rec.states}
        self.params = {p.name for p in rec.params}
        self.lagged = {r.name for e in rec.equations for r in reads(e.expr) if r.lag}
        self.helpers: dict[str, None] = {}

    def text(self) -> str:
        rec = self.rec
        body = self._body()
        arguments = [self._array(i.name) for i in rec.inputs] or ["steps"]
        arguments += [self.names(p.name) for p in rec.params]
        starts = [f"{self._initial(n)}=None" for n in self._carried()] + ([] if rec.inputs else ["batch=1"])
        sizes = "".join(f"{self.names(d)} = {n}\n" for d, n in self.spec.sizes)
        shapes = [f"    {self._array(i.name)}: (B, T{''.join(', ' + d for d in i.dims)})" for i in rec.inputs]
        shapes += [f"    {self.names(p.name)}: {show_dims(p.dims)}" for p in rec.params]
        results = ", ".join(rec.outputs)
        lines = [
            f'"""{rec.name} in plain NumPy, one step after another. Written by recurc; runs without it."""',
            "",
            "from __future__ import annotations",
            "",
            *(["import math", ""] if "erf" in self.helpers else []),
            "import pathlib",
            "import sys",
            "",
            "import numpy as np",
            "",
            sizes,
            *("\n" + _HELPERS[h] for h in self.helpers),
            "",
            f"def {self.function}({', '.join(arguments + starts)}):",
            '    """All steps, in order.',
            "",
            *shapes,
            "",
            f"    Returns a dict of outputs ({results}), each (B, T, *dims), and of final states `NAME@final`.",
            '    """',
            *(f"    {line}" if line else "" for line in body),
            "",
            "",
            *self._main(),
            "",
        ]
        return "\n".join(lines)

    def _main(self) -> list[str]:
        """A check against stored values, so that a copy of the file can be trusted anywhere."""
        keys = [(i.name, self._array(i.name)) for i in self.rec.inputs] + [
            (p.name, self.names(p.name)) for p in self.rec.params
        ]
        keys += [(f"{s.name}@initial", self._initial(s.name)) for s in self.rec.states]
        passed = ", ".join(f"{python}=data[{key!r}]" for key, python in keys)
        if not self.rec.inputs:
            steps = f"data[{'expected ' + self.rec.outputs[0]!r}].shape"
            passed = ", ".join(filter(None, [passed, f"steps={steps}[1]", f"batch={steps}[0]"]))
        return [
            'if __name__ == "__main__":',
            "    # python THIS.py [example.npz]: compare with the values stored there, or beside this file",
            '    data = np.load(sys.argv[1] if sys.argv[1:] else pathlib.Path(__file__).with_name("example.npz"))',
            f"    got = {self.function}({passed})",
            "    worst = 0.0",
            "    for name, value in got.items():",
            '        value, wanted = value + 0, data["expected " + name] + 0  # truth values as numbers',
            "        same = (value == wanted) | (np.isnan(value) & np.isnan(wanted))",
            "        error = np.where(same, 0.0, np.abs(value - wanted) / (1 + np.abs(wanted)))",
            "        worst = float(np.max(error, initial=worst))",
            '    print(f"largest error {worst:.2e}")',
            '    sys.exit(not worst <= float(data["tolerance"]))',
        ]

    def _array(self, name: str) -> str:
        return self.names(f"{name}@all")

    def _initial(self, name: str) -> str:
        return self.names(f"{name}@initial")

    def _before(self, name: str) -> str:
        return self.names(f"{name}@before")

    def _carried(self) -> list[str]:
        return [s.name for s in self.rec.states] + [i.name for i in self.rec.inputs if i.name in self.lagged]

    def _body(self) -> list[str]:
        rec = self.rec
        lines: list[str] = []
        if rec.inputs:
            arrays = ", ".join(f"{self._array(i.name)}.shape[:2]" for i in rec.inputs)
            lines.append(f"B, T = np.broadcast_shapes({arrays})")
        else:
            lines.append("B, T = batch, steps")
        params = [self.names(p.name) for p in rec.params]
        lines += [f"{param} = np.asarray({param})[None]  # one for every sequence" for param in params]
        for state in rec.states:
            lines += self._start(state.name, state.dims, state)
        for i in rec.inputs:
            if i.name in self.lagged:
                lines += self._start(i.name, i.dims, None)
        made = [o for o in rec.outputs if o not in self.inputs]
        later = late(rec.equations)
        own = {e.name for e in later}
        read = dict.fromkeys((r.name, r.lag) for e in later for r in reads(e.expr))
        kept = [(name, lag) for name, lag in read if lag or name not in own | self.inputs | self.params]
        lines += [f"{self.names(f'{o}@all')} = []" for o in made]
        lines += [f"{self._kept(name, lag)} = []" for name, lag in kept]
        keep = [f"{self._kept(name, lag)}.append({self._read(name, lag)})" for name, lag in kept]
        keep += [f"{self._before(n)} = {self.names(n)}" for n in self._carried()]
        lines += self._loop([e for e in rec.equations if e.name not in own], made, [], keep)
        lines.append("out = {}")
        for state in rec.states:
            last = f"np.broadcast_to({self._before(state.name)}, {self._shape(state.dims)})"
            lines.append(f"out[{state.name + '@final'!r}] = {last}")
        if later:
            again = [f"{self._read(name, lag)} = {self._kept(name, lag)}[t]" for name, lag in kept]
            lines += ["# once more, for what needs the states after the last step", *self._loop(later, made, again, [])]
        dims = {e.name: e.expr.dims for e in rec.equations} | {i.name: i.dims for i in rec.inputs}
        for o in rec.outputs:
            if o in self.inputs:
                lines.append(f"out[{o!r}] = {self._array(o)}")
                continue
            shape = self._shape(dims[o])
            stack = f"np.stack([np.broadcast_to(v, {shape}) for v in {self.names(f'{o}@all')}], axis=1)"
            empty = f"np.zeros((B, 0{''.join(', ' + self._size(d) for d in dims[o])}))"
            lines.append(f"out[{o!r}] = {stack} if T else {empty}")
        lines.append("return out")
        return [line for line in lines if line]

    def _loop(
        self, equations: Sequence[Equation], outputs: Sequence[str], first: list[str], last: list[str]
    ) -> list[str]:
        """A pass over all steps: `first`, the equations, which of them are outputs, `last`."""
        lines = ["for t in range(T):"]
        lines += [f"    {self.names(i.name)} = {self._array(i.name)}[:, t]" for i in self.rec.inputs]
        lines += [f"    {line}" for line in first]
        for e in equations:
            value = bare(self._expr(e.expr))
            plain = not e.expr.dims and not any(isinstance(n, Read | Final) for n in walk(e.expr))
            lines.append(f"    {self.names(e.name)} = {f'np.asarray({value})[None]' if plain else value}")
        made = {e.name for e in equations}
        lines += [f"    {self.names(f'{o}@all')}.append({self.names(o)})" for o in outputs if o in made]
        return [*lines, *(f"    {line}" for line in last)]

    def _read(self, name: str, lag: int) -> str:
        return self._before(name) if lag else self.names(name)

    def _kept(self, name: str, lag: int) -> str:
        """All values of a name, for a second pass."""
        return self.names(f"{name}@kept{lag}")

    def _start(self, name: str, dims: Dims, state: State | None) -> list[str]:
        before, given = self._before(name), self._initial(name)
        default = state.initial if state else next(i.before for i in self.rec.inputs if i.name == name)
        assert default is not None
        value = self._aligned(default, dims)
        return [f"{before} = np.broadcast_to({given} if {given} is not None else {value}, {self._shape(dims)})"]

    def _shape(self, dims: Dims) -> str:
        return "(B" + "".join(f", {self._size(d)}" for d in dims) + ("," if not dims else "") + ")"

    def _size(self, dim: str) -> str:
        return dim if dim.isdigit() else self.names(dim)

    def _expr(self, e: Expr) -> str:
        match e:
            case Const(value=value):
                return _number(value)
            case Size(dim=dim):
                return self._size(dim)
            case Step():
                return "t"
            case Read(name=name, lag=lag):
                return self._read(name, lag)
            case Final(name=name):
                return f"out[{f'{name}@final'!r}]"
            case Apply(op="cast", args=(arg,)):
                return self._cast(self._expr(arg), arg.dtype, e.dtype)
            case Apply(op=op, args=args):
                return self._apply(op, [self._aligned(a, e.dims) for a in args])
            case Reduce(op=op, arg=arg, over=over):
                axes = tuple(arg.dims.index(d) + 1 for d in over)
                axis = axes[0] if len(axes) == 1 else axes
                return f"np.{op}({self._expr(arg)}, axis={axis})"
            case Contract(left=left, right=right, left_axes=a, right_axes=b, out_axes=out):
                formula = f"...{_letters(a)},...{_letters(b)}->...{_letters(out)}"
                return f"np.einsum({formula!r}, {self._expr(left)}, {self._expr(right)})"
            case Reaxis(arg=arg, axes=axes, at=at, index=index):
                text = self._atom(arg)
                if at is not None:
                    text += "[" + ", ".join([":"] * (at + 1) + [str(index)]) + "]"
                    axes = tuple(x - (x > at) for x in axes)
                if axes != tuple(range(len(axes))):
                    text = f"np.transpose({text}, {(0, *(x + 1 for x in axes))})"
                return text
            case Iota(dims=dims):
                return f"np.arange({self._size(dims[0])})[None]"
            case Broadcast(arg=arg, dims=dims):
                return f"{self._helper('repeated')}({bare(self._aligned(arg, dims))}, {self._sizes(dims)})"
            case Gather(arg=arg, axis=axis, index=index, dims=dims):
                rest = tuple(dims.index(d) for a, d in enumerate(arg.dims) if a != axis)
                place = bare(self._aligned(index, dims))
                table = bare(self._expr(arg))
                return f"{self._helper('gather')}({table}, {axis + 1}, {place}, {rest}, {self._sizes(dims)})"
            case Unfold(arg=arg, axes=axes, taps=taps, forward=forward, wrap=wrap):
                along = tuple(a + 1 for a in axes)
                near = f"{bare(self._expr(arg))}, {along}, {self._sizes(taps)}, {forward}, {wrap}"
                return f"{self._helper('neighbours')}({near})"
            case Linalg():
                return self._linalg(e)

    def _helper(self, name: str) -> str:
        self.helpers.setdefault(name)
        return name

    def _sizes(self, dims: Dims) -> str:
        return "(" + "".join(f"{self._size(d)}, " for d in dims).removesuffix(" " if len(dims) == 1 else ", ") + ")"

    def _linalg(self, e: Linalg) -> str:
        if is_filter(e):
            return self._expr(written_out(e))
        if e.op == "eye":
            return f"np.eye({self._size(e.dims[0])})[None]"
        each = self._helper("each_matrix")
        matrix = bare(self._expr(e.args[0]))
        if e.op == "dphi1":
            helper = self._helper("phi1") and self._helper("dphi1")
            return f"{each}({helper}, {matrix}, {bare(self._expr(e.args[1]))})"
        if e.op != "solve":
            return f"{each}({self._helper('phi1') if e.op == 'phi1' else f'np.linalg.{e.op}'}, {matrix})"
        *batch, rows, columns = e.args[0].dims
        others = tuple(d for d in e.args[1].dims if d != rows and d not in batch)
        right = bare(self._aligned(e.args[1], (*batch, rows, *others)))
        found = f"{self._helper('solved')}({matrix}, {right}, {1 + len(batch)})"
        have = (*batch, columns, *others)
        if have == e.dims:
            return found
        return f"np.transpose({found}, {(0, *(1 + have.index(d) for d in e.dims))})"

    def _cast(self, text: str, source: DType, target: DType) -> str:
        """Reals are computed in float64, also those that were rounded to a narrower type."""
        if target is DType.BF16:
            self.helpers.setdefault("bf16")
            return f"bf16({bare(text)})"
        if target in (DType.F32, DType.F16):
            return f"np.asarray({text}).astype(np.{target.to_numpy().name}).astype(np.float64)"
        if target.kind is Kind.REAL and source.kind is Kind.REAL:
            return text
        wide = {Kind.BOOL: "bool", Kind.INT: "np.int64", Kind.REAL: "np.float64", Kind.COMPLEX: "np.complex128"}
        return f"np.asarray({text}).astype({'np.int32' if target is DType.I32 else wide[target.kind]})"

    def _atom(self, e: Expr) -> str:
        text = self._expr(e)
        return text if isinstance(e, Read) or not children(e) or text.startswith("(") else f"({text})"

    def _apply(self, op: str, args: list[str]) -> str:
        if op in _INFIX:
            return f"({args[0]} {_INFIX[op]} {args[1]})"
        if op == "neg":
            return f"(-{args[0]})"
        if op == "stop_gradient":
            return args[0]
        if op in _HELPERS:
            self.helpers.setdefault(op)
            return f"{op}({', '.join(map(bare, args))})"
        meaning: Callable[..., Any] = OPS[op].numpy
        name = getattr(meaning, "__name__", "")
        if getattr(np, name, None) is not meaning:
            raise UnsupportedError(f"the numpy target has no spelling for `{op}` yet")
        return f"np.{name}({', '.join(map(bare, args))})"

    def _aligned(self, e: Expr, dims: Dims) -> str:
        """`e` with its axes where `dims` has them, axes of length 1 for the others, after the batch axis."""
        if not any(isinstance(n, Read | Final) for n in walk(e)) and not e.dims:
            return self._expr(e)  # a plain number
        if e.dims == dims:
            return self._expr(e)
        text = self._atom(e)
        order = tuple(sorted(range(len(e.dims)), key=lambda i: dims.index(e.dims[i])))
        if order != tuple(range(len(order))):
            text = f"np.transpose({text}, {(0, *(i + 1 for i in order))})"
        places = [":" if d in e.dims else "None" for d in dims]
        while places and places[-1] == ":" and "None" not in places[-1:]:
            places.pop()
        return f"{text}[{', '.join([':', *places])}]" if places else text


def _letters(axes: tuple[int, ...]) -> str:
    return "".join(chr(ord("a") + i) for i in axes)


def _number(value: complex) -> str:
    if isinstance(value, float) and not np.isfinite(value):
        return {float("inf"): "np.inf", float("-inf"): "-np.inf"}.get(value, "np.nan")
    return f"({value!r})" if not isinstance(value, complex) and value < 0 else repr(value)
