"""What waiting costs, and how soon work begins: a coordinator and plants with nothing to do, then a run.

Processor time is of one core, over some seconds in which nobody asks anything; memory is PSS. An idle plant
has given its trainer back. The start is taken with warm trainers, as they are when plants have connected:
from the start of the command `run start` to the first step that a plant takes, and from the command's end.

    python benchmarks/waiting.py --json [--plants 4] [--seconds 25]
"""

import argparse
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import rig
from meters import Meter, memory
from rig import Case

from interplant.core import config, processes
from interplant.core.files import write_atomic
from interplant.core.schema import Plant
from interplant.lab.federation import LocalFederation

_READY = "the trainer is ready"
_IDLE_AFTER = 1.0
"""Seconds after which a trainer is given back, where idleness is measured."""

Row = dict[str, Any]


def waiting(plants: int, seconds: float) -> list[Row]:
    """Processor time and memory of a coordinator and a plant that wait."""
    case = Case(plants=plants)
    with rig.started(case) as federation:
        for name in case.names:
            _until_ready(federation, name)
            federation.stop(name)
            federation.edit(name, _hasty)
            federation.start_plant(name)
        federation.until_online(case.names)
        for name in case.names:
            federation.until(lambda name=name: _without_trainer(federation, name), 120, "an idle trainer")
        time.sleep(1)
        meters = {name: Meter([federation.children[name].pid]) for name in ("coordinator", case.names[0])}
        time.sleep(seconds)
        rows = []
        for name, meter in meters.items():
            used, own = meter.read()[0], memory(meter.pids)
            rows.append(
                {
                    "case": "waiting, " + ("coordinator" if name == "coordinator" else "plant"),
                    "plants": plants,
                    "seconds": seconds,
                    "cpu_percent": round(100 * used / seconds, 2),
                    "peak_pss_mb": round(own.pss, 1),
                    "anonymous_mb": round(own.anonymous, 1),
                }
            )
        return rows


def starting(plants: int, times: int) -> list[Row]:
    """Seconds from a command to the first step of training; the median of several runs is the middle one."""
    case = Case(plants=plants, rounds=1)
    with rig.started(case) as federation:
        task = federation.path / "task.yaml"
        write_atomic(task, config.to_yaml(case.task()))
        for name in case.names:
            _until_ready(federation, name)
        found = sorted(_start(federation, case, task) for _ in range(times))
    whole, after = found[len(found) // 2]
    return [
        {
            "case": "run start",
            "plants": plants,
            "seconds": round(whole, 3),
            "after_the_command_s": round(after, 3),
            "slowest_s": round(found[-1][0], 3),
        }
    ]


def _start(federation: LocalFederation, case: Case, task: Path) -> tuple[float, float]:
    """Start a run by the command, and wait until it is over."""
    words = ["run", "start", str(task), "--no-release", "--dir", str(federation.coordinator.path), "--json"]
    begun = time.time()
    done = subprocess.run(
        processes.python_module("interplant.cli.main", *words), check=True, stdout=subprocess.PIPE
    )
    ended, run = time.time(), json.loads(done.stdout)["id"]
    federation.until_over(run)
    steps = []
    for name in case.names:
        entries = [json.loads(line) for line in federation.plant(name).rounds.read_text().splitlines()]
        steps += [entry["first_step"] for entry in entries if entry["run"] == run and entry["round"] == 1]
    return min(steps) - begun, min(steps) - ended


def _hasty(plant: Plant) -> None:
    plant.trainer.idle_seconds = _IDLE_AFTER


def _until_ready(federation: LocalFederation, name: str) -> None:
    path = federation.plant(name).trainer_log
    federation.until(lambda: path.exists() and _READY in path.read_text(), 120, f"the trainer of {name}")


def _without_trainer(federation: LocalFederation, name: str) -> bool:
    """Whether a plant's processes are its supervisor and its agent, and the trainer has been there."""
    log = federation.log_of(name).read_text()
    return "the trainer was idle and is released" in log


def main() -> None:
    """Print the results."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--plants", type=int, default=4)
    words.add_argument("--seconds", type=float, default=25.0, help="how long to watch who waits")
    words.add_argument("--times", type=int, default=5, help="how many runs are started")
    given = words.parse_args()
    results = [*waiting(1, given.seconds), *starting(given.plants, given.times)]
    print(json.dumps({"machine": platform.platform(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
