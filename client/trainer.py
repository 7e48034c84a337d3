"""The trainer as its plant's agent sees it: a warm process of its own, or inline.

The agent stays small: torch is loaded in the trainer's process, which starts before the first round,
runs at low priority, and is released when it has been idle.
"""

import contextlib
import json
import logging
import subprocess
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from interplant.client.directory import PlantDirectory
from interplant.client.trained import Trained
from interplant.core import blobs, config, processes
from interplant.core.errors import REFUSALS, InterplantError, Refusal
from interplant.core.receipt import Receipt
from interplant.core.schema import Task
from interplant.core.tensors import UPDATE, WEIGHTS, Tensors, in_record, of_record

log = logging.getLogger(__name__)

_FRUGAL = {"MALLOC_ARENA_MAX": "1"}
"""One heap for all threads: batches of ever new sizes leave less unused memory behind."""


class Trainer(Protocol):
    """Whatever trains for a plant."""

    def train(self, run: str, number: int, task: Task, weights: Tensors) -> Trained:
        """Train one round; see `interplant.client.round_training.train_round`."""


class KeptTrainer(Trainer, Protocol):
    """What an agent keeps between rounds; see `WarmTrainer`."""

    def try_release(self, release: str) -> None:
        """Try a release; the verdict is then on the plant's disk."""

    def warm_up(self) -> None:
        """Be ready when work comes."""

    def release_if_idle(self, seconds: float) -> None:
        """Give memory back if nothing was asked for ``seconds``."""

    def close(self) -> None:
        """End, also in the middle of a job."""


class InlineTrainer:
    """Train in this process: the simulate and flower engines.

    Args:
        plant: The plant's directory.
    """

    def __init__(self, plant: PlantDirectory) -> None:
        from interplant.client.round_training import Bench

        self._plant, self._bench = plant, Bench()

    def train(self, run: str, number: int, task: Task, weights: Tensors) -> Trained:
        """Train one round here."""
        import torch

        from interplant.client.round_training import train_round

        torch.set_num_threads(self._plant.load().trainer.threads)
        return train_round(self._plant, self._bench, run, number, task, weights)


class WarmTrainer:
    """A trainer process, one job at a time; its death is noticed at once.

    Jobs and answers are lines of JSON over its standard input and output; arrays lie in files.

    Args:
        plant: The plant's directory.
    """

    def __init__(self, plant: PlantDirectory) -> None:
        self._plant = plant
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._used = time.monotonic()

    def train(self, run: str, number: int, task: Task, weights: Tensors) -> Trained:
        """Have the trainer process train one round.

        The update that is returned lies in a file, which `Outbox.keep` takes.

        Raises:
            Refusal: What the trainer refused, or that it died (``trainer_died``).
        """
        incoming, outgoing = self._plant.fetched / "weights.job", self._plant.fetched / "update.job"
        incoming.parent.mkdir(exist_ok=True)
        fetched = blobs.file_of(weights, f"{WEIGHTS}/")
        if fetched is None:
            blobs.save(incoming, in_record(WEIGHTS, weights))
        job = {"weights": str(fetched or incoming), "update": str(outgoing), "run": run, "round": number}
        try:
            answer = self._do("train", job | {"task": config.to_json(task)})
            update = of_record(UPDATE, blobs.load(outgoing))
            return Trained(update, Receipt(**answer["receipt"]), answer["metrics"])
        finally:
            incoming.unlink(missing_ok=True)

    def try_release(self, release: str) -> None:
        """Have the trainer process try a release; the verdict is then on the plant's disk."""
        self._do("try", {"release": release})

    def warm_up(self) -> None:
        """Start the process, so that it is ready when work comes."""
        with self._lock:
            self._running()

    def release_if_idle(self, seconds: float) -> None:
        """End the process if nothing was asked of it for ``seconds``; it starts again with work."""
        if self._lock.acquire(blocking=False):
            try:
                if self._child and time.monotonic() - self._used > seconds:
                    log.info("the trainer was idle and is released")
                    self._end()
            finally:
                self._lock.release()

    def close(self) -> None:
        """End the process, also in the middle of a job."""
        if self._child:
            processes.stop(self._child, 2.0)

    def _do(self, kind: str, job: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            child = self._running()
            assert child.stdin
            assert child.stdout
            try:
                child.stdin.write(json.dumps({"kind": kind} | job).encode() + b"\n")
                child.stdin.flush()
                line = child.stdout.readline()
            except BrokenPipeError:
                line = b""
            self._used = time.monotonic()
            if not line:
                died_with = child.wait()
                self._end()
                raise Refusal("trainer_died", f"exit code {died_with}; see {self._plant.trainer_log}")
        answer: dict[str, Any] = json.loads(line)
        if code := answer.get("refusal"):
            raise Refusal(code if code in REFUSALS else "internal", str(answer.get("detail", "")))
        if error := answer.get("error"):
            raise InterplantError(str(error))
        return answer

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._used = time.monotonic()
            self._child = processes.start(
                processes.python_module("interplant.client.worker", str(self._plant.path)),
                self._plant.trainer_log,
                _FRUGAL,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        return self._child

    def _end(self) -> None:
        if self._child:
            processes.stop(self._child, 2.0)
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):  # what a dead one did not read
                        pipe.close()
            self._child = None


def answer_of(trained: Trained, update: Path) -> dict[str, Any]:
    """Write a trainer process's result where the agent looks for it."""
    blobs.save(update, in_record(UPDATE, trained.update))
    return {"receipt": asdict(trained.receipt), "metrics": trained.metrics}
