"""The networks that ship with Interplant. None mixes samples or keeps statistics in buffers."""

import itertools
import math

from torch import Tensor, nn


class Cnn1d(nn.Module):
    """A 1D convolutional network over a window of readings, about 30 000 parameters.

    Two strided convolutions, each followed by GroupNorm, and two linear layers; after Li, Ding and
    Sun, "Remaining useful life estimation in prognostics using deep convolution neural networks"
    (2018), with strides in place of padding to full length.

    Args:
        channels: Input channels.
        window: Readings in a window.
        width: Channels of the convolutions.
        hidden: Units of the linear layer.
        outputs: Numbers for each window.
    """

    def __init__(
        self, channels: int, window: int, width: int = 32, hidden: int = 64, outputs: int = 1
    ) -> None:
        super().__init__()
        length = math.ceil(window / 4)
        self.net = nn.Sequential(
            nn.Conv1d(channels, width, 5, stride=2, padding=2),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, stride=2, padding=2),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * length, hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, windows: Tensor) -> Tensor:
        """Map windows (batch, channels, window) to predictions (batch, outputs) in the target's units."""
        prediction: Tensor = self.net(windows)
        return prediction


class Mlp(nn.Module):
    """Linear layers over all that a window holds: for tables and for engineered features.

    Args:
        channels: Input channels.
        window: Readings in a window.
        width: Units of each hidden layer.
        depth: Hidden layers.
        outputs: Numbers for each window.
    """

    def __init__(self, channels: int, window: int, width: int = 64, depth: int = 2, outputs: int = 1) -> None:
        super().__init__()
        sizes = [channels * window, *[width] * depth]
        hidden = [
            layer
            for size, following in itertools.pairwise(sizes)
            for layer in (nn.Linear(size, following), nn.ReLU())
        ]
        self.net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], outputs))

    def forward(self, windows: Tensor) -> Tensor:
        """Map windows (batch, channels, window) to predictions (batch, outputs) in the target's units."""
        prediction: Tensor = self.net(windows)
        return prediction
