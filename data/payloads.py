"""JSON messages as readings: one, a list of them, or a list beside what all of them share."""

import json
from collections.abc import Iterator
from typing import Any, Final

LARGEST: Final = 4 << 20
"""Bytes of a message that is still looked into."""

MOST_NAMES: Final = 1000
"""Keys that a reading may have."""

MOST_SHARED: Final = 2 * LARGEST
"""Bytes of JSON that the keys which a message's readings share may weigh, in all its readings together."""

SHOWN: Final = 200
"""Characters that are kept of what is no reading."""


def readings(payload: bytes | bytearray) -> Iterator[dict[str, Any] | str]:
    """Yield the readings of a message, and what is none as text; at least one of either.

    Args:
        payload: ``{…}``, ``[{…}, …]`` or ``{"readings": [{…}, …], …}``, whose other keys hold for each
            reading that does not have them itself. Values are numbers, texts, true, false or null. Of more
            readings than `MOST_SHARED` allows, the rest are one text that counts them.
    """
    content = _parsed(payload)
    shared: dict[str, Any] = {}
    if isinstance(content, dict) and isinstance(content.get("readings"), list):
        shared, content = content, content.pop("readings")
    entries = content if isinstance(content, list) else [content]
    most = _most(shared) if shared else len(entries)
    for entry in entries[:most]:
        reading = shared | entry if isinstance(entry, dict) else entry
        yield reading if _is_flat(reading) else _shown(reading)
    if more := len(entries[most:]):
        told = f"{more} more readings in one message, too many for all that they share"
        yield f"{told}: {_shown(entries[most])}"[:SHOWN]
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


def _most(shared: dict[str, Any]) -> int:
    """How many readings may have what they share."""
    return max(1, MOST_SHARED // len(_json(shared) or " " * MOST_SHARED))


def _shown(entry: Any) -> str:
    if isinstance(entry, str):
        return entry[:SHOWN]
    return (_json(entry) or "nested too deeply to be written again")[:SHOWN]


def _json(content: Any) -> str:
    """Content as JSON; empty if it is as deep as can just be read."""
    try:
        return json.dumps(content)
    except RecursionError:
        return ""
