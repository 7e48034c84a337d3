"""SHA-256 of a folder's files; what has not changed since it was hashed last is not hashed again.

A file is taken as unchanged while size, time of change and inode are: what an editor or a copy leaves. Rot
that leaves all three shows when the file is read for training, since what is parsed is hashed too.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
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
                found[name] = _state(entry.stat())
    return dict(sorted(found.items()))


def hashes_of(folder: Path, memory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under ``folder``, by relative name, sorted.

    Args:
        folder: What to look at; a missing one has no files.
        memory: Database of what was hashed before; made where there is none.
    """
    try:
        return _looked_up(folder, memory)
    except sqlite3.OperationalError:
        raise  # it is locked, or cannot be written
    except sqlite3.DatabaseError:
        # It only saves work: a damaged one is worth nothing.
        memory.unlink()
        return _looked_up(folder, memory)


def _looked_up(folder: Path, memory: Path) -> dict[str, str]:
    found = files_in(folder)
    with _opened(memory) as database:
        known = {
            name: ((size, changed, inode), sha256)
            for name, size, changed, inode, sha256 in database.execute(
                "SELECT name, size, changed, inode, sha256 FROM file WHERE folder = ?", (str(folder),)
            )
        }
        hashes = {}
        for name, state in found.items():
            before = known.get(name)
            hashes[name] = before[1] if before and before[0] == state else sha256_file(folder / name)
        news = [name for name in found if known.get(name) != (found[name], hashes[name])]
        _write(database, folder, {name: (found[name], hashes[name]) for name in news})
        _forget(database, folder, known.keys() - found.keys())
    return hashes


def remember(memory: Path, folder: Path, hashes: Mapping[str, str]) -> None:
    """Note hashes of files under ``folder`` as they are now."""
    with _opened(memory) as database:
        states = {name: _state((folder / name).stat()) for name in hashes}
        _write(database, folder, {name: (states[name], hashes[name]) for name in hashes})


def _state(found: os.stat_result) -> State:
    return found.st_size, found.st_mtime_ns, found.st_ino


def _write(database: sqlite3.Connection, folder: Path, entries: Mapping[str, tuple[State, str]]) -> None:
    database.executemany(
        "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?)",
        [(str(folder), name, *state, sha256) for name, (state, sha256) in entries.items()],
    )


def _forget(database: sqlite3.Connection, folder: Path, names: Iterable[str]) -> None:
    database.executemany(
        "DELETE FROM file WHERE folder = ? AND name = ?", [(str(folder), name) for name in names]
    )


@contextmanager
def _opened(memory: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(memory, timeout=30)) as database, database:
        # Not worth a wait for the disk: what a power cut damages is made anew.
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "CREATE TABLE IF NOT EXISTS file (folder TEXT, name TEXT, size INTEGER, changed INTEGER, "
            "inode INTEGER, sha256 TEXT, PRIMARY KEY (folder, name)) WITHOUT ROWID"
        )
        yield database
