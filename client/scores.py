"""The score of a release, as it is kept until it is told: once computed, it is the same however often.

`interplant.client.scoring` computes it. It lies beside the release, in ``releases/<id>.score.json``.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from interplant.client.directory import PlantDirectory
from interplant.client.verdicts import RECEIVED
from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.core.release import check_id

_SCORE: Final = ".score.json"


@dataclass(frozen=True)
class Score:
    """A number about the plant's hold-out that may leave, and what paid for it.

    Args:
        value: Noised; noise may bring it below 0.
        charge: The ledger's entry that paid.
    """

    value: float
    charge: str


def keep(plant: PlantDirectory, release: str, score: Score) -> None:
    """Keep a score until it is told."""
    write_atomic(_path(plant, release), json.dumps(asdict(score)) + "\n", 0o600)


def score_of(plant: PlantDirectory, release: str) -> Score | None:
    """Return a release's score, if it was computed."""
    path = _path(plant, release)
    try:
        return Score(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InterplantError(f"{path}: cannot be read: {error}; remove it") from None


def told(plant: PlantDirectory, release: str, state: str) -> Score | None:
    """Return the score that goes beside what the coordinator is told of a release.

    Args:
        plant: The plant.
        release: The release.
        state: What is told: only beside ``received``, which tells nothing of the trial, there is one.
    """
    if plant.load().policy.release.report != "score" or state != RECEIVED:
        return None
    return score_of(plant, release)


def _path(plant: PlantDirectory, release: str) -> Path:
    return plant.releases / f"{check_id(release)}{_SCORE}"
