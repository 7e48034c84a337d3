"""One pass gives the clipped sums of a loop over the samples, and of Opacus, without their gradients."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from interplant.core.errors import InterplantError
from interplant.core.networks import Cnn1d
from interplant.privacy import dpsgd, onepass, onepass_layers, onepass_linear
from interplant.privacy.noise import SINGLE_PRECISION, Noise
from interplant.privacy.onepass import OnePass, OnePassOptimizer, descend, unsupported
from interplant.privacy.optimizers import Adam, Sgd
from interplant.privacy.plan import Plan
from interplant.privacy.steps import Batch, clip_factors

# Torch's word on the speed of even kernels.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

CHANNELS, WINDOW = 5, 12
PLAN = Plan("window", records=200, batch=40, noise=1.0, clip=1.0, steps=1, delta=1e-5)


def squares(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square()


class Sequence(nn.Module):
    """A recurrent layer between linear ones, which see every step and the last."""

    def __init__(self, kind: type[nn.Module], **words: Any) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(CHANNELS, 4), nn.Linear(6, 1)
        self.recurrent = kind(4, 6, **words)

    def forward(self, x: Tensor) -> Tensor:
        flow = self.before(x.transpose(1, 2))
        if self.recurrent.batch_first:
            return self.after(self.recurrent(flow)[0][:, -1])
        return self.after(self.recurrent(flow.transpose(0, 1))[0].mean(0))


class Bare(nn.Module):
    """Nothing trained below the recurrent layer; reads the last states instead of the output."""

    def __init__(self, kind: type[nn.Module], width: int = 3) -> None:
        super().__init__()
        self.recurrent = kind(CHANNELS, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.recurrent(x.transpose(1, 2))
        parts = state if isinstance(state, tuple) else (state,)
        return sum(part[0] for part in parts).sum(1)


class Odd(Bare):
    """Steps that are no round number, and an activation that may write over the states."""

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x[:, :, :7].transpose(1, 2))
        # Torch's own LSTM refuses to go back through states that were written over.
        return (states.relu_() if isinstance(self.recurrent, nn.GRU) else states.relu()).sum((1, 2))


class Handed(nn.Module):
    """The last states of one recurrent layer are the first of another."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.reader, self.writer = kind(CHANNELS, 3), kind(CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        flow = x.permute(2, 0, 1)
        return self.writer(flow, self.reader(flow)[1])[0][-1].sum(1)


class Attention(nn.Module):
    """An encoder block from linear layers and LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(CHANNELS, 8), nn.LayerNorm(8)
        self.attend, self.last = nn.Linear(8, 24), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        flow = self.enter(x.transpose(1, 2))
        query, key, value = self.attend(self.norm(flow)).chunk(3, 2)
        mixed = torch.softmax(query @ key.mT, 2) @ value
        return self.last((flow + mixed).mean(1))


class Changing(nn.Module):
    """Activations that write over a layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(60, 7), nn.Linear(7, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu_(self.one(x.flatten(1))))


