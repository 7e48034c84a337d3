"""What a plant does in a round: `take_part`, top to bottom."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from flwr.app import ArrayRecord, ConfigRecord, Message

from interplant.client import compression, gateway, policy, receipts
from interplant.client.compression import Terms
from interplant.client.directory import PlantDirectory
from interplant.client.trainer import Trainer
from interplant.core import config
from interplant.core.errors import InterplantError, Refusal
from interplant.core.flower import records_of, refuse
from interplant.core.release import check_id
from interplant.core.schema import Task
from interplant.core.tensors import WEIGHTS, Tensors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One round's work: start from these weights, for this task; and the plant's last receipt, as JSON.

    Weights may be packed; see `interplant.client.compression`.
    """

    run: str
    round: int
    task: Task
    weights: Tensors
    receipt: str = ""


def take_part(plant: PlantDirectory, trainer: Trainer, message: Message) -> Message:
    """Answer one round's request with an update, or with a refusal that says why.

    Args:
        plant: The plant's directory: policy, data, ledger.
        trainer: Trains under privacy; it charges the ledger before any noise is drawn.
        message: The coordinator's request. Nothing in it can loosen the plant's policy.

    Returns:
        The reply. All that it holds has passed the gateway; an update may be packed after that.
    """
    try:
        policy.check_not_paused(plant)
        policy.check_not_quiet(plant.load(), datetime.now(UTC))
        request = read(message)
        policy.admit(plant.load(), request.task)
        policy.hold_to_terms(plant, request.task)
        receipts.hear(plant, request.receipt)
        terms = Terms.of(message, plant)
        weights = compression.whole(plant, terms, request.weights)
        trained = trainer.train(request.run, request.round, request.task, weights)
        words = terms.reply if terms else {}
        reply = gateway.let_out(plant, request.task, weights, trained, message, words)
        return compression.lighter(plant, terms, reply)
    except Refusal as refusal:
        log.warning("round refused: %s", refusal)
        return refuse(message, refusal)
    except InterplantError as error:
        log.error("round failed: %s", error)
        return refuse(message, Refusal("internal", str(error)))
    except Exception:
        log.exception("round failed")
        return refuse(message, Refusal("internal"))


def read(message: Message) -> Request:
    """Read a request.

    Raises:
        Refusal: It is not one that this version understands.
    """
    try:
        words = dict(records_of(message.content, ConfigRecord)["task"])
        task = config.task_from_json(str(words["task"]))
        sent = records_of(message.content, ArrayRecord)[WEIGHTS]
        weights = {name: array.numpy() for name, array in sent.items()}
        receipt = str(words.get("receipt", ""))
        return Request(check_id(str(words["run"])), int(str(words["round"])), task, weights, receipt)
    except (KeyError, ValueError, TypeError, InterplantError) as error:
        raise Refusal("task_invalid", str(error)) from None
