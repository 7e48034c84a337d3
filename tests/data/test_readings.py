"""A plant's own files, as its historian wrote them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interplant.core import config
from interplant.core.errors import UsageError
from interplant.core.schema import Task, Window
from interplant.data import cmapss, readings
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.data.windows import rounded, sizes, training_windows, unit_windows

TASK = config.load(builtin("turbofan"), Task)
DATASET = simulate(1, 2, 3)


def test_csv_and_parquet_hold_the_same_readings(tmp_path: Path) -> None:
    DATASET.train.to_csv(tmp_path / "train.csv", index=False)
    DATASET.holdout.to_parquet(tmp_path / "holdout.parquet")
    read = readings.read_folder(tmp_path)
    assert list(read.train.columns) == list(DATASET.train.columns)
    assert abs(read.train.to_numpy() - DATASET.train.to_numpy()).max() < 1e-9
    assert read.holdout.equals(DATASET.holdout)
    assert read.simulated is False
    readings.require(read, TASK, "here")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.xlsx", b"", "expected a file ending in .parquet or .csv"),
        ("a.parquet", b"PAR1 nothing", "cannot be read as parquet"),
        ("a.csv", b"", "cannot be read as csv"),
        ("a.csv", b"\xff\xfe\x00", "cannot be read as csv"),
        ("a.csv", None, "found no file"),
    ],
)
def test_what_is_no_table_is_said_with_its_path(
    tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        readings.read_table(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_holdout_must_know_its_label(tmp_path: Path) -> None:
    blind = DATASET.holdout.drop(columns=["rul"])
    assert not readings.violations(blind, TASK, holdout=False)
    (found,) = readings.violations(blind, TASK, holdout=True)
    assert (found.column, found.blocks) == ("rul", True)
    with pytest.raises(UsageError, match="here, holdout: column 'rul'"):
        readings.require(replace(DATASET, holdout=blind), TASK, "here")


def test_a_folder_of_cmapss_is_eight_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cmapss.FILES:
        (tmp_path / name).touch()
    monkeypatch.setattr(cmapss, "read", lambda folder, subset: DATASET)
    found = [(path.name, holdout) for path, _, holdout in readings.tables(tmp_path)]
    assert found[:2] == [("train_FD001.txt", False), ("test_FD001.txt", True)]
    assert len(found) == 8


@pytest.mark.parametrize(("length", "stride"), [(30, 1), (30, 7), (500, 1), (1, 1)])
def test_windows_are_counted_as_they_are_cut(length: int, stride: int) -> None:
    task = replace(TASK, window=Window(length, stride))
    cut = np.unique(training_windows(DATASET.train, task).machine, return_counts=True)[1]
    assert sorted(unit_windows(DATASET.train, task)) == sorted(cut)
    declared = sizes(DATASET.train, task)
    assert (declared.windows, declared.units) == (rounded(cut.sum()), rounded(len(cut)))
    assert cut.max() <= declared.unit_windows <= 1.1 * cut.max() + 1, "no machine passes it"


@pytest.mark.parametrize(
    ("count", "declared"),
    [
        (0, 0),
        (7, 7),
        (42, 42),
        (736, 740),
        (734, 730),
        (735, 740),
        (995, 1000),
        (15631, 16000),
        (104999, 100000),
    ],
)
def test_a_declared_size_has_two_digits(count: int, declared: int) -> None:
    assert rounded(count) == declared


def test_what_is_not_there_is_told_so_whatever_it_is_called(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found no file"):
        readings.read_table(tmp_path / "year-2011")
