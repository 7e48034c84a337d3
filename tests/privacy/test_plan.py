"""A plan: public denominators, a sampler with the rate that is charged, and clear refusals."""

import json
import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from interplant.core.contract import Column, Contract
from interplant.core.errors import Refusal, UsageError
from interplant.core.possible import Impossible
from interplant.core.schema import Metric, PlantData, Privacy, Task
from interplant.privacy.plan import Event, Measurement, Plan, Statistic, statistics_of
from interplant.privacy.stream import Stream

PLAN = Plan("window", records=2000, batch=128, noise=1.0, clip=1.0, steps=100, delta=1e-5)
CONTRACT = Contract(sensors={"heat": Column("K", 0.0, 1.0)})


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
    assert all(len(chosen) == 50 for chosen in plan.batches(50, Stream()))


def test_sampler_has_the_rate_that_is_charged() -> None:
    """Traps 3 and 4: each unit is drawn with q, alone, and batch sizes vary as a binomial's."""
    plan = replace(PLAN, records=1000, batch=100, steps=2000)
    sizes = np.array([len(chosen) for chosen in plan.batches(1000, Stream())])
    assert len(sizes) == plan.steps
    spread = math.sqrt(1000 * plan.q * (1 - plan.q))
    assert abs(sizes.mean() - 100) < 6 * spread / math.sqrt(len(sizes))
    assert 0.85 < sizes.std() / spread < 1.15


def test_every_unit_is_as_likely_as_any_other_and_steps_are_independent() -> None:
    plan = replace(PLAN, records=50, batch=10, steps=4000)
    drawn = np.zeros((plan.steps, 50), bool)
    for row, chosen in zip(drawn, plan.batches(50, Stream()), strict=True):
        row[chosen] = True
    deviation = math.sqrt(plan.q * (1 - plan.q) / plan.steps)
    assert np.abs(drawn.mean(0) - plan.q).max() < 6 * deviation
    again = (drawn[1:] & drawn[:-1]).mean()
    assert abs(again - plan.q**2) < 0.005


def test_rate_does_not_follow_the_size_of_the_data() -> None:
    """Trap 11: more windows than declared enlarge the batch, not the denominator or the rate."""
    plan = replace(PLAN, records=1000, batch=100, steps=200)
    sizes = [len(chosen) for chosen in plan.batches(3000, Stream())]
    assert 290 < np.mean(sizes) < 310
    assert plan.denominator == 100.0


def test_two_runs_of_a_plan_draw_different_batches_whatever_the_seeds() -> None:
    """Trap 7, for the sampler."""
    drawn = []
    for _ in range(2):
        np.random.seed(0)
        drawn.append(np.concatenate(list(replace(PLAN, steps=5).batches(2000, Stream()))))
    assert not np.array_equal(*[part[:50] for part in drawn])


def test_a_plan_of_a_task() -> None:
    task = Task(name="rul")
    assert Plan.of(task, PlantData(declared_windows=2000)) == PLAN
    assert PLAN.events == (PLAN.event,)


def test_machines_are_counted_by_their_own_declared_size() -> None:
    task = Task(name="rul")
    task.privacy.unit, task.privacy.windows_per_unit, task.training.batch = "unit", 5, 8
    plan = Plan.of(task, PlantData(declared_windows=2000, declared_units=40))
    assert (plan.unit, plan.windows, plan.q, plan.denominator) == ("unit", 5, 0.2, 8.0)
    assert plan.event == Event("unit", 0.2, 1.0, 100)
    with pytest.raises(Refusal) as refusal:
        Plan.of(task, PlantData(declared_windows=2000))
    assert "declared_units" in refusal.value.detail


def test_at_most_k_windows_are_drawn_each_as_likely() -> None:
    """K ignored would let a machine with many windows weigh as many draws."""
    plan, stream = replace(PLAN, unit="unit", windows=3), Stream()
    own = np.arange(100, 110)
    drawn = np.array([plan.draw(own, stream) for _ in range(4000)])
    assert drawn.shape == (4000, 3)
    assert all(len(set(row)) == 3 for row in drawn)
    share = np.bincount(drawn.ravel() - 100, minlength=10) / 4000
    assert np.abs(share - 0.3).max() < 6 * math.sqrt(0.3 * 0.7 / 4000)
    assert plan.draw(own[:2], stream).tolist() == [100, 101]


def test_a_statistic_is_charged_beside_the_training() -> None:
    plan = replace(PLAN, statistics=(Statistic("loss", bound=2.0, noise=5.0),))
    assert plan.events == (PLAN.event, Event("window", 1.0, 5.0, 1))
    assert Plan.from_dict(plan.as_dict()) == plan


def test_an_undeclared_size_is_refused() -> None:
    with pytest.raises(Refusal) as refusal:
        Plan.of(Task(name="rul"), PlantData())
    assert refusal.value.code == "undeclared_size"


