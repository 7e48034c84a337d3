"""Logs go to standard error; standard output belongs to answers."""

import subprocess
import sys

CODE = """
import logging
from interplant.core import logs
logs.setup({level})
logging.getLogger("interplant.server").info("a plant is connected")
logging.getLogger("interplant.server").debug("too much")
logging.getLogger("flwr").info("chatter")
logging.getLogger("dvc").warning("a warning")
print("answer")
"""


def said(level=""):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(level=level)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "answer\n"
    return done.stderr.splitlines()


def test_one_line_an_event_on_standard_error():
    first, second = said()
    assert first.endswith("INFO interplant.server: a plant is connected")
    assert first[:4].isdigit()
    assert second.endswith("WARNING dvc: a warning")


def test_the_level_can_be_set():
    assert [line.partition(" ")[2].partition(" ")[2] for line in said("logging.ERROR")] == []
