"""The peers of training: each system once, as a step over time that JAX scans and that torch runs in an eager loop.

What does not need the state is computed for all steps before the loop, as its users would. A loss is the sum of outputs
times fixed random numbers, and the gradients are those by every input and param.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

Arrays = Mapping[str, Any]
Library = Any  # the functions a step is written with

_JAX = SimpleNamespace(
    exp=jnp.exp, tanh=jnp.tanh, sigmoid=jax.nn.sigmoid, softplus=jax.nn.softplus, silu=jax.nn.silu,
    logsigmoid=jax.nn.log_sigmoid, maximum=jnp.maximum, where=jnp.where, einsum=jnp.einsum, sqrt=jnp.sqrt,
    sum=lambda a: jnp.sum(a, -1, keepdims=True), full=lambda like, shape, value: jnp.full(shape, value, like.dtype),
)  # fmt: skip
_TORCH = SimpleNamespace(
    exp=torch.exp, tanh=torch.tanh, sigmoid=torch.sigmoid, softplus=torch.nn.functional.softplus,
    silu=torch.nn.functional.silu, logsigmoid=torch.nn.functional.logsigmoid, maximum=torch.maximum, where=torch.where,
    einsum=torch.einsum, sqrt=torch.sqrt, sum=lambda a: a.sum(-1, keepdim=True),
    full=lambda like, shape, value: like.new_full(shape, value),
)  # fmt: skip


@dataclass(frozen=True)
class System:
    """`before(F, arrays)`: what a step reads, time first; `start(F, arrays)`: the first states; `step(F, arrays,
    states, now)`: the states and the output."""

    before: Callable[[Library, Arrays], tuple[Any, ...]]
    start: Callable[[Library, Arrays], tuple[Any, ...]]
    step: Callable[[Library, Arrays, tuple[Any, ...], tuple[Any, ...]], tuple[tuple[Any, ...], Any]]


def _min_gru() -> System:
    def before(F: Library, a: Arrays) -> tuple[Any, ...]:
        z, u = F.sigmoid(a["x"] @ a["Wz"].T), a["x"] @ a["Wh"].T
        return z, F.where(u >= 0, u + 0.5, F.sigmoid(u))

    def step(F: Library, a: Arrays, states: tuple[Any, ...], now: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        (h,), (z, new) = states, now
        h = (1 - z) * h + z * new
        return (h,), h

    return System(before, lambda F, a: (F.full(a["x"], (a["x"].shape[1], a["Wz"].shape[0]), 0.5),), step)


def _selective_scan() -> System:
    def before(F: Library, a: Arrays) -> tuple[Any, ...]:
        return F.softplus(a["delta"] + a["delta_bias"]), a["x"], a["B"], a["C"], a["z"]

    def start(F: Library, a: Arrays) -> tuple[Any, ...]:
        return (F.full(a["x"], (a["x"].shape[1], *a["A_log"].shape), 0.0),)

    def step(F: Library, a: Arrays, states: tuple[Any, ...], now: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        (h,), (dt, x, b, c, z) = states, now
        h = F.exp(dt[..., None] * -F.exp(a["A_log"])) * h + (dt * x)[..., None] * b[:, None, :]
        return (h,), (F.einsum("bdn,bn->bd", h, c) + a["skip"] * x) * F.silu(z)

    return System(before, start, step)


def _slstm() -> System:
    def before(F: Library, a: Arrays) -> tuple[Any, ...]:
        return (F.einsum("tbd,ghpd->tbghp", a["x"], a["W"]) + a["b"],)

    def start(F: Library, a: Arrays) -> tuple[Any, ...]:
        shape = (a["x"].shape[1], *a["b"].shape[1:])
        return (*(F.full(a["x"], shape, 0.0) for _ in range(3)), F.full(a["x"], shape, -1e30))

    def step(F: Library, a: Arrays, states: tuple[Any, ...], now: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        (h, c, n, m), (wx,) = states, now
        gates = wx + F.einsum("ghpq,bhq->bghp", a["U"], h)
        i, f, z, o = (gates[:, k] for k in range(4))
        log_f = F.logsigmoid(f)
        top = F.maximum(log_f + m, i)
        keep, write = F.exp(log_f + m - top), F.exp(i - top)
        c, n = keep * c + write * F.tanh(z), keep * n + write
        h = F.sigmoid(o) * c / n
        return (h, c, n, top), h

    return System(before, start, step)


def _aaren() -> System:
    def start(F: Library, a: Arrays) -> tuple[Any, ...]:
        s, v = a["s"], a["v"]
        return F.full(s, s.shape[1:], -1e30), F.full(s, s.shape[1:], 0.0), F.full(v, v.shape[1:], 0.0)

    def step(F: Library, a: Arrays, states: tuple[Any, ...], now: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        (m, u, w), (s, v) = states, now
        top = F.maximum(m, s)
        keep, new = F.exp(m - top), F.exp(s - top)
        u, w = u * keep + new, w * keep[..., None] + new[..., None] * v
        return (top, u, w), w / u[..., None]

    return System(lambda F, a: (a["s"], a["v"]), start, step)


def _gated_delta_net() -> System:
    def before(F: Library, a: Arrays) -> tuple[Any, ...]:
        key, query = (x / F.sqrt(F.sum(x * x) + 1e-6) for x in (a["k"], a["q"]))
        decay = F.exp(-F.exp(a["A_log"]) * F.softplus(a["a"] + a["dt_bias"]))
        return query / a["k"].shape[-1] ** 0.5, key, a["v"], F.sigmoid(a["beta"]), decay

    def start(F: Library, a: Arrays) -> tuple[Any, ...]:
        return (F.full(a["k"], (*a["k"].shape[1:], a["v"].shape[-1]), 0.0),)

    def step(F: Library, a: Arrays, states: tuple[Any, ...], now: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        (S,), (q, k, v, beta, decay) = states, now
        P = decay[..., None, None] * S
        new = beta[..., None] * (v - F.einsum("bhk,bhkv->bhv", k, P))
        S = P + k[..., None] * new[..., None, :]
        return (S,), F.einsum("bhk,bhkv->bhv", q, S)

    return System(before, start, step)


SYSTEMS = {
    "min_gru": _min_gru(), "selective_scan": _selective_scan(), "slstm": _slstm(), "aaren": _aaren(),
    "gated_delta_net": _gated_delta_net(),
}  # fmt: skip


def time_first(arrays: Arrays, inputs: set[str]) -> dict[str, np.ndarray]:
    """The inputs (B, T, ...) as contiguous (T, B, ...), the layout both loops read without copying."""
    return {n: np.ascontiguousarray(np.moveaxis(a, 1, 0)) if n in inputs else a for n, a in arrays.items()}


def by_jax(name: str, arrays: Arrays, given: np.ndarray) -> Callable[[], Any]:
    """Output and gradients by `jax.value_and_grad` of `lax.scan`, compiled here; arrays time first."""
    system = SYSTEMS[name]

    def loss(a: Arrays, g: Any) -> tuple[Any, Any]:
        _, y = jax.lax.scan(lambda s, now: system.step(_JAX, a, s, now), system.start(_JAX, a), system.before(_JAX, a))
        return jnp.sum(y * g), y

    placed = {n: jnp.asarray(a) for n, a in arrays.items()}
    g = jnp.asarray(given)
    step: Any = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(placed, g).compile()

    def run() -> Any:
        (_, y), found = jax.block_until_ready(step(placed, g))
        return y, found

    return run


def by_torch(name: str, arrays: Arrays, given: np.ndarray) -> Callable[[], Any]:
    """Output and gradients by torch's autograd through an eager loop; arrays time first."""
    system, g = SYSTEMS[name], torch.from_numpy(given)
    leaves = {n: torch.from_numpy(np.ascontiguousarray(a)).requires_grad_() for n, a in arrays.items()}

    def run() -> Any:
        before, states = system.before(_TORCH, leaves), system.start(_TORCH, leaves)
        ys: list[Any] = []
        for t in range(before[0].shape[0]):
            states, y = system.step(_TORCH, leaves, states, tuple(b[t] for b in before))
            ys.append(y)
        y = torch.stack(ys)
        found = torch.autograd.grad((y * g).sum(), list(leaves.values()))
        return y.detach(), dict(zip(leaves, found, strict=True))

    return run
