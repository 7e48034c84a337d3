"""Numbers that leave beside the update: each a sum over all privacy units, bounded, noised and charged.

The Gaussian mechanism (Dwork and Roth, "The algorithmic foundations of differential privacy", 2014,
appendix A) on a sum to which one unit adds 0 to ``bound``. Sum and noise lie on a grid, as in `noise`. The
model runs in double precision, in which rounding adds up over the units to less than `margin` pays; a
window's loss is the same bits whoever shares its batch (see `alike`).
"""

import copy
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interplant.core.errors import InterplantError
from interplant.privacy import alike
from interplant.privacy.inputs import Inputs
from interplant.privacy.losses import loss_of, per_window
from interplant.privacy.plan import Plan, Statistic
from interplant.privacy.stream import Stream

if TYPE_CHECKING:
    from torch import nn


GRID = 2.0**-28
"""Width of the grid in standard deviations, before it is brought down to a power of two."""

DOUBLE_PRECISION = 1e-6
"""Part of the bound by which rounding in losses, means and sums may pass it."""


def measure(
    model: "nn.Module",
    x: Inputs,
    y: NDArray[np.float32],
    loss: str,
    plan: Plan,
    machines: NDArray[np.int64] | None,
    stream: Stream,
) -> dict[str, float]:
    """Return each statistic of a plan, by name. Call it after the plan is charged.

    Args:
        model: The incoming model; it is not changed.
        x: Windows (N, channels, window).
        y: Targets (N,), scaled.
        loss: The task's, by its name.
        plan: Its statistics, privacy unit and public number of units.
        machines: The machine of each window (N,), where machines are the privacy unit.
        stream: Where noise comes from.

    Returns:
        ``loss``: the sum over the declared number of units, in the loss's unit. ``units``: a count. Noise
        may bring either below 0.
    """
    found = {}
    for one in plan.statistics:
        total = noised(unit_values(one.name, model, x, y, loss, plan, machines), one, stream)
        found[one.name] = total if one.name == "units" else total / plan.records
    return found


def unit_values(
    name: str,
    model: "nn.Module",
    x: Inputs,
    y: NDArray[np.float32],
    loss: str,
    plan: Plan,
    machines: NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Return a statistic's value of each privacy unit, as it comes: neither clipped nor finite.

    Raises:
        InterplantError: No machines where machines are the unit, or a name that is not known.
    """
    if plan.unit == "unit":
        if machines is None or machines.shape != y.shape:
            raise InterplantError("expected the machine of each window, as machines are the privacy unit")
        _, unit = np.unique(machines, return_inverse=True)
    else:
        unit = np.arange(len(y))
    windows = np.bincount(unit)
    if name == "units":
        return np.ones(len(windows))
    if name == "loss":
        return np.bincount(unit, weights=_losses(model, x, y, loss)) / windows
    raise InterplantError(f"expected the metric loss or units, found {name!r}")


def noised(values: NDArray[np.float64], statistic: Statistic, stream: Stream) -> float:
    """Return the sum of clipped values with the statistic's noise; what is not finite counts as 0.

    Args:
        values: One number a unit (units,).
        statistic: Its bound and noise.
        stream: Where noise comes from.
    """
    clipped = np.where(np.isfinite(values), values, 0.0).clip(0.0, statistic.bound)
    return float(_with_noise(clipped.sum(keepdims=True), statistic, stream)[0])


def noised_vectors(
    blocks: Iterable[NDArray[np.float64]], size: int, statistic: Statistic, stream: Stream
) -> NDArray[np.float64]:
    """Return the sum of one vector a unit, each clipped to an L2 norm of ``bound``, all places noised.

    Args:
        blocks: Vectors of some units at a time (units, size); one that is not finite counts as 0.
        size: Numbers in a vector.
        statistic: Its bound and noise: one Gaussian mechanism, whatever the size.
        stream: Where noise comes from.

    Returns:
        The noised sum (size,).
    """
    total = np.zeros(size)
    for block in blocks:
        with np.errstate(over="ignore", invalid="ignore"):  # too long for a double is not finite
            norms = np.linalg.norm(block, axis=1)
        factors = np.minimum(1.0, statistic.bound / np.maximum(norms, statistic.bound))
        total += np.where(np.isfinite(norms), factors, 0.0) @ np.where(np.isfinite(block), block, 0.0)
    return _with_noise(total, statistic, stream)


def _with_noise(total: NDArray[np.float64], statistic: Statistic, stream: Stream) -> NDArray[np.float64]:
    deviation = statistic.noise * statistic.bound
    grid = 2.0 ** math.floor(math.log2(deviation * GRID))
    noise = stream.gaussian(len(total)).numpy() * (deviation * (1.0 + margin(statistic.noise, len(total))))
    # Whole steps of the grid are added exactly: no digit of the result follows the sum alone.
    found: NDArray[np.float64] = (np.rint(total / grid) + np.rint(noise / grid)) * grid
    return found


def margin(noise: float, size: int = 1) -> float:
    """Return by what part the noise is larger than charged: rounding moves neighbours one grid step apart.

    Args:
        noise: Its multiplier.
        size: Numbers that are rounded, each by a step.
    """
    return DOUBLE_PRECISION + noise * GRID * math.sqrt(size)


def check_model(model: "nn.Module", shape: tuple[int, ...], plan: Plan, loss: str = "mse") -> None:
    """Raise `InterplantError` if ``model`` cannot run in double precision where a loss is asked for.

    Args:
        model: The network; it is not changed.
        shape: Of one window: (channels, window).
        plan: What would be measured.
        loss: The task's, by its name.
    """
    if not any(one.name == "loss" for one in plan.statistics):
        return
    zeros = np.zeros((2, *shape), np.float32)
    try:
        _losses(model, zeros, zeros.reshape(2, -1)[:, 0], loss)
    except RuntimeError as error:
        raise InterplantError(
            "metrics.loss: expected a model that runs in double precision, found one that does not "
            f"({str(error).splitlines()[0]}); take the types of new tensors from its input"
        ) from None


def _losses(model: "nn.Module", x: Inputs, y: NDArray[np.float32], loss: str) -> NDArray[np.float64]:
    """Each window's loss (N,)."""
    import torch

    doubled, losses = copy.deepcopy(model).double().eval(), loss_of(loss)
    fill = alike.fill_of(doubled, x.shape[1:], alike.FORWARD, loss=loss)
    found = np.empty(len(y))
    with torch.no_grad():
        for part in alike.split(np.arange(len(y)), alike.MOST, fill):
            size = len(part) + -len(part) % fill
            windows = torch.zeros((size, *x.shape[1:]), dtype=torch.float64)
            windows[: len(part)] = torch.from_numpy(x[part])
            targets = torch.zeros(size, dtype=torch.float64)
            targets[: len(part)] = torch.from_numpy(y[part])
            found[part] = losses(per_window(doubled(windows), size), targets)[: len(part)].numpy()
    return found
