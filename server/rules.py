"""The rules by which runs start without a command, as the files say them now: `Rules`."""

import time
from typing import Final

from interplant.core.errors import UsageError
from interplant.core.files import file_state
from interplant.server.directory import CoordinatorDirectory
from interplant.server.followed import Followed, task_file, tasks_of

MEND: Final = "no run starts by itself until that is mended"

_AGAIN: Final = 5.0
"""Seconds until a wrong file is read again that looks as before: it may have got another owner, or rights."""


class Rules:
    """Which tasks are followed, and how.

    Args:
        directory: The coordinator's.

    Attributes:
        followed: By the task's name; while a file is wrong, what was right last.
        quorum: Fewest plants whose updates make a round, of a run that starts now.
        wrong: What is wrong with a file now, in one sentence; empty if nothing is.

    Raises:
        UsageError: ``federation.yaml`` or a task's file is wrong from the beginning.
    """

    followed: dict[str, Followed]
    quorum: int

    def __init__(self, directory: CoordinatorDirectory) -> None:
        self._directory = directory
        self.wrong, self._again = "", 0.0
        self._read()

    def refresh(self) -> bool:
        """Read the files again if one of them has changed; return whether another thing is wrong now."""
        same = all(file_state(path) == state for path, state in self._states.items())
        if same and not (self.wrong and time.monotonic() >= self._again):
            return False
        before, self._again = self.wrong, time.monotonic() + _AGAIN
        try:
            self._read()
            self.wrong = ""
        except UsageError as error:
            self.wrong = str(error)
        return self.wrong not in ("", before)

    def _read(self) -> None:
        """Read ``federation.yaml`` and the tasks' files; what changes after the look is read next time."""
        self._states = {self._directory.config: file_state(self._directory.config)}
        settings = self._directory.load()
        files = [task_file(self._directory, policy) for policy in settings.automation]
        self._states |= {path: file_state(path) for path in files}
        self.followed, self.quorum = tasks_of(self._directory, settings), settings.rounds.quorum
