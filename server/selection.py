"""Which plants a round asks: all, or as many as the rules want and some to spare, without those that rest.

A plant that fails is asked again in the next round; if it fails again it rests for one round, then for three,
seven and so on. Nobody rests while the quorum would be missed without it; who cannot answer does not count.
All of it follows from the run's record, so that a run that goes on asks the same.
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

_LASTING = (AWAY, "paused", "quiet")
"""Of a plant that is likely not to answer in the next round either."""

_NOT_MISSED = (RESTING, SPARE, "model_lost")
"""Not asked, or not waited for, or it answers when it is asked again."""


@dataclass
class Failures:
    """Each plant's failures in a row, as a run's record of rounds tells them.

    Args:
        last: By plant: how many in a row, and round and code of the last one.
        missed: By plant: the round whose update it last did not bring, in how many attempts, and the code.
    """

    last: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    missed: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], forgiven: int = 0) -> "Failures":
        """Read a run's record; of the first ``forgiven`` attempts no failure counts."""
        found = cls()
        for place, record in enumerate(records, 1):
            codes = {name: one["code"] for name, one in record["dropped"].items()}
            found.note(record["round"], record["participants"], codes)
            if place == forgiven:
                found.last.clear()
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
            self.missed.pop(name, None)
        for name, code in codes.items():
            count, round_, _ = self.last.get(name, (0, 0, ""))
            if code not in _NOT_MISSED:
                self.missed[name] = number, self.tries(name, number) + 1, code
            if code not in NO_FAILURE and round_ != number:  # a retry is no new round
                self.last[name] = count + 1, number, code

    def resting(self, name: str, number: int) -> bool:
        """Whether a plant rests in a round."""
        count, last, _ = self.last.get(name, (0, 0, ""))
        rounds = min(1 << max(0, count - 1), LONGEST + 1) - 1
        return last < number <= last + rounds

    def tries(self, name: str, number: int) -> int:
        """How many attempts at a round a plant has missed."""
        round_, count, _ = self.missed.get(name, (0, 0, ""))
        return count if round_ == number else 0

    def counts(self, name: str, number: int) -> bool:
        """Whether a plant is likely to answer: it has not missed this round, and was there in the last."""
        round_, _, code = self.missed.get(name, (0, 0, ""))
        return round_ != number and not (round_ == number - 1 and code in _LASTING)

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
        failures: Who rests, and who has missed this round; a retry asks the others first.
        run: The run's id: with the round it decides who is asked, so that a run that goes on asks the same.
    """
    fit = [name for name in names if not failures.resting(name, number)]
    if sum(failures.counts(name, number) for name in fit) < max(rules.quorum, rules.plants):
        fit = list(names)

    def order(name: str) -> tuple[int, bytes]:
        return failures.tries(name, number), hashlib.sha256(f"{run}/{number}/{name}".encode()).digest()

    wanted = math.ceil(rules.plants * (1.0 + rules.spare)) if rules.plants else len(fit)
    return sorted(sorted(fit, key=order)[:wanted])
