"""Folders of CSV and Parquet, as plants write them."""

import errno
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interplant.core.errors import UsageError
from interplant.data import csv_pieces, folder_source
from interplant.data.csv_pieces import Piece
from interplant.data.sources import Batch, Feed

from ..waiting import until
from .feeds import handed, opened, readings, rows, together, unparsed, watched

HEADER = b"machine,cycle,heat,flow\n"
LINES = b"m1,1,20.5,1\nm1,2,21,2\n"
HUNDRED = HEADER + b"".join(b"m1,%d,20,1\n" % number for number in range(100))
EXPECTED = [
    {"machine": "m1", "cycle": 1.0, "heat": 20.5, "flow": 1.0},
    {"machine": "m1", "cycle": 2.0, "heat": 21.0, "flow": 2.0},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def feed(folder: Path) -> Callable[..., Feed]:
    """A source of the folder; files rest after 50 ms."""

    def make(**args: Any) -> Feed:
        return opened(folder.parent, "folder", **{"path": "in", "settle_seconds": 0.05, **args})

    return make


def first_of(source: Feed) -> Batch:
    """Take one batch, keep it, and ask for no more."""
    reader = source.batches(watch=True, stop=threading.Event())
    first = next(reader)
    first.kept()
    reader.close()
    return first


@pytest.mark.parametrize(
    "content",
    [
        HEADER + LINES,
        b"\xef\xbb\xbf" + HEADER + LINES,
        (HEADER + LINES).replace(b"\n", b"\r\n"),
        (HEADER + LINES).replace(b"\n", b"\r"),
        (HEADER + LINES).replace(b"\n", b"\n\n"),
        (HEADER + LINES).replace(b",", b";"),
        (HEADER + LINES).replace(b",", b"\t"),
        (HEADER + LINES).replace(b",", b";").replace(b"20.5", b"20,5"),
        (HEADER + LINES).replace(b"m1", b'"m1"').replace(b"20.5", b'"20.5"'),
        b"\xff\xfe" + (HEADER + LINES).decode().encode("utf-16-le"),
        b"\xfe\xff" + (HEADER + LINES).decode().encode("utf-16-be"),
    ],
    ids=[
        "plain",
        "mark",
        "crlf",
        "cr",
        "blank",
        "semicolon",
        "tab",
        "comma",
        "quotes",
        "utf-16",
        "utf-16-be",
    ],
)
def test_however_a_csv_is_written_its_rows_are_the_same(
    folder: Path, feed: Callable[..., Feed], content: bytes
) -> None:
    (folder / "a.csv").write_bytes(content)
    found = handed(feed())
    assert rows(found) == EXPECTED
    assert together(found).schema.field("heat").type == pa.float64()


def test_declared_encoding_and_decimal_are_believed(folder: Path, feed: Callable[..., Feed]) -> None:
    (folder / "a.csv").write_bytes("machine\tcycle\theat\nGerät 1\t1\t20,5\n".encode("cp1252"))
    assert rows(handed(feed(encoding="cp1252", decimal=","))) == [
        {"machine": "Gerät 1", "cycle": 1.0, "heat": 20.5}
    ]


def test_a_word_among_numbers_makes_its_column_text_and_the_rest_stays_numbers(
    folder: Path, feed: Callable[..., Feed]
) -> None:
    (folder / "a.csv").write_bytes(b"machine;cycle;heat;flow\nm1;1;20,5;1\nm1;2;broken;2,5\nm1;3;-inf;\n")
    table = together(handed(feed()))
    assert table.column("heat").to_pylist() == ["20.5", "broken", "-inf"]
    assert table.column("flow").to_pylist() == [1.0, 2.5, None]
    assert table.column("cycle").to_pylist() == [1.0, 2.0, 3.0]


def test_infinities_and_other_columns_are_handed_over(folder: Path, feed: Callable[..., Feed]) -> None:
    (folder / "a.csv").write_bytes(b"machine,cycle,heat,operator\nm1,1,inf,Ann\nm1,2,nan,\n")
    found = rows(handed(feed()))
    assert found[0] == {"machine": "m1", "cycle": 1.0, "heat": math.inf, "operator": "Ann"}
    assert found[1] == {"machine": "m1", "cycle": 2.0, "operator": ""}


def test_rows_with_too_few_or_too_many_fields_and_open_quotes_are_handed_on_as_they_came(
    folder: Path, feed: Callable[..., Feed]
) -> None:
    odd = [b"m1,3,4", b"m1,4,5,6,7", b'm1,"5,6,7', b"garbage"]
    (folder / "a.csv").write_bytes(
        HEADER + b"\n".join([odd[0], odd[1], LINES.strip(), odd[2], odd[3]]) + b"\n"
    )
    found = handed(feed())
    assert readings(found) == EXPECTED
    assert sorted(unparsed(found)) == sorted(line.decode() for line in odd)


def test_bytes_that_are_no_text_cost_only_their_own_cell(folder: Path, feed: Callable[..., Feed]) -> None:
    (folder / "a.csv").write_bytes(HEADER + LINES + b"m\xff1,3,22,3\n")
    found = readings(handed(feed()))
    assert found[:2] == EXPECTED
    assert found[2] == {"machine": "m\ufffd1", "cycle": 3.0, "heat": 22.0, "flow": 3.0}


def test_a_cut_last_line_is_handed_on_as_text_and_is_a_row_once_it_is_whole(
    folder: Path, feed: Callable[..., Feed]
) -> None:
    file = folder / "a.csv"
    file.write_bytes(HEADER + LINES + b"m1,3,22.7")
    found = handed(feed())
    assert readings(found) == EXPECTED
    assert unparsed(found) == ["m1,3,22.7"]
    with file.open("ab") as more:
        more.write(b"5,3\n")
    assert rows(handed(feed())) == [{"machine": "m1", "cycle": 3.0, "heat": 22.75, "flow": 3.0}]


def test_a_last_line_without_an_end_is_a_row_where_that_is_declared(
    folder: Path, feed: Callable[..., Feed]
) -> None:
    (folder / "a.csv").write_bytes((HEADER + LINES).rstrip())
    assert rows(handed(feed(last_line="whole"))) == EXPECTED


def test_empty_files_and_bare_headers_are_no_trouble(folder: Path, feed: Callable[..., Feed]) -> None:
    for name, content in {"a.csv": b"", "b.csv": HEADER, "c.csv": b"machine", "d.txt": b"\n\n\n"}.items():
        (folder / name).write_bytes(content)
    assert handed(feed()) == []


def test_columns_that_are_gone_or_renamed_do_not_keep_the_rest(
    folder: Path, feed: Callable[..., Feed]
) -> None:
    (folder / "a.csv").write_bytes(b"machine,cycle,warmth,heat,heat\nm1,1,2,3,4\n")
    assert rows(handed(feed())) == [{"machine": "m1", "cycle": 1.0, "warmth": 2, "heat": 3.0, "heat#4": 4}]


def test_each_file_is_handed_over_once_and_what_is_appended_later(
    folder: Path, feed: Callable[..., Feed]
) -> None:
    file = folder / "a.csv"
    file.write_bytes(HEADER + LINES)
    assert len(rows(handed(feed()))) == 2
    assert handed(feed()) == []
    with file.open("ab") as more:
        more.write(b"m1,3,22,3\n")
    assert rows(handed(feed())) == [{"machine": "m1", "cycle": 3.0, "heat": 22.0, "flow": 3.0}]
    file.write_bytes(HEADER.replace(b"flow", b"mass") + LINES * 10)
    assert len(rows(handed(feed()))) == 20


@pytest.mark.parametrize("change", [(b"20.5", b"20.7"), (b"20.5", b"20"), (b"", b"")])
def test_a_file_that_changed_before_its_end_and_grew_is_read_anew(
    folder: Path, feed: Callable[..., Feed], change: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beginning by which a file is known does not reach that far."""
    monkeypatch.setattr(folder_source, "HEAD", len(HEADER))
    (folder / "a.csv").write_bytes(HEADER + LINES)
    assert len(rows(handed(feed()))) == 2
    (folder / "a.csv").write_bytes(HEADER + LINES.replace(*change) + b"m1,3,21,2\n")
    assert len(rows(handed(feed()))) == (1 if change[0] == change[1] else 3)


def test_what_was_not_kept_comes_again(folder: Path, feed: Callable[..., Feed]) -> None:
    (folder / "a.csv").write_bytes(HEADER + LINES)
    assert rows(handed(feed(), keep=False)) == rows(handed(feed(), keep=False)) == EXPECTED


@pytest.mark.parametrize(("gathered", "batches"), [(1, 20), (1 << 20, 1)])
def test_pieces_are_handed_over_as_they_are_gathered(
    folder: Path,
    feed: Callable[..., Feed],
    monkeypatch: pytest.MonkeyPatch,
    gathered: int,
    batches: int,
) -> None:
    monkeypatch.setattr(csv_pieces, "PIECE", 64)
    monkeypatch.setattr(folder_source, "GATHERED", gathered)
    (folder / "a.csv").write_bytes(HUNDRED)
    found = handed(feed())
    assert len(found) == batches
    assert [row["cycle"] for row in rows(found)] == list(range(100))
    assert handed(feed()) == []


def test_a_stop_is_seen_within_a_file(
    folder: Path, feed: Callable[..., Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_pieces, "PIECE", 64)
    monkeypatch.setattr(folder_source, "GATHERED", 1)
    (folder / "a.csv").write_bytes(HUNDRED)
    stop, found = threading.Event(), []
    for batch in feed().batches(watch=True, stop=stop):
        batch.kept()
        found.append(batch)
        stop.set()
    assert len(found) == 1
    assert [row["cycle"] for row in rows([*found, *handed(feed())])] == list(range(100))


def test_pieces_of_another_type_are_not_gathered(
    folder: Path, feed: Callable[..., Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_pieces, "PIECE", 64)
    lines = (
        b"m1,%d,20,1\n" * 10 % tuple(range(10))
        + b"m1,10,warm,1\n"
        + b"m1,%d,20,1\n" * 10 % tuple(range(11, 21))
    )
    (folder / "a.csv").write_bytes(HEADER + lines)
    found = handed(feed())
    assert len(found) == 3
    assert [row["heat"] for row in rows(found)].count("warm") == 1
    assert [row["cycle"] for row in rows(found)] == list(range(21))


def test_what_was_read_before_a_disk_fails_is_handed_over(
    folder: Path, feed: Callable[..., Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> Iterator[Piece]:
        for number, piece in enumerate(csv_pieces.csv_pieces(*args)):
            if number == 2:
                raise OSError(errno.EIO, "Input/output error")
            yield piece

    monkeypatch.setattr(csv_pieces, "PIECE", 64)
    (folder / "a.csv").write_bytes(HUNDRED)
    with monkeypatch.context() as broken:
        broken.setattr(folder_source, "csv_pieces", fails)
        first = first_of(feed())
    assert [row["cycle"] for row in rows([first, *handed(feed())])] == list(range(100))
    assert 0 < len(rows([first])) < 20


def test_a_piece_that_was_kept_does_not_come_again(
    folder: Path, feed: Callable[..., Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_pieces, "PIECE", 64)
    monkeypatch.setattr(folder_source, "GATHERED", 1)
    (folder / "a.csv").write_bytes(HUNDRED)
    first = first_of(feed())
    rest = handed(feed())
    assert len(rest) > 10
    assert [row["cycle"] for row in rows([first, *rest])] == list(range(100))


def test_lines_longer_than_a_piece_are_one_row_of_text(
    folder: Path, feed: Callable[..., Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_pieces, "PIECE", 64)
    (folder / "a.csv").write_bytes(HEADER + LINES + b"x" * 1000 + b"\n" + LINES + b"y" * 1000)
    found = handed(feed())
    assert readings(found) == EXPECTED * 2
    assert [text[0] for text in unparsed(found)] == ["x", "y"]


def test_a_file_without_lines_is_one_row_of_text(folder: Path, feed: Callable[..., Feed]) -> None:
    (folder / "a.csv").write_bytes(b"x" * 100_000)
    assert [len(text) for text in unparsed(handed(feed()))] == [10_000]


def test_a_file_that_is_being_written_is_waited_for(folder: Path, feed: Callable[..., Feed]) -> None:
    with watched(feed(settle_seconds=1.5)) as found, (folder / "a.csv").open("wb", buffering=0) as file:
        file.write(HEADER + LINES[:9])
        time.sleep(0.15)
        assert found == []
        file.write(LINES[9:])
        until(lambda: len(found) == 1)
        assert rows(found) == EXPECTED


def test_a_file_that_never_rests_is_read_as_it_grows_whole_lines_only(
    folder: Path, feed: Callable[..., Feed]
) -> None:
    with watched(feed(settle_seconds=0.1)) as found, (folder / "a.csv").open("wb", buffering=0) as file:
        file.write(HEADER)
        sent = 0
        while len(rows(found)) < 20:
            file.write(b"m1,%d," % sent)
            time.sleep(0.01)
            file.write(b"20,1\n")
            sent += 1
            assert sent < 1000
    assert [row["cycle"] for row in rows(found)] == list(range(len(rows(found))))


def test_room_that_a_copy_has_set_aside_is_not_taken_for_rows(
    folder: Path, feed: Callable[..., Feed]
) -> None:
    with watched(feed(settle_seconds=0.05)) as found, (folder / "a.csv").open("wb", buffering=0) as file:
        file.write(HEADER + LINES[:12] + b"\0" * 12)
        for number in range(6000):
            os.utime(folder / "a.csv", ns=(number, number))
            time.sleep(0.01)
            if rows(found):
                break
        assert rows(found)[0] == EXPECTED[0]
        file.seek(len(HEADER) + 12)
        file.write(LINES[12:] + b"\n")
        until(lambda: rows(found)[-1] == EXPECTED[1])
    assert unparsed(found) == []


def test_parquet_waits_for_its_footer(folder: Path, feed: Callable[..., Feed]) -> None:
    pq.write_table(pa.Table.from_pylist(EXPECTED), folder.parent / "whole.parquet")
    content = (folder.parent / "whole.parquet").read_bytes()
    with watched(feed()) as found:
        (folder / "a.parquet").write_bytes(content[:-10])
        time.sleep(0.3)
        assert found == []
        (folder / "a.parquet").write_bytes(content)
        until(lambda: rows(found) == EXPECTED)


def test_parquet_goes_on_after_the_last_rows_that_were_kept(folder: Path, feed: Callable[..., Feed]) -> None:
    table = pa.table({"machine": ["m1"] * 100, "cycle": range(100)})
    pq.write_table(table, folder / "a.parquet", row_group_size=30)
    reader = feed().batches(watch=False, stop=threading.Event())
    first = next(reader)
    first.kept()
    reader.close()
    assert [row["cycle"] for row in rows([first, *handed(feed())])] == list(range(100))
    assert handed(feed()) == []


def test_views_in_a_parquet_are_texts(folder: Path, feed: Callable[..., Feed]) -> None:
    views = {"cycle": [1, 2], "heat": pa.array(["x", None], pa.string_view()), "raw": pa.array([b"a", b"b"])}
    views["raw"] = views["raw"].cast(pa.binary_view())
    pq.write_table(pa.table(views), folder / "a.parquet")
    (batch,) = handed(feed())
    assert batch.table.take([1]).to_pylist() == [{"cycle": 2, "heat": None, "raw": b"b"}]


def test_a_damaged_parquet_says_so_in_a_row(folder: Path, feed: Callable[..., Feed]) -> None:
    pq.write_table(pa.table({"cycle": range(1000)}), folder / "a.parquet", row_group_size=500)
    content = bytearray((folder / "a.parquet").read_bytes())
    content[4:40] = b"\xff" * 36
    (folder / "a.parquet").write_bytes(content)
    assert "damaged, rows from 0 of 1000" in unparsed(handed(feed()))[0]


def test_patterns_single_files_and_hidden_ones(folder: Path, feed: Callable[..., Feed]) -> None:
    (folder / "deep").mkdir()
    for name in ("deep/a.csv", "b.dat", ".c.csv", "d.log"):
        (folder / name).write_bytes(HEADER + LINES)
    assert [batch.origin.split("/in/")[1] for batch in handed(feed())] == ["deep/a.csv from byte 24"]
    assert [batch.origin.split("/in/")[1] for batch in handed(feed(pattern="*.dat"))] == [
        "b.dat from byte 24"
    ]
    assert rows(handed(feed(path="in/d.log"))) == EXPECTED


def test_a_share_that_is_not_mounted_is_not_read_again(folder: Path, feed: Callable[..., Feed]) -> None:
    (folder / "a.csv").write_bytes(HEADER + LINES)
    stamp = (folder / "a.csv").stat()
    assert len(handed(feed())) == 1
    (folder / "a.csv").rename(folder.parent / "away")
    assert handed(feed()) == []
    (folder.parent / "away").rename(folder / "a.csv")
    os.utime(folder / "a.csv", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert handed(feed()) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"path": "nowhere"}, "path: expected a folder or a file, found none at"),
        ({"path": ""}, "path: expected a folder or a file, found none"),
        ({"separator": ";;"}, "separator: expected one character, found ';;'"),
        ({"decimal": ";"}, "decimal: expected one of"),
        ({"encoding": "klingon"}, "encoding: expected one such as utf-8"),
        ({"settle_seconds": 0}, "settle_seconds: expected more than 0, found 0"),
        ({"settle_seconds": "soon"}, "settle_seconds: Value 'soon'"),
        ({"speed": 1}, "speed: unknown key 'speed'"),
    ],
)
def test_wrong_words_are_refused_with_their_key(
    feed: Callable[..., Feed], args: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        feed(**args)
    assert str(refused.value).startswith(f"data.sources.line.args: {said}")
