"""A unit's gradient is the same bits whoever shares its batch, also where weights make the last bit count."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interplant.core.networks import Cnn1d
from interplant.core.schema import Training
from interplant.privacy import alike, onepass, statistics
from interplant.privacy.noise import Noise
from interplant.privacy.plan import Plan, Statistic
from interplant.privacy.stream import Stream
from interplant.privacy.training import train

SHAPE = (5, 12)
PLAN = Plan("window", records=300, batch=300, noise=1e-6, clip=1.0, steps=1, delta=1e-5)
SGD = Training(optimizer="sgd", learning_rate=1.0)


class Steep(nn.Module):
    """A line of weights of 2**30 and more: its prediction for `cancelling` inputs is rounding alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(60, 1, bias=False)
        weights = 1.0 + np.random.default_rng(1).random(60)
        self.layer.weight.data = torch.from_numpy(weights * 2.0**30).float().view(1, -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def cancelling(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows whose sum over `Steep`'s weights is nothing but rounding."""
    generator = np.random.default_rng(0)
    weights = Steep().layer.weight.detach().numpy().astype(np.float64)[0]
    x = (1.0 + 0.1 * generator.random((count, 60))).astype(np.float32)
    x[:, -1] = -(x[:, :-1].astype(np.float64) @ weights[:-1]) / weights[-1]
    return x.reshape(count, *SHAPE), np.zeros(count, np.float32)


def summed(model: nn.Module, x: np.ndarray, y: np.ndarray, plan: Plan, mode: str = "onepass") -> np.ndarray:
    """The clipped sum that one step gives to the noise."""
    seen: list[Tensor] = []

    def spy(_: Noise, total: Tensor) -> Tensor:
        seen.append(total.clone())
        return total

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Noise, "add_to", spy)
        machines = np.arange(len(x)) // plan.windows if plan.unit == "unit" else None
        train(model, x, y, SGD, plan, lambda: None, mode=mode, machines=machines)
    return seen[0].numpy()


def moved(plan: Plan, mode: str, units: int) -> float:
    """By how many clips the last of so many units moves `Steep`'s sum."""
    x, y = cancelling(units * plan.windows)
    short = (units - 1) * plan.windows
    with_it, without = summed(Steep(), x, y, plan, mode), summed(Steep(), x[:short], y[:short], plan, mode)
    return float(np.linalg.norm(with_it - without)) / plan.clip


@pytest.mark.parametrize("mode", ["onepass", "ew"])
@pytest.mark.parametrize("clipping", ["norm", "normalised"])
def test_a_unit_does_not_move_the_gradients_of_others(mode: str, clipping: str) -> None:
    """Weights that a last digit decides over: one unit more has moved a sum by several clips before."""
    plan = replace(PLAN, clipping=clipping)
    for units in (8, 60, 64, 72, 100, 112, 144, 172, 204, 248, 255, 256, 257, 272, 288):
        assert moved(plan, mode, units) <= 1 + 1e-4, units


def test_a_machine_does_not_move_the_gradients_of_others() -> None:
    plan = replace(PLAN, unit="unit", records=80, batch=80, windows=4)
    for units in (2, 7, 8, 15, 18, 25, 28, 36, 43, 51, 56, 61, 62, 72):
        assert moved(plan, "onepass", units) <= 1 + 1e-4, units


def test_what_is_tried_would_notice() -> None:
    """Without the fill the same units leave other bits here: the test above tests something."""
    x, y = cancelling(290)
    model = Steep()

    def run(chosen: np.ndarray) -> list[Tensor]:
        engine = onepass.OnePass(model, 1.0)
        return engine.kept(
            lambda p, t: (p - t).square(), torch.from_numpy(x[chosen]), torch.from_numpy(y[chosen])
        )

    assert alike.holds(run, 272, 8)
    assert not alike.holds(run, 271, 1)


class Placed(nn.Module):
    """Gives each sample a last digit by its place in the batch."""

    def __init__(self, by_size: bool = False) -> None:
        super().__init__()
        self.layer, self.by_size = nn.Linear(60, 1), by_size

    def forward(self, x: Tensor) -> Tensor:
        odd = torch.full((len(x),), len(x)) if self.by_size else torch.arange(len(x))
        return self.layer(x.flatten(1)) * (1.0 + 1e-6 * odd.unsqueeze(1))


@pytest.mark.parametrize("by_size", [False, True])
def test_a_model_that_tells_places_or_sizes_apart_is_given_one_unit_at_a_time(
    by_size: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert alike.fill_of(Placed(by_size), SHAPE, "onepass") == 1
    assert "one unit is taken at a time" in caplog.text
    assert [len(part) for part in alike.split(np.arange(3), 256, 1)] == [1, 1, 1]


def test_weights_with_which_nothing_differs_yet_do_not_hide_it() -> None:
    model = nn.Sequential(Placed(), nn.Linear(1, 1))
    for own in model.parameters():
        nn.init.zeros_(own)
    assert alike.fill_of(model, SHAPE, "onepass") == 1


@pytest.mark.parametrize("mode", ["onepass", "ew", "hooks", "functorch"])
@pytest.mark.parametrize("windows", [1, 8])
def test_ordinary_models_are_filled_up_to_a_few(mode: str, windows: int) -> None:
    assert alike.fill_of(Cnn1d(*SHAPE), SHAPE, mode, windows) in alike.FILLS


def test_dropout_is_no_difference_between_places() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    for mode in ("onepass", "hooks"):
        assert alike.fill_of(model, SHAPE, mode) in alike.FILLS
    assert model[2].training


def test_a_model_too_large_for_two_units_is_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onepass, "PHYSICAL_BYTES", 1)
    assert alike.fill_of(Cnn1d(*SHAPE, width=4), SHAPE, "onepass") == 1


def test_batches_are_split_evenly_into_whole_fills_at_most() -> None:
    assert [len(part) for part in alike.split(np.arange(300), 270, 8)] == [150, 150]
    assert [len(part) for part in alike.split(np.arange(264), 270, 8)] == [264]
    assert [len(part) for part in alike.split(np.arange(20), 3, 8)] == [7, 7, 6]
    assert alike.split(np.arange(0), 3, 8) == []


@pytest.mark.parametrize("mode", ["onepass", "hooks"])
def test_filling_up_changes_no_sum_and_counts_nobody(mode: str) -> None:
    """13 windows are filled up to 16: the sum is that of the 13, and nothing is counted as bad."""
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((13, *SHAPE)).astype(np.float32), np.ones(13, np.float32)
    torch.manual_seed(0)
    model = Cnn1d(*SHAPE, width=8, hidden=8)
    alone = sum(summed(model, x[one : one + 1], y[one : one + 1], PLAN, mode) for one in range(13))
    np.testing.assert_allclose(summed(model, x, y, PLAN, mode), alone, rtol=1e-4, atol=1e-5)
    found = train(model, x, y, SGD, PLAN, lambda: None, mode=mode)
    assert found.zeroed == 0


class Dropped(nn.Module):
    """Keeps what its dropout has let through."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.layer = nn.Dropout(0.5), nn.Linear(60, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.drop(torch.ones_like(x.flatten(1)))
        if self.training and len(x) == 152:
            DROPPED.append(kept.detach())
        return self.layer(x.flatten(1) * kept)


DROPPED: list[Tensor] = []


def test_nobody_can_foresee_dropout() -> None:
    """It falls by place: known masks would let a unit shift everybody else's."""
    x, y = np.ones((300, *SHAPE), np.float32), np.ones(300, np.float32)
    DROPPED.clear()
    for secret in (None, None, b"a", b"a"):
        torch.manual_seed(0)
        stream = Stream(secret) if secret else None
        train(Dropped(), x, y, SGD, PLAN, lambda: None, stream=stream)
    first, second, third, again = DROPPED[::2]  # the first half of each batch
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(third, again)  # in the test mode, which is not private
    assert torch.initial_seed() == 0


@pytest.mark.parametrize(("loss", "outputs"), [("mse", 1), ("bce", 1), ("cross_entropy", 3)])
def test_a_window_does_not_move_the_losses_of_others(loss: str, outputs: int) -> None:
    """In double precision too weights can be chosen that a last digit decides over."""
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((290, *SHAPE)).astype(np.float32), np.zeros(290, np.float32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 16), nn.Linear(16, outputs))
    plan = replace(PLAN, statistics=(Statistic("loss", noise=1.0, bound=2.0),))

    def losses(count: int) -> np.ndarray:
        return statistics.unit_values("loss", model, x[:count], y[:count], loss, plan, None)

    whole = losses(290)
    assert [count for count in range(1, 290) if not np.array_equal(losses(count), whole[:count])] == []
