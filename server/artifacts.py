"""Where the files of releases are kept: in ``releases/``, or at any URL that fsspec opens.

With a URL, ``releases/`` holds copies of what plants fetch: a release is copied there once it is signed, and
what is missing here is brought back, and checked, when it is needed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interplant.core import keyring, signing
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import disk_errors, sync_folder
from interplant.core.release import check_id, read_release
from interplant.server.directory import CoordinatorDirectory

_LAST = (signing.MANIFEST, signing.SIGNATURE)
"""Written after all others: what has no signature yet is no release."""


@dataclass(frozen=True)
class Artifacts:
    """A coordinator's releases.

    Args:
        directory: The coordinator's directory.
        url: ``artifacts`` of its ``federation.yaml``; empty: there is no other place than ``releases/``.
    """

    directory: CoordinatorDirectory
    url: str

    @classmethod
    def of(cls, directory: CoordinatorDirectory) -> "Artifacts":
        """Open those of a coordinator's directory."""
        return cls(directory, directory.load().artifacts)

    def keep(self, release: str) -> None:
        """Copy a release from ``releases/`` to the URL; done again, it changes nothing.

        Raises:
            UsageError: No such URL can be opened here.
            InterplantError: It cannot be written, or holds another release of that name.
        """
        if not self.url:
            return
        folder = self.directory.releases / release
        with self._there(release) as (system, place):
            manifest = (folder / signing.MANIFEST).read_bytes()
            if system.exists(f"{place}/{signing.SIGNATURE}"):
                if system.cat_file(f"{place}/{signing.MANIFEST}") != manifest:
                    raise InterplantError(f"{self._shown}: holds another release {release}; move it away")
                return
            system.makedirs(place, exist_ok=True)
            names = sorted(path.name for path in folder.iterdir() if path.name not in _LAST)
            for name in (*names, *_LAST):
                system.put_file(str(folder / name), f"{place}/{name}")

    def folder(self, release: str) -> Path:
        """Return a release's folder here, after bringing it from the URL if it is not here.

        Raises:
            UsageError: There is no such release, or no such URL can be opened here.
            InterplantError: It cannot be read, or is not what was signed.
        """
        folder = self.directory.releases / check_id(release)
        if folder.is_dir():
            return folder
        if not self.url:
            raise UsageError(
                f"release {release!r} is not in {self.directory.releases}; see `interplant release list`"
            )
        staging = self.directory.releases / f".{release}.{os.getpid()}.part"
        try:
            with disk_errors(folder):
                self._bring(release, staging / release)
                read_release(staging / release, keyring.read(self.directory.release_public_key), kept=True)
                os.rename(staging / release, folder)
                sync_folder(folder.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return folder

    @property
    def _shown(self) -> str:
        """The URL without who reads it and their password."""
        scheme, found, rest = self.url.partition("://")
        return f"{scheme}{found}{rest.rpartition('@')[2]}"

    def _bring(self, release: str, target: Path) -> None:
        with self._there(release) as (system, place):
            if not system.exists(f"{place}/{signing.SIGNATURE}"):
                raise UsageError(
                    f"release {release!r} is neither in {self.directory.releases} nor at {self._shown}"
                )
            target.mkdir(parents=True, exist_ok=True)
            for path in system.ls(place, detail=False):
                name = str(path).rsplit("/", 1)[-1]
                system.get_file(f"{place}/{name}", str(target / name))

    @contextmanager
    def _there(self, release: str) -> Iterator[tuple[Any, str]]:
        """The file system of the URL and a release's place in it; faults become one sentence."""
        import fsspec

        try:
            system, root = fsspec.core.url_to_fs(self.url)
            system.invalidate_cache()  # another process may have written there
            yield system, f"{root.rstrip('/')}/{release}"
        except InterplantError:
            raise
        except (ValueError, ImportError) as error:
            raise UsageError(f"artifacts: {self._shown} cannot be opened here: {error}") from None
        except Exception as error:  # each kind of store has errors of its own
            raise InterplantError(
                f"artifacts: {self._shown} cannot be used: {type(error).__name__}: {error}; check the "
                "address and this machine's rights there"
            ) from error
