"""Shares of GRU and LSTM layers, from the gradient of every gate at every step.

A recurrent layer is two linear maps over the positions of a sequence: of its inputs, and of the states
before each step. `onepass_time` runs the layers and finds the gates' gradients; see `onepass_layers` for
what a share is. Importing this module imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from interplant.privacy.onepass_layers import (
    Sums,
    blank,
    by_unit,
    gram,
    gram_is_cheaper,
    gram_norms,
    product_norms,
    weighted,
)

GRU_ORDER, LSTM_ORDER = (2, 0, 1), (2, 0, 1, 3)
"""Blocks of a weight in the order used here: n, r, z and g, i, f, o. Torch has r, z, n and i, f, g, o."""


ROUND = 4
"""Small matrices of 30 rows take half as long again to multiply as those of 32."""


@dataclass(frozen=True)
class Weights:
    """One layer's weights in torch's order: of the input (kH, I), the state (kH, H), and two biases (kH,).

    Args:
        module: Whose they are.
        level: Which of the module's layers.
    """

    module: nn.GRU | nn.LSTM
    level: int

    def own(self) -> list[nn.Parameter | None]:
        """The four parameters; None for a bias that is not there."""
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self.module, f"{kind}_l{self.level}", None) for kind in kinds]

    def values(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The four values, outside of any graph."""
        first, second, *biases = (None if own is None else own.detach() for own in self.own())
        assert first is not None
        assert second is not None
        return first, second, biases[0], biases[1]

    def trained(self) -> list[bool]:
        """Which of the four are trained."""
        return [own is not None and own.requires_grad for own in self.own()]


@dataclass(frozen=True)
class RecurrentShare:
    """What the shares of GRU and LSTM have in common; time comes first in every tensor.

    Args:
        weights: The layer's weights.
        seen: What each step is made of, (S, N, W): of the T steps the inputs, a one for the biases (zero
            where there are none) and the state before. The rest is zero, and makes products of round sizes.
        gates: Gradients of the gates' sums, (S, N, 4H), zero after T steps.
        steps: T.
        rows: How many samples in a row are one unit.
    """

    weights: Weights
    seen: Tensor
    gates: Tensor
    steps: int
    rows: int

    @property
    def kept(self) -> list[Tensor]:
        """See `onepass_layers.Share`."""
        return [self.seen.transpose(0, 1), self.gates.transpose(0, 1)]

    def without(self, bad: Tensor) -> Self:
        """See `onepass_layers.Share`."""
        samples = (bad.unsqueeze(1) * self.rows + torch.arange(self.rows)).flatten()
        return replace(self, seen=blank(self.seen, samples, 1), gates=blank(self.gates, samples, 1))

    def _by_unit(self) -> tuple[Tensor, Tensor]:
        """What was seen and the gates as (units, positions, ...): a unit's samples one after another."""
        steps = len(self.seen) if self.rows == 1 else self.steps
        seen, gates = (by_unit(part[:steps].transpose(0, 1), self.rows) for part in (self.seen, self.gates))
        return seen, gates

    def _columns(self) -> tuple[slice, slice, int]:
        """Where inputs and states stand in what was seen, and the one between them."""
        module = self.weights.module
        one = module.input_size if self.weights.level == 0 else module.hidden_size
        return slice(one), slice(one + 1, one + 1 + module.hidden_size), one

    def _sums(self, into: slice, hidden: slice, orders: Sequence[tuple[int, ...]], factors: Tensor) -> Sums:
        """Sums for those that are trained, from the gates' columns that the two maps end in."""
        rows = factors.repeat_interleave(self.rows).repeat(self.steps)
        # One product also where the maps end in different gates: two narrow ones take as long.
        seen, gates = self.seen[: self.steps].flatten(0, 1), self.gates[: self.steps].flatten(0, 1)
        total = weighted(seen, gates, rows)
        inputs, states, one = self._columns()
        parts = (total[into, inputs], total[hidden, states], total[into, one], total[hidden, one])
        return [
            (own, restored(part, orders[number % 2]))
            for number, (own, part) in enumerate(zip(self.weights.own(), parts, strict=True))
            if own is not None and own.requires_grad
        ]


class GruShare(RecurrentShare):
    """A GRU layer's share.

    Its ``gates`` are n, r, z as the inputs reach them, and n as the state reaches it: so the first three
    blocks belong to the inputs, the last three to the states.
    """

    def squared_norms(self) -> Tensor:
        """See `onepass_layers.Share`."""
        weight_in, weight_hidden, bias_in, bias_hidden = self.weights.trained()
        seen, gates = self._by_unit()
        inputs, states, _ = self._columns()
        size = gates.shape[2] // 4
        into, hidden = gates[:, :, : 3 * size], gates[:, :, size:]
        if not gram_is_cheaper(seen[:, :, states], hidden):
            first = product_norms(seen[:, :, inputs], into, weight_in, int(bias_in))
            return first + product_norms(seen[:, :, states], hidden, weight_hidden, int(bias_hidden))
        both = gram(gates[:, :, size : 3 * size])
        out = gram(gates[:, :, :size]).add_(both)
        first = gram_norms(seen[:, :, inputs], out, weight_in, int(bias_in))
        out = both.add_(gram(gates[:, :, 3 * size :]))
        return first + gram_norms(seen[:, :, states], out, weight_hidden, int(bias_hidden))

    def clipped_sums(self, factors: Tensor) -> Sums:
        """See `onepass_layers.Share`."""
        size = self.gates.shape[2] // 4
        return self._sums(slice(3 * size), slice(size, None), (GRU_ORDER, (0, 1, 2)), factors)


class LstmShare(RecurrentShare):
    """An LSTM layer's share; its ``gates`` are g, i, f, o, the same for inputs and states."""

    def squared_norms(self) -> Tensor:
        """See `onepass_layers.Share`."""
        weight_in, weight_hidden, bias_in, bias_hidden = self.weights.trained()
        seen, gates = self._by_unit()
        inputs, states, _ = self._columns()
        biases = bias_in + bias_hidden
        if weight_in and weight_hidden and (biases or not self.weights.module.bias):
            # The one that was seen counts as one bias.
            return product_norms(seen, gates, True, max(0, biases - 1))
        first = product_norms(seen[:, :, inputs], gates, weight_in, int(bias_in))
        return first + product_norms(seen[:, :, states], gates, weight_hidden, int(bias_hidden))

    def clipped_sums(self, factors: Tensor) -> Sums:
        """See `onepass_layers.Share`."""
        return self._sums(slice(None), slice(None), (LSTM_ORDER, LSTM_ORDER), factors)


def rounded(size: int) -> int:
    """Round up to what products of matrices take less time for."""
    return -(-size // ROUND) * ROUND


def ordered(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """Bring a weight's blocks from torch's order into ``order``."""
    blocks = weight.chunk(len(order))
    return torch.cat([blocks[block] for block in order])


def restored(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """Undo `ordered`."""
    blocks = weight.chunk(len(order))
    return torch.cat([blocks[order.index(block)] for block in range(len(order))])
