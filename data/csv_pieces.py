"""CSV as plants write it, in pieces: Arrow's speed where all is well, and no line lost where it is not.

A line is a row. What Arrow cannot take, a line with too few or too many fields or an open quote, is handed on
as the text that came. A column with something among its numbers is handed on as text.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from io import BufferedReader
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from interplant.data.columns import unparsed
from interplant.data.csv_dialect import Dialect, fields, first_line

if TYPE_CHECKING:
    import pyarrow as pa

PIECE: Final = 64 << 20
"""Bytes of a file that are in memory at a time."""

LONGEST: Final = 10_000
"""Characters that are kept of a line that is no row."""

Text = bytes | bytearray


@dataclass(frozen=True)
class Piece:
    """Rows that follow each other in a file.

    Args:
        table: The rows.
        first: Where they start: a byte, or a row.
        end: Where the next ones will start.
        seen: Up to which byte the file has been handed over; more than ``end`` where a cut line was, too.
    """

    table: "pa.Table"
    first: int
    end: int
    seen: int


def csv_pieces(
    file: BufferedReader, how: Dialect, numbers: AbstractSet[str], start: int, size: int, cut: str
) -> Iterator[Piece]:
    """Yield a file's rows from byte ``start``, about `PIECE` bytes at a time.

    Args:
        file: Open for reading bytes.
        how: It is written.
        numbers: Names of columns that hold numbers.
        start: Where a line starts.
        size: Where to end.
        cut: What to do with a last line that does not end: ``leave`` it, as the file still grows, hand it on
            as the ``text`` that it is, or take it for a ``row``.
    """
    newline = how.newline.encode(how.codec)
    while start < size:
        file.seek(start)
        raw = bytearray(min(PIECE, size - start))
        del raw[file.readinto(raw) :]
        if cut == "leave" and len(newline) == 1 and b"\0" in raw:
            # Room that a copy has set aside and not filled yet.
            raw, size = raw[: raw.index(b"\0")], start
        end = last_line(raw, newline)
        whole = len(raw) == PIECE
        if end:
            del raw[end:]
            yield Piece(rows(raw, how, numbers), start, start + end, start + end)
            start += end
        elif whole:
            after = _skip_line(file, newline, start + PIECE, size)
            yield Piece(
                unparsed([raw[: 4 * LONGEST].decode(how.codec, "replace")], LONGEST), start, after, after
            )
            start = after
        else:
            if cut != "leave":
                yield from _cut_line(raw, newline, how, numbers, start, cut)
            return


def rows(raw: Text, how: Dialect, numbers: AbstractSet[str]) -> "pa.Table":
    """Parse whole lines; one row for each that is not empty, in no certain order.

    Args:
        raw: Lines as they stand in the file.
        how: They are written.
        numbers: Names of columns that hold numbers.
    """
    import pyarrow as pa

    text = raw if how.codec == "utf-8" else raw.decode(how.codec, "replace").encode()
    text = text if how.newline == "\n" else text.replace(b"\r", b"\n")
    text, odd = without_open_quotes(text)
    try:
        table, bad = _parse(text, how, numbers, typed=True)
        whole = _accounts_for(text, len(table) + len(bad))
    except pa.ArrowInvalid:
        whole = False
    if not whole:
        parts = [_parse_text(part, how) for part in _parts(text.decode("utf-8", "replace").encode())]
        bad = [line for _, lines in parts for line in lines]
        table = _as_numbers(pa.concat_tables([table for table, _ in parts]), how, numbers)
    if odd or bad:
        table = pa.concat_tables([table, unparsed(odd + bad, LONGEST)], promote_options="default")
    return table


def last_line(raw: Text, newline: bytes) -> int:
    """Return where the last whole line ends; 0: there is none."""
    place = raw.rfind(newline)
    while place > 0 and place % len(newline):
        place = raw.rfind(newline, 0, place + len(newline) - 1)
    return place + len(newline) if place >= 0 else 0


def without_open_quotes(text: Text) -> tuple[Text, list[str]]:
    """Take out lines with an odd number of quotes: one of them would swallow all that follow."""
    if b'"' not in text:
        return text, []
    kept: list[Text] = []
    odd: list[str] = []
    place, start = 0, 0
    for part in _parts(text):
        for first, last in _odd_lines(part):
            kept.append(text[place : start + first])
            odd.append(part[first:last].decode("utf-8", "replace").rstrip("\r\n"))
            place = start + last
        start += len(part)
    return (b"".join([*kept, text[place:]]), odd) if odd else (text, [])


def _odd_lines(part: Text) -> list[tuple[int, int]]:
    """Where the lines with an odd number of quotes start and end."""
    each = np.frombuffer(part, np.uint8)
    ends = np.flatnonzero(each == ord("\n"))
    counts = np.diff(np.searchsorted(np.flatnonzero(each == ord('"')), ends), prepend=0)
    odd = np.flatnonzero(counts % 2).tolist()
    return [(int(ends[line - 1]) + 1 if line else 0, int(ends[line]) + 1) for line in odd]


def _cut_line(
    raw: Text, newline: bytes, how: Dialect, numbers: AbstractSet[str], start: int, cut: str
) -> Iterator[Piece]:
    text = raw.decode(how.codec, "replace").strip("\r\n\0 ")
    if text and cut == "row":
        yield Piece(rows(raw + newline, how, numbers), start, start + len(raw), start + len(raw))
    elif text:
        # The next rows start with this line: it may be whole by then.
        yield Piece(unparsed([text], LONGEST), start, start, start + len(raw))


def _skip_line(file: BufferedReader, newline: bytes, place: int, size: int) -> int:
    while place < size:
        file.seek(place)
        raw = file.read(min(PIECE, size - place))
        if not raw:
            break
        if end := first_line(raw, newline):
            return place + end
        place += len(raw)
    return size


def _parse(text: Text, how: Dialect, numbers: AbstractSet[str], typed: bool) -> "tuple[pa.Table, list[str]]":
    """Let Arrow parse; also return the lines that have another number of fields."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    bad: list[str] = []

    def keep(row: Any) -> str:
        bad.append(row.text)
        return "skip"

    # Types of columns that the contract does not know, and of times, are for Arrow to find.
    numbers = numbers & set(how.names)
    types = dict.fromkeys(numbers, pa.float64()) if typed else dict.fromkeys(how.names, pa.string())
    types |= dict.fromkeys(how.texts & set(how.names), pa.string())
    table = arrow.read_csv(
        pa.BufferReader(text),
        arrow.ReadOptions(column_names=list(how.names)),
        arrow.ParseOptions(delimiter=how.separator, invalid_row_handler=keep),
        arrow.ConvertOptions(column_types=types, decimal_point=how.decimal),
    )
    if any(pa.types.is_binary(field.type) for field in table.schema):
        raise pa.ArrowInvalid("not UTF-8")
    return table, bad


