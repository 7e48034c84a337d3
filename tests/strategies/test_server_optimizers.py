"""FedAvgM, FedAdagrad, FedAdam and FedYogi: closed forms, Flower's own results, explicit state."""

import math
import re

import numpy as np
import pytest
from flwr.serverapp import strategy as flower

from interplant.strategies.fedadagrad import FedAdagrad
from interplant.strategies.fedadam import FedAdam
from interplant.strategies.fedavg import FedAvg
from interplant.strategies.fedavgm import FedAvgM
from interplant.strategies.fedprox import FedProx
from interplant.strategies.fedyogi import FedYogi

from .conftest import WEIGHTS, close, column, flowers, one_round, updates

ONE = {"w": np.float32([1.0])}
ALL = [FedAvgM(), FedAdagrad(), FedAdam(), FedYogi()]
ROUNDS = [updates(4, seed) for seed in range(6)]


def several_rounds(strategy, rounds, weights=WEIGHTS):
    state = strategy.init(weights)
    for several in rounds:
        weights, state = one_round(strategy, weights, several, state)
    return weights, state


# --- by hand -------------------------------------------------------------------------------------------


def test_momentum_by_hand():
    weights, state = several_rounds(FedAvgM(0.5, 0.8), [column([1.0, 3.0]), column([4.0])], ONE)
    # v: 2, then 0.8 * 2 + 4 = 5.6; w: 1 + 0.5 * 2 + 0.5 * 5.6
    np.testing.assert_allclose(state["w"], [5.6], rtol=1e-6)
    np.testing.assert_allclose(weights["w"], [4.8], rtol=1e-6)


def test_adagrad_by_hand():
    weights, state = several_rounds(
        FedAdagrad(learning_rate=0.5, tau=1.0), [column([1.0, 5.0]), column([4.0])], ONE
    )
    # d: 3, 4; v: 9, 25; steps: 0.5 * 3 / (3 + 1), 0.5 * 4 / (5 + 1)
    np.testing.assert_allclose(state["v/w"], [25.0], rtol=1e-6)
    np.testing.assert_allclose(weights["w"], [1 + 0.375 + 1 / 3], rtol=1e-6)


