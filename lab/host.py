"""A process that hosts virtual plants: what comes and goes are the messages of the wire."""

import contextlib
import gc
import multiprocessing
import signal
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from interplant.client.app import make_app
from interplant.core import federation_pb2 as pb
from interplant.core import processes
from interplant.core.flower import context
from interplant.core.schema import Plant, PlantData
from interplant.core.wire import by_record, from_bytes, from_parcel, tensors_of, to_bytes, to_parcel
from interplant.data.frames import Dataset
from interplant.data.readings import read_folder
from interplant.data.simulator import simulate
from interplant.lab.virtual import Kept, VirtualTrainer, virtual_plant

BODIES = 2
"""Bodies that a process keeps: a round's model whole, and as a difference."""

Reply = tuple[bytes, bytes]
"""A message, and its tensors."""

Share = tuple[dict[int, int], dict[int, str]]
"""The simulator's number, and the name, of each plant of a host, by node id."""


@dataclass(frozen=True)
class Recipe:
    """What a process needs to make virtual plants.

    Args:
        folder: Of all plants.
        settings: Of all plants.
        machines: Machines in a plant's record.
        seed: Of the simulator.
        threads: Of torch.
        trainer: Trains the plants.
        folders: Of each plant's readings, by its number; none are simulated machines.
        sizes: Of each plant in a folder, as it declares them.
    """

    folder: Path
    settings: Plant
    machines: int
    seed: int
    threads: int = 1
    trainer: type[VirtualTrainer] = VirtualTrainer
    folders: tuple[Path, ...] = ()
    sizes: tuple[PlantData, ...] = ()

    def readings(self, number: int) -> Dataset:
        """Read or simulate a plant's readings."""
        if self.folders:
            return read_folder(self.folders[number])
        return simulate(number, self.machines, self.seed)

    def settings_of(self, number: int) -> Plant:
        """Return a plant's settings."""
        return replace(self.settings, data=self.sizes[number]) if self.sizes else self.settings


class Host:
    """Virtual plants of one process.

    Args:
        recipe: How to make them.
        plants: The simulator's number of each plant, by node id.
        names: Name of each plant, by node id.
    """

    def __init__(self, recipe: Recipe, plants: dict[int, int], names: dict[int, str]) -> None:
        kept = Kept()
        self._apps: dict[int, ClientApp] = {}
        for node, number in plants.items():
            make = partial(recipe.readings, number)
            plant = virtual_plant(recipe.folder, names[node], recipe.settings_of(number), make)
            self._apps[node] = make_app(plant, recipe.trainer(plant, kept))
        self._bodies: dict[str, dict[str, ArrayRecord]] = {}

    def answer(self, parcel: bytes, body: bytes | None) -> Reply:
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
            self._bodies = dict(kept) | {asked.body.sha256: by_record(from_bytes(body))}
        request = from_parcel(asked, {}, self._bodies[asked.body.sha256])
        reply = self._apps[asked.destination](request, context(asked.destination, asked.run_id, {}, {}))
        update = to_bytes(tensors_of(reply.content)) if reply.has_content() else b""
        return to_parcel(reply, None).SerializeToString(), update


def serve(pipes: list[Connection], ends: list[Connection], recipe: Recipe, shares: list[Share]) -> None:
    """Serve one host in this process and the others in copies of it: what takes seconds is loaded once.

    Args:
        pipes: One for each host: from it the requests, to it None when it is ready, or why it could not be
            made, then the replies, in the order of the requests. A host ends when the other end is closed.
        ends: The other ends, which are not ours: while they are open here, nobody would hear them close.
        recipe: See `Host`.
        shares: Plants and names of each host.
    """
    processes.follow_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it is told, and ends it
    for end in ends:
        end.close()
    recipe.trainer.load(recipe.threads)
    gc.freeze()  # what is loaded stays: Python's collector need not go through it again and again
    copies = multiprocessing.get_context("fork")  # there are no threads yet
    for one in range(1, len(pipes)):
        copies.Process(target=_serve, args=(one, pipes, recipe, shares)).start()
    _serve(0, pipes, recipe, shares)


def _serve(one: int, pipes: list[Connection], recipe: Recipe, shares: list[Share]) -> None:
    processes.follow_parent()
    for other in pipes[:one] + pipes[one + 1 :]:
        other.close()  # or nobody would hear that its host has died
    try:
        made = Host(recipe, *shares[one])
    except Exception as error:  # noqa: BLE001 # who started it is told
        pipes[one].send(error)
        return
    with contextlib.suppress(EOFError, OSError):  # the other end has gone
        pipes[one].send(None)
        while True:
            pipes[one].send(made.answer(*pipes[one].recv()))
