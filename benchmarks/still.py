"""What a plant that stands still answers: all but the training is done."""

import numpy as np

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
    return Trained({name: np.zeros_like(array) for name, array in weights.items()}, receipt)
