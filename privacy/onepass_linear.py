"""Shares of linear maps over positions, and of gradients that are formed; see `onepass_layers`.

Two ways lead to a unit's norm and to the clipped sum over all units:

- `Positions`, `Single`: the norm from what came in and the gradient of what went out, the sum as one product
  of matrices. The unit's gradient is never formed.
- `Formed`: where that gradient is hardly larger than what the layer keeps anyway, it is formed once, and
  both follow from it: the very numbers that are added up are measured.

Importing this module imports torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from interplant.privacy.onepass_layers import (
    Share,
    Sums,
    blank,
    product_norms,
    saved,
    single_norms,
    squared_lengths,
    trained,
)

FORMING = 1.5
"""How many times the multiplications of its Gram matrices a gradient may take that is formed and kept.

It saves the product for the sum. Measured on the CPU; it changes speed, and the result in its last digits.
"""


@dataclass(frozen=True)
class Formed:
    """Gradients that were formed unit by unit.

    Args:
        grads: For each trained parameter, flat (units, ...).
        shape: Brings a sum over the units into the parameter's shape.
    """

    grads: list[tuple[nn.Parameter, Tensor]]
    shape: Callable[[Tensor, nn.Parameter], Tensor]

    @property
    def kept(self) -> list[Tensor]:
        """See `Share`."""
        return [part for _, part in self.grads]

    def squared_norms(self) -> Tensor:
        """See `Share`."""
        first, *others = (squared_lengths(part) for _, part in self.grads)
        return sum(others, start=first)

    def without(self, bad: Tensor) -> "Formed":
        """See `Share`."""
        return replace(self, grads=[(own, blank(part, bad)) for own, part in self.grads])

    def clipped_sums(self, factors: Tensor) -> Sums:
        """See `Share`."""
        return [(own, self.shape(factors @ part, own)) for own, part in self.grads]


@dataclass(frozen=True)
class Positions:
    """A linear map over P positions of each unit, in groups of channels of which each has a map of its own.

    Args:
        layer: Has a ``weight`` and a ``bias``, which may be None.
        inputs: What came in, (units * groups, P, I).
        grads: Gradient of what came out, (units * groups, P, O).
        groups: How many.
        shape: Brings the weight's sum, flat (groups * O * I,), and the bias's into the parameter's shape.
    """

    layer: nn.Linear | nn.Conv1d | nn.Conv2d
    inputs: Tensor
    grads: Tensor
    groups: int
    shape: Callable[[Tensor, nn.Parameter], Tensor]

    @property
    def kept(self) -> list[Tensor]:
        """See `Share`."""
        return [self.inputs, self.grads]

    def squared_norms(self) -> Tensor:
        """See `Share`."""
        weight, bias = trained(self.layer)
        found = product_norms(self.inputs, self.grads, weight is not None, int(bias is not None))
        return found if self.groups == 1 else found.view(-1, self.groups).sum(1)

    def without(self, bad: Tensor) -> "Positions":
        """See `Share`."""
        bad = (bad.unsqueeze(1) * self.groups + torch.arange(self.groups)).flatten()
        return replace(self, inputs=blank(self.inputs, bad), grads=blank(self.grads, bad))

    def clipped_sums(self, factors: Tensor) -> Sums:
        """See `Share`."""
        (weight, bias), found = trained(self.layer), Sums()
        factors = factors if self.groups == 1 else factors.repeat_interleave(self.groups)
        scaled = self.grads * factors.view(-1, 1, 1)
        into, out = self._by_group(self.inputs), self._by_group(scaled)
        if weight is not None:
            found.append((weight, self.shape(torch.bmm(out.mT, into).flatten(), weight)))
        if bias is not None:
            found.append((bias, out.sum(1).flatten()))
        return found

    def formed(self) -> Formed:
        """Form every unit's gradient."""
        (weight, bias), found = trained(self.layer), Sums()
        units = len(self.grads) // self.groups
        if weight is not None:
            found.append((weight, torch.bmm(self.grads.mT, self.inputs).view(units, -1)))
        if bias is not None:
            found.append((bias, self.grads.sum(1).view(units, -1)))
        return Formed(found, self.shape)

    def _by_group(self, part: Tensor) -> Tensor:
        """All units' positions in a line, (groups, units * P, ...)."""
        if self.groups == 1:
            return part.view(1, -1, part.shape[2])
        apart = part.view(-1, self.groups, *part.shape[1:]).transpose(0, 1)
        return apart.reshape(self.groups, -1, part.shape[2])


@dataclass(frozen=True)
class Single:
    """A linear layer that sees one position of each unit: inputs (units, I) and gradients (units, O)."""

    layer: nn.Linear
    inputs: Tensor
    grads: Tensor

    @property
    def kept(self) -> list[Tensor]:
        """See `Share`."""
        return [self.inputs, self.grads]

    def squared_norms(self) -> Tensor:
        """See `Share`."""
        weight, bias = trained(self.layer)
        return single_norms(self.inputs, self.grads, weight is not None, int(bias is not None))

    def without(self, bad: Tensor) -> "Single":
        """See `Share`."""
        return replace(self, inputs=blank(self.inputs, bad), grads=blank(self.grads, bad))

    def clipped_sums(self, factors: Tensor) -> Sums:
        """See `Share`."""
        (weight, bias), found = trained(self.layer), Sums()
        scaled = self.grads * factors.unsqueeze(1)
        if weight is not None:
            found.append((weight, scaled.T @ self.inputs))
        if bias is not None:
            found.append((bias, scaled.sum(0)))
        return found


def over_positions(share: Positions) -> Share:
    """Form the gradients where that takes less time."""
    if share.inputs.shape[1] > 1 and saved(share.inputs, share.grads) <= FORMING:
        return share.formed()
    return replace(share, inputs=share.inputs.contiguous(), grads=share.grads.contiguous())


def linear(layer: nn.Linear, inputs: Tensor, grads: Tensor, rows: int) -> Share:
    """A linear layer's share; it sees (N, I), or any number of positions (N, ..., I).

    Args:
        layer: The layer.
        inputs: What came in.
        grads: Gradient of what came out.
        rows: How many samples in a row are one unit: its positions are those of all of them.
    """
    if rows == 1 and inputs.dim() == 2:
        return Single(layer, inputs, grads)
    units = len(inputs) // rows
    into = inputs.reshape(units, -1, layer.in_features)
    out = grads.reshape(units, -1, layer.out_features)
    return over_positions(Positions(layer, into, out, 1, view_as))


def view_as(total: Tensor, own: nn.Parameter) -> Tensor:
    """Bring a flat sum into the shape of its parameter."""
    return total.view(own.shape)
