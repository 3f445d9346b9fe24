"""Derivatives of systems of the zoo, three times: by `Compiled.vjp`, by differences of the definition, and by torch's
autograd through the loop a person would write.

The loss is a random linear functional of all outputs and final states, so every cotangent takes part. Values are those
the zoo is tested on, moved by up to 1e-3, so that none sits on a kink: there a difference would find the mean of two
slopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import recurc
from recurc.cli.eager import Eager
from recurc.passes import core_form
from tests.zoo import cases
from tests.zoo.oracle import ORACLES

Arrays = dict[str, np.ndarray]


def is_real(value: np.ndarray) -> bool:
    return value.dtype.kind in "fc"


def normal(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    """Normal numbers, real or complex as `like`."""
    value = rng.standard_normal(like.shape)
    return value + 1j * rng.standard_normal(like.shape) if like.dtype.kind == "c" else value


def inner(a: np.ndarray, b: np.ndarray) -> float:
    """Re <a, b>, of the elements where a is not 0."""
    return float(np.sum((np.conj(a) * np.where(a != 0, b, 0)).real))


@dataclass(frozen=True)
class Case:
    """A call, and the derivatives of the loss by its results."""

    name: str
    arrays: Arrays
    initial: Arrays
    options: dict[str, Any]
    outputs: Arrays
    finals: Arrays

    def loss(self, arrays: Arrays, initial: Arrays) -> float:
        """By the definition."""
        run = cases.load(self.name).compile(backend="reference", dtype="f64", sizes=ORACLES[self.name].sizes)
        made, finals = run(return_final=True, initial=initial, **self.options, **arrays)
        outputs = dict(zip(cases.load(self.name).ir.outputs, cases.several(made), strict=True))
        return sum(inner(d, np.asarray(outputs[n])) for n, d in self.outputs.items()) + sum(
            inner(d, np.asarray(finals[n])) for n, d in self.finals.items()
        )

    def found(self, backend: str, **options: Any) -> tuple[Arrays, Arrays]:
        """By arguments, and by initial states."""
        f = cases.load(self.name).compile(backend=backend, dtype="f64", sizes=ORACLES[self.name].sizes, **options)
        _, pullback = f.vjp(initial=self.initial, return_final=bool(self.finals), **self.options, **self.arrays)
        gradients = pullback(self.outputs, self.finals)
        initial = gradients.pop("initial")
        return gradients, initial

    def by_differences(self, rng: np.random.Generator, group: str, name: str) -> tuple[np.ndarray, float, float]:
        """A random direction in an argument (`group` "arrays") or an initial state ("initial"), the derivative of the
        loss along it by central differences, and what rounding makes of these: the terms of the two losses, each with
        some ten roundings, over the step of 2e-6."""
        values: Arrays = getattr(self, group)
        along, h = normal(rng, values[name]), 1e-6
        there = [values | {name: values[name] + sign * h * along} for sign in (1, -1)]
        up, down = (self.loss(**{"arrays": self.arrays, "initial": self.initial, group: v}) for v in there)
        return along, (up - down) / (2 * h), 10 * 2.0**-52 * self.terms / h

    @property
    def terms(self) -> float:
        """What the terms of the loss add up to without signs, if no value were above 1."""
        return float(sum(np.abs(d).sum() for d in (*self.outputs.values(), *self.finals.values())))


def case(name: str, rng: np.random.Generator, steps: int, starts: bool = True, **options: Any) -> Case:
    """`starts`: with initial states somewhat above their defaults, where these are finite."""
    rec = cases.load(name)

    def moved(arrays: Arrays) -> Arrays:
        return {n: np.asarray(a + 1e-3 * rng.uniform(-1, 1, a.shape)) if is_real(a) else a for n, a in arrays.items()}

    inputs, params = (moved(a) for a in cases.draw(name, rng, steps))
    call: dict[str, Any] = options | ({} if inputs else {"steps": steps})
    run = rec.compile(backend="reference", dtype="f64", sizes=ORACLES[name].sizes)
    made, finals = run(return_final=True, **call, **inputs, **params)
    initial: Arrays = {}
    if starts:
        first = run.init_state(cases.BATCH if inputs else (), dtype="f64", **params)
        initial = {
            n: v + 1e-2 * np.abs(normal(rng, v)) for n, v in first.items() if is_real(v) and np.isfinite(v).all()
        }
        initial = {n: v for n, v in initial.items() if "@" not in n}
        made, finals = run(return_final=True, initial=initial, **call, **inputs, **params)
    outputs = dict(zip(rec.ir.outputs, map(np.asarray, cases.several(made)), strict=True))
    d_outputs = {n: np.where(np.isfinite(v), normal(rng, v), 0) for n, v in outputs.items() if is_real(v)}
    d_finals = {
        n: np.where(np.isfinite(v), normal(rng, np.asarray(v)), 0) for n, v in finals.items() if is_real(np.asarray(v))
    }
    return Case(name, inputs | params, initial, call, d_outputs, d_finals)


def by_autograd(c: Case) -> Arrays:
    """The derivatives by inputs and params by torch's autograd through its eager loop, from the default initial
    states, of the outputs alone. Where a part of it is infinite they may be no numbers."""
    rec = cases.load(c.name).ir
    tensors = {n: torch.from_numpy(a) for n, a in c.arrays.items()}
    wanted = [n for n, a in c.arrays.items() if is_real(a)]
    for name in wanted:
        tensors[name].requires_grad_()
    eager = Eager(core_form(rec), recurc.arguments.with_defaults(rec, ORACLES[c.name].sizes))
    made = eager(tensors)
    terms = [
        (torch.conj(torch.from_numpy(d)) * made[n]).real[torch.from_numpy(d != 0)].sum() for n, d in c.outputs.items()
    ]
    total = torch.stack(terms).sum()
    grads: tuple[Any, ...] = (None,) * len(wanted)
    if total.requires_grad:
        grads = torch.autograd.grad(total, [tensors[n] for n in wanted], allow_unused=True)
    return {
        n: np.zeros_like(c.arrays[n]) if g is None else g.resolve_conj().numpy()
        for n, g in zip(wanted, grads, strict=True)
    }
