"""Databases as a source; SQLite here, PostgreSQL in the system tests."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from interplant.core.errors import UsageError
from interplant.data.sources import Feed

from .feeds import handed, opened, rows

Make = Callable[..., Feed]


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    made = sa.create_engine(f"sqlite:///{tmp_path}/plant.db", poolclass=sa.NullPool)
    with made.begin() as connection:
        connection.execute(sa.text("create table readings (machine text, cycle int, heat, number int)"))
    return made


@pytest.fixture
def insert(engine: sa.Engine) -> Callable[..., None]:
    def put(*numbers: int, heat: Any = 1.5) -> None:
        with engine.begin() as connection:
            for number in numbers:
                words = {"cycle": number, "heat": heat, "number": number}
                connection.execute(
                    sa.text("insert into readings values ('m1', :cycle, :heat, :number)"), words
                )

    return put


@pytest.fixture
def feed(tmp_path: Path, engine: sa.Engine) -> Make:
    def make(**args: Any) -> Feed:
        plain = {"url": str(engine.url), "table": "readings", "watermark": "number", "overlap": 0}
        return opened(tmp_path, "sql", **plain | args)

    return make


def numbers(feed: Feed, keep: bool = True) -> list[int]:
    return [row["number"] for row in rows(handed(feed, keep))]


def test_rows_come_in_the_order_of_the_watermark_some_at_a_time(
    feed: Make, insert: Callable[..., None]
) -> None:
    insert(3, 1, 2, 5, 4)
    found = handed(feed(batch_rows=2))
    assert [len(batch.table) for batch in found] == [2, 2, 1]
    assert [row["number"] for row in rows(found)] == [1, 2, 3, 4, 5]
    assert rows(found)[0] == {"machine": "m1", "cycle": 1.0, "heat": 1.5, "number": 1}


def test_a_second_read_goes_on_at_the_mark_and_ties_at_it_are_not_missed(
    feed: Make, insert: Callable[..., None]
) -> None:
    insert(1, 2)
    assert numbers(feed()) == [1, 2]
    insert(2, 3)
    assert numbers(feed()) == [2, 2, 3]


def test_rows_that_are_committed_late_come_within_the_overlap(
    feed: Make, insert: Callable[..., None]
) -> None:
    insert(1, 2, 10)
    assert numbers(feed()) == [1, 2, 10]
    insert(7)
    assert numbers(feed(overlap=3)) == [7, 10]


@pytest.mark.parametrize(
    ("mark", "early", "late"),
    [
        ("2026-01-01 08:02:00", "2026-01-01 08:00:59", "2026-01-01 08:01:50"),
        ("2026-01-01T00:00:30Z", "2025-12-31T23:59:29Z", "2025-12-31T23:59:30.5Z"),
        ("2026-01-01T08:02:00.250+01:00", "2026-01-01T08:00:59.999+01:00", "2026-01-01T08:01:00.000+01:00"),
        ("2026-01-01 08:02", "2026-01-01 08:00", "2026-01-01 08:01"),
        ("2026-01-02", "2025-12-31", "2026-01-01"),
    ],
)
def test_a_time_that_is_text_is_moved_back_as_a_time(
    feed: Make, engine: sa.Engine, mark: str, early: str, late: str
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("create table events (at text)"))

    def put(*times: str) -> None:
        with engine.begin() as connection:
            for time in times:
                connection.execute(sa.text("insert into events values (:at)"), {"at": time})

    put(mark)
    of = {"table": "events", "watermark": "at", "overlap": 60}
    assert rows(handed(feed(**of))) == [{"at": mark}]
    put(early, late)
    assert rows(handed(feed(**of))) == [{"at": late}, {"at": mark}]


@pytest.mark.parametrize(
    ("values", "overlap", "said"),
    [
        (
            ["a17"],
            60,
            "overlap: expected 0, as the watermark 'a17' is a text and no time such as .*, found 60",
        ),
        (["2026-13-01"], 60, "overlap: expected 0, as the watermark '2026-13-01' is a text"),
        (["2026-01-01"], 1e11, r"overlap: expected one that 2026-01-01 can be moved back by, found 1e\+11"),
        ([b"x"], 0, "watermark: expected numbers, times or texts, found bytes; name another column"),
        ([1, "x"], 0, "watermark: expected values that can be put in order, found int and str"),
    ],
)
def test_a_watermark_that_cannot_be_gone_on_from_is_one_sentence(
    feed: Make, engine: sa.Engine, values: list[Any], overlap: float, said: str
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("create table events (at)"))
        for value in values:
            connection.execute(sa.text("insert into events values (:at)"), {"at": value})
    with pytest.raises(UsageError, match=rf"^data\.sources\.line\.args: {said}"):
        handed(feed(table="events", watermark="at", overlap=overlap, batch_rows=1))


@pytest.mark.parametrize("kind", ["timestamp", "date"])
def test_an_overlap_longer_than_the_calendar_is_one_sentence(
    feed: Make, tmp_path: Path, kind: str, insert: Callable[..., None]
) -> None:
    insert(1)
    written = {"timestamp": {"datetime": "2026-01-01T08:00:00"}, "date": {"date": "2026-01-01"}}[kind]
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "mark.json").write_text(json.dumps({"mark": written}))
    with pytest.raises(UsageError, match=r"overlap: expected one that 2026-01-01.* can be moved back by"):
        handed(feed(overlap=1e11))


def test_text_that_is_no_time_is_read_without_an_overlap(feed: Make, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("create table events (at text)"))
        connection.execute(sa.text("insert into events values ('a17')"))
    assert rows(handed(feed(table="events", watermark="at", overlap=0))) == [{"at": "a17"}]


def test_an_overlap_beyond_all_numbers_reads_all_rows(feed: Make, insert: Callable[..., None]) -> None:
    insert(1, 2)
    assert numbers(feed()) == numbers(feed(overlap=1e30)) == [1, 2]


def test_what_was_not_kept_comes_again(feed: Make, insert: Callable[..., None]) -> None:
    insert(1, 2)
    assert numbers(feed(), keep=False) == numbers(feed(), keep=False) == [1, 2]


def test_a_word_among_numbers_becomes_text_and_no_row_is_missed(
    feed: Make, insert: Callable[..., None]
) -> None:
    insert(1)
    insert(2, heat="broken")
    assert [row["heat"] for row in rows(handed(feed()))] == ["1.5", "broken"]


def test_a_query_is_read_as_a_table_is(feed: Make, insert: Callable[..., None]) -> None:
    insert(1, 2, 3)
    query = "select number, heat * 2 as heat from readings where number > 1;"
    assert rows(handed(feed(table="", query=query))) == [
        {"number": 2, "heat": 3.0},
        {"number": 3, "heat": 3.0},
    ]


def test_watching_asks_again_until_it_is_stopped(feed: Make, insert: Callable[..., None]) -> None:
    insert(1)
    stop, found = threading.Event(), []
    for batch in feed(period_seconds=0.01).batches(True, stop):
        batch.kept()
        found += [row["number"] for row in rows([batch])]
        if 2 in found:
            stop.set()
        elif found == [1]:
            insert(2)
    assert found[0] == 1
    assert found[-1] == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"table": ""}, "table: expected a table or a query, found both or neither"),
        ({"watermark": ""}, "watermark: expected a column that grows with every row, found none"),
        ({"batch_rows": 0}, "batch_rows: expected 1 or more, found 0"),
        ({"url": "nonsense"}, "url: expected one such as postgresql+pg8000://user:…@host/database"),
        ({"url": "oracle://a:b@c/d"}, "url: the library oracledb is not installed"),
        ({"speed": 1}, "speed: unknown key 'speed'"),
    ],
)
def test_wrong_words_are_refused_with_their_key(feed: Make, args: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        feed(**args)
    assert str(refused.value).startswith(f"data.sources.line.args: {said}")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"table": "nowhere"}, "no such table: nowhere"),
        ({"table": "", "query": "selec 1 from"}, "syntax error"),
        ({"table": "", "query": "select heat from readings"}, "no such column: number"),
    ],
)
def test_what_the_database_refuses_is_said_at_once(feed: Make, args: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        handed(feed(**args))
