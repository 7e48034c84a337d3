"""The task files that ship with Interplant."""

from pathlib import Path

from interplant.core.errors import UsageError

_FOLDER = Path(__file__).parent


def builtin(name: str) -> Path:
    """Return the packaged task file called ``name``.

    Args:
        name: Such as ``turbofan``.

    Raises:
        UsageError: No such task ships with Interplant.
    """
    path = _FOLDER / f"{name}.yaml"
    if name not in names():
        raise UsageError(f"task {name!r}: expected one of {', '.join(names())}, or the path of a task file")
    return path


def names() -> list[str]:
    """Return the names of the packaged tasks, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))
