"""What training takes windows from: an array in memory, or what can be asked for some at a time."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Inputs(Protocol):
    """Windows, float32 (N, channels, length): an array, or a file that is read as batches ask for it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Windows, channels, length."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32."""

    @property
    def nbytes(self) -> int:
        """Memory that the windows themselves take."""

    def __len__(self) -> int:
        """Windows."""

    def __getitem__(self, wanted: Any, /) -> NDArray[np.float32]:
        """Return the windows of these numbers (n,), or of a slice."""
