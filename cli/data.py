"""``interplant data``: a plant's readings and their snapshots. None of it leaves the plant."""

import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interplant.cli.output import Json, show, table
from interplant.cli.plant import HERE, Directory
from interplant.cli.tasks import TaskName, load_task
from interplant.cli.tree import Group
from interplant.client.directory import PlantDirectory
from interplant.core.errors import InterplantError, UsageError

if TYPE_CHECKING:
    from interplant.data.frames import Dataset
    from interplant.data.repository import Repository

PlantTask = Annotated[
    str,
    typer.Option(
        "--task", help="A task file or a built-in task, whose contract holds where the plant has none."
    ),
]

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
def ingest(
    directory: Directory = HERE,
    path: Annotated[
        Path | None, typer.Option("--from", help="A table or a folder of tables, in place of the sources.")
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="Only this source of plant.yaml.")] = None,
    task: PlantTask = "",
    watch: Annotated[bool, typer.Option("--watch", help="Go on as more comes, until Ctrl-C.")] = False,
    infer: Annotated[
        bool, typer.Option("--infer", help="Print a contract drafted from --from, and bring nothing in.")
    ] = False,
    label: Annotated[str, typer.Option(help="With --infer: the column that is to be predicted.")] = "",
    json: Json = False,
) -> None:
    """Bring readings from the plant's sources into its store; what breaks the contract goes to quarantine."""
    from interplant.client import intake

    plant = PlantDirectory(directory)
    if infer:
        from interplant.data.drafting import draft

        if path is None:
            raise UsageError("--infer: expected --from with a sample, found none")
        drafted = draft(intake.sample(path, label), label)
        show(json, {"contract": drafted}, drafted.rstrip())
        return
    store = intake.store_of(plant, load_task(task) if task else None)
    stopping = threading.Event()
    if watch:
        from interplant.core.processes import on_stop_signals

        on_stop_signals(stopping)
    brought = intake.bring(plant, store, source, path, watch, stopping)
    rows = [
        [
            one.source,
            one.rows,
            one.bad,
            ", ".join(f"{rule} {count}" for rule, count in one.rules.items()) or "-",
        ]
        for one in brought
    ]
    columns = ["source", "readings", "quarantine", "why (rule, column, readings)"]
    bad = sum(one.bad for one in brought)
    hint = f"\n{bad} readings are in quarantine: interplant data check --dir {directory}" if bad else ""
    show(json, [asdict(one) for one in brought], table(columns, rows, "Nothing came.") + hint)


@app.command()
def check(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A table, a folder with train and holdout, or C-MAPSS; without it the quarantine."
        ),
    ] = None,
    directory: Directory = HERE,
    release: Annotated[
        bool, typer.Option("--release", help="Hold the quarantine to the contract again, as it is now.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Hold what older versions of the contract let in to it, as it is now."),
    ] = False,
    task: PlantTask = "",
    json: Json = False,
) -> None:
    """Compare readings with a contract (exit 2 if one may not learn from them), or show the quarantine."""
    if path is None:
        _check_store(PlantDirectory(directory), release, again, task, json)
        return
    if release or again:
        word = "--release" if release else "--again"
        raise UsageError(f"{word}: expected no path: it looks at the plant's own store and quarantine")
    from interplant.data import readings

    name = task or "turbofan"
    wanted = load_task(name)
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
    good = f"The readings keep the contract of task {name}."
    show(json, {"path": str(path), "violations": found}, table(columns, rows, good))
    blocking = [one for one in found if one["blocks"]]
    if blocking:
        first = blocking[0]
        raise UsageError(
            f"{first['file']}: column {first['column']!r}: {first['expected']}; "
            f"{len(blocking)} such in all: mend the data before you make a snapshot"
        )


