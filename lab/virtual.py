"""Virtual plants: the plant's own code over readings and settings in memory, in a folder that comes and goes.

Policy, privacy, ledger and gateway are the real ones; what is left out is Git, DVC and certificates. Put the
folder on a file system in memory (`scratch`): what a plant waits for there costs nothing.
"""

import hashlib
import importlib
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

from interplant.client.directory import PlantDirectory
from interplant.client.round_training import Bench, train_round
from interplant.client.trained import Trained
from interplant.core import certificates
from interplant.core.schema import Plant, Split, Task
from interplant.core.tensors import Tensors
from interplant.data.frames import Dataset
from interplant.data.snapshots import Snapshot
from interplant.privacy.ledger import Ledger

MEMORY = 1 << 30
"""Bytes of windows that a process keeps between rounds; the others are cut anew."""

OPEN = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
"""Ledgers that a process keeps open between rounds: each takes 0.1 MB and one of its open files."""


@dataclass(frozen=True)
class VirtualRepository:
    """Readings that are made when they are asked for.

    Args:
        name: Names the dataset.
        make: Makes the readings, the same ones each time.
    """

    name: str
    make: Callable[[], Dataset]

    @property
    def lineage(self) -> str:
        """Name of the dataset over all its snapshots: there is one."""
        return self.open().digest[:16]

    def open(self) -> Snapshot:
        """Return the one snapshot; its digest is of the name, for the readings follow from it."""
        return self._snapshot

    @cached_property
    def _snapshot(self) -> Snapshot:
        digest = hashlib.sha256(self.name.encode()).hexdigest()
        return Snapshot(digest, "", "", 0, 0, simulated=True, files={})

    def load(self, snapshot: Snapshot, split: Split) -> Dataset:
        """Make the readings; they are parted already."""
        return self.make()


@dataclass(frozen=True)
class VirtualDirectory(PlantDirectory):
    """A plant's directory whose settings and readings are in memory.

    Args:
        path: For the ledger, the audit log and the plant's keys.
        settings: In place of ``plant.yaml``.
        virtual: In place of a data repository.
    """

    settings: Plant
    virtual: VirtualRepository

    def load(self) -> Plant:
        """Return the settings; treat them as read-only."""
        return self.settings

    def check(self) -> None:
        """Do nothing: it was made here."""

    def repository(self) -> VirtualRepository:  # type: ignore[override] # it has what a round needs
        """Return the readings."""
        return self.virtual

    def create(self) -> None:
        """Make the folder, the plant's keys and its ledger."""
        self.keys.mkdir(parents=True)
        self.ledger.touch(0o600)
        self.ledger.write_bytes(_empty_ledger())
        self.snapshot_key.write_bytes(os.urandom(32))
        certificates.write_key(self.plant_key, certificates.key_pem(certificates.make_key()))


@cache
def _empty_ledger() -> bytes:
    """A ledger without an entry: the same for all plants, and made once."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "ledger.db"
        Ledger(made).close()
        return made.read_bytes()


def virtual_plant(folder: Path, name: str, settings: Plant, make: Callable[[], Dataset]) -> VirtualDirectory:
    """Make a virtual plant.

    Args:
        folder: Of all plants; this one's is made in it.
        name: The plant's.
        settings: Of all plants; the name is set here.
        make: Makes its readings.
    """
    own = replace(settings, name=name)
    made = VirtualDirectory(folder / name, own, VirtualRepository(name, make))
    made.create()
    return made


class VirtualTrainer:
    """Trains a virtual plant in this process.

    Args:
        plant: The plant's directory.
        kept: Shared by the plants of a process.
    """

    def __init__(self, plant: VirtualDirectory, kept: "Kept") -> None:
        self._plant, self._kept = plant, kept

    @classmethod
    def load(cls, threads: int) -> None:
        """Load what training needs, before a process is copied.

        Args:
            threads: Of torch.
        """
        for name in ("pandas", "pyarrow.parquet", "interplant.client.round_training"):
            importlib.import_module(name)
        import torch

        torch.set_num_threads(threads)

    def train(self, run: str, number: int, task: Task, weights: Tensors) -> Trained:
        """Train one round; see `interplant.client.round_training.train_round`."""
        bench = self._kept.bench(self._plant.path)
        trained = train_round(self._plant, bench, run, number, task, weights)
        self._kept.settle(self._plant.path)
        return trained


@dataclass
class Kept:
    """What a process keeps of its plants between rounds: windows as far as memory goes, and open ledgers."""

    limit: int = MEMORY
    open: int = OPEN
    benches: dict[Path, Bench] = field(default_factory=dict)
    sizes: dict[Path, int] = field(default_factory=dict)
    ledgers: set[Path] = field(default_factory=set)

    def bench(self, plant: Path) -> Bench:
        """Return a plant's."""
        return self.benches.setdefault(plant, Bench())

    def settle(self, plant: Path) -> None:
        """Keep a plant's windows, and its ledger open, or let them go if there is no room.

        Who came first stays: all plants come again, in the same order.
        """
        bench = self.benches[plant]
        if bench.ledger is not None and plant not in self.ledgers:
            if len(self.ledgers) < self.open:
                self.ledgers.add(plant)
            else:
                bench.ledger.close()
        if bench.windows is not None and plant not in self.sizes:
            size = bench.windows.x.nbytes
            if sum(self.sizes.values()) + size > self.limit:
                bench.windows = None
            else:
                self.sizes[plant] = size


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone at the end, in memory where the system has a place for that."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh folder of our own in it
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="interplant-", dir=place) as folder:
        yield Path(folder)
