"""Predictions over HTTP from a real plant: latency, throughput, and what training does to them.

A coordinator and a plant run as processes, the plant with a release as its champion. The same clients
(`load`: one thread, no library) send the same windows to each server. Machines are noisy: what is compared
is measured in short turns, and processor time stands beside it.

With ``--mlserver PYTHON``, whose environment has mlserver and onnxruntime, MLServer serves the plant's
own model repository (``serving/models``) from the same file, as it comes (one worker process) and with the
model in its main process; the better one counts.

    python benchmarks/serving.py --json [--mlserver PYTHON] [--turns 10] [--short]
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import load
import numpy as np
import psutil
from load import Load, ask
from meters import cpu_seconds
from rig import Case, started
from safetensors.numpy import save_file

from interplant.client import champion
from interplant.client.directory import PlantDirectory
from interplant.client.serving_status import serving_status
from interplant.core import models
from interplant.core.inference import Session
from interplant.core.release import ONNX, Lineage, Participant, task_digest
from interplant.core.schema import Plant, Task
from interplant.lab.federation import LocalFederation, free_port
from interplant.server.packaging import PackageOrder, package

MANY = 32
"""Clients that ask at once."""

RATE = 200.0
"""Requests a second at which training is watched: a line's machines, not a flood."""

RELEASE = "turbofan-20260101-120000-ab12"
NAME = "plant-1"


@dataclass(frozen=True)
class Server:
    """One that answers.

    Args:
        address: ``http://host:port``.
        pid: Its process; its children count.
    """

    address: str
    pid: int

    def asked(self, requests: list[bytes], clients: int, seconds: float) -> tuple[Load, float]:
        """What clients saw, and processor seconds of the server for each answer."""
        before = cpu_seconds([self.pid])
        seen = ask(self.address, requests, clients, seconds)
        if seen.failed:
            raise SystemExit(f"{self.address}: {seen.failed} requests failed: {seen.last[:200]!r}")
        return seen, (cpu_seconds([self.pid]) - before) / len(seen.latencies)


def requests_of(task: Task, address: str) -> list[bytes]:
    """Windows as JSON, one a request, all different."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(50):
        window = random.uniform(-1, 1, task.shape).round(4)
        tensor = {"name": "windows", "datatype": "FP32", "shape": [1, *task.shape]}
        body = json.dumps({"inputs": [{**tensor, "data": window.ravel().tolist()}]}).encode()
        made.append(load.post(address, f"/v2/models/{task.name}/infer", body))
    return made


# --- the plant -------------------------------------------------------------------------------------


@contextmanager
def serving(case: Case) -> Iterator[tuple[LocalFederation, Server]]:
    """A plant that serves a release of the case's task; the model has its first weights."""
    with started(case) as federation:
        plant, task = federation.plant(NAME), case.task("dp-sgd")
        federation.stop(NAME)
        federation.edit(NAME, _serves)
        _release(federation, plant, task)
        federation.start_plant(NAME)
        federation.until(lambda: bool(serving_status(plant).release), 60, "the plant to serve", NAME)
        federation.until((plant.models / task.name).is_dir, 60, "its model repository", NAME)
        own = _descendant(federation, "interplant.client.serving")
        yield federation, Server(serving_status(plant).address, own.pid)


def _serves(settings: Plant) -> None:
    settings.serving.listen = "0"


def _release(federation: LocalFederation, plant: PlantDirectory, task: Task) -> None:
    north = Participant(NAME, {"ab" * 32: 1}, 1, "dp-sgd", "window", 0.5, 1e-5, True)
    lineage = Lineage(
        RELEASE, RELEASE.partition("-")[2], task.name, task_digest(task), "0.1.0", "1", None,
        "2026-01-01T12:30:00+00:00", 1, "grpc", True, True, (north,),
    )  # fmt: skip
    weights = federation.path / "weights.safetensors"
    save_file(models.parameters(models.build(task)), weights)
    package(
        PackageOrder(weights, task, lineage, federation.coordinator.release_key), plant.releases / RELEASE
    )
    champion.activate(plant, RELEASE)


def _descendant(federation: LocalFederation, module: str) -> psutil.Process:
    for process in psutil.Process(federation.children[NAME].pid).children(recursive=True):
        if module in process.cmdline():
            return process
    raise SystemExit(f"no {module} runs")


