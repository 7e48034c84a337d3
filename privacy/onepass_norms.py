"""GroupNorm and LayerNorm: so few weights that each unit's gradient is formed, by torch's own backward.

The layers are run here, so that what torch computes on the way (means and deviations) is computed once.
See `onepass_layers` for what a share is. Importing this module imports torch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from interplant.privacy.onepass_layers import Tape, trained
from interplant.privacy.onepass_linear import Formed, view_as

Norm = nn.GroupNorm | nn.LayerNorm


def run(layer: Norm, tape: Tape, inputs: Tensor) -> Tensor:
    """Do what ``layer`` does, leaving on ``tape`` what its gradients need.

    Args:
        layer: A GroupNorm on (N, C, ...) or a LayerNorm on (N, ..., D).
        tape: Where backward leaves the layer's share.
        inputs: What comes in.
    """
    tape.note(layer, inputs, len(inputs))
    kind = _Group if isinstance(layer, nn.GroupNorm) else _Layer
    output: Tensor = kind.apply(layer, tape, tape.token, inputs)  # type: ignore[no-untyped-call]
    return output


class _Group(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: nn.GroupNorm, tape: Tape, _token: Tensor, inputs: Tensor) -> Tensor:
        """Return the output, as large as the inputs."""
        inputs = inputs.contiguous()
        count, channels = inputs.shape[:2]
        output, *moments = torch.native_group_norm(
            inputs,
            layer.weight,
            layer.bias,
            count,
            channels,
            inputs[0, 0].numel(),
            layer.num_groups,
            layer.eps,
        )
        ctx.layer, ctx.tape, ctx.kept = layer, tape, (inputs, *moments)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """To torch the samples are channels of one: so it leaves each sample's gradient apart."""
        layer, (inputs, mean, scale) = ctx.layer, ctx.kept
        count, channels = inputs.shape[:2]
        one = (1, count * channels, -1)
        below, weight, bias = torch.ops.aten.native_group_norm_backward(
            *(grad.reshape(one), inputs.view(one), mean.view(1, -1), scale.view(1, -1)),
            layer.weight.detach().repeat(count),
            *(1, count * channels, inputs[0, 0].numel(), count * layer.num_groups),
            (ctx.needs_input_grad[3], True, True),
        )
        _leave(ctx.tape, layer, weight.view(count, -1), bias.view(count, -1))
        return None, None, None, _shaped(below, inputs)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: nn.LayerNorm, tape: Tape, _token: Tensor, inputs: Tensor) -> Tensor:
        """Return the output, as large as the inputs."""
        output, *moments = torch.native_layer_norm(
            inputs, layer.normalized_shape, layer.weight, layer.bias, layer.eps
        )
        ctx.layer, ctx.tape, ctx.kept = layer, tape, (inputs, *moments)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Leave each sample's gradient: the sum over its positions."""
        layer, (inputs, mean, scale) = ctx.layer, ctx.kept
        below, _, _ = torch.ops.aten.native_layer_norm_backward(
            *(grad, inputs, layer.normalized_shape, mean, scale, layer.weight, layer.bias),
            (ctx.needs_input_grad[3], False, False),
        )
        shape = (len(inputs), -1, *layer.normalized_shape)
        scaled = ((inputs - mean) * scale).mul_(grad)
        weight, bias = (part.reshape(shape).sum(1).flatten(1) for part in (scaled, grad))
        _leave(ctx.tape, layer, weight, bias)
        return None, None, None, below


def _leave(tape: Tape, layer: Norm, weight: Tensor, bias: Tensor) -> None:
    """Add up each unit's samples, of what is trained."""
    grads = [
        (own, part if tape.rows == 1 else part.view(-1, tape.rows, part.shape[1]).sum(1))
        for own, part in zip(trained(layer), (weight, bias), strict=True)
        if own is not None
    ]
    tape.shares.append(Formed(grads, view_as))


def _shaped(below: Tensor | None, inputs: Tensor) -> Tensor | None:
    return None if below is None else below.view(inputs.shape)
