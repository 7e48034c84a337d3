"""The noise of one round: Gaussian, in double precision, on a grid, drawn ahead on another thread.

Floating-point sums betray what was added (Mironov, "On significance of the least significant bits for
differential privacy", 2012): which numbers a float can hold near ``sum + noise`` depends on the sum. Here
both lie on the same grid of 2**-28 standard deviations. The sum is rounded to it first, the noise is
rounded to it when drawn, and adding the two is exact in double precision. Since the sum is on the grid,
``sum + round(noise) == round(sum + noise)``: what leaves is a function of the ideal mechanism's output, and
every point of the grid can be reached whatever the data. What rounding the sum adds to its sensitivity, and
what single precision adds before it, is paid by `margin`: noise is drawn that much larger than charged.

Importing this module imports torch.
"""

import contextlib
import math
import queue
import threading
from collections.abc import Iterator

from torch import Tensor

from interplant.privacy.plan import Plan
from interplant.privacy.stream import Stream

GRID = 2.0**-28
"""Width of the grid in standard deviations, before it is brought down to a power of two."""

SINGLE_PRECISION = 1e-2
"""Part of the clipping norm by which rounding in norms, factors and sums may pass it."""

AHEAD = 1 << 18
"""Numbers that are drawn ahead at a time, for as many steps as they make; 2 MiB."""

MOST_AHEAD = 1 << 21
"""Weights of the largest model whose noise is drawn ahead; a vector of it takes 16 MiB."""


class Noise:
    """Noise for each step of one plan, in order, each used once.

    Args:
        plan: Noise multiplier, clipping norm and steps.
        count: How many weights a step's sum has.
        stream: Where chance comes from; the operating system's if left out.
        ahead: Whether to draw the next step's noise while this one is computed.
    """

    def __init__(self, plan: Plan, count: int, stream: Stream | None = None, ahead: bool = True) -> None:
        self.count = count
        self.deviation = plan.noise * plan.clip * (1.0 + margin(plan.noise, count))
        self.grid = 2.0 ** math.floor(math.log2(plan.noise * plan.clip * GRID))
        self._stream = stream or Stream()
        self._ready: queue.Queue[Tensor | BaseException] = queue.Queue(maxsize=1)
        self._block: Iterator[Tensor] = iter(())
        self._left = plan.steps
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if ahead and count <= MOST_AHEAD:
            self._thread = threading.Thread(target=self._draw_ahead, args=(plan.steps,), daemon=True)
            self._thread.start()

    def add_to(self, total: Tensor) -> Tensor:
        """Return a step's sum with its noise: float64 (count,), on the grid.

        Args:
            total: The clipped sum, float64 (count,); it is changed.

        Raises:
            RuntimeError: The plan's steps are used up: nothing was charged for another.
        """
        if not self._left:
            raise RuntimeError("every step of the plan has had its noise; another was not charged")
        self._left -= 1
        return total.div_(self.grid).round_().mul_(self.grid).add_(self._next())

    def close(self) -> None:
        """End the thread; noise that was drawn and not used is forgotten."""
        self._closed.set()
        if self._thread:
            while self._thread.is_alive():
                with contextlib.suppress(queue.Empty):
                    self._ready.get_nowait()
                self._thread.join(0.01)

    def _next(self) -> Tensor:
        if self._thread is None:
            return self._draw(1)[0]
        noise = next(self._block, None)
        if noise is None:
            drawn = self._ready.get()
            if isinstance(drawn, BaseException):
                raise drawn
            self._block = iter(drawn)
            noise = next(self._block)
        return noise

    def _draw(self, steps: int) -> Tensor:
        """Return the noise of so many steps, (steps, count)."""
        noise = self._stream.gaussian(steps * self.count)
        return noise.mul_(self.deviation / self.grid).round_().mul_(self.grid).view(steps, self.count)

    def _draw_ahead(self, steps: int) -> None:
        # Many at once: two threads that take turns with the interpreter hold each other up.
        block = max(1, AHEAD // max(1, self.count))
        try:
            for done in range(0, steps, block):
                if self._closed.is_set():
                    return
                self._ready.put(self._draw(min(block, steps - done)))
        except BaseException as error:  # noqa: BLE001 # raised again where the noise is waited for
            self._ready.put(error)


def margin(noise: float, count: int) -> float:
    """Return by what part the noise is larger than charged.

    Rounding a sum of ``count`` weights to the grid moves two neighbours apart by at most one grid step a
    weight; see also `SINGLE_PRECISION`.
    """
    return SINGLE_PRECISION + noise * GRID * math.sqrt(count)
