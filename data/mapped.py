"""Windows of a snapshot of any size: readings normalised once into a file, windows looked up in it.

Readings pass through memory one partition at a time and end as float32 rows in a file that is mapped; a
window is a place in it, taken when a batch asks for it. Of each reading only time, label and cycle stay in
memory while its machine's windows are counted. The windows are those of `interplant.data.windows`, bit for
bit.
"""

import io
import json
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
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
from interplant.data.contract import Violation, check, columns, usable
from interplant.data.corrections import NUMBERS
from interplant.data.features import features
from interplant.data.frozen import FrozenReader
from interplant.data.pieces import parted
from interplant.data.windows import BOUND, Windows, arranged, labelled_ends, normalise

if TYPE_CHECKING:
    import pandas as pd

DROPPED: Final = 512
"""Windows taken after which the file's pages are given back to the system: each brings some 200 KiB in."""

FORMAT: Final = 1
"""Raised when windows are cut or kept in another way; part of the name under which they are kept."""

ROWS: Final = "rows.f32"
_Y: Final = "y.f32"
_MACHINE: Final = "machine.i64"
_RUNS: Final = "runs.npy"
_DONE: Final = "done.json"


class Mapped:
    """Windows in a file, taken by their numbers; in use like an array (N, channels, length).

    Args:
        rows: The file: float32 (readings, inputs).
        runs: Place of the first reading of each run's first window, and how many windows it has (runs, 2);
            those of a run begin ``stride`` readings apart.
        task: Window and features.
    """

    def __init__(self, rows: Path, runs: NDArray[np.int64], task: Task) -> None:
        self._pages: mmap.mmap | None = None
        self._rows = np.empty((0, len(columns(task.contract))), np.float32)
        if rows.stat().st_size:
            with rows.open("rb") as file:
                self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._rows = np.frombuffer(self._pages, np.float32).reshape(-1, self._rows.shape[1])
        self._first, self._before = runs[:, 0], np.concatenate([[0], np.cumsum(runs[:, 1])])
        self._window, self._taken = task.window, 0
        self.shape = (int(self._before[-1]), *task.shape)
        self.dtype = np.dtype(np.float32)
        self.nbytes = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, wanted: Any) -> NDArray[np.float32]:
        """Return windows (n, channels, length), or (n, channels, 1) with features, in memory of their own."""
        number = np.arange(*wanted.indices(len(self))) if isinstance(wanted, slice) else np.asarray(wanted)
        if not len(number):
            return np.empty((0, *self.shape[1:]), np.float32)
        run = np.searchsorted(self._before, number, side="right") - 1
        starts = self._first[run] + (number - self._before[run]) * self._window.stride
        every = np.lib.stride_tricks.sliding_window_view(self._rows, self._window.length, axis=0)
        found: NDArray[np.float32] = every[starts]
        self._taken += len(number)
        if self._taken >= DROPPED and self._pages is not None:
            # Else the whole file would count as this process's memory in the end.
            self._pages.madvise(mmap.MADV_DONTNEED)
            self._taken = 0
        return features(found, self._window, BOUND) if self._window.features else found


@dataclass(frozen=True)
class Cut:
    """Which windows of a snapshot.

    Args:
        held: Those of what is held out, in place of those to train on.
        last: Each machine's last one alone; see `interplant.data.windows.last_windows`.
        checked: Whether the readings were asked about already; see
            `interplant.data.windows.training_windows`.
    """

    held: bool = False
    last: bool = False
    checked: bool = False


@dataclass
class _Files:
    """What is written while readings pass, and what is known of them.

    Args:
        rows: Normalised readings, float32.
        y: Labels of the windows, float32.
        machine: Their machines, int64.
        runs: See `Mapped`.
        violations: By rule and column, over all readings.
        passed: Readings that passed.
    """

    rows: BinaryIO
    y: BinaryIO
    machine: BinaryIO
    runs: list[NDArray[np.int64]] = field(default_factory=list)
    violations: dict[tuple[str, str], Violation] = field(default_factory=dict)
    passed: int = 0


def mapped_windows(reader: FrozenReader, task: Task, folder: Path, cut: Cut) -> Windows:
    """Return windows of a snapshot of a store; cut once, then only opened.

    Args:
        reader: The snapshot.
        task: Contract, windows, target, split.
        folder: Where these windows of this snapshot and task lie, or shall.
        cut: Which windows.

    Raises:
        Refusal: ``contract``: one may not learn from these readings.
    """
    if not (folder / _DONE).is_file():
        _cut(reader, task, folder, cut)
    x = Mapped(folder / ROWS, np.load(folder / _RUNS), task)
    return Windows(x, _opened(folder / _Y, np.float32), _opened(folder / _MACHINE, np.int64))


