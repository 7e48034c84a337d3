"""Small charts as inline SVG: a curve, columns, bars. Colours come from the page's style."""

import math
from collections.abc import Iterable, Sequence
from html import escape

_WIDTH, _HEIGHT = 480, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 36
_ROW = 30
"""Height of a bar's row."""

Point = tuple[float, float]


def line(points: Sequence[Point], name: str) -> str:
    """A curve over rounds; a point that is not finite leaves a gap.

    Args:
        points: Round and value, in order.
        name: What the values are.
    """
    good = [(x, y) for x, y in points if math.isfinite(y)]
    if not good:
        return "<p>No finite value.</p>"
    low, high = min(y for _, y in good), max(y for _, y in good)
    ticks = _ticks(min(low, 0.0) if low < 0.5 * high else low, high)
    frame = _Frame(good, ticks)
    at = [(frame.x(x), frame.y(y)) for x, y in good]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    floor = frame.y(ticks[0])
    area = f"{at[0][0]:.1f},{floor:.1f} {path} {at[-1][0]:.1f},{floor:.1f}"
    dots = (
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{4 if (x, y) == at[-1] else 2.4}">'
        f"<title>round {point[0]:g}: {name} {point[1]:.4g}</title></circle>"
        for (x, y), point in zip(at, good, strict=True)
    )
    marks = "".join(dots) if len(at) <= 120 else ""
    return _svg(
        f"{name} over the rounds",
        [*frame.axes(), f'<polygon class="area" points="{area}"/>'],
        [f'<polyline class="curve" points="{path}"/>', marks],
    )


def columns(points: Sequence[Point], name: str) -> str:
    """A column for each round; see `line`."""
    frame = _Frame(points, _ticks(0.0, max(1.0, *(y for _, y in points)), whole=True), margin=0.5)
    wide = max(1.0, min(26.0, 0.7 * frame.step))
    marks = (
        f'<rect class="bar" x="{frame.x(x) - wide / 2:.1f}" y="{frame.y(y):.1f}" width="{wide:.1f}" '
        f'height="{frame.y(0) - frame.y(y):.1f}" rx="{min(3.0, wide / 3):.1f}">'
        f"<title>round {x:g}: {y:g} {name}</title></rect>"
        for x, y in points
    )
    return _svg(f"{name} in each round", frame.axes(), marks)


def bars(values: Sequence[tuple[str, float]]) -> str:
    """A bar for each name, with its value beside it."""
    most = max((value for _, value in values), default=0.0) or 1.0
    left = min(150, 18 + 8 * max(len(name) for name, _ in values))
    rows = []
    for place, (name, value) in enumerate(values):
        top = 4 + place * _ROW
        width = (_WIDTH - left - 70) * value / most
        short = name if len(name) <= 17 else f"{name[:16]}…"
        rows.append(
            f'<text x="{left - 10}" y="{top + 15}" text-anchor="end">{escape(short)}</text>'
            f'<rect class="bar" x="{left}" y="{top + 2}" width="{max(width, 1.5):.1f}" height="18" rx="3">'
            f"<title>{escape(name)}: {value:.4g}</title></rect>"
            f'<text class="strong" x="{left + width + 8:.1f}" y="{top + 15}">{value:.3g}</text>'
        )
    return _svg("by plant", rows, [], height=8 + _ROW * len(values))


class _Frame:
    """Axes: rounds from left to right, values from the lowest tick to the highest."""

    def __init__(self, points: Sequence[Point], ticks: Sequence[float], margin: float = 0.0) -> None:
        self._first, self._last = points[0][0] - margin, points[-1][0] + margin
        self._rounds = [x for x, _ in points]
        self._ticks = ticks

    @property
    def step(self) -> float:
        """Width of a round."""
        return (_WIDTH - _LEFT - _RIGHT) / max(self._last - self._first, 1.0)

    def x(self, value: float) -> float:
        """Where a round is; a single one is in the middle."""
        if self._last == self._first:
            return (_LEFT + _WIDTH - _RIGHT) / 2
        return _LEFT + (value - self._first) * self.step

    def y(self, value: float) -> float:
        """Where a value is."""
        low, high = self._ticks[0], self._ticks[-1]
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self) -> list[str]:
        """Lines and numbers."""
        parts = [
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{self.y(tick):.1f}" '
            f'y2="{self.y(tick):.1f}"/><text x="{_LEFT - 8}" y="{self.y(tick) + 4:.1f}" text-anchor="end">'
            f"{tick:.4g}</text>"
            for tick in self._ticks
        ]
        every = max(1, math.ceil(len(self._rounds) / 9))
        parts += [
            f'<text x="{self.x(number):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{number:g}</text>"
            for number in self._rounds[::every]
        ]
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        return [*parts, f'<text x="{middle:.0f}" y="{_HEIGHT - 3}" text-anchor="middle">round</text>']


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers from below ``low`` to above ``high``, about four of them apart."""
    spread = (high - low) or abs(high) or 1.0
    rough = spread / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * (1 - 1e-9))
    step = max(1.0, float(math.ceil(step))) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _svg(label: str, *groups: Iterable[str], height: int = _HEIGHT) -> str:
    inner = "".join(part for group in groups for part in group)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{inner}</svg>'
