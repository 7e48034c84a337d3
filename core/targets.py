"""The kinds of target: what each predicts, with which losses, and how labels and predictions are scaled.

A model's outputs are in scaled units: time and value from 0 to 1 over the declared range, an event as one
logit, a class as one logit for each class. Nothing here is computed from data.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from interplant.core.possible import need, one_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TIME: Final = "time_to_failure"
VALUE: Final = "value"
EVENT: Final = "event"
CLASS: Final = "class"

LOSSES: Final = {
    TIME: ("mse", "huber"),
    VALUE: ("mse", "huber"),
    EVENT: ("bce",),
    CLASS: ("cross_entropy",),
}
"""The training losses that fit each kind of target."""


@dataclass
class Target:
    """What is predicted of a window: something about the contract's label at or after its last reading.

    Args:
        cap: Longest time that is told apart, in the contract's time; targets are divided by it.
        kind: ``time_to_failure``: the label, or without one the time to the machine's last reading.
            ``value``: the label at the window's last reading. ``event``: whether the label, 0 or 1 at each
            reading, is 1 at the last reading or within ``horizon`` after it. ``class``: which of
            ``classes`` the label is at the last reading.
        low: Lower end of the value's declared, public range, which becomes 0.
        high: Upper end, which becomes 1.
        horizon: How far an event is looked for, in the contract's time (seconds for timestamps).
        classes: The label's possible values, as they stand in the data: numbers or text.
    """

    cap: float = 125.0
    kind: str = TIME
    low: float = 0.0
    high: float = 1.0
    horizon: float = 0.0
    classes: list[Any] = field(default_factory=list)

    @property
    def outputs(self) -> int:
        """Numbers that a model gives for each window."""
        return len(self.classes) if self.kind == CLASS else 1

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        one_of(self.kind, tuple(LOSSES), "target.kind")
        need(self.cap > 0, "target.cap", f"expected more than 0, found {self.cap}")
        need(
            self.low < self.high,
            "target.low",
            f"expected less than target.high ({self.high:g}), found {self.low:g}",
        )
        need(self.horizon >= 0, "target.horizon", f"expected 0 or more, found {self.horizon}")
        if self.kind == CLASS:
            self._check_classes()

    def _check_classes(self) -> None:
        found = self.classes
        need(
            2 <= len(found) <= 1000,
            "target.classes",
            f"expected 2 to 1000 values of the label, found {len(found)}",
        )
        kinds = {"text" if isinstance(one, str) else "number" for one in found}
        plain = all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in found)
        need(
            plain and len(kinds) == 1,
            "target.classes",
            f"expected numbers alone or text alone, found {found!r}",
        )
        need(len(set(found)) == len(found), "target.classes", f"expected each once, found {found!r}")


def scaled(target: Target, y: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Bring labels into the units of a model's outputs.

    Args:
        target: Cap or range.
        y: Labels (N,): time, value, 0 or 1, or the place of the class.
    """
    if target.kind == TIME:
        return y / target.cap
    if target.kind == VALUE:
        return (y - target.low) / (target.high - target.low)
    return y


def restored(target: Target, predicted: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Bring the predictions of a time or a value (N,) back into the label's unit."""
    if target.kind == TIME:
        return predicted * target.cap
    return predicted * (target.high - target.low) + target.low


def told(target: Target, predicted: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Bring a model's outputs into what a person is told, and a label is compared with.

    Args:
        target: Kind and scale.
        predicted: Outputs (N,), or (N, classes).

    Returns:
        Of the same shape: a time or a value in the label's unit, an event's probability, or that of each
        class.
    """
    import numpy as np

    outputs = predicted.astype(np.float64)
    if target.kind in (TIME, VALUE):
        found = restored(target, outputs)
    elif target.kind == EVENT:
        found = 1.0 / (1.0 + np.exp(-np.clip(outputs, -700.0, 700.0)))
    else:
        sizes = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        found = sizes / sizes.sum(axis=1, keepdims=True)
    return found.astype(np.float32)


def unit(target: Target) -> str:
    """Say in what a model's outputs are, for a card or an error."""
    return {
        TIME: f"units of {target.cap:g} cycles",
        VALUE: f"the declared range, where 0 is {target.low:g} and 1 is {target.high:g}",
        EVENT: "log-odds: the logistic function gives the event's probability",
        CLASS: f"log-odds of the classes {', '.join(map(str, target.classes))}; the largest is predicted",
    }[target.kind]
