"""The ledger: never an under-count, never a refund, and a broken chain is named."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from interplant.core.errors import InterplantError, Refusal
from interplant.privacy.accounting import rounds_left, spent
from interplant.privacy.history import End
from interplant.privacy.ledger import GENESIS, Caps, Ledger, Reservation
from interplant.privacy.plan import Charged, Event, Measurement, Plan, Statistic

ROOT = Path(__file__).parent.parent.parent

PLAN = Plan("window", records=10_000, batch=100, noise=1.0, clip=1.0, steps=100, delta=1e-5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def charge(
    ledger: Ledger,
    round: int = 1,
    lineage: str = "turbofan",
    caps: Caps | None = None,
    task: str = "rul",
    plan: Charged = PLAN,
) -> Reservation:
    return ledger.reserve(plan, run="run-1", round=round, task=task, lineage=lineage, caps=caps)


def steps(ledger: Ledger, lineage: str = "turbofan") -> int:
    return sum(event.steps for event in ledger.events(lineage))


def alter(path: Path, statement: str, *values: object) -> None:
    """Change the file as somebody would who has the plant's disk."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER never_changed")
        connection.execute("DROP TRIGGER never_removed")
        connection.execute(statement, values)
    connection.close()


def test_a_charge_is_in_the_file_when_reserve_returns(path: Path) -> None:
    reservation = charge(Ledger(path))
    (entry,) = Ledger(path).entries()
    assert (entry.kind, entry.id, entry.plan) == ("reserve", reservation.id, PLAN)
    assert (entry.run, entry.round, entry.task, entry.lineage) == ("run-1", 1, "rul", "turbofan")


def test_history_is_read_from_disk_by_a_new_process(path: Path) -> None:
    """Trap 1: the history outlives the process, and epsilon is that of all rounds."""
    for round in range(3):
        charge(Ledger(path), round)
    whole = Ledger(path).spent("turbofan", 1e-5)
    assert whole == spent([PLAN.event] * 3, 1e-5)
    assert whole.epsilon > spent([PLAN.event], 1e-5).epsilon


def test_a_reservation_without_commit_is_spent(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)
    before = ledger.spent("turbofan", 1e-5)
    ledger.commit(charge(ledger, 2))
    assert before.epsilon > 0
    assert ledger.spent("turbofan", 1e-5) == spent([PLAN.event] * 2, 1e-5)


def test_the_same_round_again_is_charged_again(path: Path) -> None:
    """After a crash the retried round draws new noise: the two reveal more than one."""
    ledger = Ledger(path)
    first, second = charge(ledger), charge(ledger)
    assert first.id != second.id
    assert steps(ledger) == 2 * PLAN.steps


def test_commit_twice_is_as_good_as_once(path: Path) -> None:
    ledger = Ledger(path)
    reservation = charge(ledger)
    ledger.commit(reservation)
    Ledger(path).commit(reservation)
    assert [entry.kind for entry in ledger.entries()] == ["reserve", "commit"]


def test_commit_of_a_foreign_reservation_is_refused(path: Path, tmp_path: Path) -> None:
    foreign = charge(Ledger(tmp_path / "other.db"))
    with pytest.raises(Refusal, match="is not in it") as refusal:
        Ledger(path).commit(foreign)
    assert refusal.value.code == "ledger"


def test_lineages_are_counted_apart_and_together(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1, "press")
    charge(ledger, 2, "press")
    charge(ledger, 3, "lathe")
    assert steps(ledger, "press") == 2 * PLAN.steps
    assert steps(ledger, "lathe") == PLAN.steps
    assert ledger.spent(None, 1e-5) == spent([PLAN.event] * 3, 1e-5)


