"""Back up a coordinator while it runs, and restore it: `interplant coordinator backup` and `restore`.

The registry is copied first and the folders after it. A run's checkpoint is then never older than what the
registry says of the run, and every release that it names is there: the state is one that a kill could have
left behind, and a coordinator goes on from such a state. Files of a coordinator are replaced, not changed,
so each copy is whole; the two that grow by lines are copied up to the size that they had.

A backup is a folder, or a tar file if its name ends with ``.tar``. ``backup.json``, written last, names every
file with size, mode and SHA-256. It holds the federation's secrets, and only its owner can open it.
"""

import hashlib
import io
import json
import logging
import os
import tempfile
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from interplant.core import config
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import PIECE
from interplant.core.schema import Federation
from interplant.core.staging import new_folder, refuse_existing
from interplant.server import registry_copy, release_keys
from interplant.server.artifacts import Artifacts
from interplant.server.backup_files import Files, Place, open_source, open_target
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry

log = logging.getLogger(__name__)

FORMAT: Final = "interplant-backup/1"
MANIFEST: Final = "backup.json"

_FOLDERS: Final = ("runs", "releases", "keys")
"""In this order: what is signed by a new key is copied before the key is."""


@dataclass(frozen=True)
class Entry:
    """One file of a backup: its path within, SHA-256 as lower-case hex, bytes, permission bits."""

    name: str
    sha256: str
    size: int
    mode: int


@dataclass(frozen=True)
class Backup:
    """What a backup holds.

    Args:
        federation: Name of the federation.
        created: ISO 8601, UTC.
        version: Version of Interplant that made it.
        schema: Version of the registry's tables.
        files: All files but ``backup.json``.
        missing: Releases that the registry knows and whose files are not in the coordinator's folder.
    """

    federation: str
    created: str
    version: str
    schema: int
    files: tuple[Entry, ...]
    missing: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)


def back_up(directory: CoordinatorDirectory, target: Path) -> Backup:
    """Copy a coordinator, whether it runs or not; ``target`` is whole or not there.

    Args:
        directory: The coordinator's directory.
        target: A folder that is empty or does not exist, or a file to be, whose name ends with ``.tar``.

    Raises:
        UsageError: The target is taken.
        InterplantError: The registry cannot be read, or the disk is full.
    """
    federation, target = directory.load(), target.absolute()
    with open_target(target) as place, tempfile.TemporaryDirectory(prefix="interplant-") as scratch:
        with closing(Registry.open(directory)) as registry:
            copied = registry_copy.copy(registry, Path(scratch))
            known = [release.id for release in registry.releases()]
        _bring_back(directory, known)
        entries = [_copy(place, copied, copied.name)]
        for folder in _FOLDERS:
            # The keys of one moment: a rotation replaces three files one after the other.
            with release_keys.unchanged(directory) if folder == "keys" else nullcontext():
                entries += _copy_folder(place, directory.path / folder, directory.path)
        entries.append(_copy(place, directory.config, directory.config.name))
        there = {
            PurePosixPath(entry.name).parts[1] for entry in entries if entry.name.startswith("releases/")
        }
        made = Backup(
            federation.name,
            datetime.now(UTC).isoformat(timespec="seconds"),
            version("interplant"),
            registry_copy.SCHEMA_VERSION,
            tuple(entries),
            tuple(name for name in known if name not in there),
        )
        text = json.dumps({"format": FORMAT, **asdict(made)}, indent=1).encode()
        place.add(MANIFEST, io.BytesIO(text), len(text), 0o600)
    with closing(Registry.open(directory)) as registry:
        registry.add_event("federation.backed_up", federation.name, f"{len(entries)} files to {target}")
    return made


def _bring_back(directory: CoordinatorDirectory, releases: list[str]) -> None:
    """Have the files of releases here that are kept elsewhere; what cannot be brought is named as missing."""
    artifacts = Artifacts.of(directory)
    for release in releases:
        try:
            artifacts.folder(release)
        except InterplantError as error:
            log.warning("%s", error)