class Turn(nn.Module):
    """Positions and channels in each other's place: what comes next reads memory in strides."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def conv2d(**words: Any) -> nn.Module:
    words = {"out_channels": 6, "kernel_size": (2, 3), **words}
    return nn.Sequential(
        nn.Unflatten(1, (1, CHANNELS)),
        nn.Conv2d(1, 4, 2),
        nn.Tanh(),
        nn.Conv2d(4, **words),
        nn.Flatten(),
        nn.LazyLinear(1),
    )


def conv1d(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(1))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(60, 7), nn.ReLU(), nn.Linear(7, 1)),
    "linear without bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(60, 1, bias=False)),
    "linear on short sequences": lambda: conv1d(nn.Linear(WINDOW, 9), nn.Tanh(), nn.Linear(9, 9)),
    "linear on turned sequences": lambda: nn.Sequential(
        nn.Linear(WINDOW, 80),
        nn.Tanh(),
        Turn(),
        nn.Linear(CHANNELS, 90),
        Turn(),
        nn.Flatten(),
        nn.LazyLinear(1),
    ),
    "wide linear on turned sequences": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(60, 90),
        nn.Unflatten(1, (45, 2)),
        Turn(),
        nn.Linear(45, 40),
        nn.Flatten(),
        nn.LazyLinear(1),
    ),
    "linear on long sequences": lambda: conv1d(nn.Unflatten(2, (6, 2)), nn.Linear(2, 3), nn.Tanh()),
    "conv1d": lambda: conv1d(nn.Conv1d(CHANNELS, 6, 3)),
    "conv1d, strided and padded": lambda: conv1d(nn.Conv1d(CHANNELS, 6, 5, stride=3, padding=2)),
    "conv1d, dilated, same": lambda: conv1d(nn.Conv1d(CHANNELS, 6, 4, dilation=2, padding="same")),
    "conv1d, valid, no bias": lambda: conv1d(nn.Conv1d(CHANNELS, 6, 4, padding="valid", bias=False)),
    "conv1d, one wide position": lambda: conv1d(nn.Conv1d(CHANNELS, 6, WINDOW)),
    "conv1d in groups": lambda: conv1d(nn.Conv1d(CHANNELS, 6, 1), nn.Conv1d(6, 4, 3, groups=2)),
    "conv1d by channel": lambda: conv1d(nn.Conv1d(CHANNELS, 10, 3, groups=CHANNELS)),
    "conv2d": conv2d,
    "conv2d, strided, padded, dilated": lambda: conv2d(stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "conv2d, same, groups": lambda: conv2d(padding="same", groups=2),
    "conv1d, many channels": lambda: conv1d(nn.Conv1d(CHANNELS, 25, 7, stride=4)),
    "conv1d, many channels in groups": lambda: conv1d(
        nn.Conv1d(CHANNELS, 24, 1), nn.Tanh(), nn.Conv1d(24, 26, 5, stride=3, dilation=2, groups=2)
    ),
    "conv2d, many channels": lambda: conv2d(out_channels=13, stride=(3, 4), padding=(0, 1), bias=False),
    "group norm": lambda: conv1d(nn.Conv1d(CHANNELS, 6, 3), nn.GroupNorm(3, 6), nn.Tanh()),
    "group norm on a row": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(60, 8), nn.GroupNorm(2, 8), nn.Tanh(), nn.Linear(8, 1)
    ),
    "layer norm": lambda: conv1d(nn.LayerNorm(WINDOW), nn.Linear(WINDOW, 4), nn.LayerNorm(4)),
    "layer norm without bias": lambda: conv1d(nn.LayerNorm(WINDOW, bias=False), nn.Tanh()),
    "group norm first": lambda: conv1d(nn.GroupNorm(1, CHANNELS), nn.Tanh()),
    "layer norm on two dimensions": lambda: conv1d(nn.LayerNorm((CHANNELS, WINDOW)), nn.Tanh()),
    "cnn1d": lambda: Cnn1d(CHANNELS, WINDOW, width=8, hidden=8),
    "attention": Attention,
    "in place": Changing,
    "bare gru": lambda: Bare(nn.GRU),
    "bare lstm": lambda: Bare(nn.LSTM),
    "wide gru": lambda: Bare(nn.GRU, 40),
    "wide lstm": lambda: Bare(nn.LSTM, 40),
    "odd gru": lambda: Odd(nn.GRU),
    "odd lstm": lambda: Odd(nn.LSTM),
    "odd wide gru": lambda: Odd(nn.GRU, 41),
    "odd wide lstm": lambda: Odd(nn.LSTM, 41),
    "handed gru": lambda: Handed(nn.GRU),
    "handed lstm": lambda: Handed(nn.LSTM),
}
for kind in (nn.GRU, nn.LSTM):
    for words in ({}, {"batch_first": True}, {"num_layers": 2}, {"bias": False, "batch_first": True}):
        KINDS[f"{kind.__name__} {words}"] = lambda kind=kind, words=words: Sequence(kind, **words)


def made(name: str) -> nn.Module:
    """A model with large enough weights that every gate and norm matters."""
    torch.manual_seed(0)
    model = KINDS[name]()
    model(torch.zeros(1, CHANNELS, WINDOW))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def batch(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((count, CHANNELS, WINDOW), generator=generator)
    return x * torch.linspace(0.3, 2, count).view(-1, 1, 1), torch.rand(count, generator=generator)


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def alone(model: nn.Module, x: Tensor, y: Tensor) -> list[tuple[Tensor, ...]]:
    """Each sample's gradient by torch, one at a time."""
    losses = (squares(model(a[None]).reshape(-1), b[None]).sum() for a, b in zip(x, y, strict=True))
    return [torch.autograd.grad(loss, trained(model)) for loss in losses]


def norms_of(gradients: list[tuple[Tensor, ...]]) -> Tensor:
    return torch.stack([torch.cat([part.flatten() for part in one]).norm() for one in gradients])


def loop(model: nn.Module, x: Tensor, y: Tensor, clip: float, clipping: str = "norm") -> list[Tensor]:
    gradients = alone(model, x, y)
    factors = clip_factors(norms_of(gradients), clip, clipping)
    columns = zip(*gradients, strict=True)
    return [sum(f * part for f, part in zip(factors, column, strict=True)) for column in columns]


def noise(plan: Plan, model: nn.Module) -> Noise:
    return Noise(plan, sum(parameter.numel() for parameter in model.parameters()), ahead=False)


