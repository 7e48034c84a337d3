"""The tree of commands: thin, over plain functions of the other rooms."""

from importlib.metadata import version
from typing import Annotated

import click
import typer

from interplant.cli import coordinator, data, demo, lineage, plant, privacy, release, run, simulate
from interplant.cli.tree import Group

app = Group("Federated learning for manufacturers with several plants: private, versioned, signed.")
app.command(name="demo")(demo.demo)
app.command(name="simulate")(simulate.simulate)
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(plant.app, name="plant")
app.add_typer(run.app, name="run")
app.add_typer(data.app, name="data")
app.add_typer(privacy.app, name="privacy")
app.add_typer(release.app, name="release")
app.command(name="lineage")(lineage.lineage)


def command() -> click.Command:
    """Return the whole tree as click knows it."""
    return typer.main.get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"interplant {version('interplant')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that belong to no command."""


def call(words: list[str]) -> int:
    """Run one command with the given words.

    Returns:
        The exit code.

    Raises:
        click.UsageError: The words are wrong.
        InterplantError: The command failed.
    """
    try:
        with command().make_context("interplant", words) as context:
            context.command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0
