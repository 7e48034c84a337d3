"""AI4I 2020, predictive maintenance of a milling machine (synthetic): three qualities are three plants.

Source: S. Matzka, "Explainable Artificial Intelligence for Predictive Maintenance Applications", AI4I 2020;
UCI Machine Learning Repository, dataset 601, CC BY 4.0.

Each row is one product, and belongs to no other. ``twf``, ``hdf``, ``pwf``, ``osf`` and ``rnf`` say why it
failed: they are the label, and never inputs.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from interplant.data.archives import Archive
from interplant.data.frames import Dataset

if TYPE_CHECKING:
    import pandas as pd

ARCHIVE: Final = Archive(
    "AI4I 2020",
    "ai4i2020.csv.gz",
    "ef58eba4050205298dd15cc05b2169a810eef82f31a8d64b51fe5d923dffb537",
    {"ai4i2020.csv": "dc6630cd9b1f0f853922fad78a1b6436570d3f1ec863f1dd5c4340ac56bc8a8e"},
)

COLUMNS: Final = {
    "UDI": "product",
    "Air temperature [K]": "air_temperature",
    "Process temperature [K]": "process_temperature",
    "Rotational speed [rpm]": "speed",
    "Torque [Nm]": "torque",
    "Tool wear [min]": "tool_wear",
    "Machine failure": "failure",
    **{name.upper(): name for name in ("twf", "hdf", "pwf", "osf", "rnf")},
}
"""The publisher's columns that are kept, and what they are called here."""

QUALITIES: Final = ("L", "M", "H")
"""Low, medium and high: a plant each. A better product bears more strain: ``quality`` 0, 1 and 2."""

HELD_OUT: Final = 0.25
"""Share of the products that are held out."""


def plants(files: Mapping[str, bytes]) -> Iterator[tuple[str, Dataset]]:
    """Yield ``type-l``, ``type-m`` and ``type-h``, a quarter of the products of each held out.

    A product's number alone decides on which side it stands. ``made`` is its place in the order of making.
    """
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(files["ai4i2020.csv"]), encoding="utf-8-sig")
    quality = frame["Type"].map({name: place for place, name in enumerate(QUALITIES)})
    kept = frame[list(COLUMNS)].rename(columns=COLUMNS).assign(quality=quality)
    kept.insert(1, "made", kept["product"])
    held = kept["product"].map(lambda product: held_out(str(product), HELD_OUT))
    for name in QUALITIES:
        own = frame["Type"] == name
        yield f"type-{name.lower()}", Dataset(_rows(kept, own & ~held), _rows(kept, own & held), False)


def held_out(name: str, share: float) -> bool:
    """Whether what bears this name is held out: it follows from the name, and about ``share`` of all are."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def _rows(frame: "pd.DataFrame", chosen: "pd.Series") -> "pd.DataFrame":
    return frame[chosen].reset_index(drop=True)
