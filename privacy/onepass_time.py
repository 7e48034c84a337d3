"""GRU and LSTM with their own back-propagation through time, which keeps the gradient of every gate.

The equations are those of torch's documentation of `nn.GRU` and `nn.LSTM`. Between two time steps stand
one product of matrices and a few in-place operations; everything that does not depend on the neighbouring
step is computed for all steps at once. Importing this module imports torch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from interplant.core.errors import InterplantError
from interplant.privacy.onepass_recurrent import (
    GRU_ORDER,
    LSTM_ORDER,
    GruShare,
    LstmShare,
    Tape,
    Weights,
    ordered,
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
        ctx.weights, ctx.tape, ctx.inputs = weights, tape, inputs
        weight_in, weight_hidden, bias_in, bias_hidden = weights.values()
        size = start.shape[1]
        gates = _input_part(inputs, weight_in, bias_in, GRU_ORDER)
        states = inputs.new_empty((len(inputs) + 1, *start.shape))
        candidates = inputs.new_empty((len(inputs), *start.shape))
        states[0] = start
        part = gates.new_empty(gates.shape[1:])
        for now, gate in enumerate(gates):
            _affine(bias_hidden, states[now], weight_hidden, part)
            both = gate[:, size:].add_(part[:, : 2 * size]).sigmoid_()
            candidates[now] = part[:, 2 * size :]
            new = gate[:, :size].addcmul_(both[:, :size], candidates[now]).tanh_()
            torch.lerp(new, states[now], both[:, size:], out=states[now + 1])
        ctx.kept = gates, states, candidates
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through time; leave the gates' gradients on the tape."""
        gates, states, candidates = ctx.kept
        weight_in, weight_hidden, _, _ = ctx.weights.values()
        size = states.shape[2]
        found = _gru_slopes(gates, states[:-1], candidates)
        back = torch.zeros_like(states[0])
        for now in range(len(gates) - 1, -1, -1):
            back += grad[now]
            slope = found[now]
            slope.view(-1, 4, size).mul_(back.unsqueeze(1))
            back = torch.mul(back, gates[now][:, 2 * size :], out=back).addmm_(slope[:, size:], weight_hidden)
        ctx.tape.shares.append(GruShare(ctx.weights, ctx.inputs, states[:-1], found))
        below = found[:, :, : 3 * size] @ ordered(weight_in, GRU_ORDER) if ctx.needs_input_grad[3] else None
        return None, None, torch.zeros_like(ctx.tape.token), below, back


def _gru_slopes(gates: Tensor, before: Tensor, candidates: Tensor) -> Tensor:
    """What a step's state gradient is times, to give n (input part), r, z and n (hidden part)."""
    new, reset, keep = gates.chunk(3, 2)
    found = gates.new_empty((*gates.shape[:2], 4 * before.shape[2]))
    to_new, to_reset, to_keep, to_candidate = found.chunk(4, 2)
    torch.mul(1 - keep, 1 - new * new, out=to_new)
    torch.mul(to_new, reset, out=to_candidate)
    torch.mul(to_candidate * candidates, 1 - reset, out=to_reset)
    torch.mul((before - new) * keep, 1 - keep, out=to_keep)
    return found


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights: Weights, tape: Tape, _token: Tensor, inputs: Tensor, start: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the hidden states (T, N, H) and the last cell state (N, H)."""
        ctx.weights, ctx.tape, ctx.inputs = weights, tape, inputs
        ctx.set_materialize_grads(False)
        weight_in, weight_hidden, bias_in, bias_hidden = weights.values()
        size, bias = start.shape[1], _both(bias_in, bias_hidden)
        gates = _input_part(inputs, weight_in, bias, LSTM_ORDER)
        across = ordered(weight_hidden, LSTM_ORDER).T
        states, cells = (inputs.new_empty((len(inputs) + 1, *start.shape)) for _ in range(2))
        squashed = inputs.new_empty((len(inputs), *start.shape))
        states[0], cells[0] = start, cell
        for now, gate in enumerate(gates):
            gate.addmm_(states[now], across)
            new, (enter, keep, leave) = gate[:, :size].tanh_(), gate[:, size:].sigmoid_().chunk(3, 1)
            torch.mul(keep, cells[now], out=cells[now + 1]).addcmul_(enter, new)
            torch.tanh(cells[now + 1], out=squashed[now])
            torch.mul(leave, squashed[now], out=states[now + 1])
        ctx.kept = gates, states, cells, squashed, across
        return states[1:], cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, last: Tensor | None) -> tuple[Tensor | None, ...]:
        """Go back through time; leave the gates' gradients on the tape."""
        gates, states, cells, squashed, across = ctx.kept
        size = states.shape[2]
        found, through = _lstm_slopes(gates, cells[:-1], squashed)
        back = torch.zeros_like(states[0])
        carried = torch.zeros_like(back) if last is None else last.clone()
        for now in range(len(gates) - 1, -1, -1):
            if grad is not None:
                back += grad[now]
            carried.addcmul_(back, through[now])
            slope = found[now]
            slope[:, : 3 * size].view(-1, 3, size).mul_(carried.unsqueeze(1))
            slope[:, 3 * size :].mul_(back)
            carried *= gates[now][:, 2 * size : 3 * size]
            torch.mm(slope, across.T, out=back)
        ctx.tape.shares.append(LstmShare(ctx.weights, ctx.inputs, states[:-1], found))
        weight_in = ctx.weights.values()[0]
        below = found @ ordered(weight_in, LSTM_ORDER) if ctx.needs_input_grad[3] else None
        return None, None, torch.zeros_like(ctx.tape.token), below, back, carried


def _lstm_slopes(gates: Tensor, before: Tensor, squashed: Tensor) -> tuple[Tensor, Tensor]:
    """What a step's gradient is times to give g, i, f (of the cell) and o (of the state).

    And what the state's gradient is times to reach the cell.
    """
    new, enter, keep, leave = gates.chunk(4, 2)
    found = torch.empty_like(gates)
    to_new, to_enter, to_keep, to_leave = found.chunk(4, 2)
    torch.mul(enter, 1 - new * new, out=to_new)
    torch.mul(new * enter, 1 - enter, out=to_enter)
    torch.mul(before * keep, 1 - keep, out=to_keep)
    torch.mul(squashed * leave, 1 - leave, out=to_leave)
    return found, leave * (1 - squashed * squashed)


def _input_part(inputs: Tensor, weight: Tensor, bias: Tensor | None, order: tuple[int, ...]) -> Tensor:
    """The gates' sums as far as the inputs make them, for all steps: (T, N, kH)."""
    moved = None if bias is None else ordered(bias, order)
    return functional.linear(inputs, ordered(weight, order), moved)


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None else one + other


def _affine(bias: Tensor | None, state: Tensor, weight: Tensor, out: Tensor) -> None:
    if bias is None:
        torch.mm(state, weight.T, out=out)
    else:
        torch.addmm(bias, state, weight.T, out=out)


def unsupported(module: nn.GRU | nn.LSTM) -> str | None:
    """Say what of the module is not done here, or None."""
    if module.bidirectional:
        return "both directions"
    if module.proj_size:
        return "projections"
    return None
