"""``plant.yaml``: a plant's settings and its policy."""

import os.path
from dataclasses import dataclass, field
from typing import Any, Final

from omegaconf import MISSING

from interplant.core.automation_config import PlantAutomation
from interplant.core.cases import Case
from interplant.core.federation_config import CODECS
from interplant.core.possible import address, between, count, is_name, need, one_of
from interplant.core.task_config import METRICS, UNITS
from interplant.core.trial_config import Probation, Trial

DATA_REFUSALS = ("declared", "billed")


@dataclass
class PrivacyPolicy:
    """The plant's caps on privacy spent, for each dataset. Nothing from outside loosens them.

    ``epsilon`` caps all tasks together, ``tasks`` single ones; all at ``delta``. Whether readings fit a
    contract is told as it is (``data_refusals: declared``), or ``billed`` with ``refusal_noise``.
    """

    allow_none: bool = False
    units: list[str] = field(default_factory=lambda: ["window"])
    epsilon: float = 1.0
    tasks: dict[str, float] = field(default_factory=dict)
    delta: float = 1e-5
    data_refusals: str = "declared"
    refusal_noise: float = 8.0


REPORTS = ("nothing", "score", "verdict")
"""What the coordinator may learn of a release's trial, beside that the release came."""


@dataclass
class ReleasePolicy:
    """When a release may serve, and what the coordinator learns of it; see `interplant.client.gate`.

    Args:
        approval: ``person``, or ``auto``: what the gate lets pass serves.
        margin: Share by which a release's true error may exceed that of what serves now.
        confidence: Of that, one-sided, over all releases together that are tried on the same hold-out.
        local: Whether a release must also hold against a model that the plant trains on its own readings,
            without privacy, as it never leaves.
        latency_ms: The most processor time that a prediction of one window may take.
        cases: The plant's own sanity cases.
        report: One of `REPORTS`.
        score_bound: Of a score, what each privacy unit's loss is clipped to.
        score_noise: Standard deviation of its noise, as a multiple of the bound.
        rollback: Whether the coordinator's word is enough to go back to an earlier release (``obey``), or a
            ``person`` here decides.
        trial: Of a release that has passed, beside what serves.
        probation: Of a new champion; when the plant goes back by itself.
    """

    approval: str = "person"
    margin: float = 0.05
    confidence: float = 0.95
    local: bool = False
    latency_ms: float = 50.0
    cases: list[Case] = field(default_factory=list)
    report: str = "nothing"
    score_bound: float = 0.25
    score_noise: float = 8.0
    rollback: str = "person"
    trial: Trial = field(default_factory=Trial)
    probation: Probation = field(default_factory=Probation)

    def check(self, prefix: str = "") -> None:
        """Raise `Impossible` for the first value that cannot be."""
        one_of(self.approval, ("person", "auto"), f"{prefix}approval")
        one_of(self.report, REPORTS, f"{prefix}report")
        between(self.margin, 0.0, 10.0, f"{prefix}margin")
        between(self.confidence, 0.5, 0.9999, f"{prefix}confidence")
        between(self.latency_ms, 0.001, 1e6, f"{prefix}latency_ms")
        between(self.score_bound, 1e-6, 1e6, f"{prefix}score_bound")
        between(self.score_noise, 0.01, 1000.0, f"{prefix}score_noise")
        for place, case in enumerate(self.cases):
            case.check(f"{prefix}cases.{place}")
        one_of(self.rollback, ("person", "obey"), f"{prefix}rollback")
        self.trial.check(f"{prefix}trial.")
        self.probation.check(f"{prefix}probation.")


@dataclass
class Policy:
    """What the plant offers. Empty lists offer nothing; ``metrics`` names what it lets out beside updates."""

    tasks: list[str] = field(default_factory=list)
    strategies: list[str] = field(default_factory=lambda: ["fedavg"])
    models: list[str] = field(default_factory=lambda: ["cnn1d"])
    metrics: list[str] = field(default_factory=list)
    privacy: PrivacyPolicy = field(default_factory=PrivacyPolicy)
    release: ReleasePolicy = field(default_factory=ReleasePolicy)


SOURCES = ("folder", "sql", "opcua", "mqtt")
"""Where readings come from; see `interplant.data.sources`."""


