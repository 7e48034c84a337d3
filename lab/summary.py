"""What a demo has shown: one document for programs, and a table that a plant manager understands."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

from interplant.core.files import write_atomic

COLUMNS: Final = (
    "plant",
    "snapshot",
    "machines",
    "rows",
    "alone",
    "pooled",
    "federated",
    "with privacy",
    "ε spent of budget",
    "release",
)
"""Errors are in cycles; ε counts one window."""


@dataclass(frozen=True)
class PlantResult:
    """One plant's line.

    Args:
        name: The plant.
        snapshot: Digest of the snapshot it trained on; it does not leave a real plant.
        snapshot_keyed: What the coordinator and the release's lineage know of it.
        rows: Readings it trained on.
        machines: Machines it trained on.
        rmse_alone: Error in cycles of a model trained on its own data alone.
        rmse_pooled: Of a model trained on all plants' data in one place.
        rmse_federated: Of the federation's model without privacy.
        rmse_federated_private: Of the federation's model with privacy: the release.
        privacy_unit: What ε counts.
        epsilon: Spent, by the plant's ledger.
        delta: Of the same guarantee.
        epsilon_budget: What the plant's policy allows.
        machine_windows: Windows of the plant's machine that has most.
        machine_epsilon: What the same training means for that whole machine; None: too large.
        release: Id of the release.
        release_state: ``active``, ``waiting`` or ``refused``.
        release_reason: The plant's own sentence.
    """

    name: str
    snapshot: str
    snapshot_keyed: str
    rows: int
    machines: int
    rmse_alone: float
    rmse_pooled: float
    rmse_federated: float
    rmse_federated_private: float
    privacy_unit: str
    epsilon: float
    delta: float
    epsilon_budget: float
    machine_windows: int
    machine_epsilon: float | None
    release: str
    release_state: str
    release_reason: str


@dataclass(frozen=True)
class Summary:
    """A demo's result; `as_dict` is ``summary.json``."""

    run: str
    dataset: str
    simulated: bool
    engine: str
    seed: int
    plants: tuple[PlantResult, ...]
    rounds: int
    seconds: dict[str, float]
    memory_mb: float
    release: dict[str, Any]
    loop: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON."""
        return asdict(self) | {"plants": [asdict(plant) for plant in self.plants]}

    def write(self, folder: Path) -> None:
        """Write ``summary.json``."""
        write_atomic(folder / "summary.json", self.to_json() + "\n")

    def to_json(self) -> str:
        """Return the summary as text."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def finite(value: float) -> float | None:
    """Return ``value``, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def overhead(rounds: Sequence[dict[str, Any]], training: dict[tuple[str, int], float], run: str) -> float:
    """Return the median over a run's rounds of wall time less the slowest plant's own training.

    Args:
        rounds: The coordinator's record of the run's rounds.
        training: Seconds of the slowest plant by run and round; see `slowest`.
        run: The run.
    """
    extra = [one["seconds"] - training[run, one["round"]] for one in rounds if one["settled"]]
    return float(max(0.0, median(extra)))


def slowest(records: Sequence[Sequence[dict[str, Any]]]) -> dict[tuple[str, int], float]:
    """Return the longest training by run and round, over the plants' own records of rounds."""
    found: dict[tuple[str, int], float] = {}
    for record in (entry for plant in records for entry in plant):
        key = (record["run"], record["round"])
        found[key] = max(found.get(key, 0.0), record["seconds"])
    return found


def rows(summary: Summary) -> list[list[str]]:
    """Return the table's lines under `COLUMNS`; the last one holds the means."""
    lines = [_row(plant) for plant in summary.plants]
    errors = [[float(line[index]) for line in lines] for index in range(4, 8)]
    return [*lines, ["mean", "", "", "", *(f"{mean(column):.1f}" for column in errors), "", ""]]


def _row(plant: PlantResult) -> list[str]:
    return [
        plant.name,
        plant.snapshot[:8],
        str(plant.machines),
        str(plant.rows),
        f"{plant.rmse_alone:.1f}",
        f"{plant.rmse_pooled:.1f}",
        f"{plant.rmse_federated:.1f}",
        f"{plant.rmse_federated_private:.1f}",
        f"{plant.epsilon:.2f} of {plant.epsilon_budget:g}",
        plant.release_state,
    ]


def title(summary: Summary) -> str:
    """Return what was done, in one line; simulated data is called that."""
    data = "SIMULATED data" if summary.simulated else "C-MAPSS (NASA's public benchmark)"
    return (
        f"{data}: {len(summary.plants)} plants, {summary.rounds} rounds, {summary.engine} engine. "
        "Error in cycles of remaining life on machines held out (capped RMSE, lower is better)"
    )


def notes(summary: Summary) -> list[str]:
    """Return what must stand beside the table so that nobody reads it wrongly."""
    from interplant.privacy.accounting import machine_sentence

    first = max(summary.plants, key=lambda plant: plant.epsilon)
    machine = machine_sentence(
        math.inf if first.machine_epsilon is None else first.machine_epsilon, first.machine_windows
    )
    release, seconds = summary.release, summary.seconds
    verified = "verified at every plant" if release["signature_verified"] else "NOT verified at every plant"
    lines = [
        f"ε protects one {first.privacy_unit} (δ = {first.delta:g}). It does not protect a whole machine: "
        f"at {first.name} {machine}.",
        "alone: own data only. pooled: all data in one place, which a federation is there to avoid. Both as "
        "many training steps as a federated plant.",
        "The demo owns every plant and reads their own files. In a real federation errors, ledgers and "
        "verdicts stay in the plant.",
        f"Release {release['id']}: sha256 {release['sha256'][:12]}, signature {verified}.",
        f"{seconds['total']:.0f} s in all, {seconds['train']:.0f} s of it rounds, "
        f"{1000 * seconds['overhead_per_round']:.0f} ms a round beyond training, first training step after "
        f"{seconds['to_first_training']:.1f} s"
        + (f"; {summary.memory_mb:.0f} MB for all processes together." if summary.memory_mb else "."),
    ]
    if summary.simulated:
        lines.insert(0, "The readings are simulated: these errors say nothing about real machines.")
    return lines + [
        f"{plant.name} refused the release: {plant.release_reason}"
        for plant in summary.plants
        if plant.release_state == "refused"
    ]
