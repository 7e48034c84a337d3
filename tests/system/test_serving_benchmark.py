"""``benchmarks/serving.py`` runs: the short form, without MLServer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "serving.py"


def test_the_short_form_measures_every_case() -> None:
    words = [sys.executable, str(PROGRAM), "--json", "--short"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, many, training = json.loads(done.stdout)["results"]
    for result in (one, many, training):
        assert {"case", "value", "unit", "bar", "holds"} <= set(result)
    assert one["http_p50_ms"] > one["direct_p50_ms"] > 0
    assert one["holds"] is (one["value"] <= 1.0)
    # The clients could have asked for more than they got: what is told is the server's limit.
    assert many["clients_alone_per_second"] > many["ours_per_second"] > 0
    assert training["requests"] > 0
