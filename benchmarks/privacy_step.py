"""What a private training step costs beside a plain one: all engines in one process, in turn.

A step is forward, backward, clipping, noise and Adam on one thread. The engines take their steps in turn,
so that a busy machine slows them alike; a ratio is the median over the rounds of a private step's seconds
over those of the plain step in the same round. ``cpu_ratio`` is the same of the thread's CPU seconds.

    python benchmarks/privacy_step.py --json [--models mlp,gru] [--batches 64,256] [--memory] [--short]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus.layers import DPGRU, DPLSTM
from torch import Tensor, nn
from torch.nn import functional

from interplant.core.networks import Cnn1d
from interplant.privacy import alike, dpsgd, onepass
from interplant.privacy.noise import Noise
from interplant.privacy.optimizers import Adam
from interplant.privacy.plan import Plan
from interplant.privacy.steps import Batch

CHANNELS, WINDOW, WIDTH = 14, 30, 64

K = 8
"""Windows of a unit in the rows ``onepass-unit``, which take a window-level step's rows as machines."""

NOISES: list[Noise] = []
"""Those of the models that are measured now; their threads end with the measurement."""

STEPS = 100_000
"""More than a measurement takes: the noise of each is drawn as in a round, ahead on another thread."""

Step = Callable[[], None]


class Recurrent(nn.Module):
    """A GRU or LSTM over the window, and a linear layer on its last state."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.recurrent = kind(CHANNELS, WIDTH, batch_first=True)
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Map (batch, channels, window) to (batch, 1)."""
        states, _ = self.recurrent(windows.transpose(1, 2))
        prediction: Tensor = self.last(states[:, -1])
        return prediction


class Transformer(nn.Module):
    """One encoder block from linear layers and LayerNorm, four heads of eight, and a mean over time."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter, self.mixed = nn.Linear(CHANNELS, width), nn.Linear(width, width)
        self.attend = nn.Linear(width, 3 * width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.last = nn.Linear(width, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Map (batch, channels, window) to (batch, 1)."""
        flow = self.enter(windows.transpose(1, 2))
        parts = self.attend(self.norms[0](flow)).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        heads = functional.scaled_dot_product_attention(*parts.unbind())
        flow = flow + self.mixed(heads.transpose(1, 2).flatten(2))
        flow = flow + self.narrow(functional.gelu(self.wide(self.norms[1](flow))))
        prediction: Tensor = self.last(flow.mean(1))
        return prediction


def mlp() -> nn.Module:
    inputs = CHANNELS * WINDOW
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, 1),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "cnn": lambda: Cnn1d(CHANNELS, WINDOW),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    "transformer": Transformer,
}

OPACUS_MODES = ("ew", "hooks", "functorch")