def test_a_plan_survives_json_and_one_of_an_earlier_version_is_read() -> None:
    assert Plan.from_dict(json.loads(json.dumps(PLAN.as_dict()))) == PLAN
    later = ("windows", "clipping", "statistics")
    assert Plan.from_dict({k: v for k, v in PLAN.as_dict().items() if k not in later}) == PLAN


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
        ("clipping", "none", "privacy.clipping"),
        ("windows", 2, "plan.windows"),
        ("delta", 0.0, "privacy.delta"),
        ("delta", 1.0, "privacy.delta"),
        ("delta", math.nan, "privacy.delta"),
        ("delta", 1e-13, "privacy.delta"),
    ],
)
def test_an_impossible_value_is_named(field: str, value: object, key: str) -> None:
    with pytest.raises(UsageError, match=f"^{key}: expected"):
        replace(PLAN, **{field: value})


MEASURED = Task(
    name="rul",
    metrics={"loss": Metric(bound=2.0, noise=5.0), "units": Metric(noise=30.0)},
)
LOSS, UNITS = Statistic("loss", 2.0, 5.0), Statistic("units", 1.0, 30.0)


@pytest.mark.parametrize(
    ("names", "expected"),
    [((), ()), (["loss"], (LOSS,)), (["units"], (UNITS,)), (["units", "loss"], (LOSS, UNITS))],
)
def test_a_plan_measures_what_the_task_asks_and_the_plant_lets_out(
    names: list[str], expected: tuple[Statistic, ...]
) -> None:
    plan = Plan.of(MEASURED, PlantData(declared_windows=2000), names)
    assert plan == replace(PLAN, statistics=expected)
    assert plan.events == (PLAN.event, *(Event("window", 1.0, one.noise, 1) for one in expected))


def test_the_plant_lets_out_nothing_that_the_task_does_not_ask() -> None:
    assert Plan.of(Task(name="rul"), PlantData(declared_windows=2000), ["loss", "units"]) == PLAN


def test_a_metric_that_is_switched_off_is_not_measured() -> None:
    task = replace(MEASURED, metrics={"loss": Metric(mechanism="none")})
    assert Plan.of(task, PlantData(declared_windows=2000), ["loss"]).statistics == ()


@pytest.mark.parametrize("mechanism", ["dp-sgd-test", "none"])
def test_a_task_without_privacy_measures_nothing(mechanism: str) -> None:
    task = replace(MEASURED, privacy=Privacy(mechanism=mechanism))
    assert statistics_of(task, ["loss", "units"]) == ()
    assert Plan.of(task, PlantData(declared_windows=2000), ["loss", "units"]).statistics == ()


def test_a_unit_counts_once_whatever_bound_the_task_names() -> None:
    task = replace(MEASURED, metrics={"units": Metric(bound=50.0)})
    assert statistics_of(task, ["units"]) == (Statistic("units", 1.0, 20.0),)


@pytest.mark.parametrize(
    ("name", "metric", "key"),
    [
        ("rows", Metric(), "metrics.rows"),
        ("loss", Metric(mechanism="plain"), "metrics.loss.mechanism"),
        ("loss", Metric(bound=0.0), "metrics.loss.bound"),
        ("loss", Metric(bound=math.nan), "metrics.loss.bound"),
        ("loss", Metric(bound=math.inf), "metrics.loss.bound"),
        ("loss", Metric(noise=-1.0), "metrics.loss.noise"),
        ("loss", Metric(noise=math.nan), "metrics.loss.noise"),
        ("units", Metric(bound=2.0), "metrics.units.bound"),
    ],
)
def test_an_impossible_metric_is_named(name: str, metric: Metric, key: str) -> None:
    Task(name="rul", contract=CONTRACT, metrics={"loss": Metric(), "units": Metric()}).check()
    with pytest.raises(Impossible) as caught:
        Task(name="rul", contract=CONTRACT, metrics={name: metric}).check()
    assert caught.value.key == key


# --- measurements ----------------------------------------------------------------------------------


def test_a_measurement_is_charged_for_every_statistic_over_all_units() -> None:
    asked = (Statistic("a", 1.0, 4.0), Statistic("b", 9.0, 8.0), Statistic("c", 2.0, 4.0))
    found = Measurement("unit", 25, 1e-5, asked).events
    assert found == (Event("unit", 1.0, 4.0, 2), Event("unit", 1.0, 8.0, 1))


@pytest.mark.parametrize(
    ("change", "key"),
    [({"unit": "lot"}, "privacy.unit"), ({"statistics": ()}, "measurement"), ({"delta": 0.0}, "delta")],
)
def test_an_impossible_measurement_is_named(change: dict[str, object], key: str) -> None:
    good = Measurement("unit", 25, 1e-5, (Statistic("a", 1.0, 4.0),))
    with pytest.raises(UsageError, match=key):
        replace(good, **change)  # type: ignore[arg-type]
