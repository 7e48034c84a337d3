"""How ``interplant data drift`` shows what it found."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from interplant.cli.output import facts, table
from interplant.client.drift import WATCHED, Report
from interplant.data.diagnosis import KINDS as MEANING
from interplant.data.drift import KEPT
from interplant.data.events import INPUTS, Event
from interplant.data.reference import KINDS


def document(report: Report, others: Sequence[Report] = ()) -> dict[str, Any]:
    """Return what ``--json`` prints.

    Args:
        report: Of the inputs.
        others: Of predictions and of errors, where they were compared.
    """
    against = report.against
    return {
        "snapshot": against.snapshot.digest,
        "release": against.release,
        **_compared(report),
        **{name: None for name in WATCHED[1:]},
        **{one.monitor.watched.name: _compared(one) for one in others},
        "alarms": [asdict(event) for one in (report, *others) for event in one.began],
    }


def _compared(report: Report) -> dict[str, Any]:
    monitor = report.monitor
    return {
        "windows": report.windows,
        "readings_a_window": monitor.reference.window,
        "false_alarms_in_10000_windows": monitor.watched.false_alarms,
        "drifting": {sensor or "joint": kind for sensor, kind in monitor.state.kinds.items()},
        "sensors": _sensors(report),
    }


def text(report: Report, others: Sequence[Report] = ()) -> str:
    """Return the same for people."""
    against = report.against
    head: dict[str, object] = {
        "compared with": f"snapshot {against.snapshot.digest[:12]}, release {against.release or '-'}"
    }
    parts = [facts(head | _head(report, "readings", "over all sensors")), _table(report, "sensor")]
    for one in others:
        name = one.monitor.watched.name
        parts += [facts(_head(one, name, f"of {name}")), _table(one, name)]
    alarms = "\n".join(_line(event) for one in (report, *others) for event in one.began)
    return "\n\n".join([*parts, alarms or "No drift began."])


def _head(report: Report, what: str, of: str) -> dict[str, object]:
    monitor = report.monitor
    return {
        "windows": f"{report.windows} of {monitor.reference.window} {what}",
        "false alarms": f"at most {monitor.watched.false_alarms:.3g} in 10000 windows, {of}",
    }


def _table(report: Report, first: str) -> str:
    rows = [
        [
            one["sensor"],
            *(f"{one[kind]:.2f}" if one[kind] is not None else None for kind in KINDS),
            one["drift"],
        ]
        for one in _sensors(report)
    ]
    return table([first, *KINDS, "drift"], rows)


def _line(event: Event) -> str:
    everything = "all sensors" if event.watched == INPUTS else "all classes"
    sensor, meaning = event.sensor or everything, f"{MEANING[event.kind]} {event.other}".rstrip()
    passed = f"{event.test} {event.statistic:.3g}, threshold {event.threshold:.3g}"
    whose = "" if event.watched in (INPUTS, sensor) else f"{event.watched}: "
    return f"window {event.windows[1]}: {whose}{sensor}: {event.kind}: {meaning} ({passed})"


def _sensors(report: Report) -> list[dict[str, Any]]:
    """By sensor: the most that each test came to in the windows compared, as a part of its threshold."""
    monitor = report.monitor
    recent = monitor.state.history[-min(report.windows, KEPT) :] if report.windows else None
    found: list[dict[str, Any]] = []
    for place, name in enumerate(monitor.reference.columns):
        most: list[float | None] = [None] * len(KINDS)
        if recent is not None:
            parts = np.abs(monitor.limits.interval.parts(recent))
            most = parts.max(axis=0)[place :: len(monitor.reference.columns)][: len(KINDS)].tolist()
        drift = monitor.state.kinds.get(name, "")
        found.append({"sensor": name, **dict(zip(KINDS, most, strict=True)), "drift": drift})
    return found
