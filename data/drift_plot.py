"""The picture of a drift monitor: each sensor over time, and where it alarmed."""

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from interplant.core.files import write_atomic
from interplant.data.contract import Floats
from interplant.data.drift import Monitor
from interplant.data.events import Event
from interplant.data.reference import KINDS

_COLOURS: Final = ("#2f6db3", "#c9742b", "#8a8a8a")
_ALARM: Final = "#b3261e"
_DOTS_AN_INCH: Final = 110
_ACROSS: Final = 3
_TALLEST: Final = 4.0
"""Thresholds that fit into a panel; what is further out is drawn at its edge."""


def draw(monitor: Monitor, events: Iterable[Event], path: Path) -> None:
    """Draw the windows that a monitor remembers as a PNG.

    A panel a sensor: level, residual and spread as parts of their thresholds, by window, and a line with the
    kind where a drift was found. It shows numbers about data: keep it in the plant.

    Args:
        monitor: With its state.
        events: Of this monitor; those of windows that it has forgotten are left out.
        path: Where the picture goes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = monitor.reference.columns
    rows = math.ceil(len(names) / _ACROSS)
    figure = Figure(figsize=(4.2 * _ACROSS, 2.0 * rows + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, _ACROSS, sharex=True, sharey=True, squeeze=False).ravel()
    parts = monitor.limits.interval.parts(monitor.state.history)[:, :-1]
    edge = float(np.clip(1.1 * np.abs(parts).max(initial=0.0), 1.4, _TALLEST))
    first = monitor.state.windows - len(parts)
    own = [one for one in events if one.windows[1] >= first]
    for place, (name, axes) in enumerate(zip(names, panels, strict=False)):
        _lines(axes, first + np.arange(len(parts)), np.clip(parts[:, place :: len(names)], -edge, edge))
        _alarms(axes, [one for one in own if name in (one.sensor, one.other)], edge)
        # The lowest panel of each column says the windows.
        axes.tick_params(labelbottom=place + _ACROSS >= len(names))
        axes.set_title(name, color=_ALARM if name in monitor.state.kinds else "#222222", fontsize=10)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel(f"window ({monitor.reference.window} readings)", fontsize=10)
    figure.supylabel("part of the threshold", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_AN_INCH)
    write_atomic(path, buffer.getvalue())


def _lines(axes: Any, windows: Any, parts: Floats) -> None:
    axes.axhspan(-1, 1, color="#eef3ee", zorder=0, label="no alarm")
    for kind, colour, values in zip(KINDS, _COLOURS, parts.T, strict=True):
        axes.plot(windows, values, color=colour, linewidth=1.0, label=kind)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _alarms(axes: Any, events: list[Event], edge: float) -> None:
    axes.set_ylim(-1.05 * edge, 1.35 * edge)
    for number, one in enumerate(events):
        axes.axvline(one.windows[1], color=_ALARM, linewidth=1.2)
        # Names of drifts that begin close together stand at two heights.
        height = (1.32 if number % 2 == 0 else 1.02) * edge
        axes.text(one.windows[1], height, f" {one.kind}", color=_ALARM, fontsize=8, va="top")
