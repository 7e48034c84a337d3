"""One-pass DP-SGD: one forward, one backward to the layers' outputs, one weighted product a layer.

Book-keeping after Bu, Wang, Zha and Karypis, "Differentially private optimization on large model at small
cost" (2023), with the factors of Abadi et al. (2016) or those of Bu, Wang, Zha and Karypis, "Automatic
clipping" (2023). What each layer contributes is in `onepass_layers`, `onepass_linear`, `onepass_conv`,
`onepass_norms` and `onepass_recurrent`; clipping, sum and noise are those of `steps`.

Importing this module imports torch.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from interplant.core.errors import InterplantError
from interplant.privacy import onepass_conv, onepass_layers, onepass_linear, onepass_norms, onepass_time
from interplant.privacy.losses import per_window
from interplant.privacy.noise import Noise
from interplant.privacy.onepass_layers import Call, Share, Tape
from interplant.privacy.optimizers import Sgd
from interplant.privacy.plan import Plan
from interplant.privacy.steps import Batch, Loss, Noised, clip_factors

PHYSICAL_BYTES = 12 << 20
"""Memory for what a physical batch keeps of its layers; it changes speed, never the result."""

PHYSICAL_SAMPLES = 256, 1024
"""Samples in a physical batch before the layers have been seen, and the most at any time."""

HELD_BYTES = (32 << 20) - (1 << 16)
"""A block that is allocated once, never touched, and freed at once: just below glibc's largest threshold.

