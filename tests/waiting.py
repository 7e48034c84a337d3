"""Waiting for what another thread or process does."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds after which something is waited for in vain: no bar; far more than it takes on a busy machine."""


def catches(pid: int, number: int) -> bool:
    """Whether a process catches a signal by now."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.findall(r"SigCgt:\t(\w+)", status)[0], 16) >> (number - 1) & 1)


def until(true: Callable[[], Any]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
