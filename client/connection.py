"""What the agent notes of its connection, for `plant status` and the plant's own page."""

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import Final

from interplant.client.directory import PlantDirectory
from interplant.core import certificates
from interplant.core.errors import InterplantError
from interplant.core.files import is_locked, write_atomic

CONNECTED: Final = "connected"
AWAY: Final = "away"
TURNED_AWAY: Final = "turned away"
NOT_SERVING: Final = "not serving"
STARTING: Final = "starting"


@dataclass(frozen=True)
class Connection:
    """How the plant stands with its coordinator.

    Args:
        state: ``not serving``, ``starting``, ``connected``, ``away`` (it tries again by itself), or
            ``turned away``.
        since: When that was noted; empty if never.
        reason: Why it is not connected; empty if it is.
    """

    state: str
    since: str = ""
    reason: str = ""


def note(plant: PlantDirectory, state: str, reason: str = "") -> None:
    """Remember a change of the connection; the same state again keeps its time."""
    if (now := _noted(plant)) is None or (now.state, now.reason) != (state, reason):
        connection = Connection(state, certificates.readable(certificates.utc_now()), reason)
        # The note is for people; a full disk must not end the connection that it is about.
        with contextlib.suppress(InterplantError):
            write_atomic(plant.connection, json.dumps(asdict(connection)) + "\n")


def forget(plant: PlantDirectory) -> None:
    """Drop the note when the agent has ended, unless it says why the plant was turned away."""
    noted = _noted(plant)
    if noted is not None and noted.state != TURNED_AWAY:
        plant.connection.unlink(missing_ok=True)


def current(plant: PlantDirectory) -> Connection:
    """Return how the plant stands with its coordinator now."""
    noted = _noted(plant)
    if not is_locked(plant.serve_lock):
        return noted if noted and noted.state == TURNED_AWAY else Connection(NOT_SERVING)
    return noted or Connection(STARTING)


def _noted(plant: PlantDirectory) -> Connection | None:
    try:
        return Connection(**json.loads(plant.connection.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        # A note that cannot be read is worth as much as none.
        return None
