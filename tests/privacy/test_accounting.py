"""Epsilon over a whole history, by two accountants, and what it means for a machine."""

import logging
import math
import time
from dataclasses import replace

import pytest

from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.privacy import accounting
from interplant.privacy.accounting import machine_epsilon, machine_sentence, rounds_left, spent
from interplant.privacy.plan import Event

ROUND = Event("window", 0.01, 1.0, 100)


def gaussian_epsilon(noise: float, delta: float) -> float:
    """The exact epsilon of one Gaussian mechanism (Balle and Wang, 2018), by bisection."""

    def normal(z: float) -> float:
        return 0.5 * math.erfc(-z / math.sqrt(2))

    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        here = normal(0.5 / noise - middle * noise) - math.exp(middle) * normal(-0.5 / noise - middle * noise)
        low, high = (middle, high) if here > delta else (low, middle)
    return high


def test_no_history_costs_nothing() -> None:
    assert spent([], 1e-5).epsilon == 0.0


@pytest.mark.parametrize("noise", [0.7, 2.0, 10.0])
def test_certificate_is_the_exact_figure_where_one_is_known_and_never_below(noise: float) -> None:
    exact = gaussian_epsilon(noise, 1e-5)
    found = spent([Event("window", 1.0, noise, 1)], 1e-5).epsilon
    assert exact <= found + 1e-9
    assert found == pytest.approx(exact, rel=1e-3)


def test_composition_of_unsampled_steps_is_exact_too() -> None:
    found = spent([Event("window", 1.0, 8.0, 16)], 1e-5).epsilon
    assert found == pytest.approx(gaussian_epsilon(2.0, 1e-5), rel=2e-3)


def test_history_composes_over_rounds() -> None:
    """Trap 1: an accountant made anew each round would report the first figure for ever."""
    figures = [spent([ROUND] * rounds, 1e-5).epsilon for rounds in (1, 2, 10)]
    assert figures[0] < figures[1] < figures[2]
    whole = spent([Event("window", 0.01, 1.0, 1000)], 1e-5)
    assert spent([ROUND] * 10, 1e-5) == whole


def test_different_rounds_compose_too() -> None:
    other = Event("window", 0.05, 2.0, 50)
    both = spent([ROUND, other], 1e-5).epsilon
    assert both > max(spent([ROUND], 1e-5).epsilon, spent([other], 1e-5).epsilon)
    assert both < spent([ROUND], 1e-5).epsilon + spent([other], 1e-5).epsilon + 1e-3


def test_subsampling_counts_only_as_it_was_run() -> None:
    """Trap 3: without Poisson sampling (q = 1) the price is another one."""
    assert spent([Event("window", 1.0, 1.0, 100)], 1e-5).epsilon > 10 * spent([ROUND], 1e-5).epsilon


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize(
    "event",
    [
        Event("window", 0.01, 1.0, 1),
        Event("window", 0.06, 0.3, 100),
        Event("window", 0.3, 2.0, 200),
        Event("window", 1e-4, 1.0, 1_000_000),
        Event("window", 1e-5, 0.5, 1),
        Event("window", 0.5, 0.1, 5),
        Event("window", 1.0, 50.0, 1),
    ],
)
def test_accountants_agree(event: Event, delta: float) -> None:
    """Trap 12: RDP lies a little above PLD, over the range a plant would use and beyond."""
    found = spent([event], delta)
    assert 0 <= found.epsilon <= 1.01 * found.epsilon_check + 1e-3
    assert found.epsilon_check <= 2 * found.epsilon + 0.2 * math.log(1 / delta)


