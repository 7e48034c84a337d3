"""SGD and Adam, a few lines each.

Those of `torch.optim` compute the same, but load torch's compiler when they are made: a second and
50 MB in every trainer, for something that is never used here.

Importing this module imports torch.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Sgd:
    """Plain gradient descent, with the attributes that Opacus asks of an optimizer.

    Args:
        parameters: What is trained.
        learning_rate: Step size.
        proximal: FedProx's mu: to a gradient, noised or not, comes mu times the way from where the
            parameters stand now. It depends on weights alone, so it is neither clipped nor charged.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, proximal: float = 0.0
    ) -> None:
        self.defaults: dict[str, Any] = {"lr": learning_rate}
        self.param_groups: list[dict[str, Any]] = [dict(self.defaults)]
        self.state: dict[nn.Parameter, dict[str, Any]] = {}
        self.proximal = proximal
        self.hold(parameters)

    def hold(self, parameters: Iterable[nn.Parameter]) -> None:
        """Train these from now on, before the first step; where they stand is what `proximal` pulls to."""
        self.param_groups[0]["params"] = list(parameters)
        self._sent = {own: own.detach().clone() for own in self.parameters} if self.proximal else {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        found: list[nn.Parameter] = self.param_groups[0]["params"]
        return found

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                gradient = parameter.grad
                if self.proximal:
                    gradient = gradient + self.proximal * (parameter - self._sent[parameter])
                parameter.sub_(self.defaults["lr"] * self.direction(parameter, gradient))

    def direction(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Return the direction of one step of length 1."""
        return gradient


class Adam(Sgd):
    """Kingma and Ba, "Adam: a method for stochastic optimization" (2015)."""

    def direction(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Return the mean gradient over its root mean square, both corrected for their start at 0."""
        state = self.state.setdefault(
            parameter,
            {"steps": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)},
        )
        state["steps"] += 1
        slow, slower = BETAS
        state["mean"].lerp_(gradient, 1 - slow)
        state["square"].mul_(slower).addcmul_(gradient, gradient, value=1 - slower)
        corrected: Tensor = state["square"] / (1 - slower ** state["steps"])
        mean: Tensor = state["mean"] / (1 - slow ** state["steps"])
        return mean / (corrected.sqrt() + EPSILON)
