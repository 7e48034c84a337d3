"""What a plant does with its windows in one round: train, and hand back the update.

With a plan it is DP-SGD, charged before the first noise is drawn; without one (``privacy: none``)
plain training, repeatable from a seed.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interplant.core.errors import InterplantError
from interplant.core.schema import Training
from interplant.privacy.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from interplant.privacy.dpsgd import Loss, PrivateOptimizer
    from interplant.privacy.optimizers import Sgd

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """What a round made.

    Args:
        update: Weights after minus before, float32, by the model's own parameter names; never
            buffers. The only field that may leave the plant.
        steps: Steps taken.
        mode: How per-sample gradients were computed; ``plain`` without a plan.
        zeroed: Contributions that were not finite and counted as zero. It is a number about data:
            for the plant's own log.
    """

    update: dict[str, Array]
    steps: int
    mode: str
    zeroed: int


def train(
    model: "nn.Module",
    x: Array,
    y: Array,
    training: Training,
    plan: Plan | None,
    reserve: Callable[[], object],
    seed: int = 0,
    engine: str = "opacus",
) -> Trained:
    """Train a copy of ``model`` for one round.

    Args:
        model: Maps (batch, channels, window) to one prediction a window; it is not changed.
        x: Windows, float32 (N, channels, window), normalised.
        y: Targets, float32 (N,), scaled.
        training: Optimizer, learning rate, loss; steps and batch where there is no plan.
        plan: What is run and charged; None trains without privacy.
        reserve: Called once, after the model is found fit and before the first noise is drawn. It
            writes the charge to the ledger; what it raises stops the round. Not called without a
            plan.
        seed: Shuffles the batches without a plan; with one, nothing.
        engine: Who computes private steps: one of `checks.ENGINES`. It changes speed, never what is
            charged.

    Raises:
        InterplantError: The model cannot be trained privately, or the data's shape does not fit.
    """
    _check_shapes(x, y)
    trained = copy.deepcopy(model).train()
    if plan is None:
        return _plain(model, trained, x, y, training, seed)
    return _private(model, trained, x, y, training, plan, reserve, engine)


def _private(
    model: "nn.Module",
    trained: "nn.Module",
    x: Array,
    y: Array,
    training: Training,
    plan: Plan,
    reserve: Callable[[], object],
    engine: str,
) -> Trained:
    import torch

    from interplant.privacy import checks

    mode = checks.check_model(trained, x.shape[1:], engine)
    reserve()
    stepper = _stepper(trained, mode, _optimizer(trained, training), _loss(training), plan)
    windows, targets = torch.from_numpy(x), torch.from_numpy(y)
    for chosen in plan.batches(len(x)):
        parts = [torch.from_numpy(part) for part in stepper.physical(chosen)]
        stepper.descend([(windows[part], targets[part]) for part in parts])
    return Trained(_difference(model, trained), plan.steps, mode, stepper.optimizer.zeroed)


@dataclass(frozen=True)
class _Stepper:
    """How to cut a logical batch into physical ones, and how to take a step on them."""

    physical: "Callable[[NDArray[np.int64]], list[NDArray[np.int64]]]"
    descend: "Callable[[list[tuple[Tensor, Tensor]]], None]"
    optimizer: "PrivateOptimizer"


def _stepper(model: "nn.Module", mode: str, optimizer: "Sgd", loss: "Loss", plan: Plan) -> _Stepper:
    from interplant.privacy import dpsgd, onepass

    if mode == "onepass":
        engine, ours = onepass.OnePass(model, plan.clip), onepass.OnePassOptimizer(optimizer, plan)
        return _Stepper(engine.physical, partial(onepass.descend, engine, ours, loss), ours)
    wrapped, opacus = dpsgd.wrap(model, mode), dpsgd.PrivateOptimizer(optimizer, plan)
    return _Stepper(
        partial(dpsgd.physical, model=model), partial(dpsgd.descend, wrapped, opacus, loss), opacus
    )


def _plain(
    model: "nn.Module", trained: "nn.Module", x: Array, y: Array, training: Training, seed: int
) -> Trained:
    import torch

    if not len(x):
        raise InterplantError("expected at least one window to train on, found none")
    optimizer, loss = _optimizer(trained, training), _loss(training)
    windows, targets = torch.from_numpy(x), torch.from_numpy(y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout repeats too
        for chosen in _shuffled(len(x), training, seed):
            part = torch.from_numpy(chosen)
            optimizer.zero_grad()
            mean = loss(trained(windows[part]).reshape(-1), targets[part]).mean()
            mean.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return Trained(_difference(model, trained), training.steps, "plain", 0)


def _shuffled(count: int, training: Training, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield ``training.steps`` batches that go through the windows in a new order each epoch."""
    generator = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    size = min(training.batch, count)
    for _ in range(training.steps):
        if len(order) < size:
            order = generator.permutation(count)
        yield order[:size]
        order = order[size:]


def _optimizer(model: "nn.Module", training: Training) -> "Sgd":
    from interplant.privacy.optimizers import Adam, Sgd

    weights = [p for p in model.parameters() if p.requires_grad]
    return (Sgd if training.optimizer == "sgd" else Adam)(weights, training.learning_rate)


def _loss(training: Training) -> "Loss":
    from torch.nn import functional

    function = functional.huber_loss if training.loss == "huber" else functional.mse_loss

    def losses(prediction: "Tensor", target: "Tensor") -> "Tensor":
        return function(prediction, target, reduction="none")

    return losses


def _difference(before: "nn.Module", after: "nn.Module") -> dict[str, Array]:
    """Trained parameters after minus before, by the plain model's names; frozen ones do not cross."""
    old = dict(before.named_parameters())
    return {
        name: (parameter.detach() - old[name].detach()).float().cpu().numpy()
        for name, parameter in after.named_parameters()
        if parameter.requires_grad
    }


def _check_shapes(x: Array, y: Array) -> None:
    if x.dtype != np.float32 or y.dtype != np.float32 or y.ndim != 1 or len(x) != len(y):
        raise InterplantError(
            "expected float32 windows (N, channels, window) and float32 targets (N,), found "
            f"{x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