def middle(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """A clipping norm that some samples exceed and some do not."""
    return float(norms_of(alone(model, x, y)).median())


def assert_same(found: list[Tensor], expected: list[Tensor], relative: float = 1e-5) -> None:
    """Each parameter's sum, to a part of its length; where samples cancel, of a tenth of the whole."""
    assert [part.shape for part in found] == [part.shape for part in expected]
    whole = float(torch.cat([part.flatten() for part in expected]).norm())
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= relative * max(float(other.norm()), 0.1 * whole)


@pytest.mark.parametrize("count", [1, 2, 9, 33])
@pytest.mark.parametrize("name", KINDS)
def test_the_clipped_sum_is_that_of_a_loop(name: str, count: int) -> None:
    model = made(name)
    x, y = batch(count)
    clip = middle(model, x, y)
    found = OnePass(model, clip).clipped(squares, x, y)
    assert_same(found.sums, loop(model, x, y, clip))
    expected = norms_of(alone(model, x, y))
    torch.testing.assert_close(found.norms, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))
    assert found.zeroed == 0


def in_units(gradients: list[tuple[Tensor, ...]], weights: Tensor, rows: int) -> list[tuple[Tensor, ...]]:
    """Each unit's gradient: the weighted sum over its rows."""
    return [
        tuple(
            sum(weights[row] * part for row, part in enumerate(column, start))
            for column in zip(*gradients[start : start + rows], strict=True)
        )
        for start in range(0, len(gradients), rows)
    ]


@pytest.mark.parametrize("clipping", ["norm", "normalised"])
@pytest.mark.parametrize("rows", [2, 5])
@pytest.mark.parametrize("name", KINDS)
def test_a_units_rows_are_added_up_and_clipped_once(name: str, rows: int, clipping: str) -> None:
    """As in a loop; the last unit has fewer windows than rows, filled up with weight 0."""
    model = made(name)
    x, y = batch(4 * rows)
    weights = torch.full((4 * rows,), 1 / rows)
    weights[-rows:] = torch.tensor([1.0] + [0.0] * (rows - 1))
    units = in_units(alone(model, x, y), weights, rows)
    norms = norms_of(units)
    clip = float(norms.median())
    factors = clip_factors(norms, clip, clipping)
    columns = zip(*units, strict=True)
    expected = [sum(f * part for f, part in zip(factors, column, strict=True)) for column in columns]
    found = OnePass(model, clip, clipping).clipped(squares, x, y, weights, rows)
    assert_same(found.sums, expected)
    torch.testing.assert_close(found.norms, norms, rtol=1e-5, atol=1e-5 * float(norms.max()))


@pytest.mark.parametrize("name", KINDS)
def test_a_window_that_is_not_finite_takes_out_its_unit_and_no_other(name: str) -> None:
    model = made(name)
    x, y = batch(12)
    weights = torch.full((12,), 0.25)
    kept = torch.tensor([*range(4), *range(8, 12)])
    expected = OnePass(model, 0.5).clipped(squares, x[kept], y[kept], weights[kept], 4)
    y[6] = math.nan
    found = OnePass(model, 0.5).clipped(squares, x, y, weights, 4)
    assert found.zeroed == 1
    assert_same(found.sums, expected.sums)


def test_a_unit_is_never_split_between_physical_batches() -> None:
    engine = OnePass(made("cnn1d"), 1.0)
    engine.samples = 30
    assert engine.units(rows=8) == 3
    engine.samples = 3
    assert engine.units(rows=8) == 1


OPACUS_KNOWS = [name for name in KINDS if not any(word in name.lower() for word in ("gru", "lstm", "place"))]


@pytest.mark.parametrize("name", OPACUS_KNOWS)
def test_the_clipped_sum_is_opacuss(name: str) -> None:
    model = made(name)
    x, y = batch(9)
    clip = middle(model, x, y)
    plan = Plan("window", records=9, batch=9, noise=1.0, clip=clip, steps=1, delta=1e-5)
    other = copy.deepcopy(model)
    wrapped = dpsgd.wrap(other, "functorch")
    optimizer = dpsgd.PrivateOptimizer(Sgd(other.parameters(), 1.0), plan, noise(plan, other))
    dpsgd.per_sample(wrapped, squares, Batch(x, y))
    optimizer.clip_and_accumulate()
    expected = [parameter.summed_grad.float() for parameter in other.parameters()]
    assert_same(OnePass(model, clip).clipped(squares, x, y).sums, expected)


