"""Promotion and rollback of a plant's model while requests come in: what fails, and how long a swap takes.

A real plant (`plant serve`: agent, serving, trials) serves one release, and 500 requests a second are asked
over HTTP. A second release is promoted and rolled back again, several times: promoted by what decides trials,
rolled back by the command of a person. Then it goes through a trial: shadow, canary, promotion.

    python benchmarks/swaps.py --json [--quick]

A swap is timed from the pointer's change to the first answer by the other release, a rollback from the start
of the command. Every answer is looked at: its status, and the release that it names.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import load
import numpy as np

from interplant.client import deployment, receiving, verdicts
from interplant.client.directory import PlantDirectory
from interplant.client.serving_status import serving_status
from interplant.client.verdicts import WAITING, Verdict
from interplant.core import config, models
from interplant.core.release import Lineage, Participant, task_digest
from interplant.core.schema import Plant, Task
from interplant.data.repository import Repository
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.lab.federation import LocalFederation, local_federation
from interplant.server.packaging import PackageOrder, package_in_child

RATE: Final = 500.0
"""Requests a second."""

SWAP_BAR: Final = 200.0
"""Milliseconds from a pointer's change to the first answer by the other release, and without any answer."""

ROLLBACK_BAR: Final = 1.0
"""Seconds from a person's command to the first answer by the release before."""

RELEASES: Final = ("first", "second")
_CLIENTS: Final = 16
_LIMIT: Final = 120.0


@dataclass
class Asked:
    """What clients saw while a block ran: of each answer, when it was asked for and came, and its release."""

    sent: list[float] = field(default_factory=list)
    came: list[float] = field(default_factory=list)
    release: list[str] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0

    def note(self, sent: float, came: float, good: bool, body: bytes) -> None:
        """Take an answer."""
        self.sent.append(sent)
        self.came.append(came)
        self.failed += not good
        self.release.append(str(json.loads(body).get("parameters", {}).get("release", "")) if good else "")

    @property
    def invalid(self) -> int:
        """Answers that name no release of this plant."""
        return sum(one not in RELEASES for one in self.release)

    def first(self, release: str, after: float) -> float:
        """When the first answer by a release came that was asked for after a time; infinite if none did."""
        both = zip(self.sent, self.came, self.release, strict=True)
        found = [came for sent, came, one in both if one == release and came > after and sent > after - 1.0]
        return min(found, default=float("inf"))

    def gap(self, begin: float, end: float) -> float:
        """Longest time between two answers that overlaps a span."""
        came = np.sort(np.array([begin, *(one for one in self.came if begin < one < end), end]))
        return float(np.diff(came).max())


@contextmanager
def asking(plant: PlantDirectory, seconds: float) -> Iterator[Asked]:
    """Ask at `RATE` for so many seconds; what was seen is whole when the block is over."""
    status, task = serving_status(plant), _task()
    window = np.zeros((1, *task.shape), np.float32)
    tensor = {
        "name": "windows",
        "datatype": "FP32",
        "shape": list(window.shape),
        "data": window.ravel().tolist(),
    }
    requests = []
    for number in range(40):
        machine = {"name": "machine", "datatype": "INT64", "shape": [1], "data": [number]}
        body = json.dumps({"inputs": [tensor, machine]}).encode()
        requests.append(load.post(status.address, f"/v2/models/{task.name}/infer", body))
    asked = Asked()

    def work() -> None:
        found = load.ask(status.address, requests, _CLIENTS, seconds, RATE, asked.note)
        asked.seconds = found.seconds

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield asked
    finally:
        thread.join()


@contextmanager
def serving_plant() -> Iterator[PlantDirectory]:
    """A plant that serves the first of two releases, all of it real processes."""

    def willing(plant: Plant) -> None:
        plant.policy.tasks, plant.policy.privacy.allow_none = [_task().name], True
        plant.policy.models = [_task().model.name]
        plant.serving.listen = "0"

    with tempfile.TemporaryDirectory(prefix="interplant-") as folder, local_federation(Path(folder)) as made:
        made.create("swaps")
        made.start_coordinator()
        plant = made.join("north", willing)
        Repository(plant.data).snapshot(simulate(0, 4, seed=0))
        for number, name in enumerate(RELEASES):
            _receive(made, plant, name, 0.1 * number)
        with verdicts.deciding(plant):
            deployment.promote(plant, RELEASES[0], "the first", {})
        made.start_plant("north")
        made.until(lambda: serving_status(plant).release == RELEASES[0], _LIMIT, "the plant to serve")
        yield plant


