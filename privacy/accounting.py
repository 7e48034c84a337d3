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
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from interplant.core.errors import InterplantError, Refusal
from interplant.core.schema import UNITS
from interplant.privacy.plan import Event, check_delta

INTERVALS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 2e-5)
"""Widths of the PLD's grid, coarse to fine. Any of them errs upwards only."""

HOPELESS = 1000.0
"""Above this epsilon nothing is protected, and the RDP bound stands for both accountants."""

MACHINE_POINTS = 5000
"""Grid points spent on one reading for a machine, about a second."""


BLOCK = 4096
"""Steps of a long history that are composed once and kept, so that a further round is quick."""


@dataclass(frozen=True)
class Spent:
    """What a history costs.

    Args:
        epsilon: The certificate (PLD); never below the truth.
        epsilon_check: The independent check (RDP), a little above.
        delta: The delta that both hold for.
        unit: What one neighbour differs by: the largest unit of the history; empty without one.
    """

    epsilon: float
    epsilon_check: float
    delta: float
    unit: str = ""


@dataclass(frozen=True)
class _Charge:
    """Steps of one kind: of ``group`` elements, each drawn with ``q``, that one unit is made of."""

    q: float
    noise: float
    group: int
    steps: int


Merged = tuple[_Charge, ...]


def spent(events: Iterable[Event], delta: float, unit_windows: int = 0, cap: float | None = None) -> Spent:
    """Compose a whole history, counted in its largest privacy unit.

    A charge by row or window counts for a machine as what its ``unit_windows`` windows do together.

    Args:
        events: Every charge so far.
        delta: Between 0 and 1.
        unit_windows: Declared, public number of windows that no machine passes; 0 if not declared.
        cap: A budget: if the quick check, which is never below the truth, is within it, that is enough
            and stands for both figures.

    Raises:
        UsageError: ``delta`` is impossible.
        Refusal: ``undeclared_size``: charges by window would have to be counted for machines.
        InterplantError: The two accountants disagree.
    """
    check_delta(delta)
    history = tuple(events)
    unit = max((event.unit for event in history), key=UNITS.index, default="")
    merged = _merge(history, unit, unit_windows)
    if not merged:
        return Spent(0.0, 0.0, delta)
    low, check = _renyi(_apart(merged), delta), _renyi(_together(merged), delta)
    if low > HOPELESS or (cap is not None and check <= cap):
        return Spent(check, check, delta, unit)
    if merged != _apart(merged):
        epsilon = min(check, _grouped(merged, delta))  # its grid is coarse, and both err upwards
    else:
        epsilon = math.inf
        for interval in _intervals(check):
            epsilon = _certificate(merged, interval, delta)
            if epsilon <= _highest(check):
                break
    if math.isfinite(epsilon):
        _agree(epsilon, low, check, delta)
    return Spent(epsilon, check, delta, unit)


def rounds_left(
    round_: Iterable[Event], history: Iterable[Event], epsilon: float, delta: float, unit_windows: int = 0
) -> int:
    """Return how many more rounds the budget covers after ``history`` (at most 10 000).

    Args:
        round_: One round's charges.
        history: Every charge so far.
        epsilon: The budget.
        delta: The delta the budget is stated for.
        unit_windows: See `spent`.
    """
    past, each = tuple(history), tuple(round_)

    def fits(rounds: int) -> bool:
        more = (replace(event, steps=event.steps * rounds) for event in each)
        return spent((*past, *more), delta, unit_windows).epsilon <= epsilon

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
    if windows <= 1 or not history:
        return spent(history, delta).epsilon
    check_delta(delta)
    return _grouped(_merge(history, "unit", windows), delta)


def _grouped(merged: Merged, delta: float) -> float:
    steps = sum(one.steps for one in merged)
    tail = 0.01 * delta / steps
    drawn = [_most_drawn(one.group, one.q, tail) for one in merged]
    reach = sum(_reach(most, one.noise) for most, one in zip(drawn, merged, strict=True))
    interval = max(1e-3, _power_of_two(reach / MACHINE_POINTS))
    if interval > 1:
        return math.inf
    try:
        with _quiet():
            parts = [_steps(one, most, interval) for most, one in zip(drawn, merged, strict=True)]
            epsilon = float(_compose(parts).get_epsilon_for_delta(0.99 * delta))
    except ValueError:
        # The library has no digits left for weights this uneven, far beyond where a machine is protected.
        return math.inf
    # The tail beyond `most` is counted against delta when a machine is removed, and as
    # -log(1 - tail) a step when it is added.
    epsilon -= steps * math.log1p(-tail)
    return epsilon if epsilon <= 10 * HOPELESS else math.inf


