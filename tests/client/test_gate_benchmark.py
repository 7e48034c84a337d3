"""``benchmarks/gate.py`` runs, and says what it has tried: the short form, of a few challengers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "gate.py"


@pytest.fixture(scope="module")
def printed() -> Any:
    words = ["--json", "--each", "3", "--whole", "2", "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_result_has_its_bar_and_an_interval(printed: Any) -> None:
    assert all({"case", "value", "unit", "bar", "holds"} <= one.keys() for one in printed["results"])
    harmful, helpful, same = printed["results"]
    assert (harmful["of"], helpful["of"], same["of"]) == (3, 3, 2)
    assert harmful["bar"] == 0.02
    assert helpful["bar"] == 0.9
    for one in (harmful, helpful):
        assert one["interval"][0] <= one["value"] <= one["interval"][1]


def test_the_whole_gate_decides_as_its_parts_do(printed: Any) -> None:
    same = printed["results"][2]
    assert same["value"] == 1.0
    assert same["holds"]


def test_it_tells_with_which_settings(printed: Any) -> None:
    settings = printed["settings"]
    assert (settings["margin"], settings["confidence"], settings["held-out machines"]) == (0.05, 0.95, 100)
    assert settings["held-out windows"] > 1000
    assert {"24", "50", "100", "200"} == printed["observed"]["by held-out machines"].keys()
