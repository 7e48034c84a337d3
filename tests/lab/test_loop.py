"""What the loop's files hold and what its picture shows; `tests/system/test_demo.py` runs the loop itself."""

from pathlib import Path

import numpy as np

from interplant.core import config
from interplant.core.schema import Task
from interplant.data.contract import require
from interplant.data.tasks import builtin
from interplant.lab import loop
from interplant.lab.loop import Arrived, LoopResult, Tried
from interplant.lab.loop_plot import draw_loop

TASK = config.load(builtin("turbofan"), Task)


def test_files_hold_other_machines_each_whose_sensor_is_off_within_the_contract() -> None:
    known = loop.MACHINES
    plan = [*((count, 0.0) for count in loop.BEFORE), *((count, loop.OFF) for count in loop.DRIFTING)]
    for count, offset in plan:
        readings, clean = (loop._file(TASK, 0, known, count, one) for one in (offset, 0.0))
        assert sorted(set(readings["machine"])) == [*range(known + 1, known + count + 1)]
        known += count
        require(readings, TASK.contract)
        low, high = TASK.contract.conditions[0].ranges[loop.SENSOR]
        off = (readings[loop.SENSOR] - clean[loop.SENSOR]) / ((high - low) / 2)
        np.testing.assert_allclose(off, offset, atol=1e-6)


def test_the_picture_is_drawn_also_where_a_gate_had_no_champion(tmp_path: Path) -> None:
    arrived = (
        Arrived(1, 0.0, "a", 16.0, 16.0),
        Arrived(2, -1.6, "a", 31.0, 31.0),
        Arrived(3, -1.6, "b", 18.0, 29.0),
    )
    tried = (Tried("plant-1", "active", "", 17.9, 13.5), Tried("plant-2", "refused", "worse", None, 17.1))
    result = LoopResult("plant-1", "s21", arrived, 2, ("s21",), "", "r", "a", "b", tried, 60.0)
    draw_loop(result, tmp_path / "one.png")
    draw_loop(result, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
