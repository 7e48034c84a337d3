"""A folder's files in DVC's cache and in the plant's remote, as ``dvc add`` and ``dvc push`` would put them.

Both look into every file's state and ask for every object by itself, which takes as long for one changed
file of a thousand as for all. Who knows what changed tells it here; the rest costs one look at each object's
size, so that one that is missing, or was cut short by a power cut, is put there again. Bytes are moved by
DVC's own object store (``dvc-data``), and what is left is DVC's own: its pointer, its listing, its layout.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from interplant.data.dvc_session import object_stores

_HASHERS: Final = 4
_POINTER: Final = """\
outs:
- md5: {own}
  size: {size}
  nfiles: {files}
  hash: md5
  path: {name}
"""


def track(folder: Path, hashes: Mapping[str, str], known: Mapping[str, str], linked: bool) -> str:
    """Put a folder's files into DVC's cache and the plant's remote.

    Done again after a kill, it completes what is missing.

    Args:
        folder: Directly in the repository's root.
        hashes: SHA-256 of each of its files by relative name.
        known: MD5 by SHA-256 of files that were tracked before; the others are hashed.
        linked: Whether nobody changes the files in place, so that the cache may share their bytes.

    Returns:
        The pointer that names them, as ``.dvc`` file text.

    Raises:
        InterplantError: The disk is full, or cannot be written.
    """
    # Text, not `Path`: of a thousand files, making the names would take longer than asking for them.
    paths = {name: f"{folder}/{name}" for name in hashes}
    sizes = {name: os.stat(path).st_size for name, path in paths.items()}
    fresh = [name for name, own in hashes.items() if own not in known]
    with ThreadPoolExecutor(_HASHERS) as pool:
        found = dict(zip(fresh, pool.map(_md5_of, [paths[name] for name in fresh]), strict=True))
    md5s = {name: found.get(name) or known[own] for name, own in hashes.items()}
    listing = _listing(md5s)
    own = f"{_md5(listing)}.dir"
    size_of = {md5s[name]: size for name, size in sizes.items()}
    with object_stores(folder.parent) as (cache, remote):
        _add(cache, {md5s[name]: path for name, path in paths.items()}, size_of, linked)
        _add(remote, {md5: cache.oid_to_path(md5) for md5 in size_of}, size_of, linked=False)
        for store in (cache, remote):
            # Last: where a listing is, what it lists is too.
            if _lacks(store.oid_to_path(own), len(listing)):
                store.add_bytes(own, listing)
                store.protect(store.oid_to_path(own))
    return _POINTER.format(own=own, size=sum(sizes.values()), files=len(sizes), name=folder.name)


def listed(root: Path, pointer: str) -> dict[str, str]:
    """Return the MD5 of each file of a tracked folder by name, as DVC's cache knows it; none if it does not.

    Args:
        root: The repository's.
        pointer: The folder's pointer, as ``.dvc`` file text.
    """
    import yaml

    try:
        own = yaml.safe_load(pointer)["outs"][0]["md5"]
        content = cached(root, own).read_bytes()
        if f"{_md5(content)}.dir" != own:
            return {}
        return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}
    except (OSError, ValueError, KeyError, TypeError, IndexError, yaml.YAMLError):
        return {}


def cached(root: Path, md5: str) -> Path:
    """Return where DVC's cache keeps an object."""
    return root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def _add(store: Any, paths: Mapping[str, str], sizes: Mapping[str, int], linked: bool) -> None:
    """Put what a store lacks into it; paths and sizes by MD5."""
    from dvc_objects.fs.local import localfs

    missing = [md5 for md5, size in sizes.items() if _lacks(store.oid_to_path(md5), size)]
    if missing:
        found: list[Any] = [paths[md5] for md5 in missing]
        store.add(found, localfs, missing, hardlink=linked, check_exists=False)


def _lacks(path: str, size: int) -> bool:
    """Tell whether an object is not there whole; half of one is removed."""
    try:
        if os.stat(path).st_size == size:
            return False
        os.unlink(path)
    except FileNotFoundError:
        pass
    return True


def _listing(md5s: Mapping[str, str]) -> bytes:
    """DVC's object for a folder: the same files give the same bytes."""
    return json.dumps([{"md5": md5s[name], "relpath": name} for name in sorted(md5s)]).encode()


def _md5_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
