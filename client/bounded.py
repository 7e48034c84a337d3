"""A release's ONNX model, run in a child with hard limits of time and memory.

An ONNX file is a program: it can loop, and it can ask for any amount of memory. So the plant's own processes
never open the file of a release that is still on trial; a child does, on one thread of ONNX Runtime as in
serving, and the kernel ends it when it takes too much. Windows and predictions cross in memory: they never
lie on the disk.
"""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from interplant.core import processes
from interplant.core.errors import InterplantError
from interplant.core.inference import Floats, Session, predict_in

LOAD_SECONDS: Final = 10.0
"""Processor seconds for loading a model, beside what its predictions may take."""

PATIENCE: Final = 10.0
"""So many times its processor time the child may take by the clock, on a machine with other things to do."""

MEMORY: Final = 1 << 30
"""Bytes beside the model's own and the windows'."""

WARM: Final = 3
"""Predictions of one window before those that are timed."""

TIMED_SECONDS: Final = 0.1
MOST_TIMED: Final = 4096
"""One window is predicted so often, more or less, or for so long: some clocks of processes tick slowly."""


@dataclass(frozen=True)
class Ran:
    """What a model gave.

    Args:
        predictions: Of each array of windows (N,), or (N, outputs).
        milliseconds: Processor time of one window's prediction, on average; a busy machine does not lengthen
            it. 0 if it was not asked for.
    """

    predictions: list[Floats]
    milliseconds: float


class RunawayError(InterplantError):
    """The model took more time or memory than it may, or brought its process down."""


def run(model: Path, arrays: Sequence[Floats], outputs: int, latency_ms: float, timed: bool = True) -> Ran:
    """Predict with a model that is not trusted.

    Args:
        model: ONNX.
        arrays: Windows (N, channels, length), each array at least one; the first window is timed.
        outputs: Numbers that the model has to give for each window.
        latency_ms: What a prediction may take; decides how much time there is for all.
        timed: Whether to time predictions of one window.

    Raises:
        InterplantError: The model cannot be loaded, or takes or gives other than one window's numbers.
        RunawayError: It was stopped.
    """
    seconds = LOAD_SECONDS + (sum(map(len, arrays)) + 2 * WARM) * latency_ms / 1000.0
    memory = MEMORY + 8 * model.stat().st_size + 4 * sum(array.nbytes for array in arrays)
    with _shared("windows") as given, _shared("predictions") as found:
        for array in arrays:
            np.save(given, array)
        given.seek(0)
        order = {"model": str(model), "outputs": outputs, "seconds": seconds, "memory": memory}
        order |= {"arrays": len(arrays), "timed": timed}
        said = _child(order, given, found, seconds * PATIENCE)
        if "error" in said:
            raise InterplantError(str(said["error"]))
        found.seek(0)
        return Ran([np.load(found) for _ in arrays], float(said["milliseconds"]))


def _child(order: dict[str, Any], given: BinaryIO, found: BinaryIO, patience: float) -> dict[str, Any]:
    """Have a child do the order and return its answer."""
    ends = (given.fileno(), found.fileno())
    command = processes.python_module("interplant.client.bounded", json.dumps(order), *map(str, ends))
    child = processes.start(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=ends)
    try:
        answer, _ = child.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        raise RunawayError(f"stopped after {patience:.0f} s") from None
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
    if child.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise RunawayError(f"stopped: more than {order['seconds']:.0f} s of processor time, or of memory")
    lines = answer.decode(errors="replace").strip().splitlines()
    try:
        said = json.loads(lines[-1])
    except (IndexError, ValueError):
        said = None
    if child.returncode or not isinstance(said, dict):
        raise RunawayError(f"its process ended with {child.returncode}")
    if said.get("memory"):
        raise RunawayError(f"more than {order['memory'] >> 20} MiB of memory")
    return said


def _shared(name: str) -> BinaryIO:
    """A file in memory that a child can be given."""
    return os.fdopen(os.memfd_create(name), "w+b")


def main(words: list[str]) -> int:
    """Do the order in ``words[0]``; the other two are descriptors of windows and predictions."""
    processes.follow_parent()
    order = json.loads(words[0])
    given, found = (os.fdopen(int(word), "r+b") for word in words[1:])
    arrays = [np.load(given) for _ in range(order["arrays"])]
    import onnxruntime

    del onnxruntime  # loaded before the limits: it takes much of address space by itself
    _limit(order["seconds"], order["memory"])
    said: dict[str, Any]
    try:
        said = _predict(order, arrays, found)
    except InterplantError as error:
        said = {"memory": True} if _of_memory(str(error)) else {"error": str(error)}
    except MemoryError:
        said = {"memory": True}
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


def _predict(order: dict[str, Any], arrays: list[Floats], found: BinaryIO) -> dict[str, Any]:
    session = Session(Path(order["model"]), order["outputs"])
    seconds = _seconds(session, np.ascontiguousarray(arrays[0][:1])) if order["timed"] else 0.0
    for array in arrays:
        content = io.BytesIO()
        np.save(content, predict_in(session, array, outputs=order["outputs"]))
        found.write(content.getbuffer())
    found.flush()
    return {"milliseconds": 1000.0 * seconds}


def _seconds(session: Session, window: Floats) -> float:
    """Processor time of one prediction: of twice as many in turn, until they take long enough to be told."""
    for _ in range(WARM):
        session.run(window)
    count = 1
    while True:
        begun = time.process_time()
        for _ in range(count):
            session.run(window)
        took = time.process_time() - begun
        if took >= TIMED_SECONDS or count >= MOST_TIMED:
            return took / count
        count *= 2


def _limit(seconds: float, memory: int) -> None:
    """Have the kernel end this process when it takes more than this from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (space, space))


def _of_memory(sentence: str) -> bool:
    """Whether ONNX Runtime says that it got no memory; it has no error of its own for that."""
    return any(word in sentence.lower() for word in ("bad_alloc", "bad allocation", "failed to allocate"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
