"""Kalman filters: what a step means, that a scan of a declared filter agrees with it, and what is no filter."""

from typing import Any

import numpy as np
import pytest

import recurc
from recurc.irtext import parse, to_text
from recurc.passes import analyze

N, M = 3, 2
LENGTHS = (0, 1, 2, 3, 7, 64, 257)
VARYING = """
recurrence Filter(N, M):
    input  z[M], F[N, N], H[M, N], Q[N, N], R[M, M], seen: bool
    param  m0[N], P0[N, N]
    state  m[N] = m0
    state  P[N, N] = P0

    H_now = if seen then H else 0
    m, P = kalman(m[t-1], P[t-1], z, F, H_now, Q = Q, R = R)
    output m, P
"""
PLAIN = """
recurrence Plain(N, M):
    input  z[M]
    param  F[N, N], H[M, N], Q[N, N], R[M, M]
    state  m[N] = 0
    state  P[N, N] = eye(N)

    m, P = kalman(m[t-1], P[t-1], z, F = F, H = H, Q = Q, R = R)
    output m, P
"""


def covariance(rng: np.random.Generator, lead: tuple[int, ...], n: int) -> np.ndarray:
    """With eigenvalues of at least 1/4, and a part that is not symmetric and does not count."""
    a, b = rng.normal(size=(*lead, n, n)), rng.normal(size=(*lead, n, n))
    return a @ np.swapaxes(a, -1, -2) / n + np.eye(n) / 4 + (b - np.swapaxes(b, -1, -2)) / 4


def arrays(rng: np.random.Generator, steps: int, varying: bool) -> dict[str, Any]:
    """Transitions that shrink distances by 0.9, so that errors are forgotten; numbers that float32 holds."""
    lead = (2, steps) if varying else ()
    found = {
        "z": rng.normal(size=(2, steps, M)),
        "F": 0.9 * np.linalg.qr(rng.normal(size=(*lead, N, N)))[0],
        "H": rng.normal(size=(*lead, M, N)),
        "Q": covariance(rng, lead, N),
        "R": covariance(rng, lead, M),
    }
    if varying:
        found |= {"m0": rng.normal(size=N), "P0": covariance(rng, (), N), "seen": rng.random((2, steps)) < 0.7}
    return {n: a.astype(np.float32).astype(np.float64) if a.dtype.kind == "f" else a for n, a in found.items()}