def test_a_spent_budget_is_refused_and_nothing_is_written(path: Path) -> None:
    """Trap 2: the cap holds for the history and this round together, not for this round alone."""
    ledger = Ledger(path)
    budget = spent([PLAN.event] * 2, 1e-5).epsilon
    for round in range(2):
        charge(ledger, round, caps=Caps(budget, 1e-5))
    before = path.read_bytes()
    with pytest.raises(Refusal, match="the budget is") as refusal:
        charge(ledger, 3, caps=Caps(budget, 1e-5))
    assert refusal.value.code == "budget_spent"
    assert path.read_bytes() == before
    assert len(ledger.entries()) == 2


def test_a_budget_below_one_round_is_refused_before_anything(path: Path) -> None:
    ledger = Ledger(path)
    with pytest.raises(Refusal) as refusal:
        charge(ledger, 1, caps=Caps(0.01, 1e-5))
    assert refusal.value.code == "budget_spent"
    assert ledger.entries() == []


def test_spent_after_is_what_will_be_spent(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)
    foreseen = ledger.spent_after(PLAN, "turbofan", 1e-5)
    charge(ledger, 2)
    assert ledger.spent("turbofan", 1e-5) == foreseen


def test_rounds_left_are_the_rounds_that_pass(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)
    left = rounds_left(PLAN.events, ledger.events(), 1.2, 1e-5)
    for round in range(left):
        charge(ledger, round, caps=Caps(1.2, 1e-5))
    with pytest.raises(Refusal):
        charge(ledger, 99, caps=Caps(1.2, 1e-5))
    assert left > 0


def test_verify_names_the_head(path: Path) -> None:
    ledger = Ledger(path)
    assert ledger.verify().hash == GENESIS
    charge(ledger)
    head = ledger.verify()
    assert head.entries == 1
    assert head.hash == ledger.entries()[-1].hash


@pytest.mark.parametrize("seq", [1, 2, 4])
def test_a_changed_entry_is_named(path: Path, seq: int) -> None:
    for round in range(4):
        charge(Ledger(path), round)
    ledger = Ledger(path)
    with sqlite3.connect(path) as connection:
        (text,) = connection.execute("SELECT body FROM entries WHERE seq = ?", (seq,)).fetchone()
    connection.close()
    body = json.loads(text)
    body["plan"]["noise"] = 100.0
    alter(path, "UPDATE entries SET body = ? WHERE seq = ?", json.dumps(body), seq)
    for look in (ledger.verify, lambda: Ledger(path)):
        with pytest.raises(Refusal, match=f"entry {seq} was changed") as refusal:
            look()
        assert refusal.value.code == "ledger"


def test_a_removed_entry_is_named(path: Path) -> None:
    for round in range(3):
        charge(Ledger(path), round)
    alter(path, "DELETE FROM entries WHERE seq = 2")
    with pytest.raises(Refusal, match="entry 2 is missing"):
        Ledger(path)


