"""Training in a round: every parameter under its own name, noise as charged, nothing repeatable."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from interplant.core.errors import InterplantError, Refusal
from interplant.core.export import predict
from interplant.core.networks import Cnn1d
from interplant.core.schema import Training
from interplant.privacy import dpsgd, steps
from interplant.privacy.noise import SINGLE_PRECISION
from interplant.privacy.optimizers import Sgd
from interplant.privacy.plan import Plan
from interplant.privacy.stream import Stream
from interplant.privacy.training import Trained, train

PLAN = Plan("window", records=200, batch=40, noise=1.0, clip=1.0, steps=4, delta=1e-5)
SGD = Training(steps=4, batch=40, optimizer="sgd", learning_rate=1.0)


def windows(count: int, channels: int = 5, window: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((count, channels, window)).astype(np.float32)
    return x, generator.random(count).astype(np.float32)


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return Cnn1d(5, 12, width=8, hidden=8)


class Flat(nn.Module):
    """One linear layer: its per-sample gradient is known in closed form."""

    def __init__(self, inputs: int = 60) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


def private(
    model: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    plan: Plan = PLAN,
    training: Training = SGD,
    reserve: Callable[[], object] = lambda: None,
) -> Trained:
    return train(model, x, y, training, plan, reserve)


def apply(model: nn.Module, result: Trained) -> None:
    """Add the update to the model, as a merge would."""
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, change in result.update.items():
            weights[name].add_(torch.from_numpy(change))


def flat(update: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in update.values()])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_every_parameter_gets_an_update_under_its_own_name(optimizer: str, loss: str) -> None:
    """A known framework federates `_module.*` names, which nobody reads: nothing is learned."""
    model = cnn()
    training = replace(SGD, optimizer=optimizer, loss=loss)
    update = private(model, *windows(200), training=training).update
    assert list(update) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        assert update[name].shape == tuple(parameter.shape)
        assert update[name].dtype == np.float32
        assert np.isfinite(update[name]).all()
        assert np.count_nonzero(update[name]) > 0.9 * update[name].size


def test_the_model_itself_is_left_as_it_was() -> None:
    model = cnn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    private(model, *windows(200))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_without_noise_worth_the_name_it_learns() -> None:
    x, _ = windows(400)
    y = x[:, 0].mean(1)
    plan = replace(PLAN, records=400, batch=200, noise=1e-3, steps=60)
    model = cnn()
    result = private(model, x, y, plan, Training(optimizer="adam", learning_rate=1e-2))
    apply(model, result)
    assert np.mean((predict(model, x) - y) ** 2) < 0.3 * np.var(y)


def test_the_charge_is_written_before_noise_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a refused charge draws none."""
    order: list[str] = []
    right = steps.Noised.add_noise

    def spy(self: steps.Noised) -> None:
        order.append("noise")
        right(self)

    monkeypatch.setattr(steps.Noised, "add_noise", spy)
    private(cnn(), *windows(200), reserve=lambda: order.append("charge"))
    assert order == ["charge"] + ["noise"] * PLAN.steps

    def refuse() -> None:
        raise Refusal("budget_spent")

    order.clear()
    with pytest.raises(Refusal):
        private(cnn(), *windows(200), reserve=refuse)
    assert order == []


