"""The windows of a snapshot, wherever they come from: a store's in a file, two tables' in memory."""

import hashlib
import json
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

from interplant.core import config
from interplant.core.schema import Task
from interplant.data.mapped import FORMAT, Cut, forget_windows, mapped_windows
from interplant.data.pieces import parted
from interplant.data.snapshots import Snapshot, reader_of
from interplant.data.windows import Windows, last_windows, no_windows, training_windows

if TYPE_CHECKING:
    import pandas as pd


def windows_of(snapshot: Snapshot, task: Task, folder: Path, cut: Cut) -> Windows:
    """Return windows of an opened snapshot.

    Args:
        snapshot: Opened.
        task: Contract, windows, target, split.
        folder: Keeps those of stores, each cut once.
        cut: Which windows.

    Raises:
        Refusal: ``contract``: one may not learn from these readings.
    """
    if reader := reader_of(snapshot):
        name = f"{FORMAT}-{key_of(snapshot, task, cut)}"
        windows = mapped_windows(reader, task, folder / name, cut)
        forget_windows(folder, name)
        return windows
    tables = snapshot.dataset(task.split)
    frame = tables.holdout if cut.held else tables.train
    if cut.held and frame.empty:
        return no_windows(task)
    return (last_windows if cut.last else training_windows)(frame, task, cut.checked)


def held_out_keys(snapshot: Snapshot, task: Task) -> "pd.DataFrame":
    """Return machine and time of each reading that is held out of an opened snapshot.

    Raises:
        Refusal: See `interplant.data.pieces.records`.
    """
    import pandas as pd

    names = [task.contract.machine, task.contract.time]
    if reader := reader_of(snapshot):
        parts = [part[names] for _, own in parted(reader, task.split, held=True) for part in own]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)
    return snapshot.dataset(task.split).holdout[names]


def key_of(snapshot: Snapshot, task: Task, cut: Cut) -> str:
    """Return what names windows: the same for the same readings, task and cut."""
    parts = (task.contract, task.window, task.target, task.split)
    asked = [snapshot.digest, *map(config.dump, parts), *astuple(cut)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
