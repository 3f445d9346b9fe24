"""The peers in JAX, written the way their users write them well: jitted, one fused step, blocked on at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any


def _ready(fn: Callable[..., Array], *args: Array) -> Callable[[], Array]:
    """`fn` jitted on arrays that already are where JAX wants them."""
    compiled = jax.jit(fn)
    placed = [jnp.asarray(a) for a in args]
    return lambda: jax.block_until_ready(compiled(*placed))


def time_first(array: np.ndarray) -> np.ndarray:
    """(B, T, ...) as contiguous (T, B, ...), the layout `lax.scan` reads without copying."""
    return np.ascontiguousarray(np.moveaxis(array, 1, 0))


def _affine(a: Array, b: Array) -> Array:
    def step(h: Array, ab: tuple[Array, Array]) -> tuple[Array, Array]:
        h = ab[0] * h + ab[1]
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(b[0]), (a, b))[1]


def affine_scan(a: np.ndarray, b: np.ndarray) -> Callable[[], Array]:
    """h = a h + b by `lax.scan`, handed (T, B, D) arrays and giving one, so that no transposition is timed."""
    return _ready(_affine, time_first(a), time_first(b))


def affine_scan_batch_first(a: np.ndarray, b: np.ndarray) -> Callable[[], Array]:
    """The same from (B, T, D) to (B, T, D), the layout models keep: swapped inside the jitted function, where XLA
    may fuse it (`jax.vmap` over the batch takes as long)."""
    return _ready(lambda a, b: jnp.swapaxes(_affine(jnp.swapaxes(a, 0, 1), jnp.swapaxes(b, 0, 1)), 0, 1), a, b)


def affine_associative_scan(a: np.ndarray, b: np.ndarray) -> Callable[[], Array]:
    """The same by `lax.associative_scan` along the time axis of (B, T, D)."""

    def combine(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    return _ready(lambda a, b: jax.lax.associative_scan(combine, (a, b), axis=1)[1], a, b)


def selective_scan_step(x: dict[str, np.ndarray]) -> Callable[[], Array]:
    """S6 by `lax.scan`, decay and write formed inside the step, so that no (T, D, N) array exists."""

    def run(u: Array, delta: Array, b: Array, c: Array, z: Array, a_log: Array, skip: Array, bias: Array) -> Array:
        rate = -jnp.exp(a_log)

        def step(h: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
            u, delta, b, c, z = now
            dt = jax.nn.softplus(delta + bias)
            h = jnp.exp(dt[..., None] * rate) * h + (dt * u)[..., None] * b[:, None, :]
            y = jnp.einsum("bdn,bn->bd", h, c) + skip * u
            return h, y * jax.nn.silu(z)

        start = jnp.zeros((u.shape[1], *a_log.shape), u.dtype)
        return jax.lax.scan(step, start, (u, delta, b, c, z))[1]

    return _ready(
        run, *(time_first(x[n]) for n in ("x", "delta", "B", "C", "z")), x["A_log"], x["skip"], x["delta_bias"]
    )


def selective_scan_materialised(x: dict[str, np.ndarray]) -> Callable[[], Array]:
    """S6 with everything that does not depend on the state computed for all T first, then `lax.scan`."""

    def run(u: Array, delta: Array, b: Array, c: Array, z: Array, a_log: Array, skip: Array, bias: Array) -> Array:
        dt = jax.nn.softplus(delta + bias)
        decay = jnp.exp(dt[..., None] * -jnp.exp(a_log))
        write = (dt * u)[..., None] * b[:, :, None, :]

        def step(h: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            h = now[0] * h + now[1]
            return h, jnp.einsum("bdn,bn->bd", h, now[2])

        y = jax.lax.scan(step, jnp.zeros_like(decay[0]), (decay, write, c))[1]
        return (y + skip * u) * jax.nn.silu(z)

    return _ready(
        run, *(time_first(x[n]) for n in ("x", "delta", "B", "C", "z")), x["A_log"], x["skip"], x["delta_bias"]
    )


def _aaren(s: Array, v: Array) -> Array:
    def step(carry: tuple[Array, Array, Array], now: tuple[Array, Array]) -> tuple[tuple[Array, Array, Array], Array]:
        m, u, w = carry
        s, v = now
        top = jnp.maximum(m, s)
        keep, new = jnp.exp(m - top), jnp.exp(s - top)
        u = u * keep + new
        w = w * keep[:, None] + new[:, None] * v
        return (top, u, w), w / u[:, None]

    start = (jnp.full_like(s[0], -jnp.inf), jnp.zeros_like(s[0]), jnp.zeros_like(v[0]))
    return jax.lax.scan(step, start, (s, v))[1]


def aaren_scan(s: np.ndarray, v: np.ndarray) -> Callable[[], Array]:
    """Attention as an RNN by `lax.scan`; from s (B, T), v (B, T, D), batch and heads in B, handed over time first."""
    return _ready(_aaren, time_first(s), time_first(v))


def aaren_scan_batch_first(s: np.ndarray, v: np.ndarray) -> Callable[[], Array]:
    """The same from (B, T, D) to (B, T, D), swapped inside the jitted function."""
    return _ready(lambda s, v: jnp.swapaxes(_aaren(s.T, jnp.swapaxes(v, 0, 1)), 0, 1), s, v)
