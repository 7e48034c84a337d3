"""How often a plant's hold-out was asked: each further release has to be surer of passing.

A hold-out that is asked again and again lets a bad release pass in the end, by chance. The probability of
that, over all releases that are tried on one hold-out together, stays at 1 less the policy's confidence:
the k-th try gets the part 6 / (pi k)^2 of it, and what a release that passed had been given is handed on to
the next (online fallback: Tian and Ramdas, "Online control of the familywise error rate", 2021, after
Wiens' fallback procedure, 2003; without handing on it is alpha-spending). The parts add up to 1, so that
there is no number of tries at which it ends. The bound holds for releases that do not depend on earlier
verdicts, and, as long as all of these were refusals, for others too: there is one such history (Renggli et
al., "Continuous integration of machine learning models with ease.ml/ci", 2019). Who sees what a plant
serves sees verdicts; fresh readings are the remedy.

A try is on the disk before the release's predictions are looked at: a trial that was killed counts. It
counts in every later hold-out that shares half of its readings, or of theirs: a new snapshot that brings a
few does not begin anew. A reading is known by its machine and time. The record holds their hashes under a
secret of the plant, and never leaves.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.client.directory import PlantDirectory
from interplant.core.contract import Contract
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, write_atomic

if TYPE_CHECKING:
    import pandas as pd

SHARED: Final = 0.5
"""Share of the readings, of the smaller hold-out of two, that makes them the same for this purpose."""


@dataclass(frozen=True)
class Try:
    """One release that was tried on one hold-out.

    Args:
        release: SHA-256 of its manifest.
        question: What it was held against, and how: another question is another try.
        holdout: Digest of the hold-out's readings.
        number: Which try on this hold-out, from 1.
        level: Probability of passing that a release may have in it whose error is just beyond the margin.
        passed: Whether it passed; None if the trial did not come to its end, which counts as a refusal.
    """

    release: str
    question: str
    holdout: str
    number: int
    level: float
    passed: bool | None = None


class Tries:
    """The record of a plant's tries, one process at a time.

    Args:
        plant: The plant's directory.

    Raises:
        InterplantError: The record is damaged.
    """

    def __init__(self, plant: PlantDirectory) -> None:
        self._folder = plant.tries
        self._secret = plant.snapshot_key.read_bytes()

    def begin(
        self, release: str, question: str, holdout: "pd.DataFrame", contract: Contract, alpha: float
    ) -> Try:
        """Count a try, durably, before this returns. The same again, on the same hold-out, is the same try.

        Args:
            release: SHA-256 of its manifest.
            question: See `Try`.
            holdout: Its readings.
            contract: Names their machine and time.
            alpha: Probability that is to be spent on all tries together.
        """
        with disk_errors(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        hashes = self._hashes(holdout, contract)
        digest = hashlib.sha256(hashes.tobytes()).hexdigest()
        known = self._read()
        for one in known:
            if (one.release, one.question, one.holdout) == (release, question, digest):
                return one
        alike = self._alike(hashes, {one.holdout for one in known})
        before = [one for one in known if one.holdout in alike]
        made = Try(release, question, digest, len(before) + 1, level(before, alpha))
        self._keep(digest, hashes)
        self._write([*known, made])
        return made

    def end(self, made: Try, passed: bool) -> None:
        """Note what came of a try."""
        self._write([replace(one, passed=passed) if _same(one, made) else one for one in self._read()])

    def _alike(self, hashes: NDArray[np.uint64], holdouts: set[str]) -> set[str]:
        """Which of these hold-outs are this one, for the most part."""
        return {name for name in holdouts if _shared(hashes, self._kept(name)) >= SHARED}

    def _hashes(self, holdout: "pd.DataFrame", contract: Contract) -> NDArray[np.uint64]:
        """A keyed hash of each reading's machine and time, in order of size."""
        keys = np.column_stack([_number(holdout[name]) for name in (contract.machine, contract.time)])
        each = [hashlib.blake2b(row.tobytes(), digest_size=8, key=self._secret).digest() for row in keys]
        return np.unique(np.frombuffer(b"".join(each), np.uint64))

    def _keep(self, holdout: str, hashes: NDArray[np.uint64]) -> None:
        path = self._hashes_path(holdout)
        if not path.exists():
            write_atomic(path, hashes.tobytes(), 0o600)

    def _kept(self, holdout: str) -> NDArray[np.uint64]:
        path = self._hashes_path(holdout)
        try:
            return np.frombuffer(path.read_bytes(), np.uint64)
        except (OSError, ValueError) as error:
            raise self._damaged(path, error) from None

    def _hashes_path(self, holdout: str) -> Path:
        return self._folder / f"{holdout}.readings"

    def _read(self) -> list[Try]:
        path = self._folder / "tries.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, list):
                raise ValueError("expected a list")
            return [Try(**one) for one in found]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged(path, error) from None

    def _write(self, tries: list[Try]) -> None:
        content: list[dict[str, Any]] = [asdict(one) for one in tries]
        write_atomic(self._folder / "tries.json", json.dumps(content, indent=1) + "\n", 0o600)

    def _damaged(self, path: Path, error: Exception) -> InterplantError:
        return InterplantError(
            f"{path}: cannot be read ({error}); restore it from a backup, or remove {self._folder}: the "
            "plant then takes its hold-out for one that was never asked"
        )


def level(before: list[Try], alpha: float) -> float:
    """Return the level of the next try.

    Args:
        before: Earlier tries on the same hold-out, in their order.
        alpha: Probability that is to be spent on all tries together.
    """
    part = alpha * 6.0 / (math.pi * (len(before) + 1)) ** 2
    return part + (before[-1].level if before and before[-1].passed else 0.0)


def _number(column: "pd.Series") -> NDArray[np.float64]:
    """A column's values as numbers, moments too; what is none is not told apart."""
    import pandas as pd

    if column.dtype.kind == "M":
        moments: NDArray[np.float64] = column.to_numpy(dtype="datetime64[ns]").astype(np.float64)
        return moments
    return np.asarray(pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64))


def _shared(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    smaller = min(len(one), len(other))
    return len(np.intersect1d(one, other, assume_unique=True)) / smaller if smaller else 1.0


def _same(one: Try, other: Try) -> bool:
    return (one.release, one.question, one.holdout) == (other.release, other.question, other.holdout)
