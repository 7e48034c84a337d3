"""Both engines are one training: same charge, same noise, same update; who cannot use one pass is told."""

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interplant.core.errors import InterplantError, Refusal
from interplant.core.networks import Cnn1d
from interplant.core.schema import Training
from interplant.privacy import checks, onepass, steps
from interplant.privacy.checks import check_model
from interplant.privacy.plan import Plan
from interplant.privacy.training import Trained, train

SHAPE = (5, 12)
PLAN = Plan("window", records=60, batch=60, noise=1e-9, clip=0.5, steps=3, delta=1e-5)
SGD = Training(optimizer="sgd", learning_rate=1.0)


class Gru(nn.Module):
    def __init__(self, kind: type[nn.Module] = nn.GRU, **words: Any) -> None:
        super().__init__()
        self.recurrent = kind(5, 6, batch_first=True, **words)
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.recurrent(x.transpose(1, 2))[0][:, -1])


class Scaled(nn.Module):
    """Holds a parameter of its own, which no layer type tells about."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(60)), nn.Linear(60, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1) * self.scale)


class Twice(nn.Module):
    """Calls a layer twice: only a run shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.last = nn.Linear(12, 12), nn.Linear(60, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(torch.tanh(self.again(x))).flatten(1))


class Borrowed(nn.Module):
    """Uses a layer's weight past the layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.last = nn.Linear(12, 12), nn.Linear(60, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.one(x) + x @ self.one.weight).flatten(1))


class Centred(Gru):
    """Takes the batch's mean away."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return Cnn1d(*SHAPE, width=8, hidden=8)


