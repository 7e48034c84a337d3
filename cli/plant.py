"""``interplant plant``: one site."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interplant.cli.output import Json, facts, show
from interplant.cli.serving import keep_serving
from interplant.cli.tree import Group
from interplant.client.directory import PlantDirectory
from interplant.core.errors import InterplantError, UsageError

if TYPE_CHECKING:
    from interplant.client.serving_status import ServingStatus

app = Group("One site: joins a federation, trains on its own data, tries releases.")

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
        {"plant": plant.load().name, "federation": plant.load().federation, "directory": str(directory)},
        f"This plant's directory is {directory}. Its policy offers nothing yet: edit {plant.config}, "
        f"then: interplant plant serve --dir {directory}",
    )


@app.command()
def serve(directory: Directory = HERE, json: Json = False) -> None:
    """Take part in the federation until Ctrl-C; what dies is started again."""

    def work(stopping: object) -> int:
        from interplant.client.plant import serve as work_here

        return work_here(PlantDirectory(directory), stopping)  # type: ignore[arg-type]

    code = keep_serving(work)
    show(json, {"plant": str(directory), "state": "stopped"}, "The plant has stopped.")
    raise typer.Exit(code)


@app.command()
def status(directory: Directory = HERE, json: Json = False) -> None:
    """Show the connection, the privacy budget, what serves, and what waits."""
    from interplant.client.runway import document, in_words
    from interplant.client.status import status as look

    found = look(PlantDirectory(directory))
    link = " ".join(part for part in (found.connection.state, found.connection.since) if part)
    lines: dict[str, object] = {
        "plant": f"{found.plant}, federation {found.federation}",
        "connection": f"{link}: {found.connection.reason}" if found.connection.reason else link,
        "rounds": "paused; `interplant plant resume` takes part again" if found.paused else "takes part",
    }
    for one in found.budgets:
        lines[f"budget of {one.dataset}"] = (
            f"epsilon {one.epsilon:.3f} of {one.budget:g} spent, counted per {one.unit}, at delta "
            f"{one.delta:g}; {one.machine}"
        )
    if found.runway:
        lines[f"runs of {found.runway.task} left"] = in_words(found.runway)
    lines |= {
        "champion": found.champion or "none yet",
        "beside it": f"{found.challenger} ({found.stage})" if found.challenger else "none",
        "serving": _serving(found.serving),
        "waiting for approval": ", ".join(found.waiting) or "none",
        "kept replies": found.kept_replies,
    }
    show(json, {**asdict(found), "runway": document(found.runway)}, facts(lines))


@app.command()
def pause(directory: Directory = HERE, json: Json = False) -> None:
    """Take part in no round until `resume`; releases still come in and are tried."""
    from interplant.client.policy import pause as stop_rounds

    plant = _plant(directory)
    changed = stop_rounds(plant)
    show(
        json,
        {"paused": True, "changed": changed},
        "The plant is paused: it refuses rounds, and the coordinator is told so."
        if changed
        else "The plant was paused already.",
    )


@app.command()
def resume(directory: Directory = HERE, json: Json = False) -> None:
    """Take part in rounds again."""
    from interplant.client.policy import resume as go_on

    changed = go_on(_plant(directory))
    show(
        json,
        {"paused": False, "changed": changed},
        "The plant takes part again." if changed else "The plant was not paused.",
    )


@app.command()
def propose(
    task: Annotated[str, typer.Argument(help="The task's name; else that of what serves.")] = "",
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Propose to the coordinator that a task be learned again; the serving plant tells it."""
    from datetime import UTC, datetime

    from interplant.client import proposals
    from interplant.client.runway import champions_task, runway

    plant = _plant(directory)
    serves = champions_task(plant)
    name = task or (serves.name if serves else "")
    if not name:
        raise UsageError("expected a task, as no release serves here yet; policy.tasks lists those offered")
    if name not in plant.load().policy.tasks:
        raise UsageError(
            f"task {name!r}: expected one of policy.tasks in {plant.config}; add it there to offer it"
        )
    left = runway(plant) if serves and serves.name == name else None
    made = proposals.propose(plant, name, proposals.PERSON, left.runs if left else None, datetime.now(UTC))
    if made is None:
        raise InterplantError(f"not proposed: {proposals.noted(plant)[-1]['why']}")
    show(json, asdict(made), f"A run of {name} is proposed; `interplant plant serve` tells the coordinator.")


def _serving(found: "ServingStatus") -> str:
    if found.state == "off":
        return "off: serving.listen in plant.yaml is empty"
    if found.state == "stopped" or not found.address:
        return "stopped" if found.state == "stopped" else "starting"
    what = (
        f"{found.address}/v2/models/{found.model}, release {found.release}"
        if found.release
        else found.address
    )
    return f"{what}; {found.trouble}" if found.trouble else what


def _plant(directory: Path) -> PlantDirectory:
    """The directory; a mistake in plant.yaml must not keep anybody from pausing."""
    plant = PlantDirectory(directory)
    plant.check()
    return plant