def test_an_unfit_model_costs_nothing() -> None:
    charged: list[bool] = []
    model = nn.Sequential(nn.Conv1d(5, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(40, 1))
    with pytest.raises(InterplantError, match="GroupNorm"):
        private(model, *windows(50), reserve=lambda: charged.append(True))
    assert charged == []


def test_noise_has_the_magnitude_that_is_charged() -> None:
    """Zero inputs, zero targets, zero weights: all gradients vanish, the update is noise alone."""
    x, y = np.zeros((200, 5, 400), np.float32), np.zeros(200, np.float32)
    plan = replace(PLAN, noise=1.3, clip=0.7, steps=25)
    update = private(Flat(2000), x, y, plan).update["layer.weight"].ravel()
    expected = 1.3 * 0.7 * math.sqrt(25) / plan.denominator
    assert update.std() / expected == pytest.approx(1.0, abs=0.1)
    assert abs(update.mean()) < 6 * expected / math.sqrt(update.size)


def test_one_step_of_noise_is_within_half_a_percent_over_many_values() -> None:
    """A shortfall of one percent is seen (trap 13); the spread of the estimate itself is 0.07 %."""
    x, y = np.zeros((2, 5, 200_000), np.float32), np.zeros(2, np.float32)
    plan = replace(PLAN, records=2, batch=2, steps=1)
    update = private(Flat(1_000_000), x, y, plan).update["layer.weight"].ravel() * 2
    assert update.std() == pytest.approx(1.0 + SINGLE_PRECISION, abs=0.005)
    assert abs(np.corrcoef(update[1:], update[:-1])[0, 1]) < 0.01
    assert np.abs(update).max() > 4.0


def test_noise_is_fresh_in_every_step() -> None:
    """Repeated noise would add up as n, not as the square root of n."""
    x, y = np.zeros((10, 5, 400), np.float32), np.zeros(10, np.float32)
    one, many = (
        private(Flat(2000), x, y, replace(PLAN, steps=steps)).update["layer.weight"].std()
        for steps in (1, 100)
    )
    assert many / one == pytest.approx(10.0, rel=0.15)


def test_the_same_torch_seed_does_not_give_the_same_noise() -> None:
    """Trap 7: who knows the experiment's seed must not be able to subtract the noise."""
    x, y = np.zeros((10, 5, 400), np.float32), np.zeros(10, np.float32)
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        np.random.seed(1)
        update = train(Flat(2000), x, y, SGD, PLAN, lambda: None, seed=1).update
        drawn.append(update["layer.weight"].ravel())
    assert abs(np.corrcoef(*drawn)[0, 1]) < 0.2


def test_empty_batches_are_noise_alone_and_counted() -> None:
    """Trap 6: with no data at all every batch is empty; each step still adds its noise."""
    x, y = np.zeros((0, 5, 400), np.float32), np.zeros(0, np.float32)
    plan = replace(PLAN, steps=9)
    result = private(Flat(2000), x, y, plan)
    assert result.steps == 9
    expected = 3.0 / plan.denominator
    assert result.update["layer.weight"].std() == pytest.approx(expected, rel=0.1)


def test_some_batches_empty_some_not() -> None:
    plan = replace(PLAN, records=1000, batch=1, steps=20)
    update = private(cnn(), *windows(1000), plan).update
    assert np.isfinite(flat(update)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("where", ["x", "y"])
def test_one_bad_record_does_no_more_than_a_good_one(bad: float, where: str) -> None:
    """Trap 5: in Opacus one NaN destroys the whole model."""
    x, y = windows(200)
    if where == "x":
        x[3] = bad
    else:
        y[3] = bad
    plan = replace(PLAN, batch=200, noise=1e-6, steps=1)
    result = private(cnn(), x, y, plan)
    assert np.isfinite(flat(result.update)).all()
    assert np.linalg.norm(flat(result.update)) <= 1.01 * plan.clip


def test_bad_records_are_counted_for_the_plant() -> None:
    x, y = windows(200)
    x[:7] = math.nan
    result = private(cnn(), x, y, replace(PLAN, batch=200, steps=2))
    assert result.zeroed == 14


def test_a_bad_record_changes_nothing_but_its_own_share() -> None:
    x, y = windows(40)
    plan = replace(PLAN, records=40, batch=40, noise=1e-9, steps=1)
    x[3] = math.nan
    with_bad = flat(private(cnn(), x, y, plan).update)
    keep = np.arange(40) != 3
    without = flat(private(cnn(), x[keep], y[keep], plan).update)
    np.testing.assert_allclose(with_bad, without, atol=1e-6)


def test_one_record_moves_the_sum_by_the_clip_at_most() -> None:
    x, y = windows(40)
    y[0] = 1e4
    plan = replace(PLAN, records=40, batch=40, clip=0.5, noise=1e-9, steps=1)
    present = flat(private(cnn(), x, y, plan).update)
    absent = flat(private(cnn(), x[1:], y[1:], plan).update)
    moved = np.linalg.norm(present - absent) * plan.denominator
    assert moved == pytest.approx(0.5, rel=1e-3)


MACHINES = replace(PLAN, unit="unit", records=10, batch=10, windows=4, noise=1e-9, steps=1)


def of_machines(
    model: nn.Module, x: np.ndarray, y: np.ndarray, machines: np.ndarray, plan: Plan, engine: str
) -> np.ndarray:
    made = train(model, x, y, SGD, plan, lambda: None, engine=engine, machines=machines)
    return flat(made.update)


@pytest.mark.parametrize("engine", ["onepass", "opacus"])
@pytest.mark.parametrize("clipping", ["norm", "normalised"])
def test_a_machine_gives_the_mean_of_its_windows_clipped_once(engine: str, clipping: str) -> None:
    """Against a loop: machines of one, three and four windows, in no order."""
    x, y = windows(8)
    machines = np.array([7, 3, 7, 5, 3, 7, 3, 7])
    model, plan = cnn(), replace(MACHINES, clip=0.3, clipping=clipping)
    expected = np.zeros(sum(p.numel() for p in model.parameters()))
    for machine in (7, 3, 5):
        rows = machines == machine
        losses = (model(torch.from_numpy(x[rows])).reshape(-1) - torch.from_numpy(y[rows])) ** 2
        parts = torch.autograd.grad(losses.mean(), list(model.parameters()))
        gradient = torch.cat([part.flatten() for part in parts]).numpy()
        norm = np.linalg.norm(gradient)
        expected -= gradient * (min(1.0, 0.3 / norm) if clipping == "norm" else 0.3 / (norm + 0.01)) / 10
    found = of_machines(model, x, y, machines, plan, engine)
    assert np.linalg.norm(found - expected) < 2e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("engine", ["onepass", "opacus"])
def test_a_machine_moves_the_sum_by_the_clip_at_most_however_many_windows(engine: str) -> None:
    """Clipping windows and adding them up would let a machine of 100 windows weigh 100 times."""
    x, y = windows(120)
    machines = np.minimum(np.arange(120) // 10, 2)  # ten, ten, and a hundred
    y[machines == 2] = 1e3
    here = of_machines(cnn(), x, y, machines, MACHINES, engine)
    others = machines < 2
    gone = of_machines(cnn(), x[others], y[others], machines[others], MACHINES, engine)
    # What the other two drew differs between the runs, and is small beside the clip.
    assert np.linalg.norm(here - gone) * MACHINES.denominator < MACHINES.clip + 2.0
    alone = of_machines(cnn(), x[~others], y[~others], machines[~others], MACHINES, engine)
    assert np.linalg.norm(alone) * MACHINES.denominator == pytest.approx(MACHINES.clip, rel=1e-3)


@pytest.mark.parametrize("engine", ["onepass", "opacus"])
def test_no_more_than_k_windows_of_a_machine_enter_a_step(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interplant.privacy import training

    seen: list[int] = []
    right = training._Units.batch

    def spy(self: training._Units, chosen: np.ndarray, fill: int, stream: Stream) -> steps.Batch:
        batch = right(self, chosen, fill, stream)
        assert batch.weights is not None
        seen.append(int((batch.weights > 0).sum()))
        assert torch.allclose(batch.weights.view(-1, 4).sum(1), torch.eye(fill)[0])
        return batch

    monkeypatch.setattr(training._Units, "batch", spy)
    of_machines(cnn(), *windows(50), np.repeat(0, 50), replace(MACHINES, steps=3), engine)
    assert seen == [4, 4, 4]


@pytest.mark.parametrize("engine", ["onepass", "opacus"])
def test_a_bad_window_takes_its_machine_out_and_no_other(engine: str) -> None:
    x, y = windows(12)
    machines = np.repeat([1, 2, 3], 4)
    x[5] = math.nan
    found = of_machines(cnn(), x, y, machines, MACHINES, engine)
    keep = machines != 2
    expected = of_machines(cnn(), x[keep], y[keep], machines[keep], MACHINES, engine)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("engine", ["onepass", "opacus"])
def test_steps_that_draw_no_machine_are_noise_alone(engine: str) -> None:
    """Trap 6, for machines: most steps draw nobody."""
    plan = replace(MACHINES, records=1000, batch=1, noise=1.0, steps=20)
    update = of_machines(cnn(), *windows(8), np.repeat([1, 2], 4), plan, engine)
    assert np.isfinite(update).all()
    assert update.std() == pytest.approx(math.sqrt(20), rel=0.2)


def test_machines_must_be_told_where_they_are_counted() -> None:
    with pytest.raises(InterplantError, match="machine of each window"):
        private(cnn(), *windows(8), MACHINES)


def test_a_stream_that_repeats_gives_the_same_update_and_another_a_different_one() -> None:
    """Only for ``dp-sgd-test``: what is repeated is not private."""
    first, again, other = (
        flat(train(cnn(), *windows(80), SGD, PLAN, lambda: None, stream=Stream(secret)).update)
        for secret in (b"a", b"a", b"b")
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_the_denominator_is_the_plans_not_the_datas() -> None:
    """Trap 11: half of the records must halve the update; dividing by their number would hide it."""
    x = np.ones((100, 5, 12), np.float32)
    y = np.full(100, 1e3, np.float32)
    plan = replace(PLAN, records=100, batch=100, noise=1e-9, steps=1)
    full = flat(private(Flat(), x, y, plan).update)
    half = flat(private(Flat(), x[:50], y[:50], plan).update)
    np.testing.assert_allclose(half, full / 2, rtol=1e-4)
    assert np.linalg.norm(full) == pytest.approx(1.0, rel=1e-4)


def test_physical_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def private(model: nn.Module, x: np.ndarray, y: np.ndarray, plan: Plan) -> Trained:
        return train(model, x, y, SGD, plan, lambda: None, engine="opacus")

    x, y = windows(60)
    plan = replace(PLAN, records=60, batch=60, noise=1e-9, steps=3)
    whole = flat(private(cnn(), x, y, plan).update)
    monkeypatch.setattr(dpsgd, "PHYSICAL_BYTES", 4 * 7 * 700)
    model = cnn()
    assert dpsgd.units(model) < 8
    assert dpsgd.units(model, windows=1000) == 1
    np.testing.assert_allclose(flat(private(model, x, y, plan).update), whole, atol=1e-5)


def test_steps_and_rate_are_the_plans_not_the_trainings() -> None:
    """Trap 4: what runs is what is charged, even if the task's own keys said something else."""
    x, y = windows(200)
    result = private(cnn(), x, y, PLAN, replace(SGD, steps=99, batch=1))
    assert result.steps == PLAN.steps


def test_buffers_never_leave() -> None:
    """Trap 9: a constant buffer is allowed, and only parameters are exported."""

    class Shifted(Flat):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + self.shift)

    update = private(Shifted(), *windows(200)).update
    assert list(update) == ["layer.weight", "layer.bias"]


def test_frozen_parameters_stay() -> None:
    model = cnn()
    first = next(model.parameters())
    first.requires_grad = False
    update = private(model, *windows(200)).update
    assert list(update) == [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert "net.0.weight" not in update, "the coordinator does not send it either"
    assert update["net.0.bias"].any()


def test_without_a_plan_the_same_seed_gives_the_same_update() -> None:
    x, y = windows(200)
    first, again, other = (
        flat(train(cnn(), x, y, SGD, None, lambda: None, seed=seed).update) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_a_plan_nothing_is_charged_and_it_learns() -> None:
    x, _ = windows(400)
    y = x[:, 0].mean(1)
    charged: list[bool] = []
    training = Training(steps=150, batch=64, optimizer="adam", learning_rate=1e-2)
    model = cnn()
    result = train(model, x, y, training, None, lambda: charged.append(True))
    apply(model, result)
    assert charged == []
    assert result.mode == "plain"
    assert np.mean((predict(model, x) - y) ** 2) < 0.2 * np.var(y)


def test_training_leaves_the_callers_random_state_alone() -> None:
    model = cnn()
    torch.manual_seed(5)
    expected = torch.rand(3)
    for plan in (None, PLAN):
        torch.manual_seed(5)
        train(model, *windows(50), SGD, plan, lambda: None, seed=9)
        assert torch.equal(torch.rand(3), expected)


def test_plain_training_without_data_is_refused() -> None:
    x, y = windows(0)
    with pytest.raises(InterplantError, match="at least one window"):
        train(cnn(), x, y, SGD, None, lambda: None)


def test_data_of_the_wrong_shape_or_type_is_refused() -> None:
    x, y = windows(10)
    for bad in ((x.astype(np.float64), y), (x, y[:5]), (x, y[:, None])):
        with pytest.raises(InterplantError, match="expected float32 windows"):
            train(cnn(), *bad, SGD, PLAN, lambda: None)


# --- the proximal term ---------------------------------------------------------------------------------

TWO = replace(PLAN, steps=2)
TWO_STEPS = replace(SGD, steps=2, learning_rate=0.1)


def ways(
    plan: Plan | None, engine: str, proximal: float, monkeypatch: pytest.MonkeyPatch
) -> list[np.ndarray]:
    """The way from the weights that were sent after each of two steps; noise and batches are the same."""
    seen, really = [], Sgd.step

    def step(self: Sgd) -> None:
        really(self)
        seen.append(torch.cat([own.detach().flatten() for own in self.parameters]).double().numpy())

    stream = Stream(b"the same in every call") if plan else None
    with monkeypatch.context() as patch:
        patch.setattr(Sgd, "step", step)
        train(
            Flat(), *windows(200), TWO_STEPS, plan, lambda: None,
            engine=engine, stream=stream, proximal=proximal,
        )  # fmt: skip
    assert len(seen) == 2
    return seen  # the weights that were sent are zero


@pytest.mark.parametrize(
    ("plan", "engine"),
    [(None, "auto"), (TWO, "onepass"), (TWO, "opacus")],
    ids=["plain", "onepass", "opacus"],
)
def test_the_proximal_term_comes_after_clipping_and_noise(
    plan: Plan | None, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step is at the weights that were sent; the second differs by exactly rate x mu x the way.

    That is far above the clip: clipped with the gradients it could not come out whole, and divided by
    the batch, or with other noise, it would not be exact.
    """
    mu = 1e4
    held, free = ways(plan, engine, mu, monkeypatch), ways(plan, engine, 0.0, monkeypatch)
    np.testing.assert_array_equal(held[0], free[0])
    assert mu * np.linalg.norm(held[0]) > 30 * TWO.clip
    np.testing.assert_allclose(held[1] - free[1], -0.1 * mu * held[0], rtol=1e-3)


@pytest.mark.parametrize("engine", ["onepass", "opacus"])
def test_the_proximal_term_is_charged_nothing(engine: str) -> None:
    charges: list[int] = []
    result = train(
        Flat(), *windows(200), TWO_STEPS, TWO, lambda: charges.append(1), engine=engine, proximal=5.0
    )
    assert charges == [1]
    assert result.steps == TWO.steps


def test_a_strong_proximal_term_holds_the_weights_near() -> None:
    training = Training(steps=60, batch=40, optimizer="sgd", learning_rate=0.05)
    norms = [
        np.linalg.norm(flat(train(cnn(), *windows(200), training, None, lambda: None, proximal=mu).update))
        for mu in (0.0, 1.0, 10.0)
    ]
    assert norms[0] > 1.5 * norms[1] > 1.5 * norms[2]
