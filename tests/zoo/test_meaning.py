"""What tells the systems of the zoo apart, and where two of them are one: the places where implementations go wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.zoo.cases import Arrays, close, draw, load, schedules, several

STEPS = 17


def run(name: str, arrays: Arrays, schedule: str = "auto", **options: Any) -> np.ndarray:
    """The first output, by the interpreter in float64."""
    return several(load(name).compile(backend="numpy", schedule=schedule)(**arrays, **options))[0]


def drawn(name: str, rng: np.random.Generator) -> Arrays:
    inputs, params = draw(name, rng, STEPS)
    return inputs | params


# --- one model written in two ways ------------------------------------------------------------------------------------


def test_the_stabiliser_of_mlstm_does_not_show(rng: np.random.Generator) -> None:
    given = drawn("mlstm", rng)
    for schedule in schedules("mlstm"):
        assert close(run("mlstm", given, schedule), run("mlstm_unstabilised", given))


def test_the_stabiliser_may_start_anywhere(rng: np.random.Generator) -> None:
    given = drawn("mlstm", rng)
    whole = run("mlstm", given)
    for start in (0.0, -20.0, 5.0):
        assert close(run("mlstm", given, initial={"m": np.full((2, 3), start)}), whole)


@pytest.mark.parametrize("shift", [-300.0, 300.0])
@pytest.mark.parametrize(("name", "score"), [("aaren", "s"), ("rwkv4", "k")])
def test_scores_may_be_shifted_out_of_the_range_of_exp(
    name: str, score: str, shift: float, rng: np.random.Generator
) -> None:
    given = drawn(name, rng)
    for schedule in schedules(name):
        assert close(run(name, given | {score: given[score] + shift}, schedule), run(name, given, schedule))


def test_the_complex_recurrent_unit_is_the_one_in_pairs_of_reals(rng: np.random.Generator) -> None:
    real = drawn("lru_real", rng)
    radius = np.exp(-np.exp(real["nu"]))
    real["theta"] = np.abs(real["theta"])
    whole: Arrays = {"x": real["x"], "nu": real["nu"], "skip": real["skip"]}
    whole |= {"theta": np.log(real["theta"]), "gamma_log": np.log(np.sqrt(1 - radius**2))}
    whole |= {"B": real["Br"] + 1j * real["Bi"], "C": real["Cr"] + 1j * real["Ci"]}
    assert close(run("lru", whole), run("lru_real", real))


def test_a_diagonal_gru_is_a_gru_with_diagonal_matrices_and_the_other_update_gate(rng: np.random.Generator) -> None:
    given = drawn("gru_diagonal", rng)
    sign = np.array([1.0, -1.0, 1.0])
    full = {"x": given["x"], "W": given["W"] * sign[:, None, None], "b": given["b"] * sign[:, None]}
    full["U"] = np.stack([np.diag(u) for u in given["u"] * sign[:, None]])
    wanted = run("gru_diagonal", given)
    assert close(run("gru_reset_before", full), wanted)
    assert close(run("gru", full | {"d": np.zeros_like(full["b"])}), wanted)


def test_a_fixed_decay_is_one_that_happens_not_to_change(rng: np.random.Generator) -> None:
    given = drawn("rwkv5", rng)
    steady = np.broadcast_to(given["omega"], given["k"].shape)
    assert close(run("rwkv6", given | {"omega": steady}), run("rwkv5", given))


def test_delta_rules_are_special_cases_of_each_other(rng: np.random.Generator) -> None:
    given = drawn("gated_delta_net", rng)
    keys = {"a": np.repeat(given["a"][..., None], 2, -1), "dt_bias": np.repeat(given["dt_bias"][..., None], 2, -1)}
    assert close(run("kda", given | keys), run("gated_delta_net", given)), "one decay for all key dimensions"

    once = drawn("gated_delta_product", rng)
    once["beta"][:, :, 1] = -np.inf  # no second step
    one: Arrays = {n: once[n][:, :, 0] for n in ("k", "v", "beta")}
    k = one["k"] / np.sqrt((one["k"] ** 2).sum(-1, keepdims=True) + 1e-6)
    for h in range(3):
        b = 2 / (1 + np.exp(-one["beta"][..., h]))
        alpha = np.repeat(once["g"][..., h, None], 2, -1)
        a = -np.exp(once["g"][..., h])[..., None] * b[..., None] * k[..., h, :]
        same = {"q": once["q"][..., h, :] * np.sqrt(2), "v": b[..., None] * one["v"][..., h, :], "alpha": alpha, "a": a}
        assert close(
            run("dplr", same | {"k": k[..., h, :], "b": k[..., h, :]}), run("gated_delta_product", once)[..., h, :]
        )

    diagonal = drawn("longhorn", rng)
    diagonal["k"] = np.eye(3)[rng.integers(0, 3, (2, STEPS))] * rng.normal(size=(2, STEPS, 1))
    assert close(run("longhorn_exact", diagonal), run("longhorn", diagonal)), "a key along one axis"


# --- models that are not the same -------------------------------------------------------------------------------------


def test_the_two_forms_of_gru_are_two_models(rng: np.random.Generator) -> None:
    given = drawn("gru", rng)
    given["d"] = np.zeros_like(given["d"])
    assert not close(run("gru_reset_before", {n: a for n, a in given.items() if n != "d"}), run("gru", given), 1e-3)


def test_only_the_reset_before_form_lets_the_biases_of_the_candidate_add(rng: np.random.Generator) -> None:
    given = drawn("gru", rng)
    given["d"][:2] = 0
    merged = given | {"b": given["b"] + given["d"], "d": np.zeros_like(given["d"])}
    assert not close(run("gru", merged), run("gru", given), 1e-3)


def test_a_memory_that_decays_before_it_is_read_is_another_than_one_that_decays_after(rng: np.random.Generator) -> None:
    given = drawn("dplr", rng)
    given["b"], given["k"] = -given["a"], given["a"]
    late = run("dplr", given)
    early = run("dplr", given | {"a": given["a"] * np.exp(given["alpha"])})
    assert not close(early, late, 1e-3)


def test_the_phase_of_hgrn_matters(rng: np.random.Generator) -> None:
    given = drawn("hgrn", rng)
    real = {"x": given["re"], "f": given["f"], "g": given["g"], "low": given["low"]}
    still = given | {"theta": np.zeros_like(given["theta"])}
    assert close(run("hgrn", still), run("hgrn_real", real))
    assert not close(run("hgrn", given), run("hgrn_real", real), 1e-3)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rwkv4", "rwkv5", "rwkv6"])
def test_the_newest_token_of_rwkv_is_weighed_by_the_bonus_alone(name: str, rng: np.random.Generator) -> None:
    """The decay of a step acts on what was stored before it, from the step after the next one on."""
    given = drawn(name, rng)
    faster = given | {"omega": given["omega"] + 0.5}
    first, other = run(name, given), run(name, faster)
    assert close(first[:, :2], other[:, :2])
    assert not close(first[:, 2], other[:, 2], 1e-3)


def test_a_reset_of_rg_lru_drops_whatever_came_before_and_takes_the_input_whole(rng: np.random.Generator) -> None:
    given = drawn("rg_lru", rng)
    given["first"][:] = False
    given["first"][:, 7] = True
    alone = {n: a[:, 7:] if n in ("x", "first") else a for n, a in given.items()}
    given["x"][:, :7] = np.nan
    for schedule in schedules("rg_lru"):
        assert close(run("rg_lru", given, schedule)[:, 7:], run("rg_lru", alone))
    gate = 1 / (1 + np.exp(-(given["Wx"][0] @ alone["x"][0, 0, 0] + given["bx"][0])))
    assert close(run("rg_lru", alone)[0, 0, 0], gate * alone["x"][0, 0, 0])


@pytest.mark.parametrize("name", ["mamba", "qrnn", "qrnn_f", "qrnn_ifo", "rwkv4_time_mixing"])
def test_a_short_convolution_does_not_see_the_future(name: str, rng: np.random.Generator) -> None:
    given = drawn(name, rng)
    (fed,) = load(name).inputs
    changed = given | {fed: given[fed].copy()}
    changed[fed][:, 9:] += 1
    assert np.array_equal(run(name, given)[:, :9], run(name, changed)[:, :9])


def test_the_prefix_of_jrt_is_seen_in_full_by_every_step_and_only_the_prefix(rng: np.random.Generator) -> None:
    given = drawn("jrt", rng)
    given["prefix"][:] = np.arange(STEPS) < 6
    for at, differs in ((5, True), (6, False)):
        changed = given | {"ve": given["ve"].copy()}
        changed["ve"][:, at] += 1
        assert close(run("jrt", changed)[:, 0], run("jrt", given)[:, 0], 1e-6) is not differs


def test_torch_has_the_same_gates(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    given = drawn("lstm_projected", rng)
    theirs = torch.nn.LSTM(4, 3, proj_size=2, batch_first=True, dtype=torch.float64)
    blank = torch.zeros(12, dtype=torch.float64)
    weights = {"weight_ih_l0": given["W"].reshape(12, 4), "weight_hh_l0": given["U"].reshape(12, 2)}
    weights |= {"bias_ih_l0": given["b"].reshape(12), "weight_hr_l0": given["R"]}
    theirs.load_state_dict({n: torch.as_tensor(a) for n, a in weights.items()} | {"bias_hh_l0": blank})
    with torch.no_grad():
        assert close(run("lstm_projected", given), theirs(torch.as_tensor(given["x"]))[0].numpy())
    given = drawn("elman", rng)
    plain = torch.nn.RNN(4, 3, batch_first=True, dtype=torch.float64)
    weights = {"weight_ih_l0": given["W"], "weight_hh_l0": given["U"], "bias_ih_l0": given["b"]}
    plain.load_state_dict({n: torch.as_tensor(a) for n, a in weights.items()} | {"bias_hh_l0": blank[:3]})
    with torch.no_grad():
        assert close(run("elman", given), plain(torch.as_tensor(given["x"]))[0].numpy())
