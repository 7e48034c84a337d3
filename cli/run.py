"""``interplant run``: federated trainings."""

from dataclasses import asdict
from typing import Annotated

import typer

from interplant.cli.coordinator import HERE, Directory
from interplant.cli.output import Json, show, table
from interplant.cli.tasks import Overrides, TaskWord, load_task
from interplant.cli.tree import Group
from interplant.server.directory import CoordinatorDirectory

app = Group("Federated trainings: start, watch, stop, resume.")

ProposedTask = Annotated[str, typer.Argument(help="The task's name; see `interplant run proposals`.")]
RunId = Annotated[str, typer.Argument(help="The run's id; see `interplant run list`.")]


@app.command()
def start(
    task: TaskWord,
    overrides: Overrides = None,
    directory: Directory = HERE,
    release: Annotated[bool, typer.Option(help="End with a signed release.")] = True,
    start_from: Annotated[str, typer.Option(help="Release to start from.")] = "",
    json: Json = False,
) -> None:
    """Queue a run of a task; the serving coordinator carries it out."""
    from interplant.server.control import reload
    from interplant.server.runs import start_run

    place = CoordinatorDirectory(directory)
    run = start_run(place, load_task(task, overrides or []), release, start_from)
    waits = "" if reload(place) else " It begins when `interplant coordinator serve` runs."
    show(
        json,
        asdict(run),
        f"Run {run.id} is queued.{waits} Watch it: interplant run show {run.id} --dir {directory}",
    )


@app.command(name="list")
def list_runs(directory: Directory = HERE, json: Json = False) -> None:
    """List the runs, the newest first."""
    from interplant.server.registry import Registry

    runs = Registry.open(directory).runs()
    rows = [[one.id, one.task_name, one.state, f"{one.round}/{one.rounds}", one.reason] for one in runs]
    columns = ["run", "task", "state", "round", "reason"]
    show(json, [asdict(one) for one in runs], table(columns, rows, "No run was started yet."))


@app.command(name="show")
def show_run(run: RunId, directory: Directory = HERE, json: Json = False) -> None:
    """Show a run: its rounds, who took part, who was dropped and why."""
    from interplant.server.registry import Registry

    registry = Registry.open(directory)
    found, rounds = registry.run(run), registry.rounds(run)
    rows = [
        [
            one.round,
            ", ".join(one.participants),
            "; ".join(f"{drop.plant}: {drop.sentence} [{drop.code}]" for drop in one.dropped),
            f"{one.seconds.get('total', 0):.2f}",
        ]
        for one in rounds
    ]
    head = f"Run {found.id}: {found.state}, round {found.round} of {found.rounds}. {found.reason}".rstrip()
    if because := found.config.get("because"):
        head += f"\nStarted without a command: {because}."
    if start_from := found.config.get("start_from"):
        head += f"\nIt began with the weights of release {start_from}."
    text = head + "\n" + table(["round", "took part", "dropped", "seconds"], rows)
    show(json, {"run": asdict(found), "rounds": [asdict(one) for one in rounds]}, text)


@app.command()
def stop(run: RunId, directory: Directory = HERE, json: Json = False) -> None:
    """Stop a run, also in the middle of a round; `resume` goes on in it, with the updates that are there."""
    from interplant.server.runs import stop_run

    found = stop_run(CoordinatorDirectory(directory), run)
    show(json, asdict(found), f"Run {run} is {found.state} at round {found.round}.")


@app.command()
def resume(run: RunId, directory: Directory = HERE, json: Json = False) -> None:
    """Go on with a run that was stopped, paused or failed."""
    from interplant.server.runs import resume_run

    found = resume_run(CoordinatorDirectory(directory), run)
    show(json, asdict(found), f"Run {run} goes on after round {found.round}.")


@app.command()
def proposals(directory: Directory = HERE, json: Json = False) -> None:
    """Show the tasks whose runs start without a command: who proposes one, what was decided, and why."""
    from interplant.cli.following import text
    from interplant.server.registry import Registry
    from interplant.server.standings import standings

    found = standings(CoordinatorDirectory(directory), Registry.open(directory))
    show(json, [asdict(one) for one in found], text(found))


@app.command()
def approve(task: ProposedTask, directory: Directory = HERE, json: Json = False) -> None:
    """Let a run start that the coordinator has put before a person; see `proposals`."""
    from interplant.server.automation import approve as let_start

    event = let_start(CoordinatorDirectory(directory), task)
    show(json, asdict(event), f"The run of {task} is approved; the serving coordinator starts it.")


@app.command()
def decline(
    task: ProposedTask,
    why: Annotated[str, typer.Option(help="For the history.")] = "",
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Drop a proposed run, or an approved one before it starts; what was proposed before counts no more."""
    from interplant.server.automation import decline as drop

    event = drop(CoordinatorDirectory(directory), task, why)
    show(json, asdict(event), f"The proposed run of {task} is declined.")
