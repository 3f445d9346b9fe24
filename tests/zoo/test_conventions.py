"""Conventions that public implementations disagree about: what the zoo's filters, clocks, memories and stacks do, and
that the other choice would have been another model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import recurc
from tests.zoo.cases import Arrays, close, draw, load, schedules, several
from tests.zoo.oracle import ORACLES

STEPS = 17


def run(name: str, arrays: Arrays, schedule: str = "auto", **options: Any) -> Any:
    """One call by the interpreter in float64."""
    sizes = {dim: size for dim, size in ORACLES[name].sizes.items() if load(name).dims[dim].default is not None}
    return load(name).compile(backend="numpy", schedule=schedule, sizes=sizes)(**arrays, **options)


def drawn(name: str, rng: np.random.Generator, steps: int = STEPS) -> Arrays:
    inputs, params = draw(name, rng, steps)
    return inputs | params


# --- where averages and filters begin ---------------------------------------------------------------------------------


def test_three_averages_differ_in_how_they_begin(rng: np.random.Generator) -> None:
    given = drawn("ema", rng)
    first = given["x"][:, 0]
    assert close(run("ema", given)[:, 0], given["alpha"] * first)
    assert close(run("ema_first_value", given)[:, 0], first)
    assert close(run("ema_bias_corrected", given)[:, 0], first)
    assert not close(run("ema_first_value", given)[:, 1], run("ema_bias_corrected", given)[:, 1], 1e-3)


def test_forms_of_a_filter_agree_in_what_they_give_and_not_in_what_they_keep(rng: np.random.Generator) -> None:
    given = drawn("biquad", rng)
    y, transposed = run("biquad", given, return_final=True)
    other, direct = run("biquad_direct_form_1", given, return_final=True)
    third, inner = run("biquad_direct_form_2", given, return_final=True)
    assert close(other, y) and close(third, y)
    assert {"z1", "z2"} <= set(transposed) and "y" in direct and "w" in inner
    assert not close(inner["w"], direct["y"], 1e-3)


def test_a_kalman_filter_may_or_may_not_predict_before_its_first_update(rng: np.random.Generator) -> None:
    given = drawn("kalman_scalar", rng) | {"F": np.array(0.5)}
    m, _ = run("kalman_scalar", given)
    ahead = 0.5**2 + given["Q"]
    gain = ahead * given["H"] / (given["H"] ** 2 * ahead + given["R"])
    assert close(m[:, 0], gain * given["z"][:, 0])


@pytest.mark.parametrize("backend", ["reference", "numpy", "cpu"])
def test_a_compensated_sum_keeps_what_a_plain_one_loses(backend: str) -> None:
    """Nothing may simplify (s - s[t-1]) - y to zero, as exact arithmetic would."""
    from tests.zoo.cases import cpu_is_missing

    if backend == "cpu" and cpu_is_missing():
        pytest.skip(str(cpu_is_missing()))
    x = np.full((3000, 1), 0.1, np.float32)
    exact, found = 3000 * float(x[0, 0]), load("kahan_sum").compile(backend=backend)(x=x)
    assert abs(float(np.cumsum(x)[-1]) - exact) > 1e-3
    assert abs(float(found[-1, 0]) - exact) < 2e-5, "within one unit in the last place of float32"


def test_a_short_step_of_a_held_law_writes_what_it_should(rng: np.random.Generator) -> None:
    """exp(z) - 1 would be 0 or one unit of float32 here."""
    given = drawn("s4d_real", rng, 1) | {"log_dt": np.full(4, -16.0), "skip": np.zeros(4)}
    found = load("s4d_real").compile(backend="numpy")(**{n: a.astype(np.float32) for n, a in given.items()})
    assert np.allclose(found[:, 0], np.exp(-16.0) * given["C"].sum(1) * given["u"][:, 0], rtol=1e-4, atol=0)


# --- clocks, segments and directions ----------------------------------------------------------------------------------


def test_the_clock_starts_at_zero_and_held_groups_do_not_move(rng: np.random.Generator) -> None:
    _, middle, slow = run("clockwork_rnn", drawn("clockwork_rnn", rng))
    moved = [[t for t in range(1, STEPS) if not np.array_equal(g[:, t], g[:, t - 1])] for g in (middle, slow)]
    assert moved == [list(range(2, STEPS, 2)), list(range(4, STEPS, 4))]
    assert np.abs(middle[:, 0]).min() > 0 and np.abs(slow[:, 0]).min() > 0, "at t = 0 every group ticks"


@pytest.mark.parametrize(("name", "poison"), [("segmented_sum", np.inf), ("segmented_max", np.inf)])
def test_nothing_of_a_segment_leaks_into_the_next(name: str, poison: float, rng: np.random.Generator) -> None:
    given = drawn(name, rng)
    given["start"][:] = False
    given["start"][:, 6] = True
    given["x"][:, 3], given["x"][:, 4] = poison, np.nan
    alone = {n: a[:, 6:] for n, a in given.items()}
    for schedule in schedules(name):
        assert close(run(name, given, schedule)[:, 6:], run(name, alone))


def test_a_reversed_row_begins_at_its_own_end_and_not_in_the_padding(rng: np.random.Generator) -> None:
    given = drawn("bidirectional_rnn", rng)
    lengths = np.array([5, STEPS])
    padded = given | {"x": given["x"].copy()}
    padded["x"][0, 5:] = 0
    found = run("bidirectional_rnn", padded, reverse=True, lengths=lengths)
    alone = given | {"x": given["x"][:1, 4::-1]}
    assert close(found[0, :5], run("bidirectional_rnn", alone)[0, ::-1])
    assert not close(run("bidirectional_rnn", padded, reverse=True)[0, :5], found[0, :5], 1e-6), "zeros are not neutral"


def test_four_sweeps_of_a_spatial_network_are_runs_over_rows_and_columns_in_both_directions(
    rng: np.random.Generator,
) -> None:
    image, weights = rng.normal(size=(5, 7, 3)), 0.2 * rng.normal(size=(4, 3, 3, 9))  # row, column, channel

    def message(w: Any, line: Any) -> Any:
        found = np.zeros_like(line)
        for i in range(len(line)):
            for k in range(9):
                if 0 <= i + k - 4 < len(line):
                    found[i] += w[:, :, k] @ line[i + k - 4]
        return np.maximum(found, 0)

    by_hand = image.copy()
    for i in range(1, 5):
        by_hand[i] += message(weights[0], by_hand[i - 1])
    for i in range(3, -1, -1):  # up to and with the first row
        by_hand[i] += message(weights[1], by_hand[i + 1])
    for j in range(1, 7):
        by_hand[:, j] += message(weights[2], by_hand[:, j - 1])
    for j in range(5, -1, -1):
        by_hand[:, j] += message(weights[3], by_hand[:, j + 1])

    sweep = load("scnn").compile(backend="numpy")
    found = image.transpose(0, 2, 1)  # row (the steps), channel, column
    found = sweep(x=found, w=weights[0])
    found = sweep(x=found, w=weights[1], reverse=True)
    found = found.transpose(2, 1, 0)  # column (the steps), channel, row
    found = sweep(x=found, w=weights[2])
    found = sweep(x=found, w=weights[3], reverse=True)
    assert close(found.transpose(2, 0, 1), by_hand)


# --- ties and integers ------------------------------------------------------------------------------------------------


def test_of_equal_values_the_rule_of_the_file_decides() -> None:
    x = np.array([[1.0], [3.0], [3.0], [0.0], [0.0]])
    for schedule in schedules("running_argmax"):
        assert run("running_argmax", {"x": x}, schedule).at[:, 0].tolist() == [0, 1, 1, 1, 1]
    for schedule in schedules("running_argmin"):
        assert run("running_argmin", {"x": x}, schedule).at[:, 0].tolist() == [0, 0, 0, 3, 4]
    flat = {"e": np.zeros((2, 3)), "A": np.zeros((3, 3)), "first": np.zeros(3)}
    assert not run("viterbi", flat).back.any(), "the first of equal states"


@pytest.mark.parametrize("backend", ["reference", "numpy", "cpu"])
def test_products_of_a_random_number_generator_have_more_bits_than_a_float_holds(backend: str) -> None:
    """The check value that Park and Miller publish: 10,000 steps from 1."""
    from tests.zoo.cases import cpu_is_missing

    if backend == "cpu" and cpu_is_missing():
        pytest.skip(str(cpu_is_missing()))
    f = load("lcg").compile(backend=backend)
    s = f(stir=np.zeros(10_000, dtype=np.int64), initial={"s": np.array(1)})
    assert int(s[-1]) == 1043618065


def test_an_impulse_gives_the_fibonacci_numbers() -> None:
    f = run("fibonacci", {"x": np.eye(1, 30, dtype=np.int64)[0]})
    assert f[:10].tolist() == [1, 1, 2, 3, 5, 8, 13, 21, 34, 55] and f[29] == 832040


# --- softmax ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [-300.0, 300.0])
def test_a_running_maximum_makes_scores_of_any_size_safe(shift: float, rng: np.random.Generator) -> None:
    given = drawn("online_softmax", rng)
    far = given | {"x": given["x"] + shift}
    wanted = run("online_softmax", given).o
    for name in ("online_softmax", "softmax_mean", "softmax_naive"):
        for schedule in schedules(name):
            found = several(run(name, far, schedule))[0]
            assert close(found, wanted, 1e-9), f"{name} by {schedule}"
        # In f32, where exp of such a score is 0 or infinite. Rounding a score of 300 changes its weight by 3e-5.
        single = {n: a.astype(np.float32) for n, a in far.items()}
        assert close(several(load(name).compile(backend="numpy")(**single))[0], wanted, 1e-4)


# --- memories and stacks ----------------------------------------------------------------------------------------------


def test_the_order_of_the_heads_is_part_of_the_model(rng: np.random.Generator) -> None:
    given = drawn("ntm", rng)
    assert not close(run("ntm_write_first", given), run("ntm", given), 1e-3)


def test_tap_0_of_a_shift_moves_attention_towards_lower_slots() -> None:
    """A convolution, as in the paper: turned round, it would move the other way."""
    rng = np.random.default_rng(0)
    given = {n: np.zeros_like(a) if n not in ("x", "Wx") else a for n, a in drawn("ntm", rng, 1).items()}
    given["b"] = np.full_like(given["b"], 20.0)  # h is 1 wherever the input does not say otherwise
    given["Wx"] = np.zeros_like(given["Wx"])
    given["to_gate"] = np.full_like(given["to_gate"], -20.0)  # look where the step before looked
    given["to_shift"] = np.zeros_like(given["to_shift"])
    given["to_shift"][:, 0] = 20.0
    _, final = run("ntm", given, return_final=True)
    assert final["reading"][0].argmax() == 4 and final["writing"][0].argmax() == 4, "from slot 0, around the end"


def test_a_convolutional_gru_gives_out_less_than_it_carries(rng: np.random.Generator) -> None:
    y, final = run("conv_gru", drawn("conv_gru", rng), return_final=True)
    assert y.min() == 0 and final["h"].min() < 0
    assert close(y[:, -1], np.maximum(final["h"], 0))


def test_without_peepholes_an_image_lstm_is_the_plain_one(rng: np.random.Generator) -> None:
    given = drawn("conv_lstm", rng, 5)
    plain = {n: a for n, a in given.items() if n != "peep"}
    assert close(run("conv_lstm", given | {"peep": 0 * given["peep"]}), run("conv_lstm_plain", plain))
    assert not close(run("conv_lstm", given), run("conv_lstm_plain", plain), 1e-3)


def test_a_key_is_the_smoothed_average_of_what_chose_it(rng: np.random.Generator) -> None:
    """The outputs show which key was chosen and not what the keys are."""
    given = drawn("key_value_bottleneck_ema", rng)
    (_, slot), final = run("key_value_bottleneck_ema", given, return_final=True)
    for b, chosen in enumerate(np.asarray(slot)):
        count, total = np.ones(5), given["keys"].copy()
        for n, x in zip(chosen, given["x"][b], strict=True):
            count, total = given["keep"] * count, given["keep"] * total
            count[n] += 1 - given["keep"]
            total[n] += (1 - given["keep"]) * (given["P"] @ x)
        share = (count + 1e-5) / (count.sum() + 5e-5)
        assert close(final["key"][b], total / (share * count.sum())[:, None])


def test_links_never_lead_from_a_slot_to_itself(rng: np.random.Generator) -> None:
    found = run("dnc_memory", drawn("dnc_memory", rng))
    assert not found.link[..., range(5), range(5)].any()
    assert found.link.sum(-1).max() <= 1 + 1e-12 and found.link.min() >= -1e-12


def test_what_only_looks_affine_gets_no_scan() -> None:
    """The threshold of a spiking neuron reads its state: a derivative would be constant almost everywhere."""
    for name in ("lif_neuron", "lif_neuron_hard_reset", "logistic_map", "ntm", "dnc", "sru", "kahan_sum"):
        assert schedules(name) == ("sequential",), name


def test_a_skewed_stack_is_not_a_stack(rng: np.random.Generator) -> None:
    """The second layer of one reads what the first gave a step ago: all it gives comes a step later."""
    given = drawn("skewed_lstm", rng)
    stacked, skewed = run("stacked_lstm", given), run("skewed_lstm", given)
    assert not close(skewed, stacked, 1e-3)
    still = given | {"b2": 0 * given["b2"]}  # a second layer that has seen nothing gives nothing
    assert not run("skewed_lstm", still)[:, 0].any()
    assert close(run("skewed_lstm", still)[:, 1:], run("stacked_lstm", still)[:, :-1])


def test_a_filter_of_matrices_may_or_may_not_predict_before_its_first_update(rng: np.random.Generator) -> None:
    given = drawn("kalman_filter", rng)
    first, later = run("kalman_filter_update_first", given), run("kalman_filter", given)
    assert not close(first.m[:, 0], later.m[:, 0], 1e-3)
    for t, n in enumerate(("kalman_filter_update_first", "kalman_filter")):
        P = run(n, given).P[0, 0]
        prior = np.eye(3) if t == 0 else given["F"] @ given["F"].T + given["Q"]
        assert close(
            np.linalg.inv(P), np.linalg.inv(prior) + given["H"].T @ np.linalg.inv(given["R"]) @ given["H"], 1e-8
        )


def test_the_size_of_a_chunk_is_part_of_the_model(rng: np.random.Generator) -> None:
    """Gradients at the memory that entered the chunk: with chunks of one step, the rule per token."""
    from recurc import zoo

    given = drawn("titans_linear_chunked", rng)
    by_token = load("titans_linear").compile(backend="numpy")(**given)
    assert not close(run("titans_linear_chunked", given), by_token, 1e-3)
    ones = recurc.load(text=zoo.text("titans_linear_chunked").replace("const  C = 4", "const  C = 1"))
    assert close(ones.compile(backend="numpy")(**given), by_token)

    given = drawn("ttt_linear", rng)
    three = run("ttt_linear", given)
    given["offset"] = given["offset"][:2]
    two = load("ttt_linear").compile(backend="numpy")(**given)
    assert close(two[:, :2], three[:, :2]) and not close(two, three, 1e-3)


def test_a_token_of_a_shifted_memory_does_not_see_its_own_chunk(rng: np.random.Generator) -> None:
    given = drawn("titans_linear_previous_chunk", rng)
    changed = given | {"v": given["v"].copy()}
    changed["v"][:, 4] += 1
    first, second = run("titans_linear_previous_chunk", given), run("titans_linear_previous_chunk", changed)
    assert np.array_equal(first[:, :8], second[:, :8]) and not close(first[:, 8:], second[:, 8:], 1e-6)


def test_newton_schulz_brings_singular_values_near_one_and_no_nearer(rng: np.random.Generator) -> None:
    given = drawn("atlas", rng) | {"M0": np.zeros((10, 2))}
    given["alpha"], given["eta"] = np.zeros_like(given["alpha"]), np.ones_like(given["eta"])
    _, final = run("atlas", given, return_final=True)
    values = np.linalg.svd(final["M"], compute_uv=False)  # minus the direction of the last step
    assert values.min() > 0.3 and values.max() < 1.3 and np.abs(values - 1).max() > 1e-3
