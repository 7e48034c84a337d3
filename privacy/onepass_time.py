"""GRU and LSTM with their own back-propagation through time, which keeps the gradient of every gate.

The equations are those of torch's documentation of `nn.GRU` and `nn.LSTM`. Between two time steps stand
one product of matrices and a few in-place operations, on what is still in the processor's cache. Importing
this module imports torch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from interplant.core.errors import InterplantError
from interplant.privacy.onepass_layers import Tape
from interplant.privacy.onepass_recurrent import (
    GRU_ORDER,
    LSTM_ORDER,
    GruShare,
    LstmShare,
    Weights,
    ordered,
    rounded,
)

State = Tensor | tuple[Tensor, Tensor] | None


def run(module: nn.GRU | nn.LSTM, tape: Tape, inputs: Tensor, state: State = None) -> tuple[Tensor, Any]:
    """Do what ``module`` does, leaving on ``tape`` what its gradients need.

    Args:
        module: One direction, any number of layers.
        tape: Where backward leaves the layers' shares.
        inputs: (N, T, I) if ``module.batch_first``, else (T, N, I).
        state: Hidden state (layers, N, H), for an LSTM with its cell state; zeros if left out.

    Raises:
        InterplantError: A packed or unbatched sequence.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() != 3:
        raise InterplantError("expected a batch of sequences of one length, found packed or single ones")
    flow = inputs.transpose(0, 1) if module.batch_first else inputs
    tape.note(module, inputs, flow.shape[1])
    starts, ends = _starts(module, flow, state), []
    for level, start in enumerate(starts):
        if level and module.dropout:
            flow = functional.dropout(flow, module.dropout, module.training)
        flow, end = _level(module, level, tape, flow, start)
        ends.append(end)
    output = flow.transpose(0, 1) if module.batch_first else flow
    stacked = tuple(torch.stack(part) for part in zip(*ends, strict=True))
    return output, stacked if isinstance(module, nn.LSTM) else stacked[0]


def _starts(module: nn.GRU | nn.LSTM, flow: Tensor, state: State) -> list[tuple[Tensor, ...]]:
    """The states of each layer before the first step."""
    if state is None:
        zeros = flow.new_zeros((flow.shape[1], module.hidden_size))
        return [(zeros, zeros)[: 2 if isinstance(module, nn.LSTM) else 1]] * module.num_layers
    parts = (state,) if isinstance(state, Tensor) else state
    return list(zip(*(part.unbind() for part in parts), strict=True))


def _level(
    module: nn.GRU | nn.LSTM, level: int, tape: Tape, flow: Tensor, start: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    weights = Weights(module, level)
    if isinstance(module, nn.LSTM):
        output, cell = _Lstm.apply(weights, tape, tape.token, flow, *start)  # type: ignore[no-untyped-call]
        return output, (output[-1], cell)
    output = _Gru.apply(weights, tape, tape.token, flow, *start)  # type: ignore[no-untyped-call]
    return output, (output[-1],)


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights: Weights, tape: Tape, _token: Tensor, inputs: Tensor, start: Tensor
    ) -> Tensor:
        """Return the hidden states (T, N, H)."""
        size, state = start.shape[1], start
        seen, before, gates = _room(weights, inputs, start)
        across = _across(weights, seen.shape[2], (slice(3 * size), slice(size, None)), (GRU_ORDER, (0, 1, 2)))
        states = inputs.new_empty((len(inputs), *start.shape))
        for now, kept in enumerate(states):
            before[now] = state
            torch.mm(seen[now], across, out=gates[now])
            new, both, candidate = torch.split(gates[now], [size, 2 * size, size], 1)
            reset, keep = both.sigmoid_().chunk(2, 1)
            _tanh(new.addcmul_(reset, candidate), new)
            state = torch.lerp(new, state, keep, out=kept)
        ctx.weights, ctx.tape, ctx.kept = weights, tape, (seen, before, gates, len(states))
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through time; the gates' gradients take the gates' place, and go on the tape."""
        seen, before, gates, steps = ctx.kept
        weight_in, weight_hidden, _, _ = ctx.weights.values()
        size = before.shape[2]
        back, kept = torch.zeros_like(before[0]), torch.empty_like(before[0])
        slopes = gates.new_empty((len(back), 2 * size))
        to_reset, to_keep = slopes.chunk(2, 1)
        for now in range(steps - 1, -1, -1):
            new, both, candidate = torch.split(gates[now], [size, 2 * size, size], 1)
            reset, keep = both.chunk(2, 1)
            back += grad[now]
            torch.sub(before[now], new, out=to_keep).mul_(back)
            torch.mul(back, keep, out=kept)
            _through_tanh(back.sub_(kept), out=new)
            torch.mul(new, candidate, out=to_reset)
            torch.mul(new, reset, out=candidate)
            _through_sigmoid(slopes, out=both)
            back, kept = kept.addmm_(gates[now][:, size:], weight_hidden), back
        ctx.tape.shares.append(GruShare(ctx.weights, seen, gates, steps, ctx.tape.rows))
        below = (
            _below(gates[:steps, :, : 3 * size], weight_in, GRU_ORDER) if ctx.needs_input_grad[3] else None
        )
        return None, None, None, below, back


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights: Weights, tape: Tape, _token: Tensor, inputs: Tensor, start: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the hidden states (T, N, H) and the last cell state (N, H)."""
        ctx.set_materialize_grads(False)
        size, state = start.shape[1], start
        seen, before, gates = _room(weights, inputs, start)
        across = _across(weights, seen.shape[2], (slice(None), slice(None)), (LSTM_ORDER, LSTM_ORDER))
        states, squashed = (inputs.new_empty((len(inputs), *start.shape)) for _ in range(2))
        cells = inputs.new_empty((len(inputs) + 1, *start.shape))
        cells[0] = cell
        for now, kept in enumerate(states):
            before[now] = state
            torch.mm(seen[now], across, out=gates[now])
            new, enter, keep, leave = gates[now].chunk(4, 1)
            _tanh(new, new)
            gates[now][:, size:].sigmoid_()
            torch.mul(keep, cells[now], out=cells[now + 1]).addcmul_(enter, new)
            _tanh(cells[now + 1], squashed[now])
            state = torch.mul(leave, squashed[now], out=kept)
        ctx.weights, ctx.tape, ctx.kept = weights, tape, (seen, gates, cells, squashed)
        return states, cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, last: Tensor | None) -> tuple[Tensor | None, ...]:
        """Go back through time; the gates' gradients take the gates' place, and go on the tape."""
        seen, gates, cells, squashed = ctx.kept
        weight_in, weight_hidden, _, _ = ctx.weights.values()
        across, steps, size = ordered(weight_hidden, LSTM_ORDER), len(squashed), cells.shape[2]
        back = torch.zeros_like(cells[0])
        carried = torch.zeros_like(back) if last is None else last.clone()
        slopes, reach = torch.empty_like(gates[0]), torch.empty_like(back)
        to_new, to_enter, to_keep, to_leave = slopes.chunk(4, 1)
        for now in range(steps - 1, -1, -1):
            new, enter, keep, leave = gates[now].chunk(4, 1)
            if grad is not None:
                back += grad[now]
            torch.mul(back, squashed[now], out=to_leave)
            carried += _through_tanh(torch.mul(back, leave, out=reach), out=squashed[now])
            torch.mul(carried, enter, out=to_new)
            torch.mul(carried, new, out=to_enter)
            torch.mul(carried, cells[now], out=to_keep)
            carried *= keep
            _through_tanh(to_new, out=new)
            _through_sigmoid(slopes[:, size:], out=gates[now][:, size:])
            torch.mm(gates[now], across, out=back)
        ctx.tape.shares.append(LstmShare(ctx.weights, seen, gates, steps, ctx.tape.rows))
        below = _below(gates[:steps], weight_in, LSTM_ORDER) if ctx.needs_input_grad[3] else None
        return None, None, None, below, back, carried


