"""Whether readings fit a contract, told under differential privacy: charged once, remembered, never exact."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from interplant.client import planning, quality
from interplant.client.directory import PlantDirectory
from interplant.client.planning import forecast_at
from interplant.client.quality import question
from interplant.client.round_training import Bench, train_round
from interplant.core.errors import Refusal
from interplant.core.receipt import from_json
from interplant.core.schema import PlantData, PrivacyPolicy, Task
from interplant.data.frames import Dataset
from interplant.data.repository import Repository
from interplant.privacy import accounting
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Plan, Statistic
from interplant.privacy.statistics import noised
from interplant.privacy.stream import Stream

from .conftest import START, TASK, dataset, edit


@pytest.fixture
def asking(ready: PlantDirectory, monkeypatch: pytest.MonkeyPatch) -> PlantDirectory:
    """A plant that bills the answer, with too little noise to hide it from a test, the same each time.

    Fresh noise would refuse good data by chance once in forty times.
    """
    monkeypatch.setattr(quality, "Stream", lambda: Stream(b"a"))

    def change(plant: Any) -> None:
        plant.policy.privacy.data_refusals, plant.policy.privacy.refusal_noise = "billed", 0.05
        plant.policy.privacy.epsilon = 1e6

    edit(ready, change)
    return ready


def go(plant: PlantDirectory, task: Task = TASK, number: int = 1, bench: Bench | None = None) -> Any:
    return train_round(plant, bench or Bench(), "run-1", number, task, START)


def told(plant: PlantDirectory) -> str:
    """What a round comes to: a refusal's code, or an update."""
    try:
        update = go(plant).update
    except Refusal as refusal:
        return refusal.code
    return "finite" if all(np.isfinite(array).all() for array in update.values()) else "not finite"


def charged(plant: PlantDirectory) -> list[str]:
    """What was charged, oldest first: the names of statistics, and training."""
    plans = [entry.plan for entry in Ledger(plant.ledger).entries() if entry.kind == "reserve"]
    return [
        "training" if isinstance(plan, Plan) else ",".join(one.name for one in plan.statistics)
        for plan in plans
        if plan
    ]


def spoiled(share: float, value: float = np.nan) -> Dataset:
    """The data, of whose readings such a share, those of the first machines, is bad."""
    made = dataset()
    made.train.loc[: int(share * len(made.train)) - 1, "health"] = value
    return made


def remembered(plant: PlantDirectory) -> list[bool]:
    return [answer["fits"] for answer in json.loads(plant.answers.read_text()).values()]


def keep(plant: PlantDirectory, data: Dataset) -> None:
    Repository(plant.data).snapshot(data)


def test_good_data_trains_and_the_answer_is_charged_once(asking: PlantDirectory) -> None:
    bench = Bench()
    go(asking, bench=bench)
    go(asking, number=2, bench=bench)
    go(asking, number=3)  # another process remembers it from disk
    assert charged(asking) == ["contract", "training", "training", "training"]
    assert remembered(asking) == [True]


def test_bad_data_is_refused_again_and_again_for_one_charge(asking: PlantDirectory) -> None:
    keep(asking, spoiled(0.5))
    for _ in range(3):
        with pytest.raises(Refusal, match="clearly more than 1%") as caught:
            go(asking)
        assert caught.value.code == "contract"
    assert charged(asking) == ["contract"]
    assert remembered(asking) == [False]


@pytest.mark.parametrize("value", [np.nan, 1e9])
def test_one_bad_reading_is_no_refusal_where_noise_hides_it(asking: PlantDirectory, value: float) -> None:
    """Declared public, a single reading that is not finite refuses the round: that answer tells of it."""
    edit(asking, lambda plant: setattr(plant.policy.privacy, "refusal_noise", 8.0))
    keep(asking, spoiled(1 / 36, value))
    assert told(asking) == "finite"
    assert charged(asking) == ["contract", "training"]


