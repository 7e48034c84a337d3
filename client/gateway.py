"""The one way out of a plant. What is not named here does not leave.

A reply holds the update (arrays named as the model's parameters, paid for by the ledger's entry for
this round, or ``privacy: none`` by the plant's own policy) and a receipt. The receipt says who the plant
is, the keyed digest of its snapshot (Trust 6), and mechanism, unit, epsilon and delta, which follow from
the plan's public numbers alone, not from data. Beside them stand only metrics that the task declares, the
plant's policy names, and the same entry has paid for. No other counts or losses, no times.

Of a release its state leaves as far as the policy says, and, if it says so, a score that an entry of the
ledger has paid for; see `interplant.client.scores`.

Where the coordinator offers compression, two words say how the update is packed and which model the plant
holds: the name of a codec, by settings alone, and the digest of what the coordinator itself has sent.
`interplant.client.compression` packs what was let out here; that adds nothing to it.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from interplant.client.directory import PlantDirectory
from interplant.client.scores import Score
from interplant.client.trained import Trained
from interplant.client.verdicts import DATA_FREE, RECEIVED
from interplant.core.compression import COMPRESSION, HOLDS, NONE
from interplant.core.errors import Refusal
from interplant.core.files import disk_errors
from interplant.core.receipt import Receipt
from interplant.core.schema import CODECS, Task
from interplant.core.tensors import UPDATE, Tensors
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import statistics_of

if TYPE_CHECKING:
    from flwr.app import Message


def let_out(
    plant: PlantDirectory,
    task: Task,
    weights: Tensors,
    trained: Trained,
    request: "Message",
    words: Mapping[str, str] | None = None,
) -> "Message":
    """Check a result, log it to ``audit.jsonl``, and return the reply that may leave.

    Args:
        plant: The plant's directory.
        task: What was trained.
        weights: The global model: names, shapes and types that an update may have.
        trained: The result.
        request: What is answered.
        words: About compression, if it was offered.

    Raises:
        Refusal: The result is not what a reply may hold; nothing leaves.
    """
    from flwr.app import Message, MetricRecord  # a fifth of a second that only updates need

    from interplant.core.flower import arrays, config_record, content_of

    _check_update(trained.update, weights)
    _check_receipt(trained.receipt, task)
    _check_metrics(trained.metrics, task, plant)
    _check_words(words or {})
    content = content_of(
        {UPDATE: arrays(trained.update), "receipt": config_record(trained.receipt.as_dict())}
    )
    entry: dict[str, object] = {
        "what": "update",
        "message": request.metadata.message_id,
        "arrays": {name: list(array.shape) for name, array in trained.update.items()},
        "receipt": trained.receipt.as_dict(),
    }
    if trained.metrics:
        content["metrics"] = MetricRecord(dict(trained.metrics))
        entry["metrics"] = trained.metrics
    if words:
        content[COMPRESSION] = config_record(words)
        entry[COMPRESSION] = dict(words)
    _log(plant, entry)
    return Message(content, reply_to=request)


def let_out_words(plant: PlantDirectory, what: str, words: dict[str, str]) -> dict[str, str]:
    """Log short words that leave beside updates: refusal codes, a release's state."""
    _log(plant, {"what": what} | words)
    return words


def let_out_deployment(
    plant: PlantDirectory, release: str, state: str, code: str, score: Score | None
) -> None:
    """Log what the coordinator is told of a release; a score only if the policy says so and it is paid for.

    Args:
        plant: The plant.
        release: The release.
        state: What is told of it.
        code: Why.
        score: A number about the hold-out, if one is told.

    Raises:
        Refusal: ``gateway``; nothing leaves.
    """
    told = plant.load().policy.release.report
    if told != "verdict" and state != RECEIVED and code not in DATA_FREE:
        raise Refusal("gateway", f"release {release} {state}: policy.release.report is {told}")
    words: dict[str, object] = {"release": release, "state": state, "code": code}
    if score is not None:
        _check_score(plant, score)
        words |= {"score": score.value}
    _log(plant, {"what": "deployment"} | words)


def let_out_measured(plant: PlantDirectory, measured: Mapping[str, object]) -> None:
    """Log what a charged look at the data has found before a person sees it, who may carry it out."""
    _log(plant, {"what": "measured"} | dict(measured))


def _check_update(update: Tensors, weights: Tensors) -> None:
    if update.keys() != weights.keys():
        raise Refusal("gateway", f"undeclared arrays: {sorted(update.keys() ^ weights.keys())[:3]}")
    for name, array in update.items():
        if array.shape != weights[name].shape or array.dtype != weights[name].dtype:
            raise Refusal("gateway", f"{name}: {array.dtype}{array.shape} is not the model's")
        if not np.isfinite(array).all():
            raise Refusal("gateway", f"{name}: values that are not finite")


def _check_receipt(receipt: Receipt, task: Task) -> None:
    if receipt.mechanism != task.privacy.mechanism:
        raise Refusal("gateway", f"trained with {receipt.mechanism}, asked for {task.privacy.mechanism}")
    if task.privacy.private and not (math.isfinite(receipt.epsilon) and receipt.epsilon > 0):
        raise Refusal("gateway", f"an update without a charge: epsilon {receipt.epsilon}")


def _check_metrics(metrics: Mapping[str, float], task: Task, plant: PlantDirectory) -> None:
    if not metrics:
        return
    paid = {one.name for one in statistics_of(task, plant.load().policy.metrics)}
    for name, value in metrics.items():
        if name not in paid:
            raise Refusal("gateway", f"metric {name}: not in both the private task and policy.metrics")
        if not (isinstance(value, float) and math.isfinite(value)):
            raise Refusal("gateway", f"metric {name}: not a finite number")


def _check_score(plant: PlantDirectory, score: Score) -> None:
    if plant.load().policy.release.report != "score":
        raise Refusal("gateway", "a score: policy.release.report is not score")
    if not (isinstance(score.value, float) and math.isfinite(score.value)):
        raise Refusal("gateway", "a score that is not a finite number")
    paid = [entry for entry in Ledger(plant.ledger).entries() if entry.id == score.charge and entry.events]
    if not paid:
        raise Refusal("gateway", f"a score without a charge: the ledger has no entry {score.charge!r}")


def _check_words(words: Mapping[str, str]) -> None:
    if words and (
        words.keys() != {"update", "holds"}
        or words["update"] not in (NONE, *CODECS)
        or not HOLDS.fullmatch(words["holds"])
    ):
        raise Refusal("gateway", f"compression: {dict(words)} is no codec and digest")


def _log(plant: PlantDirectory, entry: Mapping[str, object]) -> None:
    line = json.dumps({"time": time.time(), **entry}, sort_keys=True)
    with disk_errors(plant.audit), plant.audit.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