@pytest.mark.parametrize("name", ["GRU", "LSTM"])
def test_opacuss_own_recurrent_layers_give_the_same_sum(name: str) -> None:
    from opacus import layers

    x, y = batch(7)
    ours = made(f"{name} {{'batch_first': True}}")
    theirs = Sequence(getattr(layers, f"DP{name}"), batch_first=True)
    own = dict(ours.named_parameters())
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.copy_(own[key])
    clip = middle(ours, x, y)
    plan = Plan("window", records=7, batch=7, noise=1.0, clip=clip, steps=1, delta=1e-5)
    optimizer = dpsgd.PrivateOptimizer(Sgd(theirs.parameters(), 1.0), plan, noise(plan, theirs))
    dpsgd.per_sample(dpsgd.wrap(theirs, "hooks"), squares, Batch(x, y))
    optimizer.clip_and_accumulate()
    expected = {key: parameter.summed_grad.float() for key, parameter in theirs.named_parameters()}
    found = OnePass(ours, clip).clipped(squares, x, y).sums
    assert_same(found, [expected[key] for key in own])


@pytest.mark.parametrize("name", ["cnn1d", "GRU {}", "LSTM {}", "attention"])
def test_normalised_clipping_brings_every_gradient_near_the_clip(name: str) -> None:
    model = made(name)
    x, y = batch(9)
    found = OnePass(model, 0.7, "normalised").clipped(squares, x, y)
    assert_same(found.sums, loop(model, x, y, 0.7, "normalised"))
    single = OnePass(model, 0.7, "normalised").clipped(squares, x[-1:], y[-1:])
    length = float(torch.cat([part.flatten() for part in single.sums]).norm())
    assert 0.6 < length <= 0.7


def test_the_factors_are_those_of_the_papers() -> None:
    """A gradient of zero stays one, also under normalised clipping."""
    norms = torch.tensor([0.0, 0.5, 2.0, 1e20])
    bounded = clip_factors(norms, 1.0, "norm")
    torch.testing.assert_close(bounded, torch.tensor([1.0, 1.0, 0.5, 1e-20]))
    brought = clip_factors(norms, 1.0, "normalised")
    torch.testing.assert_close(brought, torch.tensor([100.0, 1 / 0.51, 1 / 2.01, 1e-20]))
    for factors in (bounded, brought):
        assert (factors * norms <= 1.0).all()


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize(
    "name",
    [
        *("linear", "cnn1d", "layer norm", "group norm", "attention", "linear on short sequences"),
        *("conv1d, many channels", "conv1d, many channels in groups", "conv1d by channel"),
        *("GRU {}", "LSTM {}", "LSTM {'num_layers': 2}", "wide gru", "wide lstm", "odd wide gru"),
    ],
)
def test_frozen_parameters_count_for_nothing(name: str, frozen: str) -> None:
    model = made(name)
    for key, parameter in model.named_parameters():
        parameter.requires_grad = frozen not in key
    x, y = batch(9)
    clip = middle(model, x, y)
    assert_same(OnePass(model, clip).clipped(squares, x, y).sums, loop(model, x, y, clip))


def test_a_frozen_parameter_is_no_part_of_the_step() -> None:
    model = made("linear")
    model[1].weight.requires_grad = False
    before, x_y = [own.detach().clone() for own in model.parameters()], batch(6)
    plan = Plan("window", records=6, batch=6, noise=1.0, clip=1.0, steps=1, delta=1e-5)
    count = sum(own.numel() for own in trained(model))
    own_noise = Noise(plan, count, ahead=False)
    optimizer = OnePassOptimizer(Sgd(model.parameters(), 1.0), plan, own_noise)
    descend(OnePass(model, 1.0), optimizer, squares, [Batch(*x_y)])
    stayed = [torch.equal(own, old) for own, old in zip(model.parameters(), before, strict=True)]
    assert stayed == [True, False, False, False]


@pytest.mark.parametrize("name", ["GRU {}", "cnn1d"])
def test_a_frozen_first_layer_is_passed_over(name: str) -> None:
    model = made(name)
    next(iter(model.children())).requires_grad_(False) if name != "cnn1d" else model.net[0].requires_grad_(
        False
    )
    x, y = batch(5)
    assert_same(OnePass(model, 0.5).clipped(squares, x, y).sums, loop(model, x, y, 0.5))


BAD = [math.nan, math.inf, -math.inf, 1e30]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", KINDS)
def test_a_sample_that_is_not_finite_leaves_the_others_as_they_were(name: str, bad: float) -> None:
    """Trap 5. What is merely enormous may survive a norm layer: then it is clipped like any other."""
    model = made(name)
    x, y = batch(6)
    keep = torch.arange(6) != 2
    engine = OnePass(model, 0.5)
    expected = engine.clipped(squares, x[keep], y[keep]).sums
    x[2] = bad
    found = engine.clipped(squares, x, y)
    assert found.zeroed == 1 or bad == 1e30
    moved = torch.cat([(one - other).flatten() for one, other in zip(found.sums, expected, strict=True)])
    limit = 1e-5 if found.zeroed else 0.5 * (1 + 1e-5)
    assert moved.norm() <= limit


