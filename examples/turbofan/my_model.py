"""A model of your own: what Interplant asks of it, on one screen.

It is a plain ``torch.nn.Module`` that each plant has installed itself; only its name and arguments
stand in the task, and no code ever crosses. It must

- take ``channels`` and ``window``, and whatever the task's ``model.args`` names;
- map windows (batch, channels, window) to (batch, 1), in units of the task's cap;
- treat each window by itself, and keep no statistics: GroupNorm or LayerNorm, not BatchNorm;
- be made of layers that Opacus can train privately: convolutions, linear layers, norms, embeddings,
  or its own ``opacus.layers.DPGRU`` and ``DPLSTM`` in place of ``nn.GRU`` and ``nn.LSTM``.
"""

from torch import Tensor, nn


class Block(nn.Module):
    """A dilated convolution that adds to what it is given.

    Args:
        width: Channels in and out.
        dilation: Readings between the taps; it doubles from block to block.
    """

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv1d(width, width, kernel_size=3, dilation=dilation, padding=dilation),
            nn.GroupNorm(4, width),
            nn.ReLU(),
        )

    def forward(self, readings: Tensor) -> Tensor:
        """Map (batch, width, window) to the same shape."""
        changed: Tensor = readings + self.change(readings)
        return changed


class ResidualRegressor(nn.Module):
    """Dilated convolutions with shortcuts, then the mean over the window's last readings.

    Args:
        channels: Input channels: settings, then sensors.
        window: Readings in a window.
        width: Channels inside; a multiple of 4.
        depth: Blocks; each sees twice as far as the one before.
        tail: Last readings that are averaged.
    """

    def __init__(self, channels: int, window: int, width: int = 24, depth: int = 3, tail: int = 10) -> None:
        super().__init__()
        self.tail = min(tail, window)
        self.inward = nn.Conv1d(channels, width, kernel_size=1)
        self.blocks = nn.Sequential(*(Block(width, 2**step) for step in range(depth)))
        self.outward = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, windows: Tensor) -> Tensor:
        """Map windows (batch, channels, window) to cycles left (batch, 1), in units of the cap."""
        readings = self.blocks(self.inward(windows))
        left: Tensor = self.outward(readings[:, :, -self.tail :].mean(dim=2))
        return left