@dataclass
class Source:
    """One source of readings, and how its words become the contract's.

    ``columns`` maps the source's names (columns, nodes, JSON keys) to the contract's; what is not named
    keeps its name. ``units`` gives, by the contract's column, the unit in which the source gives it, where
    that is another than the contract's. ``machine`` names the machine where the source has no column for it.
    ``args`` are the source's own; `interplant.data.sources` and its modules say which.
    """

    name: str = MISSING
    kind: str = MISSING
    machine: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)


SMALLEST_WINDOW: Final = 10

LABEL: Final = 5
"""A window has so many times fewer errors than predictions: labels are few, and come late."""


@dataclass
class Drift:
    """How what is live is held against what the champion learned from; see `interplant.data.drift`.

    ``window`` counts readings, of all machines together, or predictions. ``false_alarms`` is how many of
    10 000 windows may alarm by chance, over all sensors, tests, predictions and errors together.
    """

    window: int = 100
    false_alarms: float = 1.0

    @property
    def errors(self) -> int:
        """Errors of a window, at most."""
        return max(SMALLEST_WINDOW, self.window // LABEL)

    def check(self, prefix: str = "") -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(
            SMALLEST_WINDOW <= self.window <= 1_000_000,
            f"{prefix}window",
            f"expected {SMALLEST_WINDOW} to 1000000 readings, found {self.window}",
        )
        between(self.false_alarms, 1e-4, 1000.0, f"{prefix}false_alarms")


@dataclass
class PlantData:
    """Where the plant's data lies, and its size as the plant declares it: public, rounded, 0 if not told.

    ``machine`` and ``time`` name the columns that tell machines and times: a task cannot take others for
    them, or what it calls a machine would be no machine. ``declared_units`` is the number of machines,
    ``declared_unit_windows`` the most windows that one of them has.

    ``store`` is the folder into which ``sources`` bring readings, ``contract`` the file of the contract that
    they are held to at the door; where it is empty, ``interplant data ingest`` is told a task. ``keep`` is
    how many snapshots are kept, 0 for all; one that a release here was trained on stays.
    """

    repository: str = "data"
    store: str = "store"
    contract: str = ""
    keep: int = 0
    sources: list[Source] = field(default_factory=list)
    machine: str = "machine"
    time: str = "cycle"
    declared_windows: int = 0
    declared_units: int = 0
    declared_unit_windows: int = 0
    simulated: bool = False
    drift: Drift = field(default_factory=Drift)


@dataclass
class TrainerSettings:
    """The trainer process: threads, priority (``nice``), and when it is released."""

    threads: int = 1
    nice: int = 10
    idle_seconds: float = 600.0


@dataclass
class Serving:
    """Predictions beside the line, over HTTP; see `interplant.client.serving`.

    Args:
        listen: ``host:port``, or a port of this machine alone; empty: nothing is served.
        threads: That one run of the model takes.
        nice: Priority of the process, 0 to 19; the trainer's may not be better.
        batch: Most windows in one run of the model.
        wait_milliseconds: How long a run waits for more windows; 0: it takes those that are there.
        queue: Windows that may wait; more are refused.
        rate: Requests a second that are taken; 0: any.
        body_megabytes: Largest body of a request.
        keep: Predictions that the plant's log of them holds.
    """

    listen: str = ""
    threads: int = 1
    nice: int = 0
    batch: int = 64
    wait_milliseconds: float = 0.0
    queue: int = 4096
    rate: float = 0.0
    body_megabytes: int = 10
    keep: int = 1_000_000

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; port 0 takes one that is free."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]") or "127.0.0.1", int(port)

    def check(self, prefix: str = "") -> None:
        """Raise `Impossible` for the first value that cannot be."""
        port = self.listen.rpartition(":")[2]
        need(
            not self.listen or (port.isdigit() and int(port) < 65536),
            f"{prefix}listen",
            f"expected host:port, a port, or nothing, found {self.listen!r}",
        )
        count(self.threads, 256, f"{prefix}threads")
        need(0 <= self.nice <= 19, f"{prefix}nice", f"expected 0 to 19, found {self.nice}")
        count(self.batch, 100_000, f"{prefix}batch")
        between(self.wait_milliseconds, 0.0, 1000.0, f"{prefix}wait_milliseconds")
        count(self.queue, 10_000_000, f"{prefix}queue")
        between(self.rate, 0.0, 1e6, f"{prefix}rate")
        count(self.body_megabytes, 1000, f"{prefix}body_megabytes")
        count(self.keep, 1_000_000_000, f"{prefix}keep")


