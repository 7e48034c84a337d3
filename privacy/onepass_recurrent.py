"""Shares of GRU and LSTM layers, from the gradient of every gate at every step.

A recurrent layer is two linear maps over the positions of a sequence: of its inputs, and of the states
before each step. `onepass_time` runs the layers and finds the gates' gradients; see `onepass_layers` for
what a share is. Importing this module imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from interplant.privacy.onepass_layers import (
    Share,
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
        inputs: What came in, (T, N, I).
        before: The state before each step, (T, N, H).
        gates: Gradients of the gates' sums, (T, N, 4H).
    """

    weights: Weights
    inputs: Tensor
    before: Tensor
    gates: Tensor

    def by_unit(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, states and gates as (N / rows, rows * T, ...): a unit's samples one after another."""
        inputs, before, gates = (
            by_unit(part.transpose(0, 1), rows) for part in (self.inputs, self.before, self.gates)
        )
        return inputs, before, gates

    def _blank(self, bad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return blank(self.inputs, bad, 1), blank(self.before, bad, 1), blank(self.gates, bad, 1)

    def _sums(self, into: slice, hidden: slice, orders: Sequence[tuple[int, ...]], factors: Tensor) -> Sums:
        """Sums for those that are trained, from the gates' columns that the two maps end in."""
        rows = factors.repeat(len(self.inputs))
        gates = self.gates.flatten(0, 1)
        found: Sums = []
        sides = ((self.inputs, into), (self.before, hidden))
        for place, own in enumerate(self.weights.own()):
            if own is None or not own.requires_grad:
                continue
            seen, columns = sides[place % 2]
            grads = gates[:, columns]
            total = weighted(seen.flatten(0, 1), grads, rows) if place < 2 else rows @ grads
            found.append((own, restored(total, orders[place % 2])))
        return found


class GruShare(RecurrentShare):
    """A GRU layer's share.

    Its ``gates`` are n, r, z as the inputs reach them, and n as the state reaches it: so the first three
    blocks belong to the inputs, the last three to the states.
    """

    def squared_norms(self, rows: int) -> Tensor:
        """See `onepass_layers.Share`."""
        weight_in, weight_hidden, bias_in, bias_hidden = self.weights.trained()
        inputs, before, gates = self.by_unit(rows)
        size = before.shape[2]
        into, hidden = gates[:, :, : 3 * size], gates[:, :, size:]
        if not gram_is_cheaper(before, hidden):
            first = product_norms(inputs, into, weight_in, int(bias_in))
            return first + product_norms(before, hidden, weight_hidden, int(bias_hidden))
        both = gram(gates[:, :, size : 3 * size])
        first = gram_norms(inputs, gram(gates[:, :, :size]).add_(both), weight_in, int(bias_in))
        out = both.add_(gram(gates[:, :, 3 * size :]))
        return first + gram_norms(before, out, weight_hidden, int(bias_hidden))

    def without(self, bad: Tensor) -> "GruShare":
        """See `onepass_layers.Share`."""
        return GruShare(self.weights, *self._blank(bad))

    def clipped_sums(self, factors: Tensor) -> Sums:
        """See `onepass_layers.Share`."""
        size = self.before.shape[2]
        return self._sums(slice(3 * size), slice(size, None), (GRU_ORDER, (0, 1, 2)), factors)


class LstmShare(RecurrentShare):
    """An LSTM layer's share; its ``gates`` are g, i, f, o, the same for inputs and states."""

    def squared_norms(self, rows: int) -> Tensor:
        """See `onepass_layers.Share`."""
        weight_in, weight_hidden, bias_in, bias_hidden = self.weights.trained()
        inputs, before, gates = self.by_unit(rows)
        if weight_in and weight_hidden:
            return product_norms(torch.cat([inputs, before], 2), gates, True, bias_in + bias_hidden)
        first = product_norms(inputs, gates, weight_in, int(bias_in))
        return first + product_norms(before, gates, weight_hidden, int(bias_hidden))

    def without(self, bad: Tensor) -> "LstmShare":
        """See `onepass_layers.Share`."""
        return LstmShare(self.weights, *self._blank(bad))

    def clipped_sums(self, factors: Tensor) -> Sums:
        """See `onepass_layers.Share`."""
        return self._sums(slice(None), slice(None), (LSTM_ORDER, LSTM_ORDER), factors)


def ordered(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """Bring a weight's blocks from torch's order into ``order``."""
    blocks = weight.chunk(len(order))
    return torch.cat([blocks[block] for block in order])


def restored(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """Undo `ordered`."""
    blocks = weight.chunk(len(order))
    return torch.cat([blocks[order.index(block)] for block in range(len(order))])


@dataclass
class Tape:
    """What a pass over recurrent layers leaves behind.

    Args:
        token: Stands in for the weights in the graph: asking for its gradient runs every layer's
            backward, also that of a layer below which nothing is trained.
        shares: One for each layer, added by its backward.
    """

    token: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    shares: list[GruShare | LstmShare] = field(default_factory=list)

    def as_shares(self) -> list[Share]:
        """The layers' shares."""
        return list(self.shares)
