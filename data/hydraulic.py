"""ZeMA's hydraulic test rig (real): three conditions of the cooler are three plants.

Source: N. Helwig, E. Pignanelli and A. Schuetze, "Condition monitoring of a complex hydraulic system using
multivariate statistics", I2MTC 2015; UCI Machine Learning Repository, dataset 447, CC BY 4.0. Of its
seventeen sensors the eight that read once a second.

A cycle is 60 s of work under a condition of valve, pump and accumulator, which are labels. The cycles of one
state of cooler, valve, pump and accumulator are much alike; so a state, called ``setting`` here, is held out
as a whole.
"""

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from interplant.data.ai4i2020 import held_out
from interplant.data.archives import Archive
from interplant.data.frames import Dataset

if TYPE_CHECKING:
    import pandas as pd

SENSORS: Final = {
    "CE": "2adc6e258be8e3b7a303b7962f485a7984099cea21248c3bf9f18c7d87283c09",
    "CP": "63f60132cb5a30879c6f5c73640a39c69e416013195fe62dafe5133b0747baf4",
    "SE": "4c04994cb28b82c001b4931acecf8099e9fe5c864f361c0a7435fbf8745361a1",
    "VS1": "a6227d9bcb807ee9835c32e73834d3eb9262f0f5cad1b176ca10c473ced25e99",
    "TS1": "49cae5e9013d8e230698d95f53a98bb77fedfe3c86985b812cf701dcc9ef06d8",
    "TS2": "34115a5b86886d83c0592c1ed259605634a8c83d3a051e97bf3e5790f1db58fa",
    "TS3": "cc271852b4caad39a3b8f5c36d948b57f6cab761dad8b4c7bdd7cb7e99c0b980",
    "TS4": "548b903f7cd4ea7f2497c0063bdda4bdf8793d55ff43a7d694b8cb835eaf2f55",
}
"""SHA-256 of each sensor's file: cooling efficiency (%) and power (kW), efficiency factor (%), vibration
(mm/s), four temperatures (°C)."""

PROFILE: Final = "profile.txt"

ARCHIVE: Final = Archive(
    "hydraulic systems",
    "hydraulic_lowrate.tar.xz",
    "cf637fceb0c7a3c9d249629a95a18ebe172c4ad5ddba067e53374faadad82d38",
    {
        **{f"{name}.txt": digest for name, digest in SENSORS.items()},
        PROFILE: "867987ca884b2f0fd607ad3918329eba887d095af2befa21122cea518eaa584a",
    },
)

STATES: Final = ("cooler", "valve", "pump", "accumulator", "stable")
"""The profile's columns: cooler (%), valve (%), pump leakage (0 to 2), accumulator (bar), still unsettled."""

COOLERS: Final = (3, 20, 100)

SECONDS: Final = 60

HELD_OUT: Final = 0.25
"""Share of the rig's states that are held out."""


def plants(files: Mapping[str, bytes]) -> Iterator[tuple[str, Dataset]]:
    """Yield ``cooler-3``, ``cooler-20`` and ``cooler-100``, a quarter of the rig's states of each held out.

    One reading a second: ``second`` counts from the rig's first, ``cycle`` numbers the cycles.
    """
    frame = _readings(files)
    names = frame[list(STATES[:4])].drop_duplicates().set_index(frame["setting"].drop_duplicates())
    held = frame["setting"].map(
        {
            one: held_out("/".join(map(str, state)), HELD_OUT)
            for one, state in zip(names.index, names.to_numpy(), strict=True)
        }
    )
    for cooler in COOLERS:
        own = frame["cooler"] == cooler
        train, holdout = (frame[own & side].reset_index(drop=True) for side in (~held, held))
        yield f"cooler-{cooler}", Dataset(train, holdout, simulated=False)


def _readings(files: Mapping[str, bytes]) -> "pd.DataFrame":
    import pandas as pd

    states = np.loadtxt(io.BytesIO(files[PROFILE]), dtype=np.int64)
    cycles = len(states)
    _, setting = np.unique(states[:, :4], axis=0, return_inverse=True)
    columns: dict[str, Any] = {
        "setting": np.repeat(setting, SECONDS),
        "second": np.arange(cycles * SECONDS),
        "cycle": np.repeat(np.arange(1, cycles + 1), SECONDS),
    }
    for name in SENSORS:
        columns[name.lower()] = np.loadtxt(io.BytesIO(files[f"{name}.txt"])).ravel()
    for place, name in enumerate(STATES):
        columns[name] = np.repeat(states[:, place], SECONDS)
    return pd.DataFrame(columns)
