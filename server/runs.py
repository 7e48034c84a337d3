"""Start, stop and resume runs: what the commands do, over the registry and the bell."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import grpc

from interplant.core import config
from interplant.core import federation_pb2 as pb
from interplant.core import federation_pb2_grpc as rpc
from interplant.core.errors import InterplantError, UsageError
from interplant.core.schema import Rounds, Task
from interplant.server.directory import CoordinatorDirectory
from interplant.server.grid import connect
from interplant.server.records import Run
from interplant.server.registry import Registry
from interplant.server.run_folder import Order, RunFolder
from interplant.strategies import registry as strategies


def start_run(
    directory: CoordinatorDirectory,
    task: Task,
    release: bool = True,
    start_from: str = "",
    rounds: Rounds | None = None,
) -> Run:
    """Queue a run and ring for the round process.

    Args:
        directory: The coordinator's directory.
        task: What shall be learned; its strategy must be known here.
        release: Whether the run ends with a signed release.
        start_from: Id of a release to start from; fresh weights if empty.
        rounds: Rules for rounds, by default those of ``federation.yaml``.
    """
    strategies.build(task.strategy)
    weights = directory.releases / start_from / "weights.safetensors" if start_from else None
    if weights is not None and not weights.exists():
        raise UsageError(
            f"release {start_from!r} is not in {directory.releases}; see `interplant release list`"
        )
    rules = rounds or directory.load().rounds
    registry = Registry.open(directory.path)
    settings = {"release": release, "start_from": start_from}
    run_id = new_run_id()
    order = make_order(run_id, task, rules, "grpc", release, str(weights or ""))
    RunFolder(directory.runs / run_id).create(order)
    run = registry.create_run(task.name, config.dump(task), task.rounds, settings, run_id)
    ring(directory)
    return run


def make_order(
    run: str, task: Task, rules: Rounds, engine: str, release: bool, start_from: str = ""
) -> Order:
    """Write down what a run shall do; see `Order`."""
    return Order(
        run=run,
        run_id=flower_run_id(run),
        task=config.dump(task),
        rounds=asdict(rules),
        engine=engine,
        release=release,
        start_from=start_from,
    )


def stop_run(directory: CoordinatorDirectory, run_id: str) -> Run:
    """Stop a run after what it is doing; what its rounds have learned stays."""
    registry = Registry.open(directory.path)
    run = registry.update_run(
        run_id,
        state="stopped",
        reason="stopped by a person",
        expected={"queued", "running", "paused", "waiting"},
    )
    ring(directory)
    return run


def resume_run(directory: CoordinatorDirectory, run_id: str) -> Run:
    """Queue a paused, failed or stopped run again; it goes on after its last finished round."""
    registry = Registry.open(directory.path)
    run = registry.update_run(run_id, state="queued", expected={"paused", "failed", "stopped"})
    ring(directory)
    return run


def ring(directory: CoordinatorDirectory) -> None:
    """Tell a serving coordinator that its runs have changed; one that is not serving finds out later."""
    tell(directory, lambda local: local.Ring(pb.Empty(), timeout=5))


def reload(directory: CoordinatorDirectory) -> bool:
    """Have a serving coordinator read who is enrolled; return whether one is serving."""
    return tell(directory, lambda local: local.Reload(pb.Empty(), timeout=5))


def tell(directory: CoordinatorDirectory, call: Callable[[rpc.LocalStub], Any]) -> bool:
    """Call a serving coordinator's local socket; return whether one is serving."""
    with connect(directory) as channel:
        try:
            call(rpc.LocalStub(channel))
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                return False
            raise InterplantError(f"the coordinator's local socket: {error.details()}") from None
    return True


def new_run_id() -> str:
    """Make a run id of the time and chance; letters, digits and hyphens."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def flower_run_id(run: str) -> int:
    """Flower's number for a run."""
    return int.from_bytes(hashlib.sha256(run.encode()).digest()[:8], "big") >> 1


def online(directory: CoordinatorDirectory) -> dict[str, bool]:
    """Plant name to whether it is connected; empty if no coordinator is serving."""
    found: dict[str, bool] = {}

    def ask(local: rpc.LocalStub) -> None:
        found.update({node.name: node.online for node in local.Nodes(pb.Empty(), timeout=5).nodes})

    tell(directory, ask)
    return found
