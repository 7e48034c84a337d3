"""From a prediction back to the data and the first release."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from interplant.client import release_keys as known_keys
from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Prediction, Predictions
from interplant.core import config, signing
from interplant.core.release import LINEAGE, manifest_meta, parse_lineage
from interplant.core.schema import Source, Task
from interplant.data.door import admit
from interplant.data.repository import Repository
from interplant.data.simulator import simulate
from interplant.data.snapshots import keyed_digest
from interplant.data.store import Store
from interplant.data.tasks import builtin
from interplant.server import release_keys
from interplant.server.directory import CoordinatorDirectory

from .conftest import RELEASE, Call, sign_release

FIRST, SECOND = "turbofan-first", "turbofan-second"
LOST = "ef" * 32
"""A snapshot of the plant that its data repository does not have any more."""
ASKED = "c0ffee" + "0" * 26


@pytest.fixture
def answered(place: Path, plant: PlantDirectory) -> str:
    """A prediction at the plant by `RELEASE`, whose parent is `SECOND`, whose parent is `FIRST`."""
    store = Store(place / "north" / "store", config.load(builtin("turbofan"), Task).contract)
    readings = pa.Table.from_pandas(simulate(0, 2, 0).train)
    store.add(admit(readings, store.contract, Source("export", "folder"), "").good)
    store.index.note("export", Counter(readings["machine"].to_pylist()))
    snapshot = Repository(plant.data).freeze(store)
    release_key = place / "coordinator" / "keys" / "release.key"
    shutil.rmtree(place / "coordinator" / "releases" / RELEASE)
    for name, parent in ((FIRST, None), (SECOND, FIRST), (RELEASE, SECOND)):
        folder = place / "coordinator" / "releases" / name
        sign_release(folder, release_key)
        words = json.loads((folder / LINEAGE).read_text()) | {"parent": parent}
        key = keyed_digest(snapshot.digest, plant.snapshot_key.read_bytes())
        words["participants"][0]["snapshots"] = {LOST: 1, key: 2}
        words["participants"].append(
            words["participants"][0] | {"name": "south", "snapshots": {"cd" * 32: 3}}
        )
        (folder / LINEAGE).write_text(json.dumps(words))
        (folder / "card.html").write_text("<h1>A release</h1>")
        meta = manifest_meta(parse_lineage((folder / LINEAGE).read_text()))
        signing.sign_folder(folder, meta, signing.read_private(release_key))
        shutil.copytree(folder, plant.releases / name)
    with Predictions(plant.predictions, keep=10) as log:
        log.add([Prediction(ASKED, 1_767_270_000.0, RELEASE, (17.5,), machine="press 4")])
    return snapshot.digest


def test_a_prediction_leads_back_to_its_data_and_the_first_release(answered: str, interplant: Call) -> None:
    found = interplant("lineage", ASKED, "--plant", "north", "--json").json
    assert (found["prediction"]["id"], found["release"]) == (ASKED, RELEASE)
    assert found["prediction"]["prediction"] == [17.5]
    north, south = found["participants"]
    assert list(north["snapshots"].values()) == [1, 2]
    ((key, own),) = north["own_snapshots"].items()
    assert (north["snapshots"][key], own["digest"], own["machines"]) == (2, answered, 2)
    assert own["sources"] == {"export": own["rows"]}
    assert (south["snapshots"], south["own_snapshots"]) == ({"cd" * 32: 3}, {})
    assert found["task_config"]["name"] == found["task"] == "turbofan"
    assert [one["release"] for one in found["parents"]] == [SECOND, FIRST]
    assert found["parents_broken"] == ""
    text = interplant("lineage", ASKED, "--plant", "north").out
    for word in ("press 4", "17.5", RELEASE, "0.731", answered[:12], "cdcdcdcdcdcd", SECOND, FIRST):
        assert word in text
    assert re.search(r"efefefefefef \(1 round\), [0-9a-f]{12} \(2 rounds\)", text)


def test_the_coordinator_sees_names_of_snapshots_alone(answered: str, interplant: Call) -> None:
    found = interplant("lineage", RELEASE, "--json").json
    assert [one["own_snapshots"] for one in found["participants"]] == [{}, {}]
    assert found["prediction"] is None
    assert [one["release"] for one in found["parents"]] == [SECOND, FIRST]
    assert answered[:12] not in interplant("lineage", RELEASE).out


@pytest.mark.usefixtures("answered")
def test_parents_are_followed_as_far_as_they_hold(plant: PlantDirectory, interplant: Call) -> None:
    words = ("lineage", ASKED, "--plant", "north")
    with (plant.releases / FIRST / "card.md").open("a") as file:
        file.write("better than it was")
    found = interplant(*words, "--json").json
    assert [one["release"] for one in found["parents"]] == [SECOND]
    assert "tampered" in found["parents_broken"]
    shutil.rmtree(plant.releases / SECOND)
    done = interplant(*words)
    assert done.code == 0
    assert f"cannot be followed beyond {SECOND}" in done.out


@pytest.mark.usefixtures("answered")
def test_an_unknown_prediction_is_one_sentence(plant: PlantDirectory, interplant: Call) -> None:
    for words, reason in (
        (["1" * 32, "--plant", "north"], "found none"),
        ([ASKED], "add --plant"),
        ([RELEASE, "--picture", "lineage.jpg"], ".svg or .png"),
    ):
        done = interplant("lineage", *words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert reason in done.err
    shutil.rmtree(plant.releases / RELEASE)
    done = interplant("lineage", ASKED, "--plant", "north")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert RELEASE in done.err


def test_the_picture_shows_every_step(answered: str, place: Path, interplant: Call) -> None:
    words = ("lineage", ASKED, "--plant", "north", "--picture")
    assert interplant(*words, "lineage.svg").code == 0
    drawn = " ".join(re.findall(r"<!-- (.*?) -->", (place / "lineage.svg").read_text()))
    for word in (
        ASKED[:16],
        RELEASE,
        SECOND,
        FIRST,
        "north",
        "south",
        answered[:12],
        "cdcdcdcdcdcd",
        LOST[:12],
    ):
        assert word in drawn
    assert interplant(*words, "lineage.png").code == 0
    assert (place / "lineage.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def revoked(answered: str, place: Path, plant: PlantDirectory) -> CoordinatorDirectory:
    """The key that has signed all of `answered` is revoked, and the plant has heard of it."""
    coordinator = CoordinatorDirectory(place / "coordinator")
    release_keys.rotate(coordinator, 0, True, "ann")
    known_keys.learn(plant, release_keys.statements(coordinator))
    return coordinator


@pytest.mark.usefixtures("revoked")
@pytest.mark.parametrize("words", [(ASKED, "--plant", "north"), (RELEASE,)])
def test_what_a_revoked_key_has_signed_keeps_its_lineage_marked(
    words: tuple[str, ...], place: Path, interplant: Call
) -> None:
    found = interplant("lineage", *words, "--json").json
    assert (found["signature_verified"], found["key_revoked"]) == (True, True)
    assert [(one["release"], one["key_revoked"]) for one in found["parents"]] == [
        (SECOND, True),
        (FIRST, True),
    ]
    text = interplant("lineage", *words, "--picture", "lineage.svg").out
    assert "signed by a key that was revoked on 20" in text
    assert f"{SECOND} (key revoked)" in text
    drawn = re.findall(r"<!-- (.*?) -->", (place / "lineage.svg").read_text())
    assert drawn.count("key revoked") == 3


@pytest.mark.usefixtures("answered")
def test_what_a_key_that_counts_has_signed_is_not_marked(interplant: Call) -> None:
    found = interplant("lineage", RELEASE, "--json").json
    assert (found["key_revoked"], [one["key_revoked"] for one in found["parents"]]) == (False, [False] * 2)
    assert "revoked" not in interplant("lineage", RELEASE).out
    card = interplant("release", "card", RELEASE)
    assert card.out.startswith("# Release")
    assert interplant("release", "card", RELEASE, "--json").json["key_revoked"] is False


def test_the_lineage_of_a_new_release_goes_on_beyond_a_revoked_key(
    revoked: CoordinatorDirectory, interplant: Call
) -> None:
    folder = revoked.releases / "turbofan-third"
    sign_release(folder, revoked.release_key)
    (folder / LINEAGE).write_text(
        json.dumps(json.loads((folder / LINEAGE).read_text()) | {"parent": RELEASE})
    )
    meta = manifest_meta(parse_lineage((folder / LINEAGE).read_text()))
    signing.sign_folder(folder, meta, signing.read_private(revoked.release_key))
    found = interplant("lineage", folder.name, "--json").json
    assert found["key_revoked"] is False
    assert [one["key_revoked"] for one in found["parents"]] == [True] * 3
    assert found["parents_broken"] == ""


@pytest.mark.usefixtures("revoked")
@pytest.mark.parametrize("words", [("--plant", "north"), ()])
def test_the_card_of_what_a_revoked_key_has_signed_says_so(
    words: tuple[str, ...], plant: PlantDirectory, interplant: Call
) -> None:
    found = interplant("release", "card", RELEASE, *words, "--json").json
    assert (found["key_revoked"], found["card"]) == (True, (plant.releases / RELEASE / "card.md").read_text())
    first, _, card = interplant("release", "card", RELEASE, *words).out.partition("\n")
    assert first.startswith("> Take care: it is signed by a key that was revoked on 20")
    assert card.strip() == found["card"].strip()
    said = interplant("release", "card", RELEASE, *words, "--html", "card.html")
    assert (said.code, "signed by a key that was revoked on 20" in said.out) == (0, True)


def test_what_comes_from_elsewhere_is_not_believed_under_a_revoked_key(
    revoked: CoordinatorDirectory, place: Path, interplant: Call
) -> None:
    key = revoked.release_public_key
    elsewhere = shutil.copytree(revoked.releases / RELEASE, place / "elsewhere" / RELEASE)
    for words in (
        ["release", "verify", revoked.releases / RELEASE, "--key", key],
        ["lineage", RELEASE, "--key", key],
        ["lineage", elsewhere],
        ["release", "card", elsewhere],
    ):
        done = interplant(*words)
        assert (done.code, done.out) == (1, "")
        assert "[revoked_key]" in done.err
    assert interplant("lineage", revoked.releases / RELEASE).code == 0
    with (revoked.releases / RELEASE / "card.md").open("a") as file:
        file.write("better than it was")
    done = interplant("lineage", RELEASE)
    assert (done.code, "tampered" in done.err) == (1, True)
