"""What a drift monitor remembers, in one file that is whole or as it was before."""

import json
from io import BytesIO
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np

from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.data.drift import State
from interplant.data.runs import Runs

_FORMAT: Final = 1
_PLAIN: Final = ("windows", "active", "kinds")


def save(path: Path, state: State) -> None:
    """Write a state durably, readable by this user alone: it holds numbers about data."""
    words = {name: getattr(state, name) for name in _PLAIN}
    held = state.runs.held
    machines = sorted(held)
    buffer = BytesIO()
    np.savez(
        buffer,
        format=_FORMAT,
        words=json.dumps(words),
        marked=np.array(sorted(state.marks), np.int64),
        marks=np.array([state.marks[machine] for machine in sorted(state.marks)], np.float64),
        history=state.history,
        machines=np.array(machines, np.int64),
        values=np.array([held[machine][0] for machine in machines]),
        runs=np.array([held[machine][1] for machine in machines]),
    )
    write_atomic(path, buffer.getvalue(), mode=0o600)


def load(path: Path) -> State:
    """Read what `save` wrote; a new state if there is no file.

    Raises:
        InterplantError: It is damaged.
    """
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
        if held["format"] != _FORMAT:
            raise ValueError(f"format {held['format']}")
        runs = zip(held["machines"].tolist(), held["values"], held["runs"], strict=True)
        return State(
            **json.loads(str(held["words"])),
            marks=dict(zip(held["marked"].tolist(), held["marks"].tolist(), strict=True)),
            history=held["history"],
            runs=Runs({machine: (values, counts) for machine, values, counts in runs}),
        )
    except FileNotFoundError:
        return State()
    except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile) as error:
        raise InterplantError(
            f"{path}: cannot be read: {error}; remove it, and the readings are compared from the start"
        ) from None
