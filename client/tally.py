"""What the serving process counts of a release that answers beside the champion: one small file.

Counts are about data of the plant, which they do not leave. A killed process loses those of its last second.
"""

import json
from dataclasses import asdict, dataclass, replace

from interplant.client.champion import Challenger
from interplant.client.directory import PlantDirectory
from interplant.core.files import write_atomic


@dataclass(frozen=True)
class Tally:
    """Counts of one stage.

    Args:
        release: Which answers beside the champion.
        stage: In which of `interplant.client.champion.STAGES`.
        since: When the stage began, as the pointer says it.
        predictions: Windows that both have predicted.
        heard: Windows of requests that it answered itself.
        requests: Requests that it was asked.
        late: Of these, those that took it longer than `Trial.milliseconds`.
        failures: Of these, those that it failed to answer, or not with finite numbers.
        missed: Requests that it was not asked, because too many waited for it.
        champion_failures: Requests that the champion failed to answer, and it answered.
        trouble: What was wrong with the last failure.
    """

    release: str
    stage: str
    since: str
    predictions: int = 0
    heard: int = 0
    requests: int = 0
    late: int = 0
    failures: int = 0
    missed: int = 0
    champion_failures: int = 0
    trouble: str = ""


def of(plant: PlantDirectory, second: Challenger) -> Tally:
    """Return the counts of a challenger's present stage; none were made if they are of another."""
    fresh = Tally(second.release, second.stage, second.since)
    try:
        found = Tally(**json.loads(plant.tally.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return fresh
    same = replace(fresh, **{name: getattr(found, name) for name in ("release", "stage", "since")}) == fresh
    return found if same else fresh


def note(plant: PlantDirectory, tally: Tally) -> None:
    """Write the counts down, for the plant's own user."""
    write_atomic(plant.tally, json.dumps(asdict(tally)) + "\n", mode=0o600)
