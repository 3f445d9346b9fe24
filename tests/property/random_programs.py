"""Random `.rec` programs, drawn as text so that the front end takes part: states of every kind and shape that read each
other at any lag, updates that are or only look like each class, integers, truth values, dims of size one."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

Dims = tuple[str, ...]
INPUTS: dict[str, Dims] = {"x": ("D",), "u": ("N",), "s": (), "k": ("K",), "v": ("V",), "X": ("N", "D")}
PARAMS: dict[str, Dims] = {
    "a": ("D",), "b": (), "W": ("N", "D"), "Q": ("D", "K"), "M": ("K", "V"), "U": ("D", "D"), "P": ("3", "D"),
    "c": ("K",), "G": ("2", "N", "D"),
}  # fmt: skip
SHAPES: tuple[Dims, ...] = ((), ("D",), ("D",), ("N",), ("N", "D"), ("D", "N"), ("K", "V"), ("K",), ("V",))
STARTS = {("D",): "0.5 * a", ("K",): "c", (): "b * 2", ("N", "D"): "0.1 * W"}


@dataclass
class Draft:
    """A program in the making. `known` holds what may be read so far: text, kind, dims."""

    dice: random.Random
    known: list[tuple[str, str, Dims]] = field(default_factory=list[tuple[str, str, Dims]])
    declared: list[str] = field(default_factory=list[str])
    lines: list[str] = field(default_factory=list[str])

    def pick(self, *options: str) -> str:
        return self.dice.choice(options)

    def chance(self, p: float) -> bool:
        return self.dice.random() < p

    # --- expressions: `dims` is what they may have, `full` and `exact` have just these ------------------------------

    def leaf(self, kind: str, dims: Dims) -> str:
        fit = [e for e in self.known if e[1] == kind and set(e[2]) <= set(dims)]
        if fit and not self.chance(0.06):
            fit.sort(key=lambda e: -len(e[2]))
            return self.dice.choice(fit[: max(3, len(fit) // 2)] if self.chance(0.5) else fit)[0]
        if kind == "real":
            return self.pick("0.5", "-0.3", "1", "0.25", "2", "0.0")
        return self.pick("1", "2", "-1", "t") if kind == "int" else self.pick("true", "t % 2 == 0", "t > 2")

    def full(self, kind: str, dims: Dims) -> str:
        fit = [e for e in self.known if e[1] == kind and set(e[2]) == set(dims)]
        if fit:
            return self.dice.choice(fit)[0]
        factors = [next(e[0] for e in self.known if e[1] == "real" and e[2] == (d,)) for d in dims]
        value = " * ".join(factors) or self.leaf("real", ())
        return {"real": f"({value})", "bool": f"({value} > 0.1)", "int": f"(if {value} > 0.1 then 1 else 0)"}[kind]

    def exact(self, kind: str, dims: Dims, depth: int) -> str:
        if not dims:
            return self.expr(kind, dims, depth)
        value = self.full(kind, dims)
        if depth <= 0:
            return value
        op = {"real": self.pick("+", "*", "-"), "int": self.pick("+", "-"), "bool": self.pick("and", "or")}[kind]
        return f"({value} {op} {self.expr(kind, dims, depth - 1)})"

    def expr(self, kind: str, dims: Dims, depth: int) -> str:
        if depth <= 0:
            return self.leaf(kind, dims)
        return {"real": self.real, "int": self.whole, "bool": self.truth}[kind](dims, depth)

    def over(self, kind: str, dims: Dims, depth: int) -> tuple[str, str] | None:
        """A value with one dim more, and that dim."""
        others = [d for d in "DNKV" if d not in dims]
        if not others:
            return None
        summed = self.dice.choice(others)
        wide = [*(d for d in dims if self.chance(0.5)), summed]
        self.dice.shuffle(wide)
        return self.exact(kind, tuple(wide), depth - 1), summed

    def real(self, dims: Dims, depth: int) -> str:
        def e() -> str:
            return self.expr("real", dims, depth - 1)

        more = self.over("real", dims, depth)
        match self.dice.choices(range(13), (26, 14, 8, 10, 10, 7, 4, 5, 3, 5, 6, 2, 6))[0]:
            case 0:
                return f"({e()} {self.pick('+', '-', '*')} {e()})"
            case 1:
                form = self.pick(
                    "tanh({})", "sigmoid({})", "sin({})", "softplus({})", "abs({})", "(-{})", "relu({})", "silu({})",
                    "gelu({})", "elu({})", "logsigmoid({})", "erf({})", "exp(-abs({}))", "sqrt(abs({}) + 0.1)",
                    "log1p(abs({}))", "sign({})", "(tanh({})**2)", "(abs({}) + 0.2)**1.5",
                )  # fmt: skip
                return form.format(e())
            case 2:
                return f"(if {self.expr('bool', dims, depth - 1)} then {e()} else {e()})"
            case 3 if more:
                return f"tanh({self.pick('sum', 'mean', 'max', 'min', 'norm', 'logsumexp')}({more[0]}, {more[1]}))"
            case 4 if "D" in dims:
                return f"tanh({self.exact('real', ('N',), depth - 1)} @ W)"
            case 4 if "N" in dims:
                return f"tanh(W @ {self.exact('real', ('D',), depth - 1)})"
            case 5 if "D" in dims:
                return f"(0.5 * ({self.pick('U', 'U.T')} @ {self.exact('real', ('D',), depth - 1)}))"
            case 6 if dims:
                dim = self.dice.choice(dims)
                form = self.pick("softmax", "l2norm", "rmsnorm", "layernorm")
                return f"{form}({self.exact('real', (dim,), depth - 1)}, {dim})"
            case 7:
                return f"(0.2 * {self.expr('int', dims, depth - 1)})"
            case 8 if {"D", "N"} <= set(dims):
                value = self.exact("real", ("N", "D"), depth - 1)
                return f"(({value}).T)" if self.chance(0.5) else f"permute({value}, D, N)"
            case 9:
                return f"({e()} / (1 + abs({e()})))"
            case 10:
                return f"{self.pick('max', 'min', 'logaddexp')}({e()}, {e()})"
            case 11:
                factors = self.exact("real", ("N",), depth - 1), self.exact("real", ("N",), depth - 1)
                return f"tanh(sum((({factors[0]}) as [R]) * {factors[1]}, R, N))"
            case 12 if "D" in dims:
                return f"(part(P, {self.dice.randrange(3)}) * {e()})"
            case _:
                return self.leaf("real", dims)

    def whole(self, dims: Dims, depth: int) -> str:
        def e() -> str:
            return self.expr("int", dims, depth - 1)

        more = self.over(self.pick("real", "int"), dims, depth)
        match self.dice.randrange(6):
            case 0:
                return f"({e()} {self.pick('+', '-')} {e()})"
            case 1:
                return f"(if {self.expr('bool', dims, depth - 1)} then {e()} else {e()})"
            case 2:
                return f"({e()} {self.pick('% 3', '% -3', '// 2', '// -2')})"
            case 3 if more:
                return f"{self.pick('argmax', 'argmin')}({more[0]}, {more[1]})"
            case 4:
                return f"{self.pick('max', 'min')}({e()}, 0 + {e()})"
            case _:
                return self.leaf("int", dims)

    def truth(self, dims: Dims, depth: int) -> str:
        more = self.over("bool", dims, depth)
        match self.dice.randrange(6):
            case 0 | 1:
                return f"({self.expr('real', dims, depth - 1)} {self.pick('> 0.1', '< 0.23', '>= -0.2')})"
            case 2:
                return f"({self.expr('int', dims, depth - 1)} {self.pick('> 0', '== 1', '!= 2')})"
            case 3:
                sides = self.expr("bool", dims, depth - 1), self.expr("bool", dims, depth - 1)
                return f"({sides[0]} {self.pick('and', 'or', 'and not')} {sides[1]})"
            case 4 if more:
                return f"{self.pick('any', 'all')}({more[0]}, {more[1]})"
            case _:
                return self.leaf("bool", dims)

    # --- states -----------------------------------------------------------------------------------------------------

    def state(self, name: str, kind: str, dims: Dims) -> None:
        old = f"{name}[t-1]"
        if kind == "real":
            update, start = self._real_update(name, old, dims)
        else:
            b, i = self.expr("bool", dims, 1), self.expr("int", dims, 1)
            start = {"int": self.pick("0", "1", "-2"), "bool": self.pick("true", "false")}[kind]
            update = {
                "int": self.pick(
                    f"{old} + (if {b} then 1 else 0)", f"if {b} then {old} + 1 else 0", f"({old} * 3 + {i}) % 7",
                    f"max({old}, {i} % 10)", f"if {b} then t else {old}", f"({old} + {name}[t-2] + 1) % 11",
                    f"-{old} + {i} % 3", f"{old} // 2 + {i} % 5",
                ),
                "bool": self.pick(f"{old} or {b}", f"not {old} and {b}", f"if {b} then not {old} else {old}"),
            }[kind]  # fmt: skip
        suffix = {"real": "", "int": ": int", "bool": ": bool"}[kind]
        self.declared.append(f"state {name}{_shown(dims)}{suffix} = {start}")
        self.lines.append(f"{name} = {update}")

    def _real_update(self, name: str, old: str, dims: Dims) -> tuple[str, str]:
        e, g = self.expr("real", dims, 2), f"sigmoid({self.expr('real', dims, 1)})"
        b = self.expr("bool", dims, 1)
        forms = [
            f"{g} * {old} + {e}", f"{old} + {g} * ({e} - {old})", f"(1 - {g}) * {old} + {g} * {e}", f"{e} - {old}",
            f"tanh({old} + {e})", f"max({old}, {e})", f"min({old} + 0.1, {e})", f"logaddexp({old} - 0.1, {e})",
            f"max({old}, {e}) - 0.2", f"0.6 * {old} - 0.25 * {name}[t-{self.dice.choice((2, 3))}] + {e}",
            f"if {b} then {e} else 0.9 * {old}", f"if {b} then {e} else {old}", f"{old} * tanh({e})",
            f"clamp({old} + {e}, -1, 1)", f"({old} + {e}) / (2 + abs({e}))", f"max(0.9 * {old}, {e})",
            f"0.5 * abs({old}) + {e}", f"{g} * (0.5 * {old} + {e}) + {e}", f"sigmoid({old}) * {old} + {e}",
            f"if {b} then max({old} - 0.1, {e}) else max({old}, {e})", f"0.5 * {old} + 0.3 * {self.leaf('real', dims)}",
        ]  # fmt: skip
        if "D" in dims and dims != ("D", "N"):
            forms += [f"tanh(0.5 * ({self.pick('U', 'U.T')} @ {old}) + {e})"] * 2
        if set(dims) == {"K", "V"}:
            forms += [f"0.9 * {old} + k * (0.1 * (v - k @ {old}))"] * 3
        start = STARTS[dims] if dims in STARTS and self.chance(0.25) else self.pick("0", "0.5", "-0.25")
        if self.chance(0.2):  # a stabilised softmax
            own: Dims = tuple(d for d in dims if self.chance(0.4))
            top, fading = f"{name}m", self.pick("", " - 0.2")
            self.declared.append(f"state {top}{_shown(own)} = -inf")
            self.lines += [
                f"{name}s = {self.exact('real', own, 1)}", f"{top} = max({top}[t-1]{fading}, {name}s)",
            ]  # fmt: skip
            self.known.append((top, "real", own))
            return f"{old} * exp({top}[t-1]{fading} - {top}) + exp({name}s - {top}) * {e}", start
        return self.dice.choice(forms), start


def _shown(dims: Dims) -> str:
    return "[" + ", ".join(dims) + "]" if dims else ""


def draw(seed: int) -> tuple[str, dict[str, int]]:
    """A program and sizes for its dims."""
    dice = random.Random(seed)
    draft = Draft(dice)
    sizes = {d: dice.choice((1, 2, 3, 4, 5, 7, 8, 9, 12, 17)) for d in "DNKV"}
    for name, dims in INPUTS.items():
        delayed = name in ("x", "u") and draft.chance(0.5)
        draft.declared.append(f"input {name}{_shown(dims)}" + (" = 0.25" if delayed else ""))
        draft.known.append((name, "real", dims))
        if delayed:
            draft.known += [(f"{name}[t-{lag}]", "real", dims) for lag in range(1, dice.randint(2, 4))]
    draft.declared += ["input j[D]: int", "input on: bool"]
    draft.known += [("j", "int", ("D",)), ("on", "bool", ())]
    for name, dims in PARAMS.items():
        draft.declared.append(f"param {name}{_shown(dims)}")
        if name not in ("U", "P", "G"):
            draft.known.append((name, "real", dims))
    states = [
        (f"h{i}", dice.choices(("real", "int", "bool"), (8, 2, 1))[0], dice.choice(SHAPES))
        for i in range(dice.randint(1, 4))
    ]
    if draft.chance(0.7):
        draft.known += [(f"{n}[t-{dice.choice((1, 1, 2, 3))}]", k, d) for n, k, d in states if draft.chance(0.6)]
    for i, (name, kind, dims) in enumerate(states):
        if draft.chance(0.6):
            shape, sort = dice.choice(SHAPES), dice.choices(("real", "int", "bool"), (8, 2, 2))[0]
            draft.lines.append(f"e{i} = {draft.exact(sort, shape, 2)}")
            draft.known.append((f"e{i}", sort, shape))
        draft.state(name, kind, dims)
        draft.known.append((name, kind, dims))
    if draft.chance(0.2):
        draft.lines.append(f"p, q = G @ {draft.exact('real', ('D',), 1)}")
        draft.known += [("p", "real", ("N",)), ("q", "real", ("N",))]
    outputs = [f"y{i} = {draft.exact('real', dice.choice(SHAPES), 2)}" for i in range(dice.randint(1, 2))]
    outputs += [name for name, _, _ in states if draft.chance(0.6)]
    body = [*draft.declared, *draft.lines, *(f"output {o}" for o in outputs)]
    text = "\n    ".join(["recurrence Drawn(D, N, K, V, R = N):", *body]) + "\n"
    return text, sizes | {"R": sizes["N"]}
