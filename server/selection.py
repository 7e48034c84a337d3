"""Which plants a round asks: all, or as many as the rules want and some to spare, without those that rest.

A plant that fails is asked again in the next round; if it fails again it rests for one round, then for three,
seven and so on. Nobody rests while the quorum would be missed without it.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from interplant.core.schema import Rounds

LONGEST = 15
"""Rounds that a plant rests at most."""

RESTING, SPARE, AWAY, LATE = "resting", "spare", "away", "late"
"""Not asked after failures; not waited for; not connected; no reply before the deadline."""

NO_FAILURE = (RESTING, SPARE, AWAY, "paused", "model_lost")

PASSING = (AWAY, LATE, "paused", "quiet", "model_lost")
"""What passes without anybody at the coordinator: the plant may take part later in the same round."""


@dataclass
class Failures:
    """Each plant's failures in a row, as a run's record of rounds tells them.

    Args:
        last: By plant: how many in a row, and round and code of the last one.
    """

    last: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> "Failures":
        """Read a run's record."""
        found = cls()
        for record in records:
            codes = {name: one["code"] for name, one in record["dropped"].items()}
            found.note(record["round"], record["participants"], codes)
        return found

    def note(self, number: int, participants: Iterable[str], codes: Mapping[str, str]) -> None:
        """Take up what came of an attempt at a round.

        Args:
            number: The round.
            participants: Who took part.
            codes: By plant, why it did not.
        """
        for name in participants:
            self.last.pop(name, None)
        for name, code in codes.items():
            count, round_, _ = self.last.get(name, (0, 0, ""))
            if code not in NO_FAILURE and round_ != number:  # a retry is no new round
                self.last[name] = count + 1, number, code

    def resting(self, name: str, number: int) -> bool:
        """Whether a plant rests in a round."""
        count, last, _ = self.last.get(name, (0, 0, ""))
        rounds = min(1 << max(0, count - 1), LONGEST + 1) - 1
        return number <= last + rounds

    def why(self, name: str) -> str:
        """Say why a plant rests."""
        count, last, code = self.last[name]
        return f"not asked: it failed {count} times in a row, in round {last} with {code}"


def choose(names: Collection[str], number: int, rules: Rounds, failures: Failures, run: str) -> list[str]:
    """Return the plants that a round asks, sorted.

    Args:
        names: Of all plants.
        number: The round.
        rules: How many updates are wanted, and how many plants are asked to spare.
        failures: Who rests.
        run: The run's id: with the round it decides who is asked, so that a run that goes on asks the same.
    """
    fit = [name for name in names if not failures.resting(name, number)]
    if len(fit) < max(rules.quorum, rules.plants):
        fit = list(names)
    wanted = math.ceil(rules.plants * (1.0 + rules.spare)) if rules.plants else len(fit)
    drawn = sorted(fit, key=lambda name: hashlib.sha256(f"{run}/{number}/{name}".encode()).digest())
    return sorted(drawn[:wanted])
