"""How many readings in a row each machine's sensors have not changed."""

import numpy as np
from numpy.typing import NDArray

from interplant.data.blocks import Block
from interplant.data.contract import Floats

Counts = NDArray[np.int64]


class Runs:
    """Counts across blocks.

    Args:
        held: By machine: its last reading (columns,), and how often in a row each value came (columns,).
    """

    def __init__(self, held: dict[int, tuple[Floats, Counts]] | None = None) -> None:
        self.held = held or {}

    def count(self, block: Block) -> Counts:
        """Return for each reading how many in a row, with it, were exactly the same (N, columns).

        A value that is missing equals no other.
        """
        counts = np.empty(block.values.shape, np.int64)
        for machine in np.unique(block.machine):
            own = block.machine == machine
            counts[own] = self._count(int(machine), block.values[own])
        return counts

    def _count(self, machine: int, values: Floats) -> Counts:
        width = values.shape[1]
        last, held = self.held.get(machine, (np.full(width, np.nan), np.zeros(width, np.int64)))
        changed = values != np.vstack([last, values[:-1]])
        place = np.arange(len(values))[:, None]
        # A run that began before this block began so many readings before place 0.
        begin = np.maximum.accumulate(np.where(changed, place, -held), axis=0)
        counts: Counts = place - begin + 1
        self.held[machine] = (values[-1].copy(), counts[-1].copy())
        return counts
