"""The round loop: a Flower ServerApp that runs the same over every grid.

Read `one_round` first: it is what the coordinator does in a round.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import ServerApp

from interplant.core import config, models
from interplant.core.errors import InterplantError
from interplant.core.flower import Grid, arrays
from interplant.core.schema import Rounds, Task
from interplant.core.wire import Tensors, from_bytes
from interplant.privacy.plan import statistics_of
from interplant.server.run_folder import Checkpoint, RunFolder
from interplant.server.updates import RECEIPT, TASK, WEIGHTS, BadUpdateError, checked
from interplant.strategies.fedavg import Merge
from interplant.strategies.registry import Strategy, build

log = logging.getLogger(__name__)

app = ServerApp()

_POLL = 0.5
"""Seconds between looks on a grid that cannot ring (stock Flower's)."""

_SLICE = 1.0
"""Longest wait before the loop looks whether it shall stop."""

_GRACE = 5.0
"""Seconds that plants which are away may take to return once the quorum is met."""


class QuorumError(InterplantError):
    """A round had too few good updates. It is not consumed: the same round can be tried again."""


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

    def finish(self, message_ids: Iterable[str], settled_round: int | None) -> None:
        """Forget messages; with a round, it is settled."""


@dataclass
class Outcome:
    """What came of one attempt at a round."""

    weights: Tensors
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: dict[str, tuple[str, str]] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry out the run whose folder the run configuration names."""
    carry_out(grid, RunFolder(Path(str(context.run_config["run"]))))


def carry_out(
    grid: Grid,
    run: RunFolder,
    tell: Callable[[dict[str, Any]], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Run the rounds that are left, with a checkpoint after each.

    Args:
        grid: Any of the three engines' grids.
        run: The run's folder.
        tell: Hears of every attempt at a round, after it is on disk.
        stopped: Tells whether a person has stopped the run.

    Returns:
        The state after the last round.

    Raises:
        QuorumError: A round found too few plants, also after every retry. The run can be resumed.
        StoppedError: A person has stopped the run.
    """
    task, rules = run.task(), run.rounds()
    state = run.restore() or Checkpoint(0, _first_weights(run, task))
    _finish(grid, [], state.round)  # a killed round loop may not have come to it
    while state.round < task.rounds:
        state = _next_state(grid, run, task, rules, state, tell, stopped)
    return state


def _next_state(
    grid: Grid,
    run: RunFolder,
    task: Task,
    rules: Rounds,
    state: Checkpoint,
    tell: Callable[[dict[str, Any]], None],
    stopped: Callable[[], bool],
) -> Checkpoint:
    """Try a round until its quorum is met; return the state that is then on disk."""
    number = state.round + 1
    for attempt in range(1, rules.retries + 2):
        begun = time.monotonic()
        told = run.receipts()
        outcome, ids = one_round(grid, run.order().run, task, rules, number, state.weights, stopped, told)
        good = len(outcome.receipts) >= rules.quorum
        run.keep_receipts(outcome.receipts, told)  # what was charged was charged, whatever comes of the round
        if good:
            state = Checkpoint(number, outcome.weights, _receipts(state.plants, outcome.receipts))
            run.save(state)
        _finish(grid, ids, number if good else None)
        record = {
            "round": number,
            "attempt": attempt,
            "settled": good,
            "participants": sorted(outcome.receipts),
            "dropped": {name: {"code": code, "text": text} for name, (code, text) in outcome.dropped.items()},
            "seconds": time.monotonic() - begun,
            "finished": time.time(),
        }
        if means := _means(outcome.metrics):
            record["metrics"] = means
        run.append(record)
        tell(record)
        if good:
            return state
        log.warning("round %d: %d of %d plants", number, len(outcome.receipts), rules.quorum)
        _pause(rules.retry_seconds if attempt <= rules.retries else 0.0, stopped)
    raise QuorumError(
        f"round {number} found {len(outcome.receipts)} good updates, expected {rules.quorum}: "
        f"{_reasons(outcome)}; mend it, then `interplant run resume`"
    )


def one_round(
    grid: Grid,
    run: str,
    task: Task,
    rules: Rounds,
    number: int,
    weights: Tensors,
    stopped: Callable[[], bool],
    receipts: Mapping[str, str] | None = None,
) -> tuple[Outcome, list[str]]:
    """Send the global weights out, fold each good update as it comes, return the next weights.

    One update is in memory at a time beside the running merge.
    """
    strategy = build(task.strategy)
    merge = strategy.begin(weights)
    outcome = Outcome(weights)
    waiting = dict(_push(grid, run, task, number, weights, receipts or {}))
    names = _names(grid)  # after the push: a plant that has just joined has a name
    ids = list(waiting)
    for reply in _replies(grid, waiting, outcome, rules, stopped):
        node = reply.metadata.src_node_id
        name = names.get(node, f"node-{node}")
        try:
            place = (run, number)
            if not names:
                _check_signer(reply, receipts or {})
            _take(reply, name if names else "", place, weights, task, rules, strategy, merge, outcome)
        except BadUpdateError as error:
            outcome.dropped[name] = (error.code, str(error))
            log.warning("round %d: %s dropped: %s", number, name, error)
        del reply
    away = _away(grid, waiting.values())
    for node in waiting.values():
        late = ("away", "not connected") if node in away else ("late", "no reply before the deadline")
        outcome.dropped[names.get(node, f"node-{node}")] = late
    if outcome.receipts:
        outcome.weights = strategy.finish(merge, weights)
    return outcome, ids


def _take(
    reply: Message,
    name: str,
    place: tuple[str, int],
    weights: Tensors,
    task: Task,
    rules: Rounds,
    strategy: Strategy,
    merge: Merge,
    outcome: Outcome,
) -> None:
    """Check a reply and fold its update.

    Args:
        reply: Of a plant.
        name: The plant's, empty where the grid knows none.
        place: Run and round.
        weights: The global model.
        task: What is learned.
        rules: The norm bound.
        strategy: How to fold.
        merge: Into what.
        outcome: Gets the receipt and the metrics.
    """
    declared = {one.name for one in statistics_of(task, task.metrics)}
    update = checked(reply, weights, rules.max_update_norm, declared)
    plant = update.receipt["plant"]
    if name and plant != name:
        raise BadUpdateError("bad_receipt", "the receipt names another plant")
    if update.receipt["mechanism"] != task.privacy.mechanism:
        # One plant's word would mark the whole release as not private, or as private.
        raise BadUpdateError("bad_receipt", f"expected a round with {task.privacy.mechanism}")
    if (update.receipt["run"], update.receipt["round"]) != place:
        raise BadUpdateError("bad_receipt", f"expected a receipt of round {place[1]} of {place[0]}")
    if plant in outcome.receipts:
        raise BadUpdateError("bad_receipt", "an update of this plant is in the merge already")
    strategy.fold(merge, update.arrays)
    outcome.receipts[plant] = update.receipt
    outcome.metrics.append(update.metrics)


def _check_signer(reply: Message, receipts: Mapping[str, str]) -> None:
    """Where the grid does not know who speaks, a plant is who signed the first receipt of that name."""
    if not reply.has_content() or RECEIPT not in reply.content.config_records:
        return  # not even a receipt: `checked` says so
    said = reply.content.config_records[RECEIPT]
    before = receipts.get(str(said.get("plant", "")))
    if before and json.loads(before)["signer"] != said.get("signer"):
        raise BadUpdateError(
            "bad_receipt",
            "another key than before has signed it; if the plant has a new key, remove its file in .receipts",
        )


def _push(
    grid: Grid, run: str, task: Task, number: int, weights: Tensors, receipts: Mapping[str, str]
) -> Iterator[tuple[str, int]]:
    """Send the round's work to every plant, with its own last receipt; the arrays are the same object."""
    held = arrays(weights)
    text = config.to_json(task)
    nodes, names = sorted(grid.get_node_ids()), _names(grid)

    def content(node: int) -> RecordDict:
        told = receipts.get(names.get(node, ""), "")
        words: dict[str, Any] = {
            "run": run,
            "task": text,
            "round": number,
            "rounds": task.rounds,
            "receipt": told,
        }
        return RecordDict({WEIGHTS: held, TASK: ConfigRecord(words)})

    messages = [grid.create_message(content(node), "train", node, str(number)) for node in nodes]
    return zip(grid.push_messages(messages), nodes, strict=True)


def _replies(
    grid: Grid, waiting: dict[str, int], outcome: Outcome, rules: Rounds, stopped: Callable[[], bool]
) -> Iterator[Message]:
    """Yield replies as they come, until all are here or the deadline has passed.

    Plants that are not connected are waited for only a little once the quorum is met.
    """
    deadline = time.monotonic() + rules.deadline_seconds
    grace: float | None = None
    while waiting and time.monotonic() < deadline:
        if stopped():
            raise StoppedError("the run was stopped")
        reply = _wait(grid, waiting, min(_SLICE, deadline - time.monotonic()))
        if reply is not None:
            del waiting[reply.metadata.reply_to_message_id]
            yield reply
            del reply  # before the next one is read
        elif len(outcome.receipts) >= rules.quorum and _away(grid, waiting.values()) == {*waiting.values()}:
            grace = grace or time.monotonic() + _GRACE
            if time.monotonic() >= grace:
                return


def _wait(grid: Grid, waiting: Iterable[str], seconds: float) -> Message | None:
    if isinstance(grid, RingingGrid):
        return grid.wait(waiting, seconds)
    for message_id in waiting:
        for reply in grid.pull_messages([message_id]):
            return reply
    time.sleep(min(_POLL, max(0.0, seconds)))
    return None


def _finish(grid: Grid, ids: list[str], settled: int | None) -> None:
    """Close a round's messages. After a missed quorum they stay open: replies are used again."""
    if isinstance(grid, RingingGrid) and settled is not None:
        grid.finish(ids, settled)


def _names(grid: Grid) -> dict[int, str]:
    return grid.names() if isinstance(grid, RingingGrid) else {}


def _away(grid: Grid, nodes: Iterable[int]) -> set[int]:
    return set(nodes) - grid.online() if isinstance(grid, RingingGrid) else set()


def _pause(seconds: float, stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stopped():
            raise StoppedError("the run was stopped")
        time.sleep(min(_SLICE, left))


def _receipts(
    plants: dict[str, dict[str, Any]], receipts: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Latest receipt of each plant, with the number of rounds it took part in."""
    merged = dict(plants)
    for name, receipt in receipts.items():
        merged[name] = receipt | {"rounds": plants.get(name, {}).get("rounds", 0) + 1}
    return merged


def _means(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Plain mean of each metric over the plants that sent it; a weighted one would trust their counts."""
    found = {}
    for name in sorted({name for own in metrics for name in own}):
        values = [own[name] for own in metrics if name in own]
        found[name] = sum(value / len(values) for value in values)  # a sum of huge ones may overflow
    return found


def _reasons(outcome: Outcome) -> str:
    said = [f"{name}: {text}" for name, (_, text) in sorted(outcome.dropped.items())]
    return "; ".join(said) or "no plant is enrolled"


def _first_weights(run: RunFolder, task: Task) -> Tensors:
    start_from = run.order().start_from
    if start_from:
        return from_bytes(Path(start_from).read_bytes())
    return models.parameters(models.build(task))