From then on glibc keeps up to twice as much of what a step frees for the next one. It would give it back to
the system else, and a step of a small model would spend a quarter of its time on having it back.
"""

CLIPPINGS = ("norm", "normalised")

WATCHED: dict[type[nn.Module], Callable[..., Share]] = {
    nn.Linear: onepass_linear.linear,
    nn.Conv1d: onepass_conv.conv,
    nn.Conv2d: onepass_conv.conv,
}
"""Layers that run as ever: their shares follow from what went in and the gradient of what came out."""

RUN: dict[type[nn.Module], Callable[..., Any]] = {
    nn.GroupNorm: onepass_norms.run,
    nn.LayerNorm: onepass_norms.run,
    nn.GRU: onepass_time.run,
    nn.LSTM: onepass_time.run,
}
"""Layers that are run here, and leave their shares themselves."""


@dataclass(frozen=True)
class Seen:
    """A watched layer's input, and its output's place in the graph."""

    layer: nn.Module
    inputs: Tensor
    output: GradientEdge


@dataclass(frozen=True)
class Clipped:
    """A batch's clipped gradients, summed.

    Args:
        sums: One for each trainable parameter, in the model's order.
        norms: Each unit's gradient norm before clipping, (N / rows,).
        zeroed: Units whose contribution was not finite and counts as zero.
    """

    sums: list[Tensor]
    norms: Tensor
    zeroed: int


def unsupported(model: nn.Module) -> str | None:
    """Say which part of ``model`` one pass cannot handle, or None if it handles all."""
    owners: dict[nn.Parameter, str] = {}
    for name, layer in model.named_modules():
        for own in layer.parameters(recurse=False):
            if own in owners:
                return f"{owners[own]!r} and {name!r} share a parameter"
            owners[own] = name
        reason = _layer_unsupported(layer)
        if reason:
            return f"layer {name!r}: {reason}"
    return None


def _layer_unsupported(layer: nn.Module) -> str | None:
    if not _trained(layer):
        return None
    if type(layer) not in WATCHED and type(layer) not in RUN:
        return f"{type(layer).__name__} is not one of the layers it knows"
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return onepass_conv.unsupported(layer)
    if isinstance(layer, nn.GRU | nn.LSTM):
        return onepass_time.unsupported(layer)
    return None


def _trained(layer: nn.Module) -> bool:
    return any(own.requires_grad for own in layer.parameters(recurse=False))


class OnePass:
    """Clipped sums of a model's gradients in one pass.

    The model computes as before; its layers are watched by hooks until `close`.

    Args:
        model: A model for which `unsupported` says None.
        clip: L2 norm to which each sample's gradient is clipped.
        clipping: ``norm`` scales a longer gradient down to ``clip``; ``normalised`` brings every
            gradient near it: clip / (norm + 0.01). Both bound a sample's share by ``clip``.

    Raises:
        InterplantError: One pass does not support the model.
    """

    def __init__(self, model: nn.Module, clip: float, clipping: str = "norm") -> None:
        reason = unsupported(model)
        if reason:
            raise InterplantError(f"one-pass DP-SGD does not support this model: {reason}")
        if clipping not in CLIPPINGS:
            raise InterplantError(f"expected clipping {' or '.join(CLIPPINGS)}, found {clipping!r}")
        torch.empty(HELD_BYTES, dtype=torch.uint8)
        self.model, self.clip, self.clipping = model, clip, clipping
        self.parameters = [own for own in model.parameters() if own.requires_grad]
        self.samples = PHYSICAL_SAMPLES[0]
        self._seen: list[Seen] = []
        self._tape = Tape()
        layers = [layer for layer in model.modules() if _trained(layer)]
        self._run = [layer for layer in layers if type(layer) in RUN]
        self._handles = [layer.register_forward_hook(self._see) for layer in layers if type(layer) in WATCHED]

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def clipped(
        self, loss: Loss, x: Tensor, y: Tensor, weights: Tensor | None = None, rows: int = 1
    ) -> Clipped:
        """Sum the clipped gradients of one physical batch.

        Args:
            loss: Losses, one a sample.
            x: Inputs (N, ...); the model treats each alone.
            y: Targets (N,).
            weights: What each sample's loss is times (N,); all 1 if left out.
            rows: How many samples in a row are one unit, whose gradient is their sum and is clipped once.

        Raises:
            InterplantError: The model calls a layer more than once, or not on (N, ...) inputs, or
                changes a layer's input afterwards.
        """
        if not len(x):
            return Clipped([torch.zeros_like(own) for own in self.parameters], x.new_zeros(0), 0)
        seen, grads, tape = self._pass(loss, x, y, weights, rows)
        shares, squares = [], []
        with torch.no_grad():
            for share in _shares(seen, grads, tape):
                shares.append(share)
                squares.append(share.squared_norms())
            self.samples = _physical_samples(shares, len(x))
            norms = torch.stack(squares).sum(0).sqrt()
            factors = clip_factors(norms, self.clip, self.clipping)
            bad = not_finite(norms)
            if len(bad):
                factors = onepass_layers.blank(factors, bad)
                shares = [share.without(bad) for share in shares]
            sums = dict(pair for share in shares for pair in share.clipped_sums(factors))
        return Clipped([self._sum(sums, own) for own in self.parameters], norms, len(bad))

    def _pass(
        self, loss: Loss, x: Tensor, y: Tensor, weights: Tensor | None, rows: int
    ) -> tuple[list[Seen], Sequence[Tensor | None], Tape]:
        """Run forward and backward; return what was seen, the gradients of its outputs, and the tape."""
        self._seen, self._tape = [], Tape(rows)
        with self._own_forwards():
            losses = loss(per_window(self.model(x), len(y)), y)
            total = (losses if weights is None else losses * weights).sum()
        seen, tape = self._seen, self._tape
        self._seen, self._tape = [], Tape()
        places = [*(one.output for one in seen), get_gradient_edge(tape.token)]
        *grads, _ = torch.autograd.grad(total, places, allow_unused=True)
        _check(tape.calls, len(x))
        return seen, grads, tape

    def kept(self, loss: Loss, x: Tensor, y: Tensor, rows: int = 1) -> list[Tensor]:
        """Return all that the units' clipped gradients are made of, and their squared norms.

        Args:
            loss: See `clipped`.
            x: See `clipped`.
            y: See `clipped`.
            rows: See `clipped`.

        Returns:
            Tensors whose first dimension goes through the units; a unit may have several places in a row.
        """
        found = self._pass(loss, x, y, None, rows)
        with torch.no_grad():
            shares = list(_shares(*found))
            self.samples = _physical_samples(shares, len(x))
            norms = [share.squared_norms() for share in shares]
        return [*(part for share in shares for part in share.kept), *norms]

    def units(self, rows: int = 1) -> int:
        """How many units of ``rows`` samples a physical batch takes: `PHYSICAL_BYTES` of what layers keep."""
        return max(1, self.samples // rows)

    def _see(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if not inputs:
            raise InterplantError("one-pass DP-SGD: expected a layer's input as its first argument")
        seen = self._tape.note(layer, inputs[0], len(inputs[0]))
        self._seen.append(Seen(layer, seen, get_gradient_edge(output)))

    @contextmanager
    def _own_forwards(self) -> Iterator[None]:
        """Let the layers of `RUN` be run here."""
        for layer in self._run:
            layer.__dict__["forward"] = functools.partial(RUN[type(layer)], layer, self._tape)
        try:
            yield
        finally:
            for layer in self._run:
                del layer.__dict__["forward"]

    def _sum(self, sums: dict[nn.Parameter, Tensor], own: nn.Parameter) -> Tensor:
        found = sums.get(own)
        return torch.zeros_like(own) if found is None else found


def _shares(seen: list[Seen], grads: Sequence[Tensor | None], tape: Tape) -> Iterator[Share]:
    """Make every layer's share, one by one: a norm is found while what it is made of is in the cache."""
    for one, grad in zip(seen, grads, strict=True):
        if grad is not None:
            yield WATCHED[type(one.layer)](one.layer, one.inputs, grad, tape.rows)
    yield from tape.shares


