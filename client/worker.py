"""The trainer process: torch loaded, one job at a time, lines of JSON in and out."""

import ctypes
import importlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from interplant.client.directory import PlantDirectory
from interplant.core import blobs, config, logs, processes
from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.core.tensors import WEIGHTS, of_record

log = logging.getLogger(__name__)

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def main(words: list[str]) -> int:
    """Serve jobs for the plant in the directory ``words[0]`` until standard input ends."""
    processes.follow_parent()
    answers = _private_stdout()
    logs.setup()
    _give_memory_back()
    plant = PlantDirectory(Path(words[0]))
    loaded = plant.load()
    settings = loaded.trainer
    processes.lower_priority(settings.nice)
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    import torch

    torch.set_num_threads(settings.threads)
    from interplant.client.round_training import Bench

    bench = Bench()
    _warm_up(private_only=not loaded.policy.privacy.allow_none)
    log.info("the trainer is ready")
    for line in sys.stdin:
        answer = _answer(plant, bench, json.loads(line))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def _warm_up(private_only: bool) -> None:
    """Load what the first round would load otherwise: seconds that nothing waits for now.

    A plant that may also train without privacy does not make such a round wait for the accountants.
    """
    importlib.import_module("pandas")
    importlib.import_module("pyarrow.parquet")
    if not private_only:
        return
    importlib.import_module("dp_accounting.pld")
    importlib.import_module("interplant.privacy.onepass")


def _answer(plant: PlantDirectory, bench: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Do one job; whatever goes wrong is answered, and its traceback stays in this plant's log."""
    try:
        return _train(plant, bench, job) if job["kind"] == "train" else _try(plant, job)
    except Refusal as refusal:
        return {"refusal": refusal.code, "detail": refusal.detail}
    except InterplantError as error:
        log.error("%s", error)
        return {"error": str(error)}
    except MemoryError:
        log.exception("out of memory")
        return {"refusal": "internal", "detail": "out of memory"}
    except Exception as error:
        log.exception("the job failed")
        return {"refusal": "internal", "detail": f"{type(error).__name__}: {error}"}


def _train(plant: PlantDirectory, bench: Any, job: dict[str, Any]) -> dict[str, Any]:
    from interplant.client.round_training import train_round
    from interplant.client.trainer import answer_of

    task = config.task_from_json(job["task"])
    weights = of_record(WEIGHTS, blobs.load(Path(job["weights"])))
    trained = train_round(plant, bench, job["run"], job["round"], task, weights)
    return answer_of(trained, Path(job["update"]))


def _try(plant: PlantDirectory, job: dict[str, Any]) -> dict[str, Any]:
    from interplant.client import deployment

    try:
        deployment.try_release(plant, plant.releases / job["release"])
    except Exception as error:
        if isinstance(error, UsageError) or isinstance(error.__cause__, OSError):
            raise  # a file is wrong, or the disk is full: the release is tried again
        deployment.record_fault(plant, job["release"], f"{type(error).__name__}: {error}")
        raise
    return {}


def _give_memory_back() -> None:
    """Have freed arrays go back to the system at once.

    Poisson batches differ in size, and glibc by default keeps a freed block of every size: a trainer
    would grow by some 20 MB with every round.
    """
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _private_stdout() -> Any:
    """Keep standard output for answers: whatever a library prints goes to the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return private


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
