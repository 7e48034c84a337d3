"""SHA-256 of a folder's files; what has not changed since it was hashed last is not hashed again.

A file is taken as unchanged while size, time of change and inode are: what an editor or a copy leaves. Rot
that leaves all three shows when the file is read for training, since what is parsed is hashed too.
"""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from interplant.core.files import sha256_file

State = tuple[int, int, int]


def files_in(folder: Path) -> dict[str, State]:
    """Return size, time of change (ns) and inode of every file under ``folder``, by relative name."""
    found: dict[str, State] = {}
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            entries = list(os.scandir(folder / inside))
        except FileNotFoundError:
            continue
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
            else:
                state = entry.stat()
                found[name] = (state.st_size, state.st_mtime_ns, state.st_ino)
    return dict(sorted(found.items()))


def hashes_of(folder: Path, memory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under ``folder``, by relative name, sorted.

    Args:
        folder: What to look at; a missing one has no files.
        memory: Database of what was hashed before; made where there is none, outdated entries are replaced.
    """
    found, known = files_in(folder), _recall(memory, folder)
    hashes = {}
    for name, state in found.items():
        before = known.get(name)
        hashes[name] = before[1] if before and before[0] == state else sha256_file(folder / name)
    if {name: (state, hashes[name]) for name, state in found.items()} != known:
        remember(memory, folder, hashes)
    return hashes


def remember(memory: Path, folder: Path, hashes: Mapping[str, str]) -> None:
    """Note hashes of the files under ``folder`` as they are now; others are forgotten."""
    rows = [
        (str(folder), name, *state, hashes[name])
        for name, state in files_in(folder).items()
        if name in hashes
    ]
    with closing(_opened(memory)) as database, database:
        database.execute("DELETE FROM file WHERE folder = ?", (str(folder),))
        database.executemany("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?)", rows)


def _recall(memory: Path, folder: Path) -> dict[str, tuple[State, str]]:
    with closing(_opened(memory)) as database:
        rows = database.execute(
            "SELECT name, size, changed, inode, sha256 FROM file WHERE folder = ?", (str(folder),)
        )
        return {name: ((size, changed, inode), sha256) for name, size, changed, inode, sha256 in rows}


def _opened(memory: Path) -> sqlite3.Connection:
    for attempt in (1, 2):
        database = sqlite3.connect(memory, timeout=30)
        try:
            database.execute(
                "CREATE TABLE IF NOT EXISTS file (folder TEXT, name TEXT, size INTEGER, changed INTEGER, "
                "inode INTEGER, sha256 TEXT, PRIMARY KEY (folder, name)) WITHOUT ROWID"
            )
            return database
        except sqlite3.DatabaseError:
            database.close()
            if attempt == 2:
                raise
            # It only saves work: a damaged one is worth nothing.
            memory.unlink()
    raise AssertionError("unreachable")
