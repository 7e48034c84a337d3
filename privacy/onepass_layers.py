"""Per-sample gradient norms and clipped sums of single layers, without per-sample gradients.

The book-keeping of Bu, Wang, Zha and Karypis, "Differentially private optimization on large model at
small cost" (2023): a layer's gradient for one sample is a sum of outer products of what came in and of
the gradient of what went out. Its norm needs only those two (by Gram matrices over the positions of a
sequence, or by the products themselves, whichever takes fewer operations), and the clipped sum over the
samples is one product of matrices.

A norm must never come out too small: the clipping, and so the privacy, rests on it. Hence `ROUNDING` and
`LONGEST`. Importing this module imports torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

ROUNDING = 2.0**-22
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
    """One layer's share in the gradients of a batch of N samples."""

    def squared_norms(self, rows: int) -> Tensor:
        """Squared gradient norm of each ``rows`` samples together, which are one unit, (N / rows,)."""

    def without(self, bad: Tensor) -> "Share":
        """Return the share with the samples at indices ``bad`` set to zero."""

    def clipped_sums(self, factors: Tensor) -> Sums:
        """Sums of the samples' gradients, each times its factor; ``factors`` is (N,)."""


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
        return _single(inputs[:, 0], grads[:, 0], weight, biases)
    if gram_is_cheaper(inputs, grads):
        return gram_norms(inputs, gram(grads), weight, biases)
    return _by_product(inputs, grads, weight, biases)


