"""Events of drift: one durable JSON line each, which later work turns into a retraining.

They hold numbers about data and stay in the plant's directory; nothing here is sent.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, write_atomic

INPUTS: Final = "inputs"
PREDICTIONS: Final = "predictions"
ERRORS: Final = "errors"


@dataclass(frozen=True)
class Event:
    """A drift that began.

    Args:
        id: Of the snapshot, sensor, kind and readings: the same readings make no second event.
        written: When, ISO 8601, UTC.
        snapshot: Digest of what live readings were held against; it identifies data and stays here.
        release: The champion, or None.
        watched: ``inputs``, ``predictions`` or ``errors``.
        sensor: Column, of predictions a class or their name; empty where all are unusual jointly.
        other: The sensor whose values it gives, if it is swapped; else empty.
        kind: A key of `interplant.data.diagnosis.KINDS`.
        test: What alarmed; see `interplant.data.diagnosis.Finding`.
        statistic: What was found.
        threshold: What it passed.
        false_alarms: In 10 000 windows, over all sensors and tests, that the threshold allows.
        windows: Number of the window in which it seems to have begun, and of the one that alarmed, from 0.
        times: The contract's time of the first and last reading of the window that alarmed; of timestamps,
            seconds since 1970. Of predictions their rows in the log, of errors when their labels came.
        readings: Readings of a window, or predictions.
        evidence: Further numbers.
    """

    id: str
    written: str
    snapshot: str
    release: str | None
    watched: str
    sensor: str
    other: str
    kind: str
    test: str
    statistic: float
    threshold: float
    false_alarms: float
    windows: tuple[int, int]
    times: tuple[float, float]
    readings: int
    evidence: dict[str, float]


def identity(snapshot: str, watched: str, sensor: str, kind: str, times: tuple[float, float]) -> str:
    """Return what an event is known by, 16 digits."""
    words = json.dumps([snapshot, watched, sensor, kind, *times])
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def read(path: Path) -> list[Event]:
    """Return the events of a file, the oldest first; none if there is no file.

    A last line that a crash has cut is no event: its readings are compared again.

    Raises:
        InterplantError: Another line is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    try:
        return [_parse(json.loads(line)) for line in lines[:-1]]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InterplantError(f"{path}: a line is damaged; mend or remove it") from None


def append(path: Path, events: Iterable[Event]) -> list[Event]:
    """Write the events that are not in the file yet, durably.

    Returns:
        Those that were written.
    """
    known = {one.id for one in read(path)}
    new = [one for one in events if one.id not in known]
    if not new:
        return new
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            # What a crash has cut off, if anything.
            whole = file.read().rfind(b"\n") + 1
            file.seek(whole)
            file.truncate()
            file.write(b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in new))
            file.flush()
            os.fsync(file.fileno())
    return new


def erase(path: Path, gone: Callable[[Event], bool]) -> int:
    """Remove the events that ``gone`` names for good; return how many."""
    found = read(path)
    left = [one for one in found if not gone(one)]
    if len(left) < len(found):
        write_atomic(path, "".join(json.dumps(asdict(one)) + "\n" for one in left), mode=0o600)
    return len(found) - len(left)


def _parse(content: dict[str, Any]) -> Event:
    begun, alarmed = content.pop("windows")
    first, last = content.pop("times")
    return Event(**content, windows=(begun, alarmed), times=(first, last))
