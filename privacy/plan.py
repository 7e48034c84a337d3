"""A plan: what one round does under differential privacy, and so what it is charged.

The same frozen object draws the batches and names the accounting event, so that what runs and what
is billed cannot differ (the idea of an execution plan that carries its own event is jax_privacy's).
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interplant.core.errors import Refusal, UsageError
from interplant.core.schema import CLIPPINGS, UNITS, PlantData, Task
from interplant.privacy.stream import Stream

SIZES = {"row": "declared_windows", "window": "declared_windows", "unit": "declared_units"}
"""Which declared size of a plant counts a privacy unit. A row is counted by the one window it lies in."""


@dataclass(frozen=True)
class Event:
    """What is charged: ``steps`` Gaussian mechanisms, each on a Poisson sample.

    Args:
        unit: The privacy unit, what one neighbour differs by.
        q: Probability with which each unit enters a step.
        noise: Standard deviation of the noise as a multiple of the clipping norm.
        steps: Number of steps.
    """

    unit: str
    q: float
    noise: float
    steps: int


@dataclass(frozen=True)
class Statistic:
    """A number that leaves beside the update: a sum over all units, bounded, noised and charged.

    Args:
        name: Under which it leaves.
        bound: Each unit's value is clipped to 0 to ``bound``.
        noise: Standard deviation of the noise as a multiple of ``bound``.
    """

    name: str
    bound: float
    noise: float

    def __post_init__(self) -> None:
        _positive(f"metrics.{self.name}.bound", self.bound)
        _positive(f"metrics.{self.name}.noise", self.noise)


@dataclass(frozen=True)
class Plan:
    """One round of DP-SGD, all of it public.

    Args:
        unit: The privacy unit.
        records: The plant's declared, public number of units. Never counted from the data.
        batch: Expected units in a step.
        noise: Noise multiplier: the noise's standard deviation is ``noise * clip``.
        clip: L2 norm to which each unit's gradient is clipped.
        steps: Steps in the round; each is charged, an empty batch too.
        delta: The probability that the guarantee may fail.
        windows: The most windows of a unit in a step (K); 1 unless machines are the unit.
        clipping: One of `CLIPPINGS`.
        statistics: Numbers beside the update.

    Raises:
        UsageError: A value that cannot be.
    """

    unit: str
    records: int
    batch: int
    noise: float
    clip: float
    steps: int
    delta: float
    windows: int = 1
    clipping: str = "norm"
    statistics: tuple[Statistic, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UsageError(f"privacy.unit: expected one of {', '.join(UNITS)}, found {self.unit!r}")
        if self.clipping not in CLIPPINGS:
            raise UsageError(f"privacy.clipping: expected {' or '.join(CLIPPINGS)}, found {self.clipping!r}")
        for name in ("records", "batch", "steps", "windows"):
            _whole(f"plan.{name}", getattr(self, name))
        if self.unit != "unit" and self.windows != 1:
            raise UsageError(f"plan.windows: expected 1 for unit {self.unit}, found {self.windows}")
        for name in ("noise", "clip"):
            _positive(f"privacy.{name}", getattr(self, name))
        check_delta(self.delta)

    @classmethod
    def of(cls, task: Task, data: PlantData, metrics: Collection[str] = ()) -> "Plan":
        """Make the plan of one round of ``task`` at a plant that declares the sizes in ``data``.

        Args:
            task: What is learned.
            data: Declared, public sizes.
            metrics: Names of the metrics that the plant's policy lets out.

        Raises:
            Refusal: The plant has not declared its size (code ``undeclared_size``).
            UsageError: A value that cannot be.
        """
        privacy, training = task.privacy, task.training
        key = SIZES.get(privacy.unit, "declared_windows")
        records = getattr(data, key)
        if records < 1:
            raise Refusal("undeclared_size", f"data.{key} is {records}")
        return cls(
            unit=privacy.unit,
            records=records,
            batch=training.batch,
            noise=privacy.noise,
            clip=privacy.clip,
            steps=training.steps,
            delta=privacy.delta,
            windows=privacy.windows_per_unit if privacy.unit == "unit" else 1,
            clipping=privacy.clipping,
            statistics=statistics_of(task, metrics),
        )

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Plan":
        """Read back what `as_dict` wrote, in this version or an earlier one."""
        statistics = tuple(Statistic(**one) for one in fields.get("statistics", ()))
        return cls(**{**fields, "statistics": statistics})

    def as_dict(self) -> dict[str, Any]:
        """Return the plan's fields, ready for JSON."""
        return asdict(self)

    @property
    def q(self) -> float:
        """Probability with which each unit enters a step: min(1, batch / records)."""
        return min(1.0, self.batch / self.records)

    @property
    def denominator(self) -> float:
        """Expected batch q * records: what every step's sum is divided by, whatever was drawn."""
        return float(min(self.batch, self.records))

    @property
    def event(self) -> Event:
        """What the training is charged."""
        return Event(self.unit, self.q, float(self.noise), self.steps)

    @property
    def events(self) -> tuple[Event, ...]:
        """What running this plan once is charged: the training, and each statistic over all units."""
        return (self.event, *(Event(self.unit, 1.0, float(one.noise), 1) for one in self.statistics))

    def batches(self, count: int, stream: Stream) -> Iterator[NDArray[np.int64]]:
        """Yield the Poisson sample of each step: exactly ``steps`` arrays of indices of units.

        Args:
            count: How many units the data really holds; each is drawn with probability `q`, alone.
            stream: Where chance comes from: the operating system, so that no experiment seed tells who
                was in a batch.
        """
        for _ in range(self.steps):
            yield np.flatnonzero(stream.uniform(count) < self.q)

    def draw(self, windows: NDArray[np.int64], stream: Stream) -> NDArray[np.int64]:
        """Return at most K of one unit's windows, drawn without replacement."""
        if len(windows) <= self.windows:
            return windows
        return windows[np.argpartition(stream.uniform(len(windows)), self.windows)[: self.windows]]


