"""One plant's readings as two tables, before they are a snapshot."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Dataset:
    """One plant's readings.

    Args:
        train: Machines run to failure: the contract's machine, time, settings and sensors. No label:
            it is the cycles left to the machine's last one.
        holdout: Machines the model never trains on: the same columns and the contract's label,
            ``rul``, known at every row (cycles).
        simulated: Whether `interplant.data.simulator` made them; said wherever a result is shown.
    """

    train: "pd.DataFrame"
    holdout: "pd.DataFrame"
    simulated: bool
