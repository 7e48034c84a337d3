"""Shares of convolutions: linear maps whose positions are the patches that the kernel saw.

See `onepass_layers` for what a share is. Importing this module imports torch.
"""

from torch import Tensor, nn

from interplant.privacy.onepass_layers import Share
from interplant.privacy.onepass_linear import Positions, over_positions

Conv = nn.Conv1d | nn.Conv2d


def conv(layer: Conv, inputs: Tensor, grads: Tensor, rows: int) -> Share:
    """The share of a convolution over (N, C, L) or (N, C, H, W), padded with zeros.

    Args:
        layer: The layer.
        inputs: What came in.
        grads: Gradient of what came out.
        rows: How many samples in a row are one unit: its positions are the patches of all of them.
    """
    lines = isinstance(layer, nn.Conv1d)  # a line is one row
    places = (1, grads.shape[2]) if lines else grads.shape[2:]
    into = _patches(layer, _padded(layer, inputs.unsqueeze(2) if lines else inputs), rows, places)
    out, groups = grads.flatten(2), layer.groups
    if rows == groups == 1:
        return over_positions(Positions(layer, into, out.mT, 1, _shaped))
    out = out.view(len(out) // rows, rows, groups, layer.out_channels // groups, -1).permute(0, 2, 1, 4, 3)
    return over_positions(Positions(layer, into, out.reshape(*into.shape[:2], -1), groups, _shaped))


def _padded(layer: Conv, inputs: Tensor) -> Tensor:
    """Apply the padding, channels last: (N, H, W, C)."""
    left, right, up, down = _edges(layer)
    count, channels, high, wide = inputs.shape
    found = inputs.new_zeros((count, up + high + down, left + wide + right, channels))
    found[:, up : up + high, left : left + wide] = inputs.permute(0, 2, 3, 1)
    return found


def _patches(layer: Conv, inputs: Tensor, rows: int, places: tuple[int, ...]) -> Tensor:
    """What the kernel saw: (units * groups, rows * positions, kernel * channels of a group).

    Channels come last, so that a patch is copied in long pieces.
    """
    sample, row, column, channel = inputs.stride()
    (step_y, step_x), (hole_y, hole_x) = _two(layer.stride), _two(layer.dilation)
    units, channels = len(inputs) // rows, layer.in_channels // layer.groups
    seen = inputs.as_strided(
        (units, layer.groups, rows, *places, *_two(layer.kernel_size), channels),
        (
            *(sample * rows, channel * channels, sample),
            *(row * step_y, column * step_x, row * hole_y, column * hole_x, channel),
        ),
    )
    # Patches that overlap in memory are no matrix to BLAS: it would copy them one sample at a time.
    return seen.reshape(units * layer.groups, rows * places[0] * places[1], -1).contiguous()


def _shaped(total: Tensor, own: nn.Parameter) -> Tensor:
    """Put a weight's channels before its kernel again; a bias stays as it is."""
    if own.dim() == 1:
        return total
    outputs, channels = own.shape[:2]
    return total.view(outputs, -1, channels).mT.reshape(own.shape)


def _two(sides: tuple[int, ...], rest: int = 1) -> tuple[int, int]:
    """Two dimensions' worth of a convolution's setting; a line is one row."""
    return (rest, sides[0]) if len(sides) == 1 else (sides[0], sides[1])


def _edges(layer: Conv) -> tuple[int, ...]:
    """What is added left, right, above and below."""
    if isinstance(layer.padding, str):
        across = zip(_two(layer.kernel_size), _two(layer.dilation), strict=True)
        total = [d * (k - 1) if layer.padding == "same" else 0 for k, d in across]
        (up, down), (left, right) = ((side // 2, side - side // 2) for side in total)
    else:
        up, left = _two(layer.padding, 0)
        down, right = up, left
    return left, right, up, down


def unsupported(layer: Conv) -> str | None:
    """Say why the share of a convolution cannot be had, or None."""
    return f"padding_mode {layer.padding_mode!r}" if layer.padding_mode != "zeros" else None
