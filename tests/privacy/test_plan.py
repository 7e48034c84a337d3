"""A plan: public denominators, a sampler with the rate that is charged, and clear refusals."""

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from interplant.core.errors import Refusal, UsageError
from interplant.core.schema import Task
from interplant.privacy.plan import Event, Plan, system_generator

PLAN = Plan("window", records=2000, batch=128, noise=1.0, clip=1.0, steps=100, delta=1e-5)


def test_a_plan_cannot_be_changed_after_it_is_charged() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAN.noise = 0.5  # type: ignore[misc]


def test_event_is_what_the_plan_runs() -> None:
    assert PLAN.event == Event("window", 128 / 2000, 1.0, 100)


def test_rate_and_denominator_are_exact_for_every_size() -> None:
    """Trap 4: int(1 / (1 / n)) is not n for one n in fifteen."""
    for records in range(1, 3000):
        plan = replace(PLAN, records=records, batch=7)
        assert plan.q == min(1.0, 7 / records)
        assert plan.denominator == min(7, records)


def test_a_batch_larger_than_the_data_draws_everybody() -> None:
    plan = replace(PLAN, records=100, batch=128, steps=3)
    assert plan.q == 1.0
    assert plan.denominator == 100.0
    assert all(len(chosen) == 50 for chosen in plan.batches(50))


def test_sampler_has_the_rate_that_is_charged() -> None:
    """Traps 3 and 4: each unit is drawn with q, alone, and batch sizes vary as a binomial's."""
    plan = replace(PLAN, records=1000, batch=100, steps=2000)
    sizes = np.array([len(chosen) for chosen in plan.batches(1000)])
    assert len(sizes) == plan.steps
    spread = math.sqrt(1000 * plan.q * (1 - plan.q))
    assert abs(sizes.mean() - 100) < 6 * spread / math.sqrt(len(sizes))
    assert 0.85 < sizes.std() / spread < 1.15


def test_every_unit_is_as_likely_as_any_other_and_steps_are_independent() -> None:
    plan = replace(PLAN, records=50, batch=10, steps=4000)
    drawn = np.zeros((plan.steps, 50), bool)
    for row, chosen in zip(drawn, plan.batches(50), strict=True):
        row[chosen] = True
    deviation = math.sqrt(plan.q * (1 - plan.q) / plan.steps)
    assert np.abs(drawn.mean(0) - plan.q).max() < 6 * deviation
    again = (drawn[1:] & drawn[:-1]).mean()
    assert abs(again - plan.q**2) < 0.005


def test_rate_does_not_follow_the_size_of_the_data() -> None:
    """Trap 11: more windows than declared enlarge the batch, not the denominator or the rate."""
    plan = replace(PLAN, records=1000, batch=100, steps=200)
    sizes = [len(chosen) for chosen in plan.batches(3000)]
    assert 290 < np.mean(sizes) < 310
    assert plan.denominator == 100.0


def test_two_runs_of_a_plan_draw_different_batches_whatever_the_seeds() -> None:
    """Trap 7, for the sampler."""
    drawn = []
    for _ in range(2):
        np.random.seed(0)
        drawn.append(np.concatenate(list(replace(PLAN, steps=5).batches(2000))))
    assert not np.array_equal(*[part[:50] for part in drawn])


def test_a_plan_of_a_task() -> None:
    task = Task(name="rul")
    assert Plan.of(task, 2000) == PLAN


def test_an_undeclared_size_is_refused() -> None:
    with pytest.raises(Refusal) as refusal:
        Plan.of(Task(name="rul"), 0)
    assert refusal.value.code == "undeclared_size"


def test_a_plan_survives_json() -> None:
    assert Plan.from_dict(PLAN.as_dict()) == PLAN


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        ("unit", "machine", "privacy.unit"),
        ("records", 0, "plan.records"),
        ("records", 10.5, "plan.records"),
        ("batch", 0, "plan.batch"),
        ("steps", -1, "plan.steps"),
        ("noise", 0.0, "privacy.noise"),
        ("noise", math.nan, "privacy.noise"),
        ("noise", math.inf, "privacy.noise"),
        ("clip", -1.0, "privacy.clip"),
        ("delta", 0.0, "privacy.delta"),
        ("delta", 1.0, "privacy.delta"),
        ("delta", math.nan, "privacy.delta"),
        ("delta", 1e-13, "privacy.delta"),
    ],
)
def test_an_impossible_value_is_named(field: str, value: object, key: str) -> None:
    with pytest.raises(UsageError, match=f"^{key}: expected"):
        replace(PLAN, **{field: value})


def test_seeds_are_used_whole() -> None:
    """torch's CPU generator keeps 32 bits of its seed, few enough to try; this one's key has 128."""
    keys = [system_generator().bit_generator.state["state"]["key"] for _ in range(50)]
    assert all(key.nbytes * 8 >= 128 for key in keys)
    for half in range(keys[0].size):
        assert len({int(key[half]) for key in keys}) == 50
        assert max(int(key[half]) for key in keys) > 2**32
