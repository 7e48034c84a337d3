"""Logs go to standard error, one line an event."""

import logging
import sys


def setup(level: int = logging.INFO) -> None:
    """Send this process's logs to standard error; flwr's and dvc's own chatter only from warnings."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    for noisy in ("flwr", "dvc", "dvc_data", "asyncio"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
