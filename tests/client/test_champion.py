"""Two pointers say what answers at a plant; nothing, a kill least of all, leaves it without a model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from interplant.client import champion as pointers
from interplant.client.champion import CANARY, SHADOW, Challenger, Champion
from interplant.client.directory import PlantDirectory
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import write_atomic
from interplant.core.release import ReleaseRefused

from .federation import Federation
from .kills import killed


@pytest.fixture
def three(federation: Federation) -> PlantDirectory:
    """A plant that serves r-1, went there from r-0, and has r-2 too."""
    for number in range(3):
        federation.deliver(federation.make(f"r-{number}", 0.1))
    pointers.activate(federation.plant, "r-0")
    pointers.activate(federation.plant, "r-1")
    return federation.plant


def now(plant: PlantDirectory) -> tuple[str, str | None]:
    champion = pointers.champion(plant)
    assert champion is not None
    return champion.release, champion.previous


def test_before_the_first_release_nothing_answers(plant: PlantDirectory) -> None:
    assert pointers.champion(plant) is None
    assert pointers.challenger(plant) is None
    pointers.withdraw(plant)
    with pytest.raises(UsageError, match="an earlier release to go back to, found none"):
        pointers.roll_back(plant)


def test_a_champion_knows_the_one_before(three: PlantDirectory) -> None:
    assert now(three) == ("r-1", "r-0")
    before = pointers.champion(three)
    assert pointers.activate(three, "r-1") == before, "activating it again changes nothing"


def test_a_challenger_answers_beside_one_champion(three: PlantDirectory) -> None:
    made = pointers.challenge(three, "r-2", CANARY, 0.25)
    assert made == Challenger("r-2", CANARY, made.since, 0.25, "r-1")
    assert pointers.challenger(three) == made
    assert pointers.challenge(three, "r-0", SHADOW) == pointers.challenger(three)
    pointers.withdraw(three)
    assert pointers.challenger(three) is None
    assert now(three) == ("r-1", "r-0")


def test_with_another_champion_it_is_a_challenger_no_more(three: PlantDirectory) -> None:
    pointers.challenge(three, "r-2", SHADOW)
    kept = three.challenger.read_bytes()
    pointers.activate(three, "r-2")
    assert pointers.challenger(three) is None
    assert not three.challenger.exists()
    three.challenger.write_bytes(kept)  # as a kill between the two steps leaves it
    assert pointers.challenger(three) is None
    pointers.roll_back(three, "r-0")
    three.challenger.write_bytes(kept)
    assert pointers.challenger(three) is None


def test_the_champion_cannot_challenge_itself(three: PlantDirectory) -> None:
    with pytest.raises(UsageError, match="another champion to answer beside"):
        pointers.challenge(three, "r-1", SHADOW)
    three.champion.unlink()
    with pytest.raises(UsageError):
        pointers.challenge(three, "r-1", SHADOW)


def test_going_back_leaves_no_way_back_to_what_was_left(three: PlantDirectory) -> None:
    back = pointers.roll_back(three)
    assert (back.release, back.previous) == ("r-0", None)
    with pytest.raises(UsageError):
        pointers.roll_back(three)
    pointers.activate(three, "r-2")
    assert pointers.roll_back(three, "r-1", previous="r-0").previous == "r-0"


@pytest.mark.parametrize("move", ["activate", "challenge", "roll_back"])
def test_what_does_not_verify_moves_no_pointer(three: PlantDirectory, move: str) -> None:
    pointers.challenge(three, "r-0", SHADOW)
    before = (pointers.champion(three), pointers.challenger(three))
    (three.releases / "r-2" / "model.onnx").write_bytes(b"other")
    words = ("r-2", SHADOW) if move == "challenge" else ("r-2",)
    with pytest.raises(ReleaseRefused, match=r"model\.onnx"):
        getattr(pointers, move)(three, *words)
    with pytest.raises(ReleaseRefused):
        getattr(pointers, move)(three, "r-9", *words[1:])
    with pytest.raises(UsageError):
        getattr(pointers, move)(three, "../sent", *words[1:])
    assert (pointers.champion(three), pointers.challenger(three)) == before


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "{", '{"release": 7, "previous": null, "since": "x"}', '{"release": "r", "since": "x"}'],
)
def test_a_pointer_that_was_edited_is_named(three: PlantDirectory, content: str) -> None:
    write_atomic(three.champion, content)
    with pytest.raises(InterplantError, match=r"champion\.json: expected release, previous and since"):
        pointers.champion(three)


def test_a_challenger_that_was_edited_is_named(three: PlantDirectory) -> None:
    pointers.challenge(three, "r-2", CANARY, 0.5)
    edited = json.loads(three.challenger.read_text()) | {"share": "all"}
    three.challenger.write_text(json.dumps(edited))
    with pytest.raises(InterplantError, match="share cannot be 'all'; remove it, which ends the trial"):
        pointers.challenger(three)


KILLED = killed(
    ("open", "fsync", "replace", "unlink", "close"),
    "getattr(champion, sys.argv[3])(plant, *sys.argv[4:])",
    before="champion._verify(plant, sys.argv[4], True)",
)


@pytest.mark.parametrize(
    ("move", "words", "after"),
    [
        ("activate", ["r-2"], ("r-2", None)),
        ("roll_back", ["r-0"], ("r-0", None)),
        ("challenge", ["r-2", CANARY], ("r-1", "r-2")),
    ],
    ids=["promotion", "rollback", "challenge"],
)
def test_a_kill_at_any_step_leaves_the_old_or_the_new(
    three: PlantDirectory, tmp_path: Path, move: str, words: list[str], after: tuple[str, str | None]
) -> None:
    pointers.challenge(three, "r-0" if words[0] == "r-2" else "r-2", SHADOW)
    old = pointers.challenger(three)
    assert old is not None
    states: list[tuple[str, str | None]] = []
    for step in range(60):
        place = PlantDirectory(tmp_path / "killed" / "north")
        shutil.copytree(three.path, place.path)
        command = [sys.executable, "-c", KILLED, str(place.path), str(step), move, *words]
        code = subprocess.run(command, check=False).returncode
        champion, challenger = pointers.champion(place), pointers.challenger(place)
        assert isinstance(champion, Champion)
        states.append((champion.release, challenger.release if challenger else None))
        # What a killed step left does not stand in the way of the next try.
        if states[-1] != after:
            getattr(pointers, move)(place, *words)
        champion, challenger = pointers.champion(place), pointers.challenger(place)
        assert champion is not None
        assert (champion.release, challenger.release if challenger else None) == after
        shutil.rmtree(place.path)
        if code == 0:
            break
        assert code == -9
    assert code == 0, "the move has fewer steps than were tried"
    before = ("r-1", old.release)
    changed = states.index(after)
    assert changed >= 3, "some steps come before the pointer moves"
    assert states[:changed] == [before] * changed
    assert states[changed:] == [after] * (len(states) - changed)
    assert len(states) - changed >= 2, "and some after"
