"""``interplant privacy``: what was spent, by which unit, on which data; what a plan would cost."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interplant.cli.output import Json, facts, show, table
from interplant.cli.plant import HERE, Directory
from interplant.cli.tasks import Overrides, TaskWord, load_task
from interplant.cli.tree import Group
from interplant.client.directory import PlantDirectory
from interplant.core.errors import UsageError
from interplant.core.schema import PlantData

if TYPE_CHECKING:
    from interplant.client.measuring import Measured
    from interplant.client.planning import Forecast
    from interplant.privacy.history import Entry

app = Group("A plant's privacy budget: plan it, see it, check its ledger.")


@app.command()
def plan(
    task: TaskWord,
    overrides: Overrides = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="A plant: its declared sizes, its budget, its history.")
    ] = None,
    windows: Annotated[int | None, typer.Option(help="Declared number of windows, without a plant.")] = None,
    units: Annotated[int | None, typer.Option(help="Declared number of machines, without a plant.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Budget, without a plant.")] = None,
    delta: Annotated[float | None, typer.Option(help="Delta of the budget, without a plant.")] = None,
    machine_windows: Annotated[
        int, typer.Option(help="Windows of one machine, for what the plan means to it.")
    ] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the curve as a PNG.")] = None,
    json: Json = False,
) -> None:
    """Say how many rounds a budget covers at what noise, and what each costs. Nothing is charged."""
    from interplant.client.planning import forecast, forecast_at

    loaded = load_task(task, overrides or [])
    if directory is not None:
        if (windows, units, epsilon, delta) != (None, None, None, None):
            raise UsageError("--dir takes sizes and budget from plant.yaml; leave out the other options")
        found = forecast_at(PlantDirectory(directory), loaded, machine_windows)
    elif windows is None and units is None:
        raise UsageError("expected --dir PLANT, --windows NUMBER or --units NUMBER (machines)")
    else:
        sizes = PlantData(declared_windows=windows or 0, declared_units=units or 0)
        found = forecast(loaded, sizes, epsilon, delta or loaded.privacy.delta, machine_windows)
    if plot is not None:
        from interplant.lab.plot import curve

        curve(found, plot)
    show(json, _finite(asdict(found)), _in_words(found))


def _in_words(found: "Forecast") -> str:
    own, choices = found.choices[0], sorted(found.choices, key=lambda choice: choice.noise)
    columns = ["rounds", *(f"epsilon, noise {choice.noise:g}" for choice in choices), "for a machine"]
    costs = zip(own.costs, *(choice.costs for choice in choices), strict=True)
    rows = [
        [cost.rounds, *(f"{other.epsilon:.3f}" for other in others), cost.machine or "-"]
        for cost, *others in costs
    ]
    head = (
        f"Task {found.task}: epsilon for one {found.unit}, of {found.units} declared, each drawn with "
        f"probability {found.q:.4g} a step, at delta {found.delta:g}; spent before: {found.spent:.3f}."
    )
    if found.budget is None:
        return f"{head}\n{table(columns, rows)}\nNo budget was named."
    reading = "".join(f"With noise {own.noise:g}, {one.reading}.\n" for one in own.costs if one.reading)
    covered = ", ".join(f"{choice.rounds_left} at noise {choice.noise:g}" for choice in choices)
    tail = (
        f"{reading}A budget of epsilon {found.budget:g} covers {own.rounds_left} more rounds of this task "
        f"({covered})."
    )
    return f"{head}\n{table(columns, rows)}\n{tail}"


@app.command()
def measure(
    what: Annotated[
        str, typer.Argument(help="sizes (what plant.yaml declares), or ranges (of the contract's sensors).")
    ],
    task: TaskWord,
    overrides: Overrides = None,
    directory: Directory = HERE,
    noise: Annotated[
        float, typer.Option(help="Standard deviation, as a multiple of what one privacy unit can add.")
    ] = 4.0,
    bins: Annotated[int, typer.Option(help="For ranges: bins for each sensor.")] = 64,
    tail: Annotated[
        float, typer.Option(help="For ranges: share of readings that may lie beyond either end.")
    ] = 0.005,
    json: Json = False,
) -> None:
    """Look at the plant's data once under differential privacy. It is charged to the ledger."""
    from interplant.client.measuring import measure_ranges, measure_sizes

    plant, loaded = PlantDirectory(directory), load_task(task, overrides or [])
    if what == "sizes":
        found = measure_sizes(plant, loaded, noise)
    elif what == "ranges":
        found = measure_ranges(plant, loaded, noise, bins, tail)
    else:
        raise UsageError(f"expected sizes or ranges, found {what!r}")
    show(json, asdict(found), _measured(found))


