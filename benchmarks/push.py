"""A release to plants that watch: how soon all of them have it, and what the coordinator needs meanwhile.

A coordinator as its processes with TLS, and light agents (`light`), which fetch, verify and store the release
as every plant does, and do not try it: that is their trainers' work. The clock runs from the word that lets
the coordinator tell of the release to the moment at which the last plant has it whole, checked and in its
place. Memory is the coordinator's PSS at its highest, over what it was before.

    python benchmarks/push.py --json [--plants 100] [--megabytes 5] [--times 3]
"""

import argparse
import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import light
from meters import Meter, Peak, memory

from interplant.client.directory import PlantDirectory
from interplant.core import blobs, config, models
from interplant.core.files import sha256_file
from interplant.core.release import Lineage, Participant, task_digest
from interplant.core.schema import Plant, Task
from interplant.core.wire import PROTOCOL
from interplant.data.tasks import builtin
from interplant.lab.federation import LocalFederation, local_federation
from interplant.server import control
from interplant.server.packaging import PackageOrder, package
from interplant.server.registry import Registry

SECONDS, MEGABYTES = 3.0, 50.0
"""The bars."""

_LIMIT = 120.0
_LOOK = 0.05
"""Seconds between looks at the coordinator's memory: looking takes time of its own."""

Row = dict[str, Any]


def push(plants: int, megabytes: float, times: int, processes: int = 2) -> list[Row]:
    """Push new releases of some size again and again; the middle time and the highest peak count.

    A first one warms the agents up, which share two processes where plants have machines of their own. All
    files lie in memory: 100 plants would else wait for one disk.
    """
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as scratch,
        local_federation(Path(scratch)) as federation,
    ):
        names = [f"plant-{number + 1}" for number in range(plants)]
        federation.create("bench")
        federation.start_coordinator()
        light.join(federation, names)
        for name in names:
            federation.edit(name, _willing)
        for part in range(processes):
            light.start(federation, names[part::processes], f"light-{part + 1}")
        federation.until_online(names, 120)
        time.sleep(2)
        task = _task(megabytes)
        first, *measured = [_once(federation, names, task, number) for number in range(1 + times)]
    seconds, more, cpu, size = zip(*measured, strict=True)
    shared = {"plants": plants, "release_mb": round(size[0] / 1e6, 2), "times": times}
    also = {"slowest_s": round(max(seconds), 3), "first_s": round(first[0], 3)}
    also |= {"coordinator_cpu_s": round(statistics.median(cpu), 2)}
    return [
        _row("push to all", statistics.median(seconds), "s", SECONDS) | shared | also,
        _row("push, coordinator memory", max(first[1], *more), "MB", MEGABYTES) | shared,
    ]


def _once(
    federation: LocalFederation, names: list[str], task: Task, number: int
) -> tuple[float, float, float, int]:
    """Seconds, MB of the coordinator beyond what it had, its processor seconds, bytes of the release."""
    release = f"bench-{number + 1}"
    folder = federation.coordinator.releases / release
    _package(federation, task, release, folder)
    with closing(federation.registry) as registry:
        _approve(registry, release, task, folder)
    pid = federation.children["coordinator"].pid
    before, meter = memory([pid]).pss, Meter([pid])
    with _watched(Peak(lambda: memory([pid]))) as peak:
        begun = time.monotonic()
        control.reload(federation.coordinator)
        for name in names:
            _until_there(federation.plant(name), release, begun + _LIMIT)
        seconds = time.monotonic() - begun
    size = sum(path.stat().st_size for path in folder.iterdir())
    return seconds, peak.pss - before, meter.read()[0], size


def _package(federation: LocalFederation, task: Task, release: str, folder: Path) -> None:
    """Make a real release of a model that learned nothing."""
    weights = federation.path / "weights.safetensors"
    blobs.replace(weights, models.parameters(models.build(task)), {})
    lineage = Lineage(
        release=release,
        run="bench",
        task=task.name,
        task_digest=task_digest(task),
        version=version("interplant"),
        protocol=PROTOCOL,
        parent=None,
        created=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        rounds=1,
        engine="grpc",
        private=False,
        simulated=True,
        participants=(Participant("plant-1", {"ab" * 32: 1}, 1, "none", "window", 0.0, 0.0, True),),
    )
    package(PackageOrder(weights, task, lineage, federation.coordinator.release_key), folder)


def _approve(registry: Registry, release: str, task: Task, folder: Path) -> None:
    registry.create_release(release, None, task.name, sha256_file(folder / "manifest.json"))
    registry.approve_release(release, "by a benchmark")


def _task(megabytes: float) -> Task:
    """The built-in task with a linear layer so wide that weights and ONNX come to some size together."""
    sizes = {}
    for hidden in (32, 1032):
        task = config.load(builtin("turbofan"), Task, [f"model.args={{hidden: {hidden}}}"])
        sizes[hidden] = sum(value.nbytes for value in models.parameters(models.build(task)).values())
    each = (sizes[1032] - sizes[32]) / 1000
    hidden = round(32 + (megabytes * 1e6 / 2 - sizes[32]) / each)
    return config.load(builtin("turbofan"), Task, [f"model.args={{hidden: {hidden}}}"])


def _willing(plant: Plant) -> None:
    plant.policy.tasks = ["turbofan"]
    plant.policy.privacy.allow_none = True


def _until_there(plant: PlantDirectory, release: str, end: float) -> None:
    """A release takes its place in one step, once all of it is checked."""
    while not (plant.releases / release).is_dir():
        if time.monotonic() > end:
            raise SystemExit(f"{plant.path.name} has no release {release} after {_LIMIT:g} s")
        time.sleep(0.005)


@contextmanager
def _watched(peak: Peak) -> Iterator[Peak]:
    """Look at a peak again and again, in a thread, while the block runs."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK):
            peak.look()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        peak.look()


def _row(case: str, value: float, unit: str, bar: float) -> Row:
    return {"case": case, "value": round(value, 3), "unit": unit, "bar": bar, "holds": value <= bar}


def main() -> None:
    """Print the results."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--plants", type=int, default=100)
    words.add_argument("--megabytes", type=float, default=5.0)
    words.add_argument("--times", type=int, default=3)
    given = words.parse_args()
    results = push(given.plants, given.megabytes, given.times)
    print(json.dumps({"machine": platform.platform(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