# --- what is measured ------------------------------------------------------------------------------


def direct(task: Task, model: Path, calls: int) -> float:
    """Median milliseconds of a call of ONNX Runtime with one window."""
    session = Session(model, arena=True)
    x = np.random.default_rng(0).uniform(-1, 1, (1, *task.shape)).astype(np.float32)
    taken = []
    for _ in range(calls):
        begun = time.perf_counter()
        session.run(x)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1000.0


def one_client(server: Server, task: Task, model: Path, turns: int, seconds: float) -> dict[str, Any]:
    """What HTTP adds to a call; both in turns."""
    requests = requests_of(task, server.address)
    server.asked(requests, 1, 0.5)
    over, bare = [], []
    for _ in range(turns):
        bare.append(direct(task, model, 2000))
        over.append(server.asked(requests, 1, seconds)[0].quantile(0.5))
    http, call = statistics.median(over), statistics.median(bare)
    more = {"http_p50_ms": round(http, 3), "direct_p50_ms": round(call, 3)}
    return row("1 client: p50 over HTTP less a direct call", http - call, "ms", 1.0, **more)


def many_clients(
    ours: Server, others: list[Server], task: Task, turns: int, seconds: float
) -> dict[str, Any]:
    """Answers a second at `MANY` clients, in turns with the other servers; the best of those counts."""
    servers = [ours, *others]
    rates: list[list[float]] = [[] for _ in servers]
    costs: list[list[float]] = [[] for _ in servers]
    busy = []
    for turn in range(turns + 1):
        for place, server in enumerate(servers):
            seen, cost = server.asked(requests_of(task, server.address), MANY, seconds)
            if turn:  # the first one warms up
                rates[place].append(seen.per_second)
                costs[place].append(cost)
                busy.append(seen.busy)
    own, cost = statistics.median(rates[0]), statistics.median(costs[0])
    more: dict[str, Any] = {
        "ours_per_second": round(own),
        "ours_cpu_us": round(cost * 1e6),
        "clients_busy": round(max(busy), 2),
        "clients_alone_per_second": round(capacity(requests_of(task, ours.address))),
    }
    if not others:
        return row(f"{MANY} clients: answers a second", own, "1/s", None, **more)
    place = max(range(1, len(servers)), key=lambda one: statistics.median(rates[one]))
    theirs = statistics.median(rates[place])
    more |= {
        "mlserver_per_second": round(theirs),
        "mlserver_cpu_us": round(statistics.median(costs[place]) * 1e6),
        "mlserver_workers": "one process" if place == 1 else "in its main process",
    }
    return row(f"{MANY} clients: throughput over MLServer's", own / theirs, "times", 2.0, **more)


def while_training(
    federation: LocalFederation, server: Server, task: Task, turns: int, seconds: float
) -> dict[str, Any]:
    """P99 at `RATE` while the plant's trainer trains, over that while it stands still; in turns."""
    requests = requests_of(task, server.address)
    run = federation.start_run(task, release=False)
    rounds = federation.plant(NAME).rounds
    federation.until(lambda: _begun(federation, run.id, rounds), 400, "training")
    trainer = _descendant(federation, "interplant.client.worker")
    seen: dict[bool, list[float]] = {True: [], False: []}
    worked = 0.0
    try:
        for _ in range(turns):
            for training in (True, False):
                trainer.send_signal(signal.SIGCONT if training else signal.SIGSTOP)
                time.sleep(0.1)
                before = cpu_seconds([trainer.pid])
                found = ask(server.address, requests, 8, seconds, RATE)
                seen[training] += found.latencies.tolist()
                worked += cpu_seconds([trainer.pid]) - before if training else 0.0
    finally:
        trainer.send_signal(signal.SIGCONT)
    _begun(federation, run.id, rounds)
    busy, idle = (float(np.quantile(seen[training], 0.99)) * 1000.0 for training in (True, False))
    more = {
        "training_p99_ms": round(busy, 3),
        "idle_p99_ms": round(idle, 3),
        "training_p50_ms": round(float(np.median(seen[True])) * 1000.0, 3),
        "idle_p50_ms": round(float(np.median(seen[False])) * 1000.0, 3),
        "requests": len(seen[True]),
        "trainer_busy": round(worked / (turns * seconds), 2),
    }
    return row(f"{RATE:g} requests a second: p99 while training over idle", busy / idle, "times", 3.0, **more)


