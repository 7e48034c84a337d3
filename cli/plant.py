"""``interplant plant``: one site."""

from pathlib import Path
from typing import Annotated

import typer

from interplant.cli.output import Json, show
from interplant.client.directory import PlantDirectory

app = typer.Typer(
    help="One site: joins a federation, trains on its own data, tries releases.", no_args_is_help=True
)

Directory = Annotated[Path, typer.Option("--dir", help="The plant's directory.")]
HERE = Path("plant")


@app.command()
def join(
    file: Annotated[Path, typer.Argument(help="The join file from the coordinator's operator.")],
    directory: Directory = HERE,
    address: Annotated[str, typer.Option(help="host:port to dial instead of the join file's.")] = "",
    json: Json = False,
) -> None:
    """Join a federation: make this plant's own keys, get its certificate, write plant.yaml."""
    from interplant.client.setup import join_plant

    plant = join_plant(file, directory, address or None)
    show(
        json,
        {"plant": plant.load().name, "directory": str(directory)},
        f"This plant's directory is {directory}. Its policy offers nothing yet: edit {plant.config}, "
        f"then: interplant plant serve --dir {directory}",
    )


@app.command()
def serve(directory: Directory = HERE) -> None:
    """Take part in the federation until Ctrl-C; what dies is started again."""
    from interplant.client.plant import serve as keep_serving
    from interplant.core import logs

    logs.setup()
    raise typer.Exit(keep_serving(PlantDirectory(directory)))
