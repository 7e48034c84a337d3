"""The prediction log: what was answered stays findable, bounded, and whole after a kill."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Prediction, Predictions, new_id
from interplant.core.errors import InterplantError

from .conftest import edit

ONE = Prediction("0" * 32, 1000.0, "wear-1", (0.5,))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Predictions]:
    with Predictions(tmp_path / "predictions.db", keep=1000) as opened:
        yield opened


def several(count: int, start: float = 1000.0, release: str = "wear-1") -> list[Prediction]:
    return [
        replace(ONE, id=new_id(), time=start + number, prediction=(float(number),), release=release)
        for number in range(count)
    ]


def test_what_was_answered_is_found_again_by_its_id(log: Predictions) -> None:
    whole = Prediction(
        "a" * 32, 1000.25, "wear-1", (0.1, -0.0, 1e-7), "press 4", 17.5, "wear-2", (0.2, 0.3, 0.4), True
    )
    log.add([ONE, whole])
    assert log.find("a" * 32) == replace(whole, row=2)
    assert log.find(ONE.id) == replace(ONE, row=1)
    assert log.find("b" * 32) is None


def test_single_precision_comes_back_bit_for_bit(log: Predictions) -> None:
    log.add([replace(ONE, prediction=(float.fromhex("0x1.99999a0000000p-4"),))])
    assert log.find(ONE.id).prediction[0].hex() == "0x1.99999a0000000p-4"  # type: ignore[union-attr]


def test_ids_are_unguessable_and_never_the_same() -> None:
    ids = {new_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)
    assert len({one[:8] for one in ids}) > 9_900  # no counter, no clock in front


def test_the_oldest_go_first(tmp_path: Path) -> None:
    with Predictions(tmp_path / "predictions.db", keep=10) as log:
        for number in range(7):
            log.add(several(5, start=100.0 * number))
        kept = log.since(0)
        assert log.count() == len(kept) == 10
        assert [one.time for one in kept] == [*(500.0 + n for n in range(5)), *(600.0 + n for n in range(5))]
        log.add(several(25, start=5000.0))  # more at once than are kept
        assert [one.time for one in log.since(0)] == [5015.0 + number for number in range(10)]


def test_reading_goes_on_where_it_stopped(log: Predictions) -> None:
    log.add(several(5))
    first = log.since(0, limit=3)
    assert [one.prediction for one in first] == [(0.0,), (1.0,), (2.0,)]
    log.add(several(1, start=2000.0))
    rest = log.since(first[-1].row)
    assert [one.prediction for one in rest] == [(3.0,), (4.0,), (0.0,)]
    assert log.since(rest[-1].row) == []


def test_reading_begins_at_a_time(log: Predictions) -> None:
    log.add(several(5))
    assert log.row_before(1000.0) == 0
    assert [one.time for one in log.since(log.row_before(1003.0))] == [1003.0, 1004.0]
    assert log.since(log.row_before(5000.0)) == []


def test_a_label_joins_its_prediction(log: Predictions) -> None:
    before = time.time()
    log.add([*several(2), replace(ONE, release="wear-2")])
    one, two, three = log.since(0)
    assert log.label(two.id, 17)
    assert log.label(three.id, "worn out")
    assert log.find(one.id).label is None  # type: ignore[union-attr]
    assert [(found.id, found.label) for found in log.labelled()] == [(two.id, 17), (three.id, "worn out")]
    assert [found.id for found in log.labelled(release="wear-2")] == [three.id]
    told = log.find(two.id).labelled_at  # type: ignore[union-attr]
    assert told is not None
    assert before <= told <= time.time()


def test_a_later_word_replaces_an_earlier_one_and_comes_again(log: Predictions) -> None:
    log.add(several(1))
    (one,) = log.since(0)
    log.label(one.id, 3.5)
    seen = log.labelled()[0].labelled_at
    assert seen is not None
    log.label(one.id, 4.5)
    assert [found.label for found in log.labelled(since=seen)] == [4.5]
    assert log.labelled(since=time.time() + 1) == []


def test_a_label_for_an_unknown_prediction_changes_nothing(log: Predictions) -> None:
    log.add([ONE])
    assert not log.label("f" * 32, 1.0)
    assert log.labelled() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, None, [1.0]])
def test_what_is_no_label_is_refused(log: Predictions, value: object) -> None:
    log.add([ONE])
    with pytest.raises(InterplantError, match="label: expected a finite number or text"):
        log.label(ONE.id, value)  # type: ignore[arg-type]
    assert log.labelled() == []


def test_a_batch_is_in_the_log_whole_or_not_at_all(log: Predictions) -> None:
    log.add([ONE])
    with pytest.raises(InterplantError, match="prediction log cannot be used"):
        log.add([*several(3), ONE])  # the id stands there already
    assert log.count() == 1
    log.add(several(3))
    assert log.count() == 4


def test_nothing_is_added_for_nothing(log: Predictions) -> None:
    log.add([])
    assert log.count() == 0


def test_two_processes_write_and_read_one_log(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    with Predictions(path, 1000) as mine, Predictions(path, 1000) as other:
        mine.add(several(3))
        other.add(several(2, start=2000.0))
        assert mine.count() == other.count() == 5
        assert other.label(mine.since(0)[0].id, 1)
        assert [one.label for one in mine.labelled()] == [1]


def test_only_the_plants_user_reads_it(log: Predictions) -> None:
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_what_was_added_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    code = (
        "import sys, pathlib\n"
        "from interplant.client.predictions import Prediction, Predictions, new_id\n"
        "log = Predictions(pathlib.Path(sys.argv[1]), 100_000)\n"
        "for batch in range(1_000_000):\n"
        "    log.add([Prediction(new_id(), float(batch), 'wear-1', (0.5,)) for _ in range(10)])\n"
        "    print(batch, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    with child.stdout as said:
        for line in said:
            if int(line) == 50:
                os.kill(child.pid, signal.SIGKILL)
                break
        told = [50, *(int(line) for line in said)]
    child.wait()
    with Predictions(path, 100_000) as log:
        assert log.count() % 10 == 0  # no half batch
        assert log.count() >= 10 * (told[-1] + 1)  # nothing that was said to be there is missing
        log.add(several(1))


def test_what_is_no_log_is_told(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    path.write_bytes(b"no database at all, and longer than a header of one hundred bytes " * 4)
    with pytest.raises(InterplantError, match=r"predictions\.db: the prediction log cannot be used"):
        Predictions(path, 10)


def test_a_plants_log_keeps_what_its_settings_say(bare: PlantDirectory) -> None:
    edit(bare, lambda settings: setattr(settings.serving, "keep", 2))
    with Predictions.open(bare) as log:
        log.add(several(5))
        assert log.count() == 2
        assert log.path == bare.path / "predictions.db"


def test_the_log_is_plain_sqlite_with_json(log: Predictions) -> None:
    log.add([replace(ONE, prediction=(0.25, 0.75))])
    log.label(ONE.id, "worn")
    with Predictions(log.path, 10) as again:
        row = again._database.execute("SELECT prediction, label FROM predictions").fetchone()
    assert [json.loads(cell) for cell in row] == [[0.25, 0.75], "worn"]


def test_erasing_takes_what_may_be_meant_and_nothing_else(log: Predictions) -> None:
    def left(machine: str | None, first: float | None, last: float | None) -> list[str]:
        log.erase(None, None, None)
        log.add(
            [
                replace(ONE, id=f"{who} {when}", machine=who, at=when)
                for who in ("m1", "m2", None)
                for when in (1.0, 2.0, None)
            ]
        )
        gone = log.erase(machine, first, last)
        assert log.count() == 9 - gone
        return [one.id for one in log.since(0)]

    assert left("m1", None, None) == ["m2 1.0", "m2 2.0", "m2 None"]
    assert left(None, 2.0, None) == ["m1 1.0", "m2 1.0", "None 1.0"]
    assert left(None, None, 1.0) == ["m1 2.0", "m2 2.0", "None 2.0"]
    assert left("m1", 2.0, 3.0) == ["m1 1.0", "m2 1.0", "m2 2.0", "m2 None", "None 1.0"]


def test_what_was_erased_is_in_no_file(log: Predictions) -> None:
    log.add([replace(ONE, machine="a-name-to-be-forgotten"), replace(ONE, id="1" * 32, machine="m2")])
    log.erase("a-name-to-be-forgotten", None, None)
    files = [path.read_bytes() for path in log.path.parent.iterdir()]
    assert not any(b"a-name-to-be-forgotten" in content for content in files)
    assert log.count() == 1


def test_a_number_of_400_digits_is_no_label(log: Predictions) -> None:
    log.add([ONE])
    with pytest.raises(InterplantError, match="finite number"):
        log.label(ONE.id, 10**400)


def test_erasing_that_a_reader_holds_up_is_told(log: Predictions) -> None:
    log.add([replace(ONE, machine="a-name-to-be-forgotten")])
    log._database.execute("PRAGMA busy_timeout = 1")
    reader = sqlite3.connect(log.path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM predictions").fetchone()
    with pytest.raises(InterplantError, match="let it end, then erase again"):
        log.erase("a-name-to-be-forgotten", None, None)
    reader.close()
    log.erase("a-name-to-be-forgotten", None, None)
    files = [path.read_bytes() for path in log.path.parent.iterdir()]
    assert not any(b"a-name-to-be-forgotten" in content for content in files)
