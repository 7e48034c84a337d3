"""The gate's own pieces; whole trials stand in test_deployment.py."""

import numpy as np
import pytest

from interplant.client import gate
from interplant.core.contract import Column, Contract
from interplant.core.release import ReleaseRefused
from interplant.core.schema import Target, Task
from interplant.data.windows import Windows

TASK = Task(name="wear", contract=Contract(sensors={"s": Column("bar", 0.0, 1.0)}), target=Target(50.0))


def windows(labels: list[float]) -> Windows:
    n = len(labels)
    return Windows(np.zeros((n, 1, 30), np.float32), np.array(labels, np.float32), np.arange(n))


def test_errors_are_in_cycles() -> None:
    predicted = np.array([0.5, 1.0], np.float32)
    assert gate._error(predicted, windows([25.0, 50.0]), TASK) == 0.0
    assert gate._error(predicted, windows([22.0, 54.0]), TASK) == pytest.approx(np.sqrt(12.5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.1, -1.1])
def test_one_senseless_prediction_is_enough(value: float) -> None:
    gate._check_plausible(np.array([-1.0, 0.0, 2.0], np.float32), TASK.target)
    with pytest.raises(ReleaseRefused, match="1 of 3 predictions") as caught:
        gate._check_plausible(np.array([0.1, value, 0.9], np.float32), TASK.target)
    assert caught.value.code == "implausible"


def test_a_result_names_its_rival() -> None:
    figures = {"rmse": 12.0, "rmse_champion": 15.0, "limit": 15.75}
    assert gate.result(figures, TASK.target) == (
        "error on the hold-out 12.00 cycles, the champion's 15.00, at most 15.75 allowed"
    )
    assert "of predicting the mean: 40.00" in gate.result(
        {"rmse": 12, "rmse_mean": 40, "limit": 40}, TASK.target
    )


def test_the_reason_leaves_without_its_figures() -> None:
    rival = gate._Rival("worse", "champion", 15.0, 15.75)
    error = gate.Worse(rival, {"rmse": 17.0, "rmse_champion": 15.0, "limit": 15.75}, TASK.target)
    assert error.code == "worse"
    assert "17.00" in error.detail
