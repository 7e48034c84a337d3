"""A process that hosts virtual plants: what comes and goes are the messages of the wire."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

from interplant.client.app import make_app
from interplant.client.trainer import Trainer
from interplant.core import federation_pb2 as pb
from interplant.core import processes
from interplant.core.flower import context
from interplant.core.schema import Plant
from interplant.core.wire import Tensors, from_bytes, from_parcel, tensors_of, to_bytes, to_parcel
from interplant.data.simulator import simulate
from interplant.lab.virtual import Kept, VirtualDirectory, VirtualTrainer, virtual_plant

BODIES = 2
"""Bodies that a process keeps: a round's model whole, and as a difference."""

MakeTrainer = Callable[[VirtualDirectory, Kept], Trainer]


@dataclass(frozen=True)
class Recipe:
    """What a process needs to make virtual plants.

    Args:
        folder: Of all plants.
        settings: Of all plants.
        machines: Machines in a plant's record.
        seed: Of the simulator.
        threads: Of torch.
        trainer: Makes a plant's trainer.
    """

    folder: Path
    settings: Plant
    machines: int
    seed: int
    threads: int = 1
    trainer: MakeTrainer = VirtualTrainer


class Host:
    """Virtual plants of one process.

    Args:
        recipe: How to make them.
        plants: The simulator's number of each plant, by node id.
        names: Name of each plant, by node id.
    """

    def __init__(self, recipe: Recipe, plants: dict[int, int], names: dict[int, str]) -> None:
        import torch

        torch.set_num_threads(recipe.threads)
        kept = Kept()
        self._apps: dict[int, ClientApp] = {}
        for node, number in plants.items():
            make = partial(simulate, number, recipe.machines, recipe.seed)
            plant = virtual_plant(recipe.folder, names[node], recipe.settings, make)
            self._apps[node] = make_app(plant, recipe.trainer(plant, kept))
        self._bodies: dict[str, Tensors] = {}

    def answer(self, parcel: bytes, body: bytes | None) -> tuple[bytes, bytes]:
        """Have the plant that a message is for answer it.

        Args:
            parcel: The message.
            body: Its tensors; None if they are among the last `BODIES` that came.

        Returns:
            The reply, and its tensors.
        """
        asked = pb.Parcel.FromString(parcel)
        if body is not None:
            kept = list(self._bodies.items())[1 - BODIES :]
            self._bodies = dict(kept) | {asked.body.sha256: from_bytes(body)}
        request = from_parcel(asked, self._bodies[asked.body.sha256])
        reply = self._apps[asked.destination](request, context(asked.destination, asked.run_id, {}, {}))
        update = to_bytes(tensors_of(reply.content)) if reply.has_content() else b""
        return to_parcel(reply, None).SerializeToString(), update


_host: list[Host] = []


def start(*words: Any) -> None:
    """Make this process's host; see `Host`. It ends with the process that started it."""
    processes.follow_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it is told, and ends it
    _host.append(Host(*words))


def answer(parcel: bytes, body: bytes | None) -> tuple[bytes, bytes]:
    """Call this process's host; see `Host.answer`."""
    return _host[-1].answer(parcel, body)
