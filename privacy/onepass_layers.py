"""What a layer contributes to per-sample gradient norms and clipped sums, and the norms of linear maps.

The book-keeping of Bu, Wang, Zha and Karypis, "Differentially private optimization on large model at
small cost" (2023): a layer's gradient for one unit is a sum of outer products of what came in and of the
gradient of what went out. Its norm needs only those two, by Gram matrices over the positions of a sequence
or by the products themselves, and the clipped sum over all units is one product of matrices.

A norm must never come out too small: the clipping, and so the privacy, rests on it. Hence `ROUNDING` and
`LONGEST`. Importing this module imports torch.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

ROUNDING = 2.0**-20
"""Added to a squared norm from Gram matrices, times the square it would have if nothing cancelled.

Where positions cancel, single precision may lose a whole norm; this covers what it loses.
"""

LONGEST = 1e10
"""A sample whose input to a layer, or gradient of its output, is longer counts as not finite.

Beyond, the other factor of a product may be too small for single precision and the product still large.
"""

CHUNK_BYTES = 1 << 20
"""Memory for products that are formed and dropped again, a few samples at a time."""

Sums = list[tuple[nn.Parameter, Tensor]]
"""Trainable parameters of a layer, each with the clipped sum of its gradients."""


class Share(Protocol):
    """One layer's share in the gradients of a batch; samples in a row that are one unit count together."""

    @property
    def kept(self) -> list[Tensor]:
        """What it keeps of the units, their places one after another in the first dimension."""

    def squared_norms(self) -> Tensor:
        """Squared gradient norm of each unit, (units,)."""

    def without(self, bad: Tensor) -> "Share":
        """Return the share with the units at indices ``bad`` set to zero."""

    def clipped_sums(self, factors: Tensor) -> Sums:
        """Sums of the units' gradients, each times its factor; ``factors`` is (units,)."""


@dataclass(frozen=True)
class Call:
    """A layer's pass through the forward: who, its input with the version it had, the samples it saw."""

    layer: object
    inputs: Tensor
    version: int
    samples: int


@dataclass
class Tape:
    """What a pass leaves behind.

    Args:
        rows: How many samples in a row are one unit.
        token: Stands in for the weights of the layers that are run here in the graph: asking for its
            gradient runs every one's backward, also that of a layer below which nothing is trained.
        calls: One for each layer, added by its forward.
        shares: One for each layer that is run here, added by its backward.
    """

    rows: int = 1
    token: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    calls: list[Call] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)

    def note(self, layer: object, inputs: Tensor, samples: int) -> Tensor:
        """Note a call; return its input outside of the graph."""
        seen = inputs.detach()
        self.calls.append(Call(layer, seen, inputs._version, samples))
        return seen


def blank(tensor: Tensor, bad: Tensor, samples: int = 0) -> Tensor:
    """Return a copy of ``tensor`` with zeros at indices ``bad`` of dimension ``samples``."""
    return tensor.index_fill(samples, bad, 0.0)


def product_norms(
    inputs: Tensor, grads: Tensor, weight: bool = True, biases: int = 1, rows: int = 1
) -> Tensor:
    """Squared norms of a unit's sum over positions of outer(gradient, input), and of its biases.

    Args:
        inputs: What went into a linear map, (N, T, I).
        grads: Gradient of what came out, (N, T, O).
        weight: Whether the map's weight counts.
        biases: How many vectors are added to the output and count.
        rows: How many samples in a row are one unit: its positions are those of all of them.

    Returns:
        Squared norms (N / rows,); infinite or NaN where they cannot be trusted.
    """
    inputs, grads = by_unit(inputs, rows), by_unit(grads, rows)
    if inputs.shape[1] == 1:
        return single_norms(inputs[:, 0], grads[:, 0], weight, biases)
    if gram_is_cheaper(inputs, grads):
        return gram_norms(inputs, gram(grads), weight, biases)
    return _by_product(inputs, grads, weight, biases)