def _parse_text(text: Text, how: Dialect) -> "tuple[pa.Table, list[str]]":
    """Parse all columns as text: with Arrow if every line is accounted for, else line by line."""
    import pyarrow as pa

    try:
        table, bad = _parse(text, how, frozenset(), typed=False)
        if _accounts_for(text, len(table) + len(bad)):
            return table, bad
    except pa.ArrowInvalid:
        pass
    good, bad = [], []
    for line in _some(text):
        found = fields(line, how.separator)
        if len(found) == len(how.names):
            good.append(found)
        else:
            bad.append(line)
    columns = zip(*good, strict=True) if good else ([] for _ in how.names)
    return pa.table(
        {name: pa.array(values, pa.string()) for name, values in zip(how.names, columns, strict=True)}
    ), bad


def _parts(text: Text) -> Iterator[Text]:
    """Parts of a piece at whole lines: what is made of one at a time takes many times its room."""
    place = 0
    while True:
        end = text.find(b"\n", place + (1 << 20)) + 1
        yield text[place : end or None]
        if not end:
            return
        place = end


def _some(text: Text) -> list[str]:
    """Lines that are not empty."""
    return [line for part in text.decode().split("\n") if (line := part.rstrip("\r"))]


def _accounts_for(text: Text, found: int) -> bool:
    """Whether so many rows are all lines, but for empty ones."""
    return found == text.count(b"\n") or found == sum(1 for line in text.split(b"\n") if line.strip(b"\r"))


def _as_numbers(table: "pa.Table", how: Dialect, numbers: AbstractSet[str]) -> "pa.Table":
    """Make numbers of the columns of text that hold nothing else."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow

    nothing = pa.array(arrow.ConvertOptions().null_values)
    for name in numbers & set(how.names):
        text = pc.utf8_trim_whitespace(table.column(name))
        if how.decimal == ",":
            text = pc.replace_substring_regex(text, r"^([+-]?\d*),(\d+([eE][+-]?\d+)?)$", r"\1.\2")
        text = pc.if_else(pc.is_in(text, nothing), None, text)
        try:
            values = text.cast(pa.float64())
        except pa.ArrowInvalid:
            values = text
        table = table.set_column(table.column_names.index(name), name, values)
    return table
