"""How long a release answers beside the champion before it takes over, and the one before it after that."""

from dataclasses import dataclass

from interplant.core.possible import between, need


@dataclass
class Trial:
    """A challenger's trial in serving: shadow, then canary. All 0, the default: the gate alone decides.

    Args:
        predictions: Windows that it has to have predicted in each stage; 0: it waits for none.
        seconds: How long each stage lasts at least.
        canary: Share of the machines that it answers in the second stage; 0: there is no second stage.
        milliseconds: How long one request may take it; it goes if more than one of twenty takes longer.
        disagreement: How far it may be from the champion on average: as a share of the target's range, of the
            probability of an event, or of the windows that get another class; 1 allows any.
    """

    predictions: int = 0
    seconds: float = 0.0
    canary: float = 0.0
    milliseconds: float = 100.0
    disagreement: float = 0.25

    @property
    def asked(self) -> bool:
        """Whether there is a trial."""
        return self.predictions > 0 or self.seconds > 0

    def check(self, prefix: str = "") -> None:
        """Raise `Impossible` for the first value that cannot be."""
        _check_length(self.predictions, self.seconds, prefix)
        between(self.canary, 0.0, 1.0, f"{prefix}canary")
        need(
            self.asked or not self.canary,
            f"{prefix}canary",
            f"expected {prefix}predictions or {prefix}seconds to say how long, found 0 of both",
        )
        between(self.milliseconds, 0.1, 60_000.0, f"{prefix}milliseconds")
        between(self.disagreement, 0.0, 1.0, f"{prefix}disagreement")


@dataclass
class Probation:
    """How long the champion of before answers beside the new one, ready to take its place again.

    Args:
        predictions: Windows that the new champion has to have predicted; 0: it waits for none.
        seconds: How long it lasts at least. Both 0, the default: there is no probation.
    """

    predictions: int = 0
    seconds: float = 0.0

    @property
    def asked(self) -> bool:
        """Whether there is a probation."""
        return self.predictions > 0 or self.seconds > 0

    def check(self, prefix: str = "") -> None:
        """Raise `Impossible` for the first value that cannot be."""
        _check_length(self.predictions, self.seconds, prefix)


def _check_length(predictions: int, seconds: float, prefix: str) -> None:
    need(
        0 <= predictions <= 1_000_000_000,
        f"{prefix}predictions",
        f"expected 0 (none) to 1000000000, found {predictions}",
    )
    between(seconds, 0.0, 31_536_000.0, f"{prefix}seconds")
