"""``interplant simulate``: many virtual plants in a few processes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interplant.cli.output import Json, facts, show, table
from interplant.cli.tasks import Overrides, TaskName, load_task
from interplant.core.schema import Task
from interplant.core.targets import TIME

if TYPE_CHECKING:
    from interplant.lab.simulate import Simulated


def simulate(
    overrides: Overrides = None,
    plants: Annotated[int, typer.Option(help="How many virtual plants.")] = 4,
    task: TaskName = "turbofan",
    strategy: Annotated[str, typer.Option(help="How updates merge; by default as the task says.")] = "",
    machines: Annotated[int, typer.Option(help="Machines in each plant's record.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the simulated machines.")] = 0,
    epsilon: Annotated[float, typer.Option(help="Each plant's privacy budget.")] = 4.0,
    processes: Annotated[int, typer.Option(help="Processes that share the work; 0: one a core.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Folder with one folder a plant, in place of simulated machines.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Folder of further plants, to measure on all their readings.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep the run's folder here: checkpoint and record.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a task over virtual plants, simulated or of tables: the same code, without a network."""
    from interplant.lab.simulate import Fleet, simulate_fleet

    changes = [*([f"strategy.name={strategy}"] if strategy else []), *(overrides or [])]
    fleet = Fleet.of(data, epsilon, processes) if data else Fleet(plants, machines, seed, epsilon, processes)
    wanted = load_task(task, changes)
    made, _ = simulate_fleet(fleet, wanted, folder=directory, tell=_tell, later=test)
    show(json, made.as_dict(), _text(made, wanted))


def _tell(record: dict[str, Any]) -> None:
    if not sys.stderr.isatty():
        return
    sys.stderr.write(
        f"round {record['round']}: {len(record['participants'])} plants, {record['seconds']:.2f} s\n"
    )


def _text(made: "Simulated", task: Task) -> str:
    dropped: dict[str, int] = {}
    for record in made.rounds:
        for one in record["dropped"].values():
            dropped[one["code"]] = dropped.get(one["code"], 0) + 1
    spent = f"epsilon {made.epsilon:.3f} for one {made.unit} at delta {made.delta:g}, the most of any plant"
    lines = facts(
        {
            "task, strategy": f"{made.task}, {made.strategy}",
            "plants, processes": f"{made.plants}, {made.processes}",
            "error": _error(made, task),
            "privacy": spent if made.mechanism == "dp-sgd" else f"{made.mechanism}: not private",
            "time": f"{made.seconds:.1f} s, {made.ms_per_plant_round:.2f} ms a plant and round",
            "not in a round": ", ".join(f"{many} {code}" for code, many in sorted(dropped.items())) or "none",
        }
    )
    if made.simulated:
        return f"Simulated data: it says nothing about real machines.\n{lines}"
    names = list(dict.fromkeys(name for own in made.scores.values() for name in own))
    rows = [
        [plant, *(f"{own[name]:.3f}" if name in own else "-" for name in names)]
        for plant, own in made.scores.items()
    ]
    return f"{lines}\n\n{table(['plant', *names], rows, '')}"


def _error(made: "Simulated", task: Task) -> str:
    if made.rmse is None or made.rmse_first is None:
        return "by plant below"
    unit = "cycles " if task.target.kind == TIME else ""
    return f"{made.rmse_first:.1f} {unit}before, {made.rmse:.1f} after, on held-out machines"
