"""The reference experiment, one stage a call: ``python -m interplant.lab.experiment STAGE``.

``dvc.yaml`` names the stages and what each depends on, ``params.yaml`` says what to run. The federated
stages use the simulate engine: the same rounds, policies, ledgers and privacy code, in one process.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Final

from interplant.core import config
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import write_atomic
from interplant.core.possible import Impossible
from interplant.core.schema import Rounds, Task
from interplant.core.wire import from_bytes
from interplant.data import tables
from interplant.data.frames import Dataset
from interplant.data.tasks import builtin
from interplant.lab import baselines
from interplant.lab.baselines import PlantWindows, public
from interplant.lab.carriers import SimulateCarrier
from interplant.lab.federation import LocalFederation
from interplant.lab.prepared import Source, datasets, make, offer
from interplant.privacy.ledger import Ledger

FOLDER: Final = Path("experiment")
"""Everything the stages write, in the folder from which they are called."""

PLANTS: Final = FOLDER / "plants"

KINDS: Final = {
    "alone": "rmse_alone",
    "pooled": "rmse_pooled",
    "federated": "rmse_federated",
    "private": "rmse_federated_private",
}


@dataclass
class Preparation:
    """Where the plants' data comes from; see `interplant.lab.prepared.Source`."""

    dataset: str = "simulated"
    data: str = ""
    machines: int = 24
    seed: int = 0


@dataclass
class Params:
    """``params.yaml``."""

    prepare: Preparation = field(default_factory=Preparation)
    task: list[str] = field(default_factory=list)
    budget: float = 4.0

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        if self.budget <= 0:
            raise Impossible("budget", f"expected more than 0, found {self.budget}")

    @property
    def source(self) -> Source:
        """The data's source."""
        wanted = self.prepare
        data = Path(wanted.data) if wanted.data else None
        return Source(wanted.dataset, data, wanted.machines, wanted.seed)

    def load_task(self) -> Task:
        """Return the task that is learned."""
        return config.load(builtin("turbofan"), Task, self.task)


def prepare_plants(params: Params) -> None:
    """Write the plants' readings as plain files, which DVC keeps: it does not look into repositories."""
    for name, dataset in datasets(params.source):
        for file, content in tables.encode(dataset).items():
            write_atomic(PLANTS / name / file, content)


def train_alone(params: Params) -> None:
    """Train one model on each plant's own data."""
    task = params.load_task()
    errors = {
        name: baselines.error(task, baselines.train_alone(task, own.train), own.test)
        for name, own in _windows(task).items()
    }
    _write("alone", errors)


def train_pooled(params: Params) -> None:
    """Train one model on all data in one place."""
    task = params.load_task()
    plants = _windows(task)
    weights = baselines.train_alone(task, baselines.pool([own.train for own in plants.values()]))
    _write("pooled", {name: baselines.error(task, weights, own.test) for name, own in plants.items()})


def train_federated(params: Params) -> None:
    """Train one model over all plants, without privacy."""
    _federated(params, "federated", public(params.load_task()))


def train_private(params: Params) -> None:
    """Train one model over all plants, with privacy; what each has spent is in its ledger."""
    _federated(params, "private", params.load_task())


def draw_plots(_: Params) -> None:
    """Put the errors beside each other, in one document and one picture."""
    from interplant.lab.plot import errors

    results = {kind: json.loads((FOLDER / f"{kind}.json").read_text()) for kind in KINDS}
    names = list(results["alone"]["rmse"])
    summary = {kind: result["mean"] for kind, result in results.items()}
    write_atomic(FOLDER / "summary.json", json.dumps(summary, indent=1) + "\n")
    by_kind = {key: [results[kind]["rmse"][name] for name in names] for kind, key in KINDS.items()}
    data = "simulated data" if results["private"]["simulated"] else "C-MAPSS"
    errors(names, by_kind, f"Reference experiment ({data})", FOLDER / "errors.png")


STAGES: Final[dict[str, Callable[[Params], None]]] = {
    "prepare": prepare_plants,
    "alone": train_alone,
    "pooled": train_pooled,
    "federated": train_federated,
    "private": train_private,
    "plots": draw_plots,
}


def main(words: list[str]) -> int:
    """Run the stage ``words[0]``; one line on standard error says what went wrong."""
    try:
        if len(words) != 1 or words[0] not in STAGES:
            raise UsageError(f"expected one stage of {', '.join(STAGES)}, found {' '.join(words) or 'none'}")
        import torch

        torch.set_num_threads(1)
        STAGES[words[0]](config.load(Path("params.yaml"), Params))
    except InterplantError as error:
        sys.stderr.write(f"interplant: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interplant: stopped\n")
        return 1
    return 0


def _datasets() -> dict[str, Dataset]:
    folders = sorted(path for path in PLANTS.iterdir() if path.is_dir())
    return {
        folder.name: tables.decode({file.name: file.read_bytes() for file in folder.iterdir()})
        for folder in folders
    }


def _windows(task: Task) -> dict[str, PlantWindows]:
    return {name: PlantWindows.of(dataset, task) for name, dataset in _datasets().items()}


def _federated(params: Params, kind: str, task: Task) -> None:
    """Train over plants that exist as long as this call: their keys and ledgers are of no further use."""
    with tempfile.TemporaryDirectory(prefix="interplant-") as folder:
        place = Path(folder)
        plants = [make(place / "data" / name, dataset, task) for name, dataset in _datasets().items()]
        federation = LocalFederation(place / "federation")
        carrier = SimulateCarrier(federation)
        carrier.enrol(plants, lambda one: offer(one, task, params.budget))
        run = carrier.run(task, Rounds(quorum=len(plants)), False, lambda done: None)
        weights = from_bytes(run.weights.read_bytes())
        spent = {
            one.name: Ledger(federation.plant(one.name).ledger).spent(None, task.privacy.delta).epsilon
            for one in plants
        }
    errors = {name: baselines.error(task, weights, own.test) for name, own in _windows(task).items()}
    private = task.privacy.private
    more = {"epsilon": spent, "delta": task.privacy.delta, "unit": task.privacy.unit} if private else {}
    _write(kind, errors, {**more, "simulated": params.source.simulated})


def _write(kind: str, errors: dict[str, float], more: dict[str, Any] | None = None) -> None:
    """Write a stage's metrics: capped RMSE in cycles by plant, and the mean."""
    document = {"rmse": errors, "mean": mean(errors.values()), **(more or {})}
    write_atomic(FOLDER / f"{kind}.json", json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