@dataclass(frozen=True)
class Measurement:
    """Statistics over all units at once, without training: a look at the data that is charged.

    Args:
        unit: The privacy unit.
        records: The plant's declared, public number of units; 0 where that is what is asked.
        delta: The probability that the guarantee may fail.
        statistics: What is told; at least one.

    Raises:
        UsageError: A value that cannot be.
    """

    unit: str
    records: int
    delta: float
    statistics: tuple[Statistic, ...]

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UsageError(f"privacy.unit: expected one of {', '.join(UNITS)}, found {self.unit!r}")
        if not self.statistics:
            raise UsageError("measurement: expected at least one statistic, found none")
        check_delta(self.delta)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Measurement":
        """Read back what `as_dict` wrote."""
        return cls(**{**fields, "statistics": tuple(Statistic(**one) for one in fields["statistics"])})

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)

    @property
    def events(self) -> tuple[Event, ...]:
        """What it is charged: each statistic over all units; equal noises as steps of one event."""
        noises = [float(one.noise) for one in self.statistics]
        return tuple(Event(self.unit, 1.0, noise, noises.count(noise)) for noise in dict.fromkeys(noises))


Charged = Plan | Measurement
"""What a ledger can charge."""


def charged_from_dict(fields: dict[str, Any]) -> Charged:
    """Read back a plan or a measurement; only a plan has steps."""
    return (Plan if "steps" in fields else Measurement).from_dict(fields)


def statistics_of(task: Task, metrics: Collection[str]) -> tuple[Statistic, ...]:
    """Return what a private task sends beside its updates: its noised metrics that are named in ``metrics``.

    A task without privacy sends none: only noise that is charged protects them. A unit counts once,
    whatever bound the task names.
    """
    if not task.privacy.private:
        return ()
    return tuple(
        Statistic(name, 1.0 if name == "units" else metric.bound, metric.noise)
        for name, metric in task.metrics.items()
        if metric.mechanism == "noised" and name in metrics
    )


def check_delta(delta: float) -> None:
    """Raise `UsageError` unless ``delta`` is a probability that can be certified."""
    if not (isinstance(delta, float) and 0 < delta < 1):
        raise UsageError(
            f"privacy.delta: expected a probability between 0 and 1, found {delta}; "
            "choose less than one over the number of records, for example 1e-5"
        )
    if delta < 1e-12:
        raise UsageError(
            f"privacy.delta: expected 1e-12 or more, found {delta}; "
            "below that rounding in the accountant is as large as delta itself"
        )


def _whole(key: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{key}: expected a whole number, 1 or more, found {value!r}")


def _positive(key: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{key}: expected a number more than 0, found {value}")
