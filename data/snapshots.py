"""Snapshots: immutable, named states of one plant's data, in a Git and DVC repository.

Git keeps what is small (``snapshot.json``, DVC's pointer ``readings.dvc``), DVC keeps the readings,
once in its cache and once in the plant's own remote. Nothing here reaches the network, and no
remote is shared between plants.

Order makes a kill harmless: the readings are in cache and remote before the commit names them, so
the last commit is always a whole snapshot; `Repository.snapshot` starts over whatever lies about.
"""

import hashlib
import hmac
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.core.files import disk_errors, only_one, write_atomic
from interplant.core.schema import Split
from interplant.data import tables
from interplant.data.dvc_session import cached_file, dvc_session
from interplant.data.frames import Dataset
from interplant.data.frozen import Frozen, FrozenReader, dataset_of
from interplant.data.git import git
from interplant.data.hashes import hashes_of, remember
from interplant.data.index import Intake
from interplant.data.store import Store

READINGS: Final = "readings"
RECORD: Final = "snapshot.json"
PURGED: Final = "purged.json"
"""By digest: when and why a snapshot's readings were removed; see `interplant.data.versions`."""

_POINTER: Final = f"{READINGS}.dvc"
_SHORTEST: Final = 8
"""Digits of a digest that are enough to name it."""

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
    folder: Path | None = None


@lru_cache(maxsize=16)
def _first_commit(path: Path, device: int, inode: int) -> str:
    """Asked once for each folder: a process a round would cost as much as the round."""
    first: str = git(path, "rev-list", "--max-parents=0", "--reverse", "HEAD").split()[0]
    return first[:16]


