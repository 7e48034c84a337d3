"""From what a person says of a prediction to a label in the next snapshot.

`note` writes the label into the log of predictions, and beside it, in the same transaction, the correction
that the plant's store is to take; `carry` brings corrections into the store before a snapshot is made. A kill
between the two loses none and doubles none. All of it stays in the plant.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Correction, Label, Prediction, Predictions
from interplant.client.protocol import ProtocolError
from interplant.client.requests import label_of
from interplant.core import config
from interplant.core.contract import Contract
from interplant.core.errors import InterplantError
from interplant.core.release import TASK, parse_task
from interplant.core.schema import Task
from interplant.core.targets import EVENT
from interplant.data.late import Late
from interplant.data.texts import code

if TYPE_CHECKING:
    from interplant.data.store import Store

_WHOLE: Final = re.compile(r"(-?\d+)\.0+")
_LATEST: Final = 2.0**62 / 1e6
"""Seconds from 1970 within which a store's moments lie."""


def note(
    plant: PlantDirectory, log: Predictions, prediction: str, told: Any, serving: str, serves: Task
) -> dict[str, Any]:
    """Write down what a person says of a prediction.

    Args:
        plant: The plant's directory.
        log: Its log.
        prediction: The id.
        told: What is said to be true of it.
        serving: The release that serves now.
        serves: Its task.

    Returns:
        What is answered: the label, whether the store takes it (``store``), and if not, ``why``.

    Raises:
        ProtocolError: 400: it can be no label of the task that was asked; 404: there is no such prediction.
        InterplantError: The log cannot be used.
    """
    known = log.find(prediction)
    if known is None:
        label_of(told, serves)
        raise _unknown(prediction)
    task = serves if known.release == serving else _task_of(plant, known.release)
    value = label_of(told, task or serves)
    try:
        made = _correction(plant, known, task, value)
    except InterplantError as error:  # plant.yaml is wrong just now: the log has the label all the same
        made = str(error)
    if not log.label(prediction, value, made if isinstance(made, Correction) else None):
        raise _unknown(prediction)
    answer = {"prediction_id": prediction, "label": value, "store": isinstance(made, Correction)}
    return answer if isinstance(made, Correction) else answer | {"why": made}


def carry(plant: PlantDirectory, store: "Store") -> int:
    """Bring corrections from the log of predictions into the plant's store; on disk when this returns.

    One of another label than the store's contract names, or of another clock, stays in the log.

    Returns:
        How many were brought.
    """
    if not plant.predictions.exists():
        return 0
    taken: list[Correction] = []

    def take() -> list[Late]:
        contract = store.contract
        taken.extend(
            one for one in log.corrections() if (one.label, one.clock) == (contract.label, contract.clock)
        )
        return [_late(one) for one in taken]

    with Predictions.open(plant) as log:
        if log.corrections():
            store.correct(take)
            log.carried(taken)
    return len(taken)


def _correction(
    plant: PlantDirectory, known: Prediction, task: Task | None, value: Label
) -> Correction | str:
    """The label as the plant's store takes it, or why it does not."""
    machine, settings = _WHOLE.sub(r"\1", (known.machine or "").strip()), plant.load().data
    if not settings.contract and not (plant.path / settings.store).is_dir():
        return "the plant keeps no store of readings"
    if not machine or known.at is None:
        return f"the prediction was asked without a {'time' if machine else 'machine'}"
    if task is None:
        return f"release {known.release}, which answered, is not here any more"
    stored = _contract(plant.path / settings.contract) if settings.contract else None
    if wrong := _mismatch(task.contract, stored, known.at):
        return wrong
    own, horizon = task.contract, task.target.horizon if task.target.kind == EVENT else 0.0
    number = float(value) if horizon else _stored(value, own, stored or own)
    if isinstance(number, str):
        return number
    return Correction(known.id, known.release, machine, known.at, own.clock, own.label, number, horizon)


def _stored(value: Label, own: Contract, stored: Contract) -> float | str:
    """A label of a task's contract as a store keeps it under the plant's contract, or why it does not."""
    if not isinstance(value, str) and not own.texts:
        return (
            "contract.texts: the plant's labels are text, the task's numbers"
            if stored.texts
            else float(value)
        )
    text = value if isinstance(value, str) else own.texts[int(value)]
    return (
        code(text) if text in stored.texts else f"contract.texts: the plant's contract does not have {text!r}"
    )


def _mismatch(own: Contract, stored: Contract | None, at: float) -> str:
    """Why a store cannot take the label of a task's contract, or nothing."""
    for key in ("label", "clock") if stored else ():
        mine, other = getattr(own, key), getattr(stored, key)
        if mine != other:
            return f"contract.{key}: the plant's contract has {other!r}, the task {mine!r}"
    if own.clock == "timestamp" and abs(at) > _LATEST:
        return f"no reading has the time {at:g}"
    return ""


def _late(one: Correction) -> Late:
    time = round(one.at * 1e6) if one.clock == "timestamp" else one.at
    origin = f"prediction {one.prediction} of release {one.release}"
    return Late(one.machine, time, one.label, one.value, origin, "", one.horizon, one.told, one.prediction)


def _task_of(plant: PlantDirectory, release: str) -> Task | None:
    try:
        return parse_task((plant.releases / release / TASK).read_bytes())
    except (OSError, InterplantError):
        return None


def _contract(path: Path) -> Contract | None:
    try:
        state = path.stat()
        return _loaded(path, state.st_mtime_ns, state.st_size)
    except (OSError, InterplantError):
        return None  # whoever makes the next snapshot hears of it


@lru_cache(maxsize=4)
def _loaded(path: Path, changed: int, size: int) -> Contract:
    return config.load(path, Contract)


def _unknown(prediction: str) -> ProtocolError:
    return ProtocolError(
        404, f"prediction {prediction[:64]!r}: not in this plant's log, or no longer; nothing was noted"
    )
