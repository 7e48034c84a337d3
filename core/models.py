"""Models: the registered ones, and a user's own by dotted path."""

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from interplant.core.errors import InterplantError, UsageError
from interplant.core.schema import Task

if TYPE_CHECKING:
    from torch import nn

Floats = NDArray[Any]

REGISTERED = {"cnn1d": "interplant.core.networks.Cnn1d", "mlp": "interplant.core.networks.Mlp"}
"""Short names of the models that ship with Interplant."""


def build(task: Task) -> "nn.Module":
    """Make the task's model with fresh weights.

    The class is called with ``channels`` and ``window`` (ints), where classes are told apart with
    ``outputs``, their number, and with the task's ``model.args``; it maps a float32 tensor (batch,
    channels, window) to (batch, outputs), or (batch,) for one.

    Args:
        task: The task; the same ``task.seed`` gives the same weights.

    Raises:
        UsageError: The dotted path does not name an installed ``nn.Module``, or its arguments do not
            fit.
        InterplantError: The model keeps statistics in buffers (BatchNorm); only parameters cross.
    """
    import torch

    network = find(task.model.name)
    channels, window = task.shape
    arguments: dict[str, Any] = {"channels": channels, "window": window}
    if task.target.outputs > 1:
        arguments["outputs"] = task.target.outputs
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


def parameters(model: "nn.Module", frozen: bool = False) -> dict[str, Floats]:
    """Return copies of a model's weights by name; buffers stay.

    Args:
        model: The network.
        frozen: Also those that are not trained: a release holds them, a round does not.
    """
    return {name: value.detach().cpu().numpy().copy() for name, value in _own(model, frozen).items()}


def set_parameters(model: "nn.Module", weights: Mapping[str, NDArray[Any]], frozen: bool = False) -> None:
    """Put weights into a model, strictly by name; see `parameters`.

    Raises:
        InterplantError: A name is missing or unknown, or a shape or dtype differs; the model is then
            as it was.
    """
    import torch

    own = _own(model, frozen)
    odd = sorted(own.keys() ^ weights.keys())
    if odd:
        side = "missing" if odd[0] in own else "unknown to the model"
        raise InterplantError(f"the weights do not fit the model: {odd[0]!r} is {side}")
    for name, value in own.items():
        expected = (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        found = (weights[name].shape, str(weights[name].dtype))
        if found != expected:
            raise InterplantError(
                f"the weights do not fit the model: {name!r}: expected {expected}, found {found}"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(torch.from_numpy(np.array(weights[name])))


def _own(model: "nn.Module", frozen: bool) -> "dict[str, nn.Parameter]":
    return {name: value for name, value in model.named_parameters() if frozen or value.requires_grad}


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