def _check_store(plant: PlantDirectory, release: bool, again: bool, task: str, json: bool) -> None:
    from interplant.client import intake
    from interplant.data.ingest import hold_again
    from interplant.data.reasons import RULES
    from interplant.data.releasing import release as let_go

    store = intake.store_of(plant, load_task(task) if task else None)
    released = let_go(store, plant.load().data.sources) if release else 0
    kept, gone = hold_again(store) if again else (0, 0)
    with store.locked():  # a file that is being released would be gone, or there twice
        found = store.quarantine.summary()
    rows = [
        [source, rule, column, count, value, RULES.get(rule, "")]
        for source, rule, column, count, value in found
    ]
    names = ["source", "rule", "column", "readings", "such as", "what"]
    told = table(names, rows, f"{store.path}: nothing is in quarantine.")
    if release:
        told = f"{released} readings were released.\n{told}"
    if again:
        told = f"{kept} readings were held again and keep the contract, {gone} went to quarantine.\n{told}"
    if waiting := store.late.count():
        told += f"\n{waiting} labels wait for their readings, which the store does not have."
    document = [dict(zip(names[:5], row, strict=False)) for row in rows]
    counts = {"released": released, "kept": kept, "gone": gone, "waiting_labels": waiting}
    show(json, {"store": str(store.path), **counts, "quarantine": document}, told)


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
    task: PlantTask = "",
    message: Annotated[str, typer.Option("--message", "-m", help="What changed, for `data log`.")] = "",
    json: Json = False,
) -> None:
    """Make the plant's newest snapshot from its store; or from files, from C-MAPSS or from the simulator."""
    if source is None and cmapss is None and simulate is None:
        _snapshot_store(PlantDirectory(directory), task, message, json)
        return
    from interplant.client import erasure
    from interplant.data import readings
    from interplant.data.windows import sizes, unit_windows

    wanted = load_task(task or "turbofan")
    plant, repository = PlantDirectory(directory), _repository(directory)
    dataset, origin = _dataset(source, cmapss, subset, simulate, machines, seed)
    readings.require(dataset, wanted, origin)
    made = repository.snapshot(dataset, message, wanted.contract.machine)
    gone = erasure.prune(plant, repository, plant.load().data.keep)
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
            "purged": gone,
            "local": {"windows": windows, "suggested": rounded},
        },
        f"Snapshot {made.digest[:12]}: {made.rows} readings of {made.machines} machines"
        f"{', simulated' if made.simulated else ''}.\n"
        f"Local figure, for this plant's eyes: {windows} windows for task {wanted.name}. If you declare "
        f"the sizes public, round them, once:\n"
        + "\n".join(f"  data.{name}: {size}" for name, size in rounded.items())
        + _pruned(gone),
    )


def _pruned(gone: list[str]) -> str:
    return f"\n{len(gone)} older snapshots were removed (data.keep)." if gone else ""


def _snapshot_store(plant: PlantDirectory, task: str, message: str, json: bool) -> None:
    from interplant.client import erasure, feedback, intake
    from interplant.client.directory import data_repository

    repository, settings = data_repository(plant), plant.load().data
    if not (plant.path / settings.store).is_dir():
        raise UsageError(
            "expected one of --from DIR, --cmapss DIR and --simulate NUMBER, or readings in the store: "
            "`interplant data ingest` brings them"
        )
    store = intake.store_of(plant, load_task(task) if task else None)
    feedback.carry(plant, store)
    made = repository.freeze(store, message, settings.simulated)
    gone = erasure.prune(plant, repository, settings.keep)
    document = {name: getattr(made, name) for name in ("digest", "created", "rows", "machines", "simulated")}
    document |= {"sources": dict(made.sources), "quarantined": made.quarantined, "purged": gone}
    document |= {"corrections": made.corrections}
    corrected = (
        f"\n{made.corrections} labels were corrected by persons since the last." if made.corrections else ""
    )
    show(
        json,
        document,
        f"Snapshot {made.digest[:12]}: {made.rows} readings of {made.machines} machines"
        f"{', simulated' if made.simulated else ''}; {sum(made.sources.values())} came in since the last, "
        f"{made.quarantined} went to quarantine." + corrected + _pruned(gone),
    )


@app.command()
def log(directory: Directory = HERE, json: Json = False) -> None:
    """List the plant's snapshots, the newest first."""
    repository = _repository(directory)
    purged = repository.purged()
    rows = []
    document = []
    for one in repository.log():
        gone = purged.get(one.digest)
        own = {name: value for name, value in asdict(one).items() if name not in ("folder", "files")}
        document.append(own | {"files": len(one.files), "removed": gone["why"] if gone else ""})
        state = f"removed: {gone['why']} {gone['when']}" if gone else "kept"
        cells = [one.created, one.rows, one.machines, one.quarantined, one.simulated, state]
        rows.append([one.digest[:12], *cells])
    columns = ["snapshot", "created", "readings", "machines", "quarantine", "simulated", "state"]
    show(json, document, table(columns, rows, "There is no snapshot yet: interplant data snapshot"))


