"""Snapshots: immutable, named states of one plant's data, and how an opened one is read.

`interplant.data.repository` makes and finds them.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from interplant.core.errors import InterplantError, UsageError
from interplant.core.schema import Split
from interplant.data import tables
from interplant.data.frames import Dataset
from interplant.data.frozen import FrozenReader
from interplant.data.pieces import dataset_of

READINGS: Final = "readings"
RECORD: Final = "snapshot.json"


@dataclass(frozen=True)
class Snapshot:
    """An immutable state of a plant's data.

    Args:
        digest: SHA-256 over the names and hashes of its files. It identifies data: it leaves the
            plant only as a `keyed_digest`.
        commit: The Git commit that holds it.
        created: When, in UTC, ISO 8601.
        rows: Readings to train on (the holdout not counted).
        machines: Machines to train on.
        simulated: Whether the plant simulator made the readings.
        files: SHA-256 of each file by name.
        contract: Version of the contract that the readings kept when they came; 0 of a dataset of two tables.
        sources: Readings that each source brought since the snapshot before.
        quarantined: Readings that broke the contract since then.
        intake: Of each machine, readings since then that kept the contract, and that broke it; those that
            named no machine stand under an empty name. Corrections alone are no news of readings: what the
            snapshot before says of these then stands.
        corrections: Labels that persons corrected since the snapshot before.
        folder: Where the checked files lie, once opened.
    """

    digest: str
    commit: str
    created: str
    rows: int
    machines: int
    simulated: bool
    files: Mapping[str, str]
    contract: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)
    quarantined: int = 0
    intake: Mapping[str, Sequence[int]] = field(default_factory=dict)
    corrections: int = 0
    folder: Path | None = None

    def dataset(self, split: Split) -> Dataset:
        """Return the readings as two tables, all in memory; see `load`."""
        return load(self, split)


class Content(Protocol):
    """What a snapshot is made of."""

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file by name, sorted."""

    @property
    def rows(self) -> int:
        """Readings to train on."""

    @property
    def machines(self) -> int:
        """Machines to train on."""

    @property
    def simulated(self) -> bool:
        """Whether the plant simulator made the readings."""

    @property
    def linked(self) -> bool:
        """Whether nobody changes the files in place, so that DVC's cache may share their bytes."""

    def place(self, folder: Path, present: Mapping[str, str]) -> set[str]:
        """Make ``folder`` hold these files, of which ``present`` are there; return which it put there."""


def keyed_digest(digest: str, secret: bytes) -> str:
    """Return what the coordinator may know of a snapshot: an HMAC-SHA256, hex.

    Args:
        digest: `Snapshot.digest`.
        secret: The plant's own, at least 16 bytes; with it an auditor can open the name.
    """
    if len(secret) < 16:
        raise UsageError(f"snapshot key: expected at least 16 bytes, found {len(secret)}")
    return hmac.new(secret, digest.encode(), hashlib.sha256).hexdigest()


def load(snapshot: Snapshot, split: Split | None = None) -> Dataset:
    """Return the readings of an opened snapshot; what is parsed is what was hashed.

    Args:
        snapshot: Opened.
        split: What a task holds out of a store's readings; two tables are parted already.

    Raises:
        UsageError: The snapshot is from `Repository.log` and was not opened.
        InterplantError: A file is missing or no longer what the snapshot says.
    """
    if snapshot.folder is None:
        raise UsageError(f"snapshot {snapshot.digest[:12]}: open it before reading it")
    if reader := reader_of(snapshot):
        return dataset_of(reader, split or Split())
    found = contents(snapshot.folder)
    verify(tables.hashes(found), snapshot, snapshot.folder)
    return tables.decode(found)


def reader_of(snapshot: Snapshot) -> FrozenReader | None:
    """Return what reads an opened snapshot of a store machine by machine; None for one of two tables."""
    if snapshot.folder is None or {tables.TRAIN, tables.HOLDOUT} & snapshot.files.keys():
        return None
    return FrozenReader(snapshot.folder, snapshot.files)


def most_readings(repository: Path) -> int:
    """Return how many readings the machine with the most has in the newest snapshot; 0 without one.

    No machine has more windows than readings. A figure of the plant's data: it stays there.
    """
    try:
        manifest = json.loads((repository / READINGS / tables.MANIFEST).read_text(encoding="utf-8"))
        if "days" not in manifest:
            return max(manifest["train"]["machines"].values(), default=0)
        counts: Counter[str] = Counter()
        for day in manifest["days"].values():
            counts.update(day)
        return max(counts.values(), default=0)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        # Damaged readings are the business of `Repository.open`, which says so.
        return 0


def verify(found: Mapping[str, str], snapshot: Snapshot, folder: Path) -> None:
    """Hold files, SHA-256 by name, against what a snapshot says.

    Raises:
        InterplantError: One was changed, added or lost.
    """
    wrong = sorted(name for name in {*found, *snapshot.files} if found.get(name) != snapshot.files.get(name))
    if wrong or tables.digest(found) != snapshot.digest:
        raise InterplantError(
            f"{folder}: {wrong[0] if wrong else RECORD} is not what snapshot "
            f"{snapshot.digest[:12]} holds; it was changed, added or lost since: move {folder} "
            "away to have the snapshot restored from the plant's remote, or make a new snapshot"
        )


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file under ``folder``, by relative name; none if there is no such folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
