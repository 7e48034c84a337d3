"""Windows of a snapshot of any size: readings normalised once into a file, windows looked up in it.

Readings pass through memory one partition at a time and end as float32 rows in a file that is mapped; a
window is a place in it, taken when a batch asks for it. Of each reading only time, label and cycle stay in
memory while its machine's windows are counted. The windows are those of `interplant.data.windows`, bit for
bit.
"""

import json
import mmap
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.errors import Refusal
from interplant.core.files import disk_errors, sync_folder, write_atomic
from interplant.core.schema import Task
from interplant.core.targets import TIME
from interplant.data import labels
from interplant.data.contract import Violation, check, columns
from interplant.data.features import features
from interplant.data.frozen import FrozenReader, pieces, records
from interplant.data.windows import BOUND, Windows, arranged, labelled_ends, normalise

if TYPE_CHECKING:
    import pandas as pd

DROPPED: Final = 32 << 20
"""Bytes of windows taken after which the file's pages are given back to the system."""

ROWS: Final = "rows.f32"
_DONE: Final = "done.json"
_ARRAYS: Final = ("starts", "y", "machine")


class Mapped:
    """Windows in a file, taken by their numbers; in use like an array (N, channels, length).

    Args:
        rows: The file: float32 (readings, inputs).
        starts: Place of each window's first reading (N,).
        task: Window and features.
    """

    def __init__(self, rows: Path, starts: NDArray[np.int64], task: Task) -> None:
        inputs = len(columns(task.contract))
        self._pages: mmap.mmap | None = None
        self._rows = np.empty((0, inputs), np.float32)
        if rows.stat().st_size:
            with rows.open("rb") as file:
                self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._rows = np.frombuffer(self._pages, np.float32).reshape(-1, inputs)
        self._starts, self._window = starts, task.window
        self._taken = 0
        self.shape = (len(starts), *task.shape)
        self.dtype = np.dtype(np.float32)
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, wanted: Any) -> NDArray[np.float32]:
        """Return windows (n, channels, length), or (n, channels, 1) with features, in memory of their own."""
        starts = self._starts[wanted]
        if not len(starts):
            return np.empty((0, *self.shape[1:]), np.float32)
        every = np.lib.stride_tricks.sliding_window_view(self._rows, self._window.length, axis=0)
        found: NDArray[np.float32] = every[starts]
        self._taken += found.nbytes
        if self._taken > DROPPED and self._pages is not None:
            # Else the whole file would count as this process's memory in the end.
            self._pages.madvise(mmap.MADV_DONTNEED)
            self._taken = 0
        return features(found, self._window, BOUND) if self._window.features else found


@dataclass
class _Recording:
    """What is known of the windows while readings pass."""

    starts: list[NDArray[np.int64]]
    y: list[NDArray[np.float32]]
    machine: list[NDArray[np.int64]]
    violations: dict[tuple[str, str], Violation]
    rows: int = 0
    trained: int = 0


def mapped_windows(reader: FrozenReader, task: Task, folder: Path) -> Windows:
    """Return the training windows of a snapshot of a store; cut once, then only opened.

    Args:
        reader: The snapshot.
        task: Contract, windows, target, split.
        folder: Where the windows of this snapshot and task lie, or shall.

    Raises:
        Refusal: ``contract``: one may not learn from these readings.
    """
    if not (folder / _DONE).is_file():
        _cut(reader, task, folder)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode=None) for name in _ARRAYS}
    return Windows(Mapped(folder / ROWS, arrays["starts"], task), arrays["y"], arrays["machine"])


def forget_windows(folder: Path, kept: str) -> None:
    """Remove the windows of other snapshots and tasks, but for the two used last."""
    others = [path for path in folder.iterdir() if path.name != kept]
    for path in sorted(others, key=lambda one: one.stat().st_mtime)[:-2]:
        shutil.rmtree(path, ignore_errors=True)


def _cut(reader: FrozenReader, task: Task, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with disk_errors(folder):
        folder.mkdir(parents=True)
        found = _Recording([], [], [], {})
        with (folder / ROWS).open("wb") as file:
            for record in records(reader, task.split):
                if record.share:
                    _one_machine(record.number, pieces(reader, record), record.share, task, file, found)
        _judge(found)
        kinds = {"starts": np.int64, "y": np.float32, "machine": np.int64}
        for name in _ARRAYS:
            parts = getattr(found, name)
            np.save(folder / f"{name}.npy", np.concatenate(parts) if parts else np.empty(0, kinds[name]))
        write_atomic(folder / _DONE, json.dumps({"rows": found.rows}) + "\n")
        sync_folder(folder)


def _one_machine(
    number: int, parts: "Iterator[pd.DataFrame]", share: float, task: Task, file: BinaryIO, found: _Recording
) -> None:
    """Write one machine's readings, and note where its windows begin.

    Before its first reading stand copies of it, should its first stretch be shorter than a window.
    """
    contract, ahead = task.contract, task.window.length - 1
    begin, written = file.tell() // (4 * len(columns(task.contract))), 0
    kept = []
    for part in parts:
        _note(labels.encoded(part, task), part, task, found)
        inputs = normalise(part[columns(contract)].to_numpy(dtype=np.float64), contract)
        if not written:
            file.write(np.repeat(inputs[:1], ahead, axis=0).tobytes())
        file.write(inputs.tobytes())
        written += len(part)
        kept.append(part[_outline(part, contract)])
    if not written:
        return
    import pandas as pd

    outline = labels.encoded(pd.concat(kept, ignore_index=True), task)
    outline = outline.iloc[: int(len(outline) * share)]
    rows = arranged(outline, task)
    own = labelled_ends(outline, rows, rows.ends(task.window), task)
    # A place counts from the copies on that the window reaches back to, if it does.
    first = begin - (len(rows.order) - len(outline))
    found.starts.append((first + own.ends).astype(np.int64))
    found.y.append(own.y)
    found.machine.append(np.full(len(own.ends), number, np.int64))
    found.rows += written
    found.trained += len(outline)


def _outline(part: "pd.DataFrame", contract: Contract) -> list[str]:
    return [
        name
        for name in (contract.machine, contract.time, contract.cycle, contract.label)
        if name in part.columns
    ]


def _note(coded: "pd.DataFrame", part: "pd.DataFrame", task: Task, found: _Recording) -> None:
    """Count what breaks the contract, over all partitions."""
    own = list(check(coded, task.contract))
    own += list(labels.violations(part, task)) if task.target.kind != TIME else []
    for one in own:
        key = (one.rule, one.column)
        before = found.violations.get(key)
        found.violations[key] = replace(one, count=one.count + before.count if before else one.count)


def _judge(found: _Recording) -> None:
    """Refuse readings of which, all together, too many break the contract."""
    if not found.trained:
        raise Refusal("contract", "the data has no rows")
    for one in found.violations.values():
        if replace(one, rows=found.rows).blocks:
            raise Refusal("contract", str(replace(one, rows=found.rows)))