def tag_of(digest: str) -> str:
    """Return the Git tag of a snapshot; what no tag names, `interplant.data.versions.purge` removes."""
    return f"snapshot-{digest[:12]}"


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
    contents = _contents(snapshot.folder)
    _verify(tables.hashes(contents), snapshot, snapshot.folder)
    return tables.decode(contents)


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
        """Make ``dataset`` the plant's newest snapshot: tracked, pushed, committed and tagged.

        Args:
            dataset: The readings. If they are those of the newest snapshot, that one is returned.
            message: The commit's message.
            machine: The contract's machine column.

        Returns:
            The snapshot, opened.
        """
        content = tables.Tables.of(dataset, machine)
        with self.locked():
            return self._finish(content, self._place(content), message)

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
            with store.locked():
                content = Frozen.of(store.readings, store.partitions(), store.contract, simulated)
                intake = store.index.intake()
                placed = self._place(content)
            before = self._newest()
            made = self._finish(content, placed, message, store.contract.version, intake)
            if before is None or before.commit != made.commit:
                store.index.forget_intake(intake)
            store.share(self._readings, content.partitions)
        return made

    def _place(self, content: "Content") -> bool:
        """Put the files of a snapshot in their place; return whether that changed anything."""
        newest = self._newest()
        same = newest is not None and newest.files == content.hashes
        present = hashes_of(self._readings, self._memory)
        if same and self._pending is None and present == content.hashes:
            return False
        self._begin(tables.digest(content.hashes))
        content.place(self._readings, present)
        return True

    def _finish(
        self, content: "Content", placed: bool, message: str, version: int = 0, intake: Sequence[Intake] = ()
    ) -> Snapshot:
        """Track, push, commit and tag what was placed."""
        if placed:
            self._track(linked=content.linked)
            # DVC may have put its own links in the files' place; their bytes are the same.
            remember(self._memory, self._readings, content.hashes)
        newest = self._newest()
        same = newest is not None and newest.files == content.hashes
        # That much went to quarantine is news even where no reading is.
        if not same or any(one.bad for one in intake):
            self._commit(content, message, version, intake)
        elif placed:
            git(self.path, "checkout", "--quiet", "HEAD", "--", RECORD, _POINTER)
        newest = self._newest()
        assert newest is not None
        self._tag(newest)
        self._marker.unlink(missing_ok=True)
        return replace(newest, folder=self._readings)

    def load(self, snapshot: Snapshot, split: Split | None = None) -> Dataset:
        """Return the readings of an opened snapshot; see `load`."""
        return load(snapshot, split)

    @property
    def lineage(self) -> str:
        """Name of the dataset over all its snapshots, copies and folders: its first commit, 16 digits."""
        place = (self.path / ".git").stat()
        return _first_commit(self.path, place.st_dev, place.st_ino)

    def log(self) -> list[Snapshot]:
        """Return all snapshots, the newest first; `purged` ones among them."""
        commits = git(self.path, "log", "--format=%H", "--", RECORD).split()
        names = "".join(f"{commit}:{RECORD}\n" for commit in commits)
        answers = git(self.path, "cat-file", "--batch", text=names) if commits else ""
        return [_parse(commit, content) for commit, content in zip(commits, _bodies(answers), strict=True)]

    def purged(self) -> dict[str, dict[str, str]]:
        """Return by digest ``when`` and ``why`` snapshots' readings were removed."""
        try:
            found: dict[str, dict[str, str]] = json.loads((self.path / PURGED).read_text(encoding="utf-8"))
            return found
        except FileNotFoundError:
            return {}

    def find(self, digest: str | None = None) -> Snapshot:
        """Return a snapshot without its readings: the newest, or the one whose digest starts so.

        Raises:
            Refusal: ``no_snapshot``: there is none yet.
            UsageError: None or several have this digest, or its readings were removed.
        """
        snapshot = self._find(digest)
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
        newest = self._newest()
        if found and self._pending is None and newest and newest.digest == snapshot.digest:
            _verify(found, snapshot, self._readings)
        folder = self.path / "versions" / snapshot.digest
        if not folder.is_dir():
            self._fetch(snapshot, folder)
        _verify(hashes_of(folder, self._memory), snapshot, folder)
        return replace(snapshot, folder=folder)

    # --- what lies where -----------------------------------------------------------------------

    @property
    def _readings(self) -> Path:
        return self.path / READINGS

    @property
    def _memory(self) -> Path:
        return self.path / ".git" / "interplant-hashes.db"

    @property
    def _marker(self) -> Path:
        return self.path / ".git" / "interplant-pending"

    @property
    def _pending(self) -> str | None:
        """Digest of a snapshot that was begun and not finished."""
        return self._marker.read_text() if self._marker.exists() else None

    def _newest(self) -> Snapshot | None:
        commit = git(self.path, "log", "-1", "--format=%H", "--", RECORD).strip()
        return _parse(commit, git(self.path, "show", f"{commit}:{RECORD}")) if commit else None

    def _find(self, digest: str | None) -> Snapshot:
        if digest is None:
            newest = self._newest()
            if newest is None:
                raise Refusal("no_snapshot", f"{self.path}: make one with `interplant data`")
            return newest
        found = {
            one.digest: one
            for one in reversed(self.log())
            if len(digest) >= _SHORTEST and one.digest.startswith(digest)
        }
        if len(found) != 1:
            raise UsageError(
                f"snapshot {digest!r}: expected the digest of one snapshot of {self.path}, or at "
                f"least {_SHORTEST} of its first digits, found {len(found)}; "
                "`interplant data log` lists them"
            )
        return found.popitem()[1]

    # --- the steps of a snapshot ---------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the repository while the block runs."""
        with only_one(self.path / ".git" / "interplant.lock", "a snapshot of this repository"):
            # What a killed git left behind; nobody else commits here while the lock is held.
            for name in ("index.lock", "HEAD.lock", "refs/heads/main.lock"):
                (self.path / ".git" / name).unlink(missing_ok=True)
            yield

    def _begin(self, digest: str) -> None:
        write_atomic(self._marker, digest)
        # A kill may have left half a pointer; DVC writes it anew.
        (self.path / _POINTER).unlink(missing_ok=True)

    def _track(self, linked: bool) -> None:
        with dvc_session(self.path, linked) as dvc:
            (stage,) = dvc.add(str(self._readings))
            out = stage.outs[0]
            # As `dvc push`, which makes an index of the whole repository first: it takes as long as the rest.
            dvc.cloud.push({out.hash_info, *(found for *_, found in out.get_obj())}, remote="plant")

    def _commit(self, content: "Content", message: str, version: int, intake: Sequence[Intake]) -> None:
        snapshot = Snapshot(
            digest=tables.digest(content.hashes),
            commit="",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            rows=content.rows,
            machines=content.machines,
            simulated=content.simulated,
            files=content.hashes,
            contract=version,
            sources={one.source: one.rows for one in intake},
            quarantined=max(0, sum(one.bad for one in intake)),
        )
        record = {k: v for k, v in asdict(snapshot).items() if k not in ("commit", "folder")}
        write_atomic(self.path / RECORD, json.dumps(record, indent=1) + "\n")
        names = [RECORD, _POINTER]
        if snapshot.digest in (purged := self.purged()):
            # A source brought again what was removed.
            del purged[snapshot.digest]
            write_atomic(self.path / PURGED, json.dumps(purged, indent=1) + "\n")
            names.append(PURGED)
        git(self.path, "add", "--", *names)
        subject = message.strip() or f"Snapshot {snapshot.digest[:12]}"
        git(self.path, "commit", "--quiet", f"--message={subject}", "--", *names)

    def _tag(self, snapshot: Snapshot) -> None:
        name = tag_of(snapshot.digest)
        if not git(self.path, "tag", "--list", name):
            git(self.path, "tag", name, snapshot.commit)

    def _fetch(self, snapshot: Snapshot, folder: Path) -> None:
        incoming = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(incoming, ignore_errors=True)
        with disk_errors(folder):
            folder.parent.mkdir(exist_ok=True)
        try:
            self._get(snapshot, incoming)
            damaged = [name for name, own in _hashes(incoming).items() if own != snapshot.files.get(name)]
            if damaged and self._drop_cached(snapshot, damaged):
                shutil.rmtree(incoming)
                self._get(snapshot, incoming)
            _verify(_hashes(incoming), snapshot, self.path / ".dvc" / "cache")
            if not folder.is_dir():
                incoming.rename(folder)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _get(self, snapshot: Snapshot, folder: Path) -> None:
        with dvc_session(self.path) as dvc, dvc.switch(snapshot.commit):
            dvc.dvcfs.get(f"/{READINGS}", str(folder), recursive=True)

    def _drop_cached(self, snapshot: Snapshot, names: list[str]) -> bool:
        """Remove damaged files from DVC's cache, where a working file may have shared their bytes."""
        pointer = git(self.path, "show", f"{snapshot.commit}:{_POINTER}")
        found = [cached_file(self.path, pointer, name) for name in names]
        for path in found:
            if path is not None:
                path.unlink(missing_ok=True)
        return any(found)


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

    def place(self, folder: Path, present: Mapping[str, str]) -> None:
        """Make ``folder`` hold these files, of which ``present`` are there already, by SHA-256."""


