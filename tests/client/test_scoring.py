"""A release's score: charged before the hold-out is read, bounded, noised, and following no decision."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interplant.client import bounded, deployment, gateway, holdout, scores, scoring, verdicts
from interplant.client import champion as pointers
from interplant.client.directory import PlantDirectory
from interplant.client.receiving import verify_release
from interplant.client.scores import Score
from interplant.core import config
from interplant.core.certificates import key_pem, make_key, write_key
from interplant.core.errors import Refusal
from interplant.core.release import Release
from interplant.core.schema import Privacy, Task, Window
from interplant.data import snapshots
from interplant.data.frames import Dataset
from interplant.data.repository import Repository
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Event

from .conftest import audited
from .federation import TASK, Federation, readings, settle

QUIET = 0.01
"""Noise that a test can see through, at an epsilon that no plant would pay."""

PRIVATE = replace(TASK, privacy=Privacy(unit="window"))


@pytest.fixture
def scoring_plant(plant: PlantDirectory, tmp_path: Path) -> PlantDirectory:
    """A plant that has a score told, and can pay."""
    write_key(plant.plant_key, key_pem(make_key()))
    settle(plant, release__report="score", release__score_noise=QUIET, privacy__epsilon=1e6)
    settings = plant.load()
    settings.data.declared_windows, settings.data.declared_units = 400, 24
    settings.policy.privacy.units = ["window", "unit"]
    plant.config.write_text(config.to_yaml(settings))
    return plant


def received(federation: Federation, name: str, shift: float, task: Task = PRIVATE) -> Release:
    folder = federation.deliver(federation.make(name, shift, task))
    plant = federation.plant
    return verify_release(folder, plant.release_public_key, plant.load().policy)


def charged(plant: PlantDirectory) -> list[tuple[Event, ...]]:
    return [one.events for one in Ledger(plant.ledger).entries() if one.kind == "reserve"]


def test_a_score_is_the_mean_loss_over_the_public_number_of_units_and_is_charged(
    federation: Federation, scoring_plant: PlantDirectory
) -> None:
    verdict = federation.try_out(federation.make("r-1", 0.1, PRIVATE))
    assert verdict.state == "active"
    score = scores.score_of(scoring_plant, "r-1")
    assert score is not None
    # 24 machines of 17 windows, each wrong by a tenth of the range; 400 windows are declared, a fifth of all
    # is held out: 100.
    assert score.value == pytest.approx(24 * 17 * 0.01 / 100.0, abs=0.001)
    assert charged(scoring_plant) == [(Event("window", 1.0, QUIET, 1),)]
    (entry,) = [one for one in Ledger(scoring_plant.ledger).entries() if one.kind == "reserve"]
    assert (entry.id, entry.run, entry.task) == (score.charge, "release", "wear")
    assert entry.id in {one.id for one in Ledger(scoring_plant.ledger).entries() if one.kind == "commit"}
    assert scoring_plant.receipt.exists()


def test_each_unit_adds_no_more_than_the_bound(federation: Federation, scoring_plant: PlantDirectory) -> None:
    """A release that is wrong by three ranges costs 9 a window, and tells 0.25."""
    federation.try_out(federation.make("r-1", 3.0, PRIVATE))
    score = scores.score_of(scoring_plant, "r-1")
    assert score is not None
    assert score.value == pytest.approx(24 * 17 * 0.25 / 100.0, abs=0.01)


def test_the_noise_is_that_of_the_charge(federation: Federation, scoring_plant: PlantDirectory) -> None:
    settle(scoring_plant, release__score_noise=8.0)
    release = received(federation, "r-1", 0.1)
    found = []
    snapshot = holdout.opened(scoring_plant)
    windows = holdout.score_windows(scoring_plant, snapshot, release.task)
    for _ in range(60):
        paid = scoring.pay(scoring_plant, release)
        assert paid is not None
        found.append(paid.tell(snapshot, lambda: windows).value)
    # A deviation of noise times bound over the public number; of 60 numbers it is met within a third.
    assert np.std(found) == pytest.approx(8.0 * 0.25 / 100.0, rel=1 / 3)
    assert set(charged(scoring_plant)) == {(Event("window", 1.0, 8.0, 1),)}


def test_the_charge_is_on_the_disk_before_the_hold_out_is_read(
    federation: Federation, scoring_plant: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    really = snapshots.load

    def load(*words: Any) -> Any:
        seen.append(len(charged(scoring_plant)))
        return really(*words)

    monkeypatch.setattr(snapshots, "load", load)
    federation.try_out(federation.make("r-1", 0.1, PRIVATE))
    assert seen
    assert min(seen) == 1


def test_a_machine_counts_once_where_machines_are_the_unit(
    federation: Federation, scoring_plant: PlantDirectory
) -> None:
    federation.try_out(federation.make("r-1", 0.1, replace(TASK, privacy=Privacy(unit="unit"))))
    score = scores.score_of(scoring_plant, "r-1")
    assert score is not None
    assert score.value == pytest.approx(24 * 0.01 / 6.0, abs=0.002)
    assert charged(scoring_plant) == [(Event("unit", 1.0, QUIET, 1),)]


def test_a_score_comes_whatever_the_trial_finds_and_does_not_follow_it(
    federation: Federation, scoring_plant: PlantDirectory
) -> None:
    """Champion, verdict and record of tries are decided exactly: the same release has the same score."""
    found = []
    for number, better_first in enumerate((False, True)):
        if better_first:
            assert federation.try_out(federation.make("r-0", 0.0, PRIVATE)).state == "active"
        verdict = federation.try_out(federation.make(f"r-{number + 1}", 0.1, PRIVATE))
        assert verdict.state == ("refused" if better_first else "active")
        score = scores.score_of(scoring_plant, f"r-{number + 1}")
        assert score is not None
        found.append(score.value)
        pointers_gone(scoring_plant)
    assert found[0] == pytest.approx(found[1], abs=0.001)


def pointers_gone(plant: PlantDirectory) -> None:
    plant.champion.unlink()
    assert pointers.champion(plant) is None


def test_where_nothing_can_be_summed_noise_alone_is_told(
    federation: Federation, scoring_plant: PlantDirectory
) -> None:
    """A hold-out that breaks its contract refuses the release; that there is no score would tell of it."""
    spoiled = readings(range(11, 35))
    spoiled["health"] = np.nan
    Repository(scoring_plant.data).snapshot(Dataset(readings(range(1, 7)), spoiled, simulated=True))
    verdict = federation.try_out(federation.make("r-1", 0.1, PRIVATE))
    assert (verdict.state, verdict.code) == ("refused", "contract")
    score = scores.score_of(scoring_plant, "r-1")
    assert score is not None
    assert abs(score.value) < 0.001
    assert len(charged(scoring_plant)) == 1


def told(plant: PlantDirectory, release: str) -> dict[str, Any]:
    """What the gateway logs of a release."""
    verdict = verdicts.verdict_of(plant, release)
    assert verdict is not None
    state, code = verdicts.report_for_coordinator(plant.load().policy, verdict)
    gateway.let_out_deployment(plant, release, state, code, scores.told(plant, release, state))
    return audited(plant)[-1]


@pytest.mark.parametrize(("report", "state"), [("nothing", "received"), ("verdict", "refused")])
def test_only_score_tells_a_score(
    federation: Federation, scoring_plant: PlantDirectory, report: str, state: str
) -> None:
    federation.try_out(federation.make("r-1", 0.6, PRIVATE))
    assert told(scoring_plant, "r-1")["state"] == "received"
    assert "score" in told(scoring_plant, "r-1")
    settle(scoring_plant, release__report=report)
    assert scores.told(scoring_plant, "r-1", "received") is None
    line = told(scoring_plant, "r-1")
    assert line["state"] == state
    assert "score" not in line
    federation.try_out(federation.make("r-2", 0.7, PRIVATE))
    assert scores.score_of(scoring_plant, "r-2") is None
    assert len(charged(scoring_plant)) == 1


def test_a_score_that_is_told_again_is_the_same_and_costs_nothing(
    federation: Federation, scoring_plant: PlantDirectory
) -> None:
    federation.try_out(federation.make("r-1", 0.1, PRIVATE))
    first, again = (told(scoring_plant, "r-1") for _ in range(2))
    assert first["score"] == again["score"]
    assert len(charged(scoring_plant)) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda plant: settle(plant, privacy__epsilon=1e-3),
        lambda plant: settle(plant, privacy__units=["unit"]),
        lambda plant: plant.ledger.write_bytes(b"no ledger"),
    ],
    ids=["budget spent", "unit not offered", "ledger damaged"],
)
def test_what_cannot_be_paid_is_not_told_and_the_trial_goes_on(
    federation: Federation, scoring_plant: PlantDirectory, spoil: Callable[[PlantDirectory], None]
) -> None:
    spoil(scoring_plant)
    assert federation.try_out(federation.make("r-1", 0.1, PRIVATE)).state == "active"
    assert scores.score_of(scoring_plant, "r-1") is None
    assert told(scoring_plant, "r-1").keys() == {"time", "what", "release", "state", "code"}


def test_a_task_that_is_not_private_has_no_score(
    federation: Federation, scoring_plant: PlantDirectory
) -> None:
    settle(scoring_plant, privacy__allow_none=True)
    open_ = replace(TASK, privacy=Privacy(mechanism="none"))
    assert federation.try_out(federation.make("r-1", 0.1, open_)).state == "active"
    assert scores.score_of(scoring_plant, "r-1") is None
    assert not scoring_plant.ledger.exists()


def test_a_task_cannot_come_back_with_other_questions(
    federation: Federation, scoring_plant: PlantDirectory
) -> None:
    """A release whose task asks for other windows than its rounds did has no score."""
    federation.try_out(federation.make("r-1", 0.1, PRIVATE))
    federation.try_out(federation.make("r-2", 0.1, replace(PRIVATE, window=Window(6))))
    assert scores.score_of(scoring_plant, "r-1") is not None
    assert scores.score_of(scoring_plant, "r-2") is None


@pytest.mark.parametrize(
    "score",
    [Score(0.1, "f" * 32), Score(0.1, ""), Score(float("nan"), "paid"), Score(1, "paid")],
    ids=["unknown charge", "no charge", "not finite", "no float"],
)
def test_the_gateway_holds_back_a_score_that_was_not_paid_for(
    federation: Federation, scoring_plant: PlantDirectory, score: Score
) -> None:
    federation.try_out(federation.make("r-1", 0.1, PRIVATE))
    own = scores.score_of(scoring_plant, "r-1")
    assert own is not None
    given = replace(score, charge=own.charge) if score.charge == "paid" else score
    with pytest.raises(Refusal) as caught:
        gateway.let_out_deployment(scoring_plant, "r-1", "received", "", given)
    assert caught.value.code == "gateway"
    assert audited(scoring_plant) == []


def test_the_gateway_lets_no_verdict_out_that_the_policy_keeps(plant: PlantDirectory) -> None:
    for state, code in (("active", ""), ("refused", "worse"), ("waiting", ""), ("withdrawn", "trial_worse")):
        for report in ("nothing", "score"):
            settle(plant, release__report=report)
            with pytest.raises(Refusal, match=r"policy\.release\.report"):
                gateway.let_out_deployment(plant, "r-1", state, code, None)
    gateway.let_out_deployment(plant, "r-1", "refused", "parity", None)
    gateway.let_out_deployment(plant, "r-1", "received", "", None)
    settle(plant, release__report="verdict")
    gateway.let_out_deployment(plant, "r-1", "refused", "worse", None)
    assert [line["code"] for line in audited(plant)] == ["parity", "", "worse"]


def test_an_engine_that_predicts_other_things_changes_no_score(
    federation: Federation, scoring_plant: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ONNX file is the coordinator's program: one unit could change what it predicts for all."""
    federation.try_out(federation.make("r-1", 0.1, PRIVATE))
    really = bounded.run

    def other(model: Path, arrays: Any, outputs: int, latency: float, **more: Any) -> Any:
        ran = really(model, arrays, outputs, latency, **more)
        return ran if len(arrays) > 1 else replace(ran, predictions=[0 * one for one in ran.predictions])

    monkeypatch.setattr(bounded, "run", other)
    deployment.try_release(scoring_plant, federation.deliver(federation.make("r-2", 0.1, PRIVATE)))
    first, second = (scores.score_of(scoring_plant, name) for name in ("r-1", "r-2"))
    assert first is not None
    assert second is not None
    assert first.value == pytest.approx(second.value, abs=0.001)