def _opened(path: Path, kind: Any) -> NDArray[Any]:
    # Copy on write, so that torch may take it as its own; nobody writes.
    return np.memmap(path, kind, "c") if path.stat().st_size else np.empty(0, kind)


def forget_windows(folder: Path, kept: str) -> None:
    """Remove the windows of other snapshots and tasks, but for the four that were cut last."""
    others = [path for path in folder.iterdir() if path.name != kept]
    for path in sorted(others, key=lambda one: one.stat().st_mtime)[:-4]:
        shutil.rmtree(path, ignore_errors=True)


def _cut(reader: FrozenReader, task: Task, folder: Path, cut: Cut) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with disk_errors(folder):
        folder.mkdir(parents=True)
        with ExitStack() as stack:
            rows, y, machine = (
                stack.enter_context((folder / name).open("wb")) for name in (ROWS, _Y, _MACHINE)
            )
            found = _Files(rows, y, machine)
            for number, parts in parted(reader, task.split, cut.held):
                _one_machine(number, parts, task, cut, found)
            for file in (rows, y, machine):
                file.flush()
                os.fsync(file.fileno())
        if not cut.checked:
            _judge(found, cut)
        runs = io.BytesIO()
        np.save(runs, np.concatenate(found.runs) if found.runs else np.empty((0, 2), np.int64))
        write_atomic(folder / _RUNS, runs.getvalue())
        write_atomic(folder / _DONE, json.dumps({"readings": found.passed}) + "\n")
        sync_folder(folder)


def _one_machine(number: int, parts: "Iterator[pd.DataFrame]", task: Task, cut: Cut, found: _Files) -> None:
    """Write one machine's readings, and note where its windows begin.

    Before its first reading stand copies of it, should its first stretch be shorter than a window.
    """
    contract, ahead = task.contract, task.window.length - 1
    begin, written = found.rows.tell() // (4 * len(columns(contract))), 0
    kept = []
    for part in parts:
        taken = labels.encoded(part, task)
        if cut.checked:
            taken = usable(taken, contract)
        else:
            _note(taken, part, task, found)
        if not len(taken):
            continue
        inputs = normalise(taken[columns(contract)].to_numpy(dtype=np.float64), contract)
        if not written:
            found.rows.write(np.repeat(inputs[:1], ahead, axis=0).tobytes())
        found.rows.write(inputs.tobytes())
        written += len(taken)
        kept.append(taken[_outline(taken, contract)])
    if not written:
        return
    import pandas as pd

    outline = pd.concat(kept, ignore_index=True)
    rows = arranged(outline, task)
    ends = rows.lasts(task.window) if cut.last else rows.ends(task.window)
    own = labelled_ends(outline, rows, ends, task)
    # A place counts from the copies on that the window reaches back to, if it does.
    first = begin - (len(rows.order) - len(outline))
    found.runs.append(_runs(first + own.ends.astype(np.int64), task.window.stride))
    found.y.write(own.y.tobytes())
    found.machine.write(np.full(len(own.ends), number, np.int64).tobytes())
    found.passed += written


def _runs(starts: NDArray[np.int64], stride: int) -> NDArray[np.int64]:
    """Parts of equal steps: the first of each, and how many it has (runs, 2)."""
    opens = np.flatnonzero(np.diff(starts, prepend=starts[:1] - stride - 1) != stride)
    return np.column_stack([starts[opens], np.diff(np.append(opens, len(starts)))])


def _outline(part: "pd.DataFrame", contract: Contract) -> list[str]:
    return [
        name
        for name in (contract.machine, contract.time, contract.cycle, contract.label, *NUMBERS)
        if name in part.columns
    ]


def _note(coded: "pd.DataFrame", part: "pd.DataFrame", task: Task, found: _Files) -> None:
    """Count what breaks the contract, over all partitions."""
    own = list(check(coded, task.contract))
    own += list(labels.violations(part, task)) if task.target.kind != TIME else []
    for one in own:
        key = (one.rule, one.column)
        before = found.violations.get(key)
        found.violations[key] = replace(one, count=one.count + before.count if before else one.count)


def _judge(found: _Files, cut: Cut) -> None:
    """Refuse readings of which, all together, too many break the contract."""
    if not found.passed and not cut.held:
        raise Refusal("contract", "the data has no rows")
    for one in found.violations.values():
        if replace(one, rows=found.passed).blocks:
            raise Refusal("contract", str(replace(one, rows=found.passed)))
