"""A plant's own files of readings, as a historian exports them: CSV or Parquet, checked before use."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interplant.core.errors import UsageError
from interplant.core.schema import Task
from interplant.core.targets import TIME
from interplant.data import cmapss, contract, labels
from interplant.data.contract import Violation
from interplant.data.frames import Dataset

if TYPE_CHECKING:
    import pandas as pd

ENDINGS: Final = (".parquet", ".csv")
PARTS: Final = ("train", "holdout")


def read_table(path: Path) -> "pd.DataFrame":
    """Read one table.

    Raises:
        UsageError: There is no such file, or it is no table of its ending's kind.
    """
    import pandas as pd

    if path.is_file() and path.suffix not in ENDINGS:
        raise UsageError(f"{path}: expected a file ending in {' or '.join(ENDINGS)}")
    if not path.is_file():
        raise UsageError(f"{path}: expected a table of readings here, found no file")
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        # Arrow's and pandas' own parse errors are ValueErrors.
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path}: cannot be read as {path.suffix[1:]}: {said}") from None


def read_folder(folder: Path, simulated: bool = False) -> Dataset:
    """Read a dataset from ``train`` and ``holdout`` tables in ``folder``, each CSV or Parquet."""
    train, holdout = (read_table(_part(folder, name)) for name in PARTS)
    return Dataset(train, holdout, simulated)


def tables(path: Path) -> Iterator[tuple[Path, "pd.DataFrame", bool]]:
    """Yield each table that ``path`` stands for, and whether it is a holdout.

    Args:
        path: A table, a folder with ``train`` and ``holdout``, or one that `cmapss.fetch` has filled.

    Raises:
        UsageError: It is none of these.
    """
    if not path.is_dir():
        yield path, read_table(path), path.stem == "holdout"
    elif all((path / name).is_file() for name in cmapss.FILES):
        for subset in cmapss.SUBSETS:
            dataset = cmapss.read(path, subset)
            yield path / f"train_{subset}.txt", dataset.train, False
            yield path / f"test_{subset}.txt", dataset.holdout, True
    else:
        for name in PARTS:
            place = _part(path, name)
            yield place, read_table(place), name == "holdout"


def violations(frame: "pd.DataFrame", task: Task, holdout: bool) -> list[Violation]:
    """Return what breaks the task's contract; a holdout must know its label at every reading too."""
    found = [*labels.violations(frame, task), *contract.check(labels.encoded(frame, task), task.contract)]
    label = task.contract.label
    if holdout and task.target.kind == TIME and label not in frame.columns:
        missing = "expected in a holdout: the time left at each reading"
        found.append(Violation("missing", label, 0, len(frame), missing))
    return found


def require(dataset: Dataset, task: Task, origin: str) -> None:
    """Raise `UsageError` unless one may learn from both tables of ``dataset``."""
    for name, frame in zip(PARTS, (dataset.train, dataset.holdout), strict=True):
        blocking = [one for one in violations(frame, task, name == "holdout") if one.blocks]
        if blocking:
            more = f" (and {len(blocking) - 1} more)" if len(blocking) > 1 else ""
            raise UsageError(
                f"{origin}, {name}: {blocking[0]}{more}; mend the data, `interplant data check` lists all"
            )


def _part(folder: Path, name: str) -> Path:
    for ending in ENDINGS:
        if (path := folder / f"{name}{ending}").is_file():
            return path
    raise UsageError(f"{folder}: expected {name}.parquet or {name}.csv here, found neither")
