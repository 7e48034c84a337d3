"""Which charges of the ledger belong to the plant's present dataset, whatever it is called.

A dataset is known by its repository's first commit, so that neither a new snapshot nor a copy under
another name has a budget of its own. Two other names may stand in a ledger: the folder's, written by
earlier versions, and the keyed one of a dataset that a repair could not name.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from interplant.client.directory import PlantDirectory
from interplant.core.errors import InterplantError, UsageError
from interplant.core.schema import Plant
from interplant.data.repository import Repository
from interplant.privacy.history import Entry

_COMMIT = re.compile("[0-9a-f]{16}")
_KEYED = re.compile("[0-9a-f]{32}")


def lineage_of(directory: PlantDirectory, plant: Plant) -> str:
    """Name of the present dataset over all its snapshots, copies and folders."""
    try:
        return directory.repository().lineage
    except UsageError:
        return plant.data.repository  # nothing was ever put there


def keyed(directory: PlantDirectory, lineage: str) -> str:
    """Return the name under which a lineage leaves the plant: an HMAC under the snapshots' key."""
    secret = directory.snapshot_key.read_bytes()
    return hmac.new(secret, f"lineage {lineage}".encode(), hashlib.sha256).hexdigest()[:32]


def former_names(directory: PlantDirectory, plant: Plant, lineage: str, names: Iterable[str]) -> list[str]:
    """Return which of ``names`` the present dataset may have been charged under besides ``lineage``.

    A folder that is gone, or was renamed, may have been this dataset's: it counts. One that holds
    another dataset does not.
    """
    if not _COMMIT.fullmatch(lineage):
        return []  # there is no dataset yet
    return [name for name in names if name != lineage and _may_be(directory, plant, lineage, name)]


def charges_of(directory: PlantDirectory, plant: Plant, entries: list[Entry]) -> list[Entry]:
    """Return all that was charged for the present dataset, under whatever name."""
    lineage = lineage_of(directory, plant)
    names = {entry.lineage for entry in entries if entry.events}
    known = {entry.former for entry in entries if entry.kind == "alias" and entry.lineage == lineage}
    own = {lineage, *known, *former_names(directory, plant, lineage, names)}
    return [entry for entry in entries if entry.lineage in own and entry.events]


def _may_be(directory: PlantDirectory, plant: Plant, lineage: str, name: str) -> bool:
    if name == plant.data.repository:
        return True
    if _KEYED.fullmatch(name):
        return name in {keyed(directory, known) for known in (lineage, plant.data.repository)}
    return not _COMMIT.fullmatch(name) and _lineage_in(directory.path / name) in (lineage, None)


def _lineage_in(folder: Path) -> str | None:
    try:
        return Repository(folder).lineage
    except InterplantError:
        return None