def test_the_charge_comes_before_the_answer(asking: PlantDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    really = quality.noised

    def looked(*words: Any) -> float:
        seen.append(charged(asking))
        return really(*words)

    monkeypatch.setattr(quality, "noised", looked)
    go(asking)
    assert seen == [["contract"]]


def test_a_budget_that_does_not_cover_the_answer_refuses_before_it(
    asking: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(asking, lambda plant: setattr(plant.policy.privacy, "epsilon", 50.0))
    monkeypatch.setattr(quality, "noised", lambda *_: pytest.fail("the data was asked"))
    with pytest.raises(Refusal) as caught:
        go(asking)
    assert caught.value.code == "budget_spent"
    assert charged(asking) == []
    assert not asking.answers.exists()


def test_another_snapshot_or_contract_is_another_question(asking: PlantDirectory) -> None:
    go(asking)
    keep(asking, dataset(machines=4))
    go(asking, number=2)
    wider = replace(TASK.contract, sensors={"health": replace(TASK.contract.sensors["health"], high=2.0)})
    go(asking, replace(TASK, contract=wider), number=3)
    assert charged(asking) == ["contract", "training"] * 3


def test_answers_that_were_lost_are_charged_anew(asking: PlantDirectory) -> None:
    go(asking)
    asking.answers.write_text("{")
    with pytest.raises(Refusal, match=r"answers\.json is damaged"):
        go(asking, number=2)
    asking.answers.unlink()
    go(asking, number=2)
    assert charged(asking) == ["contract", "training", "contract", "training"]


def test_declared_public_nothing_is_charged_for_the_answer(ready: PlantDirectory) -> None:
    go(ready)
    assert charged(ready) == ["training"]
    keep(ready, spoiled(1 / 36))
    with pytest.raises(Refusal, match="not a finite number"):
        go(ready, number=2)


def test_the_question_is_one_number_to_which_a_unit_adds_its_share() -> None:
    plan = Plan.of(TASK, PlantData(declared_windows=100))
    policy = PrivacyPolicy(refusal_noise=3.0)
    asked = question(plan, policy)
    assert asked.statistics == (Statistic("contract", 1.0, 3.0),)
    assert (asked.unit, asked.records) == ("window", 100)


def test_noise_alone_hardly_ever_refuses(asking: PlantDirectory) -> None:
    """Two deviations above the limit: one plant in forty at the first question, none after it."""
    policy = PrivacyPolicy(refusal_noise=8.0)
    plan = Plan.of(TASK, PlantData(declared_windows=100))
    (one,) = question(plan, policy).statistics
    stream = Stream(b"refusals")
    found = np.array([noised(np.zeros(100), one, stream) for _ in range(4000)])
    limit = 0.01 * 100 + quality.DEVIATIONS * 8.0
    assert 0.005 < (found > limit).mean() < 0.035


def test_a_forecast_counts_an_answer_that_is_still_owed(
    asking: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "NOISES", (1.0,))  # the first two figures for the task's own are looked at
    monkeypatch.setattr(planning, "ROUNDS", (1, 2))
    edit(asking, lambda plant: setattr(plant.policy.privacy, "refusal_noise", 8.0))
    first = forecast_at(asking, TASK).choices[0].costs[0]
    go(asking)
    assert Ledger(asking.ledger).spent(None, 1e-5).epsilon == pytest.approx(first.epsilon)
    once, twice = forecast_at(asking, TASK).choices[0].costs[:2]
    go(asking, number=2)
    assert Ledger(asking.ledger).spent(None, 1e-5).epsilon == pytest.approx(once.epsilon)
    assert once.epsilon < twice.epsilon


def test_a_ledger_put_back_after_a_refusal_is_noticed(asking: PlantDirectory) -> None:
    """No update, and so no receipt of a round, ever comes of data that is refused."""
    keep(asking, spoiled(0.5))
    Ledger(asking.ledger)
    before = asking.ledger.read_bytes()
    assert told(asking) == "contract"
    asking.ledger.write_bytes(before)
    assert told(asking) == "ledger_behind"
    assert charged(asking) == []


def test_a_refusal_that_was_charged_leaves_a_receipt(asking: PlantDirectory) -> None:
    keep(asking, spoiled(0.5))
    assert told(asking) == "contract"
    assert asking.receipt.exists()
    receipt = from_json(asking.receipt.read_text())
    assert receipt.entries == Ledger(asking.ledger).end().entries
    assert [kind[0] for kinds in receipt.charges().values() for kind in kinds] == ["window"]


def test_an_answer_is_worth_nothing_without_its_charge(asking: PlantDirectory) -> None:
    go(asking)
    for path in (asking.ledger, asking.receipt):
        path.unlink()
    assert told(asking) == "ledger_behind"


def test_another_repository_is_another_account_and_another_question(asking: PlantDirectory) -> None:
    go(asking)
    Repository.create(asking.path / "other", asking.path / "elsewhere").snapshot(dataset())
    edit(asking, lambda plant: setattr(plant.data, "repository", "other"))
    go(asking, number=2)
    assert charged(asking) == ["contract", "training"] * 2


@pytest.mark.parametrize("column", ["machine", "cycle", "health"])
def test_one_cell_that_is_no_number_decides_nothing(asking: PlantDirectory, column: str) -> None:
    """It makes the whole column text, or decimal numbers: an exact refusal for that would tell of it."""
    edit(asking, lambda plant: setattr(plant.policy.privacy, "refusal_noise", 8.0))
    made = dataset()
    made.train[column] = made.train[column].astype(object)
    made.train.loc[3, column] = None if column == "machine" else "n/a"
    if column != "machine":
        made.train[column] = made.train[column].astype(str)
    Repository(asking.data).snapshot(made)
    assert told(asking) == "finite"


def test_a_budget_that_covers_only_one_of_the_two_pays_for_none(asking: PlantDirectory) -> None:
    edit(asking, lambda plant: setattr(plant.policy.privacy, "refusal_noise", 2.0))
    plan = Plan.of(TASK, PlantData(declared_windows=100))
    answer = question(plan, PrivacyPolicy(refusal_noise=2.0))
    both = accounting.spent([*plan.events, *answer.events], 1e-5).epsilon
    alone = max(accounting.spent(one.events, 1e-5).epsilon for one in (plan, answer))
    edit(asking, lambda plant: setattr(plant.policy.privacy, "epsilon", (both + alone) / 2))
    assert told(asking) == "budget_spent"
    assert charged(asking) == []
