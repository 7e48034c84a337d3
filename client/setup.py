"""``interplant plant join``: keys, certificate, plant.yaml and an empty data repository."""

import shutil
from pathlib import Path

from interplant.client.directory import PlantDirectory, data_repository
from interplant.client.joining import join_federation, read_join_file
from interplant.client.link import TurnedAwayError, enrol
from interplant.core.staging import staging_path


def join_plant(file: Path, directory: Path, address: str | None = None) -> PlantDirectory:
    """Join the federation that a join file names.

    Args:
        file: The join file; good once.
        directory: Where the plant shall live.
        address: ``host:port`` to dial instead of the join file's.

    Raises:
        InterplantError: The file is no good, the coordinator refuses or cannot be reached.
    """
    try:
        plant = join_federation(directory, read_join_file(file), enrol, address)
    except TurnedAwayError:
        # Only a lost answer is asked for again with the same key; this one is worth nothing.
        shutil.rmtree(staging_path(directory.absolute()), ignore_errors=True)
        raise
    data_repository(plant)
    return plant
