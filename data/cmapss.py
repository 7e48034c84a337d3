"""NASA's C-MAPSS turbofan sets: run-to-failure records of four fleets, here four plants.

Source: A. Saxena, K. Goebel, D. Simon and N. Eklund, "Damage Propagation Modeling for Aircraft
Engine Run-to-Failure Simulation", PHM08. A work of the US Government. The engines are themselves
simulated, by NASA; `Dataset.simulated` marks only what `interplant.data.simulator` made.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from interplant.core import config
from interplant.core.errors import UsageError
from interplant.core.files import sha256_file, write_atomic
from interplant.core.schema import Task
from interplant.data import contract
from interplant.data.archives import Archive, contents
from interplant.data.frames import Dataset
from interplant.data.tasks import builtin

if TYPE_CHECKING:
    import pandas as pd

SUBSETS: Final = ("FD001", "FD002", "FD003", "FD004")
ARCHIVE: Final = "cmapss.tar.xz"
ARCHIVE_SHA256: Final = "a2a82842ba39a841b0047da27b68c89a571d8c090ada44741e89bce824986a6d"

FILES: Final = {
    "RUL_FD001.txt": "a19c8ec94931949d0485bdc35118206e9c81c4547b422efb9cf86f4ceddbceca",
    "RUL_FD002.txt": "c851dd96a6ea6998d3c4a8f834d3c8013aa90e93a6ed950dc826ad0655b2906b",
    "RUL_FD003.txt": "df1e0566306b174a2de41c67a3e7a51877889598b78643fc3e5685259091b7cb",
    "RUL_FD004.txt": "196b836b85a95ac7fdbbf29c5fdf1657382eafa445644d114ffaaf50dc2975e1",
    "test_FD001.txt": "3cda7109ce17bafb5443f2ac926cfcf88154b941b8c4cf95eb55d1ddd6f52851",
    "test_FD002.txt": "de7b5bf7e998a985c378488480528b7c02cff1406a46740def362dda8d9b4e02",
    "test_FD003.txt": "299babd63c8d987cef079c4a425429f33b3a34797d803bbe2ad48c29dbd0d790",
    "test_FD004.txt": "1dc675fff0624bac10786927c6715b37d1297657137400d2b1a3138d777a3ba5",
    "train_FD001.txt": "963b5e22825b34d8b21c69e1aeb4af3e647050eb672ee8834ba4b5d91d2de0f8",
    "train_FD002.txt": "dac6c4dbc4e7c1bdeb5747da3d313d05c395bb99801b44a002b26a2ba13d788f",
    "train_FD003.txt": "42088bb1436c4f22fac16264f2678cefd3fc34a5c2f6c588cb6577c63932a4e2",
    "train_FD004.txt": "27ef6160b6a1dcb2613a88de9c239f763b223f02cdc41dc5cdedc5dc189b6218",
}
"""SHA-256 of each file. NASA's own ``train_FD003.txt`` has the same numbers, and writes some of its
zeros as -0.0000; such a file is taken too, and stored without the signs."""

_COLUMNS: Final = [
    "machine",
    "cycle",
    *(f"setting{number}" for number in range(1, 4)),
    *(f"s{number}" for number in range(1, 22)),
]


def fetch(source: Path, target: Path) -> None:
    """Copy the checked C-MAPSS files into ``target``.

    Args:
        source: Folder that holds ``cmapss.tar.xz``, or the extracted ``train_``, ``test_`` and
            ``RUL_`` text files.
        target: Folder for the text files; made if missing. Files already right are left alone.

    Raises:
        UsageError: Nothing to copy from ``source``, or a digest that differs. Nothing is written
            unless every file is right.
    """
    if all(_is_right(target / name) for name in FILES):
        return
    for name, content in contents(source, archive()).items():
        write_atomic(target / name, content)


def archive() -> Archive:
    """Return the files that `fetch` expects."""
    return Archive("C-MAPSS", ARCHIVE, ARCHIVE_SHA256, FILES)


def read(folder: Path, subset: str, columns: Sequence[str] | None = None) -> Dataset:
    """Read one subset as one plant's dataset.

    Args:
        folder: Where `fetch` put the files.
        subset: One of `SUBSETS`.
        columns: Settings and sensors to keep; by default those of the turbofan task.

    Returns:
        The training engines, and the test engines with ``rul`` (cycles) at every row.

    Raises:
        UsageError: Unknown subset, or a file that is not there.
    """
    if subset not in SUBSETS:
        raise UsageError(f"C-MAPSS subset: expected one of {', '.join(SUBSETS)}, found {subset!r}")
    task = config.load(builtin("turbofan"), Task)
    kept = ["machine", "cycle", *(columns or contract.columns(task.contract))]
    holdout = _table(folder / f"test_{subset}.txt")
    holdout["rul"] = _cycles_left(holdout, _text(folder / f"RUL_{subset}.txt"))
    train = _table(folder / f"train_{subset}.txt")
    return Dataset(train[kept].copy(), holdout[[*kept, "rul"]].copy(), simulated=False)


def _cycles_left(holdout: "pd.DataFrame", rul: bytes) -> "pd.Series":
    """Cycles from each reading to failure: those seen, and those after the record ends."""
    after = np.loadtxt(io.BytesIO(rul), dtype=np.int64, ndmin=1)
    last = holdout.groupby("machine")["cycle"].transform("max")
    return last - holdout["cycle"] + after[holdout["machine"].to_numpy() - 1]


def _table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_csv(io.BytesIO(_text(path)), sep=r"\s+", header=None, names=_COLUMNS)


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"{path}: expected a C-MAPSS file here, found none; run `interplant data fetch cmapss --from DIR`"
        ) from None


def _is_right(path: Path) -> bool:
    return path.is_file() and sha256_file(path) == FILES[path.name]
