"""What the engines of DP-SGD share: batches, clipping, and a sum that meets its noise.

Abadi et al., "Deep learning with differential privacy" (2016). `dpsgd` has Opacus compute the gradients,
`onepass` computes them itself; from the clipped sum on, both do what stands here.

Importing this module imports torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interplant.privacy.noise import Noise

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps predictions (n,), or (n, outputs), and targets (n,) to losses (n,), one a sample."""


@dataclass(frozen=True)
class Batch:
    """A physical batch: whole units, in blocks of as many rows as the plan has windows a unit.

    Args:
        x: Inputs (N, ...).
        y: Targets (N,).
        weights: What each row's loss is times (N,): one over its unit's windows, 0 for rows that only
            fill a block. None where a row is a unit.
    """

    x: Tensor
    y: Tensor
    weights: Tensor | None = None


class Noised:
    """The part of an optimizer that adds up clipped sums and adds a step's noise to them.

    Attributes:
        params: What is trained; each keeps its sum as ``summed_grad``, which torch's types do not know.
        noise: The noise of the plan's steps.
    """

    params: list[Any]
    noise: Noise

    def accumulate(self, sums: list[Tensor]) -> None:
        """Add a physical batch's clipped sums, one a parameter; in double precision."""
        for parameter, total in zip(self.params, sums, strict=True):
            kept = parameter.summed_grad
            shaped = total.view_as(parameter)
            parameter.summed_grad = shaped.double() if kept is None else kept.add_(shaped)

    def add_noise(self) -> None:
        """Add this step's noise to the sums of all parameters at once."""
        flat = torch.cat([parameter.summed_grad.flatten() for parameter in self.params])
        parts = torch.split(self.noise.add_to(flat).float(), [p.numel() for p in self.params])
        for parameter, part in zip(self.params, parts, strict=True):
            parameter.grad = part.view_as(parameter)


def clip_factors(norms: Tensor, clip: float, clipping: str) -> Tensor:
    """What each unit's gradient is times, so that none is longer than ``clip``.

    Args:
        norms: Gradient norms (N,).
        clip: L2 norm.
        clipping: ``norm`` scales a longer gradient down (Abadi et al., 2016); ``normalised`` brings every
            gradient near ``clip`` (Bu, Wang, Zha and Karypis, "Automatic clipping", 2023).
    """
    if clipping == "normalised":
        return clip / (norms + 0.01)
    return (clip / (norms + 1e-6)).clamp(max=1.0)
