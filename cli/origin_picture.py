"""The picture of a lineage: snapshots, plants, run, release, prediction, from left to right."""

import io
import textwrap
from pathlib import Path
from typing import Any, Final

from interplant.cli.origin import Origin, epsilon
from interplant.core.files import write_atomic
from interplant.core.release import Participant, Release

_WIDE, _HIGH = 2.5, 0.8
"""Of a box, in inches."""
_ACROSS, _DOWN = 3.1, 1.1
"""From one box to the next."""
_KNOWN, _OWN, _ASKED = "#eef2f7", "#e3f1ea", "#fbf0dc"
_LETTERS: Final = 40
"""As many fit into a box."""
_DOTS_AN_INCH: Final = 120

Place = tuple[float, float]


def draw(origin: Origin, path: Path) -> None:
    """Draw where a release comes from.

    Drawn at a plant, it shows how large the plant's own snapshots are: keep it in the plant.

    Args:
        origin: What to draw.
        path: Where the picture goes: ``.svg`` or ``.png``.
    """
    # No pyplot: it looks for a display and keeps every figure.
    from matplotlib.figure import Figure

    line, before = origin.release.lineage, origin.ancestors
    plants, parents = line.participants, before.releases
    top = (sum(len(one.snapshots) for one in plants) - 1) / 2 * _DOWN
    low = min(-top, -(len(parents) + bool(before.broken)) * _DOWN)
    columns = 5 if origin.prediction else 4
    figure = Figure(figsize=(columns * _ACROSS, top - low + _DOWN + 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-_ACROSS / 2, (columns - 0.5) * _ACROSS)
    axes.set_ylim(low - _DOWN / 2 - 0.1, top + _DOWN / 2 + 0.1)
    axes.set_axis_off()
    run, release = (2 * _ACROSS, 0.0), (3 * _ACROSS, 0.0)
    height = top
    for one in plants:
        middle = height - (len(one.snapshots) - 1) / 2 * _DOWN
        for key in one.snapshots:
            _box(axes, (0.0, height), _snapshot(origin, key), _OWN if key in origin.own else _KNOWN)
            _arrow(axes, (_WIDE / 2, height), (_ACROSS - _WIDE / 2, middle))
            height -= _DOWN
        _box(axes, (_ACROSS, middle), _plant(one), _OWN if one.snapshots.keys() & origin.own else _KNOWN)
        _arrow(axes, (_ACROSS + _WIDE / 2, middle), (run[0] - _WIDE / 2, 0.0))
    _box(axes, run, f"run {line.run}\n{line.rounds} rounds, task {line.task_digest[:12]}\n"
         f"interplant {line.version}", _KNOWN)  # fmt: skip
    words = f"release\n{line.release}\nsha256 {origin.release.sha256[:12]}{_revoked(origin.release)}"
    _box(axes, release, words, _KNOWN)
    _arrow(axes, (run[0] + _WIDE / 2, 0.0), (release[0] - _WIDE / 2, 0.0))
    if origin.prediction:
        _box(axes, (4 * _ACROSS, 0.0), f"prediction\n{origin.prediction.id[:16]}…", _ASKED)
        _arrow(axes, (release[0] + _WIDE / 2, 0.0), (4 * _ACROSS - _WIDE / 2, 0.0))
    names = [f"parent\n{one.id}\n{one.lineage.rounds} rounds{_revoked(one)}" for one in parents]
    for number, words in enumerate(
        [*names, *(["a parent that\ncannot be followed"] if before.broken else [])], 1
    ):
        height = -number * _DOWN
        _box(axes, (run[0], height), words, _KNOWN)
        _arrow(axes, (run[0], height + _HIGH / 2), (run[0], height + _DOWN - _HIGH / 2))
    buffer = io.BytesIO()
    kind = path.suffix[1:]
    figure.savefig(buffer, format=kind, dpi=_DOTS_AN_INCH, metadata={"Date": None} if kind == "svg" else None)
    write_atomic(path, buffer.getvalue())


def _snapshot(origin: Origin, key: str) -> str:
    own = origin.own.get(key)
    if own is None:
        return f"snapshot, keyed\n{key[:12]}"
    found = own.snapshot
    return f"snapshot {found.digest[:12]}\n{found.rows} readings, {found.machines} machines"


def _plant(one: Participant) -> str:
    spent = epsilon(one)
    return f"{one.name}\n{one.rounds} rounds, " + (spent if spent == "not private" else f"ε {spent}")


def _revoked(one: Release) -> str:
    return "\nkey revoked" if one.revoked else ""


def _box(axes: Any, middle: Place, words: str, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (middle[0] - _WIDE / 2, middle[1] - _HIGH / 2)
    axes.add_patch(
        FancyBboxPatch(
            corner, _WIDE, _HIGH, "round,pad=0,rounding_size=0.08", facecolor=colour, edgecolor="#6b7785"
        )
    )
    words = "\n".join(textwrap.fill(line, _LETTERS) for line in words.splitlines())
    axes.text(*middle, words, ha="center", va="center", fontsize=8, color="#222222", parse_math=False)


def _arrow(axes: Any, start: Place, end: Place) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "->", "color": "#6b7785", "shrinkA": 0, "shrinkB": 0}
    )
