"""A plant whose champion answers, in a process of its own, and one who asks it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from interplant.client import champion
from interplant.client.directory import PlantDirectory
from interplant.client.serving_status import ServingStatus, serving_status
from interplant.core import config, processes
from interplant.core.contract import Column, Contract
from interplant.core.schema import Connection, Model, Plant, Target, Task, Window

from ..waiting import until
from .federation import LINE, Federation

TASK = Task(
    name="wear",
    contract=Contract(
        settings={"load": Column("kN", 0.0, 10.0)}, sensors={"heat": Column("K", 200.0, 400.0)}
    ),
    window=Window(4),
    target=Target(20.0),
    model=Model("line_models.Line"),
)
"""The prediction is the last reading of ``load``: 20 cycles where it is 10 kN, plus the release's shift."""

COLD = [[5.0, 300.0], [6.0, 300.0], [7.0, 310.0], [8.0, 320.0]]
"""One window; normalised, its last load is 0.6: 12 cycles."""

WAIT = 30.0


def plant_with(root: Path, patch: pytest.MonkeyPatch, task: Task = TASK, **serving: Any) -> Federation:
    """A plant with two releases, of which ``r-1`` is the champion and ``r-2`` predicts 2 cycles more."""
    plant = PlantDirectory(root / "north")
    plant.keys.mkdir(parents=True)
    settings = Plant(name="north", federation="test", connection=Connection("127.0.0.1:1"))
    settings.policy.tasks, settings.policy.models = [task.name], [task.model.name]
    settings.serving.listen = "0"
    for key, value in serving.items():
        setattr(settings.serving, key, value)
    plant.config.write_text(config.to_yaml(settings))
    (root / "line_models.py").write_text(LINE)
    patch.syspath_prepend(str(root))
    federation = Federation(root, plant)
    for number in (1, 2):
        federation.deliver(federation.make(f"r-{number}", 0.1 * (number - 1), task))
    champion.activate(plant, "r-1")
    return federation


@contextmanager
def serving(plant: PlantDirectory, before: str = "") -> Iterator["Asking"]:
    """The real process, until the block is over; it may be told something before it begins."""
    command = processes.python_module("interplant.client.serving", str(plant.path))
    if before:
        begin = f"import sys; from interplant.client import serving; {before}"
        command = [sys.executable, "-c", f"{begin}; sys.exit(serving.main(sys.argv[1:]))", str(plant.path)]
    child = processes.start(
        command,
        plant.path / "serving.log",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=until_serving(plant, child).address, timeout=WAIT) as client:
            yield Asking(plant, client, child)
    finally:
        processes.stop(child)


def until_serving(plant: PlantDirectory, child: "subprocess.Popen[bytes]") -> ServingStatus:
    def listens() -> bool:
        assert child.poll() is None, (plant.path / "serving.log").read_text()
        return bool(serving_status(plant).address)

    until(listens)
    return serving_status(plant)


class Asking:
    """One who asks."""

    def __init__(self, plant: PlantDirectory, client: httpx.Client, child: "subprocess.Popen[bytes]") -> None:
        self.plant, self.client, self.child = plant, client, child

    def get(self, path: str, status: int = 200) -> Any:
        return self._said(self.client.get(path), status)

    def post(self, path: str, content: Any, status: int = 200) -> Any:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self._said(self.client.post(path, content=body), status)

    def infer(self, *inputs: dict[str, Any], status: int = 200, **more: Any) -> Any:
        return self.post("/v2/models/wear/infer", {"inputs": list(inputs), **more}, status)

    def predict(self, windows: Any = (COLD,)) -> list[float]:
        """Predictions of windows of readings, in cycles."""
        answer = self.infer(readings(windows))
        return answer["outputs"][0]["data"]  # type: ignore[no-any-return]

    @property
    def release(self) -> str:
        """What answers now."""
        return str(self.infer(readings())["parameters"]["release"])

    def _said(self, answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json() if status == 200 else answer.json()["error"]


def readings(windows: Any = (COLD,), **more: Any) -> dict[str, Any]:
    """An input of readings as they are measured."""
    flat = [value for window in windows for row in window for value in row]
    return {"name": "readings", "datatype": "FP64", "shape": [len(windows), 4, 2], "data": flat} | more
