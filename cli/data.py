"""``interplant data``: a plant's readings and their snapshots. None of it leaves the plant."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interplant.cli.output import Json, show, table
from interplant.cli.plant import HERE, Directory
from interplant.cli.tasks import TaskName, load_task
from interplant.cli.tree import Group
from interplant.client.directory import PlantDirectory
from interplant.core.errors import UsageError

if TYPE_CHECKING:
    from interplant.data.frames import Dataset
    from interplant.data.snapshots import Repository

app = Group("A plant's readings: check them, make snapshots, list them.")


@app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help="Which public dataset: cmapss, ai4i2020, hydraulic or gas_turbine.")
    ],
    target: Annotated[Path, typer.Option("--to", help="Folder for the plants, or for the files of C-MAPSS.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder with its archive or files; else it is downloaded.")
    ] = None,
    url: Annotated[str, typer.Option(help="Download from here in place of the publisher's address.")] = "",
    json: Json = False,
) -> None:
    """Make plants of a public dataset, every file of it checked against its known SHA-256."""
    from interplant.data import public

    files = public.fetch(name, target, source, url, lambda said: typer.echo(said, err=True))
    plants = list(dict.fromkeys(str(Path(file).parent) for file in files if "/" in file))
    made = f"plants {', '.join(plants)}" if plants else f"{len(files)} files of {name}"
    show(
        json,
        {"dataset": name, "directory": str(target), "files": sorted(files), "plants": plants},
        f"{target}: {made}, checked.",
    )


@app.command()
def check(
    path: Annotated[
        Path, typer.Argument(help="A table (.csv, .parquet), or a folder with train and holdout, or C-MAPSS.")
    ],
    task: TaskName = "turbofan",
    json: Json = False,
) -> None:
    """Compare readings with a task's contract; exit 2 if one may not learn from them."""
    from interplant.data import readings

    wanted = load_task(task)
    found = [
        {"file": str(place), **asdict(one), "blocks": one.blocks}
        for place, frame, holdout in readings.tables(path)
        for one in readings.violations(frame, wanted, holdout)
    ]
    rows = [
        [one["file"], one["column"], one["rule"], one["count"] or "-", one["expected"], one["blocks"]]
        for one in found
    ]
    columns = ["file", "column", "rule", "rows", "what", "blocks"]
    good = f"The readings keep the contract of task {task}."
    show(json, {"path": str(path), "violations": found}, table(columns, rows, good))
    blocking = [one for one in found if one["blocks"]]
    if blocking:
        first = blocking[0]
        raise UsageError(
            f"{first['file']}: column {first['column']!r}: {first['expected']}; "
            f"{len(blocking)} such in all: mend the data before you make a snapshot"
        )


@app.command()
def snapshot(
    directory: Directory = HERE,
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder with train and holdout (.parquet or .csv).")
    ] = None,
    cmapss: Annotated[Path | None, typer.Option(help="Folder that `data fetch cmapss` has filled.")] = None,
    subset: Annotated[str, typer.Option(help="C-MAPSS subset: FD001 to FD004.")] = "FD001",
    simulate: Annotated[
        int | None, typer.Option(help="Simulate the machines of the plant with this number, from 0.")
    ] = None,
    machines: Annotated[int, typer.Option(help="Machines to simulate.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
    task: TaskName = "turbofan",
    message: Annotated[str, typer.Option("--message", "-m", help="What changed, for `data log`.")] = "",
    json: Json = False,
) -> None:
    """Make the plant's newest snapshot from files, from C-MAPSS or from the simulator."""
    from interplant.data import readings
    from interplant.data.windows import sizes, unit_windows

    wanted, repository = load_task(task), _repository(directory)
    dataset, origin = _dataset(source, cmapss, subset, simulate, machines, seed)
    readings.require(dataset, wanted, origin)
    made = repository.snapshot(dataset, message, wanted.contract.machine)
    windows = int(unit_windows(dataset.train, wanted).sum())
    rounded = {f"declared_{name}": size for name, size in asdict(sizes(dataset.train, wanted)).items()}
    show(
        json,
        {
            "snapshot": made.digest,
            "created": made.created,
            "rows": made.rows,
            "machines": made.machines,
            "simulated": made.simulated,
            "local": {"windows": windows, "suggested": rounded},
        },
        f"Snapshot {made.digest[:12]}: {made.rows} readings of {made.machines} machines"
        f"{', simulated' if made.simulated else ''}.\n"
        f"Local figure, for this plant's eyes: {windows} windows for task {wanted.name}. If you declare "
        f"the sizes public, round them, once:\n"
        + "\n".join(f"  data.{name}: {size}" for name, size in rounded.items()),
    )


@app.command()
def log(directory: Directory = HERE, json: Json = False) -> None:
    """List the plant's snapshots, the newest first."""
    found = _repository(directory).log()
    rows = [[one.digest[:12], one.created, one.rows, one.machines, one.simulated] for one in found]
    columns = ["snapshot", "created", "readings", "machines", "simulated"]
    document = [{name: value for name, value in asdict(one).items() if name != "folder"} for one in found]
    show(json, document, table(columns, rows, "There is no snapshot yet: interplant data snapshot"))


def _repository(directory: Path) -> "Repository":
    from interplant.client.setup import data_repository

    return data_repository(PlantDirectory(directory))


def _dataset(
    source: Path | None, cmapss: Path | None, subset: str, simulate: int | None, machines: int, seed: int
) -> tuple["Dataset", str]:
    """The dataset that the words name, and what to call it in an error."""
    if sum(one is not None for one in (source, cmapss, simulate)) != 1:
        raise UsageError("expected one of --from DIR, --cmapss DIR and --simulate NUMBER")
    if source is not None:
        from interplant.data.readings import read_folder

        return read_folder(source), str(source)
    if cmapss is not None:
        from interplant.data.cmapss import read

        return read(cmapss, subset), f"{cmapss} {subset}"
    from interplant.data.simulator import simulate as run

    assert simulate is not None
    return run(simulate, machines, seed), f"simulated plant {simulate}"
