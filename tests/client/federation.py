"""A federation's releases of a tiny task, made and delivered on one disk, and a plant that gets them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from interplant.client import deployment, receiving, release_keys
from interplant.client.directory import PlantDirectory
from interplant.client.verdicts import Verdict
from interplant.core import config, keyring, models, release, signing
from interplant.core.contract import Column, Contract
from interplant.core.release import Lineage, Participant
from interplant.core.schema import Model, Target, Task, Window
from interplant.server.packaging import PackageOrder, package

CAP = 20.0
LINE = """
import torch
from torch import nn

class Line(nn.Module):
    '''The last reading of the first sensor, stretched and shifted.'''

    def __init__(self, channels, window):
        super().__init__()
        self.stretch = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, windows):
        return windows[:, 0, -1] * self.stretch + self.shift

class Other(Line):
    pass
"""
TASK = Task(
    name="wear",
    contract=Contract(sensors={"health": Column("share", -1.0, 1.0)}),
    window=Window(4),
    target=Target(CAP),
    model=Model("line_models.Line"),
)


def readings(machines: range) -> pd.DataFrame:
    """Machines whose one sensor reads exactly the cycles left, in units of the cap."""
    life = 20
    return pd.DataFrame(
        [
            {"machine": machine, "cycle": cycle, "health": (life - cycle) / CAP}
            for machine in machines
            for cycle in range(1, life + 1)
        ]
    )


class Federation:
    """Both sides on one disk: makes releases of the plant's task and delivers them."""

    def __init__(self, root: Path, plant: PlantDirectory) -> None:
        self.root, self.plant = root, plant
        self.key = signing.make_key()
        (root / "release.key").write_bytes(signing.key_pem(self.key))
        plant.release_public_key.write_bytes(signing.public_pem(self.key.public_key()))

    def make(
        self,
        name: str,
        shift: float = 0.0,
        task: Task = TASK,
        private: bool = True,
        snapshot: str = "ab" * 32,
    ) -> Path:
        """A release whose error on the plant's hold-out is ``shift`` times the cap.

        ``snapshot`` is the plant's, as others know it.
        """
        north = Participant("north", {snapshot: 3}, 3, "dp-sgd", "window", 0.7, 1e-5, True)
        if not private:
            north = replace(north, mechanism="none", epsilon=0.0, delta=0.0)
        lineage = Lineage(
            name, "run-1", task.name, release.task_digest(task), "0.1.0", "1", None,
            "2025-05-01T10:00:00+00:00", 3, "grpc", private, True, (north,),
        )  # fmt: skip
        weights = models.parameters(models.build(task))
        weights["shift"] = np.full(1, shift, np.float32)
        save_file(weights, self.root / "merged.safetensors")
        folder = self.root / "sent" / name
        package(
            PackageOrder(self.root / "merged.safetensors", task, lineage, self.root / "release.key"), folder
        )
        return folder

    def sign_again(self, folder: Path) -> None:
        """Sign what lies in a folder now, as a dishonest coordinator would."""
        lineage = release.parse_lineage((folder / "lineage.json").read_text())
        signing.sign_folder(folder, release.manifest_meta(lineage), self.key)

    def revoke_key(self) -> None:
        """The federation's key was stolen: the plant has learned that another takes its place."""
        other = signing.make_key()
        names = [key.public_key().public_bytes_raw().hex() for key in (self.key, other)]
        day = "2026-01-01T00:00:00+00:00"
        statement = keyring.Statement("test", *names, day, day, True, keyring.digest(())).signed(
            self.key, other
        )
        release_keys.learn(self.plant, keyring.to_json((statement,)).encode())
        self.key = other
        (self.root / "release.key").write_bytes(signing.key_pem(other))

    def deliver(self, folder: Path) -> Path:
        """Put a release at its place in the plant."""
        shutil.copytree(folder, receiving.incoming(self.plant, folder.name), dirs_exist_ok=True)
        return receiving.accept(self.plant, folder.name).folder

    def try_out(self, folder: Path) -> Verdict:
        return deployment.try_release(self.plant, self.deliver(folder))


def settle(plant: PlantDirectory, **values: object) -> None:
    """Change the plant's policy: ``release__approval="auto"``."""
    settings = plant.load()
    for key, value in values.items():
        *path, last = key.split("__")
        place: object = settings.policy
        for part in path:
            place = getattr(place, part)
        setattr(place, last, value)
    plant.config.write_text(config.to_yaml(settings))