def loss(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square()


def fit_for_opacus(name: str) -> nn.Module:
    """The model with Opacus's own recurrent layers: it knows no others."""
    own = {"gru": DPGRU, "lstm": DPLSTM}
    return Recurrent(own[name]) if name in own else MODELS[name]()


def steps(name: str, x: Tensor, y: Tensor, modes: tuple[str, ...]) -> dict[str, Step]:
    """One callable step for each engine that can train the model."""
    plan = Plan("window", 10 * len(x), len(x), noise=1.0, clip=1.0, steps=STEPS, delta=1e-5)
    units = len(x) // K
    of_units = replace(plan, unit="unit", records=10 * units, batch=units, windows=K)
    made = {
        "plain": plain(MODELS[name](), x, y),
        "onepass": one_pass(MODELS[name](), plan, x, y),
        "onepass-unit": one_pass(MODELS[name](), of_units, x, y),
    }
    for mode in modes:
        step = opacus(fit_for_opacus(name), plan, mode, x, y)
        if works(step):
            made[f"opacus-{mode}"] = step
    return made


def plain(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    optimizer = Adam(model.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x).reshape(-1), y).mean().backward()
        optimizer.step()

    return step


def one_pass(model: nn.Module, plan: Plan, x: Tensor, y: Tensor) -> Step:
    engine, rows = onepass.OnePass(model, plan.clip), plan.windows
    optimizer = onepass.OnePassOptimizer(Adam(model.parameters(), 1e-3), plan, noise_for(model, plan))
    chosen = np.arange(len(x) // rows)
    weights = torch.full((len(x),), 1 / rows) if plan.unit == "unit" else None

    def step() -> None:
        split = alike.split(chosen, engine.units(rows), alike.FILLS[0])
        parts = [slice(part[0] * rows, (part[-1] + 1) * rows) for part in split]
        batches = [Batch(x[part], y[part], weights if weights is None else weights[part]) for part in parts]
        onepass.descend(engine, optimizer, loss, batches)

    return step


def noise_for(model: nn.Module, plan: Plan) -> Noise:
    made = Noise(plan, sum(parameter.numel() for parameter in model.parameters()))
    NOISES.append(made)
    return made


def opacus(model: nn.Module, plan: Plan, mode: str, x: Tensor, y: Tensor) -> Step:
    wrapped = dpsgd.wrap(model, mode)
    optimizer = dpsgd.PrivateOptimizer(Adam(model.parameters(), 1e-3), plan, noise_for(model, plan))
    parts = alike.split(np.arange(len(x)), dpsgd.units(model), alike.FILLS[0])

    def step() -> None:
        batches = [Batch(x[part[0] : part[-1] + 1], y[part[0] : part[-1] + 1]) for part in parts]
        dpsgd.descend(wrapped, optimizer, loss, batches)

    return step


def works(step: Step) -> bool:
    try:
        step()
    except Exception:  # noqa: BLE001 # each mode fails in its own way on layers it does not know
        return False
    return True


def measure(name: str, batch: int, modes: tuple[str, ...], seconds: float) -> list[dict[str, Any]]:
    """Let the engines step in turn for about ``seconds``; return one row for each."""
    torch.manual_seed(0)
    x, y = torch.randn(batch, CHANNELS, WINDOW), torch.rand(batch)
    made = steps(name, x, y, modes)
    wall: dict[str, list[float]] = {engine: [] for engine in made}
    cpu: dict[str, list[float]] = {engine: [] for engine in made}
    until = time.perf_counter() + seconds
    for turn in range(1000):
        for engine, step in made.items():
            begun, used = time.perf_counter(), time.thread_time()
            step()
            if turn:  # the first turn warms up
                wall[engine].append(time.perf_counter() - begun)
                cpu[engine].append(time.thread_time() - used)
        if turn >= 5 and time.perf_counter() > until:
            break
    while NOISES:
        NOISES.pop().close()
    return compared([row(name, batch, engine, wall, cpu) for engine in made])


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add what one pass is to Opacus's best mode, and a unit-level step to a window-level one."""
    took = {one["engine"]: one["step_ms"] for one in rows}
    opacus = [took[engine] for engine in took if engine.startswith("opacus")]
    for one in rows:
        if one["engine"] == "onepass" and opacus:
            one["times_faster_than_opacus"] = round(min(opacus) / one["step_ms"], 2)
        if one["engine"] == "onepass-unit":
            one["ratio_to_window"] = round(one["step_ms"] / took["onepass"], 3)
    return rows


def grown(name: str, engine: str, batch: int) -> float:
    """MiB by which a step's peak passes what model and data take, in this process."""
    torch.manual_seed(0)
    x, y = torch.randn(batch, CHANNELS, WINDOW), torch.rand(batch)
    made = steps(name, x, y, ())
    for _ in range(2):
        made[engine]()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    for _ in range(3):
        made[engine]()
    while NOISES:
        NOISES.pop().close()
    return (peak() - before) / 1024


def peak() -> int:
    """The most that was resident, KiB."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))


def memory(name: str, batch: int) -> dict[str, Any]:
    """Peaks of a private and a plain step, each in a process of its own that gives memory back at once."""
    found = {}
    for engine in ("plain", "onepass"):
        words = [sys.executable, __file__, "--grown", f"{name},{engine},{batch}"]
        setting = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        found[engine] = float(subprocess.run(words, env=setting, stdout=subprocess.PIPE, check=True).stdout)
    ratio_ = found["onepass"] / max(found["plain"], 0.1)
    peaks = {f"{engine}_peak_mb": round(value, 1) for engine, value in found.items()}
    return {"model": name, "batch": batch, **peaks, "memory_ratio": round(ratio_, 2)}


def row(
    name: str, batch: int, engine: str, wall: dict[str, list[float]], cpu: dict[str, list[float]]
) -> dict[str, Any]:
    return {
        "model": name,
        "batch": batch,
        "engine": engine,
        "step_ms": round(1e3 * statistics.median(wall[engine]), 3),
        "ratio_to_plain": round(ratio(wall, engine), 3),
        "cpu_ratio": round(ratio(cpu, engine), 3),
        "rounds": len(wall[engine]),
    }


def ratio(times: dict[str, list[float]], engine: str) -> float:
    return statistics.median(own / base for own, base in zip(times[engine], times["plain"], strict=True))


def main() -> None:
    """Measure, and print the results."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--json", action="store_true", help="print JSON instead of a table")
    words.add_argument("--models", default=",".join(MODELS))
    words.add_argument("--batches", default="64,256,1024")
    words.add_argument("--modes", default=",".join(OPACUS_MODES), help="Opacus's modes; may be empty")
    words.add_argument("--seconds", type=float, default=6.0, help="for each model and batch")
    words.add_argument("--short", action="store_true", help="smoke: few steps, one batch size")
    words.add_argument("--memory", action="store_true", help="peaks of private and plain steps instead")
    words.add_argument("--grown", help=argparse.SUPPRESS)
    given = words.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.grown:
        name, engine, size = given.grown.split(",")
        print(grown(name, engine, int(size)))
        return
    if given.memory:
        found = [memory(name, 1024) for name in given.models.split(",")]
        print(json.dumps({"machine": platform.platform(), "results": found}, indent=2))
        return
    batches = [16] if given.short else [int(size) for size in given.batches.split(",")]
    modes = tuple(mode for mode in given.modes.split(",") if mode)
    results = [
        found
        for name in given.models.split(",")
        for batch in batches
        for found in measure(name, batch, modes, 0.0 if given.short else given.seconds)
    ]
    show(results, given.json)


def show(results: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": 1}
        print(json.dumps({**machine, "results": results}, indent=2))
        return
    for found in results:
        print(
            f"{found['model']:12}{found['batch']:6}  {found['engine']:18}"
            f"{found['step_ms']:9.2f} ms {found['ratio_to_plain']:7.2f} x plain"
            f"{found['cpu_ratio']:7.2f} x CPU"
        )


if __name__ == "__main__":
    main()