def by_unit(samples: Tensor, rows: int) -> Tensor:
    """Put the positions of each unit's samples in a line: (N, T, D) to (N / rows, rows * T, D)."""
    return samples if rows == 1 else samples.reshape(len(samples) // rows, -1, samples.shape[2])


def gram_is_cheaper(inputs: Tensor, grads: Tensor) -> bool:
    """Compare the multiplications of the two ways."""
    return saved(inputs, grads) > 1.0


def saved(inputs: Tensor, grads: Tensor) -> float:
    """How many times as many multiplications a formed gradient takes as its norm by Gram matrices."""
    (positions, width), height = inputs.shape[-2:], grads.shape[-1]
    return width * height / (positions * (width + height))


def gram(vectors: Tensor) -> Tensor:
    """Inner products of all pairs of positions: (N, T, T) of (N, T, D)."""
    return torch.bmm(vectors, vectors.mT)


def gram_norms(inputs: Tensor, out: Tensor, weight: bool = True, biases: int = 1) -> Tensor:
    """What `product_norms` does, with the gradients' Gram matrices ``out`` (N, T, T) in their place."""
    return paired_norms(gram(inputs), out, weight, biases)


def paired_norms(into: Tensor, out: Tensor, weight: bool = True, biases: int = 1) -> Tensor:
    """What `product_norms` does, from Gram matrices (N, T, T) of inputs (they are changed) and gradients."""
    into = (into if weight else into.zero_()).add_(biases)
    between = out.diagonal(dim1=1, dim2=2), into.diagonal(dim1=1, dim2=2)
    uncancelled = (between[0] * between[1]).sqrt().sum(1).square()
    longest = torch.maximum(*between).amax(1)
    squares = torch.linalg.vecdot(out.flatten(1), into.flatten(1))
    return _trusted(squares + ROUNDING * uncancelled, longest)


def single_norms(inputs: Tensor, grads: Tensor, weight: bool, biases: int) -> Tensor:
    """What `product_norms` does, where there is one position: inputs (N, I) and gradients (N, O)."""
    into, out = squared_lengths(inputs), squared_lengths(grads)
    return _trusted(out * (into * weight + biases), torch.maximum(into, out))


def _by_product(inputs: Tensor, grads: Tensor, weight: bool, biases: int) -> Tensor:
    # Positions may cancel here too: their sum is short, while each stands in the sum over all units.
    into = torch.linalg.vector_norm(inputs, dim=2).square() * weight + biases
    out = torch.linalg.vector_norm(grads, dim=2).square()
    uncancelled = (into.sqrt() * out.sqrt()).sum(1).square()
    longest = torch.maximum(into, out).amax(1)
    total = biases * squared_lengths(grads.sum(1)) + ROUNDING * uncancelled
    if not weight:
        return _trusted(total, longest)
    size = max(1, CHUNK_BYTES // (4 * inputs.shape[2] * grads.shape[2]))
    parts = zip(torch.split(inputs, size), torch.split(grads, size), strict=True)
    formed = torch.cat([squared_lengths(torch.bmm(g.mT, x).flatten(1)) for x, g in parts])
    return _trusted(total + formed, longest)


def weighted(inputs: Tensor, grads: Tensor, factors: Tensor) -> Tensor:
    """Sum over samples and positions of factor times outer(gradient, input).

    Args:
        inputs: (M, I), one row for each sample and position.
        grads: (M, O).
        factors: (M,).
    """
    if inputs.shape[1] < grads.shape[1]:
        return grads.T @ (inputs * factors.unsqueeze(1))
    return (grads * factors.unsqueeze(1)).T @ inputs


def squared_lengths(vectors: Tensor) -> Tensor:
    """Squares of the lengths of vectors (N, D)."""
    squares: Tensor = torch.linalg.vector_norm(vectors, dim=1).square()
    return squares


def _trusted(squares: Tensor, longest: Tensor) -> Tensor:
    return squares.masked_fill(longest > LONGEST**2, torch.inf)


def trained(layer: nn.Module) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """A layer's weight and bias; None for one that is not there or not trained."""
    weight, bias = (
        own if isinstance(own, nn.Parameter) and own.requires_grad else None
        for own in (layer.weight, layer.bias)
    )
    return weight, bias
