"""A store as a snapshot: its partitions and a manifest; and back, one machine after the other.

The manifest repeats the contract, so that a snapshot can be read by itself, and counts readings by day and
machine. It counts them by the versions of the contract that the readings of their partition were held to as
they came (``versions``), and names the partitions of which some were held to another than this one
(``others``), beside the versions that its people had readings held to (``held``). Labels of sources
(``labelled``) and, if there are any, of persons (``corrected``) are counted apart; the latter have columns of
their own (`interplant.data.corrections`). Who brought the readings is no part of it: the same readings are
the same snapshot.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from interplant.core import config
from interplant.core.contract import Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import disk_errors, indented, link_or_copy, write_atomic
from interplant.data.index import Partition
from interplant.data.tables import MANIFEST

if TYPE_CHECKING:
    import pyarrow as pa

VERSION: Final = 2
"""Of the manifest; version 1 is a dataset of two tables (`interplant.data.tables`)."""


@dataclass(frozen=True)
class Frozen:
    """What a snapshot of a store is made of.

    Args:
        source: Folder of the partitions.
        partitions: Them, by name.
        manifest: The manifest's bytes.
        simulated: Whether the plant simulator made the readings.
    """

    source: Path
    partitions: tuple[Partition, ...]
    manifest: bytes
    simulated: bool
    linked: Final = True

    @classmethod
    def of(
        cls,
        source: Path,
        partitions: list[Partition],
        contract: Contract,
        simulated: bool,
        held: Sequence[str],
    ) -> "Frozen":
        """Describe a store's partitions as they are now.

        Args:
            source: Folder of the partitions.
            partitions: All of them.
            contract: The store's.
            simulated: Whether the plant simulator made the readings.
            held: Versions of the contract that readings may have been held to: `interplant.data.held`.

        Raises:
            UsageError: There are none.
        """
        if not partitions:
            raise UsageError(
                f"{source}: expected readings in the store, found none; `interplant data ingest`"
            )
        days: dict[str, dict[str, int]] = {}
        for one in partitions:
            days.setdefault(one.day, {})[one.machine] = one.rows
        counts: Counter[str] = Counter()
        for one in partitions:
            counts[one.versions] += one.rows
        own, corrected = str(contract.version), sum(one.corrected for one in partitions)
        content = {
            "versions": dict(sorted(counts.items())),
            "held": list(held),
            "others": {one.name: one.versions for one in partitions if one.versions != own},
            "labelled": sum(one.labelled for one in partitions),
            **({"corrected": corrected} if corrected else {}),
            "version": VERSION,
            "simulated": simulated,
            "contract": config.dump(contract),
            "days": days,
        }
        return cls(source, tuple(partitions), indented(content).encode(), simulated)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file by name, sorted."""
        own = {one.name: one.sha256 for one in self.partitions}
        return dict(sorted({**own, MANIFEST: hashlib.sha256(self.manifest).hexdigest()}.items()))

    @property
    def rows(self) -> int:
        """Readings."""
        return sum(one.rows for one in self.partitions)

    @property
    def machines(self) -> int:
        """Machines."""
        return len({one.machine for one in self.partitions})

    def place(self, folder: Path, present: Mapping[str, str]) -> set[str]:
        """Make ``folder`` hold these files; what is there and right is left alone.

        Args:
            folder: The snapshot's.
            present: SHA-256 of the files that are there.

        Returns:
            Names of the files that were put there.
        """
        wanted = self.hashes
        missing = {name for name, own in wanted.items() if present.get(name) != own}
        going = present.keys() - wanted.keys()
        with disk_errors(folder):
            for name in going:
                (folder / name).unlink(missing_ok=True)
            for inside in {(folder / name).parent for name in going} - {folder}:
                if inside.is_dir() and not any(inside.iterdir()):
                    inside.rmdir()
            for name in missing - {MANIFEST}:
                link_or_copy(self.source / name, folder / name)
        if MANIFEST in missing:
            # Replaced, not written into: DVC's cache may share the old one.
            write_atomic(folder / MANIFEST, self.manifest)
        return missing


@dataclass(frozen=True)
class FrozenReader:
    """Reads a snapshot of a store; every file's bytes are checked as they are read.

    Args:
        folder: Of the snapshot.
        files: SHA-256 of each file by name.
    """

    folder: Path
    files: Mapping[str, str]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        content: dict[str, Any] = json.loads(self._content(MANIFEST))
        return content

    @cached_property
    def contract(self) -> Contract:
        """What the readings were held to."""
        return config.parse(self.manifest["contract"], Contract, str(self.folder / MANIFEST))

    def machines(self) -> list[list[str]]:
        """Return each machine's partitions in the order of time, machines by their files' names."""
        found: dict[str, list[str]] = {}
        for name in self.files:
            if name != MANIFEST:
                found.setdefault(name.rpartition("/")[2], []).append(name)
        return [
            sorted(found[machine], key=lambda name: when(name.partition("/")[0])) for machine in sorted(found)
        ]

    def read(self, name: str) -> "pa.Table":
        """Return the readings of a partition.

        Raises:
            InterplantError: A file is not what the snapshot says.
        """
        import pyarrow.parquet as pq

        return pq.read_table(io.BytesIO(self._content(name)))

    def _content(self, name: str) -> bytes:
        content = (self.folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.files[name]:
            raise InterplantError(
                f"{self.folder / name} is not what its snapshot holds; move {self.folder} away to have the "
                "snapshot restored from the plant's remote"
            )
        return content


def when(day: str) -> tuple[float, str]:
    """Return what sorts days as dates, and blocks of counts as numbers."""
    try:
        return float(day), ""
    except ValueError:
        return 0.0, day
