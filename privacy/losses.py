"""Losses of the kinds of target, and how a model's outputs are looked at one window at a time.

Importing this module does not import torch.
"""

from functools import partial
from typing import TYPE_CHECKING

from interplant.core.errors import InterplantError

if TYPE_CHECKING:
    from torch import Tensor

    from interplant.privacy.steps import Loss


def loss_of(name: str) -> "Loss":
    """Return the loss of a task's ``training.loss``.

    Args:
        name: ``mse``, ``huber``, ``bce`` (log-odds against 0 or 1) or ``cross_entropy`` (log-odds of the
            classes against a class's place).

    Returns:
        A function from predictions (n,), or (n, classes), and targets (n,) to losses (n,), none below 0.

    Raises:
        InterplantError: There is no such loss.
    """
    from torch.nn import functional

    def classes(prediction: "Tensor", target: "Tensor") -> "Tensor":
        return functional.cross_entropy(prediction, target.long(), reduction="none")

    known: dict[str, Loss] = {
        "mse": partial(functional.mse_loss, reduction="none"),
        "huber": partial(functional.huber_loss, reduction="none"),
        "bce": partial(functional.binary_cross_entropy_with_logits, reduction="none"),
        "cross_entropy": classes,
    }
    if name not in known:
        raise InterplantError(f"training.loss: expected one of {', '.join(known)}, found {name!r}")
    return known[name]


def trial_of(name: str) -> "Loss":
    """Return a loss to try a model with on made-up inputs, before data is touched.

    Args:
        name: Of the task's loss. In those with logarithms it is that loss, since they too must come out
            as the same bits whoever shares a batch; its labels are made of the numbers that are given.
    """
    if name not in ("bce", "cross_entropy"):
        return square
    loss = loss_of(name)

    def tried(prediction: "Tensor", number: "Tensor") -> "Tensor":
        classes = prediction.shape[1] if prediction.dim() > 1 else 2
        return loss(prediction, (7.0 * number).round() % classes)

    return tried


def square(prediction: "Tensor", target: "Tensor") -> "Tensor":
    """Return the square of what a model gives for each window, less a target (n,)."""
    return (combined(prediction) - target).square()


def per_window(output: "Tensor", windows: int) -> "Tensor":
    """Return a model's output as (windows,), or (windows, outputs) where there are several each."""
    return output.reshape(windows) if output.numel() == windows else output.reshape(windows, -1)


def combined(prediction: "Tensor") -> "Tensor":
    """Return one number a window that every output moves, (n, outputs) to (n,), no two of them alike."""
    import torch

    if prediction.dim() == 1:
        return prediction
    weights = torch.arange(1, prediction.shape[1] + 1, dtype=prediction.dtype)
    return (prediction * weights).sum(dim=1)
