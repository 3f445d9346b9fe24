"""The rules of `plan.py`, checked for every plan: each read finds its value, each buffer has the role its use needs."""

from __future__ import annotations

from recurc.errors import CompilerBug
from recurc.ir import Contract, Expr, Read, reads
from recurc.plan import (
    Buffer,
    Chunk,
    Convolution,
    Frozen,
    Fused,
    JointChunk,
    Loop,
    Map,
    Matmul,
    Newton,
    Plan,
    Role,
    Scan,
    held_name,
)
from recurc.types import Dims, DType, show_dims

_MADE = (Role.ONCE, Role.SEQUENCE, Role.OUTPUT, Role.FINAL)


def verify_plan(plan: Plan) -> None:
    """Raises `CompilerBug` naming the stage and the read or write that breaks a rule."""
    buffers = {b.name: b for b in plan.buffers}
    if len(buffers) < len(plan.buffers):
        _bug(plan, "two buffers share a name")
    ready = {n for n, b in buffers.items() if b.role not in _MADE}
    carried: set[str] = set()
    for index, stage in enumerate(plan.stages):
        where = f"stage {index} ({type(stage).__name__})"
        kept = () if isinstance(stage, Map | Matmul) else stage.carries
        carries = {c.name: (c.dims, c.dtype) for c in kept}
        for name in carries:
            if name in carried or f"{name}@initial" not in buffers:
                _bug(plan, f"{where}: carry {name} has two stages or no initial value")
            carried.add(name)
        check = _Stage(plan, where, buffers, ready, carries)
        match stage:
            case Map():
                check.equations(stage.body, dict[str, tuple[Dims, DType]]())
            case Matmul():
                check.matmul(stage)
            case Loop():
                defined = check.equations(stage.body, {})
                missing = set(carries) - set(defined)
                if missing:
                    _bug(plan, f"{where}: no equation for {', '.join(sorted(missing))}")
            case Scan():
                check.scan(stage)
            case Fused():
                check.fused(stage)
            case Newton():
                missing = set(carries) - set(check.equations(stage.body, {}))
                if missing:
                    _bug(plan, f"{where}: no equation for {', '.join(sorted(missing))}")
                check.newton(stage)
            case Convolution():
                check.equations(stage.body, {})
                check.convolution(stage)
            case Chunk():
                check.chunk(stage)
            case JointChunk():
                check.joint(stage)
            case Frozen():
                missing = set(carries) - set(check.equations(stage.body, {}))
                if missing:
                    _bug(plan, f"{where}: no equation for {', '.join(sorted(missing))}")
                check.frozen(stage)
        for name in stage.writes:
            role = buffers[name].role if name in buffers else None
            allowed = (Role.ONCE,) if isinstance(stage, Map) and not stage.over_time else (Role.SEQUENCE, Role.OUTPUT)
            if role not in allowed or name in ready:
                _bug(plan, f"{where}: cannot write {name}")
            if not isinstance(stage, Matmul) and name not in {e.name for e in stage.body} and name not in carries:
                _bug(plan, f"{where}: writes {name}, which it does not compute")
            ready.add(name)
        ready |= {f"{name}@final" for name in carries} & set(buffers)
    states = {s.name for s in plan.recurrence.states}
    if carried != states:
        _bug(plan, f"states in no stage: {', '.join(sorted(states - carried))}")
    unmade = [b.name for b in plan.buffers if b.role in (Role.ONCE, Role.SEQUENCE, Role.OUTPUT) and b.name not in ready]
    if unmade:
        _bug(plan, f"buffers no stage writes: {', '.join(unmade)}")
    for output in plan.recurrence.outputs:
        if not any(n in buffers and buffers[n].role is Role.OUTPUT for n in (output, f"{output}@out")):
            _bug(plan, f"output {output} has no buffer")


