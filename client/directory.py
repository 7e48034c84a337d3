"""Where everything of a plant lies."""

import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from interplant.core import config
from interplant.core.errors import UsageError
from interplant.core.schema import Plant

if TYPE_CHECKING:
    from interplant.data.repository import Repository


@dataclass(frozen=True)
class TlsFiles:
    """What the plant shows and trusts on its connection: PEM files."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class PlantDirectory:
    """A folder that `interplant.client.joining` has made."""

    path: Path

    @cached_property
    def config(self) -> Path:
        """``plant.yaml``: settings and policy."""
        return self.path / "plant.yaml"

    @cached_property
    def keys(self) -> Path:
        """Secrets of the plant, and what it trusts."""
        return self.path / "keys"

    @cached_property
    def plant_key(self) -> Path:
        """Private key of the plant's connection; it never leaves."""
        return self.keys / "plant.key"

    @cached_property
    def plant_certificate(self) -> Path:
        """Certificate of the plant's connection."""
        return self.keys / "plant.crt"

    @cached_property
    def ca_certificate(self) -> Path:
        """Certificate of the federation's authority: the trust root."""
        return self.keys / "ca.crt"

    @cached_property
    def release_public_key(self) -> Path:
        """Public key that checks releases."""
        return self.keys / "release.pub"

    @cached_property
    def snapshot_key(self) -> Path:
        """32 secret bytes under which snapshots are known outside; they never leave."""
        return self.keys / "snapshot.key"

    @cached_property
    def tls_files(self) -> TlsFiles:
        """The three files of the plant's connection."""
        return TlsFiles(self.ca_certificate, self.plant_certificate, self.plant_key)

    @cached_property
    def data(self) -> Path:
        """The plant's data: a Git and DVC repository, unless ``plant.yaml`` names another."""
        return self.path / "data"

    @cached_property
    def remote(self) -> Path:
        """The data's local DVC remote."""
        return self.path / "remote"

    @cached_property
    def ledger(self) -> Path:
        """Durable record of privacy spent."""
        return self.path / "ledger.db"

    @cached_property
    def receipt(self) -> Path:
        """The receipt that this plant signed last."""
        return self.path / "receipt.json"

    @cached_property
    def told_receipt(self) -> Path:
        """The last receipt of this plant, as the coordinator has it."""
        return self.path / "receipt-told.json"

    @cached_property
    def outbox(self) -> Path:
        """Replies that the coordinator has not taken yet."""
        return self.path / "outbox"

    @cached_property
    def compression(self) -> Path:
        """By run: the model held, and what packing left of updates; see `interplant.client.compression`."""
        return self.path / "compression"

    @cached_property
    def releases(self) -> Path:
        """One folder a release."""
        return self.path / "releases"

    @cached_property
    def release_history(self) -> Path:
        """What became of releases here, line by line; see `interplant.client.history`. It stays here."""
        return self.releases / "history.jsonl"

    @cached_property
    def told_releases(self) -> Path:
        """What the coordinator was told of them; see `interplant.client.reports`."""
        return self.releases / "told.json"

    @cached_property
    def releases_lock(self) -> Path:
        """Held while somebody decides about releases; see `interplant.client.verdicts.deciding`."""
        return self.releases / ".lock"

    @cached_property
    def champion(self) -> Path:
        """Which release serves now; see `interplant.client.champion`."""
        return self.path / "champion.json"

    @cached_property
    def challenger(self) -> Path:
        """Which release answers beside it, if any."""
        return self.path / "challenger.json"

    @cached_property
    def tally(self) -> Path:
        """What serving counts of the challenger; see `interplant.client.tally`. It stays here."""
        return self.path / "trial.json"

    @cached_property
    def audit(self) -> Path:
        """What left the plant, line by line."""
        return self.path / "audit.jsonl"

    @cached_property
    def rounds(self) -> Path:
        """The plant's own record of its rounds, line by line; it stays here."""
        return self.path / "rounds.jsonl"

    @cached_property
    def trained(self) -> Path:
        """Which runs have trained on which snapshots; see `interplant.client.learned`. It stays here."""
        return self.path / "trained.jsonl"

    @cached_property
    def fetched(self) -> Path:
        """Blobs on their way in, and arrays between agent and trainer."""
        return self.path / "fetched"

    @cached_property
    def windows(self) -> Path:
        """By snapshot and task: the windows of a store's readings; see `interplant.data.mapped`."""
        return self.path / "windows"

    @cached_property
    def paused(self) -> Path:
        """While this file is there the plant takes part in no round; see `interplant.client.policy`."""
        return self.path / "paused"

    @cached_property
    def terms(self) -> Path:
        """What each private task asked of the data when it first came; see `interplant.client.policy`."""
        return self.path / "terms.json"

    @cached_property
    def answers(self) -> Path:
        """Whether snapshots fit contracts, as told under differential privacy; see `quality`."""
        return self.path / "answers.json"

    @cached_property
    def tries(self) -> Path:
        """How often the hold-out was asked; see `interplant.client.tries`."""
        return self.path / "tries"

    @cached_property
    def local_models(self) -> Path:
        """Models that the plant trained on its own readings; they never leave."""
        return self.path / "local"

    @cached_property
    def drift(self) -> Path:
        """What the drift monitor knows and remembers: numbers about data, which never leave."""
        return self.path / "drift"

    @cached_property
    def drift_events(self) -> Path:
        """Drifts that began, line by line; they stay here."""
        return self.path / "drift.jsonl"

    @cached_property
    def drift_now(self) -> Path:
        """What drifts now from what the champion learned from; see `interplant.client.standing`."""
        return self.drift / "now.json"

    @cached_property
    def serving(self) -> Path:
        """Where serving listens and what serves; see `interplant.client.serving_status`."""
        return self.path / "serving.json"

    @cached_property
    def hung(self) -> Path:
        """Releases that did not end a run while they served; see `interplant.client.watchdog`."""
        return self.path / "serving-hung.json"

    @cached_property
    def models(self) -> Path:
        """The champion as MLServer and Triton read it; see `interplant.client.model_repository`."""
        return self.path / "serving" / "models"

    @cached_property
    def serving_lock(self) -> Path:
        """Held by the process that serves predictions."""
        return self.path / "serving.lock"

    @cached_property
    def predictions(self) -> Path:
        """What was predicted here, and labels that came; see `interplant.client.predictions`."""
        return self.path / "predictions.db"

    @cached_property
    def proposals(self) -> Path:
        """Proposals that the coordinator has not heard yet; see `interplant.client.proposals`."""
        return self.path / "proposals"

    @cached_property
    def told_runs(self) -> Path:
        """By task how many more runs the budget pays, as the coordinator has heard last."""
        return self.path / "told-runs.json"

    @cached_property
    def looked(self) -> Path:
        """Up to where the plant's data has been looked at; see `interplant.client.looking`."""
        return self.path / "looked.json"

    @cached_property
    def look_begun(self) -> Path:
        """There while a look at the plant's data is not over; one that was killed is made again."""
        return self.path / "look.begun"

    @cached_property
    def automation(self) -> Path:
        """What the plant did, or did not do, of its own accord, and why, line by line; it stays here."""
        return self.path / "automation.jsonl"

    @cached_property
    def runway(self) -> Path:
        """How many more runs the budget pays, kept because computing it takes seconds."""
        return self.path / "runway.json"

    @cached_property
    def serve_lock(self) -> Path:
        """Held by `plant serve`."""
        return self.path / "serve.lock"

    @cached_property
    def connection(self) -> Path:
        """What the agent last noted of its connection."""
        return self.path / "connection.json"

    @cached_property
    def spending(self) -> Path:
        """Figures computed from the ledger, kept because computing them takes seconds."""
        return self.path / "spent.json"

    @cached_property
    def trainer_log(self) -> Path:
        """Log of the trainer process."""
        return self.path / "trainer.log"

    @cached_property
    def agent_log(self) -> Path:
        """Log of the agent process."""
        return self.path / "agent.log"

    def load(self) -> Plant:
        """Read ``plant.yaml``.

        Raises:
            UsageError: This is no plant directory, or the file is wrong.
        """
        self.check()
        state = self.config.stat()
        return copy.deepcopy(_loaded(self.config, state.st_mtime_ns, state.st_size, state.st_ino))

    def repository(self) -> "Repository":
        """Return the plant's data repository.

        Raises:
            UsageError: There is none.
        """
        from interplant.data.repository import Repository

        return Repository(self.path / self.load().data.repository)

    def check(self) -> None:
        """Raise `UsageError` unless this is a plant directory."""
        if not self.config.is_file() or not self.keys.is_dir():
            raise UsageError(
                f"{self.path}: expected a plant directory (plant.yaml and keys/), found none; "
                "make one with `interplant plant join FILE`"
            )


def data_repository(plant: PlantDirectory) -> "Repository":
    """Open the plant's data repository; the plant's own is made, or completed after a killed join.

    Raises:
        UsageError: ``plant.yaml`` names another, and there is none.
    """
    from interplant.data.repository import Repository

    path = plant.path / plant.load().data.repository
    try:
        return Repository(path)
    except UsageError:
        if path != plant.data:
            raise
        return Repository.create(path, plant.remote)


@lru_cache(maxsize=8)
def _loaded(path: Path, changed: int, size: int, inode: int) -> Plant:
    """Read a plant.yaml that has not changed since only once; each round asks for it."""
    return config.load(path, Plant)
