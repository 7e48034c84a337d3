"""Labels that are text: a store keeps the place of each in the contract's list; what a place means stays."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from interplant.core.contract import Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import write_atomic


def keep(path: Path, contract: Contract, labels: Callable[[], Iterable[float]]) -> None:
    """Write down what the places mean in a store.

    Args:
        path: Where.
        contract: Its ``texts`` are what they mean from now on.
        labels: Tells which places the store has; asked only where some would mean something else.

    Raises:
        UsageError: A label that the store has would mean something else.
    """
    known, wanted = _known(path), contract.texts
    if known == wanted:
        return
    same = next(
        (place for place, pair in enumerate(zip(known, wanted, strict=False)) if pair[0] != pair[1]),
        min(len(known), len(wanted)),
    )
    if same < len(known) and any(label >= same for label in labels()):
        raise UsageError(
            f"contract.texts: expected {known} first, as labels are in the store at {path.parent}, found "
            f"{wanted}; new ones go at the end"
        )
    write_atomic(path, json.dumps(wanted))


def _known(path: Path) -> list[str]:
    try:
        known: list[str] = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InterplantError(
            f"{path}: cannot be read: {error}; write the contract's texts there as they were, a JSON list"
        ) from None
    return known
