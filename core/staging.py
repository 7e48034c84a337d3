"""Folders that are either whole or not there."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interplant.core.errors import UsageError
from interplant.core.files import disk_errors, only_one, sync_folder

_LOCK = ".lock"


def staging_path(target: Path) -> Path:
    """Return the hidden sibling in which ``target`` is built."""
    return target.with_name(f".{target.name}.part")


@contextmanager
def new_folder(target: Path, what: str, keep: bool = False) -> Iterator[Path]:
    """Build a folder in a hidden sibling, and let it appear whole when the block ends.

    Args:
        target: The folder to be; it may exist if it is empty. Made absolute by the caller.
        what: What is being made, for the errors' sentences.
        keep: Hand out and leave behind what an earlier, failed try has built; otherwise every try
            starts from nothing and a failed one leaves nothing.

    Yields:
        The hidden sibling, an existing folder that only this user can enter.

    Raises:
        UsageError: ``target`` exists and is not empty.
        InterplantError: Another process is making it, or the disk is full or cannot be written.
    """
    staging = staging_path(target)
    with disk_errors(target):
        refuse_existing(target)
    with disk_errors(target), only_one(staging / _LOCK, what):
        # Whoever held the lock before may have finished meanwhile.
        refuse_existing(target)
        staging.chmod(0o700)
        if not keep:
            _empty(staging)
        try:
            yield staging
            _move(staging, target)
        except BaseException:
            if not keep:
                shutil.rmtree(staging, ignore_errors=True)
            raise


def refuse_existing(target: Path) -> None:
    """Raise `UsageError` if ``target`` exists and is anything but an empty folder."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target}: expected a folder or nothing here; choose another place")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target}: this folder is not empty; choose another or remove it first")


def _empty(staging: Path) -> None:
    for path in staging.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _move(staging: Path, target: Path) -> None:
    for folder, _, _ in os.walk(staging):
        sync_folder(Path(folder))
    try:
        # Replaces an empty folder in one step, and no other.
        os.rename(staging, target)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EXDEV):
            raise UsageError(
                f"{target}: this folder cannot be replaced (a mount point); name a folder inside it"
            ) from error
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            refuse_existing(target)
        raise
    # Last, so that a second process never finds the place free while this one works.
    (target / _LOCK).unlink(missing_ok=True)
    sync_folder(target.parent)
