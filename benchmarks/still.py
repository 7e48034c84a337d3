"""What a plant that stands still answers: all but the training is done."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interplant.client.account import Account
from interplant.client.trained import Trained
from interplant.core.schema import Task
from interplant.core.tensors import Tensors
from interplant.lab.virtual import VirtualDirectory
from interplant.privacy.ledger import Ledger


def still(
    plant: VirtualDirectory, ledger: Ledger, run: str, number: int, task: Task, weights: Tensors
) -> Trained:
    """Return an update of zeros with a signed receipt."""
    settings = plant.load()
    account = Account.of(plant, settings, task, ledger)
    snapshot = plant.repository().open()
    receipt = account.seal(plant, settings, snapshot, task.privacy.mechanism, run, number)
    return Trained({name: _zeros(array.shape, array.dtype) for name, array in weights.items()}, receipt)


@cache
def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.zeros(shape, dtype)
