"""Going back: a person's word, the federation's, and what a kill in the middle of it leaves."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from interplant.client import champion as pointers
from interplant.client import deployment, history, receiving, rollback, verdicts
from interplant.client.directory import PlantDirectory
from interplant.client.verdicts import Verdict
from interplant.core.errors import InterplantError, UsageError
from interplant.core.release import ReleaseRefused

from .federation import Federation, settle
from .kills import killed


@pytest.fixture
def plant(plant: PlantDirectory) -> PlantDirectory:
    """A plant that heeds the federation, and takes any model that is not worse than the last by half."""
    settle(plant, release__rollback="obey", release__margin=0.5)
    return plant


@pytest.fixture
def three(federation: Federation) -> PlantDirectory:
    """A plant that has served r-0, r-1 and r-2, in turn."""
    for number, shift in enumerate((0.2, 0.1, 0.05)):
        assert federation.try_out(federation.make(f"r-{number}", shift)).state == "active"
    return federation.plant


def serving(plant: PlantDirectory) -> tuple[str, str | None]:
    champion = pointers.champion(plant)
    assert champion is not None
    return champion.release, champion.previous


def states(plant: PlantDirectory) -> dict[str, str]:
    return {name: one.state for name, one in deployment.standing(plant)}


# --- a person --------------------------------------------------------------------------------------


def test_one_alone_is_active_and_the_others_were(three: PlantDirectory) -> None:
    assert states(three) == {"r-0": "superseded", "r-1": "superseded", "r-2": "active"}
    assert history.line_of_champions(three) == ["r-0", "r-1", "r-2"]


def test_a_person_goes_back_step_by_step_to_what_was_good(three: PlantDirectory) -> None:
    assert rollback.roll_back(three).release == "r-1"
    assert serving(three) == ("r-1", "r-0")
    assert states(three) == {"r-0": "superseded", "r-1": "active", "r-2": "rolled_back"}
    rollback.roll_back(three)
    assert serving(three) == ("r-0", None)
    with pytest.raises(UsageError, match="an earlier release to go back to, found none"):
        rollback.roll_back(three)
    assert states(three) == {"r-0": "active", "r-1": "rolled_back", "r-2": "rolled_back"}


def test_a_person_may_name_the_release_also_one_that_was_left(three: PlantDirectory) -> None:
    rollback.roll_back(three, "r-0")
    assert serving(three) == ("r-0", None)
    rollback.roll_back(three, "r-2")
    assert serving(three) == ("r-2", "r-0"), "forward again: what was left is better than nothing"
    left = verdicts.verdict_of(three, "r-0")
    assert left is not None
    assert (left.state, left.code, left.to) == ("rolled_back", "rolled_back", "r-2")


def test_what_never_served_is_not_gone_back_to(federation: Federation, three: PlantDirectory) -> None:
    assert federation.try_out(federation.make("r-3", 0.5)).state == "refused"
    for name, said in (("r-3", "expected one that has served here"), ("r-2", "another than the one")):
        with pytest.raises(UsageError, match=said):
            rollback.roll_back(three, name)
    with pytest.raises(UsageError):
        rollback.roll_back(three, "../r-1")
    assert serving(three) == ("r-2", "r-1")


def test_what_does_not_verify_any_more_is_not_gone_back_to(three: PlantDirectory) -> None:
    (three.releases / "r-1" / "model.onnx").write_bytes(b"other")
    before = states(three)
    with pytest.raises(ReleaseRefused, match=r"model\.onnx"):
        rollback.roll_back(three)
    assert (serving(three), states(three)) == (("r-2", "r-1"), before)
    assert rollback.roll_back(three, "r-0").release == "r-0"


def test_a_release_that_was_left_is_not_taken_again_by_itself(
    federation: Federation, three: PlantDirectory
) -> None:
    rollback.roll_back(three)
    assert verdicts.untried(three) == []
    federation.try_out(federation.root / "sent" / "r-2")
    assert serving(three)[0] == "r-1"
    assert states(three)["r-2"] == "rolled_back"


def test_each_step_is_on_record_with_its_reason_for_the_plants_user_only(
    federation: Federation, three: PlantDirectory
) -> None:
    federation.try_out(federation.make("r-3", 0.5))
    rollback.roll_back(three)
    steps = [(step.release, step.state, step.code) for step in history.steps(three)]
    assert steps == [
        ("r-0", "active", ""),
        ("r-1", "active", ""),
        ("r-2", "active", ""),
        ("r-3", "refused", "worse"),
        ("r-2", "rolled_back", "rolled_back"),
        ("r-1", "active", ""),
    ]
    assert history.steps(three)[3].figures["rmse"] == pytest.approx(10.0, abs=1e-3)
    assert three.release_history.stat().st_mode & 0o077 == 0


def test_a_torn_line_of_the_record_spoils_no_other(three: PlantDirectory) -> None:
    whole = history.steps(three)
    with three.release_history.open("ab") as file:
        file.write(b'{"at": "2025')
    assert history.steps(three) == whole
    rollback.roll_back(three)
    assert history.steps(three)[: len(whole)] == whole
    assert [step.release for step in history.steps(three)[len(whole) :]] == ["r-2", "r-1"]


def test_a_plant_that_kept_no_record_before_knows_the_one_before(three: PlantDirectory) -> None:
    three.release_history.unlink()
    assert rollback.roll_back(three).release == "r-1"


@pytest.mark.parametrize("spoilt", ["", "{}", '{"release": "r-2"'])
@pytest.mark.parametrize(
    ("to", "previous", "left"), [("r-2", "r-1", "active"), ("r-1", "r-0", "rolled_back")]
)
def test_a_spoilt_pointer_is_written_anew_for_what_has_served(
    federation: Federation, three: PlantDirectory, spoilt: str, to: str, previous: str, left: str
) -> None:
    assert federation.try_out(federation.make("r-3", 0.5)).state == "refused"
    three.champion.write_text(spoilt)
    for name in (None, "r-3"):
        with pytest.raises(InterplantError, match=f"`interplant release rollback r-2 --plant {three.path}`"):
            rollback.roll_back(three, name)
    assert rollback.roll_back(three, to, "a disk fault").release == to
    assert serving(three) == (to, previous)
    assert (states(three)[to], states(three)["r-2"]) == ("active", left)
    assert history.steps(three)[-1].sentence.endswith("a disk fault")
    assert not rollback.mend(three)


def test_a_spoilt_pointer_stays_where_the_release_does_not_verify(three: PlantDirectory) -> None:
    (three.releases / "r-1" / "model.onnx").write_bytes(b"other")
    three.champion.write_text("{")
    before = history.steps(three)
    with pytest.raises(ReleaseRefused, match=r"model\.onnx"):
        rollback.roll_back(three, "r-1")
    assert (three.champion.read_text(), history.steps(three)) == ("{", before)


# --- the federation --------------------------------------------------------------------------------


def test_the_federations_word_is_obeyed_where_the_policy_says_so(three: PlantDirectory) -> None:
    verdict = rollback.heed(three, "r-2", "r-1")
    assert verdict is not None
    assert (verdict.state, verdict.code) == ("rolled_back", "called_back")
    assert serving(three) == ("r-1", "r-0")
    assert rollback.heed(three, "r-2", "r-1") is None, "it is sent again with each connection"
    rollback.roll_back(three, "r-2")
    assert rollback.heed(three, "r-2", "r-1") is None, "a person has decided since"
    assert serving(three)[0] == "r-2"


def test_without_a_goal_the_plants_own_good_release_before_serves(three: PlantDirectory) -> None:
    rollback.heed(three, "r-2", "")
    assert serving(three) == ("r-1", "r-0")


def test_where_a_person_decides_the_word_is_put_to_one(three: PlantDirectory) -> None:
    settle(three, release__rollback="person")
    verdict = rollback.heed(three, "r-2", "r-1")
    assert verdict is not None
    assert (verdict.state, verdict.code) == ("active", "rollback_asked")
    assert f"`interplant release rollback r-1 --plant {three.path}` does it" in verdict.sentence
    assert serving(three) == ("r-2", "r-1")
    assert rollback.heed(three, "r-2", "r-1") is None


@pytest.mark.parametrize("broken", [False, True], ids=["never served", "changed since"])
def test_no_word_leads_to_what_has_not_served_or_does_not_verify(
    federation: Federation, three: PlantDirectory, broken: bool
) -> None:
    to = "r-1"
    if broken:
        (three.releases / "r-1" / "model.onnx").write_bytes(b"other")
    else:
        federation.try_out(federation.make("r-3", 0.5))
        to = "r-3"
    verdict = rollback.heed(three, "r-2", to)
    assert verdict is not None
    assert (verdict.state, verdict.code) == ("active", "never_served")
    assert serving(three) == ("r-2", "r-1")


def test_what_is_called_back_before_it_serves_never_does(
    federation: Federation, three: PlantDirectory
) -> None:
    settle(three, release__approval="person")
    assert federation.try_out(federation.make("r-3", 0.04)).state == "waiting"
    for name in ("r-3", "r-4"):
        verdict = rollback.heed(three, name, "r-2")
        assert verdict is not None
        assert (verdict.state, verdict.code) == ("rolled_back", "called_back")
    with pytest.raises(UsageError, match="it is rolled_back"):
        deployment.approve(three, "r-3")
    with pytest.raises(ReleaseRefused):
        federation.deliver(federation.make("r-4", 0.04))
    assert serving(three) == ("r-2", "r-1")
    assert rollback.heed(three, "r-1", "r-0") is None, "it serves no more"


# --- keys ---------------------------------------------------------------------------------------------


def test_what_a_revoked_key_has_signed_is_not_taken_but_what_has_served_can_serve_again(
    federation: Federation, three: PlantDirectory
) -> None:
    stolen = federation.make("r-3", 0.01)
    late = federation.make("r-4", 0.01)
    federation.deliver(late)
    federation.revoke_key()
    with pytest.raises(ReleaseRefused) as caught:
        federation.deliver(stolen)
    assert caught.value.code == "revoked_key"
    verdict = deployment.try_release(three, three.releases / "r-4")
    assert (verdict.state, verdict.code) == ("refused", "revoked_key"), "it came before, and has not served"
    assert rollback.roll_back(three).release == "r-1"
    assert federation.try_out(federation.make("r-5", 0.01)).state == "active"


# --- older releases --------------------------------------------------------------------------------


def made_at(federation: Federation, name: str, year: int, shift: float, month: int = 5) -> Path:
    """A release with another date, signed like the others."""
    folder = federation.make(name, shift)
    path = folder / "lineage.json"
    path.write_text(path.read_text().replace("2025-05-01", f"{year}-{month:02}-01"))
    federation.sign_again(folder)
    return folder


def test_what_never_served_here_comes_once_the_champion_is_called_back(
    federation: Federation, three: PlantDirectory
) -> None:
    """The plant was away for the good release, and took the bad one after it."""
    for name in ("r-0", "r-1"):
        shutil.rmtree(three.releases / name)
    good = made_at(federation, "r-good", 2024, shift=0.01)
    settle(three, release__rollback="obey")
    with pytest.raises(ReleaseRefused):
        federation.deliver(good)
    verdict = rollback.heed(three, "r-2", "r-good")
    assert verdict is not None
    assert verdict.code == "never_served"
    assert federation.try_out(good).state == "active"
    assert serving(three)[0] == "r-good"


def test_what_the_federation_called_back_is_not_gone_back_to(
    federation: Federation, three: PlantDirectory
) -> None:
    settle(three, release__rollback="person")
    verdict = rollback.heed(three, "r-2", "r-1")
    assert verdict is not None
    assert (verdict.state, verdict.code) == ("active", "rollback_asked")
    assert federation.try_out(federation.make("r-3", 0.04)).state == "active"
    assert rollback.roll_back(three).release == "r-1"


def test_an_older_release_that_is_sent_as_new_is_refused(
    federation: Federation, three: PlantDirectory
) -> None:
    for name in ("r-old", "r-older"):
        folder = made_at(federation, name, 2024, shift=0.01)
        with pytest.raises(ReleaseRefused) as caught:
            federation.deliver(folder)
        assert caught.value.code == "older"
        assert (three.releases / name).exists(), "whoever fetched it again later would tell what serves"
        verdict = verdicts.verdict_of(three, name)
        assert verdict is not None
        assert (verdict.state, verdict.code) == ("refused", "older")
    policy = three.load().policy
    refused = Verdict("refused", "older", "")
    assert verdicts.report_for_coordinator(policy, refused) == ("received", ""), "it depends on what came"
    assert serving(three) == ("r-2", "r-1")


@pytest.fixture
def away(federation: Federation, three: PlantDirectory) -> PlantDirectory:
    """The plant serves r-3, and was away for r-good, which is older, and r-old, older than all."""
    assert federation.try_out(made_at(federation, "r-3", 2026, shift=0.02)).state == "active"
    for name, year in (("r-good", 2025), ("r-old", 2024)):
        with pytest.raises(ReleaseRefused):
            federation.deliver(made_at(federation, name, year, shift=0.01, month=9))
    assert verdicts.untried(three) == []
    return three


def test_what_was_refused_for_its_age_is_tried_once_the_newer_one_is_left(away: PlantDirectory) -> None:
    rollback.roll_back(away)
    assert verdicts.untried(away) == ["r-good"]
    assert deployment.try_release(away, away.releases / "r-good").state == "active"
    assert states(away)["r-old"] == "refused"


def test_a_person_is_told_of_what_can_be_gone_back_to(federation: Federation, away: PlantDirectory) -> None:
    settle(away, release__rollback="person")
    verdict = rollback.heed(away, "r-3", "r-good")
    assert verdict is not None
    assert f"`interplant release rollback r-2 --plant {away.path}` does it" in verdict.sentence
    assert verdicts.untried(away) == ["r-good"], "the champion is called back: nothing is old beside it"


def test_a_person_is_told_that_nothing_served_before(federation: Federation, plant: PlantDirectory) -> None:
    settle(plant, release__rollback="person")
    federation.try_out(federation.make("r-0", 0.2))
    verdict = rollback.heed(plant, "r-0", "r-good")
    assert verdict is not None
    assert verdict.sentence.endswith(
        "none has served here before it: it serves until another passes the gate"
    )


def test_older_than_what_was_called_back_is_not_old(federation: Federation, three: PlantDirectory) -> None:
    federation.deliver(made_at(federation, "r-3", 2026, shift=0.01))
    between = made_at(federation, "r-4", 2025, shift=0.01, month=9)
    with pytest.raises(ReleaseRefused):
        federation.deliver(between)
    rollback.heed(three, "r-3", "r-2")
    shutil.rmtree(receiving.incoming(three, "r-4"))
    assert federation.deliver(between).name == "r-4"


def test_a_release_of_another_task_makes_none_old(federation: Federation, three: PlantDirectory) -> None:
    from .federation import TASK

    settle(three, tasks=["wear", "heat"])
    other = federation.make("r-3", task=replace(TASK, name="heat"))
    path = other / "lineage.json"
    path.write_text(path.read_text().replace("2025-05-01", "2024-05-01"))
    federation.sign_again(other)
    assert federation.deliver(other).name == "r-3"


# --- kills -----------------------------------------------------------------------------------------

KILLED = killed(("fsync", "replace", "unlink", "write"), "rollback.roll_back(plant)")


def test_a_kill_at_any_step_of_a_rollback_leaves_a_model_and_is_mended(
    three: PlantDirectory, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    seen: list[str] = []
    for step in range(60):
        place = PlantDirectory(tmp_path / "killed" / "north")
        shutil.copytree(three.path, place.path)
        command = [sys.executable, "-c", KILLED, str(place.path), str(step)]
        code = subprocess.run(command, env=environment, check=False).returncode
        assert serving(place)[0] in ("r-1", "r-2")
        decided = any(one.state == "rolled_back" for _, one in verdicts.verdicts(place))
        with verdicts.deciding(place):
            rollback.mend(place)
            assert rollback.mend(place) is False
        now, _ = serving(place)
        assert now == ("r-1" if decided else "r-2"), "what was decided is done, and nothing else"
        assert states(place)[now] == "active"
        assert history.line_of_champions(place)[-1] == now
        seen.append(now)
        shutil.rmtree(place.path)
        if code == 0:
            break
    assert code == 0
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"r-1", "r-2"}
