"""DP-SGD on Opacus: per-sample gradients, clipped and noised, one logical batch a step.

Abadi et al., "Deep learning with differential privacy" (2016). Opacus computes the per-sample
gradients, clips and sums; what it leaves to the caller is settled here: the denominator and the
steps come from the plan, a machine's windows are averaged before they are clipped, a non-finite
contribution counts as zero, an empty batch is noise alone, and sum and noise are those of `steps`.

Importing this module imports torch and Opacus: 50 MB, which a trainer that needs one pass only does without.
"""

import warnings

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleExpandedWeights
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from interplant.privacy.losses import per_window
from interplant.privacy.noise import Noise
from interplant.privacy.optimizers import Sgd
from interplant.privacy.plan import Plan
from interplant.privacy.steps import Batch, Loss, Noised, clip_factors

PHYSICAL_BYTES = 4 << 20
"""Memory for one physical batch of per-sample gradients; it changes speed, never the result."""


class PrivateOptimizer(Noised, DPOptimizer):  # type: ignore[misc] # Opacus ships no types
    """Opacus's optimizer with a plan's denominator, its own noise, and bad contributions zeroed.

    Args:
        optimizer: Takes the noised mean.
        plan: Clip and denominator, and how many rows are one unit.
        noise: The noise of the plan's steps.
    """

    def __init__(self, optimizer: Sgd, plan: Plan, noise: Noise) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise,
            max_grad_norm=plan.clip,
            expected_batch_size=plan.denominator,
            loss_reduction="mean",
        )
        self.noise = noise
        self.clipping, self.windows = plan.clipping, plan.windows
        self.zeroed = 0

    def clip_and_accumulate(self) -> None:
        """Add up each unit's rows, zero every unit that is not finite, then clip and sum as Opacus does."""
        units = [_by_unit(rows, self.windows) for rows in self.grad_samples]
        norms = torch.stack([torch.linalg.vector_norm(own, dim=1) for own in units])
        norms = torch.linalg.vector_norm(norms, dim=0)
        bad = ~torch.isfinite(norms)
        if bad.any():
            self.zeroed += int(bad.sum())
            units = [own.masked_fill(bad.unsqueeze(1), 0.0) for own in units]
            norms[bad] = 0.0
        factors = clip_factors(norms, self.max_grad_norm, self.clipping)
        self.accumulate([factors @ own for own in units])

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
    batches: list[Batch],
) -> None:
    """Take one step on one logical batch, given as physical batches (none: noise alone)."""
    if not batches:
        optimizer.empty_batch()
        finish(optimizer, last=True)
    for number, batch in enumerate(batches, start=1):
        per_sample(wrapped, loss, batch)
        finish(optimizer, last=number == len(batches))


def per_sample(wrapped: nn.Module, loss: Loss, batch: Batch) -> None:
    """Leave the gradient of each row's weighted loss in every parameter's ``grad_sample``."""
    with warnings.catch_warnings():
        # torch says that hooks on the first layer see no gradient of the input; none is needed.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        losses = loss(per_window(wrapped(batch.x), len(batch.y)), batch.y)
        total = losses.sum() if batch.weights is None else (losses * batch.weights).sum()
        total.backward()  # type: ignore[no-untyped-call]


def finish(optimizer: PrivateOptimizer, last: bool) -> None:
    """Clip and sum a physical batch; after the last one of a logical batch, noise and step."""
    optimizer.signal_skip_step(do_skip=not last)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def units(model: nn.Module, windows: int = 1) -> int:
    """How many units a physical batch takes: `PHYSICAL_BYTES` of per-sample gradients.

    Args:
        model: Whose gradients.
        windows: Rows of each unit.
    """
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = max(1, min(1024, PHYSICAL_BYTES // (4 * max(1, weights))))
    return max(1, rows // windows)


def _by_unit(rows: Tensor, windows: int) -> Tensor:
    """Add up each unit's rows: (N, ...) to (N / windows, weights)."""
    flat = rows.flatten(1)
    return flat if windows == 1 else flat.view(-1, windows, flat.shape[1]).sum(1)
