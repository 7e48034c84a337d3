"""Arbitrary bytes at every reader: nothing crashes, and no row vanishes unaccounted for."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interplant.core.schema import Source
from interplant.data.columns import column, from_rows
from interplant.data.columns import unparsed as unparsed_table
from interplant.data.csv_dialect import dialect
from interplant.data.csv_pieces import rows
from interplant.data.door import admit
from interplant.data.payloads import readings as payloads_readings
from interplant.data.reasons import RULES
from interplant.data.sources import UNPARSED

from .feeds import CONTRACT, handed, opened, readings, unparsed

NUMBERS = frozenset({"heat", "flow", "cycle"})
CELLS = st.one_of(
    st.floats().map(str),
    st.integers().map(str),
    st.text(max_size=8).filter(lambda text: "\n" not in text and "\r" not in text),
    st.sampled_from(["", "nan", "1,5", '"', '"a"', '"1,2"', "\0", "1e999", "2024-01-01", "true", "0x10"]),
)
LINES = st.lists(st.lists(CELLS, min_size=1, max_size=6).map(",".join), max_size=12)
CODECS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of one example's own: a fixture would be shared by all of them."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@given(LINES, CODECS)
@example(['x"y,"z', "1,2", "3,4", "5,6"], "utf-8")
@example(['"a', 'b",1', "3,4"], "utf-8")
def test_every_line_of_a_csv_is_a_row(lines: list[str], codec: str) -> None:
    """Values, quotes and separators at random: as many rows as lines, whatever they hold."""
    header = "machine,cycle"
    raw = "".join(f"{line}\n" for line in [header, *lines]).encode(codec, "replace")
    how = dialect(raw, separator=",", encoding=codec if codec != "utf-8-sig" else "")
    table = rows(raw[how.start :], how, NUMBERS)
    assert len(table) == sum(1 for line in lines if line)


@given(st.binary(max_size=300))
@example(b"a,b\n1,2\r3,4\n")
@example(b'a\n"\n1\n')
@settings(deadline=None)
def test_arbitrary_bytes_never_crash_a_reader(content: bytes) -> None:
    with scratch() as folder:
        (folder / "a.csv").write_bytes(content)
        (folder / "b.parquet").write_bytes(b"PAR1" + content + b"PAR1")
        handed(opened(folder, "folder", path=".", settle_seconds=1e-6))


@given(st.integers(0, 400))
@settings(deadline=None)
def test_a_csv_cut_anywhere_gives_its_whole_rows_and_the_cut_one(length: int) -> None:
    whole = b"machine,cycle,heat\n" + b"".join(b"m%d,%d,2.5\n" % (n % 3, n) for n in range(40))
    content = whole[:length]
    with scratch() as folder:
        (folder / "a.csv").write_bytes(content)
        found = handed(opened(folder, "folder", path="a.csv", settle_seconds=1e-6))
        ended, _, rest = content.rpartition(b"\n")
        assert len(readings(found)) == max(0, ended.count(b"\n"))
        assert unparsed(found) == ([rest.decode()] if rest and ended else [])


TEXTS = st.text(st.characters(), max_size=5)  # halves of surrogate pairs among them
NAMES = TEXTS | st.sampled_from(["\ud800", "\udfff", "?", "at", "heat", UNPARSED, "_rule", "_value", "a#1"])
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)


@given(
    st.lists(
        st.one_of(st.binary(max_size=50), ANYTHING.map(lambda one: json.dumps(one).encode())), max_size=8
    )
)
@example([b'{"\\ud800":1,"?":2,"\\udfff":3}'])
@example([b'{"unparsed":1}', b"7"])
@example([b'{"_rule":1}'])
@settings(deadline=None)
def test_every_message_is_rows_whatever_it_holds(payloads: list[bytes]) -> None:
    """As many rows as readings, and one at least for each message; each goes through the door."""
    found = [reading for payload in payloads for reading in payloads_readings(payload)]
    assert len(found) >= len(payloads)
    rows_ = [reading for reading in found if isinstance(reading, dict)]
    texts = [reading for reading in found if isinstance(reading, str)]
    good, bad = from_rows(rows_, NUMBERS), unparsed_table(texts, 200)
    assert len(good) == len(rows_)
    assert bad.column(UNPARSED).null_count == 0
    table = pa.concat_tables([good, bad], promote_options="permissive")
    admitted = admit(table, CONTRACT, Source(name="line", kind="mqtt"), "here")
    assert len(admitted.good) + len(admitted.bad) + len(admitted.labels) == len(found)
    assert set(admitted.bad.column("_rule").to_pylist()) <= set(RULES)


NUMBERS_AND_TEXTS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
TIMES = st.one_of(st.datetimes(), st.datetimes(timezones=st.just(UTC)), st.dates())
OTHERS = st.one_of(st.decimals(), st.binary(max_size=4), st.lists(st.integers(), max_size=2))
VALUES = st.one_of(NUMBERS_AND_TEXTS, TIMES, OTHERS)


@given(st.lists(VALUES, max_size=8), st.booleans())
@settings(deadline=None)
def test_every_value_of_a_database_stays_a_value(values: list[Any], number: bool) -> None:
    found = column(values, number)
    assert len(found) == len(values)
    assert [one is None for one in found.to_pylist()] == [one is None for one in values]


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=20))
@example(1136, b"\x80")  # a column's name that is no text
@settings(deadline=None)
def test_a_parquet_that_is_overwritten_anywhere_says_so_or_reads(place: int, noise: bytes) -> None:
    with scratch() as folder:
        pq.write_table(pa.table({"cycle": range(200)}), folder / "a.parquet")
        content = bytearray((folder / "a.parquet").read_bytes())
        place %= len(content)
        content[place : place + len(noise)] = noise
        (folder / "a.parquet").write_bytes(content)
        handed(opened(folder, "folder", path="a.parquet", settle_seconds=1e-6))
