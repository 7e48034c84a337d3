"""``interplant lineage``: where a release, or one prediction, comes from."""

from pathlib import Path
from typing import Annotated

import typer

from interplant.cli import releases
from interplant.cli.coordinator import HERE, Directory
from interplant.cli.output import Json, show
from interplant.core.errors import UsageError

Name = Annotated[
    str,
    typer.Argument(
        metavar="RELEASE_OR_PREDICTION_ID",
        help="A release's id, or the path of its folder; with --plant also a prediction's id.",
    ),
]
Picture = Annotated[Path | None, typer.Option("--picture", help="Draw it too, as this SVG or PNG.")]


def lineage(
    name: Name,
    directory: Directory = HERE,
    plant: releases.AtPlant = None,
    key: releases.Key = None,
    picture: Picture = None,
    json: Json = False,
) -> None:
    """Show where a release or prediction comes from, signatures checked: run, plants, data, code, parents."""
    from interplant.cli.origin import Origin, document, text
    from interplant.client import provenance
    from interplant.client.directory import PlantDirectory

    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise UsageError(f"--picture: expected a name that ends in .svg or .png, found {picture}")
    said = None
    if provenance.is_prediction(name) and not Path(name).exists():
        if plant is None:
            raise UsageError(f"{name} is a prediction's id: only its plant knows it, add --plant DIR")
        said = provenance.prediction(PlantDirectory(plant), name)
        name = said.release
    found = releases.find(name, directory, plant, key)
    own = provenance.own_snapshots(PlantDirectory(plant), found.lineage.participants) if plant else {}
    origin = Origin(found, releases.ancestors(found, directory, plant, key), own, said)
    if picture is not None:
        from interplant.cli.origin_picture import draw

        draw(origin, picture)
    show(json, document(origin), text(origin))
