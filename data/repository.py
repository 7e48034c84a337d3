"""A plant's snapshots in a Git and DVC repository: made, found, opened.

Git keeps what is small (``snapshot.json``, DVC's pointer ``readings.dvc``), DVC keeps the readings,
once in its cache and once in the plant's own remote. Nothing here reaches the network, and no
remote is shared between plants.

Order makes a kill harmless: the readings are in cache and remote before the commit names them, so
the last commit is always a whole snapshot; `Repository.snapshot` starts over whatever lies about.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from interplant.core.errors import Refusal, UsageError
from interplant.core.files import disk_errors, only_one, sync_folder, write_atomic
from interplant.data import records, tables
from interplant.data.frames import Dataset
from interplant.data.frozen import Frozen
from interplant.data.git import first_commit, git
from interplant.data.hashes import hashes_of, remember
from interplant.data.index import Intake
from interplant.data.objects import listed, track
from interplant.data.restoring import restore
from interplant.data.snapshots import READINGS, Content, Snapshot, verify
from interplant.data.store import Store

_CONFIG: Final = """\
[core]
    analytics = false
    check_update = false
    autostage = false
    remote = plant
[cache]
    dir = cache
    type = "reflink,copy"
['remote "plant"']
    url = {remote}
"""


@dataclass(frozen=True)
class Repository:
    """A plant's Git and DVC repository.

    Args:
        path: Its root; made by `create`.

    Raises:
        UsageError: There is no data repository.
    """

    path: Path

    def __post_init__(self) -> None:
        if not (self.path / ".git").is_dir() or not (self.path / ".dvc" / "config").is_file():
            raise UsageError(
                f"{self.path}: expected a plant's data repository here, found none; "
                "`interplant plant join` makes it"
            )

    @classmethod
    def create(cls, path: Path, remote: Path) -> "Repository":
        """Make a repository at ``path`` with its DVC remote in the folder ``remote``.

        Done again, it completes what is missing and changes nothing else.
        """
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            remote.mkdir(parents=True, exist_ok=True, mode=0o700)
        git(path, "init", "--quiet", "--initial-branch=main")
        # Relative, so that a plant's folder can be moved as a whole.
        url = os.path.relpath(remote.resolve(), (path / ".dvc").resolve())
        for name, content in {
            ".dvc/config": _CONFIG.format(remote=url),
            ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
            ".dvcignore": "/versions\n/incoming\n",
            ".gitignore": f"/{READINGS}\n/versions\n/incoming\n",
        }.items():
            if not (path / name).exists():
                write_atomic(path / name, content)
        repository = cls(path)
        with repository.locked():
            git(path, "add", "--", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
            if git(path, "status", "--porcelain", "--untracked-files=no"):
                git(path, "commit", "--quiet", "--message=Make the data repository")
        return repository

    def snapshot(self, dataset: Dataset, message: str = "", machine: str = "machine") -> Snapshot:
        """Make ``dataset`` the plant's newest snapshot, pushed, committed and tagged; return it opened.

        Args:
            dataset: The readings. If they are those of the newest snapshot, that one is returned.
            message: The commit's message.
            machine: The contract's machine column.
        """
        content = tables.Tables.of(dataset, machine)
        with self.locked():
            newest = records.newest(self.path)
            return self._finish(content, newest, self._place(content, newest), message)

    def freeze(self, store: Store, message: str = "", simulated: bool = False) -> Snapshot:
        """Make what ``store`` holds the plant's newest snapshot; partitions that did not change cost little.

        Args:
            store: The plant's. Readings may come in meanwhile: they are in the next snapshot.
            message: The commit's message.
            simulated: Whether the plant simulator made the readings.

        Returns:
            The snapshot, opened.

        Raises:
            UsageError: The store is empty.
        """
        store.settle()
        with self.locked():
            newest = records.newest(self.path)
            with store.locked():
                held = store.held.versions()
                content = Frozen.of(store.readings, store.partitions(), store.contract, simulated, held)
                intake, corrections = store.index.intake(), store.index.corrections()
                placed = self._place(content, newest)
            record = _counted(intake) | {"corrections": corrections, "contract": store.contract.version}
            if newest and corrections and not intake:
                record |= {"quarantined": newest[0].quarantined, "intake": newest[0].intake}
            made = self._finish(content, newest, placed, message, record, any(one.bad for one in intake))
            if newest is None or newest[0].commit != made.commit:
                store.index.forget_intake(intake)
                store.index.forget_corrections(corrections)
        return made

    @property
    def lineage(self) -> str:
        """Name of the dataset over all its snapshots, copies and folders: its first commit, 16 digits."""
        place = (self.path / ".git").stat()
        return first_commit(self.path, place.st_dev, place.st_ino)

    def log(self) -> list[Snapshot]:
        """Return all snapshots, the newest first; `purged` ones among them."""
        return records.every(self.path)

    def purged(self) -> dict[str, dict[str, str]]:
        """Return by digest ``when`` and ``why`` snapshots' readings were removed."""
        return records.purged(self.path)

    def find(self, digest: str | None = None) -> Snapshot:
        """Return a snapshot without its readings: the newest, or the one whose digest starts so.

        Raises:
            Refusal: ``no_snapshot``: there is none yet.
            UsageError: None or several have this digest, or its readings were removed.
        """
        snapshot = self._newest() if digest is None else self._named(digest)
        if gone := self.purged().get(snapshot.digest):
            why = f"{gone['why']} {gone['when']}"
            raise UsageError(f"snapshot {snapshot.digest[:12]}: its readings were removed ({why})")
        return snapshot

    def open(self, digest: str | None = None) -> Snapshot:
        """Return a snapshot whose files lie in ``folder`` and are checked against its digest.

        The newest one is read where it lies; an older one, or one whose working files were lost, is
        fetched from DVC's cache or remote into ``versions/`` beside it.

        Args:
            digest: Of the wanted snapshot, or its first digits; by default the newest.

        Raises:
            Refusal: ``no_snapshot``: there is none yet.
            UsageError: None or several have this digest.
            InterplantError: A file was changed, or is nowhere to be found.
        """
        snapshot = self.find(digest)
        found = hashes_of(self._readings, self._memory)
        if found == snapshot.files:
            return replace(snapshot, folder=self._readings)
        if found and not self._marker.exists() and self._newest().digest == snapshot.digest:
            verify(found, snapshot, self._readings)
        folder = self.path / "versions" / snapshot.digest
        if not folder.is_dir():
            restore(self.path, snapshot, folder)
        verify(hashes_of(folder, self._memory), snapshot, folder)
        return replace(snapshot, folder=folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the repository while the block runs."""
        with only_one(self.path / ".git" / "interplant.lock", "a snapshot of this repository"):
            # What a killed git left behind; nobody else commits here while the lock is held.
            for name in ("index.lock", "HEAD.lock", "refs/heads/main.lock"):
                (self.path / ".git" / name).unlink(missing_ok=True)
            yield

    # --- what lies where -----------------------------------------------------------------------

    @property
    def _readings(self) -> Path:
        return self.path / READINGS

    @property
    def _memory(self) -> Path:
        return self.path / ".git" / "interplant-hashes.db"

    @property
    def _marker(self) -> Path:
        """There while a snapshot is begun and not finished."""
        return self.path / ".git" / "interplant-pending"

    def _newest(self) -> Snapshot:
        found = records.newest(self.path)
        if found is None:
            raise Refusal("no_snapshot", f"{self.path}: make one with `interplant data`")
        return found[0]

    def _named(self, digest: str) -> Snapshot:
        found = records.named(self.path, digest)
        if len(found) != 1:
            raise UsageError(
                f"snapshot {digest!r}: expected the digest of one snapshot of {self.path}, or at "
                f"least 8 of its first digits, found {len(found)}; `interplant data log` lists them"
            )
        return found[0]

    # --- the steps of a snapshot ---------------------------------------------------------------

    def _place(self, content: Content, newest: tuple[Snapshot, str] | None) -> set[str] | None:
        """Put the files of a snapshot in their place; return which, and None if all is done already."""
        same = newest is not None and newest[0].files == content.hashes
        present = hashes_of(self._readings, self._memory)
        if same and not self._marker.exists() and present == content.hashes:
            return None
        self._begin()
        return content.place(self._readings, present)

    def _begin(self) -> None:
        self._marker.touch()
        sync_folder(self._marker.parent)

    def _finish(
        self,
        content: Content,
        newest: tuple[Snapshot, str] | None,
        placed: set[str] | None,
        message: str,
        record: Mapping[str, Any] | None = None,
        news: bool = False,
    ) -> Snapshot:
        """Track, push, commit and tag what was placed.

        Args:
            content: The snapshot's.
            newest: The snapshot before, and its pointer.
            placed: See `_place`.
            message: The commit's.
            record: What the snapshot has on record beside its content.
            news: Whether that is to be on record where the readings are those of the snapshot before.
        """
        pointer = newest[1] if newest else ""
        if placed is not None:
            pointer = self._track(content, newest)
            remember(self._memory, self._readings, {name: content.hashes[name] for name in placed})
        # That much went to quarantine is news even where no reading is.
        if newest is None or newest[0].files != content.hashes or news:
            made = self._commit(content, pointer, message, record or {})
        else:
            made = newest[0]
            if placed is not None:
                records.restore(self.path)
        if placed is not None:
            self._tag(made)
            self._marker.unlink(missing_ok=True)
        return replace(made, folder=self._readings)

    def _track(self, content: Content, newest: tuple[Snapshot, str] | None) -> str:
        known: Mapping[str, str] = {}
        if newest is not None:
            before, pointer = newest
            listing = listed(self.path, pointer)
            known = {before.files[name]: md5 for name, md5 in listing.items() if name in before.files}
        return track(self._readings, content.hashes, known, content.linked)

    def _commit(self, content: Content, pointer: str, message: str, record: Mapping[str, Any]) -> Snapshot:
        snapshot = Snapshot(
            digest=tables.digest(content.hashes),
            commit="",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            rows=content.rows,
            machines=content.machines,
            simulated=content.simulated,
            files=content.hashes,
            **record,
        )
        return records.commit(self.path, snapshot, pointer, message)

    def _tag(self, snapshot: Snapshot) -> None:
        records.tag(self.path, snapshot)


def _counted(intake: Sequence[Intake]) -> dict[str, Any]:
    """What came since the snapshot before, as a snapshot's record has it."""
    sources: Counter[str] = Counter()
    machines: dict[str, list[int]] = {}
    for one in intake:
        came = max(0, one.rows)
        sources[one.source] += came
        good, bad = machines.get(one.machine, [0, 0])
        machines[one.machine] = [good + came, bad + one.bad]
    quarantined = sum(one.bad for one in intake)
    return {"sources": dict(sources), "quarantined": quarantined, "intake": dict(sorted(machines.items()))}