def _room(weights: Weights, inputs: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `RecurrentShare` calls ``seen``, its part for the states, and the gates, still empty."""
    (steps, count, one), size = inputs.shape, start.shape[1]
    seen = inputs.new_empty((rounded(steps), count, rounded(one + 1 + size)))
    seen[:steps, :, :one] = inputs
    seen[:steps, :, one] = float(weights.module.bias)
    seen[:steps, :, one + 1 + size :] = 0.0
    gates = inputs.new_empty((len(seen), count, 4 * size))
    seen[steps:], gates[steps:] = 0.0, 0.0
    return seen, seen[:, :, one + 1 : one + 1 + size], gates


def _across(
    weights: Weights, width: int, places: tuple[slice, slice], orders: tuple[tuple[int, ...], tuple[int, ...]]
) -> Tensor:
    """What takes a step's part of ``seen`` to all its gates, (W, 4H).

    Args:
        weights: The layer's.
        width: W.
        places: The gates that inputs and states end in.
        orders: The order of their blocks.
    """
    weight_in, weight_hidden, bias_in, bias_hidden = weights.values()
    one, size = weight_in.shape[1], weight_hidden.shape[1]
    found = weight_in.new_zeros((width, 4 * size))
    found[:one, places[0]] = ordered(weight_in, orders[0]).T
    found[one + 1 : one + 1 + size, places[1]] = ordered(weight_hidden, orders[1]).T
    for bias, place, order in zip((bias_in, bias_hidden), places, orders, strict=True):
        if bias is not None:
            found[one, place] += ordered(bias, order)
    return found


def _below(gates: Tensor, weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """The gradient of the inputs, (T, N, I)."""
    return (gates.flatten(0, 1) @ ordered(weight, order)).view(*gates.shape[:2], -1)


def _tanh(values: Tensor, out: Tensor) -> Tensor:
    """The hyperbolic tangent by the logistic function, which torch computes several times as fast."""
    return torch.mul(values, 2.0, out=out).sigmoid_().mul_(2.0).sub_(1.0)


def _through_tanh(grad: Tensor, out: Tensor) -> Tensor:
    """Bring the gradient of a tangent, which stands in ``out``, to its argument; in its place."""
    found: Tensor = torch.ops.aten.tanh_backward(grad, out, grad_input=out)
    return found


def _through_sigmoid(grad: Tensor, out: Tensor) -> Tensor:
    """The same for a logistic function."""
    found: Tensor = torch.ops.aten.sigmoid_backward(grad, out, grad_input=out)
    return found


def unsupported(module: nn.GRU | nn.LSTM) -> str | None:
    """Say what of the module is not done here, or None."""
    if module.bidirectional:
        return "both directions"
    if module.proj_size:
        return "projections"
    return None
