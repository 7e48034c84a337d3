"""``interplant coordinator``: the central service."""

import getpass
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from interplant.cli.output import Json, show, table
from interplant.cli.serving import keep_serving
from interplant.cli.tree import Group
from interplant.server.directory import CoordinatorDirectory

app = Group("The central service: enrols plants, runs rounds, signs releases.")

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
        {"federation": name, "directory": str(directory), "address": address or listen},
        f"Federation {name} is in {directory}. Next: interplant coordinator serve --dir {directory}",
    )


@app.command()
def serve(directory: Directory = HERE, json: Json = False) -> None:
    """Serve plants and run rounds until Ctrl-C; what dies is started again."""

    def work(stopping: object) -> int:
        from interplant.server.coordinator import serve as work_here

        return work_here(CoordinatorDirectory(directory), stopping)  # type: ignore[arg-type]

    code = keep_serving(work)
    show(json, {"coordinator": str(directory), "state": "stopped"}, "The coordinator has stopped.")
    raise typer.Exit(code)


@app.command()
def status(directory: Directory = HERE, json: Json = False) -> None:
    """Show whether it serves, its plants, the latest runs, and what starts without a command.

    Of that: the rules, who proposes a run, what was decided and why, when one is due, and budgets.
    """
    from interplant.cli.following import text
    from interplant.server.status import status as look

    found = look(CoordinatorDirectory(directory))
    plants = [[one.name, one.state, one.online, one.last_seen] for one in found.plants]
    runs = [[one.run, one.task, one.state, f"{one.round}/{one.rounds}"] for one in found.runs]
    state = "serving" if found.serving else "not serving"
    parts = [
        f"Federation {found.federation} at {found.address} is {state}.",
        table(["plant", "state", "online", "last seen"], plants, "No plant has joined yet."),
        table(["run", "task", "state", "round"], runs, "No run was started yet."),
        text(found.automation),
    ]
    show(json, asdict(found), "\n\n".join(parts))


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
    from interplant.server.control import reload

    Authority.open(directory).revoke(name)
    told = reload(CoordinatorDirectory(directory))
    show(json, {"plant": name, "state": "revoked", "serving": told}, f"{name} is revoked.")


@app.command(name="rotate-key")
def rotate_key(
    overlap_days: Annotated[
        float, typer.Option(help="Releases made under the old key within so many days still count.")
    ] = 30.0,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="The old key was stolen: no release counts under it any more.")
    ] = False,
    revoke_key: Annotated[
        str | None,
        typer.Option(
            metavar="HEX", help="Make no new key; revoke this earlier one (its first 16 hex digits)."
        ),
    ] = None,
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Sign releases with a new key from now on; the old one hands over to it, and plants learn it by that."""
    from interplant.server import release_keys
    from interplant.server.control import reload

    place = CoordinatorDirectory(directory)
    place.check()
    if revoke_key is not None and revoke:
        from interplant.core.errors import UsageError

        raise UsageError("--revoke is for the present key, --revoke-key for an earlier one: give one of them")
    if revoke_key is not None:
        made = release_keys.revoke(place, revoke_key, getpass.getuser())
    else:
        made = release_keys.rotate(place, overlap_days, revoke, getpass.getuser())
    told = "plants are told" if reload(place) else "plants are told once the coordinator serves"
    old = "is revoked" if made.revoked else f"counts for releases made until {made.until}"
    words = f"Releases are signed with a new key; the old one {old}; {told}."
    if revoke_key is not None:
        words = f"The key {made.old[:16]} is revoked; {told}."
    show(json, asdict(made), words)


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="A new folder, or a file to be whose name ends with .tar.")],
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Copy the coordinator, also while it serves: keys, settings, registry, runs, releases."""
    from interplant.server.backup import back_up

    made = back_up(CoordinatorDirectory(directory), target)
    lines = [f"{target}: {len(made.files)} files, {made.size / 1e6:.1f} MB, of federation {made.federation}."]
    lines += [f"Not there: the files of release {name}." for name in made.missing]
    show(json, {"backup": str(target), **asdict(made)}, "\n".join(lines))


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(help="What `coordinator backup` has made.")],
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Make the coordinator of a backup, in a new folder, after checking every digest."""
    from interplant.server.backup import restore as put_back

    made = put_back(source, directory)
    show(
        json,
        {"directory": str(directory), **asdict(made)},
        f"Federation {made.federation} of {made.created} is in {directory}. "
        f"Next: interplant coordinator serve --dir {directory}",
    )


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
