"""A champion whose run does not end ends the process that serves; the next one serves the release before it.

An ONNX file is a program: on some windows it may loop. The gate cannot find out on which. A thread looks at
the processor time of the run that is under way: what a busy or halted machine takes does not count.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from interplant.client import champion as pointers
from interplant.client import history
from interplant.client.champion import Champion
from interplant.client.directory import PlantDirectory
from interplant.core.files import write_atomic

log = logging.getLogger(__name__)

LEAST: Final = 5.0
"""Seconds of processor time that a run may take in any case."""

TIMES: Final = 100
"""A run may take so many times what a prediction of one window may, and more if it has many windows."""

WINDOW: Final = 3.0
"""For each of its windows a run may take so many times what it may on average."""

LOOK_SECONDS: Final = 0.5


def limit(latency_ms: float, batch: int) -> float:
    """Return the seconds of processor time that a run may take.

    Args:
        latency_ms: What a prediction of one window may take (``policy.release.latency_ms``).
        batch: Most windows in one run.
    """
    return max(LEAST, max(float(TIMES), WINDOW * batch) * latency_ms / 1000.0)


class Watchdog:
    """Watches runs, one at a time.

    Args:
        seconds: Of processor time that one may take.
        hung: Called, in the watchdog's thread, with what runs for longer; then nothing more is watched.
    """

    def __init__(self, seconds: float, hung: Callable[[Any], None]) -> None:
        self._seconds, self._hung = seconds, hung
        self._running: tuple[object, int] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def begin(self, what: object) -> None:
        """A run begins, in this thread."""
        self._running = (what, threading.get_ident())

    def end(self) -> None:
        """It is over."""
        self._running = None

    def close(self) -> None:
        """Watch nothing more."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        seen: tuple[object, int] | None = None
        begun = 0.0
        while not self._stopping.wait(min(LOOK_SECONDS, self._seconds / 2.0)):
            now = self._running
            if now is None:
                seen = None
            elif now is not seen:
                seen, begun = now, _taken(now[1])
            elif _taken(now[1]) - begun > self._seconds:
                self._hung(now[0])
                return


def _taken(thread: int) -> float:
    """Processor time of a thread of this process."""
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def note(plant: PlantDirectory, release: str) -> None:
    """Write down durably that a release did not end a run here."""
    now = pointers.champion(plant)
    since = now.since if now and now.release == release else ""
    content = {**_noted(plant), release: {"since": since, "at": history.now()}}
    write_atomic(plant.hung, json.dumps(content, indent=2) + "\n")


def passed_over(plant: PlantDirectory, now: Champion, names: Sequence[str]) -> tuple[list[str], str]:
    """Return what serves in place of a champion that did not end a run since it serves, and why.

    Who makes it the champion once more has it served again.

    Args:
        plant: The plant's directory.
        now: The champion.
        names: What serves otherwise, in this order.

    Returns:
        Releases that have not done so, the good ones before the champion behind `names`, or the champion if
        there are none; and a sentence, empty if the champion has not done so.
    """
    noted = _noted(plant)
    if now.release not in noted or noted[now.release]["since"] != now.since:
        return list(names), ""
    line = reversed(history.line_of_champions(plant))
    good = [name for name in dict.fromkeys([*names, *line]) if name and name not in noted]
    instead = "the release before it serves" if good else "there is none before it to serve"
    said = f"release {now.release}: a run of its model did not end, at {noted[now.release]['at']}; {instead}"
    return good or [now.release], said


def _noted(plant: PlantDirectory) -> dict[str, dict[str, str]]:
    try:
        content = json.loads(plant.hung.read_bytes())
        return {
            str(name): {"since": str(one["since"]), "at": str(one["at"])} for name, one in content.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
