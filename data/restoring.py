"""An older snapshot brought back from DVC's cache or the plant's remote, whole or not at all."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from interplant.core.files import disk_errors, sha256_file
from interplant.data.dvc_session import dvc_session
from interplant.data.git import git
from interplant.data.hashes import files_in
from interplant.data.objects import cached, listed
from interplant.data.records import POINTER
from interplant.data.snapshots import READINGS, Snapshot, verify


def restore(repository: Path, snapshot: Snapshot, folder: Path) -> None:
    """Put a snapshot's files into ``folder``, which is made.

    Args:
        repository: The repository's root.
        snapshot: Of it.
        folder: In the repository.

    Raises:
        InterplantError: A file is nowhere to be found, or nowhere what the snapshot says.
    """
    incoming = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(incoming, ignore_errors=True)
    with disk_errors(folder):
        folder.parent.mkdir(exist_ok=True)
    try:
        _get(repository, snapshot, incoming)
        damaged = [name for name, own in _hashes(incoming).items() if own != snapshot.files.get(name)]
        if damaged and _drop_cached(repository, snapshot, damaged):
            shutil.rmtree(incoming)
            _get(repository, snapshot, incoming)
        verify(_hashes(incoming), snapshot, repository / ".dvc" / "cache")
        if not folder.is_dir():
            incoming.rename(folder)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _get(repository: Path, snapshot: Snapshot, folder: Path) -> None:
    with dvc_session(repository) as dvc, dvc.switch(snapshot.commit):
        dvc.dvcfs.get(f"/{READINGS}", str(folder), recursive=True)


def _drop_cached(repository: Path, snapshot: Snapshot, names: Iterable[str]) -> bool:
    """Remove damaged files from DVC's cache, where a working file may have shared their bytes."""
    known = listed(repository, git(repository, "show", f"{snapshot.commit}:{POINTER}"))
    found = [cached(repository, known[name]) for name in names if name in known]
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


def _hashes(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in files_in(folder)}
