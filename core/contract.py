"""The contract of a plant's readings: columns, units, ranges, times, and what may never be an input.

A contract stands in a task, or in a file of the plant's own (``data.contract`` in ``plant.yaml``), which
covers what its tasks read. Nothing in it is computed from data: ranges are declared, and public.
"""

from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from omegaconf import MISSING

from interplant.core.possible import between, is_finite, is_number, is_range, need, one_of

CLOCKS = ("count", "timestamp")
"""What a contract's time is: a number that counts (cycles, seconds of a recording), or a moment."""


RESERVED = ("_corrected", "_horizon", "_told", "_prediction")
"""Columns that a store keeps beside the contract's; see `interplant.data.corrections`."""


@dataclass
class Column:
    """One input column: its unit and the public range that also normalises it."""

    unit: str = MISSING
    low: float = MISSING
    high: float = MISSING


@dataclass
class Condition:
    """An operating condition: where its settings lie, and the public range of each sensor in it."""

    name: str = MISSING
    centre: dict[str, float] = field(default_factory=dict)
    # Pairs [low, high]; `Contract.check` looks at them, since OmegaConf takes no 200 for a nested float.
    ranges: dict[str, Any] = field(default_factory=dict)


@dataclass
class Contract:
    """What a valid reading is. Ranges are declared public; nothing here is computed from data.

    A reading is one machine's values at one time, there once. Durations are in seconds where ``clock`` is
    ``timestamp``, and in the time column's own unit where it is ``count``.

    Args:
        version: Raised with every change; a task names the version that it needs.
        machine: Column that names the machine.
        time: Column of the time.
        clock: One of `CLOCKS`.
        zone: Of timestamps that bring no offset of their own, such as ``Europe/Berlin``.
        interval: Time between two readings of a machine.
        gap: Longest time between two readings that a window bridges; 0: any.
        hold: How long a value that is missing is taken to be the last one; 0: each reading has every value.
        late: How long after the newest reading of its machine a reading may still come; 0: any time.
        ahead: How far a timestamp may lie in the future.
        cycle: Column that numbers a machine's cycles, which windows do not cross; empty: there are none.
        label: Column that is learned to be predicted.
        texts: What the label may say where it is text, such as ``ok`` and ``scratch``; none: it is a number.
        never: Further columns that tell the label: kept with the readings, never inputs.
        strays: Share of readings that may break the contract before nothing is learned from the rest.
        settings: What is set, by column: inputs, and what operating conditions are told apart by.
        sensors: What is measured, by column: inputs.
        conditions: Operating conditions; none: the columns' own ranges hold everywhere.
    """

    version: int = 1
    machine: str = "machine"
    time: str = "cycle"
    clock: str = "count"
    zone: str = "UTC"
    interval: float = 1.0
    gap: float = 0.0
    hold: float = 0.0
    late: float = 0.0
    ahead: float = 60.0
    cycle: str = ""
    label: str = "rul"
    # Texts; `Contract.check` looks at them, since OmegaConf would make texts of numbers and truths.
    texts: list[Any] = field(default_factory=list)
    never: list[str] = field(default_factory=list)
    strays: float = 0.01
    settings: dict[str, Column] = field(default_factory=dict)
    sensors: dict[str, Column] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)

    def check(self, prefix: str = "") -> None:
        """Raise `Impossible` for the first value that cannot be.

        Args:
            prefix: Of the keys in what is raised: where the contract stands in its file.
        """
        need(bool(self.sensors), f"{prefix}sensors", "expected at least one sensor, found none")
        need(self.version >= 1, f"{prefix}version", f"expected 1 or more, found {self.version}")
        self._check_times(prefix)
        self._check_texts(prefix)
        between(self.strays, 0.0, 1.0, f"{prefix}strays")
        for group in ("settings", "sensors"):
            for name, column in getattr(self, group).items():
                need(
                    _is_wide([column.low, column.high]),
                    f"{prefix}{group}.{name}",
                    f"expected finite numbers, low < high, found {column.low} and {column.high}",
                )
        self._check_names(prefix)
        inputs = set(self.settings) | set(self.sensors)
        taken = inputs.union((self.machine, self.time, self.label, self.cycle, *self.never)) & set(RESERVED)
        need(not taken, f"{prefix}sensors", f"expected other names than {', '.join(RESERVED)}, found one")
        for reserved in (self.machine, self.time, self.label, self.cycle, *self.never):
            need(
                reserved not in inputs,
                f"{prefix}sensors",
                f"expected inputs only, found {reserved!r}, which is the machine, time, cycle or label, "
                "or must never be an input",
            )
        for index, condition in enumerate(self.conditions):
            self._check_condition(condition, f"{prefix}conditions.{index}")

    def _check_names(self, prefix: str) -> None:
        """Each column has one meaning."""
        single = {"machine": self.machine, "time": self.time, "cycle": self.cycle, "label": self.label}
        used = [*single.items(), *(("never", name) for name in self.never)]
        used += [("settings", name) for name in self.settings]
        meant: dict[str, str] = {}
        for key, name in used:
            need(
                not name or name not in meant,
                f"{prefix}{key}",
                f"expected a column of its own, found {name!r}, which is {meant.get(name)} too",
            )
            meant[name] = key
        both = [name for name in self.sensors if name in self.settings]
        need(not both, f"{prefix}sensors", f"expected columns of their own, found {both}, settings too")

    def _check_times(self, prefix: str) -> None:
        one_of(self.clock, CLOCKS, f"{prefix}clock")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            need(False, f"{prefix}zone", f"expected a zone such as UTC or Europe/Berlin, found {self.zone!r}")
        need(
            self.interval > 0 and is_finite(self.interval),
            f"{prefix}interval",
            f"expected a finite number, more than 0, found {self.interval}",
        )
        for key in ("gap", "hold", "late", "ahead"):
            value = getattr(self, key)
            need(
                value >= 0 and is_finite(value),
                f"{prefix}{key}",
                f"expected a finite number, 0 or more, found {value}",
            )
        need(
            self.gap == 0 or self.gap >= self.interval,
            f"{prefix}gap",
            f"expected 0 (any) or no less than the interval ({self.interval:g}), found {self.gap:g}",
        )

    def _check_texts(self, prefix: str) -> None:
        key, found = f"{prefix}texts", self.texts
        need(len(found) <= 1000, key, f"expected at most 1000, found {len(found)}")
        wrong = [one for one in found if not isinstance(one, str)]
        need(not wrong, key, f"expected texts, found {wrong!r}: write them in quotes")
        need(
            all(one and one == one.strip() for one in found),
            key,
            f"expected texts without spaces around them, found {found!r}",
        )
        need(len(set(found)) == len(found), key, f"expected each once, found {found!r}")
        need(
            not found or not all(map(is_number, found)),
            key,
            f"expected none, as a label of numbers needs none, found {found!r}",
        )

    def _check_condition(self, condition: Condition, key: str) -> None:
        need(
            set(condition.centre) == set(self.settings),
            f"{key}.centre",
            f"expected one value for each of {sorted(self.settings)}, found {sorted(condition.centre)}",
        )
        for name, value in condition.centre.items():
            need(is_finite(value), f"{key}.centre.{name}", f"expected a finite number, found {value}")
        for name, ends in condition.ranges.items():
            need(name in self.sensors, f"{key}.ranges", f"{name!r} is not a sensor")
            need(
                _is_wide(ends),
                f"{key}.ranges.{name}",
                f"expected [low, high], finite numbers with low < high, found {ends!r}",
            )


def _is_wide(ends: Any) -> bool:
    """Whether ``ends`` are a range of a width that readings can be divided by."""
    return is_range(ends) and is_finite(ends[1] - ends[0])
