"""What runs a model keeps to itself."""

import os
import subprocess
import sys
from pathlib import Path

from interplant.core import export, models

from .test_export import task_of

RUN = """
import sys
from pathlib import Path
import numpy as np
from interplant.core.inference import Session
print(Session(Path(sys.argv[1])).run(np.zeros((2, 3, 12), np.float32)).shape)
"""


def test_onnx_runtime_gathers_nothing_to_tell_its_makers(tmp_path: Path) -> None:
    """Its telemetry, where it is on, keeps a database in the user's home before it sends."""
    task = task_of()
    export.export_onnx(models.build(task), task, tmp_path / "model.onnx")
    home = tmp_path / "home"
    home.mkdir()
    left = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    words = [sys.executable, "-c", RUN, str(tmp_path / "model.onnx")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**left, "HOME": str(home)})
    assert done.stdout == "(2,)\n"
    assert list(home.rglob("*")) == []
