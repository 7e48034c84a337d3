"""A plant of its own for each test: real keys, real data repository, a tiny task."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from interplant.client import champion as pointers
from interplant.client.champion import Champion
from interplant.client.directory import PlantDirectory
from interplant.client.gateway import Receipt
from interplant.client.trained import Trained
from interplant.core import certificates, config, models
from interplant.core.contract import Column, Contract
from interplant.core.flower import Envelope, message
from interplant.core.schema import Connection, Model, Plant, Privacy, Target, Task, Training, Window
from interplant.core.tensors import Tensors
from interplant.data.frames import Dataset
from interplant.data.repository import Repository

from .coordinator import Scripted
from .federation import LINE, Federation, readings

MODELS = '''
import os, subprocess, sys, time
from pathlib import Path
import torch
from torch import nn

class Line(nn.Module):
    """The last reading, stretched and shifted."""

    def __init__(self, channels, window, **words):
        super().__init__()
        self.words = words
        self.stretch = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, windows):
        return windows[:, 0, -1] * self.stretch + self.shift

class Frozen(Line):
    def __init__(self, channels, window):
        super().__init__(channels, window)
        self.stretch.requires_grad = False

class Norm(Line):
    """Mixes the samples of a batch: it cannot be trained privately."""

    def forward(self, windows):
        return super().forward(windows - windows.mean(0))

class Loud(Line):
    """Prints wherever a library can print, and says how it is run."""

    def forward(self, windows):
        print('{"receipt": "printed"}', flush=True)
        os.write(1, b"written to the descriptor\\n")
        subprocess.run(["echo", "from a child"], check=True)
        said = f"{os.nice(0)} {torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']} {os.getpid()}"
        Path(self.words["said"]).write_text(said)
        return super().forward(windows)

class Odd(Exception):
    pass

class Failing(Line):
    def forward(self, windows):
        kinds = {"odd": Odd, "os": OSError, "memory": MemoryError, "key": KeyError}
        raise kinds[self.words["how"]]("bore 42.7 mm")

class Slow(Line):
    """Says that it works, and works on."""

    def forward(self, windows):
        Path(self.words["said"]).write_text(str(os.getpid()))
        time.sleep(600)
'''

TASK = Task(
    name="wear",
    contract=Contract(sensors={"health": Column("share", -1.0, 1.0)}),
    window=Window(4),
    target=Target(20.0),
    model=Model("tiny_models.Line"),
    training=Training(steps=3, batch=8),
    privacy=Privacy(noise=2.0),
)
"""Private, three steps."""

OPEN = replace(TASK, privacy=Privacy(mechanism="none"))
"""The same task without privacy."""


def dataset(machines: int = 3) -> Dataset:
    """Machines whose one sensor reads the cycles left, in units of twice the cap."""

    def readings(names: range) -> pd.DataFrame:
        rows = [
            {"machine": name, "cycle": cycle, "health": (12 - cycle) / 40.0}
            for name in names
            for cycle in range(1, 13)
        ]
        return pd.DataFrame(rows)

    return Dataset(readings(range(1, machines + 1)), readings(range(11, 13)), simulated=True)


def model(name: str, task: Task = OPEN, **words: Any) -> Task:
    """A task with another of the tiny models."""
    return replace(task, model=Model(f"tiny_models.{name}", words))


def weights(task: Task = TASK) -> Tensors:
    """The task's first weights."""
    return models.parameters(models.build(task))


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and remote with one snapshot, made once and copied."""
    root = tmp_path_factory.mktemp("tiny")
    Repository.create(root / "data", root / "remote").snapshot(dataset())
    return root


@pytest.fixture(scope="session")
def authority() -> certificates.Issuer:
    """The federation's certificate authority."""
    return certificates.make_authority("test")


@pytest.fixture
def certify(authority: certificates.Issuer) -> Callable[..., None]:
    """Give a plant a key and a certificate."""

    def give(
        directory: PlantDirectory, lifetime: timedelta = timedelta(hours=1), name: str = "north"
    ) -> None:
        key = certificates.make_key()
        certificates.write_key(directory.plant_key, certificates.key_pem(key))
        pem = certificates.issue(authority, key.public_key(), "plant", name, lifetime=lifetime)
        directory.plant_certificate.write_bytes(pem)
        directory.ca_certificate.write_bytes(authority.pem)

    return give


@pytest.fixture
def tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own models, importable here and in processes started from here."""
    folder = tmp_path / "installed"
    folder.mkdir()
    (folder / "tiny_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture
def bare(tmp_path: Path) -> PlantDirectory:
    """A plant's directory with a willing policy, without data and certificates."""
    directory = PlantDirectory(tmp_path / "north")
    directory.keys.mkdir(parents=True)
    directory.snapshot_key.write_bytes(b"k" * 32)
    certificates.write_key(directory.plant_key, certificates.key_pem(certificates.make_key()))
    settings = Plant(name="north", federation="test", connection=Connection("127.0.0.1:1"))
    settings.policy.tasks, settings.policy.models = ["wear"], ["tiny_models.Line"]
    settings.policy.privacy.epsilon = 50.0
    settings.data.declared_windows = 100
    directory.config.write_text(config.to_yaml(settings))
    return directory


