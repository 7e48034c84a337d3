"""DVC's own Python interface, quiet, with its bookkeeping inside the repository and no other remote."""

import configparser
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors


@contextmanager
def dvc_session(path: Path) -> Iterator[Any]:
    """Yield DVC's repository object for the repository at ``path``."""
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
        try:
            with disk_errors(path), Repo(str(path.resolve()), config=settings) as repository:
                yield repository
        except (DvcException, DataIndexDirError, FileNotFoundError) as error:
            said = str(error).splitlines()[0]
            raise InterplantError(f"{path}: DVC could not store or fetch the data: {said}") from error


@contextmanager
def object_stores(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield where DVC keeps the objects of the repository at ``path``: its cache, and the plant's remote."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in `dvc_session`
        from dvc_data.hashfile.db.local import LocalHashFileDB
        from dvc_objects.fs.local import localfs

        home = path.resolve() / ".dvc"
        places = (home / "cache", (home / _remote(home)).resolve())
        store: Any = LocalHashFileDB
        cache, remote = (store(localfs, str(place / "files" / "md5")) for place in places)
        with disk_errors(path):
            yield cache, remote


def _remote(home: Path) -> str:
    """Where the remote is, as ``.dvc/config`` says it: relative to ``.dvc`` or absolute."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(home / "config", encoding="utf-8")
    try:
        return parser["'remote \"plant\"'"]["url"]
    except KeyError:
        raise InterplantError(f"{home / 'config'}: expected a remote called plant") from None