def not_finite(norms: Tensor) -> Tensor:
    """Indices of norms (N,) that are infinite or NaN."""
    if math.isfinite(norms.sum()):  # the usual case takes one operation
        return torch.empty(0, dtype=torch.long)
    return (~torch.isfinite(norms)).nonzero().flatten()


def _check(calls: list[Call], count: int) -> None:
    """Refuse what would give wrong norms."""
    if len({call.layer for call in calls}) < len(calls):
        raise InterplantError("one-pass DP-SGD: a layer is called more than once in a pass")
    if any(call.inputs._version != call.version for call in calls):
        raise InterplantError("one-pass DP-SGD: a layer's input is changed in place after its use")
    sizes = {call.samples for call in calls}
    if sizes - {count}:
        raise InterplantError(
            f"one-pass DP-SGD: expected every layer to see the batch's {count} samples apart, "
            f"found layers that see {sorted(sizes)}"
        )


def _physical_samples(shares: list[Share], count: int) -> int:
    """How many samples fit into `PHYSICAL_BYTES`; it follows from shapes alone."""
    kept = 4 * sum(part.numel() for share in shares for part in share.kept)
    return max(1, min(PHYSICAL_SAMPLES[1], PHYSICAL_BYTES * count // max(1, kept)))


class OnePassOptimizer(Noised):
    """A plan's noise and denominator for gradients that arrive clipped and summed.

    The parameters become parts of one vector, which to the optimizer is all there is: what is done to each
    parameter is done once.

    Args:
        optimizer: Takes the noised mean; it is given the vector in place of the parameters.
        plan: Denominator, and how many rows are one unit.
        noise: The noise of the plan's steps.
    """

    def __init__(self, optimizer: Sgd, plan: Plan, noise: Noise) -> None:
        optimizer.hold([as_one([own for own in optimizer.parameters if own.requires_grad])])
        self.params, self.noise = optimizer.parameters, noise
        self._forget()
        self.windows, self.zeroed = plan.windows, 0
        self.expected_batch_size = plan.denominator
        self._optimizer = optimizer

    def add(self, clipped: "Clipped") -> None:
        """Add a physical batch's clipped sum to the logical batch's."""
        self.zeroed += clipped.zeroed
        self.accumulate([torch.cat([total.flatten() for total in clipped.sums])])

    def step(self) -> None:
        """Add noise to the logical batch's sum, divide by the plan's denominator, and move the weights."""
        self.add_noise()
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
        self._optimizer.step()
        self._forget()

    def _forget(self) -> None:
        for parameter in self.params:
            parameter.grad = parameter.summed_grad = None


def as_one(parameters: list[nn.Parameter]) -> nn.Parameter:
    """Make ``parameters`` parts of one vector, and return it; their values stay."""
    whole = nn.Parameter(torch.cat([own.detach().flatten() for own in parameters]))
    parts = torch.split(whole.detach(), [own.numel() for own in parameters])
    for own, part in zip(parameters, parts, strict=True):
        own.data = part.view_as(own)
    return whole


def descend(
    engine: OnePass,
    optimizer: OnePassOptimizer,
    loss: Loss,
    batches: list[Batch],
) -> None:
    """Take one step on one logical batch, given as physical batches (none: noise alone)."""
    if not batches:
        batches = [Batch(torch.empty(0), torch.empty(0))]
    for batch in batches:
        optimizer.add(engine.clipped(loss, batch.x, batch.y, batch.weights, optimizer.windows))
    optimizer.step()
