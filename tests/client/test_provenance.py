"""What a plant can tell of where a prediction comes from, and what it cannot."""

from pathlib import Path

import pytest

from interplant.client import provenance
from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Prediction, Predictions
from interplant.core.errors import UsageError
from interplant.core.release import Participant
from interplant.data.snapshots import keyed_digest

ID = "0" * 32


def participant(name: str, snapshot: str) -> Participant:
    return Participant(name, {snapshot: 3}, 3, "dp-sgd", "window", 0.7, 1e-5, True)


def test_a_prediction_is_found_as_long_as_the_log_keeps_it(plant: PlantDirectory) -> None:
    with pytest.raises(UsageError, match=f"expected prediction {ID}, found none"):
        provenance.prediction(plant, ID)
    assert not plant.predictions.exists()
    with Predictions(plant.predictions, keep=10) as log:
        log.add([Prediction(ID, 1000.0, "wear-1", (0.5,))])
    assert provenance.prediction(plant, ID).release == "wear-1"
    with pytest.raises(UsageError, match="another plant"):
        provenance.prediction(plant, "1" * 32)
    with pytest.raises(UsageError, match="plant directory"):
        provenance.prediction(PlantDirectory(Path("nowhere")), ID)


def test_only_the_plants_own_digests_are_opened(plant: PlantDirectory) -> None:
    own = plant.repository().find()
    key = keyed_digest(own.digest, plant.snapshot_key.read_bytes())
    name = plant.load().name
    mine, other, lost = participant(name, key), participant("far", key), participant(name, "ab" * 32)
    found = provenance.own_snapshots(plant, [mine, lost])
    assert {keyed: (one.snapshot, one.removed) for keyed, one in found.items()} == {key: (own, "")}
    assert provenance.own_snapshots(plant, [other]) == {}
    plant.snapshot_key.write_bytes(b"x" * 32)
    assert provenance.own_snapshots(plant, [mine]) == {}
