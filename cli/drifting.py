"""How ``interplant data drift`` shows what it found."""

from dataclasses import asdict
from typing import Any

import numpy as np

from interplant.cli.output import facts, table
from interplant.client.drift import Report
from interplant.data.diagnosis import KINDS as MEANING
from interplant.data.drift import KEPT
from interplant.data.events import Event
from interplant.data.reference import KINDS


def document(report: Report) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    state, against = report.monitor.state, report.against
    return {
        "snapshot": against.snapshot.digest,
        "release": against.release,
        "windows": report.windows,
        "readings_a_window": report.monitor.reference.window,
        "false_alarms_in_10000_windows": report.monitor.watched.false_alarms,
        "drifting": {sensor or "joint": kind for sensor, kind in state.kinds.items()},
        "sensors": _sensors(report),
        "alarms": [asdict(one) for one in report.began],
    }


def text(report: Report) -> str:
    """Return the same for people."""
    against, monitor = report.against, report.monitor
    head = facts(
        {
            "compared with": f"snapshot {against.snapshot.digest[:12]}, release {against.release or '-'}",
            "windows": f"{report.windows} of {monitor.reference.window} readings",
            "false alarms": f"at most {monitor.watched.false_alarms:.3g} in 10000 windows, over all sensors",
        }
    )
    rows = [
        [
            one["sensor"],
            *(f"{one[kind]:.2f}" if one[kind] is not None else None for kind in KINDS),
            one["drift"],
        ]
        for one in _sensors(report)
    ]
    sensors = table(["sensor", *KINDS, "drift"], rows)
    alarms = "\n".join(_line(one) for one in report.began)
    return f"{head}\n\n{sensors}\n\n{alarms or 'No drift began.'}"


def _line(event: Event) -> str:
    sensor, meaning = event.sensor or "all sensors", f"{MEANING[event.kind]} {event.other}".rstrip()
    passed = f"{event.test} {event.statistic:.3g}, threshold {event.threshold:.3g}"
    return f"window {event.windows[1]}: {sensor}: {event.kind}: {meaning} ({passed})"


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
