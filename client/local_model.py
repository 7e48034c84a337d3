"""The plant's own model of a task: trained on its own readings alone, to hold releases against.

It is trained beside, in the trainer's process, when the first release of a task is tried on a snapshot and
the policy asks for it (``policy.release.local``), without privacy: it never leaves the plant, and neither
does anything computed from it but the gate's verdict. It is kept for as long as snapshot and task are the
same.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from interplant.client.directory import PlantDirectory
from interplant.core import config, export, models
from interplant.core.files import disk_errors, write_atomic
from interplant.core.schema import Task
from interplant.core.targets import scaled

if TYPE_CHECKING:
    from interplant.core.export import Floats
    from interplant.data.windows import Windows

PASSES: Final = 200
"""Passes over the plant's windows at most, whatever number of rounds and steps a task names."""


def predictions(plant: PlantDirectory, digest: str, task: Task, learned: "Windows", x: "Floats") -> "Floats":
    """Predict with the plant's own model; it is trained if there is none for this snapshot and task.

    It takes as many steps as a run of the task, on as large batches, from the task's first weights.

    Args:
        plant: Keeps the model.
        digest: The snapshot's.
        task: Model, training, rounds and seed.
        learned: Windows to train on, of machines or times that are not held out.
        x: Windows to predict (N, channels, length).

    Returns:
        Predictions in the target's units, (N,) or (N, classes).
    """
    model = models.build(task)
    key = hashlib.sha256(json.dumps([digest, config.to_json(task)]).encode()).hexdigest()
    path = plant.local_models / f"{task.name}.{key[:16]}.safetensors"
    if path.exists():
        weights = export.read_weights(path)
    else:
        weights = _train(task, learned)
        _keep(path, task, weights)
    models.set_parameters(model, weights, frozen=True)
    return export.predict(model, x, outputs=task.target.outputs)


def _train(task: Task, learned: "Windows") -> "dict[str, Floats]":
    from interplant.privacy.training import train

    model = models.build(task)
    most = -(-PASSES * len(learned) // min(task.training.batch, len(learned)))
    training = replace(task.training, steps=min(task.rounds * task.training.steps, most))
    y = scaled(task.target, learned.y)
    made = train(
        model, learned.x, y, training, None, lambda: None, seed=task.seed, outputs=task.target.outputs
    )
    before = models.parameters(model, frozen=True)
    return {
        name: np.asarray(value + made.update[name], value.dtype) if name in made.update else value
        for name, value in before.items()
    }


def _keep(path: Path, task: Task, weights: "dict[str, Floats]") -> None:
    """Keep the task's newest model; a snapshot that came has made those before it useless."""
    from safetensors.numpy import save

    with disk_errors(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        for older in path.parent.glob(f"{task.name}.*.safetensors"):
            older.unlink()
    write_atomic(path, save(weights), 0o600)
