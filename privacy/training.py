"""What a plant does with its windows in one round: train, and hand back the update.

With a plan it is DP-SGD, charged before the first noise is drawn; without one (``privacy: none``)
plain training, repeatable from a seed.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interplant.core.errors import InterplantError
from interplant.core.schema import Training
from interplant.privacy import alike, checks, statistics
from interplant.privacy.inputs import Inputs
from interplant.privacy.losses import loss_of, per_window
from interplant.privacy.plan import Plan
from interplant.privacy.stream import Stream

if TYPE_CHECKING:
    from torch import nn

    from interplant.privacy.dpsgd import PrivateOptimizer
    from interplant.privacy.noise import Noise
    from interplant.privacy.onepass import OnePassOptimizer
    from interplant.privacy.optimizers import Sgd
    from interplant.privacy.steps import Batch, Loss

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """What a round made.

    Args:
        update: Weights after minus before, float32, by the model's own parameter names; never
            buffers. It and ``metrics`` are the only fields that may leave the plant.
        steps: Steps taken.
        mode: How per-sample gradients were computed; ``plain`` without a plan.
        zeroed: Contributions that were not finite and counted as zero. It is a number about data:
            for the plant's own log.
        metrics: The plan's statistics by name, noised; empty without any.
    """

    update: dict[str, Array]
    steps: int
    mode: str
    zeroed: int
    metrics: dict[str, float] = field(default_factory=dict)


def train(
    model: "nn.Module",
    x: Inputs,
    y: Array,
    training: Training,
    plan: Plan | None,
    reserve: Callable[[], object],
    seed: int = 0,
    engine: str = "auto",
    mode: str = "",
    machines: NDArray[np.int64] | None = None,
    stream: Stream | None = None,
    proximal: float = 0.0,
    outputs: int = 1,
) -> Trained:
    """Train a copy of ``model`` for one round.

    Args:
        model: Maps (batch, channels, window) to ``outputs`` numbers a window; it is not changed.
        x: Windows, float32 (N, channels, window), normalised.
        y: Targets, float32 (N,), scaled; of classes their places.
        training: Optimizer, learning rate, loss; steps and batch where there is no plan.
        plan: What is run and charged; None trains without privacy.
        reserve: Called once, after the model is found fit and before the first noise is drawn. It
            writes the charge to the ledger; what it raises stops the round. Not called without a
            plan.
        seed: Shuffles the batches without a plan; with one, nothing.
        engine: Who computes private steps: one of `checks.ENGINES`. It changes speed, never what is
            charged.
        mode: What `checks.check_model` has chosen already, where `statistics.check_model` was asked too;
            left out, both are asked here.
        machines: The machine of each window (N,); asked for where machines are the privacy unit.
        stream: Where batches and noise come from: the operating system's entropy if left out. A stream
            that can be repeated makes training that is not private.
        proximal: How strongly the weights are held to those of ``model``, FedProx's mu; it costs no
            privacy.
        outputs: Numbers that the model gives for each window.

    Raises:
        InterplantError: The model cannot be trained privately, or the data's shape does not fit.
    """
    _check_shapes(x, y)
    trained = copy.deepcopy(model).train()
    if plan is None:
        return _plain(model, trained, x, y, training, seed, proximal)
    units = _Units(x, y, plan, machines)
    if not mode:
        mode = checks.check_model(trained, x.shape[1:], engine, outputs)
        statistics.check_model(model, x.shape[1:], plan, training.loss)
    fill = alike.fill_of(trained, x.shape[1:], mode, plan.windows, training.loss)
    stream = stream or Stream()
    measure = partial(
        statistics.measure, model, x, y, training.loss, plan, machines, stream.part("statistics")
    )
    return _private(model, trained, units, training, reserve, measure, mode, fill, stream, proximal)


class _Units:
    """A plant's windows as privacy units.

    Args:
        x: Windows.
        y: Targets.
        plan: Its unit, and how many windows of a machine enter a step.
        machines: The machine of each window.
    """

    def __init__(self, x: Inputs, y: Array, plan: Plan, machines: NDArray[np.int64] | None) -> None:
        import torch

        self.plan = plan
        self._x, self._y = x, torch.from_numpy(y)
        self._rows: list[NDArray[np.int64]] | None = None
        self.count = len(x)
        if plan.unit == "unit":
            if machines is None or machines.shape != y.shape:
                raise InterplantError("expected the machine of each window, as machines are the privacy unit")
            order = np.argsort(machines, kind="stable")
            _, first = np.unique(machines[order], return_index=True)
            self._rows = np.split(order, first[1:]) if len(x) else []
            self.count = len(self._rows)

    def batch(self, chosen: NDArray[np.int64], fill: int, stream: Stream) -> "Batch":
        """Return the rows of these units; of a machine at most the plan's number of windows, drawn anew.

        Args:
            chosen: The units.
            fill: To what multiple the batch is filled up, with units of zeros that count nothing.
            stream: Draws the windows.
        """
        if self._rows is None:
            return self._filled(chosen, np.ones(len(chosen), np.float32), -len(chosen) % fill)
        width = self.plan.windows
        drawn = [self.plan.draw(self._rows[unit], stream) for unit in chosen]
        rows = np.stack([np.resize(own, width) for own in drawn]).ravel()
        weights = [np.where(np.arange(width) < len(own), 1.0 / len(own), 0.0) for own in drawn]
        return self._filled(rows, np.concatenate(weights).astype(np.float32), -len(chosen) % fill * width)

    def _filled(self, rows: NDArray[np.int64], weights: Array, more: int) -> "Batch":
        import torch

        from interplant.privacy.steps import Batch

        x = torch.zeros((len(rows) + more, *self._x.shape[1:]))
        x[: len(rows)] = torch.from_numpy(self._x[rows])
        y, counts = self._y.new_zeros((2, len(x)))
        y[: len(rows)], counts[: len(rows)] = self._y[rows], torch.from_numpy(weights)
        return Batch(x, y, counts)


def _private(
    model: "nn.Module",
    trained: "nn.Module",
    units: _Units,
    training: Training,
    reserve: Callable[[], object],
    measure: Callable[[], dict[str, float]],
    mode: str,
    fill: int,
    stream: Stream,
    proximal: float,
) -> Trained:
    import torch

    from interplant.privacy.noise import Noise

    plan = units.plan
    reserve()
    metrics = measure()
    optimizer = _optimizer(trained, training, proximal)
    noise = Noise(plan, sum(p.numel() for p in optimizer.parameters), stream.part("noise"))
    try:
        stepper = _stepper(trained, mode, optimizer, loss_of(training.loss), plan, noise)
        with torch.random.fork_rng(devices=[]):
            # Dropout falls by place: who could foresee it would see a unit shift everybody else's.
            torch.manual_seed(int(stream.part("dropout").bits(1)[0] >> np.uint64(1)))
            for chosen in plan.batches(units.count, stream):
                parts = alike.split(chosen, stepper.units(), fill)
                stepper.descend([units.batch(part, fill, stream) for part in parts])
    finally:
        noise.close()
    return Trained(_difference(model, trained), plan.steps, mode, stepper.optimizer.zeroed, metrics)


@dataclass(frozen=True)
class _Stepper:
    """How many units a physical batch takes, and how to take a step on a logical batch of them."""

    units: Callable[[], int]
    descend: "Callable[[list[Batch]], None]"
    optimizer: "PrivateOptimizer | OnePassOptimizer"


def _stepper(
    model: "nn.Module", mode: str, optimizer: "Sgd", loss: "Loss", plan: Plan, noise: "Noise"
) -> _Stepper:
    if mode == "onepass":
        from interplant.privacy import onepass

        engine = onepass.OnePass(model, plan.clip, plan.clipping)
        ours = onepass.OnePassOptimizer(optimizer, plan, noise)
        return _Stepper(
            partial(engine.units, plan.windows), partial(onepass.descend, engine, ours, loss), ours
        )
    from interplant.privacy import dpsgd

    wrapped, opacus = dpsgd.wrap(model, mode), dpsgd.PrivateOptimizer(optimizer, plan, noise)
    return _Stepper(
        partial(dpsgd.units, model, plan.windows),
        partial(dpsgd.descend, wrapped, opacus, loss),
        opacus,
    )


def _plain(
    model: "nn.Module",
    trained: "nn.Module",
    x: Inputs,
    y: Array,
    training: Training,
    seed: int,
    proximal: float,
) -> Trained:
    import torch

    if not len(x):
        raise InterplantError("expected at least one window to train on, found none")
    optimizer, loss = _optimizer(trained, training, proximal), loss_of(training.loss)
    targets = torch.from_numpy(y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout repeats too
        for chosen in _shuffled(len(x), training, seed):
            part = torch.from_numpy(chosen)
            optimizer.zero_grad()
            mean = loss(per_window(trained(torch.from_numpy(x[chosen])), len(part)), targets[part]).mean()
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


def _optimizer(model: "nn.Module", training: Training, proximal: float) -> "Sgd":
    from interplant.privacy.optimizers import Adam, Sgd

    weights = [p for p in model.parameters() if p.requires_grad]
    return (Sgd if training.optimizer == "sgd" else Adam)(weights, training.learning_rate, proximal)


def _difference(before: "nn.Module", after: "nn.Module") -> dict[str, Array]:
    """Trained parameters after minus before, by the plain model's names; frozen ones do not cross."""
    old = dict(before.named_parameters())
    return {
        name: (parameter.detach() - old[name].detach()).float().cpu().numpy()
        for name, parameter in after.named_parameters()
        if parameter.requires_grad
    }


def _check_shapes(x: Inputs, y: Array) -> None:
    if x.dtype != np.float32 or y.dtype != np.float32 or y.ndim != 1 or len(x) != len(y):
        raise InterplantError(
            "expected float32 windows (N, channels, window) and float32 targets (N,), found "
            f"{x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
