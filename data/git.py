"""Git as the data repositories use it: the same whatever the user's own Git is set to."""

import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Final

from interplant.core.errors import InterplantError

_SETTINGS: Final = (
    "user.name=Interplant",
    "user.email=interplant@localhost",
    "commit.gpgsign=false",
    "tag.gpgsign=false",
    "core.hooksPath=/dev/null",
    "core.autocrlf=false",
    # To ask whether there is anything to tidy would take as long as a commit: see `tidy`.
    "gc.auto=0",
)


def git(folder: Path, *words: str, text: str | None = None) -> str:
    """Run one Git command in ``folder`` and return what it printed.

    The user's and the machine's Git settings, hooks, signing and ``GIT_`` variables do not count: a
    commit made by a service must not wait for a passphrase or run a hook.

    Args:
        folder: The repository's root.
        words: Command and arguments.
        text: What the command reads from its standard input.

    Raises:
        InterplantError: Git is not installed, or says no.
    """
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    environment |= {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }
    try:
        done = subprocess.run(
            ["git", *settings, *words],
            cwd=folder,
            env=environment,
            input=text or "",
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
    except FileNotFoundError:
        what = "git is not installed" if folder.is_dir() else f"{folder}: no such folder"
        raise InterplantError(f"{what}; a plant's data repository needs it") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise InterplantError(f"{folder}: git {words[0]} failed: {said[-1] if said else done.returncode}")
    return done.stdout


def head(folder: Path) -> str:
    """Return the commit that a repository is at, where a commit has just been made, without a process.

    Args:
        folder: The repository's root.
    """
    kind, _, name = (folder / ".git" / "HEAD").read_text().strip().partition(" ")
    found = folder / ".git" / name
    if kind == "ref:" and found.is_file():
        return found.read_text().strip()
    return git(folder, "rev-parse", "HEAD").strip()


_LOOSE: Final = 27
"""Objects of one first byte, of 256, from which on there are some thousands: Git's own rule."""


def tidy(folder: Path) -> None:
    """Pack what Git holds, once some thousands of its objects lie about one by one.

    Args:
        folder: The repository's root.
    """
    some = folder / ".git" / "objects" / "17"
    if some.is_dir() and len(os.listdir(some)) >= _LOOSE:
        git(folder, "gc", "--quiet")


@lru_cache(maxsize=16)
def first_commit(folder: Path, device: int, inode: int) -> str:
    """Return the first 16 digits of a repository's first commit.

    Asked once for each folder: a process a round would cost as much as the round.

    Args:
        folder: The repository's root.
        device: Where its ``.git`` is: another repository may come to lie at the same path.
        inode: And which it is.
    """
    first: str = git(folder, "rev-list", "--max-parents=0", "--reverse", "HEAD").split()[0]
    return first[:16]
