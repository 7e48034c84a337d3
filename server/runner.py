"""The round process of a coordinator: carries out runs one after another, and goes on after a kill."""

import contextlib
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import grpc

from interplant.core import federation_pb2 as pb
from interplant.core import federation_pb2_grpc as rpc
from interplant.core import logs, processes
from interplant.core.errors import InterplantError
from interplant.server.control import connect
from interplant.server.directory import CoordinatorDirectory
from interplant.server.grid import GrpcGrid
from interplant.server.merging import StrategyError
from interplant.server.packaging import Packager
from interplant.server.records import Dropped, Run
from interplant.server.registry import Registry
from interplant.server.releases import release_run
from interplant.server.replies import StoppedError
from interplant.server.rounds import QuorumError, carry_out
from interplant.server.run_folder import RunFolder
from interplant.server.stopping import learned_enough

log = logging.getLogger(__name__)


class Runner:
    """Carry out what the registry's runs say.

    Args:
        directory: The coordinator's directory.
    """

    def __init__(self, directory: CoordinatorDirectory) -> None:
        self._directory = directory
        self._registry = Registry.open(directory.path)
        self._channel = connect(directory)
        self._local = rpc.LocalStub(self._channel)
        self._bell = threading.Event()
        self._stopping = threading.Event()
        self._packager = Packager()

    def work(self) -> int:
        """Wait for the bell, carry out what is queued or was interrupted; until a polite end."""
        processes.on_stop_signals(self._stopping)
        threading.Thread(target=self._listen, daemon=True).start()
        while not self._stopping.is_set():
            if not self._bell.wait(1.0):
                continue
            self._bell.clear()
            while (run := self._next()) and not self._stopping.is_set():
                self._carry_out(run)
        return 0

    def _listen(self) -> None:
        """Hear the bell, also after the gRPC process was restarted."""
        while not self._stopping.is_set():
            try:
                for _ in self._local.Bell(pb.Empty(), wait_for_ready=True):
                    self._bell.set()
            except grpc.RpcError:
                self._stopping.wait(0.2)

    def _next(self) -> Run | None:
        """The run that was interrupted, or the oldest that a person, or a rule, has started or resumed."""
        if interrupted := self._registry.runs({"running"}):
            return interrupted[-1]
        claimed = self._registry.claim_run()
        if claimed:
            RunFolder(self._directory.runs / claimed.id).forgive()
        return claimed

    def _carry_out(self, run: Run) -> None:
        """Run the rounds that are left, then release; whatever happens is in the registry."""
        folder = RunFolder(self._directory.runs / run.id)
        try:
            self._get_ready(folder, run.round)
            made = GrpcGrid(self._directory, run.id, folder.order().run_id, self._stopping.is_set)
            with contextlib.closing(made) as grid:
                state = carry_out(
                    grid, folder, lambda record: self._tell(folder, record), lambda: self._stopped(run.id)
                )
            if folder.order().release:
                release_run(self._directory, self._registry, folder, self._packager)
                self._local.Reload(pb.Empty(), wait_for_ready=True, timeout=60)
            why = learned_enough(folder.task(), folder) if state.round < run.rounds else ""
            self._end(run.id, "finished", why, state.round)
        except (QuorumError, StrategyError) as error:
            if error.__cause__:  # whoever wrote the strategy wants to see where
                log.error("run %s pauses", run.id, exc_info=error)
            self._end(run.id, "paused", f"{error}, then `interplant run resume`")
        except StoppedError:
            log.info("run %s stops", run.id)
        except InterplantError as error:
            log.error("run %s failed: %s", run.id, error)
            self._end(run.id, "failed", str(error))
        except Exception as error:
            # A fault of ours: the run is not lost, and the next one is not held up.
            log.exception("run %s met a fault", run.id)
            self._end(run.id, "paused", f"a fault: {type(error).__name__}: {error}")
        finally:
            self._packager.end()

    def _get_ready(self, folder: RunFolder, done: int) -> None:
        """Have the packager load what it needs while the plants train the last round."""
        if folder.order().release and done >= folder.task().rounds - 1:
            self._packager.begin()

    def _end(self, run_id: str, state: str, reason: str, number: int | None = None) -> None:
        """Record how a run ended, unless a person has stopped it meanwhile: then it stays stopped."""
        if self._registry.run(run_id).state == "running":
            self._registry.update_run(run_id, state=state, reason=reason, round=number)

    def _tell(self, folder: RunFolder, record: dict[str, Any]) -> None:
        run_id = folder.path.name
        dropped = [Dropped(name, item["code"], item["text"]) for name, item in record["dropped"].items()]
        self._registry.record_round(
            run_id,
            record["round"],
            record["attempt"],
            record["participants"],
            dropped=dropped,
            seconds={"total": record["seconds"]},
        )
        if record["settled"]:
            self._registry.update_run(run_id, round=record["round"])
            self._get_ready(folder, record["round"])

    def _stopped(self, run_id: str) -> bool:
        """Look at the registry only when the bell has rung since the last look."""
        if self._stopping.is_set():
            return True
        return self._bell.is_set() and self._registry.run(run_id).state != "running"


def main(words: list[str]) -> int:
    """Run the round process of the coordinator in the directory ``words[0]``."""
    processes.follow_parent()
    logs.setup()
    return processes.ended(lambda: Runner(CoordinatorDirectory(Path(words[0]))).work(), log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
