"""``interplant release``: signed model versions, at the coordinator and at a plant."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interplant.cli import decisions, releases
from interplant.cli.coordinator import HERE, Directory
from interplant.cli.output import Json, facts, show, table
from interplant.cli.tree import Group
from interplant.client.directory import PlantDirectory
from interplant.core.errors import UsageError
from interplant.server.directory import CoordinatorDirectory

if TYPE_CHECKING:
    from interplant.core.release import Release

app = Group("Signed model versions: list, check, approve, take back, read their cards.")


@app.command(name="list")
def list_releases(directory: Directory = HERE, plant: releases.AtPlant = None, json: Json = False) -> None:
    """List the releases: at the coordinator the newest first, at a plant with what became of them."""
    if plant is not None:
        _list_at(PlantDirectory(plant), json)
        return
    from interplant.server.registry import Registry

    found = Registry.open(CoordinatorDirectory(directory)).releases()
    rows = [[one.id, one.task, one.state, one.created, one.manifest_sha256[:12]] for one in found]
    columns = ["release", "task", "state", "created", "sha256"]
    show(json, [asdict(one) for one in found], table(columns, rows, "There is no release yet."))


@app.command(name="show")
def show_release(
    release: Annotated[str, typer.Argument(help="The release's id.")],
    directory: Directory = HERE,
    plant: releases.AtPlant = None,
    json: Json = False,
) -> None:
    """Show a release: at the coordinator its state at each plant, at a plant the gate's result."""
    if plant is not None:
        _show_at(PlantDirectory(plant), release, json)
        return
    from interplant.core.release import sentence
    from interplant.server.registry import Registry

    registry = Registry.open(CoordinatorDirectory(directory))
    found, deployed = registry.release(release), registry.deployments(release)
    history, events = registry.deployment_history(release), registry.events(release)[::-1]
    rows = [
        [one.plant, one.state, sentence(one.reason) if one.reason else "", one.updated] for one in deployed
    ]
    lines: dict[str, object] = {"release": found.id, "task": found.task, "run": found.run}
    lines |= {"created": found.created, "state": found.state}
    text = table(["plant", "state", "reason", "told"], rows, "No plant has told of it yet.")
    life = [[one.kind.removeprefix("release."), one.text, one.time] for one in events]
    document = {"release": asdict(found), "plants": [asdict(one) for one in deployed]}
    document |= {"history": [asdict(one) for one in history], "events": [asdict(one) for one in events]}
    show(json, document, f"{facts(dict(lines))}\n\n{text}\n\n{table(['state', 'why', 'since'], life, '')}")


@app.command()
def approve(
    release: Annotated[str, typer.Argument(help="The release's id.")],
    directory: Directory = HERE,
    plant: releases.AtPlant = None,
    json: Json = False,
) -> None:
    """Approve a release: at the coordinator to tell plants of it, at a plant to serve what waits there."""
    if plant is None:
        decisions.approve(CoordinatorDirectory(directory), release, json)
        return
    from interplant.client import deployment

    place = PlantDirectory(plant)
    place.check()
    verdict = deployment.approve(place, release)
    show(json, {"release": release, **asdict(verdict)}, f"Release {release} is {verdict.state}.")


@app.command()
def reject(
    release: Annotated[str, typer.Argument(help="The release's id.")],
    directory: Directory = HERE,
    plant: releases.AtPlant = None,
    reason: decisions.Reason = "",
    json: Json = False,
) -> None:
    """Say no to a release: at the coordinator before plants are told, at a plant before it is champion."""
    if plant is None:
        decisions.reject(CoordinatorDirectory(directory), release, reason, json)
        return
    from interplant.client import deployment

    place = PlantDirectory(plant)
    place.check()
    verdict = deployment.reject(place, release, reason)
    show(json, {"release": release, **asdict(verdict)}, f"Release {release} is {verdict.state}.")


