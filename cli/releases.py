"""How commands name a release: by its id at the coordinator or at a plant, or by its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interplant.client.directory import PlantDirectory
from interplant.core.errors import InterplantError, UsageError
from interplant.server.directory import CoordinatorDirectory

if TYPE_CHECKING:
    from interplant.core.keyring import Keyring
    from interplant.core.release import Release

Name = Annotated[str, typer.Argument(help="The release's id, or the path of its folder.")]
AtPlant = Annotated[Path | None, typer.Option("--plant", help="Look at this plant's directory instead.")]
Key = Annotated[Path | None, typer.Option("--key", help="The federation's public key, release.pub.")]


@dataclass(frozen=True)
class Ancestors:
    """The releases that a release descends from.

    Args:
        releases: The parent first.
        broken: Which one could not be followed, and why; empty if the last began with fresh weights.
    """

    releases: "tuple[Release, ...]"
    broken: str = ""


def find(name: str, coordinator: Path, plant: Path | None, key: Path | None = None) -> "Release":
    """Find a release and check its signature, its files and its lineage.

    What lies among the directory's own releases was verified when it came: it is found also if its key was
    revoked meanwhile, which `Release.revoked` then tells. With ``key``, or from elsewhere, it is refused.

    Args:
        name: Its id, or a path: anything with a folder in it, or a file of the release.
        coordinator: The coordinator's directory, unless ``plant`` is given.
        plant: A plant's directory.
        key: The public key, by default the directory's own.

    Raises:
        UsageError: There is no such release, or ``key`` is none.
        ReleaseRefused: It is not what was signed.
    """
    from interplant.core import keyring
    from interplant.core.release import check_id, read_release
    from interplant.server.artifacts import Artifacts

    place = PlantDirectory(plant) if plant else CoordinatorDirectory(coordinator)
    if len(Path(name).parts) > 1 or Path(name).exists():
        folder = Path(name).resolve()
        folder = folder.parent if folder.is_file() else folder
    else:
        place.check()
        folder = place.releases / check_id(name)
        if isinstance(place, CoordinatorDirectory):
            folder = Artifacts.of(place).folder(name)
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a release here, found none; see `interplant release list`")
    if key is None:
        place.check()
    own = key is None and folder.parent.resolve() == place.releases.resolve()
    return read_release(folder, _named(key) if key else keyring.read(place.release_public_key), kept=own)


def _named(key: Path) -> "Keyring":
    """The keys that count for who names one of them."""
    from interplant.core import keyring

    try:
        return keyring.read(key)
    except InterplantError as error:
        raise UsageError(f"--key: expected the federation's public key, release.pub: {error}") from None


def ancestors(found: "Release", coordinator: Path, plant: Path | None, key: Path | None) -> Ancestors:
    """Follow a release's parents back to the first, each checked as `find` checks.

    Args:
        found: What `find` returned; its parents are looked for beside it.
        coordinator: As for `find`.
        plant: As for `find`.
        key: As for `find`.
    """
    from interplant.core.release import check_id

    line = [found]
    while (parent := line[-1].lineage.parent) is not None:
        try:
            if any(one.id == parent for one in line):
                raise UsageError("it is among its own descendants")
            beside = found.folder.parent / check_id(parent)
            # What is not there, the directory may bring back from elsewhere.
            line.append(find(str(beside) if beside.is_dir() else parent, coordinator, plant, key))
        except InterplantError as error:
            return Ancestors(tuple(line[1:]), f"{parent}: {error}")
    return Ancestors(tuple(line[1:]))


def write_page(page: Path, target: Path) -> None:
    """Copy a release's card as it was signed.

    Raises:
        UsageError: The release has none, or the target is taken.
    """
    from interplant.core.files import write_atomic

    if not page.is_file():
        raise UsageError(f"{page.parent.name}: this release was made without a page; leave --html out")
    if target.exists():
        raise UsageError(f"{target}: there is something here already; choose another name")
    write_atomic(target, page.read_bytes())
