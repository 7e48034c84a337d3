"""Our two optimizers do what torch's do, without what those load."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from interplant.privacy.optimizers import Adam, Sgd


def trained(kind: str, own: bool) -> list[torch.Tensor]:
    """Parameters after a few steps on fixed data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    if own:
        optimizer = (Adam if kind == "adam" else Sgd)(model.parameters(), 0.05)
    else:
        theirs = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind]
        optimizer = theirs(model.parameters(), lr=0.05)  # type: ignore[assignment]
    for _ in range(20):
        x = torch.randn(16, 4)
        optimizer.zero_grad()
        (model(x).reshape(-1) - x.sum(1)).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_they_take_the_steps_that_torchs_own_take(kind: str) -> None:
    for ours, theirs in zip(trained(kind, own=True), trained(kind, own=False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_proximal_step_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = Sgd([parameter], 0.1, proximal=3.0)
    for _ in range(2):
        parameter.grad = torch.tensor([1.0, 2.0])
        optimizer.step()
        assert torch.equal(parameter.grad, torch.tensor([1.0, 2.0])), "the gradient itself stays"
    # The first step is at w_sent; the second adds 3 times the way -0.1, -0.2 to the gradient.
    torch.testing.assert_close(parameter.detach(), torch.tensor([1 - 0.1 - 0.07, -2 - 0.2 - 0.14]))


@pytest.mark.parametrize("kind", [Sgd, Adam])
def test_the_proximal_step_is_that_of_the_penalised_loss(kind: type[Sgd]) -> None:
    found = []
    for proximal in (0.5, 0.0):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        sent = [own.detach().clone() for own in model.parameters()]
        optimizer = kind(model.parameters(), 0.05, proximal)
        for _ in range(10):
            x = torch.randn(16, 4)
            optimizer.zero_grad()
            loss = (model(x).reshape(-1) - x.sum(1)).square().mean()
            if not proximal:
                away = zip(model.parameters(), sent, strict=True)
                loss = loss + 0.25 * torch.stack([(own - first).square().sum() for own, first in away]).sum()
            loss.backward()
            optimizer.step()
        found.append([own.detach() for own in model.parameters()])
    for ours, penalised in zip(*found, strict=True):
        torch.testing.assert_close(ours, penalised, rtol=1e-5, atol=1e-6)


def test_a_parameter_without_gradient_stays() -> None:
    parameter = nn.Parameter(torch.ones(2))
    Adam([parameter], 0.1).step()
    assert torch.equal(parameter.detach(), torch.ones(2))


def test_gradients_are_forgotten_or_zeroed() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = Sgd([parameter], 0.1)
    optimizer.zero_grad(set_to_none=False)
    assert torch.equal(parameter.grad, torch.zeros(2))
    optimizer.zero_grad()
    assert parameter.grad is None


@pytest.mark.parametrize("private", [True, False])
def test_training_does_not_load_torchs_compiler(private: bool) -> None:
    words = f"""
import sys, numpy as np, torch
from interplant.core.schema import Training
from interplant.privacy.plan import Plan
from interplant.privacy.training import train
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 1))
x, y = np.ones((8, 2, 3), np.float32), np.ones(8, np.float32)
plan = Plan("window", 8, 4, 1.0, 1.0, 2, 1e-5) if {private} else None
train(model, x, y, Training(steps=2, batch=4), plan, lambda: None)
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
