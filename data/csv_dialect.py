"""How a CSV file is written: encoding, separator, decimal mark, names of its columns."""

import codecs
import csv
import re
from dataclasses import dataclass
from typing import Final

from interplant.data.sources import UNPARSED

HEAD: Final = 64 << 10
"""Bytes at the beginning of a file that tell how it is written."""

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SEPARATORS: Final = ";\t,|"
_COMMA: Final = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Dialect:
    r"""How a CSV file is written.

    Args:
        names: Of its columns, from its first line.
        start: Byte at which the second line starts; 0: there is no whole first line yet.
        codec: Python's name of its encoding.
        newline: How a line ends: ``\n`` or ``\r``.
        separator: Between fields.
        decimal: Before the fraction of a number.
        texts: Columns that are text whatever stands in them: a machine called 007 is not 7.
    """

    names: tuple[str, ...]
    start: int
    codec: str
    newline: str
    separator: str
    decimal: str
    texts: frozenset[str] = frozenset()


def dialect(head: bytes, separator: str = "", decimal: str = "", encoding: str = "") -> Dialect:
    """Tell how a file is written by its beginning.

    Args:
        head: Its first `HEAD` bytes.
        separator: Declared one; else that of semicolon, tab, comma and bar which the first line has most of.
        decimal: Declared one; else a comma where one stands in a number and the separator is a semicolon.
        encoding: Declared one; a byte-order mark wins over it, and without both it is UTF-8.
    """
    mark, codec = next((pair for pair in _MARKS if head.startswith(pair[0])), (b"", encoding))
    codec = {"": "utf-8", "utf8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(
        codec.lower(), codec
    )
    start = len(mark)
    while (blank := first_line(head[start:], "\n".encode(codec))) and not head[start : start + blank].strip():
        start += blank
    text = head[start:].decode(codec, "replace")
    newline = "\r" if "\r" in text and "\n" not in text else "\n"
    first, _, rest = text.partition(newline)
    bare = re.sub(r'"[^"]*"', "", first)
    separator = separator or max(_SEPARATORS, key=lambda one: (bare.count(one), one == ","))
    if not decimal:
        cells = [cell.strip() for line in rest.split(newline)[:20] for cell in fields(line, separator)]
        decimal = "," if separator == ";" and any(map(_COMMA.fullmatch, cells)) else "."
    names = once([name.strip() for name in fields(first.strip("\r\n"), separator)])
    ended = first_line(head[start:], newline.encode(codec))
    return Dialect(tuple(names), start + ended if ended else 0, codec, newline, separator, decimal)


def fields(line: str, separator: str) -> list[str]:
    """Return the fields of one line; a line that is no CSV is one field."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return [line]


def once(names: list[str]) -> list[str]:
    """Return names of which none is there twice, nor is that of what was not parsed."""
    taken = [UNPARSED, *names]
    return [name if name not in taken[: place + 1] else f"{name}#{place}" for place, name in enumerate(names)]


def first_line(raw: bytes, newline: bytes) -> int:
    """Return where the second line starts; 0: the first does not end."""
    place = raw.find(newline)
    while place > 0 and place % len(newline):
        place = raw.find(newline, place + 1)
    return place + len(newline) if place >= 0 else 0