def swaps(plant: PlantDirectory, times: int) -> list[dict[str, Any]]:
    """Promote and roll back under load."""
    first, second = RELEASES
    moved: list[tuple[float, float]] = []
    seconds = 4.0 + times * 6.0
    with asking(plant, seconds) as asked:
        time.sleep(1.0)
        for _ in range(times):
            with verdicts.deciding(plant):
                deployment.promote(plant, second, "better", {})
            promoted = plant.champion.stat().st_mtime
            time.sleep(1.5)
            begun = time.time()
            _command("release", "rollback", "--plant", str(plant.path))
            moved.append((promoted, begun))
            time.sleep(1.0)
    swapped = [(asked.first(second, at) - at) * 1000.0 for at, _ in moved]
    back = [asked.first(first, at) - at for _, at in moved]
    gaps = [asked.gap(at - 0.1, at + 2.0) * 1000.0 for pair in moved for at in pair]
    rate = len(asked.came) / asked.seconds
    return [
        _result("requests that failed", asked.failed, "", 0, requests=len(asked.came), rate=round(rate, 1)),
        _result("answers without a valid release id", asked.invalid, "", 0),
        _result("swap, slowest of all", max(swapped), "ms", SWAP_BAR, all=_rounded(swapped)),
        _result("longest time without an answer around a swap", max(gaps), "ms", SWAP_BAR),
        _result("rollback, slowest of all", max(back), "s", ROLLBACK_BAR, all=_rounded(back)),
    ]


def trial(plant: PlantDirectory, predictions: int) -> list[dict[str, Any]]:
    """Let the second release go through shadow and canary under load, until it serves."""
    settings = plant.load()
    settings.policy.release.trial.predictions = predictions
    settings.policy.release.trial.canary = 0.25
    settings.policy.release.trial.disagreement = 1.0
    plant.config.write_text(config.to_yaml(settings))
    verdicts.record(plant, RELEASES[1], Verdict(WAITING, "", "passed the gate"))
    length = 8.0 * predictions / RATE + 10.0
    with asking(plant, length) as asked:
        state = deployment.approve(plant, RELEASES[1]).state
        end = time.monotonic() + length
        while state != verdicts.ACTIVE and time.monotonic() < end:
            time.sleep(0.1)
            state = dict(deployment.standing(plant))[RELEASES[1]].state
    if state != verdicts.ACTIVE:
        raise SystemExit(f"the trial did not end well: {dict(deployment.standing(plant))[RELEASES[1]]}")
    heard = sum(one == RELEASES[1] for one in asked.release)
    return [
        _result("trial under load: requests that failed", asked.failed, "", 0, requests=len(asked.came)),
        _result("trial under load: answers without a valid release id", asked.invalid, "", 0, second=heard),
    ]


def measure(times: int, predictions: int) -> list[dict[str, Any]]:
    """Measure everything on one plant."""
    with serving_plant() as plant:
        return [*swaps(plant, times), *trial(plant, predictions)]


def _task() -> Task:
    return config.load(builtin("turbofan"), Task, ["privacy.mechanism=none"])


def _receive(made: LocalFederation, plant: PlantDirectory, name: str, shift: float) -> None:
    """A release of the federation, as if a run had ended with these weights."""
    from safetensors.numpy import save_file

    task = _task()
    north = Participant("north", {"ab" * 32: 1}, 1, "none", "", 0.0, 0.0, True)
    created = f"2026-01-01T00:00:0{RELEASES.index(name)}+00:00"
    lineage = Lineage(
        name, "run-1", task.name, task_digest(task), "0.1.0", "1", None, created, 1, "grpc", False, True,
        (north,),
    )  # fmt: skip
    first = models.parameters(models.build(task))
    weights = {key: array + np.float32(shift) for key, array in first.items()}
    merged = made.path / f"{name}.safetensors"
    save_file(weights, merged)
    order = PackageOrder(merged, task, lineage, made.coordinator.release_key)
    package_in_child(order, made.path / "sent" / name)
    collected = receiving.incoming(plant, name)
    for file in (made.path / "sent" / name).iterdir():
        (collected / file.name).write_bytes(file.read_bytes())
    receiving.accept(plant, name)


def _command(*words: str) -> None:
    command = [sys.executable, "-m", "interplant.cli.main", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _result(case: str, value: float, unit: str, bar: float, **more: Any) -> dict[str, Any]:
    rounded = round(value, 3)
    return {"case": case, "value": rounded, "unit": unit, "bar": bar, "holds": rounded <= bar, **more}


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two swaps instead of ten")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    results = measure(*((2, 200) if words.quick else (10, 2000)))
    if words.json:
        print(json.dumps({"results": results}, indent=1))
        return
    for one in results:
        held = "holds" if one["holds"] else "FAILS"
        print(f"{one['case']}: {one['value']:g} {one['unit']} (bar {one['bar']:g}, {held})")


if __name__ == "__main__":
    main()