def restore(source: Path, target: Path) -> Backup:
    """Make a coordinator's directory from a backup; nothing is written before every digest is right.

    A registry in PostgreSQL is filled into the database that the backup's ``federation.yaml`` names.

    Args:
        source: What `back_up` made.
        target: A folder that is empty or does not exist.

    Raises:
        UsageError: There is no backup, or a file of it is missing, changed or too many; the target is taken,
            or the database is not empty.
        InterplantError: Its keys are no pair.
    """
    refuse_existing(target.absolute())
    with open_source(source) as files:
        made = check(files)
        with new_folder(target.absolute(), "coordinator restore") as staging:
            for entry in made.files:
                _write(staging / entry.name, files.open(entry.name), entry)
            place = CoordinatorDirectory(staging)
            for empty in (place.runs, place.releases, place.spool):
                empty.mkdir(exist_ok=True)
            release_keys.check(place)
            federation = config.load(place.config, Federation)
            with closing(registry_copy.put_back(federation.database, staging, target.absolute())) as registry:
                registry.add_event("federation.restored", federation.name, f"from a backup of {made.created}")
    return made


def check(files: Files) -> Backup:
    """Hold every file of a backup to its digest.

    Raises:
        UsageError: One is missing, changed or not named; or ``backup.json`` cannot be read.
    """
    made = _manifest(files)
    found, named = files.names() - {MANIFEST}, {entry.name for entry in made.files}
    for name in sorted(found ^ named):
        what = "is missing" if name in named else "is not named in the backup"
        raise UsageError(f"{name}: {what}; use another backup")
    for entry in made.files:
        with files.open(entry.name) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise UsageError(f"{entry.name}: was changed since the backup; use another backup")
    return made


# --- reading ---------------------------------------------------------------------------------------


def _manifest(files: Files) -> Backup:
    try:
        with files.open(MANIFEST) as file:
            content: dict[str, Any] = json.loads(file.read())
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        entries = tuple(Entry(**entry) for entry in content.pop("files"))
        made = Backup(files=entries, missing=tuple(content.pop("missing")), **content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{MANIFEST}: expected that of a backup ({FORMAT}), found: {error}") from None
    for entry in entries:
        _check_name(entry.name)
    return made


def _check_name(name: str) -> None:
    """A name that leads out of the folder, or to where a coordinator has nothing, is none of ours."""
    path = PurePosixPath(name)
    at_home = len(path.parts) == 1 or path.parts[:1] in [(folder,) for folder in _FOLDERS]
    if path.is_absolute() or ".." in path.parts or not at_home or not name:
        raise UsageError(f"{MANIFEST}: {name!r} cannot be a file of a coordinator; use another backup")


def _write(path: Path, file: io.BufferedIOBase, entry: Entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = 0o600 if entry.mode & 0o077 == 0 else 0o644
    with file, os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as copy:
        digest = hashlib.sha256()
        while piece := file.read(PIECE):
            copy.write(piece)
            digest.update(piece)
        copy.flush()
        os.fsync(copy.fileno())
    if digest.hexdigest() != entry.sha256:
        raise UsageError(f"{entry.name}: was changed while it was read; use another backup")


# --- writing ---------------------------------------------------------------------------------------


def _copy_folder(place: Place, folder: Path, root: Path) -> list[Entry]:
    entries = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(root)
        if path.is_dir() or path.suffix == ".lock" or any(_is_unfinished(part) for part in name.parts):
            continue
        try:
            entries.append(_copy(place, path, name.as_posix()))
        except FileNotFoundError:
            continue  # it was removed meanwhile: nothing that lasts is
    return entries


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") and name.endswith((".part", ".new"))


def _copy(place: Place, path: Path, name: str) -> Entry:
    """Copy what a file holds now; what is appended meanwhile is not part of it."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        counting = _Counting(file, hashlib.sha256())
        place.add(name, counting, status.st_size, status.st_mode & 0o777)
    return Entry(name, counting.digest.hexdigest(), status.st_size, status.st_mode & 0o777)


@dataclass(frozen=True)
class _Counting:
    """A file whose bytes are hashed as they are read."""

    file: BinaryIO
    digest: "hashlib._Hash"

    def read(self, size: int = -1, /) -> bytes:
        piece = self.file.read(size)
        self.digest.update(piece)
        return piece
