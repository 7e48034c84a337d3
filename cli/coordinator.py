"""``interplant coordinator``: the central service."""

from pathlib import Path
from typing import Annotated

import typer

from interplant.cli.output import Json, show, table
from interplant.server.directory import CoordinatorDirectory

app = typer.Typer(
    help="The central service: enrols plants, runs rounds, signs releases.", no_args_is_help=True
)

Directory = Annotated[Path, typer.Option("--dir", help="The coordinator's directory.")]
HERE = Path("coordinator")


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the federation: letters, digits and hyphens.")],
    directory: Directory = HERE,
    listen: Annotated[str, typer.Option(help="host:port to listen on.")] = "127.0.0.1:7443",
    address: Annotated[str, typer.Option(help="host:port that plants dial; by default the same.")] = "",
    json: Json = False,
) -> None:
    """Make a federation: certificate authority, keys, federation.yaml, database."""
    from interplant.server.setup import init as make

    make(directory, name, listen, address or listen)
    show(
        json,
        {"federation": name, "directory": str(directory)},
        f"Federation {name} is in {directory}. Next: interplant coordinator serve --dir {directory}",
    )


@app.command()
def serve(directory: Directory = HERE) -> None:
    """Serve plants and run rounds until Ctrl-C; what dies is started again."""
    from interplant.core import logs
    from interplant.server.coordinator import serve as keep_serving

    logs.setup()
    raise typer.Exit(keep_serving(CoordinatorDirectory(directory)))


@app.command()
def status(directory: Directory = HERE, json: Json = False) -> None:
    """Show plants, who is connected, and the latest runs."""
    from interplant.server.registry import Registry
    from interplant.server.runs import online

    place = CoordinatorDirectory(directory)
    place.load()
    connected = online(place)
    registry = Registry.open(directory)
    plants = [
        {
            "plant": one.name,
            "state": one.state,
            "online": connected.get(one.name, False),
            "last_seen": one.last_seen,
        }
        for one in registry.plants()
    ]
    serving = "serving" if connected or is_serving(place) else "not serving"
    runs = [
        {"run": one.id, "task": one.task_name, "state": one.state, "round": one.round}
        for one in registry.runs()
    ]
    text = table(["plant", "state", "online", "last seen"], [list(one.values()) for one in plants])
    show(json, {"state": serving, "plants": plants, "runs": runs}, f"The coordinator is {serving}.\n{text}")


@app.command()
def enrol(
    name: Annotated[str, typer.Argument(help="Name of the plant to be.")],
    directory: Directory = HERE,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the join file; NAME.join by default.")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="How long it is good.")] = None,
    json: Json = False,
) -> None:
    """Write a join file for a plant: good once, for a limited time. It holds a secret."""
    from interplant.core.files import write_atomic
    from interplant.server.authority import Authority

    path = out or Path(f"{name}.join")
    write_atomic(path, Authority.open(directory).invite(name, hours), 0o600)
    show(
        json,
        {"plant": name, "file": str(path)},
        f"{path}: carry it to the plant; there: interplant plant join {path}",
    )


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the plant.")],
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Shut a plant out, from its next message on."""
    from interplant.server.authority import Authority
    from interplant.server.runs import reload

    Authority.open(directory).revoke(name)
    told = reload(CoordinatorDirectory(directory))
    show(json, {"plant": name, "state": "revoked", "serving": told}, f"{name} is revoked.")


@app.command()
def renew(directory: Directory = HERE, json: Json = False) -> None:
    """Renew the server's certificate if it is due; a serving coordinator does this by itself."""
    from interplant.server.authority import Authority

    changed = Authority.open(directory).ensure_server_certificate()
    show(
        json,
        {"renewed": changed},
        "The server's certificate is renewed." if changed else "It is not due yet.",
    )


def is_serving(place: CoordinatorDirectory) -> bool:
    """Tell whether a coordinator answers on its local socket."""
    from interplant.server.runs import reload

    return reload(place)
