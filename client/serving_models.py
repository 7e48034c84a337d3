"""The models that serve: the plant's champion, loaded and warm, followed as its pointer moves."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from interplant.client import history, watchdog
from interplant.client.champion import Champion, champion
from interplant.client.directory import PlantDirectory
from interplant.client.standing import is_drifting
from interplant.core import keyring
from interplant.core.errors import InterplantError
from interplant.core.files import file_state
from interplant.core.inference import Session
from interplant.core.release import ONNX, read_release
from interplant.core.schema import Task

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.03
"""How often the pointer is looked at."""

AGAIN_SECONDS: Final = 5.0
"""After how long a release that could not be loaded is tried again."""


QUICK_SECONDS: Final = 0.002
"""A run that takes less is not worth a thread: handing it over costs as much, and more while others work."""


@dataclass(frozen=True, eq=False)
class Model:
    """A release that answers.

    Args:
        release: Its id.
        task: What it predicts, and from what.
        session: Its ONNX, loaded and warm.
        quick: Whether a full batch took less than `QUICK_SECONDS`.
    """

    release: str
    task: Task
    session: Session
    quick: bool

    def run(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Predict windows (N, channels, length), in the model's units.

        Raises:
            InterplantError: The model fails, or gives a number that is not finite.
        """
        found = self.session.run(x)
        if not np.isfinite(found).all():
            raise InterplantError(f"release {self.release} gave a prediction that is not a finite number")
        return found


def load(plant: PlantDirectory, release: str, batch: int, threads: int) -> Model:
    """Verify a release, load its model and run it once at each end of what it will get.

    Args:
        plant: The plant's directory.
        release: The release's id.
        batch: Most windows in one run.
        threads: Of one run.

    Raises:
        InterplantError: It is not whole and signed, or its model does not run.
    """
    found = read_release(plant.releases / release, keyring.read(plant.release_public_key), kept=True)
    session = Session(found.folder / ONNX, found.task.target.outputs, threads, arena=True)
    model, taken = Model(release, found.task, session, quick=False), []
    for windows in (1, batch, batch, batch):
        begun = time.perf_counter()
        model.run(np.zeros((windows, *found.task.shape), np.float32))
        taken.append(time.perf_counter() - begun)
    return replace(model, quick=min(taken[1:]) < QUICK_SECONDS)


class Followed:
    """The champion as it serves now; a thread follows its pointer.

    A champion that cannot be loaded leaves the one before it serving, also at the start.

    Args:
        plant: The plant's directory.
        changed: Called, in the thread, after each change and each failure.
    """

    def __init__(self, plant: PlantDirectory, changed: Callable[["Followed"], None]) -> None:
        settings = plant.load().serving
        self._plant, self._changed = plant, changed
        self._sizes = (settings.batch, settings.threads)
        self._stopping = threading.Event()
        self._seen: object = None
        self.model: Model | None = None
        """What answers now; replaced in one step."""
        self.trouble = ""
        """Why it is not the champion, or empty."""
        self.drifting = False
        """Whether what the plant watches drifts from what the model learned from."""
        self._drift_seen: object = None
        self._thread = threading.Thread(target=self._follow, name="models", daemon=True)

    def start(self) -> None:
        """Load what is there, and follow it from now on."""
        self._follow_once(self._look)
        self._follow_once(self._look_at_drift)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        tried = time.monotonic()
        while not self._stopping.wait(LOOK_SECONDS):
            self._follow_once(self._look_at_drift)
            again = self.trouble and time.monotonic() - tried > AGAIN_SECONDS
            if again or file_state(self._plant.champion) != self._seen:
                tried = time.monotonic()
                self._follow_once(self._look)

    def _follow_once(self, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception as error:  # whatever it was, the next champion must still be followed
            log.exception("the champion could not be followed")
            self.trouble = str(error) or type(error).__name__

    def _look(self) -> None:
        """Serve what the pointer names, or what served before it."""
        self._seen = file_state(self._plant.champion)
        before, trouble = (self.model, self.trouble), ""
        try:
            now = champion(self._plant)
        except (InterplantError, OSError) as error:
            names, trouble = self._good_ones(None), str(error)
        else:
            names = [now.release, *self._good_ones(now)] if now else self._good_ones(None)
            trouble = "" if now else "no release serves here yet"
            if names and not now:
                trouble = (
                    f"{self._plant.champion}: expected the champion, found none; restore it from a backup"
                )
            if now:
                names, trouble = watchdog.passed_over(self._plant, now, names)
        for name in names:
            if self.model and name == self.model.release:
                break
            try:
                self.model = load(self._plant, name, *self._sizes)
                break
            except (InterplantError, OSError, MemoryError) as error:
                trouble = trouble or f"release {name}: {error or 'out of memory'}"
                if self.model:
                    break  # it goes on serving
        self.trouble = trouble
        if (self.model, self.trouble) != before:
            self._tell()

    def _good_ones(self, now: Champion | None) -> list[str]:
        """What serves if the champion cannot: the good releases before it, the newest first."""
        if now is None:
            return history.line_of_champions(self._plant)[::-1]
        found = []
        name = history.good_before(self._plant, now.release, now.previous)
        while name and name not in found:
            found.append(name)
            name = history.good_before(self._plant, name, None)
        return found

    def _look_at_drift(self) -> None:
        state = file_state(self._plant.drift_now)
        release = self.model.release if self.model else None
        if (state, release) != self._drift_seen:
            self._drift_seen = (state, release)
            self.drifting = release is not None and is_drifting(self._plant, release)

    def _tell(self) -> None:
        if self.trouble:
            log.warning("%s", self.trouble)
        elif self.model:
            log.info("release %s serves", self.model.release)
        try:
            self._changed(self)
        except (InterplantError, OSError) as error:  # a full disk does not keep the next champion waiting
            log.warning("%s", error)
