"""The champion as a model repository that MLServer and Triton can serve, for those who run one of them.

``serving/models/TASK`` is a link to a folder with both servers' configurations and the model, a hard link to
the release's file. A new champion gets a folder of its own; then the link moves, in one step.

Such a server takes ``windows`` and gives ``prediction`` in the model's own units: the contract's checks and
units, the log and the drift flag are Interplant's own serving's (`interplant.client.serving`).
"""

import json
import logging
import os
import shutil
from importlib import resources
from pathlib import Path
from typing import Final

from interplant.client.champion import champion
from interplant.client.directory import PlantDirectory
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, link_or_copy, sync_folder, write_atomic
from interplant.core.inference import INPUT, OUTPUT
from interplant.core.release import ONNX, TASK, parse_task
from interplant.core.schema import Task

log = logging.getLogger(__name__)

SETTINGS: Final = "model-settings.json"
TRITON: Final = "config.pbtxt"
RUNTIME: Final = "mlserver_onnx"
"""Module of the class that MLServer loads; it lies beside the model."""

_KEPT: Final = 2
"""Folders that stay: a server may still be reading the one before."""


class InStep:
    """Keeps a plant's model repository in step with its champion.

    Args:
        plant: The plant's directory.
    """

    def __init__(self, plant: PlantDirectory) -> None:
        self._plant = plant
        self._done: tuple[int, int] | None = None
        self._said = ""

    def __call__(self) -> None:
        """Look whether the champion is another one; what goes wrong is logged, and tried again."""
        try:
            found = self._plant.champion.stat()
        except FileNotFoundError:
            return
        state = found.st_mtime_ns, found.st_ino
        if state == self._done:
            return
        try:
            keep_in_step(self._plant)
            self._done, self._said = state, ""
        except (InterplantError, OSError, ValueError) as error:  # the plant's other work goes on without it
            if str(error) != self._said:
                log.warning("the model repository: %s", error)
            self._said = str(error)


def keep_in_step(plant: PlantDirectory) -> Path | None:
    """Make the model repository hold the champion.

    Returns:
        The model's folder in it, or None where there is no champion.

    Raises:
        InterplantError: The champion or its release cannot be read, or the disk is full.
    """
    now = champion(plant)
    if now is None:
        return None
    release = plant.releases / now.release
    with disk_errors(plant.models):
        try:
            task = parse_task((release / TASK).read_bytes())
            place = plant.models / task.name
            if _release_at(place) != now.release:
                _put(plant, task, now.release)
        except FileNotFoundError as error:
            raise InterplantError(f"{error.filename}: expected a file of the champion, found none") from None
    return place


def _put(plant: PlantDirectory, task: Task, release: str) -> None:
    place, folders = plant.models / task.name, plant.models.with_name("versions") / task.name
    if place.exists() and not place.is_symlink():
        raise InterplantError(f"{place}: expected Interplant's own link, found something else; move it away")
    number = 1 + max(_numbers(folders), default=0)
    new = folders / str(number)
    staged = folders / f".{number}"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    link_or_copy(plant.releases / release / ONNX, staged / str(number) / ONNX)
    write_atomic(staged / TRITON, _triton(task, release, plant.load().serving.batch))
    write_atomic(staged / SETTINGS, json.dumps(_mlserver(task, release, number), indent=2) + "\n")
    write_atomic(staged / f"{RUNTIME}.py", _runtime())
    os.rename(staged, new)
    sync_folder(folders)
    place.parent.mkdir(parents=True, exist_ok=True)
    link = place.with_name(f".{task.name}.new")
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(new, place.parent))
    os.replace(link, place)
    sync_folder(place.parent)
    for old in _numbers(folders):
        if old <= number - _KEPT:
            shutil.rmtree(folders / str(old), ignore_errors=True)


def _numbers(folders: Path) -> list[int]:
    """The versions there; what has another name is somebody else's."""
    names = [path.name for path in folders.glob("[1-9]*")]
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def _release_at(place: Path) -> str | None:
    try:
        found: str = json.loads((place / SETTINGS).read_text(encoding="utf-8"))["parameters"]["version"]
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mlserver(task: Task, release: str, number: int) -> dict[str, object]:
    """Settings of MLServer's model, see its ``ModelSettings``."""
    return {
        "name": task.name,
        "implementation": f"{RUNTIME}.OnnxModel",
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *task.shape]}],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, *_outputs(task)]}],
        "parameters": {"uri": f"./{number}/{ONNX}", "version": release},
    }


def _triton(task: Task, release: str, batch: int) -> str:
    """Triton's ``ModelConfig`` (of its model_config.proto) as text; sizes are without the batch."""
    channels, length = task.shape
    outputs = _outputs(task)
    # Triton wants at least one size; the model gives one number for each window, in none.
    shape = f"dims: [ {outputs[0]} ]" if outputs else "dims: [ 1 ]\n    reshape: { shape: [ ] }"
    return f"""\
name: "{task.name}"
platform: "onnxruntime_onnx"
max_batch_size: {batch}
input [
  {{
    name: "{INPUT}"
    data_type: TYPE_FP32
    dims: [ {channels}, {length} ]
  }}
]
output [
  {{
    name: "{OUTPUT}"
    data_type: TYPE_FP32
    {shape}
  }}
]
instance_group [ {{ kind: KIND_CPU }} ]
dynamic_batching {{ }}
version_policy: {{ latest: {{ num_versions: 1 }} }}
parameters: {{ key: "release" value: {{ string_value: "{release}" }} }}
"""


def _outputs(task: Task) -> list[int]:
    return [task.target.outputs] if task.target.outputs > 1 else []


def _runtime() -> str:
    return (resources.files("interplant.client") / f"{RUNTIME}.py.in").read_text(encoding="utf-8")
