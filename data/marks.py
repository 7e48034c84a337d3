"""What a source remembers between runs: a small JSON file in its own folder."""

import json
from pathlib import Path
from typing import Any

from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic


class Marks:
    """A dict that is on disk: whole, or as it was before.

    Args:
        path: The file; it need not be there.

    Raises:
        InterplantError: The file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = {}
        if path.exists():
            self.values = self._read()

    def save(self) -> None:
        """Write the values durably.

        Raises:
            InterplantError: The disk is full or the folder cannot be written.
        """
        write_atomic(self._path, json.dumps(self.values, indent=1), 0o600)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_bytes())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InterplantError(
                f"{self._path}: expected the marks of a source, found something else; remove the file, and "
                "the source is read from its beginning (the store takes every reading once)"
            )
        return found
