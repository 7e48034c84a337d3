"""``benchmarks/drift.py`` runs, and its bars mean something: the short form, on made-up readings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "drift.py"
SENSORS = ("AT", "AP", "AH", "AFDP", "GTEP", "TIT", "TAT", "TEY", "CDP")
YEARS = range(2011, 2016)
ROWS = 1200


def turbine(folder: Path, drifts: bool) -> None:
    """A table like the published one, in which the years from 2014 are others, or not."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"year": np.repeat(YEARS, ROWS)})
    load = random.normal(size=len(frame))
    for place, name in enumerate(SENSORS):
        frame[name] = 10 * place + load + 0.5 * random.normal(size=len(frame))
    frame.loc[frame["year"] >= 2014, "CDP"] += 2.0 * drifts
    frame.to_csv(folder / "gas_turbine_2011_2015.csv.gz", index=False)


def run(folder: Path) -> dict[str, Any]:
    words = ["--json", "--data", str(folder), "--windows", "200", "--shuffles", "1"]
    done = subprocess.run([sys.executable, str(PROGRAM), *words], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("drifts", [True, False])
def test_the_benchmark_finds_what_is_there_and_nothing_else(tmp_path: Path, drifts: bool) -> None:
    turbine(tmp_path, drifts)
    said = run(tmp_path)
    chance, offset, named, year, together = said["results"]
    assert all({"case", "value", "unit", "bar", "holds"} <= set(one) for one in said["results"])
    assert said["data"]["published"] is False
    # So few windows cannot show a rate of one in 10 000, whatever they show.
    assert (chance["alarms"], chance["windows"], chance["holds"]) == (0, 200, False)
    assert together["alarms"] == {"inputs": 0, "predictions": 0, "errors": 0}
    ((found,),) = [said["observed"]["labels until errors are found that are"]["2 times as large"]]
    assert found <= 1000
    assert offset["holds"]
    assert named["holds"]
    assert year["holds"] is drifts