def windows(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((count, *SHAPE)).astype(np.float32)
    return x, generator.random(count).astype(np.float32)


def run(model: nn.Module, engine: str, plan: Plan = PLAN, count: int = 60, **words: Any) -> Trained:
    words = {"reserve": lambda: None, **words}
    return train(model, *windows(count), SGD, plan, engine=engine, **words)


def flat(result: Trained) -> np.ndarray:
    return np.concatenate([part.ravel() for part in result.update.values()])


@pytest.mark.parametrize("engine", ["onepass", "auto"])
def test_a_known_model_is_trained_in_one_pass(engine: str) -> None:
    assert run(cnn(), engine).mode == "onepass"


def test_opacus_stays_opacus_and_one_pass_is_the_default() -> None:
    assert run(cnn(), "opacus").mode in checks.MODES
    assert train(cnn(), *windows(60), SGD, PLAN, lambda: None).mode == "onepass"


def test_both_engines_make_the_same_update() -> None:
    """Noise is switched down so far that the clipped sums are what is left."""
    ours, theirs = flat(run(cnn(), "onepass")), flat(run(cnn(), "opacus"))
    assert np.linalg.norm(ours - theirs) < 2e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_torchs_recurrent_layers_train_privately_in_one_pass_only(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = Gru(kind)
    result = run(model, "onepass")
    assert result.mode == "onepass"
    assert list(result.update) == [name for name, _ in model.named_parameters()]
    assert all(part.any() for part in result.update.values())
    with pytest.raises(InterplantError, match=r"opacus\.layers"):
        run(model, "opacus")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Scaled, "Scaled is not one of the layers it knows"),
        (Twice, "not those of single samples"),
    ],
)
def test_other_models_take_opacus_saying_so(
    model: type[nn.Module], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        mode = check_model(model(), SHAPE, "onepass")
    assert mode in checks.MODES
    (said,) = [record for record in caplog.records if "one-pass" in record.message]
    assert reason in said.message
    assert f"Opacus ({mode})" in said.message
    assert said.levelno == logging.WARNING


@pytest.mark.parametrize("engine", checks.ENGINES)
def test_a_model_that_no_engine_gets_right_is_refused(engine: str) -> None:
    with pytest.raises(InterplantError, match="cannot be computed"):
        check_model(Borrowed(), SHAPE, engine)


def test_auto_notes_and_opacus_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_model(Scaled(), SHAPE, "auto")
        check_model(Scaled(), SHAPE, "opacus")
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_a_fallback_trains() -> None:
    torch.manual_seed(0)
    result = run(Scaled(), "onepass")
    assert result.mode in checks.MODES
    assert all(part.any() for part in result.update.values())


@pytest.mark.parametrize("engine", checks.ENGINES)
def test_a_model_that_mixes_samples_is_refused_by_every_engine(engine: str) -> None:
    """Trap 9: one pass asks no validator of layer types; the run must tell."""
    from opacus.layers import DPGRU

    model = Centred() if engine != "opacus" else Centred(DPGRU)
    with pytest.raises(InterplantError, match="mixes the samples"):
        check_model(model, SHAPE, engine)


@pytest.mark.parametrize("engine", checks.ENGINES)
def test_batch_norm_is_refused_by_every_engine(engine: str) -> None:
    for affine in (True, False):
        norm = nn.BatchNorm1d(4, affine=affine)
        model = nn.Sequential(nn.Conv1d(5, 4, 3), norm, nn.Flatten(), nn.Linear(40, 1))
        with pytest.raises(InterplantError, match=r"GroupNorm|mixes"):
            check_model(model, SHAPE, engine)


def test_wrong_norms_are_found_before_anything_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer kind with a mistake in its norms falls back to Opacus."""
    from interplant.privacy.onepass_linear import Positions

    right = Positions.squared_norms
    monkeypatch.setattr(Positions, "squared_norms", lambda self: right(self) / 2)
    assert check_model(cnn(), SHAPE, "onepass") in checks.MODES


@pytest.mark.parametrize("engine", ["onepass", "opacus"])
def test_the_charge_comes_once_and_before_noise(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    right = steps.Noised.add_noise

    def spy(self: steps.Noised) -> None:
        order.append("noise")
        right(self)

    monkeypatch.setattr(steps.Noised, "add_noise", spy)
    run(cnn(), engine, reserve=lambda: order.append("charge"))
    assert order == ["charge"] + ["noise"] * PLAN.steps


def test_a_refused_charge_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise Refusal("budget_spent")

    def unexpected(*_: object) -> None:
        raise AssertionError("a step ran without a charge")

    monkeypatch.setattr(onepass, "descend", unexpected)
    with pytest.raises(Refusal):
        run(cnn(), "onepass", reserve=refuse)


def test_noise_has_the_size_that_is_charged() -> None:
    """With no data at all every step is noise alone; the steps add up as the square root."""
    plan = replace(PLAN, noise=1.3, clip=0.7, steps=25)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 300), nn.Linear(300, 1))
    spread = flat(run(model, "onepass", plan, count=0)).std()
    assert spread == pytest.approx(1.3 * 0.7 * 5 / plan.denominator, rel=0.03)


def test_noise_does_not_follow_torchs_seed() -> None:
    """Trap 7."""
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        drawn.append(flat(run(cnn(), "onepass", replace(PLAN, noise=1.0), count=0, seed=1)))
    assert abs(np.corrcoef(*drawn)[0, 1]) < 0.2


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("where", ["x", "y"])
@pytest.mark.parametrize("make", [cnn, Gru])
def test_one_bad_record_does_no_more_than_a_good_one(make: Any, bad: float, where: str) -> None:
    """Trap 5."""
    x, y = windows(60)
    (x if where == "x" else y)[3] = bad
    result = train(make(), x, y, SGD, replace(PLAN, steps=1), lambda: None, engine="onepass")
    assert np.isfinite(flat(result)).all()
    assert np.linalg.norm(flat(result)) <= 1.01 * PLAN.clip


def test_the_denominator_is_the_plans() -> None:
    """Trap 11: half of the records halve the update."""
    plan = replace(PLAN, steps=1)
    x, y = (np.concatenate([part, part]) for part in windows(30))
    full = flat(train(cnn(), x, y, SGD, plan, lambda: None, engine="onepass"))
    half = flat(train(cnn(), x[:30], y[:30], SGD, plan, lambda: None, engine="onepass"))
    np.testing.assert_allclose(half, full / 2, atol=1e-6)


def test_one_pass_loads_no_compiler() -> None:
    """It would cost a trainer a second and 50 MB."""
    import subprocess
    import sys

    code = (
        "import sys, torch, numpy as np\n"
        "from interplant.core.networks import Cnn1d\n"
        "from interplant.core.schema import Training\n"
        "from interplant.privacy.plan import Plan\n"
        "from interplant.privacy.training import train\n"
        "plan = Plan('window', records=9, batch=9, noise=1.0, clip=1.0, steps=1, delta=1e-5)\n"
        "x = np.zeros((9, 5, 12), np.float32)\n"
        "made = train(Cnn1d(5, 12), x, x[:, 0, 0], Training(), plan, lambda: None, engine='onepass')\n"
        "print(made.mode, 'torch._dynamo' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["onepass", "False"]
