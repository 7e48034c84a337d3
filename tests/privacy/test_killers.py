"""Bugs that other tests would let live: see `tests/mutants/`."""

import math
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from interplant.core.errors import InterplantError, Refusal
from interplant.core.networks import Cnn1d
from interplant.core.schema import Training
from interplant.privacy import accounting
from interplant.privacy.accounting import Spent, spent
from interplant.privacy.checks import check_model
from interplant.privacy.ledger import Caps, Entry, Ledger
from interplant.privacy.noise import Noise, margin
from interplant.privacy.plan import Plan, Statistic
from interplant.privacy.stream import Stream
from interplant.privacy.training import train

PLAN = Plan("window", records=20, batch=20, noise=1.3, clip=0.7, steps=2, delta=1e-5)


class Ones(Stream):
    """Draws one standard deviation every time."""

    def gaussian(self, count: int) -> torch.Tensor:
        return torch.ones(count, dtype=torch.float64)


def test_the_noise_that_is_drawn_holds_the_margin() -> None:
    """A thousandth of the clip for single precision: too little for an estimate from samples to see."""
    noise = Noise(PLAN, 1000, Ones())
    found = noise.add_to(torch.zeros(1000, dtype=torch.float64))
    noise.close()
    sensitivity = PLAN.clip * 1.001 + noise.grid * 1000**0.5
    assert float(found.min()) >= PLAN.noise * sensitivity - noise.grid


@pytest.mark.parametrize("multiplier", [1.01, 1025.0])
def test_the_grid_is_never_wider_than_what_the_margin_pays_for(multiplier: float) -> None:
    """A multiplier just above a power of two: there a grid that is rounded up is nearly twice as wide."""
    plan, count = replace(PLAN, noise=multiplier, clip=1.0), 10**12
    grid = Noise(plan, 1, ahead=False).grid
    assert 1e-3 + grid * count**0.5 <= margin(multiplier, count)


@pytest.mark.parametrize("engine", ["onepass", "opacus"])
def test_the_sum_that_meets_the_noise_is_double(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding to single precision comes before the grid then, and follows the sum."""
    seen: list[torch.dtype] = []
    right = Noise.add_to

    def spy(self: Noise, total: torch.Tensor) -> torch.Tensor:
        seen.append(total.dtype)
        return right(self, total)

    monkeypatch.setattr(Noise, "add_to", spy)
    x = np.ones((20, 5, 12), np.float32)
    train(Cnn1d(5, 12), x, x[:, 0, 0], Training(), PLAN, lambda: None, engine=engine)
    assert seen == [torch.float64] * PLAN.steps


@pytest.mark.parametrize("engine", ["onepass", "opacus"])
def test_a_step_forgets_the_sum_of_the_one_before(engine: str) -> None:
    """Weights that hardly move give the same sum every time: two steps are twice one, not three times."""
    x = np.ones((20, 5, 12), np.float32)
    torch.manual_seed(0)
    model, slow = Cnn1d(5, 12, width=8, hidden=8), Training(optimizer="sgd", learning_rate=1e-4)

    def moved(steps: int) -> float:
        plan = replace(PLAN, noise=1e-9, steps=steps)
        update = train(model, x, x[:, 0, 0], slow, plan, lambda: None, engine=engine).update
        return float(sum((part.astype(np.float64) ** 2).sum() for part in update.values()) ** 0.5)

    assert moved(2) == pytest.approx(2 * moved(1), rel=0.01)


def test_mixing_behind_a_gate_that_opens_later_is_found() -> None:
    """Where the gate is zero, so is its slope: neither results nor gradients show what comes."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.layer = nn.Parameter(torch.zeros(1)), nn.Linear(60, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer((x + 1000 * self.gate**2 * x.mean(0)).flatten(1))

    with pytest.raises(InterplantError, match="mixes the samples"):
        check_model(Gated(), (5, 12))


CHARGED = Plan("window", records=10_000, batch=100, noise=1.0, clip=1.0, steps=100, delta=1e-5)
WHERE: dict[str, Any] = {"run": "run-1", "round": 1, "task": "rul", "lineage": "turbofan"}


def test_a_statistic_can_pass_the_budget_too(tmp_path: Path) -> None:
    ledger, caps = Ledger(tmp_path / "ledger.db"), Caps(1.01 * spent([CHARGED.event], 1e-5).epsilon, 1e-5)
    with pytest.raises(Refusal, match="the budget is"):
        ledger.reserve(replace(CHARGED, statistics=(Statistic("loss", 1.0, 1.0),)), **WHERE, caps=caps)
    ledger.reserve(CHARGED, **WHERE, caps=caps)


def test_a_figure_that_is_none_passes_no_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "spent", lambda *_: Spent(math.nan, math.nan, 1e-5))
    ledger = Ledger(tmp_path / "ledger.db")
    with pytest.raises(Refusal, match="the budget is"):
        ledger.reserve(CHARGED, **WHERE, caps=Caps(100.0, 1e-5))
    assert ledger.entries() == []


def test_the_budget_is_counted_at_its_own_delta(tmp_path: Path) -> None:
    """A task that states a larger delta must not look cheaper for it."""
    ledger, caps = Ledger(tmp_path / "ledger.db"), Caps(0.99 * spent([CHARGED.event], 1e-9).epsilon, 1e-9)
    for delta in (1e-5, 1e-2):
        with pytest.raises(Refusal, match="the budget is"):
            ledger.reserve(replace(CHARGED, delta=delta), **WHERE, caps=caps)


def test_a_charge_is_synced_with_its_folder_before_it_counts(tmp_path: Path) -> None:
    """What SQLite promises of a finished transaction depends on these, on the connection that writes."""
    seen: list[tuple[int, str]] = []

    class Watched(Ledger):
        def _append(self, connection: sqlite3.Connection, body: dict[str, Any]) -> Entry:
            (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
            (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
            seen.append((synchronous, journal))
            return super()._append(connection, body)

    ledger = Watched(tmp_path / "ledger.db")
    ledger.commit(ledger.reserve(CHARGED, **WHERE))
    assert seen == [(3, "delete")] * 2, "3 is EXTRA"
