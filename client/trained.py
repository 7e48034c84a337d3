"""What a round's training hands to the gateway."""

from dataclasses import dataclass, field

from interplant.core.receipt import Receipt
from interplant.core.tensors import Tensors


@dataclass(frozen=True)
class Trained:
    """A round's result inside the plant: the update, its receipt, and noised metrics by name."""

    update: Tensors
    receipt: Receipt
    metrics: dict[str, float] = field(default_factory=dict)