@pytest.mark.parametrize("wrong", [0.3, 5.0])
def test_accountants_that_disagree_are_refused(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = accounting._certificate
    monkeypatch.setattr(accounting, "_certificate", lambda *a: wrong * right(*a))
    with pytest.raises(InterplantError, match="accountants disagree"):
        spent([Event("window", 0.06, 1.0, 1000)], 1e-5)


def test_a_hopeless_history_is_priced_at_once() -> None:
    started = time.monotonic()
    found = spent([Event("window", 1.0, 0.01, 100)], 1e-5)
    assert found.epsilon == found.epsilon_check > 1000
    assert time.monotonic() - started < 5


MACHINES = Event("unit", 0.1, 2.0, 50)


def test_units_are_never_added_up_as_if_they_were_the_same() -> None:
    """Trap 10, in the ledger: an account is counted in its largest unit, where smaller ones weigh more."""
    apart = spent([MACHINES], 1e-5)
    both = spent([ROUND, MACHINES], 1e-5, unit_windows=5)
    assert (apart.unit, both.unit) == ("unit", "unit")
    lifted = machine_epsilon([ROUND], 1e-5, 5)
    assert lifted > spent([ROUND], 1e-5).epsilon
    assert max(lifted, apart.epsilon) < both.epsilon <= both.epsilon_check * 1.01 + 1e-3
    assert both.epsilon > spent([replace(ROUND, unit="unit"), MACHINES], 1e-5).epsilon


def test_one_window_a_machine_counts_as_the_machine() -> None:
    same = spent([replace(ROUND, unit="unit"), MACHINES], 1e-5).epsilon
    assert spent([ROUND, MACHINES], 1e-5, unit_windows=1).epsilon == pytest.approx(same)


def test_windows_are_not_counted_for_machines_of_unknown_size() -> None:
    with pytest.raises(Refusal) as refusal:
        spent([ROUND, MACHINES], 1e-5)
    assert refusal.value.code == "undeclared_size"
    assert "declared_unit_windows" in refusal.value.detail


def test_rows_and_windows_count_in_windows() -> None:
    found = spent([replace(ROUND, unit="row"), ROUND], 1e-5)
    assert found.unit == "window"
    assert found.epsilon == spent([replace(ROUND, steps=200)], 1e-5).epsilon


def test_a_group_that_is_always_drawn_whole_costs_as_one_with_less_noise() -> None:
    """q = 1: k windows of a machine shift every step by k clips."""
    steps = [Event("window", 1.0, 20.0, 10), replace(MACHINES, q=1.0, noise=1000.0, steps=1)]
    exact = spent([Event("unit", 1.0, 5.0, 10), steps[1]], 1e-5).epsilon
    assert exact <= spent(steps, 1e-5, unit_windows=4).epsilon <= 1.1 * exact + 0.01


def test_a_long_history_costs_the_same_in_parts_and_whole() -> None:
    whole = spent([replace(ROUND, steps=12_345)], 1e-5).epsilon
    assert spent([replace(ROUND, steps=4096), replace(ROUND, steps=8249)], 1e-5).epsilon == whole


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 1e-15])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(UsageError, match=r"^privacy\.delta"):
        spent([ROUND], delta)


def test_large_delta_never_gives_a_negative_epsilon() -> None:
    found = spent([Event("window", 0.001, 5.0, 1)], 0.1)
    assert found.epsilon >= 0
    assert found.epsilon_check >= 0


def test_a_further_round_is_cheap() -> None:
    spent([ROUND], 1e-5)
    started = time.process_time()
    for rounds in range(2, 7):
        spent([ROUND] * rounds, 1e-5)
    assert (time.process_time() - started) / 5 < 0.5


def test_accounting_says_nothing_on_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        spent([Event("window", 0.061, 1.01, 100)], 1e-5)
    assert not caplog.records


def test_rounds_left_fills_the_budget_and_not_more() -> None:
    history = [ROUND] * 3
    left = rounds_left([ROUND], history, 2.0, 1e-5)
    assert left > 0
    assert spent(history + [ROUND] * left, 1e-5).epsilon <= 2.0
    assert spent(history + [ROUND] * (left + 1), 1e-5).epsilon > 2.0


def test_no_round_is_left_below_the_price_of_one() -> None:
    assert rounds_left([ROUND], [], 0.1, 1e-5) == 0


def test_a_machine_with_one_window_costs_what_a_window_costs() -> None:
    assert machine_epsilon([ROUND], 1e-5, 1) == spent([ROUND], 1e-5).epsilon


def test_a_machine_costs_much_more_than_a_window() -> None:
    """Trap 10: a window's epsilon must not be read as a machine's."""
    window = spent([ROUND], 1e-5).epsilon
    two, ten = (machine_epsilon([ROUND], 1e-5, count) for count in (2, 10))
    assert window < two < ten
    assert ten > 10 * window


def test_machine_reading_is_exact_where_everybody_is_drawn() -> None:
    """With q = 1 all k windows shift the sum: a Gaussian mechanism with noise / k."""
    found = machine_epsilon([Event("window", 1.0, 8.0, 1)], 1e-5, 4)
    exact = gaussian_epsilon(2.0, 1e-5)
    assert exact <= found < 1.05 * exact + 0.01


def test_machine_reading_takes_any_iterable_and_no_history() -> None:
    assert machine_epsilon(iter([ROUND]), 1e-5, 1) > 0
    assert machine_epsilon([], 1e-5, 100) == 0.0


def test_a_machine_with_very_many_windows_is_said_to_be_unprotected() -> None:
    started = time.monotonic()
    epsilon = machine_epsilon([Event("window", 0.2, 1.0, 1000)], 1e-5, 300)
    assert math.isinf(epsilon)
    assert time.monotonic() - started < 10
    assert "not protected" in machine_sentence(epsilon, 300)


def test_sentence_says_the_figure_and_what_it_means() -> None:
    assert machine_sentence(1.5, 2) == "a machine with 2 windows has epsilon 1.50"
    assert machine_sentence(0.5, 1) == "a machine with 1 window has epsilon 0.50"
    assert machine_sentence(368.0, 30) == ("a machine with 30 windows is not protected: its epsilon is 368")