@app.command()
def diff(
    one: Annotated[str, typer.Argument(help="A snapshot, by its first digits.")],
    other: Annotated[str, typer.Argument(help="Another; by default the newest.")] = "",
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Show by day and machine where two snapshots differ."""
    from interplant.data import versions

    repository = _repository(directory)
    before, after = repository.find(one), repository.find(other or None)
    changes = versions.diff(repository, before, after)
    rows = [[change.day, change.machine, change.before, change.after] for change in changes]
    columns = ["day", "machine", before.digest[:12], after.digest[:12]]
    document = {
        "before": before.digest,
        "after": after.digest,
        "changes": [asdict(change) for change in changes],
    }
    show(json, document, table(columns, rows, "The two hold the same readings."))


@app.command()
def erase(
    directory: Directory = HERE,
    machine: Annotated[str, typer.Option(help="Erase this machine's readings.")] = "",
    since: Annotated[
        str, typer.Option(help="Erase from this time on, of the contract's zone if it has no offset.")
    ] = "",
    until: Annotated[str, typer.Option(help="Erase up to this time, itself included.")] = "",
    task: PlantTask = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; it cannot be undone.")] = False,
    json: Json = False,
) -> None:
    """Erase a machine's or a period's readings from the store and from every snapshot, for good."""
    from interplant.client import erasure, intake

    plant = PlantDirectory(directory)
    store = intake.store_of(plant, load_task(task) if task else None)
    first, last = erasure.period(since, until, store.contract)
    if not yes:
        typer.confirm("This removes the readings from the store and from all snapshots. Go on?", abort=True)
    done = erasure.erase(plant, store, machine or None, first, last)
    releases, runs = ", ".join(done.releases) or "none", ", ".join(done.runs)
    newest = f"the newest snapshot is {done.snapshot[:12]}" if done.snapshot else "no snapshot is left"
    told = (
        f"{done.partitions} partitions changed; {len(done.purged)} snapshots and {done.events} events of "
        f"drift were removed; {newest}.\n"
        f"Releases at this plant that were trained on what was erased, now or before: {releases}."
    )
    if runs:
        told += (
            f"\nRuns that have trained on it, and whose release may still come: {runs}. Unless the "
            "coordinator stops them, that release has learned from it too."
        )
    if not done.partitions and not done.purged:
        what = f"of machine {machine}" if machine else "of this time"
        told = f"The store and the snapshots hold no reading {what}.\n{told}"
    show(json, asdict(done), told)


@app.command()
def drift(
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A table (.csv, .parquet) of live readings, or a folder of tables; else the store."
        ),
    ] = None,
    directory: Directory = HERE,
    snapshot: Annotated[
        str | None, typer.Option(help="Digest of a snapshot to compare with instead of the champion's.")
    ] = None,
    task: TaskName = "turbofan",
    plot: Annotated[Path | None, typer.Option(help="Draw each sensor over time as this PNG.")] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Exit 1 if a drift began.")] = False,
    json: Json = False,
) -> None:
    """Compare live readings with the snapshot that the champion was trained on; events go to drift.jsonl.

    Without --from and --snapshot the champion's predictions and late errors are compared too.
    """
    from interplant.cli import drifting
    from interplant.client import drift as monitor
    from interplant.client import intake
    from interplant.data import blocks

    plant = PlantDirectory(directory)
    held = monitor.against(plant, load_task(task), snapshot)
    if source is not None:
        live = blocks.of_path(source, held.task.contract)
    else:
        store = intake.store_of(plant, held.task)
        store.settle()
        live = blocks.of_store(store, held.snapshot, held.task.contract)
    report = monitor.watch(plant, held, live)
    others = []
    if source is None and snapshot is None:
        from interplant.client import outcomes

        others = outcomes.watch(plant, held)
    if plot is not None:
        from interplant.data.drift_plot import draw

        draw(report.monitor, monitor.events_of(plant, report), plot)
    show(json, drifting.document(report, others), drifting.text(report, others))
    began = sum(len(one.began) for one in (report, *others))
    if fail and began:
        raise InterplantError(f"{began} drifts began; {plant.drift_events} holds them")


def _repository(directory: Path) -> "Repository":
    from interplant.client.directory import data_repository

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