def _measured(found: "Measured") -> str:
    cost = (
        f"Charged for one {found.unit}: epsilon {found.before:.3f} before, {found.after:.3f} now, at delta "
        f"{found.delta:g}."
    )
    if found.what == "sizes":
        return "\n".join([cost, *(f"  data.{name}: {size}" for name, size in found.found.items())])
    rows = [
        [name or "-", sensor, *(("too little to tell", "") if ends is None else ends)]
        for name, ranges in found.found.items()
        for sensor, ends in ranges.items()
    ]
    return f"{cost}\n{table(['condition', 'sensor', 'low', 'high'], rows)}"


@app.command()
def budget(directory: Directory = HERE, json: Json = False) -> None:
    """Show what a plant has spent and has left, for each dataset, and how many more runs that pays."""
    from interplant.client.lineages import lineage_of
    from interplant.client.runway import document, in_words, told
    from interplant.client.spending import spending

    plant = PlantDirectory(directory)
    found, left, present = spending(plant), told(plant), lineage_of(plant, plant.load())
    parts = []
    for one in found:
        own = left if one.lineage == present else None
        lines: dict[str, object] = {
            "dataset": f"{one.dataset} (lineage {one.lineage})",
            "privacy unit": one.unit,
            "spent": f"epsilon {one.epsilon:.3f} at delta {one.delta:g}, in {one.rounds} charges",
            "budget": f"epsilon {one.budget:g}",
            "left": f"epsilon {one.left:.3f}",
            **{f"task {task}": _of_task(**figures) for task, figures in one.tasks.items()},
            **({f"runs of {own.task} left": in_words(own)} if own else {}),
            "for a machine": one.machine,
        }
        parts.append((facts(lines), {**asdict(one), "runway": document(own)}))
    show(json, [one for _, one in parts], "\n\n".join(text for text, _ in parts))


def _of_task(epsilon: float | None, budget: float | None) -> str:
    return f"epsilon {epsilon:.3f}" + ("" if budget is None else f" of a budget of its own of {budget:g}")


@app.command()
def ledger(
    directory: Directory = HERE,
    verify: Annotated[bool, typer.Option("--verify", help="Only check the whole chain.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Charge what signed receipts name and the ledger lacks.")
    ] = False,
    json: Json = False,
) -> None:
    """List what was charged, oldest first; the chain of hashes is checked while reading."""
    from interplant.client import receipts
    from interplant.client.spending import entries_of
    from interplant.privacy.ledger import Ledger

    plant = PlantDirectory(directory)
    plant.check()
    if repair:
        mended = receipts.repair(plant, Ledger(plant.ledger))
        show(
            json,
            {"repaired": [{"run": one.run, "round": one.round, "head": one.head} for one in mended]},
            "\n".join(
                f"Charged what the receipt of round {one.round} of {one.run} names and the ledger lacked."
                for one in mended
            )
            or "The ledger holds what every known receipt names; nothing was charged.",
        )
        return
    entries = entries_of(plant)
    if verify and any(path.exists() for path in (plant.ledger, plant.receipt, plant.told_receipt)):
        with receipts.require(plant, Ledger(plant.ledger)):
            pass
    head = entries[-1].hash if entries else ""
    if verify:
        show(
            json,
            {"entries": len(entries), "head": head, "verified": True},
            f"{len(entries)} entries, unbroken{f', head {head[:16]}' if head else ''}.",
        )
        return
    rows = [
        [one.seq, one.kind, one.time, one.run, one.round, one.task, one.lineage, *charge]
        for one in entries
        for charge in _charges(one)
    ]
    columns = ["#", "kind", "time", "run", "round", "task", "dataset", "unit", "q", "noise", "steps"]
    show(json, [asdict(one) for one in entries], table(columns, rows, "Nothing was ever charged."))


def _charges(entry: "Entry") -> list[list[object]]:
    """A row for each kind of charge in an entry, and one for an entry that charges nothing."""
    rows: list[list[object]] = [[one.unit, f"{one.q:.4g}", one.noise, one.steps] for one in entry.events]
    return rows or [["", "", "", ""]]


def _finite(document: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: null stands for an epsilon that is too large to compute."""
    for choice in document["choices"]:
        for one in choice["costs"]:
            if one["machine_epsilon"] is not None and math.isinf(one["machine_epsilon"]):
                one["machine_epsilon"] = None
    return document
