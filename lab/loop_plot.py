"""The picture of the loop: the error at the plant whose sensor drifts, and what each plant's gate decided."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from interplant.lab.plot import save

if TYPE_CHECKING:
    from interplant.lab.loop import LoopResult

_OLD: Final = "#9a9a9a"
_NEW: Final = "#1b9e77"
_DRIFT: Final = "#d95f02"


def draw_loop(loop: "LoopResult", path: Path) -> None:
    """Draw what the loop has shown, as a PNG.

    Args:
        loop: What to draw.
        path: Where the picture goes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1.0])
    _story(left, loop)
    _gates(right, loop)
    figure.suptitle(
        f"A sensor drifts at {loop.plant}, and nobody types a command: a better model serves "
        f"{loop.seconds:.0f} s later (simulated data)"
    )
    save(figure, path)


def _story(axes: Any, loop: "LoopResult") -> None:
    """The error of the model that served, file by file."""
    files = [one.file for one in loop.arrived]
    colours = [_OLD if one.release == loop.first else _NEW for one in loop.arrived]
    bars = axes.bar(files, [one.rmse for one in loop.arrived], 0.7, color=colours)
    axes.bar_label(bars, fmt="%.1f", fontsize=9, padding=2)
    old = [one for one in loop.arrived if one.release != loop.first]
    axes.bar(
        [one.file for one in old],
        [one.rmse_first for one in old],
        0.7,
        fill=False,
        edgecolor=_OLD,
        linestyle="--",
        label="what the model before would give on the same file",
    )
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    top = 1.45 * max(max(one.rmse, one.rmse_first) for one in loop.arrived)
    axes.set_ylim(0, top)
    drifting = [one.file for one in loop.arrived if one.offset]
    axes.axvspan(min(drifting) - 0.5, max(files) + 0.5, color=_DRIFT, alpha=0.12, lw=0, zorder=0)
    axes.text(min(drifting) - 0.42, 0.9 * top, _reads(loop), color=_DRIFT, va="top")
    change = loop.alarm + 0.5
    axes.axvline(change, color=_NEW, lw=1.5)
    said = "alarm → proposal → run\n→ gates → new model"
    axes.text(change + 0.08, 0.84 * top, said, color=_NEW, va="top", fontsize=10)
    axes.set_xticks(files, [f"file {number}" for number in files])
    axes.set_ylabel(
        "error of what serves, on each new file\n(RMSE, cycles of remaining life; lower is better)"
    )
    axes.set_title(f"{loop.plant}: grey, the model before; green, the one after", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def _reads(loop: "LoopResult") -> str:
    return f"sensor {loop.sensor}\nreads too {'high' if loop.arrived[-1].offset > 0 else 'low'}"


def _gates(axes: Any, loop: "LoopResult") -> None:
    """Each plant's own test: the old model's error beside the new one's, and the verdict."""
    names = [one.plant for one in loop.tried]
    for shift, key, colour, label in ((-0.2, "before", _OLD, "serving"), (0.2, "after", _NEW, "new release")):
        values = [getattr(one, key) or 0.0 for one in loop.tried]
        places = [place + shift for place in range(len(names))]
        bars = axes.bar(places, values, 0.36, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=9, padding=2)
    top = 1.5 * max([one.before or 0.0 for one in loop.tried] + [one.after or 0.0 for one in loop.tried])
    axes.set_ylim(0, top)
    for place, one in enumerate(loop.tried):
        good = one.state != "refused"
        axes.text(
            place,
            0.98 * top,
            one.state if good else f"{one.state}:\n{_why(one.sentence)}",
            ha="center",
            va="top",
            fontsize=10 if good else 8,
            color=_NEW if good else _DRIFT,
            fontweight="bold",
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("error on the plant's own held-out machines\n(RMSE, cycles)")
    axes.set_title("each plant's gate decides for itself", fontsize=11)
    axes.legend(loc="upper center", bbox_to_anchor=(0.38, 0.9), frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _why(sentence: str) -> str:
    """What a verdict says before its code and figures, in a few short lines."""
    return textwrap.fill(sentence.partition(" [")[0], 20)
