"""Files that are either whole or not there."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interplant.core.errors import InterplantError

PIECE = 1 << 20
"""Bytes read or sent at a time."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing right into one clear sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InterplantError(
                f"{path}: the disk is full; free some space and start again (nothing was lost)"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InterplantError(
                f"{path}: cannot be written; give this user the right to write there"
            ) from error
        raise


def write_atomic(path: Path, content: bytes | str, mode: int = 0o644, durable: bool = True) -> None:
    """Write a file durably: a reader sees the old content or the new, never a part.

    Args:
        path: Where to write; its folder is made if missing.
        content: Bytes, or text stored as UTF-8.
        mode: Permission bits of the new file.
        durable: Whether it has to outlive a power cut, not only a kill: two waits for the disk.

    Raises:
        InterplantError: The disk is full or the folder cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.part")
    with disk_errors(path):
        try:
            with os.fdopen(_new(temporary, mode), "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(folder or ".")


def _new(path: str, mode: int) -> int:
    """Open a new file for writing; its folder is made if missing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, mode)


def indented(content: object) -> str:
    """Return what ``json.dumps(content, indent=1)`` gives, and a newline, in a third of its time."""
    import msgspec

    return msgspec.json.format(json.dumps(content).encode(), indent=1).decode() + "\n"


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that its user alone reads, durably; one that a kill has cut off spoils no other.

    Raises:
        InterplantError: The disk is full or the folder cannot be written.
    """
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            cut = end and os.pread(descriptor, 1, end - 1) != b"\n"
            file.write(b"\n" * bool(cut) + line.encode() + b"\n")
            file.flush()
            os.fsync(descriptor)


def sync_folder(folder: Path | str) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_state(path: Path) -> object:
    """Return what differs once a file has been changed or replaced; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` while the block runs.

    Args:
        path: Lock file, made if missing; it is left in place.
        what: What is locked, for the error's sentence.

    Raises:
        InterplantError: Another process holds the lock.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InterplantError(f"{what} is already running from {path.parent}; stop it first") from None
        yield


@contextmanager
def takes_turns(path: Path) -> Iterator[None]:
    """Wait for an exclusive lock on ``path`` and hold it while the block runs.

    Args:
        path: Lock file, made if missing; it is left in place.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Tell whether a process holds `only_one` on ``path``."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def link_or_copy(source: Path, target: Path) -> None:
    """Put the file at ``target`` too: as a hard link, or a copy where that cannot be."""
    if not linked(source, target):
        staged = target.with_name(f".{target.name}.new")
        shutil.copy2(source, staged)
        os.replace(staged, target)


def linked(source: Path, target: Path) -> bool:
    """Put the file at ``target`` too, as a hard link; False, and nothing done, where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.new")
    staged.unlink(missing_ok=True)
    try:
        os.link(source, staged)
    except OSError:
        return False
    os.replace(staged, target)
    return True
