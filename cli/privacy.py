"""``interplant privacy``: what was spent, by which unit, on which data; what a plan would cost."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from interplant.cli.output import Json, facts, show, table
from interplant.cli.plant import HERE, Directory
from interplant.cli.tasks import Overrides, TaskWord, load_task
from interplant.cli.tree import Group
from interplant.client.directory import PlantDirectory
from interplant.core.errors import UsageError

app = Group("A plant's privacy budget: plan it, see it, check its ledger.")


@app.command()
def plan(
    task: TaskWord,
    overrides: Overrides = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="A plant: its declared size, its budget, its history.")
    ] = None,
    windows: Annotated[int | None, typer.Option(help="Declared number of windows, without a plant.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Budget, without a plant.")] = None,
    delta: Annotated[float | None, typer.Option(help="Delta of the budget, without a plant.")] = None,
    machine_windows: Annotated[
        int, typer.Option(help="Windows of one machine, for what the plan means to it.")
    ] = 0,
    json: Json = False,
) -> None:
    """Say what a task's rounds would cost, and how many a budget covers. Nothing is charged."""
    from interplant.client.planning import forecast, forecast_at

    loaded = load_task(task, overrides or [])
    if directory is not None:
        if (windows, epsilon, delta) != (None, None, None):
            raise UsageError("--dir takes size and budget from plant.yaml; leave out the other options")
        found = forecast_at(PlantDirectory(directory), loaded, machine_windows)
    elif windows is None:
        raise UsageError("expected --dir PLANT or --windows NUMBER")
    else:
        found = forecast(loaded, windows, epsilon, delta or loaded.privacy.delta, machine_windows)
    rows = [[one.rounds, f"{one.epsilon:.3f}", one.machine or "-"] for one in found.costs]
    head = (
        f"Task {found.task}, {found.windows} declared windows, counted per {found.unit}, "
        f"delta {found.delta:g}; spent before: epsilon {found.spent:.3f}."
    )
    tail = (
        "No budget was named."
        if found.budget is None
        else f"A budget of epsilon {found.budget:g} covers {found.rounds_left} more rounds of this task."
    )
    columns = ["rounds", f"epsilon per {found.unit}", "for a machine"]
    show(json, _finite(asdict(found)), f"{head}\n{table(columns, rows)}\n{tail}")


@app.command()
def budget(directory: Directory = HERE, json: Json = False) -> None:
    """Show what a plant has spent and has left, for each dataset."""
    from interplant.client.spending import spending

    found = spending(PlantDirectory(directory))
    parts = [
        facts(
            {
                "dataset": one.dataset,
                "privacy unit": one.unit,
                "spent": f"epsilon {one.epsilon:.3f} at delta {one.delta:g}, in {one.rounds} charges",
                "budget": f"epsilon {one.budget:g}",
                "left": f"epsilon {one.left:.3f}",
                "for a machine": one.machine,
            }
        )
        for one in found
    ]
    show(json, [asdict(one) for one in found], "\n\n".join(parts))


@app.command()
def ledger(
    directory: Directory = HERE,
    verify: Annotated[bool, typer.Option("--verify", help="Only check the whole chain.")] = False,
    json: Json = False,
) -> None:
    """List what was charged, oldest first; the chain of hashes is checked while reading."""
    from interplant.client.spending import entries_of

    plant = PlantDirectory(directory)
    plant.check()
    entries = entries_of(plant)
    head = entries[-1].hash if entries else ""
    if verify:
        show(
            json,
            {"entries": len(entries), "head": head, "verified": True},
            f"{len(entries)} entries, unbroken{f', head {head[:16]}' if head else ''}.",
        )
        return
    rows = [
        [one.seq, one.kind, one.time, one.run, one.round, one.task, one.lineage, *_charge(one.plan)]
        for one in entries
    ]
    columns = ["#", "kind", "time", "run", "round", "task", "dataset", "unit", "q", "noise", "steps"]
    show(json, [asdict(one) for one in entries], table(columns, rows, "Nothing was ever charged."))


def _charge(charged: object) -> list[object]:
    from interplant.privacy.plan import Plan

    if not isinstance(charged, Plan):
        return ["", "", "", ""]
    return [charged.unit, f"{charged.q:.4g}", charged.noise, charged.steps]


def _finite(document: dict[str, object]) -> dict[str, object]:
    """JSON knows no infinity: null stands for an epsilon that is too large to compute."""
    costs = document["costs"]
    assert isinstance(costs, list)
    for one in costs:
        if one["machine_epsilon"] is not None and math.isinf(one["machine_epsilon"]):
            one["machine_epsilon"] = None
    return document
