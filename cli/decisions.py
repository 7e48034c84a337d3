"""What a person decides of a release at the coordinator: approved, rejected, rolled back."""

import getpass
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from interplant.cli.output import show
from interplant.core.errors import UsageError
from interplant.server.directory import CoordinatorDirectory

if TYPE_CHECKING:
    from interplant.server.records import Release

Reason = Annotated[str, typer.Option(help="Why; it stands in the history.")]


def approve(directory: CoordinatorDirectory, release: str, json: bool) -> None:
    """Let plants be told of a candidate."""
    from interplant.server import releases

    _show(json, *releases.approve(directory, release, getpass.getuser()))


def reject(directory: CoordinatorDirectory, release: str, reason: str, json: bool) -> None:
    """Keep a release from plants for good."""
    from interplant.server import releases

    _show(json, *releases.reject(directory, release, getpass.getuser(), reason))


def roll_back(
    directory: CoordinatorDirectory, release: str | None, to: str | None, reason: str, json: bool
) -> None:
    """Take a release back everywhere; by default the one on offer, of the aim's task or the only one."""
    from interplant.server import releases

    taken = release or _on_offer(directory, to)
    _show(json, *releases.roll_back(directory, taken, to, getpass.getuser(), reason))


def _on_offer(directory: CoordinatorDirectory, to: str | None) -> str:
    from interplant.server.registry import Registry

    with closing(Registry.open(directory)) as registry:
        task = registry.release(to).task if to else None
        found = [one for one in registry.offered_releases() if task in (None, one.task)]
    if len(found) != 1:
        names = ", ".join(one.id for one in found) or "none"
        raise UsageError(f"expected one release on offer, found {names}: say which with --from")
    return found[0].id


def _show(json: bool, release: "Release", serving: bool) -> None:
    told = "plants are told" if serving else "plants are told once the coordinator serves"
    told = "" if release.state == "rejected" else f"; {told}"
    lead = f"Release {release.id} is {release.state}"
    back = f", back to {release.back_to}" if release.back_to else ""
    show(json, asdict(release) | {"serving": serving}, f"{lead}{back}{told}.")
