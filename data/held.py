"""Which versions of its contract a store's readings were held to as they came.

It follows from what people did at the plant, which contract they brought readings in under and whether they
had older ones held again, and from no reading: a coordinator may be told of it (``contract_version``).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interplant.core.files import write_atomic

UNKNOWN: Final = "unknown"
"""Stands for versions of which no record is left."""


@dataclass(frozen=True)
class HeldVersions:
    """The record of one store; who writes to it holds the store's lock.

    Args:
        path: The file, a JSON list.
        own: The version of the contract as it is now.
    """

    path: Path
    own: str

    def versions(self, new: bool = False) -> list[str]:
        """Return them.

        Args:
            new: Whether the store never had a reading: what no record tells is then nothing.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return [str(one) for one in content] if isinstance(content, list) else [UNKNOWN]
        except FileNotFoundError:
            return [] if new else [UNKNOWN]
        except ValueError:
            return [UNKNOWN]

    def add(self, new: bool) -> None:
        """Note that readings come in under the contract as it is now."""
        found = self.versions(new)
        if self.own not in found:
            self._write([*found, self.own])

    def settle(self) -> None:
        """Note that all readings were held to the contract as it is now."""
        self._write([self.own])

    def _write(self, versions: list[str]) -> None:
        write_atomic(self.path, json.dumps(versions) + "\n")
