"""Every loss through every engine: the same clipped sums as a loop over samples, and the same bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from interplant.core.errors import InterplantError
from interplant.core.export import predict
from interplant.core.networks import Cnn1d, Mlp
from interplant.core.schema import Training
from interplant.privacy import alike, losses
from interplant.privacy.checks import check_model
from interplant.privacy.dpsgd import clip_factors
from interplant.privacy.onepass import OnePass
from interplant.privacy.plan import Plan, Statistic
from interplant.privacy.statistics import check_model as check_measured
from interplant.privacy.statistics import unit_values
from interplant.privacy.training import train

SHAPE = (4, 6)
PLAN = Plan("window", records=200, batch=50, noise=1.0, clip=0.5, steps=3, delta=1e-5)
KINDS = [("mse", 1), ("huber", 1), ("bce", 1), ("cross_entropy", 3)]
kinds = pytest.mark.parametrize(("loss", "outputs"), KINDS)


def model(outputs: int, kind: type[nn.Module] = Mlp) -> nn.Module:
    torch.manual_seed(0)
    return kind(*SHAPE, width=8, outputs=outputs)


def data(loss: str, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((count, *SHAPE)).astype(np.float32)
    place = (x[:, 0].mean(axis=1) > 0.0).astype(np.float32) + (x[:, 1].mean(axis=1) > 0.5)
    return x, np.float32({"bce": place > 0, "cross_entropy": place}.get(loss, place / 2.0))


@kinds
def test_a_loss_is_that_of_its_definition(loss: str, outputs: int) -> None:
    x, y = data(loss)
    prediction, target = model(outputs)(torch.from_numpy(x)), torch.from_numpy(y)
    found = losses.loss_of(loss)(losses.per_window(prediction, len(y)), target)
    chance = torch.sigmoid(prediction.squeeze(-1)) if outputs == 1 else prediction.softmax(dim=1)
    if loss == "bce":
        expected = -torch.log(torch.where(target > 0, chance, 1.0 - chance))
    elif loss == "cross_entropy":
        expected = -torch.log(chance[torch.arange(len(y)), target.long()])
    else:
        by = functional.mse_loss if loss == "mse" else functional.huber_loss
        expected = by(prediction.squeeze(-1), target, reduction="none")
    torch.testing.assert_close(found, expected)
    assert found.shape == (60,)
    assert (found >= 0).all()


def test_a_loss_that_is_none() -> None:
    with pytest.raises(InterplantError, match=r"expected one of mse, huber, bce, cross_entropy, found 'mae'"):
        losses.loss_of("mae")


@kinds
@pytest.mark.parametrize("network", [Mlp, Cnn1d])
def test_one_pass_sums_what_a_loop_over_samples_sums(
    loss: str, outputs: int, network: type[nn.Module]
) -> None:
    x, y = (torch.from_numpy(array) for array in data(loss))
    made, function = model(outputs, network), losses.loss_of(loss)
    parameters = list(made.parameters())
    each = [
        torch.autograd.grad(function(losses.per_window(made(a[None]), 1), b[None]).sum(), parameters)
        for a, b in zip(x, y, strict=True)
    ]
    norms = torch.stack([torch.cat([part.flatten() for part in one]).norm() for one in each])
    clip = float(norms.median())
    factors = clip_factors(norms, clip, "norm")
    found = OnePass(made, clip).clipped(function, x, y)
    torch.testing.assert_close(found.norms, norms, rtol=1e-3, atol=1e-5)
    for column, total in zip(zip(*each, strict=True), found.sums, strict=True):
        torch.testing.assert_close(
            torch.tensordot(factors, torch.stack(column), 1), total, rtol=1e-3, atol=1e-4
        )


@kinds
@pytest.mark.parametrize("engine", ["onepass", "opacus"])
@pytest.mark.parametrize("unit", ["window", "unit"])
def test_each_engine_learns_each_kind(loss: str, outputs: int, engine: str, unit: str) -> None:
    x, y = data(loss, 400)
    plan = replace(PLAN, records=400, batch=200, noise=1e-3, steps=60, clip=1.0)
    if unit == "unit":
        plan = replace(plan, unit="unit", records=100, batch=50, windows=4)
    start, training = model(outputs), Training(optimizer="adam", learning_rate=2e-2, loss=loss)
    made = train(
        start,
        x,
        y,
        training,
        plan,
        lambda: None,
        engine=engine,
        machines=np.arange(400) // 4,
        outputs=outputs,
    )
    assert made.mode == ("onepass" if engine == "onepass" else "ew")
    assert made.zeroed == 0
    before = unit_values("loss", start, x, y, loss, PLAN, None).mean()
    with torch.no_grad():
        for name, weight in start.named_parameters():
            weight.add_(torch.from_numpy(made.update[name]))
    assert unit_values("loss", start, x, y, loss, PLAN, None).mean() < 0.6 * before


@kinds
def test_each_kind_learns_without_privacy(loss: str, outputs: int) -> None:
    x, y = data(loss, 300)
    training = Training(steps=80, batch=64, learning_rate=2e-2, loss=loss)
    start = model(outputs)
    before = predict(start, x, outputs=outputs)
    made = train(start, x, y, training, None, lambda: None, outputs=outputs)
    assert made.mode == "plain"
    assert predict(start, x, outputs=outputs).tolist() == before.tolist()
    assert any(np.abs(change).max() > 0.01 for change in made.update.values())


@kinds
def test_a_unit_does_not_move_the_gradients_of_others_by_a_bit(loss: str, outputs: int) -> None:
    """Logarithms and exponentials come out of another routine past the last full block of numbers."""
    made, function = model(outputs), losses.loss_of(loss)
    x, y = (torch.from_numpy(array) for array in data(loss, 256))
    fill = alike.fill_of(made, SHAPE, "onepass", loss=loss)
    engine = OnePass(made, 1.0)
    whole = engine.kept(function, x, y)
    for size in range(fill, 257, fill):
        found = engine.kept(function, x[-size:], y[-size:])
        for one, other in zip(whole, found, strict=True):
            per = len(one) // 256
            assert torch.equal(one[-size * per :], other)


def test_a_loss_with_logarithms_is_tried_itself() -> None:
    seen = []

    for name, shape in (("bce", (5,)), ("cross_entropy", (5, 3))):
        numbers = 1.0 + torch.arange(5) / 7.0
        found = losses.trial_of(name)(torch.zeros(shape), numbers)
        seen.append(found.exp().round().tolist())
    assert seen == [[2.0] * 5, [3.0] * 5]
    assert losses.trial_of("huber") is losses.square


def test_the_loss_of_classes_is_measured_in_units_that_are_bounded() -> None:
    x, y = data("cross_entropy")
    plan = replace(PLAN, statistics=(Statistic("loss", bound=2.0, noise=1.0),))
    check_measured(model(3), SHAPE, plan, "cross_entropy")
    values = unit_values("loss", model(3), x, y, "cross_entropy", plan, None)
    assert values.shape == (60,)
    assert values.mean() == pytest.approx(np.log(3.0), abs=0.3)


@pytest.mark.parametrize(("made", "outputs"), [(3, 1), (1, 3), (2, 3)])
def test_a_model_with_another_number_of_outputs_is_refused(made: int, outputs: int) -> None:
    wanted = "one prediction" if outputs == 1 else "3 predictions"
    with pytest.raises(InterplantError, match=f"expected {wanted} a window, found an output of shape"):
        check_model(model(made), SHAPE, outputs=outputs)


def test_a_model_that_mixes_samples_in_one_output_only_is_refused() -> None:
    class Mixed(Mlp):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            found = super().forward(windows)
            return torch.cat([found[:, :2], found[:, 2:] + found[:, 2:].mean(0)], dim=1)

    with pytest.raises(InterplantError, match="mixes the samples"):
        check_model(Mixed(*SHAPE, outputs=3), SHAPE, outputs=3)
