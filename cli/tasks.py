"""How commands name a task."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from interplant.core.schema import Task

TaskName = Annotated[str, typer.Option("--task", help="A task file, or the name of a built-in task.")]
TaskWord = Annotated[str, typer.Argument(help="A task file, or the name of a built-in task: turbofan.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes to the task: rounds=5 training.steps=50 …")
]


def load_task(name: str, overrides: Sequence[str] = ()) -> "Task":
    """Read a task file (anything with a suffix or a folder in it), or a built-in task by its name.

    Raises:
        UsageError: There is none, or it is wrong: file, line and key.
    """
    from interplant.core import config
    from interplant.core.schema import Task
    from interplant.data.tasks import builtin

    path = Path(name) if Path(name).suffix or len(Path(name).parts) > 1 else builtin(name)
    return config.load(path, Task, overrides)
