"""The simulate engine: the same ServerApp and ClientApp over plants in this process, no network."""

import secrets
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Message
from flwr.clientapp import ClientApp

from interplant.client.app import make_app
from interplant.client.directory import PlantDirectory
from interplant.client.trainer import InlineTrainer
from interplant.core.flower import OneRunGrid, context
from interplant.core.schema import Rounds, Task
from interplant.server import rounds
from interplant.server.records import node_id
from interplant.server.run_folder import Checkpoint, RunFolder, make_order


class SimulatedGrid(OneRunGrid):
    """A grid whose plants live in this process: a message is answered when its reply is pulled.

    Args:
        plants: Directories of the plants.
        run_id: Flower's number for the run.
    """

    def __init__(self, plants: Iterable[PlantDirectory], run_id: int) -> None:
        super().__init__("simulated", run_id)
        self._names: dict[int, str] = {}
        self._apps: dict[int, ClientApp] = {}
        for plant in plants:
            name = plant.load().name
            self._names[node_id(name)] = name
            self._apps[node_id(name)] = make_app(plant, InlineTrainer(plant))
        self._open: dict[str, Message] = {}

    def get_node_ids(self) -> list[int]:
        """Ids of all plants."""
        return sorted(self._apps)

    def names(self) -> dict[int, str]:
        """Node id to plant name."""
        return self._names

    def online(self) -> set[int]:
        """Every plant is here."""
        return set(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hold instructions until their replies are pulled."""
        held = {each.metadata.message_id: each for each in messages}
        self._open.update(held)
        return list(held)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Have the plants answer, and return their replies."""
        return [self._answer(message_id) for message_id in message_ids if message_id in self._open]

    def wait(self, message_ids: Iterable[str], seconds: float) -> Message | None:
        """Have the next plant answer."""
        message_id = next(iter(message_ids), None)
        return None if message_id is None else self._answer(message_id)

    def answered(self, message_ids: Iterable[str]) -> dict[str, bool]:
        """Every open message is answered as soon as it is asked."""
        return {message_id: True for message_id in message_ids if message_id in self._open}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Have every plant answer."""
        return self.pull_messages(self.push_messages(messages))

    def finish(self, message_ids: Iterable[str], settled_round: int | None) -> None:
        """Forget messages."""
        for message_id in message_ids:
            self._open.pop(message_id, None)

    def _answer(self, message_id: str) -> Message:
        request = self._open.pop(message_id)
        node = request.metadata.dst_node_id
        return self._apps[node](request, context(node, self._run_id, {}, {}))


def simulate_run(plants: Iterable[PlantDirectory], folder: Path, task: Task, rules: Rounds) -> Checkpoint:
    """Run a task over plants in this process.

    Args:
        plants: Directories of the plants; their policies, ledgers and data are the real ones.
        folder: Becomes the run's folder.
        task: What is learned.
        rules: Quorum, retries and norm bound.

    Returns:
        The state after the last round.
    """
    run = RunFolder(folder)
    order = make_order(f"simulated-{secrets.token_hex(4)}", task, rules, engine="simulate", release=False)
    run.create(order)
    return rounds.carry_out(SimulatedGrid(plants, order.run_id), run)
