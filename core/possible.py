"""Which values of a configuration are possible, and the sentence about one that is not."""

import math
from typing import Any


class Impossible(ValueError):
    """A value that has the right type and cannot be.

    Args:
        key: Dotted key in the file.
        expected: What would be possible, and what was found.
    """

    def __init__(self, key: str, expected: str) -> None:
        self.key = key
        super().__init__(expected)


def need(condition: bool, key: str, expected: str) -> None:
    """Raise `Impossible` unless ``condition`` holds."""
    if not condition:
        raise Impossible(key, expected)


def is_range(ends: Any) -> bool:
    """Whether ``ends`` is a pair of numbers, the lower first."""
    if not isinstance(ends, list) or [type(end) for end in ends if type(end) not in (int, float)]:
        return False
    return len(ends) == 2 and bool(ends[0] < ends[1])


def is_finite(number: float) -> bool:
    """Whether a number is finite, as a floating-point one too."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def is_number(text: str) -> bool:
    """Whether ``text`` is how a number is written."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_name(text: str) -> bool:
    """Whether ``text`` is letters, digits and hyphens, at most 63."""
    return 0 < len(text) <= 63 and text.isascii() and text.replace("-", "a").isalnum()


def one_of(value: str, allowed: tuple[str, ...], key: str) -> None:
    """Raise `Impossible` unless ``value`` is one of ``allowed``."""
    need(value in allowed, key, f"expected one of {', '.join(allowed)}, found {value!r}")


def count(value: int, most: int, key: str) -> None:
    """Raise `Impossible` unless ``value`` is 1 to ``most``."""
    need(value >= 1, key, f"expected 1 or more, found {value}")
    need(value <= most, key, f"expected at most {most}, found {value}")


def between(value: float, low: float, high: float, key: str) -> None:
    """Raise `Impossible` unless ``value`` is ``low`` to ``high``."""
    need(low <= value <= high, key, f"expected {low:g} to {high:g}, found {value}")


def address(text: str, key: str) -> None:
    """Raise `Impossible` unless ``text`` is ``host:port``."""
    host, _, port = text.rpartition(":")
    good = bool(host) and port.isdigit() and 0 < int(port) < 65536
    need(good, key, f"expected host:port, found {text!r}")
