"""A plan: what one round does under differential privacy, and so what it is charged.

The same frozen object draws the batches and names the accounting event, so that what runs and what
is billed cannot differ (the idea of an execution plan that carries its own event is jax_privacy's).
"""

import math
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interplant.core.errors import Refusal, UsageError
from interplant.core.schema import Task

UNITS = ("window",)
"""Privacy units a plan can be made for; sampling and clipping happen per unit."""


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

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UsageError(f"privacy.unit: expected one of {', '.join(UNITS)}, found {self.unit!r}")
        for name in ("records", "batch", "steps"):
            _whole(f"plan.{name}", getattr(self, name))
        for name in ("noise", "clip"):
            _positive(f"privacy.{name}", getattr(self, name))
        check_delta(self.delta)

    @classmethod
    def of(cls, task: Task, records: int) -> "Plan":
        """Make the plan of one round of ``task`` at a plant that declares ``records`` windows.

        Raises:
            Refusal: The plant has not declared its size (code ``undeclared_size``).
            UsageError: A value that cannot be.
        """
        if records < 1:
            raise Refusal("undeclared_size", f"data.declared_windows is {records}")
        privacy, training = task.privacy, task.training
        return cls(
            unit=privacy.unit,
            records=records,
            batch=training.batch,
            noise=privacy.noise,
            clip=privacy.clip,
            steps=training.steps,
            delta=privacy.delta,
        )

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Plan":
        """Read back what `as_dict` wrote."""
        return cls(**fields)

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
        """What running this plan once is charged."""
        return Event(self.unit, self.q, float(self.noise), self.steps)

    def batches(
        self, count: int, generator: np.random.Generator | None = None
    ) -> Iterator[NDArray[np.int64]]:
        """Yield the Poisson sample of each step: exactly ``steps`` arrays of indices.

        Args:
            count: How many units the data really holds; each is drawn with probability `q`, alone.
            generator: For tests only. Left out, it is seeded by the operating system, so that no
                experiment seed tells who was in a batch.
        """
        generator = generator or system_generator()
        for _ in range(self.steps):
            yield np.flatnonzero(generator.random(count) < self.q)


def system_generator() -> np.random.Generator:
    """Return a generator with a key of 128 bits of the operating system's entropy.

    Not `torch.Generator`: on the CPU it keeps only the low 32 bits of its seed, few enough to try.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(secrets.randbits(256))))


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
