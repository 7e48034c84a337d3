"""How far a window reaches back, as an erasure of predictions has it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from interplant.client import erasure

from .served import TASK, plant_with


def test_a_window_reaches_back_over_its_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = plant_with(tmp_path, monkeypatch).plant
    assert TASK.window.length == 4
    assert erasure._reach(plant, replace(TASK.contract, gap=600.0)) == 1800.0
    assert erasure._reach(plant, TASK.contract) == math.inf
