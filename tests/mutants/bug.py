"""A planted bug: what it changes in which module, what that would mean, and which tests notice."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Bug:
    """One bug that the test suite must notice.

    Args:
        name: Short, for the command line.
        meaning: What it would mean for privacy.
        module: Where it is planted.
        edits: Texts that occur once in the module, each with what stands there instead.
        killers: The tests that notice; each fails, for at least one of its parameters.
    """

    name: str
    meaning: str
    module: str
    edits: tuple[tuple[str, str], ...]
    killers: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The module's file."""
        return ROOT.joinpath(*self.module.split(".")[1:]).with_suffix(".py")

    def changed(self) -> str:
        """Return the module's source with the bug in it.

        Raises:
            ValueError: The code has changed so that the bug no longer fits.
        """
        source = self.path.read_text()
        for old, new in self.edits:
            if source.count(old) != 1:
                place = self.path.relative_to(ROOT)
                found = source.count(old)
                raise ValueError(f"{self.name}: expected once in {place}, found it {found} times: {old!r}")
            source = source.replace(old, new)
        return source


def tests(file: str, *names: str) -> tuple[str, ...]:
    """Name tests of one file of ``tests/`` as pytest does."""
    return tuple(f"tests/{file}.py::{name}" for name in names)
