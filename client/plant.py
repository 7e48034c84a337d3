"""``interplant plant serve``: the agent, restarted when it dies; the agent keeps the trainer."""

import logging
import threading

from interplant.client.directory import PlantDirectory
from interplant.core import processes
from interplant.core.errors import InterplantError
from interplant.core.files import only_one
from interplant.core.processes import Service, python_module, supervise

log = logging.getLogger(__name__)


def serve(plant: PlantDirectory, stopping: threading.Event | None = None) -> int:
    """Run the plant until Ctrl-C or a polite end.

    Args:
        plant: The plant's directory.
        stopping: Ends it; by default the signals do.

    Returns:
        The exit code.

    Raises:
        InterplantError: Another process runs this plant; the coordinator will not have it.
    """
    plant.load()
    if stopping is None:
        stopping = threading.Event()
        processes.on_stop_signals(stopping)
    with only_one(plant.path / "serve.lock", "this plant"):
        agent = Service("agent", python_module("interplant.client.agent", str(plant.path.resolve())))
        code = supervise([agent], stopping)
    if code:
        raise InterplantError("the plant cannot serve; the line above says why")
    return 0
