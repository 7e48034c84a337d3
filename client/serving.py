"""The process that serves a plant's predictions over HTTP; a supervised child of ``plant serve``."""

import asyncio
import errno
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvicorn
import uvloop

from interplant.client import serving_status, watchdog
from interplant.client.batching import Batcher
from interplant.client.beside import Beside
from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Predictions
from interplant.client.recording import Recorder
from interplant.client.serving_app import App
from interplant.client.serving_http import Connection
from interplant.client.serving_models import Followed, Model
from interplant.client.watchdog import Watchdog
from interplant.core import logs, processes
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import only_one
from interplant.core.schema import Serving

log = logging.getLogger(__name__)

_BACKLOG: Final = 2048
_KEEP_ALIVE: Final = 75
"""Seconds after which a connection that asks nothing is closed."""

_SWITCH: Final = 0.0005
"""Seconds that one thread may keep the others waiting: loading a model must not hold answers up."""


def main(words: list[str]) -> int:
    """Serve the plant in the directory ``words[0]`` until told to stop."""
    processes.follow_parent()
    logs.setup()
    sys.setswitchinterval(_SWITCH)
    # Uvicorn has handlers of its own while it runs, and hands what they caught to these at its end.
    stopping = threading.Event()
    processes.on_stop_signals(stopping)
    return processes.ended(lambda: serve(PlantDirectory(Path(words[0])), stopping), log)


def serve(plant: PlantDirectory, stopping: threading.Event) -> int:
    """Serve until a polite end; requests that are under way then are answered.

    Args:
        plant: The plant's directory.
        stopping: Set already, it ends before it has begun; later the signals do.

    Raises:
        UsageError: ``serving.listen`` is not an address of this machine.
        InterplantError: It is taken, or another process serves this plant.
    """
    settings = plant.load().serving
    processes.lower_priority(settings.nice)
    with only_one(plant.serving_lock, "serving"), _listening(settings) as listener:
        uvloop.run(_serve(plant, settings, listener, stopping))
    return 0


async def _serve(
    plant: PlantDirectory, settings: Serving, listener: socket.socket, stopping: threading.Event
) -> None:
    address = _address(listener)
    recorder = Recorder(lambda: Predictions.open(plant))
    seconds = watchdog.limit(plant.load().policy.release.latency_ms, settings.batch)
    watch = Watchdog(seconds, lambda model: _end(plant, model, seconds))
    batcher = Batcher(settings.batch, settings.wait_milliseconds / 1000.0, settings.queue, watch)
    beside = Beside(plant)
    models = Followed(plant, lambda now: serving_status.note(plant, address, now.model, now.trouble))
    await asyncio.to_thread(models.start)
    beside.start()
    log.info("predictions are served at %s", address)
    server = uvicorn.Server(
        uvicorn.Config(
            App(plant, models, batcher, beside, recorder, settings),
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=5,
        )
    )
    try:
        if not stopping.is_set():
            await server.serve(sockets=[listener])
    finally:
        models.close()
        beside.close()
        batcher.close()
        watch.close()
        recorder.close()


def _end(plant: PlantDirectory, model: Model, seconds: float) -> None:
    """End this process, in which a run does not: no thread can be ended alone."""
    log.error(
        "release %s: a run took more than %.3g s of processor time; serving begins anew",
        model.release,
        seconds,
    )
    try:
        watchdog.note(plant, model.release)
    except (InterplantError, OSError) as error:
        log.error("%s", error)
    os._exit(1)


@contextmanager
def _listening(settings: Serving) -> Iterator[socket.socket]:
    host, port = settings.address
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family, backlog=_BACKLOG) as listener:
            yield listener
    except socket.gaierror as error:
        raise UsageError(f"serving.listen: {host!r} is no address: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InterplantError(
                f"serving.listen: {host}:{port} is taken by another process; stop it or choose another port"
            ) from None
        if error.errno in (errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM):
            said = os.strerror(error.errno)
            raise UsageError(f"serving.listen: {host}:{port} cannot be listened on: {said}") from None
        raise


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
