from pathlib import Path

import pytest
import torch

from interplant.core import config, models
from interplant.core.errors import UsageError
from interplant.core.schema import Task
from interplant.data.contract import TOLERANCE, columns
from interplant.data.tasks import builtin, names

EXAMPLE = Path(__file__).parents[2] / "examples" / "turbofan"


@pytest.mark.parametrize("name", names())
def test_every_packaged_task_loads_and_builds_its_model(name: str) -> None:
    task = config.load(builtin(name), Task)
    model = models.build(task)
    assert model(torch.zeros(2, task.channels, task.window.length)).shape == (2, 1)


def test_turbofan_is_the_documented_task() -> None:
    task = config.load(builtin("turbofan"), Task)
    sensors = ["s2", "s3", "s4", "s7", "s8", "s9", "s11", "s12", "s13", "s14", "s15", "s17", "s20", "s21"]
    assert columns(task.contract) == ["setting1", "setting2", "setting3", *sensors]
    assert (task.window.length, task.target.cap, task.model.name) == (30, 125, "cnn1d")
    assert (task.privacy.mechanism, task.privacy.unit) == ("dp-sgd", "window")


def test_each_condition_declares_every_sensor_inside_the_overall_range() -> None:
    contract = config.load(builtin("turbofan"), Task).contract
    assert len(contract.conditions) == 6
    for condition in contract.conditions:
        assert set(condition.ranges) == set(contract.sensors)
        for name, (low, high) in condition.ranges.items():
            column = contract.sensors[name]
            assert column.low <= low < high <= column.high
        for name, value in condition.centre.items():
            column = contract.settings[name]
            assert column.low <= value <= column.high
    assert TOLERANCE > 0


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'turbine': expected one of turbofan"):
        builtin("turbine")
    with pytest.raises(UsageError):
        builtin("../data/turbofan")


def test_the_example_task_builds_a_users_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    task = config.load(EXAMPLE / "task.yaml", Task)
    model = models.build(task)
    assert type(model).__name__ == "ResidualRegressor"
    assert model(torch.zeros(3, task.channels, task.window.length)).shape == (3, 1)
    assert config.dump(task)["contract"] == config.dump(config.load(builtin("turbofan"), Task))["contract"]


def test_the_example_model_treats_each_window_by_itself_and_has_private_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opacus.validators import ModuleValidator

    monkeypatch.syspath_prepend(str(EXAMPLE))
    task = config.load(EXAMPLE / "task.yaml", Task)
    model = models.build(task)
    windows = torch.randn(4, task.channels, task.window.length)
    torch.testing.assert_close(model(windows)[1:2], model(windows[1:2]))
    assert ModuleValidator.validate(model.train(), strict=False) == []


def test_without_the_example_folder_the_model_is_said_to_be_missing() -> None:
    task = config.load(EXAMPLE / "task.yaml", Task, ["model.name=my_absent_model.ResidualRegressor"])
    with pytest.raises(
        UsageError, match=r"my_absent_model\.ResidualRegressor' cannot be imported; install it"
    ):
        models.build(task)
