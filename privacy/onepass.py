"""One-pass DP-SGD: one forward, one backward to the layers' outputs, one weighted product a layer.

Book-keeping after Bu, Wang, Zha and Karypis, "Differentially private optimization on large model at small
cost" (2023), with the factors of Abadi et al. (2016) or those of Bu, Wang, Zha and Karypis, "Automatic
clipping" (2023). What each layer contributes is in `onepass_layers` and `onepass_recurrent`; the
denominator, the noise and the optimizer are those of `dpsgd`.

Importing this module imports torch and Opacus.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from interplant.core.errors import InterplantError
from interplant.privacy import onepass_layers, onepass_time
from interplant.privacy.dpsgd import Batch, Loss, PrivateOptimizer, clip_factors, finish
from interplant.privacy.onepass_layers import SHARES, Share
from interplant.privacy.onepass_recurrent import Tape

PHYSICAL_BYTES = 8 << 20
"""Memory for what a physical batch keeps of its layers; it changes speed, never the result."""

PHYSICAL_SAMPLES = 256, 1024
"""Samples in a physical batch before the layers have been seen, and the most at any time."""

CLIPPINGS = ("norm", "normalised")

RECURRENT = (nn.GRU, nn.LSTM)


@dataclass(frozen=True)
class Seen:
    """A layer's pass through the forward: its input, with the version it had, and its output's place."""

    layer: nn.Module
    inputs: Tensor
    version: int
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
    if type(layer) in SHARES:
        return onepass_layers.unsupported(layer)
    if isinstance(layer, RECURRENT) and type(layer) in RECURRENT:
        return onepass_time.unsupported(layer)
    return f"{type(layer).__name__} is not one of the layers it knows"


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
        self.model, self.clip, self.clipping = model, clip, clipping
        self.parameters = [own for own in model.parameters() if own.requires_grad]
        self.samples = PHYSICAL_SAMPLES[0]
        self._seen: list[Seen] = []
        self._tape = Tape()
        self._watched = [layer for layer in model.modules() if _trained(layer)]
        self._handles = [
            layer.register_forward_hook(self._see) for layer in self._watched if type(layer) in SHARES
        ]

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
        shares = self._shares(loss, x, y, weights)
        with torch.no_grad():
            norms = torch.stack([share.squared_norms(rows) for share in shares]).sum(0).sqrt()
            factors = clip_factors(norms, self.clip, self.clipping)
            bad = (~torch.isfinite(norms)).nonzero().flatten()
            if len(bad):
                factors = onepass_layers.blank(factors, bad)
                samples = (bad.unsqueeze(1) * rows + torch.arange(rows)).flatten()
                shares = [share.without(samples) for share in shares]
            if rows > 1:
                factors = factors.repeat_interleave(rows)
            sums = dict(pair for share in shares for pair in share.clipped_sums(factors))
        return Clipped([self._sum(sums, own) for own in self.parameters], norms, len(bad))

    def _shares(self, loss: Loss, x: Tensor, y: Tensor, weights: Tensor | None) -> list[Share]:
        """Run forward and backward; return every layer's share."""
        self._seen, self._tape = [], Tape()
        with self._recurrent():
            losses = loss(self.model(x).reshape(-1), y)
            total = (losses if weights is None else losses * weights).sum()
        seen, tape = self._seen, self._tape
        self._seen, self._tape = [], Tape()
        places = [*(one.output for one in seen), get_gradient_edge(tape.token)]
        *grads, _ = torch.autograd.grad(total, places, allow_unused=True)
        _check(seen, tape, len(x))
        self.samples = _physical_samples(seen, tape, len(x))
        shares = [
            SHARES[type(one.layer)](one.layer, one.inputs, grad)
            for one, grad in zip(seen, grads, strict=True)
            if grad is not None
        ]
        return [*shares, *tape.as_shares()]

    def physical(self, chosen: NDArray[np.int64], rows: int = 1) -> list[NDArray[np.int64]]:
        """Split a logical batch of units evenly: what its layers keep stays within `PHYSICAL_BYTES`.

        Args:
            chosen: The units.
            rows: Samples of each.
        """
        units = max(1, self.samples // rows)
        return np.array_split(chosen, -(-len(chosen) // units)) if len(chosen) else []

    def _see(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if not inputs:
            raise InterplantError("one-pass DP-SGD: expected a layer's input as its first argument")
        self._seen.append(Seen(layer, inputs[0].detach(), inputs[0]._version, get_gradient_edge(output)))

    @contextmanager
    def _recurrent(self) -> Iterator[None]:
        """Let recurrent layers run by `onepass_time`."""
        layers = [layer for layer in self._watched if isinstance(layer, RECURRENT)]
        for layer in layers:
            layer.__dict__["forward"] = functools.partial(onepass_time.run, layer, self._tape)
        try:
            yield
        finally:
            for layer in layers:
                del layer.__dict__["forward"]

    def _sum(self, sums: dict[nn.Parameter, Tensor], own: nn.Parameter) -> Tensor:
        found = sums.get(own)
        return torch.zeros_like(own) if found is None else found


def _check(seen: list[Seen], tape: Tape, count: int) -> None:
    """Refuse what would give wrong norms."""
    calls = [one.layer for one in seen] + [share.weights for share in tape.shares]
    if len(set(calls)) < len(calls):
        raise InterplantError("one-pass DP-SGD: a layer is called more than once in a pass")
    if any(one.inputs._version != one.version for one in seen):
        raise InterplantError("one-pass DP-SGD: a layer's input is changed in place after its use")
    sizes = [len(one.inputs) for one in seen] + [share.inputs.shape[1] for share in tape.shares]
    if any(size != count for size in sizes):
        raise InterplantError(
            f"one-pass DP-SGD: expected every layer to see the batch's {count} samples apart, "
            f"found layers that see {sorted(set(sizes))}"
        )


def _physical_samples(seen: list[Seen], tape: Tape, count: int) -> int:
    """How many samples fit into `PHYSICAL_BYTES`; it follows from shapes alone."""
    kept = sum(one.inputs.numel() for one in seen)
    kept += sum(share.inputs.numel() + share.gates.numel() for share in tape.shares)
    return max(1, min(PHYSICAL_SAMPLES[1], PHYSICAL_BYTES * count // (8 * max(1, kept))))


class OnePassOptimizer(PrivateOptimizer):
    """`PrivateOptimizer` for gradients that arrive clipped and summed.

    Its ``step`` is still Opacus's: skipped steps, hooks, noise and denominator are unchanged.
    """

    sums: list[Tensor]

    def clip_and_accumulate(self) -> None:
        """Add the physical batch's clipped sum to the logical batch's."""
        self.accumulate(self.sums)


def descend(
    engine: OnePass,
    optimizer: OnePassOptimizer,
    loss: Loss,
    batches: list[Batch],
) -> None:
    """Take one step on one logical batch, given as physical batches (none: noise alone)."""
    if not batches:
        batches = [Batch(torch.empty(0), torch.empty(0))]
    for number, batch in enumerate(batches, start=1):
        found = engine.clipped(loss, batch.x, batch.y, batch.weights, optimizer.windows)
        optimizer.zeroed += found.zeroed
        optimizer.sums = found.sums
        optimizer.empty_batch()  # Opacus asks for per-sample gradients: there are none
        finish(optimizer, last=number == len(batches))
