"""A dataset as files, the same bytes for the same readings, and back."""

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from interplant.core.errors import UsageError
from interplant.core.files import disk_errors, write_atomic
from interplant.data.frames import Dataset

if TYPE_CHECKING:
    import pandas as pd

TRAIN: Final = "train.parquet"
HOLDOUT: Final = "holdout.parquet"
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True)
class Tables:
    """What a snapshot of two tables is made of.

    Args:
        contents: The files by name; see `encode`.
    """

    contents: Mapping[str, bytes]
    linked: Final = False

    @classmethod
    def of(cls, dataset: Dataset, machine: str) -> "Tables":
        """Take a dataset; see `encode`."""
        return cls(encode(dataset, machine))

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file by name, sorted."""
        return hashes(self.contents)

    @property
    def rows(self) -> int:
        """Readings to train on: the holdout is not counted."""
        return int(manifest_of(self.contents)["train"]["rows"])

    @property
    def machines(self) -> int:
        """Machines to train on."""
        return len(manifest_of(self.contents)["train"]["machines"])

    @property
    def simulated(self) -> bool:
        """Whether the plant simulator made the readings."""
        return bool(manifest_of(self.contents)["simulated"])

    def place(self, folder: Path, present: Mapping[str, str]) -> set[str]:
        """Make ``folder`` hold these files and no others; return their names."""
        incoming = folder.with_name("incoming")
        shutil.rmtree(incoming, ignore_errors=True)
        for name, content in self.contents.items():
            write_atomic(incoming / name, content)
        with disk_errors(folder):
            if folder.is_dir():
                shutil.rmtree(folder)
            incoming.rename(folder)
        return set(self.contents)


def encode(dataset: Dataset, machine: str = "machine") -> dict[str, bytes]:
    """Return the files of a dataset by name.

    The bytes depend on the readings and on the installed version of Arrow alone: not on the clock,
    the index or who wrote them.

    Args:
        dataset: A plant's readings.
        machine: The contract's machine column, for the counts in the manifest.

    Raises:
        UsageError: There is no such column.
    """
    manifest = {
        "version": 1,
        "simulated": dataset.simulated,
        "train": _counts(dataset.train, machine),
        "holdout": _counts(dataset.holdout, machine),
    }
    return {
        TRAIN: _parquet(dataset.train),
        HOLDOUT: _parquet(dataset.holdout),
        MANIFEST: (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode(),
    }


def decode(files: Mapping[str, bytes]) -> Dataset:
    """Return the dataset that `encode` wrote."""
    import pyarrow.parquet as pq

    train, holdout = (pq.read_table(io.BytesIO(files[name])).to_pandas() for name in (TRAIN, HOLDOUT))
    return Dataset(train, holdout, simulated=bool(manifest_of(files)["simulated"]))


def manifest_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the manifest: counts per machine, rows, and whether the readings are simulated."""
    manifest: dict[str, Any] = json.loads(files[MANIFEST])
    return manifest


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each file by name, sorted."""
    return {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}


def digest(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 over sorted names and hashes: the name of this state of the data."""
    lines = "".join(f"{name}\0{hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def _counts(frame: "pd.DataFrame", machine: str) -> dict[str, Any]:
    if machine not in frame.columns:
        raise UsageError(
            f"the data has no column {machine!r}; expected one that names the machine of each reading"
        )
    counts = frame[machine].value_counts().sort_index()
    return {
        "rows": len(frame),
        "machines": {str(name): int(count) for name, count in counts.items()},
    }


def _parquet(frame: "pd.DataFrame") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Pandas' own metadata names its version and the index, so that an upgrade would look like news.
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", version="2.6")
    return buffer.getvalue()
