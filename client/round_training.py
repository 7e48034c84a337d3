"""One round's training at a plant: snapshot, windows, ledger, steps. Runs where torch is loaded."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interplant.client import intake, learned, quality
from interplant.client.account import Account
from interplant.client.directory import PlantDirectory
from interplant.client.trained import Trained
from interplant.core import models
from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.core.files import disk_errors
from interplant.core.receipt import Receipt
from interplant.core.schema import Task
from interplant.core.targets import scaled
from interplant.core.tensors import Tensors
from interplant.data.cuts import key_of, windows_of
from interplant.data.mapped import Cut
from interplant.data.snapshots import Snapshot
from interplant.data.windows import Windows
from interplant.privacy import checks, statistics
from interplant.privacy.ledger import Ledger, Reservation
from interplant.privacy.plan import Charged, Plan
from interplant.privacy.stream import Stream
from interplant.privacy.training import train
from interplant.strategies import registry as strategies

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Bench:
    """What a trainer keeps between rounds.

    Args:
        key: Names the windows.
        windows: Those of the snapshot and task that were used last.
        ledger: Stays open: it remembers its head, so that a ledger put back while the plant runs is
            noticed.
    """

    key: str = ""
    windows: Windows | None = None
    ledger: Ledger | None = None


def train_round(
    directory: PlantDirectory, bench: Bench, run: str, number: int, task: Task, weights: Tensors
) -> Trained:
    """Train for one round, charging the ledger before the first noise is drawn.

    Args:
        directory: The plant.
        bench: Kept between calls in one process.
        run: The run's id.
        number: The round.
        task: What the plant's policy has admitted.
        weights: The global model.

    Raises:
        Refusal: A strategy's arguments that do not fit, no snapshot, data that breaks the contract, a
            model that is missing or unfit, a budget that does not cover the round.
    """
    begun = time.monotonic()
    plant = directory.load()
    proximal = _proximal(task)
    model = _model(task, weights)
    plan = None if task.privacy.mechanism == "none" else Plan.of(task, plant.data, plant.policy.metrics)
    mode = _mode(model, task, plan) if plan else ""
    repository = directory.repository()
    ledger = bench.ledger = bench.ledger or Ledger(directory.ledger)
    account = Account.of(directory, plant, task, ledger)
    intake.require_version(directory, task)
    charges: list[Reservation] = []

    def charge(charged: Charged) -> None:
        charges.append(account.reserve(charged, run, number))

    def reserve() -> None:
        if task.privacy.private:  # noise that can be repeated protects nothing: there is nothing to charge
            assert plan is not None
            charge(plan)

    def seal() -> Receipt:
        for charged in charges:
            ledger.commit(charged)
        return account.seal(directory, plant, snapshot, task.privacy.mechanism, run, number)

    def fits() -> None:
        assert plan is not None
        quality.require(directory, account, snapshot, task, plan, charge)

    billed = quality.billed(plant.policy.privacy, task)
    if plan and task.privacy.private:
        answer = quality.owed(directory, plant, task)
        account.require(plan, *([answer] if answer else []))  # before data is touched
    snapshot = repository.open()
    intake.require_kept(snapshot, task)
    if not billed:  # else whether data is good is told with noise alone
        quality.require_intake(snapshot, task)
    try:
        windows = _windows(directory, bench, snapshot, task, fits if billed else None)
    except Refusal:
        if charges:
            seal()  # the refusal tells of the data: its charge must not be undone unnoticed
        raise

    learned.note(directory, run, task.name, snapshot.digest)
    first_step = time.time()
    result = train(
        model,
        windows.x,
        scaled(task.target, windows.y),
        task.training,
        plan=plan,
        reserve=reserve,
        seed=_seed(task, number, plant.name),
        mode=mode,
        machines=windows.machine,
        stream=_stream(task, number, plant.name),
        proximal=proximal,
        outputs=task.target.outputs,
    )
    receipt = seal()
    took = time.monotonic() - begun
    _note(directory, {"run": run, "round": number, "seconds": took, "first_step": first_step})
    return Trained(result.update, receipt, result.metrics)


def _windows(
    directory: PlantDirectory,
    bench: Bench,
    snapshot: Snapshot,
    task: Task,
    fits: Callable[[], None] | None,
) -> Windows:
    """Return the snapshot's windows, cut once.

    Args:
        directory: Keeps those of a store in a file.
        bench: Keeps them.
        snapshot: Of the plant.
        task: Contract, windows and target.
        fits: Refuses readings that break the contract, where that is charged; else they are held to it.
    """
    cut = Cut(checked=fits is not None)
    key = f"{task.privacy.unit}-{key_of(snapshot, task, cut)}"
    if bench.key != key or bench.windows is None:
        if fits is not None:
            fits()
        bench.windows, bench.key = windows_of(snapshot, task, directory.windows, cut), key
    return bench.windows


def _proximal(task: Task) -> float:
    try:
        return strategies.proximal(task.strategy)
    except UsageError as error:
        raise Refusal("task_invalid", str(error)) from error


def _model(task: Task, weights: Tensors) -> "nn.Module":
    try:
        model = models.build(task)
    except UsageError as error:
        raise Refusal("model_missing", str(error)) from error
    except InterplantError as error:
        raise Refusal("model_unfit", str(error)) from error
    try:
        models.set_parameters(model, weights)
    except InterplantError as error:
        raise Refusal("model_unfit", str(error)) from error
    return model


def _mode(model: "nn.Module", task: Task, plan: Plan) -> str:
    """Refuse a model that cannot be private, on made-up inputs: before data is touched."""
    try:
        mode = checks.check_model(model, task.shape, task.privacy.engine, task.target.outputs)
        statistics.check_model(model, task.shape, plan, task.training.loss)
        return mode
    except InterplantError as error:
        raise Refusal("model_unfit", str(error)) from error


def _seed(task: Task, number: int, plant: str) -> int:
    """Seed of the order of batches without privacy; noise and sampling under privacy never use it."""
    digest = hashlib.sha256(f"{task.seed}/{number}/{plant}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _stream(task: Task, number: int, plant: str) -> Stream | None:
    """The operating system's chance; under ``dp-sgd-test`` one that the task's seed repeats."""
    if task.privacy.private:
        return None
    return Stream(f"{task.seed}/{number}/{plant}".encode())


def _note(directory: PlantDirectory, entry: dict[str, object]) -> None:
    """Keep the plant's own record of a round; it does not leave."""
    path: Path = directory.rounds
    with disk_errors(path), path.open("a") as file:
        file.write(json.dumps(entry | {"finished": time.time(), "pid": os.getpid()}) + "\n")
