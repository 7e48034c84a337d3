"""The picture of a demo: errors by plant, and privacy spent of each plant's budget."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from interplant.core.files import write_atomic

if TYPE_CHECKING:
    from interplant.client.planning import Forecast
    from interplant.lab.summary import Summary

BARS: Final = (
    ("rmse_alone", "alone", "#9a9a9a"),
    ("rmse_pooled", "pooled (no federation)", "#c9b458"),
    ("rmse_federated", "federated", "#2f6db3"),
    ("rmse_federated_private", "federated with privacy", "#1b9e77"),
)
_DOTS_AN_INCH: Final = 120


def draw(summary: "Summary", path: Path) -> None:
    """Draw a summary as a PNG.

    Args:
        summary: What to draw.
        path: Where the picture goes.
    """
    figure = _figure(2, [2.1, 1.0], (12.5, 5.4))
    left, right = figure.axes
    _errors(left, [plant.name for plant in summary.plants], _by_kind(summary))
    _budgets(right, summary)
    data = "simulated data" if summary.simulated else "C-MAPSS"
    figure.suptitle(f"One model for {len(summary.plants)} plants ({data}, {summary.rounds} rounds)")
    save(figure, path)


def errors(names: Sequence[str], by_kind: dict[str, list[float]], title: str, path: Path) -> None:
    """Draw only the errors by plant as a PNG.

    Args:
        names: The plants.
        by_kind: Error in cycles of each plant, under the keys of `BARS`.
        title: Above the picture.
        path: Where the picture goes.
    """
    figure = _figure(1, [1.0], (8.5, 5.0))
    _errors(figure.axes[0], names, by_kind)
    figure.suptitle(title)
    save(figure, path)


def curve(forecast: "Forecast", path: Path) -> None:
    """Draw what a task's rounds would cost with each noise, and the budget, as a PNG.

    Args:
        forecast: What to draw.
        path: Where the picture goes.
    """
    figure = _figure(1, [1.0], (8.5, 5.0))
    axes = figure.axes[0]
    for choice, colour in zip(forecast.choices, ("#1b9e77", "#c9b458", "#2f6db3"), strict=False):
        left = "" if choice.rounds_left is None else f": {choice.rounds_left} rounds in the budget"
        costs = [cost for cost in choice.costs if math.isfinite(cost.epsilon)]
        rounds, spent = [cost.rounds for cost in costs], [cost.epsilon for cost in costs]
        axes.plot(rounds, spent, "o-", color=colour, label=f"noise {choice.noise:g}{left}")
    if forecast.budget is not None:
        axes.axhline(forecast.budget, color="#999999", linestyle="--", label=f"budget: ε {forecast.budget:g}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rounds from now")
    axes.set_ylabel(f"ε for one {forecast.unit} (δ = {forecast.delta:g})")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"What {forecast.task} would cost: {forecast.units} declared {forecast.unit}s")
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure whole; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_AN_INCH, metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _figure(columns: int, widths: Sequence[float], size: tuple[float, float]) -> Any:
    # No pyplot: it looks for a display and keeps every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.subplots(1, columns, width_ratios=list(widths))
    return figure


def _by_kind(summary: "Summary") -> dict[str, list[float]]:
    return {key: [getattr(plant, key) for plant in summary.plants] for key, _, _ in BARS}


def _errors(axes: Any, names: Sequence[str], by_kind: dict[str, list[float]]) -> None:
    """Groups of bars; each bar carries its number."""
    width = 0.8 / len(BARS)
    for index, (key, label, colour) in enumerate(BARS):
        places = [group + (index - (len(BARS) - 1) / 2) * width for group in range(len(names))]
        bars = axes.bar(places, by_kind[key], width * 0.92, label=label, color=colour)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("error on held-out machines\n(capped RMSE, cycles; lower is better)")
    axes.set_ylim(0, 1.25 * max(max(values) for values in by_kind.values()))
    axes.legend(ncols=2, loc="upper right", frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _budgets(axes: Any, summary: "Summary") -> None:
    """One line a plant: the budget as an outline, what is spent filled, the release's state."""
    plants = list(reversed(summary.plants))
    places = range(len(plants))
    axes.barh(places, [one.epsilon_budget for one in plants], 0.5, color="#eeeeee", edgecolor="#999999")
    axes.barh(places, [one.epsilon for one in plants], 0.5, color="#1b9e77")
    for place, one in zip(places, plants, strict=True):
        text = f"{one.epsilon:.2f} of {one.epsilon_budget:g}; release {one.release_state}"
        axes.text(0.02 * one.epsilon_budget, place + 0.31, text, fontsize=9, va="bottom")
    first = plants[0]
    axes.set_yticks(places, [one.name for one in plants])
    axes.set_ylim(-0.5, len(plants) - 0.25)
    axes.set_xlabel(f"privacy spent of the budget\n(ε for one {first.privacy_unit}, δ = {first.delta:g})")
    axes.spines[["top", "right"]].set_visible(False)
