"""Models that privacy cannot protect are refused, with the way out, before data is touched."""

import copy

import pytest
import torch
from torch import nn

from interplant.core.errors import InterplantError
from interplant.core.networks import Cnn1d
from interplant.privacy import checks, dpsgd, steps
from interplant.privacy.checks import check_model

SHAPE = (5, 12)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(60, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


class Centred(Base):
    """Takes the batch's mean away: passes Opacus's validator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(0))


class Gated(Base):
    """Mixes through a gate that is zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + self.gate * x.mean(0))


class Ranked(Base):
    """Mixes without a gradient: by the batch's maximum, detached."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x / x.detach().abs().max())


class Running(Base):
    """Keeps a running mean in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(60))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.mean += 0.1 * x.flatten(1).mean(0)
        return super().forward(x)


class Unused(Base):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(2))


class Own(Base):
    """A layer of the user's own, unknown to every fast path."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(60))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1) * self.scale)


def test_the_registered_network_is_fit_for_the_fastest_mode() -> None:
    assert check_model(Cnn1d(*SHAPE), SHAPE, "opacus") == "ew"
    assert check_model(Cnn1d(*SHAPE), SHAPE) == "onepass"


@pytest.mark.parametrize("model", [Centred, Gated, Ranked])
def test_a_model_that_mixes_samples_is_refused(model: type[nn.Module]) -> None:
    """Trap 9."""
    with pytest.raises(InterplantError, match="mixes the samples"):
        check_model(model(), SHAPE)


def test_a_model_that_keeps_statistics_is_refused_by_the_buffers_name() -> None:
    """Trap 9."""
    with pytest.raises(InterplantError, match="buffer 'mean'"):
        check_model(Running(), SHAPE)


def test_batch_norm_is_refused_with_the_way_out() -> None:
    model = nn.Sequential(nn.Conv1d(5, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(40, 1))
    with pytest.raises(InterplantError, match="use GroupNorm"):
        check_model(model, SHAPE)


def test_an_unused_parameter_is_named() -> None:
    with pytest.raises(InterplantError, match="'spare'"):
        check_model(Unused(), SHAPE)


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(InterplantError, match="no trainable parameter"):
        check_model(Base().requires_grad_(False), SHAPE)


def test_more_than_one_prediction_a_window_is_refused() -> None:
    with pytest.raises(InterplantError, match="one prediction a window"):
        check_model(nn.Sequential(nn.Flatten(), nn.Linear(60, 2)), SHAPE)


def test_dropout_is_not_taken_for_mixing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    assert check_model(model, SHAPE, "opacus") in checks.MODES
    assert check_model(model, SHAPE) == "onepass"


def test_a_users_own_layer_finds_a_mode_that_is_right() -> None:
    assert check_model(Own(), SHAPE) in checks.MODES


def test_a_mode_with_wrong_gradients_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = dpsgd.per_sample

    def halved(wrapped: nn.Module, *rest: object) -> None:
        right(wrapped, *rest)  # type: ignore[arg-type]
        if "Expanded" in type(wrapped).__name__:
            for parameter in wrapped.parameters():
                parameter.grad_sample = parameter.grad_sample / 2

    monkeypatch.setattr(dpsgd, "per_sample", halved)
    assert check_model(Cnn1d(*SHAPE), SHAPE, "opacus") == "hooks"


@pytest.mark.parametrize("mode", checks.MODES)
def test_each_mode_gives_the_gradients_of_a_loop(mode: str) -> None:
    model = Cnn1d(*SHAPE)
    x, y = torch.randn(6, *SHAPE), torch.rand(6)
    subject = copy.deepcopy(model)
    dpsgd.per_sample(dpsgd.wrap(subject, mode), lambda p, t: (p - t) ** 2, steps.Batch(x, y))
    for index in range(6):
        loss = ((model(x[index : index + 1]).reshape(-1) - y[index]) ** 2).sum()
        alone = torch.autograd.grad(loss, list(model.parameters()))
        for parameter, expected in zip(subject.parameters(), alone, strict=True):
            torch.testing.assert_close(parameter.grad_sample[index], expected, rtol=1e-4, atol=1e-5)


def test_the_model_and_the_random_state_are_left_alone() -> None:
    model = Cnn1d(*SHAPE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_model(model, SHAPE)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
