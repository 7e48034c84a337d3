"""DVC's own Python interface, quiet, with its bookkeeping inside the repository and no other remote."""

import configparser
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors


@contextmanager
def dvc_session(path: Path, linked: bool = False) -> Iterator[Any]:
    """Yield DVC's repository object for the repository at ``path``.

    Args:
        path: The repository's root.
        linked: Whether working files may share their bytes with the cache (hard links), where the file system
            cannot copy on write: for files that nobody changes in place.
    """
    with warnings.catch_warnings():
        # DVC's own dependencies warn of their deprecations while they are imported and used.
        warnings.simplefilter("ignore")
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
        from dvc_data.index import DataIndexDirError

        logging.getLogger("dvc").setLevel(logging.ERROR)
        home = path.resolve() / ".dvc"
        settings: dict[str, Any] = {
            "core": {"site_cache_dir": str(home / "tmp" / "site")},
            # At a past revision DVC reads its settings from Git and cannot resolve a relative path.
            "remote": {"plant": {"url": str(home / _remote(home))}},
        }
        if linked:
            settings["cache"] = {"type": "reflink,hardlink,copy"}
        try:
            with disk_errors(path), Repo(str(path.resolve()), config=settings) as repository:
                yield repository
        except (DvcException, DataIndexDirError, FileNotFoundError) as error:
            said = str(error).splitlines()[0]
            raise InterplantError(f"{path}: DVC could not store or fetch the data: {said}") from error


def cached_file(path: Path, pointer: str, name: str) -> Path | None:
    """Return where DVC's cache keeps one file of a tracked folder; None if it does not know.

    Args:
        path: The repository's root.
        pointer: The folder's pointer, as ``.dvc`` file text.
        name: The file, relative to the folder.
    """
    import yaml

    cache = path / ".dvc" / "cache" / "files" / "md5"
    try:
        own = yaml.safe_load(pointer)["outs"][0]["md5"]
        listed = json.loads((cache / own[:2] / own[2:]).read_text(encoding="utf-8"))
        md5: str
        (md5,) = [entry["md5"] for entry in listed if entry["relpath"] == name]
    except (OSError, ValueError, KeyError, TypeError, IndexError, yaml.YAMLError):
        return None
    return cache / md5[:2] / md5[2:]


def _remote(home: Path) -> str:
    """Where the remote is, as ``.dvc/config`` says it: relative to ``.dvc`` or absolute."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(home / "config", encoding="utf-8")
    try:
        return parser["'remote \"plant\"'"]["url"]
    except KeyError:
        raise InterplantError(f"{home / 'config'}: expected a remote called plant") from None
