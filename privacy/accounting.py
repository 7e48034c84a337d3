"""What a history of rounds costs: epsilon by two accountants, and what it means for a machine.

The certificate is the privacy loss distribution (PLD), pessimistically discretised (Doroshenko et
al., "Connect the dots", 2022); the check is Rényi DP (Mironov, Talwar and Zhang, "Rényi differential
privacy of the sampled Gaussian mechanism", 2019). Neighbours differ by adding or removing one unit.
"""

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from interplant.core.errors import InterplantError
from interplant.privacy.plan import Event, check_delta

INTERVALS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 2e-5)
"""Widths of the PLD's grid, coarse to fine. Any of them errs upwards only."""

HOPELESS = 1000.0
"""Above this epsilon nothing is protected, and the RDP bound stands for both accountants."""

MACHINE_POINTS = 5000
"""Grid points spent on one reading for a machine, about a second."""


@dataclass(frozen=True)
class Spent:
    """What a history costs.

    Args:
        epsilon: The certificate (PLD); never below the truth.
        epsilon_check: The independent check (RDP), a little above.
        delta: The delta that both hold for.
    """

    epsilon: float
    epsilon_check: float
    delta: float


Merged = tuple[tuple[float, float, int], ...]


def spent(events: Iterable[Event], delta: float) -> Spent:
    """Compose a whole history.

    Args:
        events: Every charge so far, all of one privacy unit.
        delta: Between 0 and 1.

    Raises:
        UsageError: ``delta`` is impossible.
        InterplantError: The history mixes privacy units, or the two accountants disagree.
    """
    check_delta(delta)
    merged = _merge(events)
    if not merged:
        return Spent(0.0, 0.0, delta)
    check = _renyi(merged, delta)
    if check > HOPELESS:
        return Spent(check, check, delta)
    epsilon = math.inf
    for interval in _intervals(check):
        epsilon = _certificate(merged, interval, delta)
        if epsilon <= _highest(check):
            break
    _agree(epsilon, check, delta)
    return Spent(epsilon, check, delta)


def rounds_left(event: Event, history: Iterable[Event], epsilon: float, delta: float) -> int:
    """Return how many more rounds of ``event`` the budget covers after ``history`` (at most 10 000).

    Args:
        event: One round's charge.
        history: Every charge so far.
        epsilon: The budget.
        delta: The delta the budget is stated for.
    """
    past = tuple(history)

    def fits(rounds: int) -> bool:
        more = Event(event.unit, event.q, event.noise, event.steps * rounds)
        return spent((*past, more), delta).epsilon <= epsilon

    low, high = 0, 1
    while high <= 10_000 and fits(high):
        low, high = high, high * 2
    high = min(high, 10_001)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def machine_epsilon(events: Iterable[Event], delta: float, windows: int) -> float:
    """Return epsilon for a whole machine that contributed ``windows`` windows.

    How many of its windows a step draws is Binomial(windows, q), so that a machine's presence shifts
    a step by a mixture of Gaussians (Ganesh, "Tight group-level DP guarantees for DP-SGD with
    sampling via mixture of Gaussians mechanisms", 2024). The grid is coarse and errs upwards.

    Returns:
        Epsilon, or infinity where the figure would be too large to compute or to mean anything.
    """
    history = tuple(events)
    merged = _merge(history)
    if not merged or windows <= 1:
        return spent(history, delta).epsilon
    check_delta(delta)
    steps = sum(n for _, _, n in merged)
    tail = 0.01 * delta / steps
    drawn = [_most_drawn(windows, q, tail) for q, _, _ in merged]
    reach = sum(_reach(most, noise) for most, (_, noise, _) in zip(drawn, merged, strict=True))
    interval = max(1e-3, _power_of_two(reach / MACHINE_POINTS))
    if interval > 1:
        return math.inf
    try:
        epsilon = _machine_certificate(merged, windows, drawn, interval, 0.99 * delta)
    except ValueError:
        # The library has no digits left for weights this uneven, far beyond where a machine is protected.
        return math.inf
    # The tail beyond `most` is counted against delta when a machine is removed, and as
    # -log(1 - tail) a step when it is added.
    epsilon -= steps * math.log1p(-tail)
    return epsilon if epsilon <= 10 * HOPELESS else math.inf


def _machine_certificate(
    merged: Merged, windows: int, drawn: list[int], interval: float, delta: float
) -> float:
    with _quiet():
        composed = _compose(
            _mixture(q, noise, windows, most, interval).self_compose(n)
            for most, (q, noise, n) in zip(drawn, merged, strict=True)
        )
        return float(composed.get_epsilon_for_delta(delta))


