"""The files of a backup, in a folder or in a tar file: read and written one at a time."""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from interplant.core.errors import UsageError
from interplant.core.files import PIECE, disk_errors, sync_folder
from interplant.core.staging import new_folder


class Readable(Protocol):
    """Bytes that are read from the first to the last."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""


class Files(Protocol):
    """The files of a backup, wherever they lie."""

    def names(self) -> set[str]:
        """Every file's path within the backup."""

    def open(self, name: str) -> io.BufferedIOBase:
        """Open one; the caller closes it."""


class Place(Protocol):
    """Where a backup is written."""

    def add(self, name: str, file: Readable, size: int, mode: int) -> None:
        """Write ``size`` bytes of a file."""


@dataclass(frozen=True)
class _Folder:
    path: Path

    def names(self) -> set[str]:
        return {path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if not path.is_dir()}

    def open(self, name: str) -> io.BufferedIOBase:
        path = self.path / name
        if path.is_symlink() or not path.is_file():
            raise UsageError(f"{name}: is missing or no plain file; use another backup")
        return path.open("rb")


@dataclass(frozen=True)
class _Tar:
    tar: tarfile.TarFile

    def names(self) -> set[str]:
        return {member.name for member in self.tar if not member.isdir()}

    def open(self, name: str) -> io.BufferedIOBase:
        try:
            member = self.tar.getmember(name)
            file = self.tar.extractfile(member) if member.isreg() else None
        except KeyError:
            file = None
        if file is None:
            raise UsageError(f"{name}: is missing or no plain file; use another backup")
        return file  # type: ignore[return-value]  # a buffered reader, which is one


@contextmanager
def open_source(source: Path) -> Iterator[Files]:
    """Open a backup to read it.

    Raises:
        UsageError: There is none, or it is no whole tar file.
    """
    if source.is_dir():
        yield _Folder(source)
        return
    try:
        with tarfile.open(source, "r:") as tar:
            yield _Tar(tar)
    except FileNotFoundError:
        raise UsageError(f"{source}: expected a backup here, found none") from None
    except tarfile.TarError as error:
        raise UsageError(f"{source}: is no whole tar file: {error}; use another backup") from None


@dataclass(frozen=True)
class _IntoFolder:
    path: Path

    def add(self, name: str, file: Readable, size: int, mode: int) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as copy:
            while size and (piece := file.read(min(PIECE, size))):
                copy.write(piece)
                size -= len(piece)
            copy.flush()
            os.fsync(copy.fileno())


@dataclass(frozen=True)
class _IntoTar:
    tar: tarfile.TarFile

    def add(self, name: str, file: Readable, size: int, mode: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, mode
        self.tar.addfile(member, file)


@contextmanager
def open_target(target: Path) -> Iterator[Place]:
    """Open a backup to be; it is whole or not there when the block ends.

    Raises:
        UsageError: The place is taken.
        InterplantError: The disk is full or cannot be written.
    """
    if target.suffix != ".tar":
        with new_folder(target, "coordinator backup") as staging:
            yield _IntoFolder(staging)
        return
    if target.exists():
        raise UsageError(f"{target}: there is a file here already; choose another name")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    yield _IntoTar(tar)
                file.flush()
                os.fsync(file.fileno())
            os.rename(part, target)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(target.parent)