class _Stage:
    def __init__(
        self,
        plan: Plan,
        where: str,
        buffers: dict[str, Buffer],
        ready: set[str],
        carries: dict[str, tuple[Dims, DType]],
    ) -> None:
        self.plan, self.where, self.buffers, self.ready, self.carries = plan, where, buffers, ready, carries

    def equations(self, body: object, defined: dict[str, tuple[Dims, DType]]) -> dict[str, tuple[Dims, DType]]:
        from recurc.ir import Equation

        assert isinstance(body, tuple)
        for equation in body:  # pyright: ignore[reportUnknownVariableType]
            assert isinstance(equation, Equation)
            self.reads(equation.expr, defined)
            if equation.name in defined and equation.name not in self.carries:
                _bug(self.plan, f"{self.where}: {equation.name} is defined twice")
            defined[equation.name] = self.carries.get(equation.name, (equation.expr.dims, equation.expr.dtype))
        return defined

    def reads(self, expr: Expr, defined: dict[str, tuple[Dims, DType]], carries: bool = True) -> None:
        for read in reads(expr):
            found = self._found(read, defined, carries)
            if found is None:
                _bug(self.plan, f"{self.where}: reads {read.name} (lag {read.lag}), which nothing has made")
            elif found != (read.dims, read.dtype):
                _bug(
                    self.plan,
                    f"{self.where}: reads {read.name} as {show_dims(read.dims)} {read.dtype!r}, not as it was made",
                )

    def _found(self, read: Read, defined: dict[str, tuple[Dims, DType]], carries: bool) -> tuple[Dims, DType] | None:
        if read.lag == 0 and read.name in defined:
            return defined[read.name]
        if read.name in self.carries:
            return self.carries[read.name] if carries and read.lag == 1 else None
        buffer = self.buffers.get(read.name)
        if buffer is None or read.name not in self.ready:
            return None
        if read.lag and not (buffer.has_time and f"{read.name}@initial" in self.buffers and read.lag == 1):
            return None
        return buffer.dims, buffer.dtype

    def matmul(self, stage: Matmul) -> None:
        sides = (stage.expr.left, stage.expr.right)
        if not all(isinstance(s, Read) and s.lag == 0 for s in sides):
            _bug(self.plan, f"{self.where}: an operand is not a buffer")
        self.reads(stage.expr, {})
        timed = [self.buffers[s.name].has_time for s in sides if isinstance(s, Read)]
        if sorted(timed) != [False, True]:
            _bug(self.plan, f"{self.where}: exactly one operand must have a time axis")

    def scan(self, stage: Scan) -> None:
        monoid = stage.monoid
        defined: dict[str, tuple[Dims, DType]] = {}
        for equation in stage.pre:
            self.reads(equation.expr, defined, carries=False)
            defined[equation.name] = (equation.expr.dims, equation.expr.dtype)
        for expr in monoid.lift:
            self.reads(expr, defined, carries=False)
        if not len(monoid.lift) == len(monoid.combine) == len(monoid.identity) == len(monoid.components):
            _bug(self.plan, f"{self.where}: the monoid's parts do not match its components")
        parts = {c.name: (c.dims, c.dtype) for c in monoid.components}
        pairs = {f"{i}.{n}": kind for i in (1, 2) for n, kind in parts.items()}
        for expr in monoid.combine:
            self._only(expr, pairs, "combine")
        for expr in monoid.apply:
            old = [r for r in reads(expr) if r.lag]
            if any(self.carries.get(r.name) != (r.dims, r.dtype) for r in old):
                _bug(self.plan, f"{self.where}: apply reads an old value that is not a state of the group")
            self._only(expr, parts, "apply", lag=0)
        for expr, component in zip(monoid.lift, monoid.components, strict=True):
            if not set(expr.dims) <= set(component.dims) or expr.dtype is not component.dtype:
                _bug(self.plan, f"{self.where}: lift of {component.name} is {show_dims(expr.dims)} {expr.dtype!r}")
        for name, kind in self.carries.items():
            defined[name] = kind
        self.equations(stage.post, defined)

    def fused(self, stage: Fused) -> None:
        """Each part by itself, with what earlier ones write; what stays between them nobody else may know."""
        inside = {b.name: b for b in stage.between}
        if len(stage.parts) < 2 or set(inside) & set(self.buffers):
            _bug(self.plan, f"{self.where}: fewer than two parts, or a value between them is a buffer of the plan")
        buffers, ready = self.buffers | inside, set(self.ready)
        known: dict[str, Expr] = {}
        for number, part in enumerate(stage.parts):
            where = f"{self.where}, part {number}"
            carries = {c.name: (c.dims, c.dtype) for c in part.carries}
            _Stage(self.plan, where, buffers, ready, carries).scan(part)
            made = {*carries, *(e.name for e in part.body)}
            if any(known.setdefault(e.name, e.expr) != e.expr for e in part.body):
                _bug(self.plan, f"{where}: a name means another value than in the parts before")
            for name in part.writes:
                role = buffers[name].role if name in buffers else None
                if role not in (Role.SEQUENCE, Role.OUTPUT) or name in ready or name not in made:
                    _bug(self.plan, f"{where}: cannot write {name}")
                ready.add(name)
        if not set(inside) <= ready:
            _bug(self.plan, f"{self.where}: nothing makes {', '.join(sorted(set(inside) - ready))}")

    def newton(self, stage: Newton) -> None:
        """The guess and a round, which read the guess before."""
        guesses = (*stage.values("guess"), *stage.starts())
        buffers = self.buffers | {b.name: b for b in guesses}
        starts = self.ready | {b.name for b in stage.starts()}
        first = _Stage(self.plan, f"{self.where}, first guess", buffers, starts, {})
        made = first.equations(stage.first.body, {})
        wanted = tuple(b.name for b in stage.values("guess"))
        if stage.first.writes != wanted or not made.keys() >= {*wanted}:
            _bug(self.plan, f"{self.where}: the first guess is not one for every state")
        buffers |= {b.name: b for b in stage.products}
        if len(buffers) < len(self.buffers) + len(guesses) + len(stage.products):
            _bug(self.plan, f"{self.where}: a product has the name of another buffer")
        ready = starts | {b.name for b in guesses}
        for part in stage.before:
            each = _Stage(self.plan, f"{self.where}, before a step", buffers, ready, {})
            if isinstance(part, Matmul):
                each.matmul(part)
            elif not each.equations(part.body, {}).keys() >= {*part.writes} or not part.over_time:
                _bug(self.plan, f"{self.where}: a map before a step does not compute what it writes")
            ready = ready | {*part.writes}
        last = _Stage(self.plan, f"{self.where}, what is known", buffers, ready, {}).equations(stage.known, {})
        if not last.keys() >= {*stage.writes, *self.carries}:
            _bug(self.plan, f"{self.where}: what the loop writes is not known from the guess")
        updates = {c.name: (c.dims, c.dtype) for c in stage.step.carries}
        if tuple(updates) != tuple(b.name for b in stage.values("update")):
            _bug(self.plan, f"{self.where}: not one update for every state")
        step = _Stage(self.plan, f"{self.where}, step", buffers, ready, updates)
        step.scan(stage.step)
        after, nexts = {e.name for e in stage.step.post}, tuple(b.name for b in stage.values("next"))
        if stage.step.writes != nexts or not after >= {*nexts, stage.error}:
            _bug(self.plan, f"{self.where}: a step makes no next guess of every state, or no residual")

    def convolution(self, stage: Convolution) -> None:
        """What each part may read; that the parts are linear is the promise of whoever made them."""
        if not all(n in self.buffers and self.buffers[n].has_time for n in stage.sources):
            _bug(self.plan, f"{self.where}: a source has no time axis")
        inside = {e.name for e in stage.steady}
        parts = (("steady", stage.steady, ()), ("enter", stage.enter, (0,)), ("step", stage.step, (1,)))
        for what, body, lags in (*parts, ("reads", stage.reads, (0, 1))):
            moving = stage.sources if what == "enter" else () if what == "steady" else tuple(self.carries)
            own = {e.name for e in body} | inside
            for read in (r for e in body for r in reads(e.expr)):
                fixed = read.name in self.buffers and not self.buffers[read.name].has_time
                if not (fixed or read.name in own or (read.name in moving and read.lag in lags)):
                    _bug(
                        self.plan, f"{self.where}: {what} reads {read.name} (lag {read.lag}), which is not its to read"
                    )
        for dims in (c.dims for c in stage.carries):
            if any(dims.count(d) != 1 for d in (*stage.lanes, *stage.blocks)):
                _bug(self.plan, f"{self.where}: a carry lacks one of its lanes")

    def chunk(self, stage: Chunk) -> None:
        self.equations(stage.body, {})
        form, carry, who = stage.form, stage.carries[0], ", ".join(stage.form.states)
        shaped = all({*form.shared, *form.rows, *form.columns} == set(c.dims) for c in stage.carries)
        if tuple(c.name for c in stage.carries) != form.states or not shaped:
            _bug(self.plan, f"{self.where}: the form is not that of {who}")
        for operand in stage.operands:
            self.reads(operand, {}, carries=False)
            if operand.lag or operand.name in self.carries or operand.dtype is not carry.dtype:
                _bug(self.plan, f"{self.where}: the operand {operand.name} is no buffer of this step")
        for write in form.writes:
            whole = any(k is not None for k in write.keys) and (write.corrects or write.value is not None)
            for side, along in (((*write.keys, *write.probes), form.rows), ((write.value,), form.columns)):
                needed = {*write.rank, *along}
                whole = whole and all(needed <= set(e.dims) <= {*needed, *form.shared} for e in side if e is not None)
            if not whole:
                _bug(self.plan, f"{self.where}: a write has not the dims of keys and values")
        for factor in form.decays.values():
            decay = set(factor.dims) - set(form.shared)
            legal = [set[str]()]
            if len(form.states) == 1:
                legal += [set(form.rows)] if form.corrects else [set(form.rows), set(form.columns)]
            if decay not in legal:
                _bug(self.plan, f"{self.where}: the decay is {show_dims(factor.dims)}")
        for equation in stage.reads:
            match equation.expr:
                case Contract(left=Read() as query, right=Read(name=name), dims=dims) if name in self.carries:
                    rank = tuple(d for d in query.dims if d not in carry.dims)
                    kept = (*rank, *(d for d in carry.dims if d not in form.rows))
                    fits = set(form.rows) <= set(query.dims) <= {*form.rows, *form.shared, *rank} and dims == kept
                case _:
                    fits = False
            if not fits:
                _bug(self.plan, f"{self.where}: {equation.name} is no sum of {who} over its rows")

    def joint(self, stage: JointChunk) -> None:
        """Each part by itself; all with the same factors and keys, and none reads what another makes."""
        first, made = stage.parts[0], set(stage.writes)
        if len(stage.parts) < 2 or len(self.carries) < len(stage.carries):
            _bug(self.plan, f"{self.where}: fewer than two parts, or two parts have one state")
        for number, part in enumerate(stage.parts):
            where = f"{self.where}, part {number}"
            carries = {c.name: (c.dims, c.dtype) for c in part.carries}
            _Stage(self.plan, where, self.buffers, self.ready, carries).chunk(part)
            if not part.form.alike(first.form) or any(r.rank for r in part.readouts):
                _bug(self.plan, f"{where}: it has not the keys and factors of the others, or several reads in a step")
            if made & {r.name for r in part.operands} or part.carries[0].dtype is not first.carries[0].dtype:
                _bug(self.plan, f"{where}: it reads what another part makes, or is of another type")

    def frozen(self, stage: Frozen) -> None:
        """What the plan inside (which has been checked by itself) takes from this one and gives to it."""
        held = dict(stage.held)
        if not held or set(held) & set(held.values()) or not {*held, *held.values()} <= set(self.carries):
            _bug(self.plan, f"{self.where}: a held state takes over none of the others")
        known = {held_name(h): self.carries[h] for h in held}
        if stage.start is not None and stage.start not in self.ready:
            _bug(self.plan, f"{self.where}: nothing says at which step it starts")
        for buffer in stage.inside.buffers:
            mine = buffer.name in self.buffers
            if buffer.role in (Role.ONCE, Role.SEQUENCE):
                fits = not mine
            elif buffer.role is Role.OUTPUT:
                fits = buffer.name in stage.writes
            elif buffer.name in known:
                fits = known[buffer.name] == (buffer.dims, buffer.dtype)
            else:
                outer = self.buffers.get(buffer.name)
                fits = outer is not None and (outer.dims, outer.dtype) == (buffer.dims, buffer.dtype)
                ready = buffer.role is Role.FINAL or buffer.name in self.ready
                fits = fits and ready and (buffer.role is Role.INPUT) == (mine and self.buffers[buffer.name].has_time)
            if not fits:
                _bug(self.plan, f"{self.where}: {buffer.name} inside is not what it is outside")
        if {s.name for s in stage.inside.recurrence.states} != set(self.carries) - set(held):
            _bug(self.plan, f"{self.where}: the states inside are not the carries")
        if not all(isinstance(s, Map | Matmul | Loop) for s in stage.inside.stages):
            _bug(self.plan, f"{self.where}: a stage inside is none of maps, matmuls and loops")

    def _only(self, expr: Expr, names: dict[str, tuple[Dims, DType]], what: str, lag: int | None = None) -> None:
        for read in reads(expr):
            if lag is not None and read.lag != lag:
                continue
            if names.get(read.name) != (read.dims, read.dtype):
                _bug(self.plan, f"{self.where}: {what} reads {read.name}, which is no component")


def _bug(plan: Plan, text: str) -> None:
    raise CompilerBug(f"plan of {plan.recurrence.name}: {text}")