def machine_sentence(epsilon: float, windows: int) -> str:
    """Say what a machine-level epsilon means, so that nobody reads a window's as a machine's.

    Args:
        epsilon: From `machine_epsilon`.
        windows: Windows of the machine it was computed for.
    """
    subject = f"a machine with {windows} window{'s' if windows != 1 else ''}"
    if math.isinf(epsilon):
        return f"{subject} is not protected: its epsilon is too large to compute"
    if epsilon > 20:
        return f"{subject} is not protected: its epsilon is {epsilon:.0f}"
    return f"{subject} has epsilon {epsilon:.2f}"


def _merge(events: Iterable[Event]) -> Merged:
    totals: dict[tuple[float, float], int] = {}
    units: set[str] = set()
    for event in events:
        units.add(event.unit)
        key = (event.q, event.noise)
        totals[key] = totals.get(key, 0) + event.steps
    if len(units) > 1:
        raise InterplantError(
            f"expected charges of one privacy unit, found {' and '.join(sorted(units))}; "
            "they protect different things and cannot be added up"
        )
    return tuple((q, noise, steps) for (q, noise), steps in sorted(totals.items()))


def _agree(epsilon: float, check: float, delta: float) -> None:
    """Refuse figures that cannot both be right; `docs/privacy.md` states the gap."""
    lowest = 0.5 * check - 0.1 * math.log(1 / delta)
    if not lowest <= epsilon <= _highest(check):
        raise InterplantError(
            f"the two privacy accountants disagree (PLD {epsilon:.4f}, RDP {check:.4f}); nothing was "
            "charged. Use a noise multiplier between 0.3 and 20, or report this"
        )


def _highest(check: float) -> float:
    return 1.01 * check + 1e-3


def _intervals(check: float) -> tuple[float, ...]:
    # A grid of about a ten-thousandth of epsilon is enough, unless very many small steps add up.
    start = next(i for i, width in enumerate(INTERVALS) if width <= max(1e-3, check * 1e-4))
    return INTERVALS[start:]


# --- PLD -------------------------------------------------------------------------------------------


def _certificate(merged: Merged, interval: float, delta: float) -> float:
    with _quiet():
        parts = (_window(q, noise, interval).self_compose(n) for q, noise, n in merged)
        return float(_compose(parts).get_epsilon_for_delta(delta))


def _compose(parts: Iterable[Any]) -> Any:
    total = None
    for part in parts:
        total = part if total is None else total.compose(part)
    return total


@lru_cache(maxsize=64)
def _window(q: float, noise: float, interval: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=q, value_discretization_interval=interval
    )


@lru_cache(maxsize=16)
def _mixture(q: float, noise: float, windows: int, most: int, interval: float) -> Any:
    import numpy as np
    from dp_accounting.pld import privacy_loss_distribution
    from scipy.stats import binom

    drawn = np.arange(most + 1)
    weights = binom.pmf(drawn, windows, q)
    return privacy_loss_distribution.from_mixture_gaussian_mechanism(
        noise,
        drawn.astype(float),
        weights / weights.sum(),
        value_discretization_interval=interval,
    )


def _most_drawn(windows: int, q: float, tail: float) -> int:
    from scipy.stats import binom

    return max(1, min(windows, int(binom.isf(tail, windows, q)) + 1))


def _reach(most: int, noise: float) -> float:
    """Width of the privacy loss of one step: what the grid has to cover."""
    return most**2 / (2 * noise**2) + 10 * most / noise


def _power_of_two(width: float) -> float:
    return float(2 ** math.ceil(math.log2(width)))


# --- RDP -------------------------------------------------------------------------------------------


def _renyi(merged: Merged, delta: float) -> float:
    from dp_accounting import rdp

    orders = _curve(*merged[0][:2])[0]
    total = sum(_curve(q, noise)[1] * n for q, noise, n in merged)
    with _quiet():
        epsilon, _ = rdp.compute_epsilon(orders, total, delta)
    return float(epsilon)


@lru_cache(maxsize=1024)
def _curve(q: float, noise: float) -> tuple[Any, Any]:
    """Orders and the Rényi divergence of one step at each; it adds up over steps."""
    import dp_accounting

    accountant = dp_accounting.rdp.RdpAccountant()
    step = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(noise))
    with _quiet():
        accountant.compose(step)
    # The library offers the composed curve through no public name; the version is pinned to 0.6.
    return accountant._orders, accountant._rdp


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's notes on orders and rounding it leaves out off the log; both err upwards."""
    import numpy as np

    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        absl.setLevel(level)
