"""Labels that are text: a store keeps a number made of each, which says what it says under any contract."""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from interplant.core.files import write_atomic


@lru_cache(maxsize=4096)
def code(text: str) -> float:
    """Return the number that stands for a text: 2^52 and the first 48 bits of its SHA-256 (UTF-8).

    It is whole, exact in double precision, and no number that a label of numbers would have.
    """
    return float(2**52 + int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))


def of_codes(texts: Iterable[str]) -> dict[float, str]:
    """Return texts by the numbers that stand for them."""
    return {code(one): one for one in texts}


def remember(path: Path, texts: Iterable[str]) -> list[str]:
    """Return all texts that a store's contracts have had, and these; kept in a file, so that none is lost.

    Args:
        path: The file, a JSON list; one that cannot be read is made anew.
        texts: What the contract has now.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = [one for one in content if isinstance(one, str)] if isinstance(content, list) else []
    except (FileNotFoundError, ValueError):
        known = []
    every = list(dict.fromkeys([*known, *texts]))
    if every != known:
        write_atomic(path, json.dumps(every, ensure_ascii=False) + "\n")
    return every
