"""The round loop: a Flower ServerApp that runs the same over every grid.

Read `one_round` first: it is what the coordinator does in a round.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import ServerApp

from interplant.core import config, models
from interplant.core.compression import COMPRESSION
from interplant.core.errors import InterplantError
from interplant.core.flower import Grid, config_record, content_of, let_go, records_of
from interplant.core.schema import Rounds, Task
from interplant.core.tensors import Tensors
from interplant.core.wire import from_bytes
from interplant.privacy.plan import statistics_of
from interplant.server import replies
from interplant.server.compression import Broadcast
from interplant.server.merging import Merging, first_state
from interplant.server.records import no_quorum
from interplant.server.run_folder import Checkpoint, RunFolder
from interplant.server.selection import AWAY, LATE, RESTING, SPARE, Failures, choose
from interplant.server.stopping import learned_enough
from interplant.server.updates import RECEIPT, TASK, WEIGHTS, BadUpdateError, checked
from interplant.strategies.registry import build
from interplant.strategies.strategy import Strategy

log = logging.getLogger(__name__)

app = ServerApp()


class QuorumError(InterplantError):
    """A round had too few good updates. It is not consumed: the same round can be tried again."""


@dataclass(frozen=True)
class Work:
    """What stays the same over a run.

    Args:
        grid: Any of the three engines' grids.
        run: The run's folder.
        name: The run's id.
        task: What is learned.
        rules: When a round goes on, waits or gives up.
        strategy: How updates merge.
        failures: Of each plant, so far.
        tell: Hears of every attempt at a round, after it is on disk.
        stopped: Tells whether a person has stopped the run.
        holders: Digest of the model that each plant says it holds; a plant that fails is taken off.
    """

    grid: Grid
    run: RunFolder
    name: str
    task: Task
    rules: Rounds
    strategy: Strategy[Any]
    failures: Failures
    tell: Callable[[dict[str, Any]], None]
    stopped: Callable[[], bool]
    holders: dict[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of one attempt at a round: the next weights and state, and who took part.

    ``sent`` is what the plants trained from.
    """

    weights: Tensors
    state: Tensors
    sent: Broadcast
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
        The state after the last round, or after the one with which the run has learned enough.

    Raises:
        UsageError: The strategy is unknown here or its arguments do not fit.
        QuorumError: A round found too few plants, also after every retry. The run can be resumed.
        StrategyError: The strategy failed. The run can be resumed.
        StoppedError: A person has stopped the run.
    """
    task = run.task()
    strategy, failures = build(task.strategy), Failures.of(run.records(), run.forgiven())
    work = Work(grid, run, run.order().run, task, run.rounds(), strategy, failures, tell, stopped)
    state = run.restore() or _first(work)
    work.holders.update(state.holders)
    replies.finish(grid, [], state.round)  # a killed round loop may not have come to it
    while state.round < task.rounds and not learned_enough(task, run):
        state = _next_state(work, state)
    return state


def _next_state(work: Work, state: Checkpoint) -> Checkpoint:
    """Try a round until its quorum is met; return the state that is then on disk."""
    number, rules, run = state.round + 1, work.rules, work.run
    for attempt in range(1, rules.retries + 2):
        begun = time.monotonic()
        told = run.receipts()
        outcome, ids = one_round(work, number, state, told)
        good = len(outcome.receipts) >= rules.quorum
        run.keep_receipts(outcome.receipts, told)  # what was charged was charged, whatever comes of the round
        if good:
            state = _after(work, number, state, outcome)
            run.save(state)
        replies.finish(work.grid, ids, number if good else None)
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
        work.failures.note(
            number, outcome.receipts, {name: code for name, (code, _) in outcome.dropped.items()}
        )
        work.tell(record)
        if good:
            return state
        log.warning("round %d: %d of %d plants", number, len(outcome.receipts), rules.quorum)
        replies.pause(rules.retry_seconds if attempt <= rules.retries else 0.0, work.stopped)
    raise QuorumError(
        f"{no_quorum(number, len(outcome.receipts), rules.quorum)}: {_reasons(outcome)}; mend it"
    )


def one_round(
    work: Work, number: int, state: Checkpoint, receipts: Mapping[str, str]
) -> tuple[Outcome, list[str]]:
    """Send the global weights out, fold each good update as it comes, return the next weights.

    One update is in memory at a time beside the running merge.

    Args:
        work: The run's.
        number: The round.
        state: After the round before.
        receipts: Each plant's last one.

    Returns:
        What came of it, and the ids of its messages.
    """
    merging = Merging(work.strategy, state.weights, state.state, work.run.path)
    outcome = Outcome(state.weights, state.state, Broadcast.of(work.rules.compression, state))
    names = replies.names(work.grid)
    known = names or {node: f"node-{node}" for node in work.grid.get_node_ids()}
    asked = set(choose(list(known.values()), number, work.rules, work.failures, work.name))
    for name in set(known.values()) - asked:
        if work.failures.resting(name, number):
            outcome.dropped[name] = RESTING, work.failures.why(name)
    addressed = {node: name for node, name in known.items() if name in asked}
    nodes = dict(_push(work, number, outcome.sent, receipts, addressed))
    ids = list(nodes)
    waiting = replies.Waiting(
        work.grid, nodes, names, work.rules, lambda: len(outcome.receipts), work.stopped
    )
    for reply in waiting.replies():
        node = reply.metadata.src_node_id
        name = known[node]
        try:
            if not names:
                _check_signer(reply, receipts)
            work.holders[name] = _take(work, reply, name if names else "", number, merging, outcome)
        except BadUpdateError as error:
            work.holders.pop(name, None)
            outcome.dropped[name] = (error.code, str(error))
            log.warning("round %d: %s dropped: %s", number, name, error)
        let_go(reply)
        del reply
    away = replies.away(work.grid, nodes.values())
    for node in nodes.values():
        late = (AWAY, "not connected") if node in away else (LATE, "no reply before the deadline")
        if waiting.full():
            late = SPARE, "not waited for: enough others were faster"
        outcome.dropped[known[node]] = late
    if len(outcome.receipts) >= work.rules.quorum:
        outcome.weights, outcome.state = merging.finish()
    return outcome, ids


def _take(work: Work, reply: Message, name: str, number: int, merging: Merging, outcome: Outcome) -> str:
    """Check a reply and fold its update.

    Args:
        work: The run's.
        reply: Of a plant.
        name: The plant's, empty where the grid knows none.
        number: The round.
        merging: Gets the update.
        outcome: Gets the receipt and the metrics.

    Returns:
        Digest of the model that the plant says it holds.
    """
    task, rules = work.task, work.rules
    declared = {one.name for one in statistics_of(task, task.metrics)}
    update = checked(reply, merging.weights, rules.max_update_norm, declared, rules.compression)
    plant = update.receipt["plant"]
    if name and plant != name:
        raise BadUpdateError("bad_receipt", "the receipt names another plant")
    if update.receipt["mechanism"] != task.privacy.mechanism:
        # One plant's word would mark the whole release as not private, or as private.
        raise BadUpdateError("bad_receipt", f"expected a round with {task.privacy.mechanism}")
    if (update.receipt["run"], update.receipt["round"]) != (work.name, number):
        raise BadUpdateError("bad_receipt", f"expected a receipt of round {number} of {work.name}")
    if plant in outcome.receipts:
        raise BadUpdateError("bad_receipt", "an update of this plant is in the merge already")
    merging.fold(update.arrays)
    outcome.receipts[plant] = update.receipt
    outcome.metrics.append(update.metrics)
    return update.holds


def _check_signer(reply: Message, receipts: Mapping[str, str]) -> None:
    """Where the grid does not know who speaks, a plant is who signed the first receipt of that name."""
    said = records_of(reply.content, ConfigRecord).get(RECEIPT) if reply.has_content() else None
    if said is None:
        return  # not even a receipt: `checked` says so
    before = receipts.get(str(said.get("plant", "")))
    if before and json.loads(before)["signer"] != said.get("signer"):
        raise BadUpdateError(
            "bad_receipt",
            "another key than before has signed it; if the plant has a new key, remove its line in "
            ".receipts.jsonl",
        )


def _push(
    work: Work, number: int, sent: Broadcast, receipts: Mapping[str, str], asked: Mapping[int, str]
) -> Iterator[tuple[str, int]]:
    """Send the round's work to these plants, with their own last receipts.

    Arrays are the same object for all, or for those that get a difference and for the others.
    """
    grid, text, nodes = work.grid, config.to_json(work.task), sorted(asked)

    def content(node: int) -> RecordDict:
        words: dict[str, Any] = {
            "run": work.name,
            "task": text,
            "round": number,
            "rounds": work.task.rounds,
            "receipt": receipts.get(asked[node], ""),
        }
        arrays, about = sent.to(work.holders.get(asked[node], ""))
        content = content_of({WEIGHTS: arrays, TASK: config_record(words)})
        if about:
            content[COMPRESSION] = config_record(about)
        return content

    messages = [grid.create_message(content(node), "train", node, str(number)) for node in nodes]
    return zip(grid.push_messages(messages), nodes, strict=True)


def _receipts(
    plants: dict[str, dict[str, Any]], receipts: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Latest receipt of each plant, with the rounds it took part in, in all and by snapshot."""
    merged = dict(plants)
    for name, receipt in receipts.items():
        before, digest = plants.get(name, {"rounds": 0, "snapshots": {}}), receipt["snapshot"]
        snapshots = before["snapshots"] | {digest: before["snapshots"].get(digest, 0) + 1}
        merged[name] = receipt | {"rounds": before["rounds"] + 1, "snapshots": snapshots}
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


def _after(work: Work, number: int, state: Checkpoint, outcome: Outcome) -> Checkpoint:
    """The checkpoint after a round. After the last one nothing but the model is needed."""
    plants = _receipts(state.plants, outcome.receipts)
    if number == work.task.rounds:
        return Checkpoint(number, outcome.weights, plants)
    if not outcome.sent.digest:
        return Checkpoint(number, outcome.weights, plants, outcome.state)
    holders = {name: digest for name, digest in work.holders.items() if digest == outcome.sent.digest}
    return Checkpoint(number, outcome.weights, plants, outcome.state, outcome.sent.weights, holders)


def first_weights(run: RunFolder, task: Task) -> Tensors:
    """Return what a run starts from: what its order names, or fresh weights from the task's seed."""
    start_from = run.order().start_from
    if start_from:
        return from_bytes((run.path / start_from).read_bytes())
    return models.parameters(models.build(task))


def _first(work: Work) -> Checkpoint:
    weights = first_weights(work.run, work.task)
    return Checkpoint(0, weights, state=first_state(work.strategy, weights))
