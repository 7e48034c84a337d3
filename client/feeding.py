"""The process beside a plant's agent that keeps bringing readings in from its sources."""

import logging
import sys
import threading
from pathlib import Path

from interplant.client import intake
from interplant.client.directory import PlantDirectory
from interplant.core import processes

log = logging.getLogger(__name__)


def main(words: list[str]) -> int:
    """Watch the sources of the plant in the directory ``words[0]`` until told to stop."""
    plant = PlantDirectory(Path(words[0]))

    def work(stopping: threading.Event) -> int:
        intake.bring(plant, intake.store_of(plant), watch=True, stop=stopping)
        return 0

    # What fails is begun again by the supervisor: a full disk is not full for ever.
    return processes.work_until_told(work, log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
