import sys
import types

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interplant.core import models
from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.core.schema import Model, Task, Window


class Mine(nn.Module):
    """A user's own model."""

    def __init__(self, channels: int, window: int, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(channels * window, width)

    def forward(self, windows: Tensor) -> Tensor:
        return self.layer(windows.flatten(1))


class Remembers(Mine):
    def __init__(self, channels: int, window: int) -> None:
        super().__init__(channels, window)
        self.norm = nn.BatchNorm1d(channels)


class PartlyFrozen(Mine):
    def __init__(self, channels: int, window: int) -> None:
        super().__init__(channels, window)
        self.layer.bias.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(1))


def task(name: str = "cnn1d", window: int = 12, **args: object) -> Task:
    contract = Contract(
        settings={"speed": Column("rpm", 0, 1)},
        sensors={"heat": Column("K", 0, 1), "flow": Column("l", 0, 1)},
    )
    return Task(name="t", contract=contract, window=Window(length=window), model=Model(name, dict(args)))


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this test module one that a dotted path can name."""
    module = types.ModuleType("own_models")
    module.Mine, module.Remembers, module.PartlyFrozen = Mine, Remembers, PartlyFrozen  # type: ignore[attr-defined]
    module.helper = len  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_models", module)


@pytest.mark.parametrize("window", [1, 2, 5, 12, 30, 31])
def test_the_shipped_model_fits_any_window(window: int) -> None:
    model = models.build(task(window=window))
    assert model(torch.zeros(3, 3, window)).shape == (3, 1)


def test_the_seed_decides_the_weights_and_leaves_torchs_own_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = models.parameters(models.build(task()))
    torch.testing.assert_close(torch.rand(3), expected)
    again = models.parameters(models.build(task()))
    other_task = task()
    other_task.seed = 1
    other = models.parameters(models.build(other_task))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_a_users_own_model_by_dotted_path() -> None:
    model = models.build(task("own_models.Mine", width=7))
    assert model(torch.zeros(2, 3, 12)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cnn2d", "'cnn2d' is neither a registered model (cnn1d, mlp) nor a dotted path"),
        ("own_models.Absent", "'own_models.Absent' cannot be imported; install it"),
        ("absent_package.models.Mine", "'absent_package.models.Mine' cannot be imported; install it"),
        ("own_models.helper", "'own_models.helper' is not a torch.nn.Module class"),
        ("pathlib.Path", "'pathlib.Path' is not a torch.nn.Module class"),
    ],
)
def test_a_name_that_is_no_installed_model(name: str, words: str) -> None:
    with pytest.raises(UsageError) as failure:
        models.build(task(name))
    assert words in str(failure.value)
    assert str(failure.value).startswith("model.name: ")


def test_arguments_that_do_not_fit_show_those_that_do() -> None:
    with pytest.raises(UsageError, match=r"model\.args: own_models\.Mine takes .*width.*depth"):
        models.build(task("own_models.Mine", depth=3))


def test_a_model_that_keeps_statistics_is_refused() -> None:
    with pytest.raises(InterplantError, match=r"'norm' keeps running statistics.*use GroupNorm or LayerNorm"):
        models.build(task("own_models.Remembers"))


def test_only_trainable_weights_cross_and_they_are_copies() -> None:
    model = models.build(task("own_models.PartlyFrozen"))
    weights = models.parameters(model)
    assert list(weights) == ["layer.weight"]
    assert set(models.parameters(model, frozen=True)) > {"layer.weight"}
    weights["layer.weight"][:] = 9
    assert not np.array_equal(models.parameters(model)["layer.weight"], weights["layer.weight"])


def test_weights_go_in_as_they_came_out() -> None:
    one = models.build(task())
    other_task = task()
    other_task.seed = 1
    other = models.build(other_task)
    models.set_parameters(other, models.parameters(one))
    windows = torch.rand(4, 3, 12)
    torch.testing.assert_close(one(windows), other(windows))


def test_weights_that_do_not_fit_change_nothing() -> None:
    model = models.build(task())
    before = models.parameters(model)
    for change in ("absent", "extra", "shape", "dtype"):
        weights = {name: value + 1 for name, value in before.items()}
        name = next(iter(weights))
        if change == "absent":
            del weights[name]
        elif change == "extra":
            weights["ghost"] = np.zeros(1, dtype=np.float32)
        elif change == "dtype":
            weights[name] = weights[name].astype(np.float64)
        else:
            weights[name] = weights[name][:1]
        with pytest.raises(
            InterplantError, match=f"do not fit the model: '{'ghost' if change == 'extra' else name}'"
        ):
            models.set_parameters(model, weights)
        after = models.parameters(model)
        assert all(np.array_equal(before[key], after[key]) for key in before)
