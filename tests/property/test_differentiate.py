"""Derivatives of random losses, over every kind of node, against torch's and against central differences."""

from __future__ import annotations

import numpy as np
import torch

from recurc import ops
from recurc.backends.reference import evaluate
from recurc.differentiate import gradient
from recurc.errors import UnsupportedError
from recurc.frontend import load_text
from recurc.frontend.render import to_text
from recurc.ir import Apply, Equation, Expr, Input, Param, Recurrence, walk
from recurc.ops import TypeProblem
from recurc.types import DimDecl, DType
from tests.property.random_losses import NAMES, PLACES, SIZES, Losses, Torch, read, values


class Fresh:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, hint: str) -> str:
        self.count += 1
        return f"{hint}_{self.count}"


def _value(losses: Losses, expr, given, equations=()) -> np.ndarray:
    known = dict(given)
    for equation in (*losses.equations, *equations):
        known[equation.name, 0] = evaluate(equation.expr, known, SIZES)
    return np.asarray(evaluate(expr, known, SIZES))


def _check(seed: int) -> None:
    losses = Losses(seed)
    loss = losses.loss()
    given = values(np.random.default_rng(seed))
    tensors = {
        key: torch.tensor(a[0], dtype=torch.float64 if a.dtype.kind == "f" else torch.int64).requires_grad_(
            a.dtype.kind == "f"
        )
        for key, a in given.items()
    }
    run = Torch(losses.equations, tensors)
    total = run(loss)
    assert np.isclose(float(total.detach()), _value(losses, loss, given).item(), rtol=1e-9)
    wanted = [read(n) for n in NAMES] + losses.named
    for target in wanted:
        (expected,) = torch.autograd.grad(
            total, run.given[target.name, target.lag], retain_graph=True, allow_unused=True
        )
        try:
            found = gradient(loss, target, losses.equations, Fresh())
        except TypeProblem as problem:
            assert problem.code in ("E0703", "E0901"), problem
            if problem.code == "E0703":
                assert expected is None or not expected.any(), target.name
            continue
        (derivative,) = found.values
        assert derivative.dims == target.dims and derivative.dtype is target.dtype
        got = np.broadcast_to(_value(losses, derivative, given, found.equations), (1, *(SIZES[d] for d in target.dims)))
        want = np.zeros_like(got[0]) if expected is None else expected.numpy()
        scale = 1 + np.abs(want).max(initial=0)
        np.testing.assert_allclose(got[0], want, atol=1e-8 * scale, rtol=1e-7, err_msg=f"d/d{target.name}")


def test_derivatives_are_those_of_torch(seed: int) -> None:
    for offset in range(60):
        try:
            _check(seed + offset)
        except Exception as wrong:
            raise AssertionError(f"seed {seed + offset}") from wrong


def _recurrence(seed: int) -> Recurrence:
    """A recurrence whose outputs are a random loss and its derivatives."""
    losses = Losses(seed)
    loss = losses.loss()
    fresh = Fresh()
    equations, outputs = [*losses.equations, Equation("loss", loss)], ["loss"]
    for target in [read(n) for n in NAMES] + losses.named:
        try:
            found = gradient(loss, target, losses.equations, fresh)
        except TypeProblem:
            continue
        equations += [*found.equations, Equation(f"by_{target.name}", found.values[0])]
        outputs.append(f"by_{target.name}")
    params = tuple(Param(n, d) for n, d in NAMES.items() if not read(n).lag)
    inputs = (
        *(Input(n, d, DType.REAL, ops.number(0.0)) for n, d in NAMES.items() if read(n).lag),
        *(Input(n, d, DType.I64) for n, d in PLACES.items()),
    )
    dims = tuple(DimDecl(d) for d in SIZES if not d.isdigit())
    return Recurrence(f"Loss{seed}", dims, inputs, params, (), tuple(equations), tuple(outputs))


def test_derivatives_written_as_text_load_back_equal(seed: int) -> None:
    for offset in range(40):
        rec = _recurrence(seed + offset)
        try:
            text = to_text(rec)
        except UnsupportedError:  # neighbours along one of two axes of one name
            continue
        assert load_text(text) == [rec], f"seed {seed + offset}"


def test_derivatives_are_central_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for offset in range(10):
        losses = Losses(seed + offset)
        loss = losses.loss(3)
        given = values(rng)
        for name in NAMES:
            target = read(name)
            try:
                found = gradient(loss, target, losses.equations, Fresh())
            except TypeProblem:
                continue
            key = (target.name, target.lag)
            exact = _value(losses, found.values[0], given, found.equations)
            exact = np.broadcast_to(exact, given[key].shape)
            along, step = rng.standard_normal(given[key].shape), 1e-6
            up, down = ({**given, key: given[key] + sign * step * along} for sign in (1, -1))
            slope = (_value(losses, loss, up).item() - _value(losses, loss, down).item()) / (2 * step)
            # stop_gradient and kinks make differences say something else; torch is the judge there
            if "stop_gradient" not in {n.op for n in _nodes(losses, loss) if isinstance(n, Apply)}:
                # h^2/6 |f'''| plus eps |f| / h
                scale = 1 + np.abs(exact).max(initial=0) * np.abs(along).sum()
                assert abs((exact * along).sum() - slope) < 1e-5 * scale, f"seed {seed + offset}, d/d{name}"


def _nodes(losses: Losses, loss: Expr) -> list[Expr]:
    return [n for e in (loss, *(e.expr for e in losses.equations)) for n in walk(e)]
