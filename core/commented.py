"""Configuration files that explain themselves."""

import re
import textwrap
from collections.abc import Mapping
from typing import Any

from interplant.core import config

_KEY = re.compile(r"( *)([A-Za-z_]\w*):")


def to_yaml(value: Any, head: str, comments: Mapping[str, str]) -> str:
    """Return a configuration dataclass as YAML with a comment above its keys.

    Args:
        value: A dataclass of `interplant.core.schema`, complete.
        head: What the file is, for its first lines.
        comments: Dotted key to the words above it; every key must be one of ``value``'s.

    Raises:
        KeyError: A comment is for a key that the dataclass does not have.
    """
    left = dict(comments)
    lines = _comment(head, "")
    keys: list[tuple[int, str]] = []
    for line in config.to_yaml(value).splitlines():
        if match := _KEY.match(line):
            indent = match[1]
            keys = [key for key in keys if key[0] < len(indent)] + [(len(indent), match[2])]
            if words := left.pop(".".join(name for _, name in keys), ""):
                lines += ["", *_comment(words, indent)] if not indent else _comment(words, indent)
        lines.append(line)
    if left:
        raise KeyError(f"no such keys: {', '.join(sorted(left))}")
    return "\n".join(lines) + "\n"


def _comment(words: str, indent: str) -> list[str]:
    return textwrap.wrap(
        " ".join(words.split()), 96, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )
