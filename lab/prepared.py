"""Four plants' data as Git and DVC repositories: made once, copied into federations that come and go."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interplant.core import config
from interplant.core.errors import UsageError
from interplant.core.files import disk_errors, sha256_file, write_atomic
from interplant.core.schema import Plant, Task
from interplant.core.staging import new_folder
from interplant.data import cmapss, simulator
from interplant.data.repository import Repository

if TYPE_CHECKING:
    from interplant.data.frames import Dataset

PLANTS: Final = 4
DATASETS: Final = ("simulated", "cmapss")
_RECORD: Final = "plants.json"


@dataclass(frozen=True)
class Source:
    """Where the plants' readings come from.

    Args:
        dataset: ``simulated``, or ``cmapss``: its four subsets are the four plants.
        data: Folder with the C-MAPSS files.
        machines: Machines in a simulated plant's record.
        seed: Seed of the simulator.

    Raises:
        UsageError: The dataset is unknown, or its files are not named.
    """

    dataset: str = "simulated"
    data: Path | None = None
    machines: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            raise UsageError(f"dataset: expected one of {', '.join(DATASETS)}, found {self.dataset!r}")
        if self.dataset == "cmapss" and self.data is None:
            raise UsageError("dataset cmapss: expected --data DIR, the folder with cmapss.tar.xz")

    @property
    def simulated(self) -> bool:
        """Whether the simulator makes the readings."""
        return self.dataset == "simulated"

    @property
    def name(self) -> str:
        """Name of the folder in which the prepared data is kept."""
        return f"simulated-{self.machines}-{self.seed}" if self.simulated else self.dataset


@dataclass(frozen=True)
class Prepared:
    """One plant's prepared data.

    Args:
        name: The plant.
        folder: Holds ``data`` (the repository) and ``remote``.
        snapshot: Digest of its newest snapshot.
        rows: Readings to train on.
        machines: Machines to train on.
        declared_windows: Number of training windows, rounded: what the plant declares as public.
        declared_units: Number of machines, rounded.
        declared_unit_windows: The most windows of a machine, rounded up.
        simulated: Whether the simulator made it.
    """

    name: str
    folder: Path
    snapshot: str
    rows: int
    machines: int
    declared_windows: int
    declared_units: int
    declared_unit_windows: int
    simulated: bool

    def place(self, plant: Path) -> None:
        """Copy the repository and its remote into a plant's directory, in place of what is there."""
        for part in ("data", "remote"):
            with disk_errors(plant):
                shutil.rmtree(plant / part, ignore_errors=True)
                shutil.copytree(self.folder / part, plant / part)


def prepare(
    folder: Path, source: Source, task: Task, tell: Callable[[str], None] = lambda _: None
) -> list[Prepared]:
    """Make the plants' repositories, or find them made: whole or not there, also after a kill.

    Args:
        folder: Keeps prepared data of any source, side by side.
        source: What to prepare.
        task: Its contract and window decide how many windows there are.
        tell: Hears what is done.

    Raises:
        UsageError: The C-MAPSS files are not where they should be, or are others.
    """
    place = folder.absolute() / source.name
    recipe = _recipe(source, task)
    found = _read(place, recipe)
    if found:
        return found
    if place.is_dir() and (place / _RECORD).exists():
        shutil.rmtree(place)  # made by another version; what it was made from is still there
    with new_folder(place, "preparing the plants' data") as staging:
        made = []
        for name, dataset in datasets(source):
            tell(f"preparing the data of {name}")
            made.append(make(staging / name, dataset, task))
        plants = [asdict(one) | {"folder": one.name} for one in made]
        write_atomic(staging / _RECORD, json.dumps({"recipe": recipe, "plants": plants}, indent=1))
    return _read(place, recipe)


def datasets(source: Source) -> Iterator[tuple[str, "Dataset"]]:
    """Yield each plant's name and readings.

    Raises:
        UsageError: The C-MAPSS files are not where they should be, or are others.
    """
    if source.simulated:
        for index in range(PLANTS):
            yield f"plant-{index + 1}", simulator.simulate(index, source.machines, source.seed)
        return
    assert source.data is not None
    with tempfile.TemporaryDirectory(prefix="interplant-") as folder:
        cmapss.fetch(source.data, Path(folder))
        for subset in cmapss.SUBSETS:
            yield subset.lower(), cmapss.read(Path(folder), subset)


def make(folder: Path, dataset: "Dataset", task: Task) -> Prepared:
    """Make one plant's repository and its first snapshot; the folder's name is the plant's."""
    from interplant.data.windows import sizes

    size = sizes(dataset.train, task)
    snapshot = Repository.create(folder / "data", folder / "remote").snapshot(dataset)
    return Prepared(
        folder.name,
        folder,
        snapshot.digest,
        snapshot.rows,
        snapshot.machines,
        size.windows,
        size.units,
        size.unit_windows,
        snapshot.simulated,
    )


def offer(prepared: Prepared, task: Task, epsilon: float) -> Callable[[Plant], None]:
    """Return the change to ``plant.yaml`` with which a demo's plant takes part.

    It lets the task train with and without privacy, which is meant for simulated and public data
    only, and lets the gate activate releases by itself.
    """

    def change(plant: Plant) -> None:
        plant.data.declared_windows = prepared.declared_windows
        plant.data.declared_units = prepared.declared_units
        plant.data.declared_unit_windows = prepared.declared_unit_windows
        plant.data.simulated = prepared.simulated
        plant.data.machine, plant.data.time = task.contract.machine, task.contract.time
        plant.policy.tasks = [task.name]
        plant.policy.metrics = list(task.metrics)
        plant.policy.models = [task.model.name]
        plant.policy.strategies = [task.strategy.name]
        plant.policy.privacy.allow_none = True
        plant.policy.privacy.units = [task.privacy.unit]
        plant.policy.privacy.epsilon = epsilon
        plant.policy.privacy.delta = task.privacy.delta
        plant.policy.release.approval = "auto"

    return change


def offer_readings(readings: "Dataset", task: Task, epsilon: float) -> Callable[[Plant], None]:
    """Do what `offer` does, for a plant whose readings lie in no repository; they count as simulated."""
    from interplant.data.windows import sizes

    size = sizes(readings.train, task)
    sized = Prepared("", Path(), "", 0, 0, size.windows, size.units, size.unit_windows, simulated=True)
    return offer(sized, task, epsilon)


def _recipe(source: Source, task: Task) -> str:
    """Name everything that the prepared data depends on."""
    parts = [
        source.name,
        version("interplant"),
        sha256_file(Path(simulator.__file__)) if source.simulated else cmapss.ARCHIVE_SHA256,
        config.to_json(task.contract),
        config.to_json(task.window),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read(place: Path, recipe: str) -> list[Prepared]:
    try:
        content = json.loads((place / _RECORD).read_text())
        if content["recipe"] != recipe:
            return []
        return [Prepared(**one | {"folder": place / one["folder"]}) for one in content["plants"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
