"""Engineered features: what a window's readings come to, input by input, in place of the readings.

All follow from one window alone and stay within the bound of its readings, so that one wild reading moves
no more than before. Bands are the parts of the signal in equal parts of its spectrum.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from interplant.core.schema import Window

Floats = NDArray[np.float64]


def features(x: NDArray[np.float32], window: Window, bound: float) -> NDArray[np.float32]:
    """Compute a task's features of windows.

    Args:
        x: Normalised readings (N, inputs, length), each within ``bound``.
        window: Names the features.
        bound: Of the readings, and of the features.

    Returns:
        Features (N, inputs times features, 1), those of the first input first, within ``bound``. ``mean``,
        ``std``, ``min`` and ``max`` are in the readings' unit; ``slope`` is half of what a straight line
        through the window rises from its first reading to its last; ``band1`` and so on are the root mean
        square of the signal's part in that band, its mean left out.
    """
    readings = x.astype(np.float64)
    found = {name: function(readings) for name, function in _PLAIN.items() if name in window.features}
    if window.bands:
        bands = _bands(readings, window.bands)
        found |= {f"band{number + 1}": bands[..., number] for number in range(window.bands)}
    joined = np.stack([found[name] for name in window.features], axis=2).reshape(len(x), -1, 1)
    return np.clip(joined, -bound, bound).astype(np.float32)


def _slope(readings: Floats) -> Floats:
    """Least squares, times half the way from the first reading to the last."""
    length = readings.shape[2]
    if length == 1:
        return np.zeros(readings.shape[:2])
    place = np.linspace(-1.0, 1.0, length)
    found: Floats = readings @ (place / (place @ place))
    return found


def _bands(readings: Floats, count: int) -> Floats:
    """Root mean square of each band (N, inputs, count); their squares add up to the variance."""
    length = readings.shape[2]
    power = np.abs(np.fft.rfft(readings, axis=2)) ** 2 * (2.0 / length**2)
    if length % 2 == 0:
        power[..., -1] /= 2.0  # the highest frequency stands once, all others twice
    edges = np.linspace(1, power.shape[2], count + 1).astype(int)[:-1]
    found: Floats = np.sqrt(np.add.reduceat(power, edges, axis=2))
    return found


_PLAIN: Final[dict[str, Callable[[Floats], Floats]]] = {
    "mean": lambda readings: readings.mean(axis=2),
    "std": lambda readings: readings.std(axis=2),
    "slope": _slope,
    "min": lambda readings: readings.min(axis=2),
    "max": lambda readings: readings.max(axis=2),
}