@dataclass
class Connection:
    """How the plant reaches its coordinator; ``compression`` lists the codecs in which arrays may travel."""

    coordinator: str = MISSING
    backoff_seconds: float = 0.5
    backoff_max_seconds: float = 60.0
    compression: list[str] = field(default_factory=lambda: list(CODECS))


@dataclass
class Plant:
    """One plant: its name, connection, data and policy."""

    name: str = MISSING
    federation: str = MISSING
    connection: Connection = field(default_factory=Connection)
    data: PlantData = field(default_factory=PlantData)
    policy: Policy = field(default_factory=Policy)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    serving: Serving = field(default_factory=Serving)
    automation: PlantAutomation = field(default_factory=PlantAutomation)

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(
            is_name(self.name),
            "name",
            f"expected letters, digits and hyphens, found {self.name!r}",
        )
        address(self.connection.coordinator, "connection.coordinator")
        privacy, release = self.policy.privacy, self.policy.release
        need(
            privacy.epsilon > 0,
            "policy.privacy.epsilon",
            f"expected more than 0, found {privacy.epsilon}",
        )
        need(
            0 < privacy.delta < 1,
            "policy.privacy.delta",
            f"expected a probability between 0 and 1, found {privacy.delta}",
        )
        release.check("policy.release.")
        # Another spelling of the same folder would have a budget of its own.
        need(
            os.path.normpath(self.data.repository) == self.data.repository,
            "data.repository",
            f"expected {os.path.normpath(self.data.repository)!r}, found {self.data.repository!r}",
        )
        for key in ("declared_windows", "declared_units", "declared_unit_windows"):
            size = getattr(self.data, key)
            need(size >= 0, f"data.{key}", f"expected 0 (not declared) or more, found {size}")
        need(self.data.keep >= 0, "data.keep", f"expected 0 (all) or more, found {self.data.keep}")
        self.data.drift.check("data.drift.")
        for place, source in enumerate(self.data.sources):
            key = f"data.sources.{place}"
            need(
                is_name(source.name),
                f"{key}.name",
                f"expected letters, digits and hyphens, found {source.name!r}",
            )
            one_of(source.kind, SOURCES, f"{key}.kind")
        names = [source.name for source in self.data.sources]
        twice = {name for name in names if names.count(name) > 1}
        need(not twice, "data.sources", f"expected a name once, found {sorted(twice)} twice")
        for unit in privacy.units:
            one_of(unit, UNITS, "policy.privacy.units")
        one_of(privacy.data_refusals, DATA_REFUSALS, "policy.privacy.data_refusals")
        need(
            0 < privacy.refusal_noise < float("inf"),
            "policy.privacy.refusal_noise",
            f"expected a number more than 0, found {privacy.refusal_noise}",
        )
        for name in self.policy.metrics:
            one_of(name, METRICS, "policy.metrics")
        for name, cap in privacy.tasks.items():
            need(cap > 0, f"policy.privacy.tasks.{name}", f"expected more than 0, found {cap}")
        self.automation.check()
        need(self.trainer.threads >= 1, "trainer.threads", "expected 1 or more")
        need(0 <= self.trainer.nice <= 19, "trainer.nice", "expected 0 to 19")
        need(self.trainer.idle_seconds > 0, "trainer.idle_seconds", "expected more than 0")
        self.serving.check("serving.")
        for name in ("trial", "probation"):
            need(
                not getattr(release, name).asked or bool(self.serving.listen),
                f"policy.release.{name}",
                "expected serving.listen to say where the plant serves, as a release answers beside another "
                "there; found none",
            )
        need(
            not self.serving.listen or self.serving.nice <= self.trainer.nice,
            "serving.nice",
            f"expected no more than trainer.nice ({self.trainer.nice}), so that training does not starve "
            f"serving; found {self.serving.nice}",
        )
        need(
            self.connection.backoff_seconds > 0,
            "connection.backoff_seconds",
            "expected more than 0",
        )
        need(
            self.connection.backoff_max_seconds >= self.connection.backoff_seconds,
            "connection.backoff_max_seconds",
            "expected no less than connection.backoff_seconds",
        )
        for codec in self.connection.compression:
            one_of(codec, CODECS, "connection.compression")
