"""A process that dies at its n-th call of the operating system, wherever that is."""

_PROGRAM = """
import os, signal, sys
from pathlib import Path
from interplant.client import champion, rollback
from interplant.client.directory import PlantDirectory

left = [int(sys.argv[2])]
def counted(call):
    def dying(*words, **more):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return call(*words, **more)
    return dying

plant = PlantDirectory(Path(sys.argv[1]))
plant.load()
{before}
for name in {names!r}:
    setattr(os, name, counted(getattr(os, name)))
{call}
"""


def killed(names: tuple[str, ...], call: str, before: str = "") -> str:
    """Return a program that takes a plant's folder and a number of calls, and dies instead of the next.

    Args:
        names: Functions of `os` that count.
        call: What it does with ``plant``.
        before: The same, uncounted; it imports what there is to import.
    """
    return _PROGRAM.format(names=names, call=call, before=before)
