"""Contracts drafted from a sample, for a person to edit."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from interplant.core import config
from interplant.core.contract import Contract
from interplant.core.errors import UsageError
from interplant.data.drafting import draft

SAMPLE: dict[str, list[Any]] = {
    "machine": ["a"] * 6,
    "cycle": [1, 2, 3, 4, 5, 6],
    "heat": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "scrap": [0.0, 1.0, 0.0, 0.0, 1.0, 0.0],
}


def drafted(tmp_path: Path, **columns: list[Any]) -> Contract:
    """The contract that is drafted from a sample, as a plant reads it."""
    (tmp_path / "contract.yaml").write_text(draft(pa.table(SAMPLE | columns), "scrap"))
    return config.load(tmp_path / "contract.yaml", Contract)


@pytest.mark.parametrize("label", ["scrp", "machine", "cycle"])
def test_a_label_that_is_no_column_of_its_own_is_refused_with_those_that_are(label: str) -> None:
    with pytest.raises(UsageError, match=f"^--label: expected one of heat, scrap, found '{label}'$"):
        draft(pa.table(SAMPLE), label)


@pytest.mark.parametrize("end", [1e308, -1e308, 1.7e308])
def test_a_number_that_no_sensor_measures_is_in_no_range(tmp_path: Path, end: float) -> None:
    found = drafted(tmp_path, heat=[1.0, 2.0, 3.0, 4.0, end, -end])
    assert (found.sensors["heat"].low, found.sensors["heat"].high) == (1.0, 4.0)


def test_a_column_of_such_numbers_is_left_out(tmp_path: Path) -> None:
    assert list(drafted(tmp_path, flow=[1e308, -1e308] * 3).sensors) == ["heat"]


def test_times_that_far_apart_say_nothing_of_the_interval(tmp_path: Path) -> None:
    assert drafted(tmp_path, cycle=[-1e308, 0.0, 1.0, 2.0, 3.0, 1e308]).interval == 1.0