def by_unit(samples: Tensor, rows: int) -> Tensor:
    """Put the positions of each unit's samples in a line: (N, T, D) to (N / rows, rows * T, D)."""
    return samples if rows == 1 else samples.reshape(len(samples) // rows, -1, samples.shape[2])


def gram_is_cheaper(inputs: Tensor, grads: Tensor) -> bool:
    """Compare the multiplications of the two ways."""
    (positions, width), height = inputs.shape[1:], grads.shape[2]
    return bool(positions * (width + height) < width * height)


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


def _single(inputs: Tensor, grads: Tensor, weight: bool, biases: int) -> Tensor:
    into, out = _squares(inputs), _squares(grads)
    return _trusted(out * (into * weight + biases), torch.maximum(into, out))


def _by_product(inputs: Tensor, grads: Tensor, weight: bool, biases: int) -> Tensor:
    total = biases * _squares(grads.sum(1))
    if not weight:
        return total
    size = max(1, CHUNK_BYTES // (4 * inputs.shape[2] * grads.shape[2]))
    parts = zip(torch.split(inputs, size), torch.split(grads, size), strict=True)
    return total + torch.cat([_squares(torch.bmm(g.mT, x).flatten(1)) for x, g in parts])


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


def _squares(vectors: Tensor) -> Tensor:
    squares: Tensor = torch.linalg.vector_norm(vectors, dim=1).square()
    return squares


def _trusted(squares: Tensor, longest: Tensor) -> Tensor:
    return squares.masked_fill(longest > LONGEST**2, torch.inf)


def _pairs(layer: nn.Module, weight: Callable[[], Tensor], bias: Callable[[], Tensor]) -> Sums:
    """Compute only what is trained."""
    made = ((layer.weight, weight), (layer.bias, bias))
    return [(own, make()) for own, make in made if isinstance(own, nn.Parameter) and own.requires_grad]


def _trains(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


@dataclass(frozen=True)
class LinearShare:
    """A linear layer on (N, I) or on any number of positions (N, ..., I)."""

    layer: nn.Linear
    inputs: Tensor
    grads: Tensor

    @classmethod
    def of(cls, layer: nn.Linear, inputs: Tensor, grads: Tensor) -> "LinearShare":
        """Gather all positions in one dimension: (N, T, I) and (N, T, O)."""
        count = len(inputs)
        return cls(
            layer,
            inputs.reshape(count, -1, layer.in_features),
            grads.reshape(count, -1, layer.out_features),
        )

    def squared_norms(self, rows: int) -> Tensor:
        """See `Share`."""
        layer = self.layer
        trained = _trains(layer.weight), int(_trains(layer.bias))
        return product_norms(self.inputs, self.grads, *trained, rows)

    def without(self, bad: Tensor) -> "LinearShare":
        """See `Share`."""
        return replace(self, inputs=blank(self.inputs, bad), grads=blank(self.grads, bad))

    def clipped_sums(self, factors: Tensor) -> Sums:
        """See `Share`."""
        rows = factors.repeat_interleave(self.grads.shape[1])
        inputs, grads = self.inputs.flatten(0, 1), self.grads.flatten(0, 1)
        return _pairs(self.layer, lambda: weighted(inputs, grads, rows), lambda: rows @ grads)


@dataclass(frozen=True)
class ConvShare:
    """A convolution over (N, C, L) or (N, C, H, W), padded with zeros."""

    layer: nn.Conv1d | nn.Conv2d
    inputs: Tensor
    grads: Tensor

    @classmethod
    def of(cls, layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, grads: Tensor) -> "ConvShare":
        """Take both as two-dimensional, a line being one row, and apply the padding."""
        if isinstance(layer, nn.Conv1d):
            inputs, grads = inputs.unsqueeze(2), grads.unsqueeze(2)
        edges = _edges(layer)
        return cls(layer, functional.pad(inputs, edges) if any(edges) else inputs, grads)

    def squared_norms(self, rows: int) -> Tensor:
        """See `Share`; the patches that the kernel saw are the positions of a linear map."""
        layer, groups = self.layer, self.layer.groups
        trained = _trains(layer.weight), int(_trains(layer.bias))
        if rows == groups == 1 and self._overlap_pays():
            return paired_norms(self._patch_gram(), gram(self.grads.flatten(2).mT), *trained)
        grads = self.grads.view(-1, rows, groups, layer.out_channels // groups, self.grads[0, 0].numel())
        grads = grads.permute(0, 2, 1, 4, 3).flatten(0, 1).flatten(1, 2)
        return product_norms(self._patches(rows), grads, *trained).view(-1, groups).sum(1)

    def without(self, bad: Tensor) -> "ConvShare":
        """See `Share`."""
        return replace(self, inputs=blank(self.inputs, bad), grads=blank(self.grads, bad))

    def clipped_sums(self, factors: Tensor) -> Sums:
        """See `Share`."""
        grads = self.grads * factors.view(-1, 1, 1, 1)
        return _pairs(self.layer, lambda: self._weight(grads), lambda: grads.sum(0).sum((1, 2)))

    def _overlap_pays(self) -> bool:
        """Compare multiplications: patches overlap, so products of single inputs make up many of theirs."""
        size, inputs = self.layer.kernel_size, self.inputs[0, 0].numel()
        height, positions = self.grads.shape[1], self.grads[0, 0].numel()
        width = self.inputs.shape[1] * math.prod(size)
        patches = min(positions * (width + height), width * height)
        return inputs**2 * self.inputs.shape[1] <= 2 * positions * patches

    def _patch_gram(self) -> Tensor:
        """Inner products of all pairs of patches (N, T, T), added up from those of pairs of inputs."""
        across = self.inputs.shape[3]
        apart = gram(self.inputs.flatten(2).mT)
        sample, one, other = apart.stride()
        (step_y, step_x), (hole_y, hole_x) = _two(self.layer.stride), _two(self.layer.dilation)
        high, wide = self.grads.shape[2:]
        pairs = apart.as_strided(
            (len(apart), high, wide, high, wide, *_two(self.layer.kernel_size)),
            (
                sample,
                *(step_y * across * one, step_x * one, step_y * across * other, step_x * other),
                *(hole_y * across * (one + other), hole_x * (one + other)),
            ),
        )
        return pairs.sum((5, 6)).view(len(apart), high * wide, high * wide)

    def _patches(self, rows: int) -> Tensor:
        """What the kernel saw: (units * groups, rows * T, inputs of a group * kernel)."""
        layer, (sample, channel, row, column) = self.layer, self.inputs.stride()
        (step_y, step_x), (hole_y, hole_x) = _two(layer.stride), _two(layer.dilation)
        units, channels = len(self.inputs) // rows, layer.in_channels // layer.groups
        seen = self.inputs.as_strided(
            (units, layer.groups, rows, *self.grads.shape[2:], channels, *_two(layer.kernel_size)),
            (
                *(sample * rows, channel * channels, sample),
                *(row * step_y, column * step_x, channel, row * hole_y, column * hole_x),
            ),
        )
        return seen.reshape(units * layer.groups, rows * self.grads[0, 0].numel(), -1)

    def _weight(self, grads: Tensor) -> Tensor:
        """The weight's gradient alone: torch's own product over samples and positions."""
        layer, inputs, none = self.layer, self.inputs, [0] * len(self.layer.kernel_size)
        if isinstance(layer, nn.Conv1d):
            grads, inputs = grads.squeeze(2), inputs.squeeze(2)
        sides = (layer.stride, none, layer.dilation, False, none, layer.groups)
        found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            grads, inputs, layer.weight.detach(), None, *sides, (False, True, False)
        )
        return found[1]


def _two(sides: tuple[int, ...], rest: int = 1) -> tuple[int, int]:
    """Two dimensions' worth of a convolution's setting; a line is one row."""
    return (rest, sides[0]) if len(sides) == 1 else (sides[0], sides[1])


def _edges(layer: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    """What is added left, right, above and below."""
    if isinstance(layer.padding, str):
        across = zip(_two(layer.kernel_size), _two(layer.dilation), strict=True)
        total = [d * (k - 1) if layer.padding == "same" else 0 for k, d in across]
        (up, down), (left, right) = ((side // 2, side - side // 2) for side in total)
    else:
        up, left = _two(layer.padding, 0)
        down, right = up, left
    return left, right, up, down


@dataclass(frozen=True)
class NormShare:
    """Scale and shift of GroupNorm or LayerNorm: so few that each sample's gradient is formed."""

    layer: nn.GroupNorm | nn.LayerNorm
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: nn.GroupNorm | nn.LayerNorm, inputs: Tensor, grads: Tensor) -> "NormShare":
        """Gradients (N, C) of a GroupNorm on (N, C, ...), (N, D) of a LayerNorm on (N, ..., D)."""
        if isinstance(layer, nn.GroupNorm):
            scaled = grads * functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
            rows, ones = (*grads.shape[:2], -1), grads.new_ones(grads[0, 0].numel())
            # A product with ones adds up faster than a sum does.
            return cls(layer, scaled.reshape(rows) @ ones, grads.reshape(rows) @ ones)
        scaled = grads * functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        shape = (len(inputs), -1, *layer.normalized_shape)
        return cls(layer, *(part.reshape(shape).sum(1).flatten(1) for part in (scaled, grads)))

    def squared_norms(self, rows: int) -> Tensor:
        """See `Share`."""
        layer = self.layer
        weight, bias = (part.view(-1, rows, part.shape[1]).sum(1) for part in (self.weight, self.bias))
        return _squares(weight) * _trains(layer.weight) + _squares(bias) * _trains(layer.bias)

    def without(self, bad: Tensor) -> "NormShare":
        """See `Share`."""
        return replace(self, weight=blank(self.weight, bad), bias=blank(self.bias, bad))

    def clipped_sums(self, factors: Tensor) -> Sums:
        """See `Share`."""
        shape = self.layer.weight.shape
        return _pairs(
            self.layer,
            lambda: (factors @ self.weight).view(shape),
            lambda: (factors @ self.bias).view(shape),
        )


SHARES: dict[type[nn.Module], Callable[..., Share]] = {
    nn.Linear: LinearShare.of,
    nn.Conv1d: ConvShare.of,
    nn.Conv2d: ConvShare.of,
    nn.GroupNorm: NormShare.of,
    nn.LayerNorm: NormShare.of,
}
"""Layers whose shares follow from what went in and the gradient of what came out."""


def unsupported(layer: nn.Module) -> str | None:
    """Say why the share of a layer of one of the types in `SHARES` cannot be had, or None."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.padding_mode != "zeros":
        return f"padding_mode {layer.padding_mode!r}"
    return None