def test_a_whole_batch_that_is_not_finite_gives_zero() -> None:
    x, y = batch(4)
    found = OnePass(made("cnn1d"), 0.5).clipped(squares, x * math.nan, y)
    assert found.zeroed == 4
    assert not any(part.any() for part in found.sums)


@pytest.mark.parametrize("name", KINDS)
def test_no_sample_moves_the_sum_by_more_than_the_clip(name: str) -> None:
    model = made(name)
    x, y = batch(6)
    y[0] = 1e4
    engine = OnePass(model, 0.5)
    both, rest = engine.clipped(squares, x, y).sums, engine.clipped(squares, x[1:], y[1:]).sums
    moved = torch.cat([(one - other).flatten() for one, other in zip(both, rest, strict=True)]).norm()
    assert float(moved) == pytest.approx(0.5, rel=1e-3)


def test_gradients_that_cancel_along_a_sequence_are_not_taken_for_short() -> None:
    """Gram matrices lose in single precision what cancels: the norm must come out too long, not too short."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((64, 8, 40), generator=generator)
    inputs[:, 4:] = inputs[:, :4]
    grads = 1e4 * torch.randn((64, 8, 30), generator=generator)
    grads[:, 4:] = -grads[:, :4] * (1 + 1e-4 * torch.rand((64, 4, 30), generator=generator))
    assert onepass_layers.gram_is_cheaper(inputs, grads)
    found = onepass_layers.product_norms(inputs, grads, biases=0).sqrt()
    exact = torch.einsum("nto,nti->noi", grads.double(), inputs.double()).flatten(1).norm(dim=1)
    assert (found >= exact).all()


def along(positions: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions that cancel exactly, of a map for which products take fewer operations than Gram matrices."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((4, positions, 10), generator=generator)
    grads = 2.0**25 * torch.randn((4, positions, 8), generator=generator)
    half = positions // 2
    inputs[:, half:], grads[:, half:] = inputs[:, :half], -grads[:, :half]
    assert not onepass_layers.gram_is_cheaper(inputs, grads)
    return inputs, grads


@pytest.mark.parametrize("weight", [True, False])
def test_what_cancels_in_a_product_is_not_taken_for_nothing(weight: bool) -> None:
    """Its parts stand beside everybody else's in one sum, and round the others away."""
    inputs, grads = along()
    found = onepass_layers.product_norms(inputs, grads, weight, 1).sqrt()
    into = inputs.double().norm(dim=2).square() * weight + 1
    uncancelled = (into.sqrt() * grads.double().norm(dim=2)).sum(1)
    assert (found >= 0.99 * uncancelled * onepass_layers.ROUNDING**0.5).all()


def test_what_is_too_long_for_a_product_is_not_trusted() -> None:
    inputs, grads = along()
    grads[1, 0, 0] = 1e11
    found = onepass_layers.product_norms(inputs, grads)
    assert torch.isinf(found).tolist() == [False, True, False, False]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("clipping", ["norm", "normalised"])