def machine_sentence(epsilon: float, windows: int) -> str:
    """Say what a machine-level epsilon means, so that nobody reads a window's as a machine's.

    Args:
        epsilon: From `machine_epsilon`.
        windows: Windows of the machine it was computed for.
    """
    return _sentence(f"a machine with {windows} window{'s' if windows != 1 else ''}", epsilon)


def reading_sentence(epsilon: float, windows: int) -> str:
    """Say the same of what one reading reads, which lies in ``windows`` windows.

    Another value there takes so many windows out and puts as many in: ``epsilon`` is for twice as many.
    """
    return _sentence(f"what a reading reads, which lies in {windows} windows,", epsilon)


def _sentence(subject: str, epsilon: float) -> str:
    if math.isinf(epsilon):
        return f"{subject} is not protected: its epsilon is too large to compute"
    if epsilon > 20:
        return f"{subject} is not protected: its epsilon is {epsilon:.0f}"
    return f"{subject} has epsilon {epsilon:.2f}"


def _merge(events: Iterable[Event], unit: str, unit_windows: int) -> Merged:
    """Add up the steps of each kind; a machine is made of ``unit_windows`` rows or windows."""
    totals: dict[tuple[float, float, int], int] = {}
    for event in events:
        lifted = unit == "unit" and event.unit != "unit"
        if lifted and unit_windows < 1:
            raise Refusal(
                "undeclared_size",
                f"charges by {event.unit} count for machines too, and data.declared_unit_windows is 0",
            )
        key = (event.q, event.noise, unit_windows if lifted else 1)
        totals[key] = totals.get(key, 0) + event.steps
    return tuple(_Charge(*key, steps) for key, steps in sorted(totals.items()))


def _apart(merged: Merged) -> Merged:
    """The same steps for a unit of one element: what a group costs is more."""
    return tuple(replace(one, group=1) for one in merged)


def _together(merged: Merged) -> Merged:
    """The same steps with every group drawn whole if any of it is: what a group costs is less.

    A mixture of Gaussians costs more, the larger its sensitivities are in stochastic order
    (Choquette-Choo, Ganesh, Steinke and Thakurta, "Privacy amplification for matrix mechanisms", 2024).
    """
    return tuple(
        replace(one, q=_any_drawn(one), noise=one.noise / one.group, group=1) if one.group > 1 else one
        for one in merged
    )


def _any_drawn(one: _Charge) -> float:
    """Probability that a step draws any of the group."""
    return -math.expm1(one.group * math.log1p(-one.q)) if one.q < 1 else 1.0


def _agree(epsilon: float, low: float, check: float, delta: float) -> None:
    """Refuse figures that cannot both be right; `docs/privacy.md` states the gap.

    Args:
        epsilon: The certificate.
        low: RDP of no more than was done.
        check: RDP of no less than was done.
        delta: Theirs.
    """
    lowest = 0.5 * low - 0.1 * math.log(1 / delta)
    if not lowest <= epsilon <= _highest(check):
        raise InterplantError(
            f"the two privacy accountants disagree (PLD {epsilon:.4f}, RDP {check:.4f}); nothing is "
            "sent. Use a noise multiplier between 0.3 and 20, or report this"
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
        parts = [_steps(one, 1, interval) for one in merged]
        return float(_compose(parts).get_epsilon_for_delta(delta))


def _steps(one: _Charge, most: int, interval: float) -> Any:
    """The privacy loss of a charge: whole blocks of its steps are kept, the rest is composed anew."""
    rest = one.steps % BLOCK
    parts = []
    if one.steps - rest:
        parts.append(_blocks(replace(one, steps=one.steps - rest), most, interval))
    if rest:
        parts.append(_step(one, most, interval).self_compose(rest))
    return _compose(parts)


@lru_cache(maxsize=64)
def _blocks(one: _Charge, most: int, interval: float) -> Any:
    return _step(one, most, interval).self_compose(one.steps)


def _compose(parts: Iterable[Any]) -> Any:
    total = None
    for part in parts:
        total = part if total is None else total.compose(part)
    return total


def _step(one: _Charge, most: int, interval: float) -> Any:
    if one.group == 1:
        return _window(one.q, one.noise, interval)
    return _mixture(one.q, one.noise, one.group, most, interval)


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
        noise, drawn.astype(float), weights / weights.sum(), value_discretization_interval=interval
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

    orders = _curve(merged[0].q, merged[0].noise)[0]
    total = sum(_curve(one.q, one.noise)[1] * one.steps for one in merged)
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
