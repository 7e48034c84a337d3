from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from interplant.core.contract import Column, Condition, Contract
from interplant.core.schema import Target, Task, Window
from interplant.data import download

from .publisher import Publisher, serve


@pytest.fixture
def contract() -> Contract:
    """Two settings, two sensors, two conditions; the second declares only one sensor."""
    return Contract(
        settings={"height": Column("kft", 0.0, 10.0), "speed": Column("Mach", 0.0, 1.0)},
        sensors={"heat": Column("K", 0.0, 200.0), "flow": Column("kg/s", 0.0, 10.0)},
        conditions=[
            Condition("low", {"height": 0.0, "speed": 0.0}, {"heat": [0, 100], "flow": [0, 10]}),
            Condition("high", {"height": 10.0, "speed": 1.0}, {"heat": [100, 200]}),
        ],
    )


@pytest.fixture
def task(contract: Contract) -> Task:
    return Task(name="small", contract=contract, window=Window(length=4), target=Target(cap=5.0))


@pytest.fixture
def readings() -> Callable[..., pd.DataFrame]:
    return _readings


def _readings(*lengths: int) -> pd.DataFrame:
    """One machine per length, numbered from 1; `heat` is 10 times the cycle."""
    rows = [(machine, cycle) for machine, length in enumerate(lengths, 1) for cycle in range(1, length + 1)]
    frame = pd.DataFrame(rows, columns=["machine", "cycle"])
    frame["height"], frame["speed"] = 0.1, 0.01
    frame["heat"], frame["flow"] = frame["cycle"] * 10.0, 5.0
    return frame


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """A publisher of files over HTTPS, trusted here."""
    folder = tmp_path / "tls"
    folder.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with serve(folder) as made:
        yield made
