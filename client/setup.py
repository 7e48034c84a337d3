"""``interplant plant join``: keys, certificate, plant.yaml and an empty data repository."""

from pathlib import Path

from interplant.client.directory import PlantDirectory
from interplant.client.joining import join_federation, read_join_file
from interplant.client.link import enrol
from interplant.data.snapshots import Repository


def join_plant(file: Path, directory: Path, address: str | None = None) -> PlantDirectory:
    """Join the federation that a join file names.

    Args:
        file: The join file; good once.
        directory: Where the plant shall live.
        address: ``host:port`` to dial instead of the join file's.

    Raises:
        InterplantError: The file is no good, the coordinator refuses or cannot be reached.
    """
    plant = join_federation(directory, read_join_file(file), enrol, address)
    Repository.create(plant.path / plant.load().data.repository, plant.remote)
    return plant
