"""The process beside a plant's agent that keeps bringing readings in from its sources."""

import logging
import sys
import threading
from pathlib import Path

from interplant.client import intake
from interplant.client.directory import PlantDirectory
from interplant.core import logs, processes
from interplant.core.errors import InterplantError, UsageError

log = logging.getLogger(__name__)


def main(words: list[str]) -> int:
    """Watch the sources of the plant in the directory ``words[0]`` until told to stop."""
    processes.follow_parent()
    logs.setup()
    stopping = threading.Event()
    processes.on_stop_signals(stopping)
    plant = PlantDirectory(Path(words[0]))
    try:
        intake.bring(plant, intake.store_of(plant), watch=True, stop=stopping)
        return 0
    except UsageError as error:
        processes.last_words(str(error))
        return error.exit_code
    except InterplantError as error:
        # Begun again by the supervisor: a full disk is not full for ever.
        log.error("%s", error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