def write_over(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def put_in_its_place(path: Path, content: bytes) -> None:
    """Replace a file by one of the same size and times."""
    other = path.with_name("other")
    other.write_bytes(content)
    shutil.copystat(path, other)
    other.replace(path)


@pytest.mark.parametrize("put", [write_over, put_in_its_place])
def test_an_older_copy_put_back_is_noticed_while_the_plant_runs(
    path: Path, put: Callable[[Path, bytes], None]
) -> None:
    ledger = Ledger(path)
    charge(ledger)
    backup = path.read_bytes()
    charge(ledger, 2)
    put(path, backup)
    with pytest.raises(Refusal, match="entry 2 is not what it was"):
        charge(ledger, 3)
    with pytest.raises(Refusal, match="no longer holds the 2 entries"):
        ledger.verify()
    with pytest.raises(Refusal, match="entry 2 is not what it was"):
        charge(ledger, 3)


def test_what_is_charged_after_the_file_was_replaced_is_in_the_new_file(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)
    put_in_its_place(path, path.read_bytes())
    charge(ledger, 2)
    assert [entry.round for entry in Ledger(path).entries()] == [1, 2]


def test_a_file_that_is_replaced_during_a_look_is_opened_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(path)
    charge(ledger)
    look = ledger._catch_up

    def replaced(connection: sqlite3.Connection) -> None:
        look(connection)
        put_in_its_place(path, path.read_bytes())

    monkeypatch.setattr(ledger, "_catch_up", replaced)
    ledger.lineages()
    monkeypatch.undo()
    charge(ledger, 2)
    assert [entry.round for entry in Ledger(path).entries()] == [1, 2]


def test_a_file_that_is_gone_refuses_and_is_not_begun_anew(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)
    path.unlink()
    with pytest.raises(Refusal, match="No such file"):
        charge(ledger, 2)
    assert not path.exists()


def test_a_closed_ledger_goes_on(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)
    ledger.close()
    charge(Ledger(path), 2)
    charge(ledger, 3)
    assert [entry.round for entry in ledger.entries()] == [1, 2, 3]


def test_the_file_refuses_updates_and_deletes(path: Path) -> None:
    charge(Ledger(path))
    connection = sqlite3.connect(path)
    for statement in ("DELETE FROM entries", "UPDATE entries SET hash = ''"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("content", [b"not a database, " * 100, b"\x00" * 4096])
def test_a_file_that_is_no_ledger_is_refused_in_one_line_and_kept(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(Refusal) as refusal:
        Ledger(path)
    assert refusal.value.code == "ledger"
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == content


def test_a_damaged_page_is_refused(path: Path) -> None:
    ledger = Ledger(path)
    for round in range(60):
        charge(ledger, round)
    content = bytearray(path.read_bytes())
    content[-8000:-2000] = os.urandom(6000)
    path.write_bytes(content)
    with pytest.raises(Refusal) as refusal:
        Ledger(path)
    assert refusal.value.code == "ledger"


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterplantError):
        Ledger(tmp_path)


def test_the_file_is_the_plants_alone(path: Path) -> None:
    Ledger(path)
    assert path.stat().st_mode & 0o777 == 0o600


class OnAFullDisk(Ledger):
    """SQLite's own limit on pages fails with the code that a full disk gives."""

    full = True

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with super()._connected() as connection:
            connection.execute(f"PRAGMA max_page_count = {1 if self.full else 1000}")
            yield connection


def test_a_full_disk_refuses_the_round_and_leaves_the_chain_whole(path: Path) -> None:
    Ledger(path)
    ledger = OnAFullDisk(path)
    big = {"run": "run-1", "round": 1, "task": "x" * 20_000, "lineage": "turbofan"}
    with pytest.raises(Refusal) as refusal:
        ledger.reserve(PLAN, **big)
    assert refusal.value.code == "disk_full"
    assert ledger.entries() == Ledger(path).entries() == []
    ledger.full = False
    ledger.reserve(PLAN, **big)
    assert ledger.verify().entries == 1


def test_the_clock_decides_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)
    for now in ("2030-01-01T00:00:00+00:00", "1999-01-01T00:00:00+00:00"):
        monkeypatch.setattr("interplant.privacy.ledger._now", lambda now=now: now)
        charge(ledger)
    assert [entry.time[:4] for entry in Ledger(path).entries()] == ["2030", "1999"]
    assert steps(ledger) == 2 * PLAN.steps
    assert ledger.verify().entries == 2


def test_two_ledgers_on_one_file_see_each_other(path: Path) -> None:
    one, two = Ledger(path), Ledger(path)
    charge(one, 1)
    charge(two, 2)
    charge(one, 3)
    assert [entry.round for entry in two.entries()] == [1, 2, 3]
    assert one.verify() == two.verify()


def test_threads_share_a_ledger(path: Path) -> None:
    ledger = Ledger(path)
    threads = [threading.Thread(target=charge, args=(ledger, number)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.verify().entries == 8


RACER = """
import sys
from pathlib import Path
from interplant.core.errors import Refusal
from interplant.privacy.ledger import Caps, Ledger
from interplant.privacy.plan import Plan
plan = Plan("window", 10_000, 100, 1.0, 1.0, 100, 1e-5)
ledger = Ledger(Path(sys.argv[1]))
try:
    for round in range(100):
        ledger.reserve(plan, run=sys.argv[2], round=round, task="rul", lineage="turbofan",
                       caps=Caps(1.2, 1e-5))
except Refusal as refusal:
    sys.exit(0 if refusal.code == "budget_spent" else 1)
sys.exit(2)
"""


def test_two_processes_cannot_pass_the_budget_together(path: Path) -> None:
    covered = rounds_left(PLAN.events, [], 1.2, 1e-5)
    racers = [subprocess.Popen([sys.executable, "-c", RACER, str(path), name]) for name in ("a", "b")]
    assert [racer.wait(60) for racer in racers] == [0, 0]
    ledger = Ledger(path)
    assert steps(ledger) == covered * PLAN.steps
    assert ledger.spent("turbofan", 1e-5).epsilon <= 1.2


def kills(count: int, program: Path = ROOT / "benchmarks" / "ledger.py") -> dict[str, int]:
    words = [sys.executable, str(program), "--json", "--cases", "kills", "--kills", str(count)]
    said = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return {one["unit"]: one["value"] for one in said["results"]}


def test_killed_at_any_moment_it_never_counts_too_little() -> None:
    """The short form of ``benchmarks/ledger.py --kills 500``."""
    found = kills(40)
    assert found["charges"] == 0
    assert found["rounds"] >= 10, "kills that fell into rounds"


def test_noise_before_its_charge_would_be_noticed(tmp_path: Path) -> None:
    """The same program with the two lines the wrong way round."""
    right = (ROOT / "benchmarks" / "ledger.py").read_text()
    reserve = "        reservation = ledger.reserve(PLAN, round=number, **WHERE)\n"
    draw = '        os.write(file, f"{reservation.id}\\n".encode())\n'
    assert reserve + draw in right
    early = """
        name = secrets.token_hex(16)
        os.write(file, f"{name}\\n".encode())
        sys.modules[Ledger.__module__].secrets = argparse.Namespace(token_hex=lambda _, name=name: name)
"""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(right.replace(reserve + draw, early + reserve))
    assert kills(20, wrong)["charges"] > 0


def test_a_charge_costs_milliseconds(path: Path) -> None:
    ledger = Ledger(path)
    started = time.process_time()
    for round in range(20):
        ledger.commit(charge(ledger, round))
    assert (time.process_time() - started) / 20 < 0.05


def test_plans_come_back_as_they_were_charged(path: Path) -> None:
    odd = replace(PLAN, noise=1.0000000000000002, delta=3.3e-7, records=7919)
    Ledger(path).reserve(odd, run="r", round=1, task="t", lineage="l")
    assert Ledger(path).entries()[0].plan == odd


def test_what_leaves_beside_the_update_is_charged_with_it(path: Path) -> None:
    plan = replace(PLAN, statistics=(Statistic("loss", 1.0, 20.0),))
    ledger = Ledger(path)
    charge(ledger, plan=plan)
    assert ledger.events("turbofan") == sorted(plan.events, key=lambda event: (event.q, event.noise))
    assert Ledger(path).events() == [PLAN.event, Event("window", 1.0, 20.0, 1)]


def test_a_task_has_a_cap_of_its_own_and_all_tasks_have_one(path: Path) -> None:
    ledger = Ledger(path)
    one = spent([PLAN.event], 1e-5).epsilon
    for task in ("a", "b"):
        charge(ledger, task=task, caps=Caps(9.0, 1e-5, task=one))
    with pytest.raises(Refusal, match=r"policy\.privacy\.tasks\.a"):
        charge(ledger, task="a", caps=Caps(9.0, 1e-5, task=one))
    with pytest.raises(Refusal, match=r"policy\.privacy\.epsilon"):
        charge(ledger, task="c", caps=Caps(one * 1.01, 1e-5, task=one))
    assert steps(ledger) == 2 * PLAN.steps


def test_what_would_be_refused_is_refused_before_and_charges_nothing(path: Path) -> None:
    ledger = Ledger(path)
    words = {"task": "rul", "lineage": "turbofan"}
    ledger.require(PLAN, **words, caps=Caps(1.0, 1e-5))
    with pytest.raises(Refusal) as refusal:
        ledger.require(PLAN, **words, caps=Caps(0.01, 1e-5))
    assert refusal.value.code == "budget_spent"
    assert ledger.entries() == []


def test_one_look_answers_several_questions_of_one_moment(path: Path) -> None:
    """What another process charges waits for the next look; what this ledger writes itself does not."""
    ledger, other = Ledger(path), Ledger(path)
    charge(ledger)
    with ledger.one_look():
        charge(other, 2)
        assert len(ledger.entries()) == 1
        charge(ledger, 3)
        assert [entry.round for entry in ledger.entries()] == [1, 2, 3]
    charge(other, 4)
    assert ledger.end().entries == 3, "as last seen"
    assert len(ledger.entries()) == 4
    assert ledger.end().entries == 4


def test_a_look_at_a_ledger_that_was_put_back_refuses_every_question(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)
    old = path.read_bytes()
    charge(ledger, 2)
    path.write_bytes(old)
    with pytest.raises(Refusal) as refusal, ledger.one_look():
        pytest.fail("nothing may be answered")
    assert refusal.value.code == "ledger"
    with pytest.raises(Refusal):
        ledger.lineages()


def charged(ledger: Ledger) -> dict[str, dict[float, int]]:
    """Steps by lineage and noise."""
    return {
        lineage: {event.noise: event.steps for event in events}
        for lineage, events in ledger.end().account.items()
    }


def test_a_ledger_that_a_receipt_is_ahead_of_is_refused_until_it_is_repaired(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)
    old = path.read_bytes()
    charge(ledger, 2)
    charge(ledger, 3, lineage="press", plan=replace(PLAN, noise=3.0))
    end = ledger.end()
    path.write_bytes(old)
    back = Ledger(path)
    with pytest.raises(Refusal) as refusal:
        back.require_receipt(end.entries, end.hash)
    assert refusal.value.code == "ledger_behind"
    assert "--repair" in refusal.value.detail
    assert back.repair(end)
    assert not back.repair(end), "once"
    again = Ledger(path)
    again.require_receipt(end.entries, end.hash)
    assert charged(again) == {"turbofan": {1.0: 200}, "press": {3.0: 100}}, "exactly the gap"
    again.verify()


def test_what_a_copy_charged_of_its_own_stays_when_it_is_repaired(path: Path) -> None:
    """Two clones of a disk went on: equal totals are not equal charges, and both drew noise."""
    ledger = Ledger(path)
    charge(ledger)
    old = path.read_bytes()
    for round in (2, 3):
        charge(ledger, round)
    end = ledger.end()
    path.write_bytes(old)
    clone = Ledger(path)
    for round in (2, 3):
        charge(clone, round)
    with pytest.raises(Refusal):
        clone.require_receipt(end.entries, end.hash)
    assert clone.repair(end)
    assert charged(clone) == {"turbofan": {1.0: 500}}, "one in common, two on each side"


def test_a_clone_that_falls_behind_again_is_charged_only_what_is_new(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)
    old = path.read_bytes()
    ends = []
    for round in (2, 3):
        charge(ledger, round)
        ends.append(ledger.end())
    path.write_bytes(old)
    clone = Ledger(path)
    charge(clone, 2)
    for end in ends:
        assert clone.repair(end)
    assert charged(clone) == {"turbofan": {1.0: 400}}
    assert not clone.repair(ends[0])


@pytest.mark.parametrize("gap", [1, 31, 33, 50, 64, 70, 150])
def test_however_large_the_gap_no_charge_is_lost_and_few_are_counted_twice(path: Path, gap: int) -> None:
    ledger = Ledger(path)
    for round in range(60):
        charge(ledger, round)
    old = path.read_bytes()
    for round in range(gap):
        charge(ledger, round)
    end = ledger.end()
    assert len(end.trail) < 2048
    path.write_bytes(old)
    back = Ledger(path)
    assert back.repair(end)
    truth = (60 + gap) * PLAN.steps
    assert truth <= steps(back) <= truth + min(gap, 60) * PLAN.steps
    if gap <= 32:
        assert steps(back) == truth


def test_a_repair_counts_against_every_tasks_cap(path: Path) -> None:
    """Whose rounds were lost is not known."""
    ledger = Ledger(path)
    ledger.repair(End(2, "f" * 64, {"turbofan": (PLAN.event,)}, ""))
    one = spent([PLAN.event], 1e-5).epsilon
    with pytest.raises(Refusal):
        charge(ledger, caps=Caps(9.0, 1e-5, task=one))


def test_charges_under_a_former_name_count_for_the_lineage(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, lineage="data")
    charge(ledger, lineage="other")
    for _ in range(2):
        ledger.alias("turbofan", "data")
    charge(ledger)
    assert steps(ledger) == 2 * PLAN.steps
    assert Ledger(path).events("turbofan") == ledger.events("turbofan")
    assert [entry.kind for entry in ledger.entries()].count("alias") == 1
    assert steps(ledger, "data") == PLAN.steps, "the name itself stays what it was"
    two = spent([PLAN.event] * 2, 1e-5).epsilon
    with pytest.raises(Refusal):
        charge(ledger, caps=Caps(two, 1e-5))


def test_a_fork_at_the_same_entry_is_noticed(path: Path, tmp_path: Path) -> None:
    """Two clones of a disk that both went on."""
    charge(Ledger(path))
    other = tmp_path / "clone.db"
    other.write_bytes(path.read_bytes())
    charge(Ledger(path), 2)
    charge(Ledger(other), 2)
    head = Ledger(path).end()
    with pytest.raises(Refusal):
        Ledger(other).require_receipt(head.entries, head.hash)


def test_ten_thousand_rounds_are_counted_as_they_were_charged(path: Path) -> None:
    """Totals are kept beside the entries: they must be their sum, also after a write that was undone."""
    ledger = Ledger(path)
    for round in range(30):
        charge(ledger, round, plan=replace(PLAN, steps=round + 1))
    with pytest.raises(Refusal):
        charge(ledger, 99, caps=Caps(1e-3, 1e-5))
    ledger.verify()
    entries = [event.steps for entry in ledger.entries() for event in entry.events]
    assert steps(ledger) == sum(entries) == sum(range(31)) == steps(Ledger(path))


def test_a_measurement_is_charged_and_read_back_as_one(path: Path) -> None:
    measured = Measurement("window", 10_000, 1e-5, (Statistic("contract", 1.0, 8.0),))
    charge(Ledger(path), plan=measured)
    charge(Ledger(path))
    ledger = Ledger(path)
    assert [entry.plan for entry in ledger.entries()] == [measured, PLAN]
    assert set(ledger.events("turbofan")) == {Event("window", 1.0, 8.0, 1), PLAN.event}


def test_a_measurement_that_the_budget_does_not_cover_is_refused(path: Path) -> None:
    measured = Measurement("window", 10_000, 1e-5, (Statistic("contract", 1.0, 0.5),))
    with pytest.raises(Refusal, match="budget_spent"):
        charge(Ledger(path), plan=measured, caps=Caps(1.0, 1e-5))
    assert not Ledger(path).entries()
