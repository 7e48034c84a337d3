"""What a strategy is: settings, explicit state, and a merge that updates are folded into.

The round loop calls, once a run, `init`; and in every round `begin`, `fold` for each checked update,
`finish`. Nothing is kept in the object, which is a frozen dataclass of settings: what must outlive a
round is the state, named arrays that stand in the run's checkpoint beside the weights. So a run that
was killed goes on with the same bits, and one strategy can hold many merges at once: one a cohort,
or one that is still open when the next has begun.
"""

from pathlib import Path
from typing import Protocol, TypeVar

from interplant.strategies.arrays import Arrays

M = TypeVar("M")


class Strategy(Protocol[M]):
    """How updates merge; ``M`` is its own kind of merge."""

    def init(self, weights: Arrays) -> Arrays:
        """Return the state before the first round; empty if there is none."""

    def begin(self, weights: Arrays, scratch: Path) -> M:
        """Start an empty merge.

        Args:
            weights: The global model, which is not to be changed.
            scratch: A folder of the run, for files that end with the merge however the process ends.
        """

    def fold(self, merge: M, update: Arrays, weight: float = 1.0) -> None:
        """Add one update in place; its arrays are neither changed nor kept.

        Args:
            merge: From `begin`.
            update: Weights after minus before, in the global model's names, shapes and dtypes.
            weight: A public number, equal for all plants: never a count of their rows.
        """

    def finish(self, merge: M, weights: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        """Return the next weights and state in new arrays; the merge is used up.

        Args:
            merge: With at least one update in it.
            weights: As they were given to `begin`.
            state: Of the round before.
        """
