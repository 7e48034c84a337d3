"""Waiting for a round's replies: as they come, or plant by plant in a fixed order.

Either way one reply is read at a time; the others wait where the grid keeps them, which is a disk. And
either way nobody is waited for without an end: not after the deadline, and not for plants that are
away once the quorum is there.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flwr.app import Message

from interplant.core.errors import InterplantError
from interplant.core.flower import Grid
from interplant.core.schema import Rounds

_POLL = 0.5
"""Seconds between looks on a grid that cannot ring (stock Flower's)."""

_SLICE = 1.0
"""Longest wait before the loop looks whether it shall stop."""

_GRACE = 5.0
"""Seconds that plants which are away may take to return once the quorum is met."""


class StoppedError(InterplantError):
    """A person has stopped the run."""


@runtime_checkable
class RingingGrid(Protocol):
    """What our own grids offer beyond Flower's: names, a bell instead of polling, an end of messages."""

    def names(self) -> dict[int, str]:
        """Node id to plant name."""

    def online(self) -> set[int]:
        """Ids of the plants that are connected."""

    def wait(self, message_ids: Iterable[str], seconds: float) -> Message | None:
        """Return one reply as soon as there is one."""

    def answered(self, message_ids: Iterable[str]) -> dict[str, bool]:
        """Which messages have a reply that was not read yet, and whether it carries an update."""

    def finish(self, message_ids: Iterable[str], settled_round: int | None) -> None:
        """Forget messages; with a round, it is settled."""


@dataclass
class Waiting:
    """A round's open messages.

    Args:
        grid: Where replies come from.
        nodes: Message id to node; a reply that was handed out is no longer in it.
        names: Node to plant name; empty where the grid knows none.
        rules: Order, deadline and quorum.
        good: How many updates have been folded.
        stopped: Tells whether a person has stopped the run.
    """

    grid: Grid
    nodes: dict[str, int]
    names: dict[int, str]
    rules: Rounds
    good: Callable[[], int]
    stopped: Callable[[], bool]

    def replies(self) -> Iterator[Message]:
        """Yield replies in the order that the rules ask for, until no more are waited for.

        In the order of plants, one that is passed over is not folded later in this attempt: what is
        folded is always in order. A missed quorum is tried again, with the replies that are there.
        """
        queue, patience, over = self._queue(), Patience(self), False
        while queue and not self.full():
            if self.stopped():
                raise StoppedError("the run was stopped")
            wanted = queue[:1] if self.rules.order == "plants" else queue
            reply = wait(self.grid, wanted, 0.0 if over else min(_SLICE, patience.left()))
            if reply is not None:
                queue.remove(reply.metadata.reply_to_message_id)
                del self.nodes[reply.metadata.reply_to_message_id]
                yield reply
                del reply  # before the next one is read
            elif over:
                del queue[: len(wanted)]
            else:
                over = patience.is_over()

    def full(self) -> bool:
        """Whether as many updates are folded as the rules want."""
        return 0 < self.rules.plants <= self.good()

    def enough(self) -> bool:
        """Whether the quorum is there, and all that is missing is plants that are away."""
        answered = self.grid.answered(self.nodes) if isinstance(self.grid, RingingGrid) else {}
        missing = {node for key, node in self.nodes.items() if key not in answered}
        here = self.good() + sum(answered.values())
        return here >= self.rules.quorum and away(self.grid, missing) == missing

    def _queue(self) -> list[str]:
        """Message ids; if plants are folded in order, by their names, or by node ids without names."""
        if self.rules.order == "arrival":
            return list(self.nodes)
        return sorted(self.nodes, key=lambda key: (self.names.get(self.nodes[key], ""), self.nodes[key]))


class Patience:
    """When a round stops waiting: at its deadline, or a little after only plants that are away are missing.

    Args:
        waiting: What is waited for.
    """

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._deadline = time.monotonic() + waiting.rules.deadline_seconds
        self._grace: float | None = None

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def is_over(self) -> bool:
        """Look, after a wait in which nothing came."""
        if not self.left():
            return True
        if not self._waiting.enough():
            return False
        self._grace = self._grace or time.monotonic() + _GRACE
        return time.monotonic() >= self._grace


def wait(grid: Grid, message_ids: Iterable[str], seconds: float) -> Message | None:
    """Return one reply to any of the messages; None if there was none for ``seconds``."""
    if isinstance(grid, RingingGrid):
        return grid.wait(message_ids, seconds)
    for message_id in message_ids:
        for reply in grid.pull_messages([message_id]):
            return reply
    time.sleep(min(_POLL, max(0.0, seconds)))
    return None


def names(grid: Grid) -> dict[int, str]:
    """Node id to plant name; empty where the grid knows none."""
    return grid.names() if isinstance(grid, RingingGrid) else {}


def away(grid: Grid, nodes: Iterable[int]) -> set[int]:
    """Those of the nodes that are known not to be connected."""
    return set(nodes) - grid.online() if isinstance(grid, RingingGrid) else set()


def finish(grid: Grid, message_ids: list[str], settled: int | None) -> None:
    """Close a round's messages. After a missed quorum they stay open: replies are used again."""
    if isinstance(grid, RingingGrid) and settled is not None:
        grid.finish(message_ids, settled)


def pause(seconds: float, stopped: Callable[[], bool]) -> None:
    """Wait between two attempts, unless the run is stopped."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stopped():
            raise StoppedError("the run was stopped")
        time.sleep(min(_SLICE, left))
