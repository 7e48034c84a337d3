"""JSON messages as readings: one, a list of them, or a list beside what all of them share."""

import json
from collections.abc import Iterator
from typing import Any, Final

LARGEST: Final = 4 << 20
"""Bytes of a message that is still looked into."""

MOST_NAMES: Final = 1000
"""Keys that a reading may have."""

SHOWN: Final = 200
"""Characters that are kept of what is no reading."""


def readings(payload: bytes | bytearray) -> Iterator[dict[str, Any] | str]:
    """Yield the readings of a message, and what is none as text; at least one of either.

    Args:
        payload: ``{…}``, ``[{…}, …]`` or ``{"readings": [{…}, …], …}``, whose other keys hold for each
            reading that does not have them itself. Values are numbers, texts, true, false or null.
    """
    content = _parsed(payload)
    shared: dict[str, Any] = {}
    if isinstance(content, dict) and isinstance(content.get("readings"), list):
        shared, content = content, content.pop("readings")
    entries = content if isinstance(content, list) else [content]
    for entry in entries:
        reading = shared | entry if isinstance(entry, dict) else entry
        yield reading if _is_flat(reading) else _shown(reading)
    if not entries:
        yield payload[: 4 * SHOWN].decode("utf-8", "replace")[:SHOWN]


def _parsed(payload: bytes | bytearray) -> Any:
    """The message's content; its text if it is no JSON."""
    if len(payload) <= LARGEST:
        try:
            return json.loads(payload)
        except (ValueError, RecursionError):
            pass
    return payload[: 4 * SHOWN].decode("utf-8", "replace")


def _is_flat(reading: Any) -> bool:
    if not isinstance(reading, dict) or not 0 < len(reading) <= MOST_NAMES:
        return False
    return not any(isinstance(value, dict | list) for value in reading.values())


def _shown(entry: Any) -> str:
    return entry[:SHOWN] if isinstance(entry, str) else json.dumps(entry)[:SHOWN]
