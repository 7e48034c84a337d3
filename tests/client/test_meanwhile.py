"""Releases that are decided about while something else is under way, or after somebody has tidied up."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from interplant.client import champion as pointers
from interplant.client import deployment, gate, receiving, rollback, tally, verdicts
from interplant.client.directory import PlantDirectory
from interplant.client.trial import Watch
from interplant.core.errors import UsageError
from interplant.core.release import ReleaseRefused

from .conftest import edit
from .federation import Federation, settle
from .test_rollback import made_at


def serving(plant: PlantDirectory) -> str:
    now = pointers.champion(plant)
    assert now is not None
    return now.release


@pytest.fixture
def three(federation: Federation) -> PlantDirectory:
    """A plant that has served r-0, r-1 and r-2, in turn, and listens."""
    edit(federation.plant, lambda one: setattr(one.serving, "listen", "0"))
    settle(federation.plant, release__rollback="obey", release__margin=0.5)
    for number, shift in enumerate((0.2, 0.1, 0.05)):
        assert federation.try_out(federation.make(f"r-{number}", shift)).state == "active"
    return federation.plant


def test_what_is_called_back_while_it_is_fetched_never_serves(
    federation: Federation, three: PlantDirectory
) -> None:
    sent = federation.make("r-3", 0.0)
    shutil.copytree(sent, receiving.incoming(three, "r-3"), dirs_exist_ok=True)
    rollback.heed(three, "r-3", "r-2")
    with pytest.raises(ReleaseRefused) as caught:
        receiving.accept(three, "r-3")
    assert caught.value.code == "called_back"
    assert verdicts.untried(three) == []
    verdict = verdicts.verdict_of(three, "r-3")
    assert verdict is not None
    assert (verdict.state, verdict.code) == ("rolled_back", "called_back")


def test_a_fault_does_not_hide_that_a_release_was_called_back(
    federation: Federation, three: PlantDirectory
) -> None:
    federation.deliver(federation.make("r-3", 0.0))
    rollback.heed(three, "r-3", "r-2")
    assert deployment.record_fault(three, "r-3", "a fault").state == "rolled_back"


def test_a_release_is_held_against_the_champion_of_now(
    federation: Federation, three: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person goes back while the gate compares with what was the champion at its beginning."""
    settle(three, release__margin=0.05)
    folder = federation.deliver(federation.make("r-3", 0.049))
    held: list[str | None] = []
    really = gate.try_out

    def try_out(plant: PlantDirectory, release: object, against: str | None) -> object:
        held.append(against)
        found = really(plant, release, against)  # type: ignore[arg-type]
        if len(held) == 1:
            rollback.roll_back(plant)
        return found

    monkeypatch.setattr(gate, "try_out", try_out)
    deployment.try_release(three, folder)
    assert held == ["r-2", "r-1"]


def test_a_person_approves_nothing_that_was_held_against_another_champion(federation: Federation) -> None:
    plant = federation.plant
    settle(plant, release__margin=0.5)
    federation.try_out(federation.make("r-0", 0.2))
    settle(plant, release__approval="person", release__margin=0.05)
    for name, year, shift in (("r-1", 2025, 0.02), ("r-2", 2026, 0.15)):
        assert federation.try_out(made_at(federation, name, year, shift=shift)).state == "waiting"
    deployment.approve(plant, "r-1")
    with pytest.raises(UsageError, match="it was held against r-0, and r-1 serves now: it is tried again"):
        deployment.approve(plant, "r-2")
    assert serving(plant) == "r-1"
    assert verdicts.untried(plant) == ["r-2"]
    assert deployment.try_release(plant, plant.releases / "r-2").state == "refused"


def test_a_kill_before_the_probation_does_not_skip_it(
    federation: Federation, three: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    settle(three, release__probation__predictions=100)
    folder = federation.deliver(federation.make("r-3", 0.0))
    with monkeypatch.context() as patch:
        patch.setattr(pointers, "challenge", killed)
        with pytest.raises(Killed):
            deployment.try_release(three, folder)
    assert (serving(three), verdicts.untried(three)) == ("r-3", ["r-3"]), "it is tried again"
    assert deployment.try_release(three, folder).state == "active"
    second = pointers.challenger(three)
    assert second is not None
    assert (serving(three), second.release, second.stage) == ("r-3", "r-2", "probation")


def test_a_probation_falls_back_to_nothing_that_was_called_back(
    federation: Federation, three: PlantDirectory
) -> None:
    settle(three, release__probation__predictions=100, release__rollback="person")
    rollback.heed(three, "r-2", "")
    federation.try_out(federation.make("r-3", 0.0))
    second = pointers.challenger(three)
    assert second is not None
    assert second.release == "r-1"
    tally.note(three, replace(tally.of(three, second), champion_failures=1, requests=1))
    decision = Watch(three).look(0.0)
    assert decision is not None
    assert (decision.code, serving(three)) == ("probation_failed", "r-1")


def test_a_release_from_the_future_makes_no_other_one_old(federation: Federation) -> None:
    plant = federation.plant
    federation.try_out(federation.make("r-0", 0.2))
    with pytest.raises(ReleaseRefused, match="has not come yet"):
        federation.deliver(made_at(federation, "r-1", 2099, shift=0.0))
    refused = federation.try_out(made_at(federation, "r-2", 2026, shift=0.9))
    assert refused.state == "refused"
    assert federation.deliver(made_at(federation, "r-3", 2025, shift=0.0)).name == "r-3"
    assert serving(plant) == "r-0"


def test_going_back_asks_no_policy(three: PlantDirectory) -> None:
    settle(three, tasks=["another"], models=["another"])
    assert rollback.roll_back(three, reason="alarms at night").release == "r-1"
    verdict = verdicts.verdict_of(three, "r-2")
    assert verdict is not None
    assert verdict.sentence.endswith("to r-1: alarms at night")


def test_what_lies_about_in_the_folder_of_releases_stops_nothing(
    federation: Federation, three: PlantDirectory
) -> None:
    (three.releases / "r-2 (copy)").mkdir()
    (three.releases / "r-2 copy.verdict.json").write_text("{}")
    (three.releases / "r-old.verdict.json").write_text("")
    (three.releases / "r-older.verdict.json").mkdir()
    assert federation.try_out(federation.make("r-3", 0.0)).state == "active"
    assert set(dict(deployment.standing(three))) == {"r-0", "r-1", "r-2", "r-3"}
    with verdicts.deciding(three):
        assert rollback.mend(three) is False


def test_a_challenger_whose_folder_is_gone_is_withdrawn(
    federation: Federation, three: PlantDirectory
) -> None:
    settle(three, release__trial__predictions=100)
    assert federation.try_out(federation.make("r-3", 0.0)).state == "shadow"
    shutil.rmtree(three.releases / "r-3")
    decision = Watch(three).look(0.0)
    assert decision is not None
    assert (decision.what, decision.code) == ("out", "trial_failed")
    assert (serving(three), pointers.challenger(three)) == ("r-2", None)


def test_a_champion_whose_folder_is_gone_refuses_no_release_for_good(
    federation: Federation, three: PlantDirectory, tmp_path: Path
) -> None:
    settle(three, release__trial__predictions=100)
    shutil.move(three.releases / "r-2", tmp_path / "kept")
    folder = federation.deliver(federation.make("r-3", 0.0))
    with pytest.raises((UsageError, ReleaseRefused)):
        deployment.try_release(three, folder)
    shutil.move(tmp_path / "kept", three.releases / "r-2")
    assert verdicts.untried(three) == ["r-3"]
    assert deployment.try_release(three, folder).state == "shadow"
