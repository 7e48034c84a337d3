"""A run's folder: what was ordered, the checkpoint after each round, and the record of the rounds.

The folder alone is enough to go on after a kill. A coordinator's registry repeats its state for the
people who ask; the simulate and flower engines have no registry.
"""

from __future__ import annotations  # a command that starts a run does not load Flower

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from interplant.core import blobs, certificates, config
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, takes_turns, write_atomic
from interplant.core.schema import Compression, Rounds, Task

if TYPE_CHECKING:
    from interplant.core.tensors import Tensors

_STATE = "strategy's state: "
"""Before the names of the strategy's arrays in a checkpoint; no parameter of a model is called so."""

_HELD = "plants hold: "
"""The same before those of the model that plants hold."""


@dataclass(frozen=True)
class Order:
    """What a run shall do.

    Args:
        run: The run's id.
        run_id: Flower's number for it.
        task: The task, as plain JSON.
        rounds: `interplant.core.schema.Rounds`, as plain JSON.
        engine: ``grpc``, ``simulate`` or ``flower``.
        release: Whether the run ends with a release.
        start_from: Safetensors weights to start from, a path from the folder; fresh ones if empty.
        parent: Id of the release that they come from; empty if from none.
    """

    run: str
    run_id: int
    task: dict[str, Any]
    rounds: dict[str, Any]
    engine: str = "grpc"
    release: bool = True
    start_from: str = ""
    parent: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """The state after a round: enough to go on.

    Args:
        round: Rounds done.
        weights: The global model.
        plants: Per plant its latest receipt, the number of rounds it took part in, and by keyed digest of
            each of its snapshots the number of rounds on it.
        state: The strategy's; empty if it keeps none, and after the last round.
        held: The model that plants trained from, where the next one is sent as a difference from it.
        holders: Digest of the model that each plant says it holds.
    """

    round: int
    weights: Tensors
    plants: dict[str, dict[str, Any]] = field(default_factory=dict)
    state: Tensors = field(default_factory=dict)
    held: Tensors = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)


class RunFolder:
    """Read and write a run's folder.

    Args:
        path: ``runs/<id>``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def weights(self) -> Path:
        """The checkpoint's file; after the last round it holds the result."""
        return self.path / "checkpoint.safetensors"

    def create(self, order: Order) -> None:
        """Write the order; the folder must not hold one."""
        if (self.path / "order.json").exists():
            raise InterplantError(f"{self.path}: there is a run here already; choose another id")
        write_atomic(self.path / "order.json", json.dumps(asdict(order), indent=1))

    def order(self) -> Order:
        """Read the order."""
        try:
            return Order(**json.loads((self.path / "order.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise InterplantError(f"{self.path}: expected a run's order.json, found: {error}") from None

    def task(self) -> Task:
        """Read the order's task; treat it as read-only."""
        return config.task_from_json(config.text_of(self.order().task))

    def rounds(self) -> Rounds:
        """Read the order's rules for rounds."""
        words = self.order().rounds
        return Rounds(**words | {"compression": Compression(**words.get("compression", {}))})

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint durably; the old one stays until the new one is whole."""
        notes = {"round": str(checkpoint.round), "plants": json.dumps(checkpoint.plants)}
        if checkpoint.holders:
            notes["holders"] = json.dumps(checkpoint.holders)
        arrays = checkpoint.weights | {_STATE + name: array for name, array in checkpoint.state.items()}
        arrays |= {_HELD + name: array for name, array in checkpoint.held.items()}
        blobs.replace(self.weights, arrays, notes)

    def restore(self) -> Checkpoint | None:
        """Read the latest checkpoint, or None if no round is done.

        Raises:
            InterplantError: The file is damaged.
        """
        if not self.weights.exists():
            return None
        try:
            with safe_open(self.weights, framework="numpy") as file:
                notes = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            state, held = _take_out(arrays, _STATE), _take_out(arrays, _HELD)
            plants, holders = json.loads(notes["plants"]), json.loads(notes.get("holders", "{}"))
            return Checkpoint(int(notes["round"]), arrays, plants, state, held, holders)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InterplantError(
                f"{self.weights}: the checkpoint cannot be read ({error}); restore it from a backup, or "
                "remove it to begin the run anew"
            ) from None

    def receipts(self) -> dict[str, str]:
        """Return the last receipt that each plant ever had in a merge here, as JSON; of all runs."""
        if not self._receipts.exists():
            return {}
        lines = self._receipts.read_text().splitlines()
        return {str(json.loads(line)["plant"]): line for line in lines if line}

    def keep_receipts(self, receipts: Mapping[str, dict[str, Any]], told: Mapping[str, str]) -> None:
        """Keep a round's receipts in one file, a line a plant: one wait for the disk, however many there are.

        Args:
            receipts: By plant.
            told: From `receipts`, as it was sent to the plants: a plant that trained knowing its last
                receipt holds all that this one names. If another came in between, the one with more
                entries stays, so that of two copies of a plant the one that is behind will hear of it.
        """
        with takes_turns(self._receipts.with_suffix(".lock")):  # another run may have the same plants
            kept = self.receipts()
            before = dict(kept)
            for name, content in receipts.items():
                if not certificates.is_valid_name(name):
                    continue  # a grid without names takes a plant's word for its own
                last = kept.get(name)
                if last == told.get(name) or content["entries"] > json.loads(last or "{}").get("entries", -1):
                    kept[name] = json.dumps(content, sort_keys=True)
            if kept != before:
                write_atomic(self._receipts, "".join(f"{kept[name]}\n" for name in sorted(kept)))

    @property
    def _receipts(self) -> Path:
        return self.path.parent / ".receipts.jsonl"

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the record of rounds."""
        path = self.path / "rounds.jsonl"
        with disk_errors(path), path.open("a") as file:
            # A line that a kill has cut off must not spoil the next.
            file.write(_line_end(path) + json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[dict[str, Any]]:
        """Read the record of rounds, without a line that a kill has cut off."""
        path = self.path / "rounds.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [record for line in lines if (record := _record(line)) is not None]

    def forgive(self) -> None:
        """Let no failure of an attempt until now make a plant rest: a person has mended what was wrong."""
        if count := len(self.records()):
            write_atomic(self.path / "forgiven.json", json.dumps(count))

    def forgiven(self) -> int:
        """Return of how many attempts, the first ones, no failure counts."""
        path = self.path / "forgiven.json"
        return int(json.loads(path.read_text())) if path.exists() else 0


def make_order(
    run: str,
    task: Task,
    rules: Rounds,
    engine: str,
    release: bool,
    start_from: str = "",
    parent: str = "",
) -> Order:
    """Write down what a run shall do; see `Order`."""
    return Order(
        run=run,
        run_id=flower_run_id(run),
        task=config.dump(task),
        rounds=asdict(rules),
        engine=engine,
        release=release,
        start_from=start_from,
        parent=parent,
    )


def flower_run_id(run: str) -> int:
    """Flower's number for a run."""
    return int.from_bytes(hashlib.sha256(run.encode()).digest()[:8], "big") >> 1


def _take_out(arrays: Tensors, head: str) -> Tensors:
    """Remove the arrays whose names begin with ``head``; return them without it."""
    return {name.removeprefix(head): arrays.pop(name) for name in list(arrays) if name.startswith(head)}


def _record(line: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except ValueError:
        return None


def _line_end(path: Path) -> str:
    return "" if path.read_bytes()[-1:] in (b"", b"\n") else "\n"
