"""What a plant learns of the federation's signing keys: statements that a key which it trusts leads to."""

from interplant.client.directory import PlantDirectory
from interplant.core import keyring
from interplant.core.files import write_atomic


def learn(plant: PlantDirectory, text: bytes) -> int:
    """Keep statements beside the key from the join file, if they go on from what is known.

    Returns:
        How many are new here.

    Raises:
        InterplantError: They are not the federation's, or contradict what is known; nothing is changed.
    """
    ring = keyring.read(plant.release_public_key)
    learned = ring.extended(keyring.parse(text, "the coordinator's release keys"))
    new = len(learned.statements) - len(ring.statements)
    if new:
        write_atomic(plant.release_public_key.with_name(keyring.FILE), keyring.to_json(learned.statements))
    return new
