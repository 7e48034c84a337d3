"""Draw what `rounds` has printed: a round's overhead against the number of plants, and the size of the model.

python benchmarks/plot_rounds.py docs/scale.png FILE.json ...
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from interplant.lab import plot

SMALL = 100_000
"""Parameters up to which a model counts as the small one of the left picture."""

CASES = (
    ("grpc", "plants that train", "#2f6db3", "o-"),
    ("grpc, light", "plants that do all but train", "#1b9e77", "s-"),
    ("flower, stock", "Flower's own engine", "#9a9a9a", "D"),
)

Row = dict[str, Any]


def rows(files: list[Path]) -> list[Row]:
    """Every row of these files that tells a round's overhead."""
    found = [row for file in files for row in json.loads(file.read_text())["results"]]
    return [row for row in found if "overhead_per_round_s" in row]


def by_plants(axes: Any, several: list[Row]) -> None:
    small = sorted((one for one in several if one["parameters"] <= SMALL), key=lambda one: one["plants"])
    for case, label, colour, style in CASES:
        own = [one for one in small if one["case"] == case]
        x, y = [one["plants"] for one in own], [one["overhead_per_round_s"] for one in own]
        axes.plot(x, y, style, color=colour, label=label)
    ticks = sorted({one["plants"] for one in small})
    axes.set_xlabel(f"plants (model of {small[0]['parameters']:,} parameters)")
    finish(axes, ticks)


def by_size(axes: Any, several: list[Row]) -> None:
    wired = sorted((one for one in several if "bare_stream_s" in one), key=lambda one: one["parameters"])
    sizes = [4 * one["parameters"] / 1e6 for one in wired]
    axes.plot(sizes, [one["overhead_per_round_s"] for one in wired], "o-", color="#2f6db3", label="a round")
    bare = [one["bare_stream_s"] for one in wired]
    axes.plot(sizes, bare, "o--", color="#c9b458", label="the same bytes over a bare stream, TLS")
    axes.set_xlabel(f"model in MB ({wired[0]['plants']} plants)")
    finish(axes, sizes)


def finish(axes: Any, ticks: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.yaxis.set_major_formatter(lambda seconds, _: f"{seconds:g}")
    axes.minorticks_off()
    axes.set_ylabel("seconds of a round beyond training")
    axes.grid(axis="y", color="#eeeeee")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def main(words: list[str]) -> None:
    """Draw the rows of the files ``words[1:]`` as the PNG ``words[0]``."""
    several = rows([Path(word) for word in words[1:]])
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    by_plants(left, several)
    by_size(right, several)
    figure.suptitle("What a round costs beyond its training: one machine, loopback, mutual TLS")
    plot.save(figure, Path(words[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
