"""The process of the release that answers beside the champion: whatever it does, serving goes on.

A model that hangs, eats memory or kills its process harms nobody here. Requests and answers are frames over
its standard input and output: a kind, a length, the content.
"""

import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from interplant.client.directory import PlantDirectory
from interplant.client.receiving import verify_kept
from interplant.core import processes
from interplant.core.errors import InterplantError
from interplant.core.inference import Session
from interplant.core.release import ONNX

_READY: Final = 0
_PREDICTED: Final = 1
_FAILED: Final = 2
_LARGEST: Final = 1 << 26
"""Bytes of an answer: of a batch of windows, some numbers each."""

_LAST_SECONDS: Final = 1.0
_HEAD: Final = struct.Struct("<II")
_SHAPE: Final = struct.Struct("<II")

Floats = NDArray[np.float32]


class Failed(InterplantError):
    """The release did not answer a request, or not with finite numbers."""


class Process:
    """One process with a loaded release."""

    def __init__(self, plant: PlantDirectory, release: str, nice: int) -> None:
        self._process = processes.start(
            processes.python_module("interplant.client.beside_process", str(plant.path), release, str(nice)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self.alive = True

    def wait_until_ready(self, seconds: float, patience: float, given_up: Callable[[], bool]) -> None:
        """Raise `Failed` unless the release is loaded in so many seconds, and predicts in this time.

        Args:
            seconds: For loading.
            patience: Seconds for one window.
            given_up: Whether it is not wanted any more.
        """
        end = time.monotonic() + seconds
        while not _ready(self._out, 0.1):
            if given_up() or time.monotonic() > end:
                raise Failed(f"the release was not loaded within {seconds:g} s")
        kind, content = self._read(end)
        if kind != _READY or len(content) != _SHAPE.size:
            raise Failed(content.decode(errors="replace"))
        self.predict(np.zeros((1, *_SHAPE.unpack(content)), np.float32), patience)

    def predict(self, x: Floats, seconds: float) -> Floats:
        """Predict windows.

        Raises:
            Failed: It did not within so many seconds, it failed, or it is gone; `alive` says whether it
                may be asked again.
        """
        end = time.monotonic() + seconds
        self._write(_frame(_PREDICTED, np.ascontiguousarray(x, np.float32).tobytes()), end)
        kind, content = self._read(end)
        if kind != _PREDICTED:
            raise Failed(content.decode(errors="replace"))
        try:
            found = np.frombuffer(content, np.float32)
            return found if len(found) == len(x) else found.reshape(len(x), -1)
        except ValueError as error:
            raise self._lost(f"no predictions of {len(x)} windows came: {error}") from None

    def end(self) -> None:
        """End the process at once."""
        self.alive = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _write(self, data: bytes, end: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(end, writing=True)
            try:
                left = left[os.write(self._in, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                self._gone()

    def _read(self, end: float) -> tuple[int, bytes]:
        kind, size = _HEAD.unpack(self._piece(_HEAD.size, end))
        if size > _LARGEST:
            raise self._lost(f"the release's process announced {size} bytes")
        return kind, self._piece(size, end)

    def _piece(self, size: int, end: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._wait(end)
            data = os.read(self._out, size - len(found))
            if not data:
                self._gone()
            found += data
        return bytes(found)

    def _wait(self, end: float, writing: bool = False) -> None:
        if not _ready(self._in if writing else self._out, end - time.monotonic(), writing):
            raise self._lost("the release does not answer in time; its process is ended")

    def _gone(self) -> NoReturn:
        try:
            ended = f"ended ({self._process.wait(_LAST_SECONDS)})"
        except subprocess.TimeoutExpired:
            self._process.kill()
            ended = "closed its answers"
        raise self._lost(f"the release's process {ended}")

    def _lost(self, why: str) -> Failed:
        self.alive = False
        return Failed(why)


def _ready(descriptor: int, seconds: float, writing: bool = False) -> bool:
    """Wait until something can be read or written; poll, as select knows no descriptor beyond 1023."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT if writing else select.POLLIN)
    return seconds > 0 and bool(waiting.poll(seconds * 1000.0))


def main(words: list[str]) -> int:
    """Answer with the release ``words[1]`` of the plant in ``words[0]``, at the priority ``words[2]``."""
    processes.follow_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(int(words[2]))
    # Whatever takes too much memory here is the first to go.
    Path("/proc/self/oom_score_adj").write_text("1000")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    plant, release = PlantDirectory(Path(words[0])), words[1]
    try:
        serve(plant, release, sys.stdin.buffer, answers)
    except InterplantError as error:
        answers.write(_frame(_FAILED, str(error).encode()))
        answers.flush()
        return error.exit_code
    return 0


def serve(plant: PlantDirectory, release: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """Load a release, say so, and answer frame by frame until there are no more.

    Raises:
        InterplantError: It does not verify, or its model cannot be loaded or run.
    """
    settings = plant.load()
    # Its key was looked at when the pointer moved.
    found = verify_kept(plant, release)
    shape, outputs = found.task.shape, found.task.target.outputs
    session = Session(found.folder / ONNX, outputs, settings.serving.threads, arena=True)
    answers.write(_frame(_READY, _SHAPE.pack(*shape)))
    answers.flush()
    while head := _read_exactly(requests, 8):
        _, size = _HEAD.unpack(head)
        x = np.frombuffer(_read_exactly(requests, size), np.float32).reshape(-1, *shape)
        answers.write(_answer(session, x))
        answers.flush()


def _answer(session: Session, x: Floats) -> bytes:
    try:
        predicted = session.run(x)
    except InterplantError as error:
        return _frame(_FAILED, str(error).encode())
    if not np.isfinite(predicted).all():
        return _frame(_FAILED, b"a prediction is not a finite number")
    return _frame(_PREDICTED, np.ascontiguousarray(predicted, np.float32).tobytes())


def _frame(kind: int, content: bytes) -> bytes:
    return _HEAD.pack(kind, len(content)) + content


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    """So many bytes; fewer, at the end, are none."""
    content = file.read(size)
    return content if len(content) == size else b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
