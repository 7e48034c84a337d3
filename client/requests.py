"""What a request asks a model: readings as they are measured, or windows as the model takes them.

Readings are held to the task's contract and become windows by the same code as in training. A reading that
breaks the contract would not have been learned from either, so nothing is predicted from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from interplant.client.predictions import is_finite
from interplant.client.protocol import BYTES, Data, ProtocolError, Request, Tensor, short
from interplant.core.contract import Contract
from interplant.core.inference import INPUT
from interplant.core.schema import Task
from interplant.core.targets import CLASS, EVENT, TIME, VALUE, Target, told
from interplant.data.contract import TOLERANCE, Floats, columns, outside
from interplant.data.features import features
from interplant.data.windows import BOUND, normalise

READINGS: Final = "readings"
MACHINE: Final = "machine"
AT: Final = "time"
ID: Final = "prediction_id"

_NAMED: Final = 6
"""Inputs that a refusal names, at most."""

_FIXED: Final = 1000
"""Lists, objects or quotation marks of a request beside those of its windows."""

NAME_LENGTH: Final = 100
"""Characters of a machine's name, at most: it is kept with each prediction."""


@dataclass(frozen=True)
class Asked:
    """Windows to predict.

    Args:
        x: As the model takes them, float32 (N, channels, length).
        machines: Names (N,), or None.
        times: Of each window's last reading, in the contract's time; of timestamps, seconds since 1970 (N,),
            or None.
    """

    x: NDArray[np.float32]
    machines: Sequence[str] | None = None
    times: Sequence[float] | None = None

    def __len__(self) -> int:
        return len(self.x)


def parts(task: Task, windows: int) -> int:
    """Return how many lists, objects or quotation marks a request may have: twice what it can need.

    Args:
        task: What is asked.
        windows: Most windows in a request.
    """
    return _FIXED + 2 * windows * (2 + max(task.window.length, task.shape[0]))


def asked(request: Request, task: Task) -> Asked:
    """Return what a request asks of a task's model.

    Raises:
        ProtocolError: 400: a tensor is missing or unknown, has another shape, type or unit, or its values
            break the contract.
    """
    inputs = request.inputs
    unknown = sorted(set(inputs) - {READINGS, INPUT, MACHINE, AT})
    if unknown or (READINGS in inputs) == (INPUT in inputs):
        found = ", ".join(map(repr, sorted(inputs)[:_NAMED]))
        if len(inputs) > _NAMED:
            found += f" and {len(inputs) - _NAMED} more"
        raise ProtocolError(
            400,
            f"inputs: expected {READINGS!r} or {INPUT!r}, and {MACHINE!r} and {AT!r} if known; found {found}",
        )
    x = _from_readings(inputs[READINGS], task) if READINGS in inputs else _windows(inputs[INPUT], task)
    machine, at = inputs.get(MACHINE), inputs.get(AT)
    return Asked(
        x,
        _machines(machine, len(x)) if machine else None,
        _times(at, len(x), task.contract) if at else None,
    )


def outputs(target: Target, predicted: NDArray[np.float32], ids: list[str]) -> dict[str, Data]:
    """Return what is answered, by name.

    Args:
        target: Its kind and classes.
        predicted: A model's outputs (N,) or (N, classes).
        ids: Of the predictions (N,).
    """
    numbers = told(target, predicted)
    found: dict[str, Data] = {"prediction": numbers}
    if target.kind == CLASS:
        found["class"] = [str(target.classes[place]) for place in numbers.argmax(axis=1)]
    return {**found, ID: ids}


def label_of(value: Any, task: Task) -> float | str:
    """Return a label that somebody has told, as the kind of the task's target has it.

    Of an event whose label is text, either text is as good as 0 or 1.

    Raises:
        ProtocolError: 400: it can be no label of this kind.
    """
    target = task.target
    if target.kind in (CLASS, EVENT):
        classes = target.classes if target.kind == CLASS else [0, 1]
        if target.kind == EVENT and isinstance(value, str) and value in task.contract.texts:
            return float(task.contract.texts.index(value))
        for one in classes:
            if one == value and type(value) is not bool:
                return one
        raise ProtocolError(
            400, f"label: expected one of {', '.join(map(repr, classes))}, found {short(value)}"
        )
    if type(value) not in (int, float) or not is_finite(value):
        raise ProtocolError(400, f"label: expected a number, found {short(value)}")
    width = TOLERANCE * (target.high - target.low)
    low, high = (0.0, math.inf) if target.kind == TIME else (target.low - width, target.high + width)
    if not low <= value <= high:
        said = f"{target.low:g} to {target.high:g}" if target.kind == VALUE else "0 or more"
        raise ProtocolError(400, f"label: expected {said}, found {value:g}")
    return value  # type: ignore[no-any-return]