def test_weights_chosen_so_that_gradients_cancel_do_not_let_a_unit_pass_the_clip(
    kind: type[nn.GRU] | type[nn.LSTM], clipping: str
) -> None:
    """A hostile coordinator's weights: a huge head, no memory, and windows that take themselves back."""
    torch.manual_seed(0)

    class Hostile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = kind(4, 16, batch_first=True), nn.Linear(16, 1)
            with torch.no_grad():
                self.cell.weight_hh_l0.zero_()
                self.head.weight.mul_(2.0**30)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states = self.cell(x)[0]
            half = states.shape[1] // 2
            return self.head(states[:, :half].sum(1) - states[:, half:].sum(1))

    others = 0.1 * torch.rand(63, 30, 4)
    own = 0.75 * torch.rand(1, 15, 4).repeat(1, 2, 1)
    x, y = torch.cat([others, own]), torch.zeros(64)
    engine = onepass.OnePass(Hostile(), 1.0, clipping)

    def linear(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return prediction - target

    both, without = engine.clipped(linear, x, y), engine.clipped(linear, x[:-1], y[:-1])
    moved = [(a.double() - b.double()).norm() for a, b in zip(both.sums, without.sums, strict=True)]
    assert float(torch.stack(moved).norm()) <= 1.02


def cancelling(layer: nn.Linear) -> onepass_linear.Positions:
    """Positions of which the second half takes back the first."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((16, 8, layer.in_features), generator=generator)
    inputs[:, 4:] = inputs[:, :4]
    grads = 1e4 * torch.randn((16, 8, layer.out_features), generator=generator)
    grads[:, 4:] = -grads[:, :4] * (1 + 1e-6 * torch.rand((16, 4, layer.out_features), generator=generator))
    return onepass_linear.Positions(layer, inputs, grads, 1, onepass_linear.view_as)


@pytest.mark.parametrize("width", [3, 200])
def test_a_unit_adds_no_more_than_the_norm_that_is_taken_for_it(width: int) -> None:
    """Whichever way is chosen, and even where rounding is most of what is left."""
    share = onepass_linear.over_positions(cancelling(nn.Linear(width, width)))
    assert isinstance(share, onepass_linear.Formed if width == 3 else onepass_linear.Positions)
    norms = share.squared_norms().sqrt()
    for unit, norm in enumerate(norms):
        alone = torch.zeros(len(norms))
        alone[unit] = 1.0
        added = torch.cat([part.flatten() for _, part in share.clipped_sums(alone)]).norm()
        assert float(added) <= 1.001 * float(norm)


def test_the_ways_to_a_norm_agree() -> None:
    """A layer on a few positions, by Gram matrices and by gradients that are formed."""
    layer = nn.Linear(9, 7)
    share = onepass_linear.Positions(
        layer, torch.randn(6, 5, 9), torch.randn(6, 5, 7), 1, onepass_linear.view_as
    )
    # One of the ways adds `ROUNDING` of what does not cancel.
    torch.testing.assert_close(share.squared_norms(), share.formed().squared_norms(), rtol=1e-5, atol=1e-5)
    factors = torch.rand(6)
    for (_, one), (_, other) in zip(
        share.clipped_sums(factors), share.formed().clipped_sums(factors), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", KINDS)
def test_formed_gradients_are_hardly_larger_than_what_layers_keep(name: str) -> None:
    """They must not become the per-sample gradients that one pass is there to avoid."""
    model = made(name)
    x, y = batch(8)
    seen: list[onepass_linear.Positions] = []
    right = onepass_linear.Positions.formed

    def spy(self: onepass_linear.Positions) -> onepass_linear.Formed:
        seen.append(self)
        return right(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onepass_linear.Positions, "formed", spy)
        OnePass(model, 1.0).clipped(squares, x, y)
    for share in seen:
        formed, kept = (sum(part.numel() for part in one.kept) for one in (share.formed(), share))
        assert formed <= 2 * onepass_linear.FORMING * kept


@pytest.mark.parametrize(("small", "large"), [(1e-25, 1e25), (1e-24, 1e18), (1e-30, 1e12)])
def test_a_product_of_tiny_and_huge_is_not_taken_for_nothing(small: float, large: float) -> None:
    """In single precision the square of 1e-24 is zero, and the norm would be too."""
    for shape in ((3, 1, 4), (3, 2, 40)):
        for inputs, grads in ((small, large), (large, small)):
            found = onepass_layers.product_norms(
                torch.full(shape, inputs), torch.full(shape, grads), biases=0
            )
            assert not torch.isfinite(found).any()


def test_an_empty_batch_sums_to_nothing() -> None:
    model = made("cnn1d")
    found = OnePass(model, 1.0).clipped(squares, torch.empty(0, CHANNELS, WINDOW), torch.empty(0))
    assert [part.shape for part in found.sums] == [parameter.shape for parameter in model.parameters()]
    assert not any(part.any() for part in found.sums)


@pytest.mark.parametrize("name", ["cnn1d", "GRU {}", "linear"])
def test_the_models_results_and_gradients_outside_are_left_alone(name: str) -> None:
    model = made(name)
    x, y = batch(5)
    before = model(x)
    engine = OnePass(model, 1.0)
    engine.clipped(squares, x, y)
    engine.close()
    assert torch.equal(model(x), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.modules())
    assert torch.equal(x, batch(5)[0])


@pytest.mark.parametrize("name", ["GRU {}", "LSTM {}", "GRU {'num_layers': 2}", "LSTM {'num_layers': 2}"])
def test_the_recurrent_layers_compute_what_torchs_do(name: str) -> None:
    from interplant.privacy.onepass_layers import Tape
    from interplant.privacy.onepass_time import run

    layer = made(name).recurrent
    flow = torch.randn(WINDOW, 3, 4)
    (found, ends), (expected, last) = run(layer, Tape(), flow), layer(flow)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ends, last)


def test_dropout_between_recurrent_layers_falls_as_torchs_does() -> None:
    from interplant.privacy.onepass_layers import Tape
    from interplant.privacy.onepass_time import run

    layer = nn.GRU(4, 6, num_layers=3, dropout=0.5, batch_first=True)
    flow = torch.randn(3, WINDOW, 4)
    torch.manual_seed(4)
    expected = layer(flow)[0]
    torch.manual_seed(4)
    torch.testing.assert_close(run(layer, Tape(), flow)[0], expected)


class TwiceNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.LayerNorm(WINDOW), nn.Linear(60, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.norm(x)).flatten(1))


class SpoiledBefore(nn.Module):
    """Writes over what a layer that is run here has read."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        seen = x.clone()
        flow = self.layer(seen)
        seen.zero_()
        return (flow[0] if isinstance(flow, tuple) else flow).flatten(1).sum(1)


class Twice(Changing):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.again(self.again(self.one(x.flatten(1)))))


class TwiceRecurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(self.recurrent(x.permute(2, 0, 1))[0])[0][-1].sum(1)


class Turned(nn.Module):
    """A layer sees time before samples: its first dimension is not the batch's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.permute(2, 0, 1)).sum(0)


class Spoiled(nn.Module):
    """Writes over what a layer has read."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(60, 7), nn.Linear(7, 7), nn.Linear(7, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.one(x.flatten(1)).detach().clone()
        flow = self.two(seen)
        seen.zero_()
        return self.three(flow)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Twice, "called more than once"),
        (TwiceRecurrent, "more than once"),
        (Turned, "samples apart"),
        (Spoiled, "in place"),
        (TwiceNormed, "more than once"),
        (lambda: SpoiledBefore(nn.LayerNorm(WINDOW)), "in place"),
        (lambda: SpoiledBefore(nn.GroupNorm(1, CHANNELS)), "in place"),
        (lambda: SpoiledBefore(nn.LSTM(WINDOW, 3, batch_first=True)), "in place"),
    ],
)
def test_a_pass_with_wrong_norms_is_refused(model: Callable[[], nn.Module], reason: str) -> None:
    x, y = batch(4)
    with pytest.raises(InterplantError, match=reason):
        OnePass(model(), 1.0).clipped(squares, x, y)


class OwnScale(Changing):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class OwnLinear(nn.Linear):
    """A subclass may do anything."""


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (OwnScale, "OwnScale"),
        (lambda: OwnLinear(3, 1), "OwnLinear"),
        (tied, "share a parameter"),
        (lambda: nn.Conv1d(3, 3, 3, padding=1, padding_mode="circular"), "padding_mode 'circular'"),
        (lambda: nn.GRU(3, 3, bidirectional=True), "both directions"),
        (lambda: nn.LSTM(3, 3, proj_size=2), "projections"),
        (lambda: nn.RNN(3, 3), "RNN"),
        (lambda: nn.BatchNorm1d(3), "BatchNorm1d"),
        (lambda: nn.TransformerEncoderLayer(4, 2), "MultiheadAttention"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 1)), "ParametrizedLinear"),
    ],
)
def test_what_it_does_not_know_is_named(model: Callable[[], nn.Module], reason: str) -> None:
    built = model()
    assert reason in (unsupported(built) or "")
    with pytest.raises(InterplantError, match=reason):
        OnePass(built, 1.0)


@pytest.mark.parametrize("name", KINDS)
def test_what_it_knows_is_supported(name: str) -> None:
    assert unsupported(made(name)) is None


def test_an_unknown_clipping_is_refused() -> None:
    with pytest.raises(InterplantError, match="norm or normalised"):
        OnePass(made("linear"), 1.0, "hard")


def stepped(model: nn.Module, plan: Plan, batches: Callable[[OnePass], list[Batch]]) -> Tensor:
    """One step of gradient descent at rate 1; return how the parameters moved."""
    model = copy.deepcopy(model)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = OnePassOptimizer(Sgd(model.parameters(), 1.0), plan, noise(plan, model))
    engine = OnePass(model, plan.clip)
    descend(engine, optimizer, squares, batches(engine))
    return nn.utils.parameters_to_vector(model.parameters()).detach() - before


def test_one_vector_of_all_parameters_moves_as_they_would_alone() -> None:
    """Adam on the clipped sums over the denominator, each parameter for itself."""
    x, y = batch(9)
    plan = Plan("window", records=9, batch=9, noise=1e-9, clip=0.5, steps=3, delta=1e-5)
    model = made("linear on short sequences")
    other = copy.deepcopy(model)
    optimizer = OnePassOptimizer(Adam(model.parameters(), 0.01), plan, noise(plan, model))
    apart, engine = Adam(other.parameters(), 0.01), OnePass(other, plan.clip)
    for _ in range(plan.steps):
        descend(OnePass(model, plan.clip), optimizer, squares, [Batch(x, y)])
        for parameter, total in zip(other.parameters(), engine.clipped(squares, x, y).sums, strict=True):
            parameter.grad = total / plan.denominator
        apart.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_physical_batches_give_the_same_step() -> None:
    x, y = batch(33)
    plan = Plan("window", records=33, batch=33, noise=1e-9, clip=0.5, steps=1, delta=1e-5)

    def split(_: OnePass) -> list[Batch]:
        return [Batch(*part) for part in zip(x.split(7), y.split(7), strict=True)]

    for name in ("cnn1d", "GRU {}"):
        model = made(name)
        whole = stepped(model, plan, lambda _: [Batch(x, y)])
        torch.testing.assert_close(stepped(model, plan, split), whole, rtol=1e-5, atol=1e-7)


