"""What a strategy's arguments must be: each error says what was expected and what was found."""

import math


def number(name: str, value: object, low: float, high: float = math.inf, open_low: bool = False) -> None:
    """Check a number of a strategy's settings.

    Args:
        name: The argument.
        value: What was given.
        low: Smallest possible value.
        high: What it must be below.
        open_low: Whether ``low`` itself is impossible.

    Raises:
        ValueError: It is not a number in this range.
    """
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if real and low <= value < high and not (open_low and value == low):  # type: ignore[operator]
        return
    start = f"above {low:g}" if open_low else f"from {low:g}"
    end = f" and below {high:g}" if high < math.inf else ""
    raise ValueError(f"{name}: expected a number {start}{end}, found {value!r}")


def whole(name: str, value: object, low: int) -> None:
    """Check a whole number of a strategy's settings; ``low`` is the smallest possible.

    Raises:
        ValueError: It is not one.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: expected a whole number from {low}, found {value!r}")
