"""How often a hold-out was asked: counted before it is, and not forgotten."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interplant.client.directory import PlantDirectory
from interplant.client.tries import Tries, Try, level
from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError

CONTRACT = Contract(sensors={"s": Column("bar", 0.0, 1.0)})
ALPHA = 0.05


def held(machines: range, cycles: range = range(10)) -> pd.DataFrame:
    return pd.DataFrame([{"machine": m, "cycle": c, "s": 0.5} for m in machines for c in cycles])


def begin(plant: PlantDirectory, release: str, holdout: pd.DataFrame, question: str = "q") -> Try:
    return Tries(plant).begin(release, question, holdout, CONTRACT, ALPHA)


def test_the_levels_of_all_tries_add_up_to_what_may_be_spent() -> None:
    before: list[Try] = []
    for number in range(2000):
        before.append(Try(f"r-{number}", "q", "h", number + 1, level(before, ALPHA), passed=False))
    assert before[0].level == pytest.approx(ALPHA * 6 / np.pi**2)
    assert 0.9995 * ALPHA < sum(one.level for one in before) < ALPHA
    assert all(a.level > b.level for a, b in itertools.pairwise(before))


def test_what_a_release_that_passed_had_is_handed_on_to_the_next_alone() -> None:
    first = Try("r-1", "q", "h", 1, level([], ALPHA), passed=True)
    second = Try("r-2", "q", "h", 2, level([first], ALPHA), passed=False)
    part = ALPHA * 6 / np.pi**2
    assert second.level == pytest.approx(part + part / 4)
    assert level([first, second], ALPHA) == pytest.approx(part / 9)


@pytest.mark.parametrize("passed", [False, None], ids=["refused", "killed"])
def test_a_trial_that_was_refused_or_killed_hands_nothing_on(passed: bool | None) -> None:
    first = Try("r-1", "q", "h", 1, level([], ALPHA), passed)
    assert level([first], ALPHA) == pytest.approx(ALPHA * 6 / (2 * np.pi) ** 2)


def test_each_release_is_another_try_and_the_same_again_is_not(plant: PlantDirectory) -> None:
    holdout = held(range(20))
    first, second = begin(plant, "a", holdout), begin(plant, "b", holdout)
    assert (first.number, second.number) == (1, 2)
    assert begin(plant, "a", holdout) == first
    assert begin(plant, "a", holdout, "against another champion").number == 3


def test_the_order_of_readings_is_no_other_hold_out(plant: PlantDirectory) -> None:
    holdout = held(range(20))
    assert begin(plant, "a", holdout) == begin(plant, "a", holdout.sample(frac=1.0, random_state=1))


def test_what_a_snapshot_adds_begins_nothing_anew_until_half_is_new(plant: PlantDirectory) -> None:
    begin(plant, "a", held(range(20)))
    assert begin(plant, "b", held(range(30))).number == 2
    assert begin(plant, "c", held(range(20), range(15))).number == 3
    assert begin(plant, "d", held(range(10))).number == 4
    fresh = begin(plant, "e", held(range(100, 130)))
    assert (fresh.number, fresh.level) == (1, level([], ALPHA))


def test_another_time_is_another_reading(plant: PlantDirectory) -> None:
    begin(plant, "a", held(range(20)))
    assert begin(plant, "b", held(range(20), range(100, 110))).number == 1


def test_moments_are_told_apart(plant: PlantDirectory) -> None:
    times = pd.date_range("2024-01-01", periods=50, freq="h", tz="UTC").tz_localize(None)
    frame = pd.DataFrame({"machine": 1, "cycle": times, "s": 0.5})
    begin(plant, "a", frame)
    assert begin(plant, "b", frame).number == 2
    assert begin(plant, "c", frame.assign(cycle=times + pd.Timedelta(days=90))).number == 1


def test_what_came_of_a_try_is_kept(plant: PlantDirectory) -> None:
    tries, holdout = Tries(plant), held(range(20))
    tries.end(begin(plant, "a", holdout), passed=True)
    assert begin(plant, "a", holdout).passed is True
    assert begin(plant, "b", holdout).level == pytest.approx(ALPHA * 6 / np.pi**2 * 1.25)


KILLED = """
import os, signal, sys
from pathlib import Path
import pandas as pd
from interplant.client.directory import PlantDirectory
from interplant.client.tries import Tries
from interplant.core.contract import Column, Contract
plant = PlantDirectory(Path(sys.argv[1]))
frame = pd.DataFrame([{"machine": m, "cycle": c} for m in range(20) for c in range(10)])
Tries(plant).begin("a", "q", frame, Contract(sensors={"s": Column("bar", 0.0, 1.0)}), 0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_trial_that_was_killed_counts(plant: PlantDirectory) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(plant.path)], check=False)
    assert ended.returncode == -9
    found = begin(plant, "b", held(range(20)))
    assert (found.number, found.level) == (2, pytest.approx(ALPHA * 6 / (2 * np.pi) ** 2))


def test_nobody_else_reads_the_record_and_no_name_of_a_machine_stands_in_it(plant: PlantDirectory) -> None:
    begin(plant, "a", held(range(20)))
    begin_other = PlantDirectory(plant.path)
    files = sorted(plant.tries.iterdir())
    assert {path.stat().st_mode & 0o077 for path in (*files, plant.tries)} == {0}
    before = {path.name for path in files}
    begin_other.snapshot_key.write_bytes(b"\x02" * 32)
    begin(begin_other, "b", held(range(20)))
    assert len({path.name for path in plant.tries.iterdir()} - before) == 1  # keyed by the plant's secret


@pytest.mark.parametrize("content", ["{", "{}", '[{"release": "a"}]', "[1]"])
def test_a_damaged_record_is_named(plant: PlantDirectory, content: str) -> None:
    plant.tries.mkdir()
    (plant.tries / "tries.json").write_text(content)
    with pytest.raises(InterplantError, match=r"tries\.json: cannot be read .* restore it from a backup"):
        begin(plant, "a", held(range(20)))


def test_hashes_that_are_gone_are_named(plant: PlantDirectory, tmp_path: Path) -> None:
    begin(plant, "a", held(range(20)))
    (record,) = json.loads((plant.tries / "tries.json").read_text())
    (plant.tries / f"{record['holdout']}.readings").unlink()
    with pytest.raises(InterplantError, match=r"\.readings: cannot be read"):
        begin(plant, "b", held(range(20)))