def described(task: Task) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a model's inputs and outputs as the protocol's metadata names them; -1 is any number."""
    contract, (channels, length) = task.contract, task.shape
    names = columns(contract)
    listed = [{**contract.settings, **contract.sensors}[name] for name in names]
    of_columns = {
        "columns": names,
        "units": [one.unit for one in listed],
        "low": [one.low for one in listed],
        "high": [one.high for one in listed],
    }
    times = BYTES if contract.clock == "timestamp" else "FP64"
    inputs: list[dict[str, Any]] = [
        _entry(READINGS, "FP64", [-1, task.window.length, len(names)], of_columns),
        _entry(INPUT, "FP32", [-1, channels, length], {"instead_of": READINGS}),
        _entry(MACHINE, BYTES, [-1], {"optional": True}),
        _entry(AT, times, [-1], {"optional": True}),
    ]
    several = task.target.kind == CLASS
    outs = [_entry("prediction", "FP32", [-1, task.target.outputs] if several else [-1])]
    if several:
        outs += [_entry("class", BYTES, [-1], {"classes": list(map(str, task.target.classes))})]
    return inputs, [*outs, _entry(ID, BYTES, [-1])]


def _entry(
    name: str, datatype: str, shape: list[int], parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    entry = {"name": name, "datatype": datatype, "shape": shape}
    return {**entry, "parameters": parameters} if parameters else entry


def _from_readings(tensor: Tensor, task: Task) -> NDArray[np.float32]:
    contract, names, length = task.contract, columns(task.contract), task.window.length
    values = _numbers(tensor, (length, len(names)), f"[windows, readings: {length}, columns: {len(names)}]")
    _check_names(tensor, contract, names)
    flat: Floats = values.reshape(-1, len(names)).astype(np.float64)
    if not np.isfinite(flat).all():
        place = np.argwhere(~np.isfinite(flat))[0]
        raise ProtocolError(400, f"{_where(place, names, length)}: expected a finite number")
    strays = outside(flat, contract)
    if strays.any():
        place = np.argwhere(strays)[0]
        column = {**contract.settings, **contract.sensors}[names[place[1]]]
        raise ProtocolError(
            400,
            f"{_where(place, names, length)}: {flat[tuple(place)]:g} is far outside its declared range, "
            f"{column.low:g} to {column.high:g} {column.unit} over all conditions; is it in another unit?",
        )
    # A model takes (windows, channels, readings).
    x = normalise(flat, contract).reshape(-1, length, len(names)).transpose(0, 2, 1)
    if task.window.features:
        return features(x, task.window, BOUND)
    return np.ascontiguousarray(x)


def _windows(tensor: Tensor, task: Task) -> NDArray[np.float32]:
    channels, length = task.shape
    values = _numbers(tensor, task.shape, f"[windows, channels: {channels}, readings: {length}]")
    x: NDArray[np.float32] = np.ascontiguousarray(values, dtype=np.float32)
    if not (np.abs(x) <= BOUND).all():  # NaN is no number up to the bound
        place = np.argwhere(~(np.abs(x) <= BOUND))[0]
        raise ProtocolError(
            400,
            f"{INPUT}{place.tolist()}: expected normalised readings, {-BOUND:g} to {BOUND:g}, "
            f"found {x[tuple(place)]:g}; readings as they are measured go by the name {READINGS!r}",
        )
    return x


def _numbers(tensor: Tensor, shape: tuple[int, int], said: str) -> NDArray[Any]:
    if tensor.datatype == BYTES or isinstance(tensor.data, list):
        raise ProtocolError(400, f"input {tensor.name!r}: expected numbers (FP32 or FP64), found {BYTES}")
    if len(tensor.shape) != 3 or tensor.shape[1:] != shape or tensor.shape[0] < 1:
        raise ProtocolError(
            400,
            f"input {tensor.name!r}: expected shape {said}, at least one window, found {list(tensor.shape)}",
        )
    return tensor.data


def _check_names(tensor: Tensor, contract: Contract, names: list[str]) -> None:
    """The caller may say in which columns and units readings are; then they must be the contract's."""
    inputs = {**contract.settings, **contract.sensors}
    for key, expected in (("columns", names), ("units", [inputs[name].unit for name in names])):
        if key not in tensor.parameters:
            continue
        found = tensor.parameters[key]
        listed = found.split(",", len(expected)) if isinstance(found, str) else found
        if not isinstance(listed, list) or len(listed) != len(expected):
            raise ProtocolError(400, f"{READINGS}: {key}: expected {', '.join(expected)}")
        for name, want, have in zip(names, expected, listed, strict=True):
            if want != have:
                raise ProtocolError(
                    400, f"{READINGS}: {key}: expected {want!r} for column {name!r}, found {short(have)}"
                )


def _where(place: NDArray[np.intp], names: list[str], length: int) -> str:
    window, reading = divmod(int(place[0]), length)
    return f"{READINGS}: window {window}, reading {reading}, column {names[place[1]]!r}"


def _machines(tensor: Tensor, windows: int) -> list[str]:
    _one_each(tensor, windows)
    if isinstance(tensor.data, list):
        longest = max(map(len, tensor.data))
        if longest > NAME_LENGTH:
            raise ProtocolError(400, f"{MACHINE}: expected at most {NAME_LENGTH} characters, found {longest}")
        return tensor.data
    if tensor.data.dtype.kind not in "iu":
        raise ProtocolError(400, f"{MACHINE}: expected texts or whole numbers, found {tensor.datatype}")
    return [str(one) for one in tensor.data.tolist()]


def _times(tensor: Tensor, windows: int, contract: Contract) -> list[float]:
    _one_each(tensor, windows)
    if not isinstance(tensor.data, list):
        numbers = tensor.data.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise ProtocolError(400, f"{AT}: expected finite numbers")
        return numbers.tolist()  # type: ignore[no-any-return]
    if contract.clock != "timestamp":
        raise ProtocolError(400, f"{AT}: expected numbers, as the contract's clock counts, found texts")
    return [_moment(text, contract) for text in tensor.data]


def _moment(text: str, contract: Contract) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ProtocolError(
            400, f"{AT}: expected moments such as 2026-11-26T08:00:00+00:00, found {text[:60]!r}"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=ZoneInfo(contract.zone))).timestamp()


def _one_each(tensor: Tensor, windows: int) -> None:
    if math.prod(tensor.shape) != windows or tensor.shape[0] != windows:
        raise ProtocolError(
            400,
            f"{tensor.name}: expected one for each of {windows} windows, found shape {list(tensor.shape)}",
        )
