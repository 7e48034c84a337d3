"""``interplant``: thin commands over plain functions."""

import sys

import typer

from interplant.cli import coordinator, plant, run
from interplant.core.errors import InterplantError

app = typer.Typer(
    name="interplant",
    help="Federated learning for manufacturers with several plants.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(plant.app, name="plant")
app.add_typer(run.app, name="run")


def run_command() -> None:
    """Run one command; a failure is one line on standard error."""
    try:
        app()
    except InterplantError as error:
        typer.echo(f"interplant: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interplant: stopped", err=True)
        sys.exit(1)


if __name__ == "__main__":
    run_command()
