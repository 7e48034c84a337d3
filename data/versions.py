"""What changed between two snapshots, and snapshots that are no longer kept.

A purged snapshot keeps its entry in the log, with the day and the reason; its readings are gone from DVC's
cache and from the plant's remote, but for files that a kept snapshot holds too. DVC itself decides which.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from interplant.core.errors import UsageError
from interplant.core.files import write_atomic
from interplant.data import records
from interplant.data.dvc_session import dvc_session
from interplant.data.frozen import when
from interplant.data.git import git
from interplant.data.records import PURGED, tag_of
from interplant.data.repository import Repository
from interplant.data.snapshots import READINGS, Snapshot
from interplant.data.tables import MANIFEST

_TABLES: Final = ("train", "holdout")


@dataclass(frozen=True)
class Change:
    """Readings of one machine and day in two snapshots.

    Args:
        day: The day, the block of counts, or which of two tables.
        machine: The machine.
        before: Readings in the one.
        after: Readings in the other; the same number where only values differ.
    """

    day: str
    machine: str
    before: int
    after: int


def diff(repository: Repository, one: Snapshot, other: Snapshot) -> list[Change]:
    """Return where two snapshots differ, by day and machine."""
    before, after = _counts(manifest_of(repository, one)), _counts(manifest_of(repository, other))
    same = {name for name in one.files if name != MANIFEST and one.files[name] == other.files.get(name)}
    unchanged = {key for key in before if before[key] == after.get(key) and _is_in(key, same)}
    keys = sorted((before.keys() | after.keys()) - unchanged)
    return [Change(*key, before.get(key, 0), after.get(key, 0)) for key in keys]


def manifest_of(repository: Repository, snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot's manifest without bringing its readings back."""
    with dvc_session(repository.path) as dvc, dvc.switch(snapshot.commit):
        content: dict[str, Any] = json.loads(dvc.dvcfs.read_text(f"/{READINGS}/{MANIFEST}"))
        return content


def holding(
    repository: Repository, snapshots: Iterable[Snapshot], machine: str | None, days: tuple[str, str] | None
) -> list[Snapshot]:
    """Return the snapshots that hold readings of a machine, or of days.

    Args:
        repository: The plant's.
        snapshots: Of it, not purged.
        machine: The machine; None: any.
        days: The first and the last, both held; None: all. Two tables know no days: they count as holding.
            Blocks of counts are written as numbers, ``-inf`` and ``inf`` among them.
    """
    hit = _asked(machine, days)
    return [one for one in snapshots if any(map(hit, _counts(manifest_of(repository, one))))]


def others(
    repository: Repository, snapshot: Snapshot, machine: str | None, days: tuple[str, str] | None
) -> list[str]:
    """Return the machines of a snapshot that have readings beside those asked for; see `holding`."""
    hit = _asked(machine, days)
    return sorted({key[1] for key in _counts(manifest_of(repository, snapshot)) if not hit(key)})


def _asked(machine: str | None, days: tuple[str, str] | None) -> Callable[[tuple[str, str]], bool]:
    """Whether readings, by day and machine, are among those of a machine or of days; see `holding`."""

    def hit(key: tuple[str, str]) -> bool:
        day, own = key
        inside = days is None or day in _TABLES or when(days[0]) <= when(day) <= when(days[1])
        return inside and machine in (None, own)

    return hit


def purge(repository: Repository, snapshots: Iterable[Snapshot], why: str, newest: bool = False) -> None:
    """Remove the readings of snapshots for good; their entries in the log stay.

    Done again after a kill, it completes what was begun.

    Args:
        repository: The plant's.
        snapshots: Of it.
        why: For the log: ``erased`` or ``retention``.
        newest: Whether the newest may be among them: then there is no snapshot until one is made.

    Raises:
        UsageError: It is, and may not.
    """
    going, last = {one.digest for one in snapshots}, records.newest(repository.path)
    if last and last[0].digest in going and not newest:
        raise UsageError("the newest snapshot cannot be purged: make another first")
    with repository.locked():
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = repository.purged() | {digest: {"why": why, "when": now} for digest in sorted(going)}
        write_atomic(repository.path / PURGED, json.dumps(record, indent=1) + "\n")
        git(repository.path, "add", "--", PURGED)
        if git(repository.path, "status", "--porcelain", "--", PURGED):
            subject = f"Purge {len(going)} snapshots: {why}"
            git(repository.path, "commit", "--quiet", f"--message={subject}", "--", PURGED)
        if last and last[0].digest in record:
            records.clear(repository.path)
        if records.newest(repository.path) is None:
            shutil.rmtree(repository.path / READINGS, ignore_errors=True)
        # All that is on record, so that what a kill left is done now.
        for digest in record:
            shutil.rmtree(repository.path / "versions" / digest, ignore_errors=True)
            if git(repository.path, "tag", "--list", tag_of(digest)):
                git(repository.path, "tag", "--delete", tag_of(digest))
        for left in (repository.path / "versions").glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
        with dvc_session(repository.path) as dvc:
            # Every snapshot that is kept has a tag.
            dvc.gc(workspace=True, all_tags=True, cloud=True, remote="plant", force=True)
        git(repository.path, "gc", "--quiet")


def _counts(manifest: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Readings by day and machine; of two tables, by table and machine."""
    if "days" in manifest:
        return {(day, name): rows for day, own in manifest["days"].items() for name, rows in own.items()}
    return {(part, name): rows for part in _TABLES for name, rows in manifest[part]["machines"].items()}


def _is_in(key: tuple[str, str], files: set[str]) -> bool:
    """Whether the file that holds a day's machine is among those that did not change."""
    from interplant.data.partitions import file_name

    day, machine = key
    return (f"{day}.parquet" if day in _TABLES else f"{day}/{file_name(machine)}") in files