@pytest.fixture
def ready(bare: PlantDirectory, tiny_repository: Path, tiny_models: None) -> PlantDirectory:
    """A plant that can train."""
    shutil.copytree(tiny_repository, bare.path, dirs_exist_ok=True)
    return bare


def edit(directory: PlantDirectory, change: Callable[[Plant], object]) -> None:
    """Change a plant's ``plant.yaml``."""
    settings = directory.load()
    change(settings)
    directory.config.write_text(config.to_yaml(settings))


def audited(directory: PlantDirectory) -> list[dict[str, Any]]:
    """What the plant has let out."""
    lines = directory.audit.read_text().splitlines() if directory.audit.exists() else []
    return [json.loads(line) for line in lines]


def request(task: Task, start: Tensors, number: int = 1, text: str = "", run: str = "run-1") -> Message:
    """One round's work as it reaches the plant; ``text`` stands in place of the task's JSON."""
    content = RecordDict(
        {
            "weights": ArrayRecord({name: Array(array) for name, array in start.items()}),
            "task": ConfigRecord(
                {"run": run, "task": text or config.to_json(task), "round": number, "rounds": 3}
            ),
        }
    )
    return message(Envelope(f"{run}.{number}.7", 5, 0, 7, "train", str(number)), content)


def receipt(**words: Any) -> Receipt:
    """A private round's receipt."""
    return replace(Receipt("north", "ab" * 32, "dp-sgd", "window", 0.5, 1e-5, True), **words)


START: Tensors = {"stretch": np.ones(1, np.float32), "shift": np.zeros(1, np.float32)}
"""The tiny model's first weights."""


class FakeTrainer:
    """Answers at once, and remembers what it was asked."""

    def __init__(self, *_: object) -> None:
        self.trained: list[tuple[str, int]] = []
        self.tried: list[str] = []
        self.warmed = self.idle_looks = 0
        self.closed = False
        self.fail: Exception | None = None
        self.before: Callable[[], object] = lambda: None

    def train(self, run: str, number: int, task: Task, start: Tensors) -> Trained:
        self.before()
        self.trained.append((run, number))
        if self.fail:
            raise self.fail
        said = (
            receipt() if task.privacy.mechanism != "none" else receipt(mechanism="none", unit="", epsilon=0.0)
        )
        return Trained({name: np.full_like(array, number) for name, array in start.items()}, said)

    def try_release(self, release: str) -> None:
        self.tried.append(release)

    def warm_up(self) -> None:
        self.warmed += 1

    def release_if_idle(self, seconds: float) -> None:
        self.idle_looks += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake() -> FakeTrainer:
    return FakeTrainer()


@pytest.fixture
def coordinator(authority: certificates.Issuer) -> Iterator[Scripted]:
    """A coordinator that the test scripts."""
    made = Scripted(authority)
    yield made
    made.stop()


@pytest.fixture
def joined(bare: PlantDirectory, certify: Callable[..., None], coordinator: Scripted) -> PlantDirectory:
    """A plant that may connect to the scripted coordinator."""
    certify(bare)
    edit(bare, lambda plant: setattr(plant.connection, "coordinator", coordinator.address))
    edit(bare, lambda plant: setattr(plant.connection, "backoff_seconds", 0.02))
    edit(bare, lambda plant: setattr(plant.connection, "backoff_max_seconds", 0.2))
    return bare


@pytest.fixture(scope="session")
def line_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plant's data and remote, made once and copied."""
    root = tmp_path_factory.mktemp("repository")
    dataset = Dataset(readings(range(1, 7)), readings(range(11, 35)), simulated=True)
    Repository.create(root / "data", root / "remote").snapshot(dataset)
    return root


@pytest.fixture
def plant(tmp_path: Path, line_repository: Path, monkeypatch: pytest.MonkeyPatch) -> PlantDirectory:
    root = tmp_path / "north"
    shutil.copytree(line_repository, root)
    (root / "keys").mkdir()
    (root / "keys" / "snapshot.key").write_bytes(b"\x01" * 32)
    settings = Plant(name="north", federation="test", connection=Connection("localhost:7443"))
    settings.policy.tasks, settings.policy.models = ["wear"], ["line_models.Line"]
    settings.policy.release.approval = "auto"
    (root / "plant.yaml").write_text(config.to_yaml(settings))
    (tmp_path / "line_models.py").write_text(LINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return PlantDirectory(root)


@pytest.fixture
def federation(tmp_path: Path, plant: PlantDirectory) -> Federation:
    return Federation(tmp_path, plant)


@pytest.fixture
def served(federation: Federation) -> Champion:
    """The champion at the start: off by a fifth of the cap, 4 cycles."""
    federation.try_out(federation.make("r-0", 0.2))
    champion = pointers.champion(federation.plant)
    assert champion is not None
    return champion
