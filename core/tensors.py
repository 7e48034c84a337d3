"""Named arrays as they travel. Nothing here loads Flower: a trainer's process does without it."""

from typing import Any

import numpy as np

WEIGHTS, UPDATE = "weights", "update"
"""The records of arrays that a round sends and receives."""

Tensors = dict[str, np.ndarray[Any, Any]]


def in_record(record: str, tensors: Tensors) -> Tensors:
    """Name arrays as `interplant.core.wire.tensors_of` names those of a record."""
    return {f"{record}/{name}": array for name, array in tensors.items()}


def of_record(record: str, tensors: Tensors) -> Tensors:
    """The arrays of a record by their own names; see `in_record`."""
    head = f"{record}/"
    return {name.removeprefix(head): array for name, array in tensors.items() if name.startswith(head)}