@app.command()
def retry(
    release: Annotated[str, typer.Argument(help="The release's id.")],
    plant: Annotated[Path, typer.Option("--plant", help="The plant's directory.")],
    json: Json = False,
) -> None:
    """Have a plant try a release again that it refused or withdrew, once the cause is mended."""
    from interplant.client import deployment

    place = PlantDirectory(plant)
    place.check()
    deployment.retry(place, release)
    said = f"Release {release} is tried again by the plant's agent; see `interplant release list --plant`."
    show(json, {"release": release, "state": "received"}, said)


@app.command()
def rollback(
    release: Annotated[
        str | None, typer.Argument(help="The release to go back to; by default the good one before.")
    ] = None,
    taken_back: Annotated[
        str | None,
        typer.Option(
            "--from", help="Take this release back at the coordinator; by default the one on offer."
        ),
    ] = None,
    directory: Directory = HERE,
    plant: releases.AtPlant = None,
    reason: decisions.Reason = "",
    json: Json = False,
) -> None:
    """Take a release back: at the coordinator for every plant that lets it, at a plant at once."""
    if plant is None:
        decisions.roll_back(CoordinatorDirectory(directory), taken_back, release, reason, json)
        return
    if taken_back is not None:
        raise UsageError("--from: expected it without --plant: a plant goes back from its champion")
    from interplant.client.rollback import roll_back

    place = PlantDirectory(plant)
    place.check()
    found = roll_back(place, release, reason)
    show(json, asdict(found), f"Release {found.release} serves again.")


@app.command()
def verify(
    release: Annotated[Path, typer.Argument(help="The release's folder, or a file in it.")],
    key: Annotated[Path, typer.Option("--key", help="The federation's public key, release.pub.")],
    json: Json = False,
) -> None:
    """Check a release without any network: signature, every file, lineage."""
    found = releases.find(str(release.resolve()), HERE, None, key)
    show(
        json,
        {"release": found.id, "sha256": found.sha256, "signature_verified": True},
        f"Release {found.id} is signed by this key and unchanged (sha256 {found.sha256}).",
    )


@app.command()
def card(
    release: releases.Name,
    directory: Directory = HERE,
    plant: releases.AtPlant = None,
    key: releases.Key = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write it to this file as a page with curves instead.")
    ] = None,
    json: Json = False,
) -> None:
    """Print a release's model card, Markdown, after checking its signature."""
    from interplant.core.release import CARD, CARD_HTML

    found = releases.find(release, directory, plant, key)
    document, mark = {"release": found.id, "key_revoked": bool(found.revoked)}, _mark(found)
    if html is not None:
        releases.write_page(found.folder / CARD_HTML, html)
        text = f"The card of release {found.id} is in {html}. {mark}"
        show(json, document | {"html": str(html)}, text.rstrip())
        return
    text = (found.folder / CARD).read_text(encoding="utf-8")
    show(json, document | {"card": text}, (f"> {mark}\n\n" if mark else "") + text.rstrip())


def _mark(release: "Release") -> str:
    """What has to be known of a release beside its card, or empty."""
    return f"Take care: it is {release.revoked}." if release.revoked else ""


def _list_at(plant: PlantDirectory, json: bool) -> None:
    from interplant.client import deployment

    plant.check()
    found = deployment.standing(plant)
    rows = [[name, one.state, one.sentence] for name, one in found]
    document = [{"release": name, **asdict(one)} for name, one in found]
    show(json, document, table(["release", "state", "why"], rows, "No release has come here yet."))


def _show_at(plant: PlantDirectory, release: str, json: bool) -> None:
    from interplant.client import champion as pointers
    from interplant.client import deployment
    from interplant.core.errors import UsageError

    plant.check()
    verdict, champion = dict(deployment.standing(plant)).get(release), pointers.champion(plant)
    if verdict is None:
        raise UsageError(
            f"release {release!r} was not tried at this plant; "
            f"see `interplant release list --plant {plant.path}`"
        )
    serving = champion is not None and champion.release == release
    lines: dict[str, object] = {"release": release, "state": verdict.state, "why": verdict.sentence}
    lines["serves now"] = serving
    document = {"release": release, "serving": serving, **asdict(verdict)}
    show(json, document, facts(lines))
