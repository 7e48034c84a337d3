"""Models: the registered ones, and a user's own by dotted path."""

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from interplant.core.errors import InterplantError, UsageError
from interplant.core.schema import Task

if TYPE_CHECKING:
    from torch import nn

REGISTERED = {"cnn1d": "interplant.core.networks.Cnn1d"}
"""Short names of the models that ship with Interplant."""


def build(task: Task) -> "nn.Module":
    """Make the task's model with fresh weights.

    The class is called with ``channels`` and ``window`` (ints) and the task's ``model.args``; it maps
    a float32 tensor (batch, channels, window) to (batch, 1) or (batch,).

    Args:
        task: The task; the same ``task.seed`` gives the same weights.

    Raises:
        UsageError: The dotted path does not name an installed ``nn.Module``, or its arguments do not
            fit.
        InterplantError: The model keeps statistics in buffers (BatchNorm); only parameters cross.
    """
    import torch

    network = find(task.model.name)
    arguments: dict[str, Any] = {"channels": task.channels, "window": task.window.length}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        try:
            model = network(**arguments, **task.model.args)
        except TypeError as error:
            raise UsageError(
                f"model.args: {task.model.name} takes {inspect.signature(network)}: {error}"
            ) from None
    kept = [name for name, module in model.named_modules() if getattr(module, "track_running_stats", False)]
    if kept:
        raise InterplantError(
            f"model {task.model.name}: {kept[0]!r} keeps running statistics, which never leave a "
            "plant; use GroupNorm or LayerNorm instead"
        )
    return model


def parameters(model: "nn.Module") -> dict[str, Any]:
    """Return copies of a model's trainable weights as numpy arrays by name; buffers stay."""
    return {
        name: value.detach().cpu().numpy().copy()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def set_parameters(model: "nn.Module", weights: dict[str, Any]) -> None:
    """Overwrite a model's trainable weights.

    Raises:
        InterplantError: Names or shapes differ from the model's own; nothing is changed then.
    """
    import torch

    own = {name: value for name, value in model.named_parameters() if value.requires_grad}
    odd = sorted(own.keys() ^ weights.keys())
    odd += [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if odd:
        raise InterplantError(f"the weights do not fit the model: {', '.join(odd[:3])}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(torch.tensor(weights[name], dtype=value.dtype))


def find(name: str) -> "type[nn.Module]":
    """Return the class behind a registered name or a dotted path; it must be installed here."""
    from torch import nn

    path = REGISTERED.get(name, name)
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise UsageError(
            f"model.name: {name!r} is neither a registered model ({', '.join(sorted(REGISTERED))}) "
            "nor a dotted path such as my_package.models.MyModel"
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        raise UsageError(f"model.name: {path!r} cannot be imported; install it in this environment") from None
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise UsageError(f"model.name: {path!r} is not a torch.nn.Module class")
    return found
