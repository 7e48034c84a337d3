"""What the two long-running commands share: the signals, before anything slow is loaded."""

import threading
from collections.abc import Callable


def keep_serving(work: Callable[[threading.Event], int]) -> int:
    """Call ``work`` with an event that Ctrl-C and a polite end (SIGTERM) set; return its exit code.

    A Ctrl-C while modules are still being loaded counts too: the work ends as soon as it begins.
    """
    from interplant.core import logs, processes

    stopping = threading.Event()
    processes.follow_starter()
    processes.on_stop_signals(stopping)
    logs.setup()
    return work(stopping)
