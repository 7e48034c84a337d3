"""What a run that was started without a command waits for when it is paused: read `waiting`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from interplant.core.errors import InterplantError
from interplant.server.directory import CoordinatorDirectory
from interplant.server.followed import FAILED, GAVE_UP, RESUMED, STARTED, pause
from interplant.server.records import Dropped, Round, Run, no_quorum
from interplant.server.registry import Registry
from interplant.server.run_folder import RunFolder
from interplant.server.selection import PASSING, RESTING


@dataclass(frozen=True)
class Waiting:
    """A paused run whose quorum is there once plants come back.

    Args:
        plants: By plant why it was not there, in our own words.
        tries: How often the run has gone on by itself since it last finished a round.
        due: When it may do so again.
    """

    plants: Mapping[str, str]
    tries: int
    due: datetime

    @property
    def text(self) -> str:
        """Who is waited for, and why."""
        return ", ".join(f"{name} ({why})" for name, why in self.plants.items())


def own_run(registry: Registry, task: str) -> Run | None:
    """Return the run of a task that was started last without a command.

    None where there was none, and once the history says that it has failed.
    """
    last = registry.events(task, 1, [STARTED, RESUMED, FAILED, GAVE_UP])
    if not last or last[0].kind not in (STARTED, RESUMED):
        return None
    return registry.find_run(last[0].text.split()[1])


def waiting(directory: CoordinatorDirectory, registry: Registry, task: str, run: Run) -> Waiting | None:
    """Return whom a paused run waits for; None where a person has to look.

    A person does where no quorum comes of the plants that took part and those that are away, late, paused or
    in a quiet time: a spent budget or a policy does not pass by itself, nor does a fault.

    Args:
        directory: The coordinator's.
        registry: Its registry.
        task: The task's name.
        run: Its paused run.
    """
    rounds = registry.rounds(run.id)
    tried = [one for one in rounds if one.round > run.round]
    try:
        quorum = RunFolder(directory.runs / run.id).rounds().quorum
    except InterplantError:
        return None
    if not tried or not run.reason.startswith(
        no_quorum(tried[-1].round, len(tried[-1].participants), quorum)
    ):
        return None  # something else has paused it
    enrolled = {one.name for one in registry.plants() if one.is_enrolled}
    back = {
        one.plant: one.sentence for one in _dropped(tried) if one.code in PASSING and one.plant in enrolled
    }
    if len(enrolled & {*tried[-1].participants, *back}) < quorum:
        return None
    done = max((one.recorded for one in rounds if one.round <= run.round), default=run.created)
    tries = sum(one.text.split()[1] == run.id for one in registry.events(task, None, [RESUMED], done))
    paused = registry.events(run.id, 1, ["run.paused"])[0].time
    return Waiting(back, tries, paused + pause(tries + 1))


def _dropped(tried: Sequence[Round]) -> Iterator[Dropped]:
    """Yield the plants that the last attempt went on without, with the reason for which they rest."""
    last: dict[str, Dropped] = {}
    for attempt in tried:
        last |= {one.plant: one for one in attempt.dropped if one.code != RESTING}
    return (one for name, one in last.items() if name not in tried[-1].participants)
