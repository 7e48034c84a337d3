"""What Git keeps of snapshots: a record of each, the newest first, its tag, and which were purged."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from interplant.core.errors import InterplantError
from interplant.core.files import indented, write_atomic
from interplant.data.git import git, head, tidy
from interplant.data.snapshots import READINGS, RECORD, Snapshot

POINTER: Final = f"{READINGS}.dvc"
PURGED: Final = "purged.json"
"""By digest: when and why a snapshot's readings were removed; see `interplant.data.versions`."""

_ASKED: Final = ("", f":{RECORD}", f":{POINTER}", f"^:{RECORD}")
"""What of the last commit, and of the one before, tells the newest snapshot."""

_SHORTEST: Final = 8
"""Digits of a digest that are enough to name it."""


def newest(repository: Path) -> tuple[Snapshot, str] | None:
    """Return the newest snapshot and DVC's pointer to its readings; None if there is none."""
    last, record, pointer, before = _objects(repository, [f"HEAD{one}" for one in _ASKED])
    if not record.name:
        return None
    commit = last.name
    if record.name == before.name:
        # The last commit is of something else, such as a purge.
        commit = git(repository, "log", "-1", "--format=%H", "--", RECORD).strip()
    return _parse(commit, record.content), pointer.content


def every(repository: Path) -> list[Snapshot]:
    """Return all snapshots, the newest first; purged ones among them."""
    commits = git(repository, "log", "--format=%H", "--", RECORD).split()
    records = _objects(repository, [f"{commit}:{RECORD}" for commit in commits])
    # A commit without one is of `clear`.
    pairs = zip(commits, records, strict=True)
    return [_parse(commit, found.content) for commit, found in pairs if found.name]


def named(repository: Path, digest: str) -> list[Snapshot]:
    """Return the snapshots whose digest starts with ``digest``, each once; none if it is too short."""
    found = {one.digest: one for one in reversed(every(repository))}
    return [one for one in found.values() if len(digest) >= _SHORTEST and one.digest.startswith(digest)]


def purged(repository: Path) -> dict[str, dict[str, str]]:
    """Return by digest ``when`` and ``why`` snapshots' readings were removed."""
    try:
        found: dict[str, dict[str, str]] = json.loads((repository / PURGED).read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        return {}


def commit(repository: Path, snapshot: Snapshot, pointer: str, message: str) -> Snapshot:
    """Commit a snapshot's record and pointer; return it with its commit.

    Args:
        repository: The repository's root.
        snapshot: What is recorded.
        pointer: DVC's, as ``.dvc`` file text.
        message: Of the commit; empty: the snapshot's name.
    """
    record = {name: value for name, value in vars(snapshot).items() if name not in ("commit", "folder")}
    files = {RECORD: indented(record), POINTER: pointer}
    if snapshot.digest in (gone := purged(repository)):
        # A source brought again what was removed.
        del gone[snapshot.digest]
        files[PURGED] = indented(gone)
    # Git keeps them: what lies here can be had from it again.
    for name, content in files.items():
        write_atomic(repository / name, content, durable=False)
    subject = message.strip() or f"Snapshot {snapshot.digest[:12]}"
    words = ("commit", "--quiet", f"--message={subject}", "--", *files)
    try:
        git(repository, *words)
    except InterplantError:  # a file that Git does not know yet
        git(repository, "add", "--", *files)
        git(repository, *words)
    tidy(repository)
    return replace(snapshot, commit=head(repository))


def restore(repository: Path) -> None:
    """Put the newest snapshot's record and pointer back where they lie."""
    git(repository, "checkout", "--quiet", "HEAD", "--", RECORD, POINTER)


def clear(repository: Path) -> None:
    """Have no newest snapshot, until the next is made; all that were stay in the log."""
    git(repository, "rm", "--quiet", "--force", "--ignore-unmatch", "--", RECORD, POINTER)
    git(repository, "commit", "--quiet", "--message=Hold no readings", "--", RECORD, POINTER)


def tag(repository: Path, snapshot: Snapshot) -> None:
    """Tag a snapshot's commit; one that holds the same as an older one takes its tag."""
    git(repository, "tag", "--force", tag_of(snapshot.digest), snapshot.commit)


def tag_of(digest: str) -> str:
    """Return the Git tag of a snapshot; what no tag names, `interplant.data.versions.purge` removes."""
    return f"snapshot-{digest[:12]}"


def _parse(commit: str, content: str) -> Snapshot:
    try:
        return Snapshot(commit=commit, **json.loads(content))
    except (TypeError, ValueError):
        raise InterplantError(
            f"commit {commit[:12]}: {RECORD} is not what a snapshot writes; "
            "it was edited by hand or by another version"
        ) from None


class _Object(NamedTuple):
    """An object of Git's: its name, and what it holds; both empty where there is none."""

    name: str
    content: str


def _objects(repository: Path, names: list[str]) -> list[_Object]:
    """Return several objects by one process."""
    if not names:
        return []
    rest = git(repository, "cat-file", "--batch", text="".join(f"{name}\n" for name in names)).encode()
    found = []
    # A header with name, kind and size, the body, a newline; or that it is missing.
    while rest:
        header, _, rest = rest.partition(b"\n")
        if header.endswith(b" missing"):
            found.append(_Object("", ""))
            continue
        name, _, size = header.split()
        found.append(_Object(name.decode(), rest[: int(size)].decode()))
        rest = rest[int(size) + 1 :]
    return found
