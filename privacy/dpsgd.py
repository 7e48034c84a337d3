"""DP-SGD on Opacus: per-sample gradients, clipped and noised, one logical batch a step.

Abadi et al., "Deep learning with differential privacy" (2016). Opacus computes the per-sample
gradients, clips and sums; what it leaves to the caller is settled here: the denominator and the
steps come from the plan, a non-finite contribution counts as zero, an empty batch is noise alone, and
the noise comes from a generator that no experiment seed reaches.

Importing this module imports torch and Opacus.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule, GradSampleModuleExpandedWeights
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from interplant.privacy.optimizers import Sgd
from interplant.privacy.plan import Plan, system_generator

PHYSICAL_BYTES = 4 << 20
"""Memory for one physical batch of per-sample gradients; it changes speed, never the result."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps predictions (n,) and targets (n,) to losses (n,), one a sample."""


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus ships no types
    """Opacus's optimizer with a plan's denominator, its own noise, and bad contributions zeroed.

    Args:
        optimizer: Takes the noised mean.
        plan: Noise, clip and denominator.
        generator: Source of the noise; for tests only, seeded by the operating system if left out.
    """

    def __init__(
        self,
        optimizer: Sgd,
        plan: Plan,
        generator: np.random.Generator | None = None,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise,
            max_grad_norm=plan.clip,
            expected_batch_size=plan.denominator,
            loss_reduction="mean",
        )
        self.generator = generator or system_generator()
        self.zeroed = 0

    def clip_and_accumulate(self) -> None:
        """Zero every sample whose gradient is not finite, then clip and sum as Opacus does."""
        samples = self.grad_samples
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in samples])
        norms = torch.linalg.vector_norm(norms, dim=0)
        bad = ~torch.isfinite(norms)
        if bad.any():
            self.zeroed += int(bad.sum())
            for grad in samples:
                grad[bad] = 0.0
            norms[bad] = 0.0
        factors = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        for parameter, grad in zip(self.params, samples, strict=True):
            total = (factors @ grad.flatten(1)).view_as(parameter)
            kept = parameter.summed_grad
            parameter.summed_grad = total if kept is None else kept + total

    def add_noise(self) -> None:
        """Add Gaussian noise drawn in double precision, fresh for every parameter and step."""
        scale = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = torch.from_numpy(self.generator.standard_normal(tuple(parameter.shape)))
            parameter.grad = (parameter.summed_grad.double() + scale * noise).to(parameter.dtype)

    def empty_batch(self) -> None:
        """Stand in for a batch that drew nobody: no sum, so that `step` adds noise alone."""
        for parameter in self.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))


def wrap(model: nn.Module, mode: str) -> nn.Module:
    """Return ``model`` with per-sample gradients by ``mode``: ``ew``, ``hooks`` or ``functorch``.

    The wrapper shares the model's parameters; read names from the model, never from the wrapper.
    """
    if mode == "ew":
        return GradSampleModuleExpandedWeights(model, loss_reduction="sum")  # type: ignore[no-any-return]
    # strict=False: the one thing it skips is Opacus's word on buffers, which `checks` has tested.
    return GradSampleModule(  # type: ignore[no-any-return]
        model, loss_reduction="sum", strict=False, force_functorch=mode == "functorch"
    )


def descend(
    wrapped: nn.Module,
    optimizer: PrivateOptimizer,
    loss: Loss,
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    """Take one step on one logical batch, given as physical batches (none: noise alone)."""
    if not batches:
        optimizer.empty_batch()
        finish(optimizer, last=True)
    for number, (x, y) in enumerate(batches, start=1):
        per_sample(wrapped, loss, x, y)
        finish(optimizer, last=number == len(batches))


def per_sample(wrapped: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> None:
    """Leave each sample's gradient in every parameter's ``grad_sample``."""
    with warnings.catch_warnings():
        # torch says that hooks on the first layer see no gradient of the input; none is needed.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss(wrapped(x).reshape(-1), y).sum().backward()  # type: ignore[no-untyped-call]


def finish(optimizer: PrivateOptimizer, last: bool) -> None:
    """Clip and sum a physical batch; after the last one of a logical batch, noise and step."""
    optimizer.signal_skip_step(do_skip=not last)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def physical(chosen: NDArray[np.int64], model: nn.Module) -> list[NDArray[np.int64]]:
    """Split a logical batch so that its per-sample gradients stay within `PHYSICAL_BYTES`."""
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = max(1, min(1024, PHYSICAL_BYTES // (4 * max(1, weights))))
    return [chosen[start : start + size] for start in range(0, len(chosen), size)]
