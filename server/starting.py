"""Queue a run that no person has typed; where a model has to be built, in a process of its own.

That process loads torch, and gives it back.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from interplant.core.errors import InterplantError, UsageError
from interplant.core.processes import python_module
from interplant.core.schema import Task
from interplant.server.directory import CoordinatorDirectory
from interplant.server.followed import followed
from interplant.server.runs import known_weights, start_run

_SECONDS: Final = 300.0


def start(directory: CoordinatorDirectory, task: str, start_from: str, because: str) -> str:
    """Queue a run of a followed task; see `start_in_child`, whose arguments and errors it has."""
    wanted = _followed(directory, task)
    if start_from and known_weights(directory, wanted, start_from) is not None:
        return start_run(directory, wanted, start_from=start_from, because=because).id
    return start_in_child(directory, task, start_from, because)


def start_in_child(directory: CoordinatorDirectory, task: str, start_from: str, because: str) -> str:
    """Queue a run of a followed task; see `interplant.server.runs.start_run`.

    Args:
        directory: The coordinator's.
        task: The task's name.
        start_from: The release to start from; fresh weights if empty.
        because: Why.

    Returns:
        The run's id.

    Raises:
        InterplantError: The child's one line, if the run cannot be queued.
    """
    words = json.dumps([str(directory.path), task, start_from, because])
    try:
        done = subprocess.run(
            python_module("interplant.server.starting", words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InterplantError(f"task {task}: queueing a run took more than {_SECONDS:g} s") from None
    if done.returncode:
        raise InterplantError((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return done.stdout.strip()


def _followed(directory: CoordinatorDirectory, task: str) -> Task:
    """Read a followed task anew."""
    found = followed(directory)
    if task not in found:
        raise UsageError(f"task {task!r}: federation.yaml has no automation for it")
    return found[task].task


def main(words: list[str]) -> int:
    """Queue the run that ``words[0]`` describes; print its id, or one line on stderr."""
    try:
        path, task, start_from, because = json.loads(words[0])
        directory = CoordinatorDirectory(Path(path))
        run = start_run(directory, _followed(directory, task), start_from=start_from, because=because)
    except InterplantError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return error.exit_code
    sys.stdout.write(f"{run.id}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