def _contents(folder: Path) -> dict[str, bytes]:
    """Every file under ``folder``, by relative name; none if there is no such folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _hashes(folder: Path) -> dict[str, str]:
    return tables.hashes(_contents(folder))


def _verify(found: Mapping[str, str], snapshot: Snapshot, folder: Path) -> None:
    wrong = sorted(name for name in {*found, *snapshot.files} if found.get(name) != snapshot.files.get(name))
    if wrong or tables.digest(found) != snapshot.digest:
        raise InterplantError(
            f"{folder}: {wrong[0] if wrong else RECORD} is not what snapshot "
            f"{snapshot.digest[:12]} holds; it was changed, added or lost since: move {folder} "
            "away to have the snapshot restored from the plant's remote, or make a new snapshot"
        )


def _parse(commit: str, content: str) -> Snapshot:
    try:
        return Snapshot(commit=commit, **json.loads(content))
    except (TypeError, ValueError):
        raise InterplantError(
            f"commit {commit[:12]}: {RECORD} is not what a snapshot writes; "
            "it was edited by hand or by another version"
        ) from None


def _bodies(answers: str) -> Iterator[str]:
    """Split what ``git cat-file --batch`` prints: a header with the size, the body, a newline."""
    rest = answers.encode()
    while rest:
        header, _, rest = rest.partition(b"\n")
        size = int(header.split()[-1])
        yield rest[:size].decode()
        rest = rest[size + 1 :]