def test_physical_batches_follow_the_memory_that_layers_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OnePass(made("cnn1d"), 1.0)
    engine.clipped(squares, *batch(9))
    assert engine.units() == 1024
    assert engine.units(rows=8) == 128
    monkeypatch.setattr(onepass, "PHYSICAL_BYTES", 1 << 16)
    engine.clipped(squares, *batch(9))
    assert engine.units() < 1000 / 5


def test_an_empty_batch_is_a_step_of_noise_alone() -> None:
    """Trap 6; the noise has the standard deviation that is charged, over the plan's denominator."""
    model = nn.Linear(200_000, 1)
    plan = Plan("window", records=50, batch=5, noise=1.3, clip=0.7, steps=1, delta=1e-5)
    moved = stepped(model, plan, lambda _: [])
    assert float(moved.std()) == pytest.approx(1.3 * 0.7 / 5 * (1 + SINGLE_PRECISION), rel=0.01)


def test_noise_through_the_new_path_has_the_right_size() -> None:
    """Gradients that vanish: what is left is noise, for a batch in two physical parts as well."""
    model = nn.Linear(200_000, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    x, y = torch.zeros(2, 200_000), torch.zeros(2)
    plan = Plan("window", records=2, batch=2, noise=1.0, clip=1.0, steps=1, delta=1e-5)
    for batches in ([Batch(x, y)], [Batch(x[:1], y[:1]), Batch(x[1:], y[1:])]):
        moved = stepped(model, plan, lambda _, batches=batches: batches)
        assert float(moved.std()) == pytest.approx(0.5 * (1 + SINGLE_PRECISION), rel=0.01)
        assert abs(float(moved.mean())) < 0.01


def test_zeroed_samples_are_counted() -> None:
    model = made("cnn1d")
    optimizer = OnePassOptimizer(Sgd(model.parameters(), 1.0), PLAN, noise(PLAN, model))
    x, y = batch(6)
    x[:3] = math.nan
    descend(OnePass(model, 1.0), optimizer, squares, [Batch(x, y), Batch(x, y)])
    assert optimizer.zeroed == 6
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor):
                self.size = max(self.size, one.numel())
        return made


@pytest.mark.parametrize("wide", ["linear", "gru", "cnn"])
def test_per_sample_gradients_are_never_formed(wide: str) -> None:
    """A loop over samples or Opacus holds samples x weights numbers; nothing near that is allocated."""
    torch.manual_seed(0)
    models = {
        "linear": nn.Sequential(nn.Flatten(), nn.Linear(60, 300), nn.ReLU(), nn.Linear(300, 1)),
        "gru": Sequence(nn.GRU, batch_first=True),
        "cnn": nn.Sequential(
            nn.Conv1d(CHANNELS, 64, 3), nn.ReLU(), nn.Conv1d(64, 64, 3), nn.Flatten(), nn.Linear(512, 1)
        ),
    }
    model = models[wide] if wide != "gru" else nn.Sequential(Long(), nn.Linear(96, 1))
    weights = max(parameter.numel() for parameter in model.parameters())
    x, y = batch(128)
    engine = OnePass(model, 1.0)
    with Largest() as largest:
        engine.clipped(squares, x, y)
    assert largest.size < 128 * weights / 2


class Long(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(CHANNELS, 96)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(x.permute(2, 0, 1))[0][-1]


def test_products_are_formed_for_a_few_samples_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where forming them is cheaper than Gram matrices, memory stays bounded and the norms the same."""
    inputs, grads = torch.randn(50, 40, 8), torch.randn(50, 40, 6)
    assert not onepass_layers.gram_is_cheaper(inputs, grads)
    expected = onepass_layers.product_norms(inputs, grads)
    monkeypatch.setattr(onepass_layers, "CHUNK_BYTES", 4 * 48 * 3)
    with Largest() as largest:
        found = onepass_layers.product_norms(inputs, grads)
    torch.testing.assert_close(found, expected)
    assert largest.size <= max(50 * 40 * 8, 3 * 48)
