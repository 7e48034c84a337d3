"""How a source waits for a counterpart that is away."""

import logging
import threading
from dataclasses import dataclass, field

log = logging.getLogger(__name__)


@dataclass
class Patience:
    """Waits that double with each failure in a row.

    Args:
        who: The counterpart, for the log.
        first: Seconds of the first wait.
        longest: Seconds that no wait is longer than.
    """

    who: str
    first: float = 0.5
    longest: float = 5.0
    _failures: int = field(default=0, init=False)

    def failed(self, why: object) -> float:
        """Log a failure, but not each one of a long row, and return the seconds to wait.

        Args:
            why: What happened; its first line is logged.
        """
        seconds = min(self.first * 2.0 ** min(self._failures, 16), self.longest)
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            reason = (str(why) or type(why).__name__).splitlines()[0]
            log.warning("%s is away (try %d), waiting: %s", self.who, self._failures, reason)
        return seconds

    def wait(self, why: object, stop: threading.Event) -> None:
        """Log a failure and wait, at most until ``stop``."""
        stop.wait(self.failed(why))

    def succeeded(self) -> None:
        """Start over: the counterpart is there."""
        if self._failures:
            log.info("%s is back after %d tries", self.who, self._failures)
        self._failures = 0