def test_adam_by_hand():
    strategy = FedAdam(learning_rate=0.5, beta_1=0.5, beta_2=0.75, tau=1.0, corrected=False)
    weights, state = several_rounds(strategy, [column([4.0]), column([2.0])], ONE)
    # m: 2, 2; v: 4, 0.75 * 4 + 0.25 * 4 = 4; each step 0.5 * 2 / (2 + 1)
    np.testing.assert_allclose([state["m/w"][0], state["v/w"][0]], [2.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(weights["w"], [1 + 2 / 3], rtol=1e-6)


def test_the_correction_by_hand():
    strategy = FedAdam(learning_rate=0.5, beta_1=0.5, beta_2=0.75, tau=1.0)
    weights, _ = several_rounds(strategy, [column([4.0])], ONE)
    factor = math.sqrt(1 - 0.75**2) / (1 - 0.5**2)
    np.testing.assert_allclose(weights["w"], [1 + factor / 3], rtol=1e-6)


def test_yogi_by_hand():
    strategy = FedYogi(learning_rate=0.5, beta_1=0.5, beta_2=0.75, tau=1.0)
    weights, state = several_rounds(strategy, [column([4.0]), column([1.0])], ONE)
    # v: 0.25 * 16 = 4, then 4 - 0.25 * 1 = 3.75; m: 2, 1.5
    np.testing.assert_allclose(state["v/w"], [3.75], rtol=1e-6)
    np.testing.assert_allclose(weights["w"], [1 + 1 / 3 + 0.75 / (math.sqrt(3.75) + 1)], rtol=1e-6)


def test_adam_and_yogi_differ_after_a_large_update():
    rounds = [column([4.0]), column([0.1])]
    adam, yogi = (several_rounds(s, rounds, ONE)[1]["v/w"][0] for s in (FedAdam(), FedYogi()))
    assert adam < yogi  # Yogi forgets by the size of the new square, Adam by a share of the old


# --- Flower's own --------------------------------------------------------------------------------------

FLOWERS = [
    (FedAvgM(), flower.FedAvgM(server_momentum=0.9)),
    (FedAvgM(0.3, 0.5), flower.FedAvgM(server_learning_rate=0.3, server_momentum=0.5)),
    (FedAdagrad(), flower.FedAdagrad()),
    (FedAdam(), flower.FedAdam()),
    (FedAdam(0.05, 0.8, 1e-2, 0.9), flower.FedAdam(eta=0.05, beta_1=0.8, beta_2=0.9, tau=1e-2)),
    (FedYogi(), flower.FedYogi()),
    (FedYogi(0.05, 0.8, 1e-2, 0.9), flower.FedYogi(eta=0.05, beta_1=0.8, beta_2=0.9, tau=1e-2)),
]


@pytest.mark.parametrize(("ours", "theirs"), FLOWERS, ids=lambda one: str(one)[:40].split(" object")[0])
def test_six_rounds_are_flowers(ours, theirs):
    close(several_rounds(ours, ROUNDS)[0], flowers(theirs, ROUNDS), 1e-4)


def test_the_proximal_strategy_is_fedavg_at_the_coordinator():
    for several in ROUNDS:
        found, state = one_round(FedProx(mu=0.3), WEIGHTS, several)
        expected, _ = one_round(FedAvg(), WEIGHTS, several)
        close(found, expected, 0)
        assert state == {}


# --- state ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ALL, ids=lambda one: type(one).__name__)
def test_the_state_is_all_that_a_strategy_remembers(strategy):
    """Going on from copies with another object of the same settings gives the same bits."""
    whole, end = several_rounds(strategy, ROUNDS)
    weights, state = several_rounds(strategy, ROUNDS[:3])
    state = {name: array.copy() for name, array in state.items()}
    again = type(strategy)()
    for several in ROUNDS[3:]:
        weights, state = one_round(again, weights, several, state)
    assert state.keys() == end.keys()
    for name, array in {**whole, **end}.items():
        np.testing.assert_array_equal({**weights, **state}[name], array)


@pytest.mark.parametrize("strategy", ALL, ids=lambda one: type(one).__name__)
def test_the_state_that_is_given_is_not_changed_and_every_round_changes_the_next(strategy):
    state = strategy.init(WEIGHTS)
    for several in ROUNDS[:2]:
        before = {name: array.copy() for name, array in state.items()}
        _, new = one_round(strategy, WEIGHTS, several, state)
        for name, array in state.items():
            np.testing.assert_array_equal(array, before[name])
            assert (new[name] != array).any()
            assert (new[name].shape, new[name].dtype) == (array.shape, array.dtype)
        state = new


@pytest.mark.parametrize("strategy", ALL, ids=lambda one: type(one).__name__)
def test_counters_take_the_plain_mean_and_dtypes_stay(strategy):
    weights = {
        "seen": np.array([7], np.int64),
        "half": np.ones(3, np.float16),
        "double": np.ones((), np.float64),
    }
    one = {"seen": np.array([3], np.int64), "half": np.ones(3, np.float16), "double": np.ones((), np.float64)}
    found, state = one_round(strategy, weights, [one, one])
    assert found["seen"][0] == 10
    for name, array in weights.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
    assert not [name for name in state if name.endswith("seen")]
    assert {array.dtype for name, array in state.items() if name.endswith("double")} == {np.dtype(np.float64)}
    assert {array.dtype for name, array in state.items() if name.endswith("half")} == {np.dtype(np.float32)}


def test_no_update_at_all_in_a_coordinate_moves_nothing():
    for strategy in (FedAdagrad(), FedAdam(), FedYogi()):
        found, _ = one_round(strategy, ONE, column([0.0, 0.0]))
        assert found["w"] == [1.0]


# --- settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FedAvgM(momentum=1.0), "momentum: expected a number from 0 and below 1, found 1.0"),
        (lambda: FedAvgM(learning_rate=0), "learning_rate: expected a number above 0, found 0"),
        (lambda: FedAdagrad(tau=0), "tau: expected a number above 0, found 0"),
        (lambda: FedAdam(beta_1=-0.1), "beta_1: expected a number from 0 and below 1, found -0.1"),
        (lambda: FedAdam(beta_2=1), "beta_2: expected a number from 0 and below 1, found 1"),
        (lambda: FedAdam(corrected=1), "corrected: expected true or false, found 1"),
        (lambda: FedYogi(beta_2=True), "beta_2: expected a number from 0 and below 1, found True"),
        (lambda: FedProx(mu=-1), "mu: expected a number from 0, found -1"),
        (lambda: FedProx(mu=float("inf")), "mu: expected a number from 0, found inf"),
        (lambda: FedProx(learning_rate="1"), "learning_rate: expected a number above 0, found '1'"),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        make()