def _begun(federation: LocalFederation, run: str, rounds: Path) -> bool:
    """Whether a run has trained a round here; it must go on."""
    record = federation.registry.run(run)
    if record.is_over or record.state == "paused":
        raise SystemExit(f"run {run} is {record.state}: {record.reason}")
    return rounds.exists()


def row(case: str, value: float, unit: str, bar: float | None, **more: Any) -> dict[str, Any]:
    """One result; MLServer is to be passed, anything else not."""
    above = "MLServer" in case
    holds = None if bar is None else bool(value >= bar if above else value <= bar)
    return {"case": case, "value": round(value, 3), "unit": unit, "bar": bar, "holds": holds, **more}


# --- the clients' own limit, and MLServer ----------------------------------------------------------

ECHO = """
import asyncio, sys
import uvloop

ANSWER = b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}"

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.left = transport, 0
    def data_received(self, data):
        self.left -= len(data)
        if self.left < 0:
            head = data.find(b"\\r\\n\\r\\n")
            at = data.find(b"Content-Length: ") + 16
            self.left = head + 4 + int(data[at : data.find(b"\\r\\n", at)]) - len(data)
        if self.left == 0:
            self.transport.write(ANSWER)

async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

uvloop.run(main())
"""


def capacity(requests: list[bytes]) -> float:
    """Answers a second that the same clients get from a server that looks at nothing."""
    port = free_port()
    with _running([sys.executable, "-c", ECHO, str(port)], lambda: _listens(port)):
        return ask(f"http://127.0.0.1:{port}", requests, MANY, 2.0).per_second


@contextmanager
def mlserver(python: str, repository: Path, name: str, workers: int) -> Iterator[Server]:
    ports = {key: free_port() for key in ("HTTP_PORT", "GRPC_PORT", "METRICS_PORT")}
    settings = {"HOST": "127.0.0.1", "PARALLEL_WORKERS": workers, "DEBUG": "false", **ports}
    environment = {f"MLSERVER_{key}": str(value) for key, value in settings.items()}
    address = f"http://127.0.0.1:{ports['HTTP_PORT']}"

    def ready() -> bool:
        try:
            return httpx.get(f"{address}/v2/models/{name}/ready").status_code == 200
        except httpx.HTTPError:
            return False

    command = [str(Path(python).with_name("mlserver")), "start", str(repository)]
    with _running(command, ready, environment) as child:
        yield Server(address, child.pid)


@contextmanager
def _running(
    command: list[str], ready: Callable[[], bool], environment: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(command, env={**os.environ, **(environment or {})}, cwd=folder, **quiet)
        try:
            end = time.monotonic() + 120
            while not ready():
                if child.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{' '.join(command)[:200]}: did not start")
                time.sleep(0.1)
            yield child
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _listens(port: int) -> bool:
    try:
        return httpx.post(f"http://127.0.0.1:{port}", content=b"{}").status_code == 200
    except httpx.HTTPError:
        return False


def main() -> None:
    """Measure, and print the results."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--mlserver", help="an interpreter with mlserver and onnxruntime")
    words.add_argument("--turns", type=int, default=10)
    words.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    words.add_argument("--short", action="store_true", help="smoke: two short turns")
    given = words.parse_args()
    turns, seconds = (2, 0.3) if given.short else (given.turns, given.seconds)
    case = Case(plants=1, rounds=5000, steps=100)
    task = case.task("dp-sgd")
    results = []
    with serving(case) as (federation, server):
        plant = federation.plant(NAME)
        results.append(one_client(server, task, plant.releases / RELEASE / ONNX, turns, seconds))
        if given.mlserver:
            with (
                mlserver(given.mlserver, plant.models, task.name, 1) as one,
                mlserver(given.mlserver, plant.models, task.name, 0) as none,
            ):
                results.append(many_clients(server, [one, none], task, turns, seconds))
        else:
            results.append(many_clients(server, [], task, turns, seconds))
        results.append(while_training(federation, server, task, turns, 2 * seconds))
    print(json.dumps({"machine": platform.platform(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