def stepped(given: dict[str, Any], row: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of one sequence in the form of information, where independent observations add up."""
    means, covariances = [], []
    m, p = given.get("m0", np.zeros(N)), given.get("P0", np.eye(N))

    def even(a: np.ndarray) -> np.ndarray:
        return (a + a.T) / 2

    for t in range(given["z"].shape[1]):
        f, h, q, r = (given[n] if given[n].ndim == 2 else given[n][row, t] for n in ("F", "H", "Q", "R"))
        m, p = f @ m, f @ even(p) @ f.T + even(q)
        if "seen" not in given or given["seen"][row, t]:
            known, weight = np.linalg.inv(p), h.T @ np.linalg.inv(even(r))
            p = np.linalg.inv(known + weight @ h)
            m = p @ (known @ m + weight @ given["z"][row, t])
        means.append(m)
        covariances.append(p)
    return np.array(means).reshape(-1, N), np.array(covariances).reshape(-1, N, N)


@pytest.mark.parametrize("source", [VARYING, PLAIN])
def test_a_step_predicts_and_updates(source: str, rng: np.random.Generator) -> None:
    rec, given = recurc.load(text=source), arrays(rng, 7, source is VARYING)
    m, p = rec.compile(backend="reference")(**given)
    for row in range(2):
        means, covariances = stepped(given, row)
        np.testing.assert_allclose(m[row], means, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(p[row], covariances, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
@pytest.mark.parametrize("source", [VARYING, PLAIN])
def test_every_schedule_agrees_with_the_definition(source: str, backend: str, rng: np.random.Generator) -> None:
    """In f64 to 1e-9. In f32: a step is about 2 M + 4 N sums of N products and a solve of a matrix whose condition is
    below 200 here, so it errs by 200 (2 M + 4 N) N eps / 2 < 6e-4 of the largest value at worst, and errors shrink."""
    rec = recurc.load(text=source)
    (group,) = rec.analyze().groups
    assert (group.states, group.cls, group.schedules) == (("m", "P"), "KF", ("sequential", "scan"))
    for steps in LENGTHS:
        given = arrays(rng, steps, source is VARYING)
        wanted, ended = rec.compile(backend="reference")(**given, return_final=True)
        for schedule in group.schedules:
            compiled = rec.compile(backend=backend, schedule=schedule)
            for real, bound in ((np.float64, 1e-9), (np.float32, 6e-4)):
                typed = {n: a.astype(real) if a.dtype.kind == "f" else a for n, a in given.items()}
                found, final = compiled(**typed, return_final=True)
                for have, want in (*zip(found, wanted, strict=True), *((final[n], ended[n]) for n in ended)):
                    room = bound * max(1.0, float(np.abs(want).max(initial=0.0)))
                    np.testing.assert_allclose(have, want, rtol=0, atol=room, err_msg=f"{schedule}, {steps} steps")


def test_the_operator_is_proved() -> None:
    for source in (VARYING, PLAIN):
        (group,) = analyze(recurc.load(text=source).ir, prove=True).groups
        assert (group.certificate.method, group.certificate.status) == ("exact", "proved"), group.certificate


def test_it_is_printed_and_read_back() -> None:
    rec = recurc.load(text=VARYING)
    text = rec.to_text()
    assert "m, P = kalman(m[t-1], P[t-1], z, F = F, H = H_now, Q = Q, R = R)" in text
    assert recurc.load(text=text).ir == rec.ir
    assert parse(to_text(rec.ir)) == rec.ir


def test_a_step_function_is_the_same_recurrence(rng: np.random.Generator) -> None:
    @recurc.jit
    def plain(
        z: recurc.Input["M"],
        F: recurc.Param["N", "N"],
        H: recurc.Param["M", "N"],
        Q: recurc.Param["N", "N"],
        R: recurc.Param["M", "M"],
        m: recurc.State["N"],
        P: recurc.State["N", "N"],
    ) -> Any:
        m, P = recurc.kalman(m, P, z, F=F, H=H, Q=Q, R=R)
        return {"m": m, "P": P}

    assert plain.recurrence.ir.equations == recurc.load(text=PLAIN).ir.equations
    (group,) = plain.recurrence.analyze().groups
    assert group.cls == "KF"
    given = arrays(rng, 1, False)
    m, p = recurc.kalman(np.zeros(N), np.eye(N), given["z"][0, 0], given["F"], given["H"], given["Q"], given["R"])
    means, covariances = stepped(given, 0)
    np.testing.assert_allclose(m, means[0], atol=1e-12)
    np.testing.assert_allclose(p, covariances[0], atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "classes"),
    [
        ("F = F, H = H", "F = F / (2 + sum(m[t-1]**2)), H = H", [("m P", "NL-f")]),  # an extended filter
        ("output m, P", "output P", [("m P", "KF")]),
        ("m, P = kalman(m[t-1], P[t-1], z, F = F, H = H, Q = Q, R = R)",
         "m = kalman_mean(m[t-1], P[t-1], z, F, H, 2 * Q, R)\n    P = kalman_covariance(P[t-1], F, H, Q, R)",
         [("P", "KF"), ("m", "DA")]),
        ("m, P = kalman(m[t-1], P[t-1], z,", "m, P = kalman(2 * m[t-1], P[t-1], z,", [("P", "KF"), ("m", "DA")]),
    ],
)  # fmt: skip
def test_what_is_a_filter_and_what_is_not(
    old: str, new: str, classes: list[tuple[str, str | None]], rng: np.random.Generator
) -> None:
    assert old in PLAIN
    rec, given = recurc.load(text=PLAIN.replace(old, new)), arrays(rng, 9, False)
    groups = {" ".join(g.states): g.cls for g in rec.analyze().groups}
    for states, cls in classes:
        assert cls is None or groups[states] == cls, groups
    wanted = rec.compile(backend="reference")(**given)
    for schedule in sorted({s for g in rec.analyze().groups for s in g.schedules}):
        for backend in ("numpy", "cpu"):
            found = rec.compile(backend=backend, schedule=schedule)(**given)
            for have, want in zip(*(r if isinstance(r, tuple) else (r,) for r in (found, wanted)), strict=True):
                np.testing.assert_allclose(have, want, rtol=0, atol=1e-9 * max(1.0, float(np.abs(want).max())))


def test_rows_of_different_lengths_and_clocks_keep_the_class(rng: np.random.Generator) -> None:
    source = PLAIN.replace("    m, P = kalman", "    when any(z > 0, M):\n        m, P = kalman")
    rec = recurc.load(text=source)
    (group,) = rec.analyze().groups
    assert group.cls == "KF"
    given = arrays(rng, 9, False)
    wanted = rec.compile(backend="reference")(**given, lengths=np.array([9, 4]), return_final=True)
    found = rec.compile(backend="numpy", schedule="scan")(**given, lengths=np.array([9, 4]), return_final=True)
    for name, want in wanted[1].items():
        np.testing.assert_allclose(found[1][name], want, atol=1e-9)


def test_a_derivative_goes_through_a_step(rng: np.random.Generator) -> None:
    source = PLAIN.replace("output m, P", "loss = sum(m**2, N)\n    d = grad(loss, z)\n    output d")
    given = arrays(rng, 4, False)
    d = recurc.load(text=source).compile(backend="reference")(**given)
    plain = recurc.load(text=PLAIN).compile(backend="reference")
    step = 1e-6
    for j in range(M):
        moved = [{**given, "z": given["z"].copy()} for _ in range(2)]
        moved[0]["z"][0, 3, j] += step
        moved[1]["z"][0, 3, j] -= step
        up, down = ((plain(**a)[0][0, 3] ** 2).sum() for a in moved)
        np.testing.assert_allclose(d[0, 3, j], (up - down) / (2 * step), rtol=1e-6, atol=1e-8)


def test_woodburys_identity_is_used_when_asked_for_only(rng: np.random.Generator) -> None:
    """A filter that is written as equations: where nothing says that its covariances are symmetric, `auto` steps."""
    rec = recurc.zoo.load("kalman_filter")
    group = rec.analyze().groups[0]
    assert (group.cls, group.schedules, group.on_request) == ("MB", ("sequential",), ("scan",))
    assert any("symmetric at the start, and Q and R too" in str(r) for r in group.reasons)
    assert group.monoid is not None
    assert group.monoid.symmetric == {"P", "Q", "R"}
    given = arrays(rng, 33, False)
    given |= {n: (given[n] + given[n].T) / 2 for n in ("Q", "R")}
    wanted = rec.compile(backend="reference")(**given)
    found = rec.compile(backend="numpy", schedule="scan")(**given)
    for have, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(have, want, atol=1e-9)


def test_a_covariance_that_does_not_stay_symmetric_has_no_scan() -> None:
    text = recurc.zoo.text("kalman_filter").replace("F @ P[t-1] @ F.T", "F @ P[t-1] @ Q")
    group = next(g for g in recurc.load(text=text).analyze().groups if "P" in g.states)
    assert "scan" not in (*group.schedules, *group.on_request)
    assert any("it is not known that P stays symmetric" in str(r) for r in group.reasons)
