"""The three configuration files as dataclasses: task.yaml, plant.yaml, federation.yaml.

`interplant.core.config.load` reads a file into one of them and refuses unknown keys, wrong types and
impossible values with file, line and key. Each ``check`` raises `Impossible` with a dotted key.
"""

import os.path
import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from interplant.core.contract import Contract
from interplant.core.possible import address, between, count, is_name, need, one_of
from interplant.core.targets import EVENT, LOSSES, Target

PRIVATE = "dp-sgd"
MECHANISMS = (PRIVATE, "dp-sgd-test", "none")
"""How a task trains; only the first is private."""

DATA_REFUSALS = ("declared", "billed")
UNITS = ("row", "window", "unit")
"""What one neighbour differs by, from the smallest to the largest; a unit is a machine, engine or lot."""

CLIPPINGS = ("norm", "normalised")
"""How a unit's gradient is bounded: scaled down if it is longer than ``clip``, or always to about it."""


FEATURES = ("mean", "std", "slope", "min", "max")
"""What can be computed of each window's inputs in place of their readings; and spectral bands."""

BAND = re.compile(r"band([1-9][0-9]{0,3})")

ORDERS = ("arrival", "plants")
"""In which order updates are folded: as they come, or by the plants' names."""

CODECS = ("bf16", "int8", "top_k")
"""How arrays can travel in fewer bytes; see `interplant.core.compression`."""

METRICS = ("loss", "units")
"""What may leave a plant beside the update: the incoming model's mean loss, the number of privacy units."""


# --- task.yaml -------------------------------------------------------------------------------------


@dataclass
class Window:
    """How readings become training windows; ``features``, if any, take the place of a window's readings.

    Each is computed of every input, from the window alone: one of `FEATURES`, or ``band1``, ``band2`` and so
    on, the parts of the spectrum (see `interplant.data.features`).
    """

    length: int = 30
    stride: int = 1
    features: list[str] = field(default_factory=list)

    @property
    def bands(self) -> int:
        """Equal bands in which the spectrum is cut: the highest number among ``features``; 0 for none."""
        return max((int(name[4:]) for name in self.features if BAND.fullmatch(name)), default=0)

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        count(self.length, 100_000, "window.length")
        need(self.stride >= 1, "window.stride", f"expected 1 or more, found {self.stride}")
        for name in self.features:
            need(
                name in FEATURES or bool(BAND.fullmatch(name)),
                "window.features",
                f"expected {', '.join(FEATURES)} or band1, band2 and so on, found {name!r}",
            )
        need(
            len(set(self.features)) == len(self.features),
            "window.features",
            f"expected each once, found {self.features}",
        )
        need(
            self.bands <= self.length // 2,
            "window.features",
            f"expected at most {self.length // 2} bands in windows of {self.length}, found {self.bands}",
        )


@dataclass
class Split:
    """Which of a store's readings are held out for the gate, never trained on; never single readings.

    ``by``: ``unit`` holds out whole machines, chosen by their names alone, so that a machine stays where it
    is as others come; ``time`` holds out the end of each machine's record. ``holdout`` is the share.
    """

    by: str = "unit"
    holdout: float = 0.2


@dataclass
class Model:
    """A registered name or a dotted path to an installed ``nn.Module``, and its arguments."""

    name: str = "cnn1d"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class Training:
    """What a plant does in one round; ``loss`` must be one that fits the target's kind."""

    steps: int = 100
    batch: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    loss: str = "mse"


@dataclass
class Privacy:
    """How training is made private. ``clip`` is an L2 norm; ``noise`` multiplies it.

    ``unit`` is what one neighbour differs by; ``training.batch`` counts it. A machine (``unit: unit``)
    gives a step the mean gradient of at most ``windows_per_unit`` of its windows, clipped once.

    ``dp-sgd-test`` draws the noise from the task's seed: a run can be repeated, and nothing is private.

    ``engine`` changes speed, never what is charged: ``onepass`` and ``auto`` compute private steps in one
    pass where the model's layers allow it, and with Opacus elsewhere, which ``onepass`` warns of.
    """

    mechanism: str = "dp-sgd"
    engine: str = "auto"
    unit: str = "window"
    windows_per_unit: int = 8
    clipping: str = "norm"
    clip: float = 1.0
    noise: float = 1.0
    delta: float = 1e-5

    @property
    def private(self) -> bool:
        """Whether what leaves a plant is protected; what is not must be allowed by the plant's policy."""
        return self.mechanism == PRIVATE


@dataclass
class Strategy:
    """How updates merge: the name of a file in ``strategies/``, or of an installed one, and its arguments."""

    name: str = "fedavg"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class Metric:
    """A number beside the update, with a mechanism and a charge of its own; ``none`` switches it off.

    Each privacy unit's value is clipped to 0 to ``bound``; ``noise`` multiplies it. The unit of
    ``loss`` is the training loss's, on targets as the model predicts them: from 0 to 1, or log-odds.
    """

    mechanism: str = "noised"
    bound: float = 1.0
    noise: float = 20.0


@dataclass
class Task:
    """What is learned. Configuration only: no code crosses."""

    name: str = MISSING
    rounds: int = 10
    seed: int = 0
    contract: Contract = field(default_factory=Contract)
    window: Window = field(default_factory=Window)
    split: Split = field(default_factory=Split)
    target: Target = field(default_factory=Target)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    privacy: Privacy = field(default_factory=Privacy)
    strategy: Strategy = field(default_factory=Strategy)
    metrics: dict[str, Metric] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Number of input channels of the model: settings and sensors, or the features of each."""
        inputs = len(self.contract.settings) + len(self.contract.sensors)
        return inputs * max(1, len(self.window.features))

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of one input of the model: channels and readings; of features there is one each."""
        return self.channels, 1 if self.window.features else self.window.length

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(
            is_name(self.name),
            "name",
            f"expected letters, digits and hyphens, found {self.name!r}",
        )
        need(self.rounds >= 1, "rounds", f"expected 1 or more, found {self.rounds}")
        self.contract.check("contract.")
        self.window.check()
        one_of(self.split.by, ("unit", "time"), "split.by")
        between(self.split.holdout, 0.01, 0.9, "split.holdout")
        self.target.check()
        training, privacy = self.training, self.privacy
        count(training.steps, 100_000, "training.steps")
        need(training.batch >= 1, "training.batch", f"expected 1 or more, found {training.batch}")
        need(
            training.learning_rate > 0,
            "training.learning_rate",
            f"expected more than 0, found {training.learning_rate}",
        )
        one_of(training.optimizer, ("adam", "sgd"), "training.optimizer")
        need(
            training.loss in LOSSES[self.target.kind],
            "training.loss",
            f"expected {' or '.join(LOSSES[self.target.kind])} for target.kind {self.target.kind}, "
            f"found {training.loss!r}",
        )
        one_of(privacy.mechanism, MECHANISMS, "privacy.mechanism")
        one_of(privacy.engine, ("auto", "onepass", "opacus"), "privacy.engine")
        one_of(privacy.unit, UNITS, "privacy.unit")
        one_of(privacy.clipping, CLIPPINGS, "privacy.clipping")
        count(privacy.windows_per_unit, 10_000, "privacy.windows_per_unit")
        need(
            privacy.unit != "row" or self.window.stride >= self.window.length,
            "privacy.unit",
            f"expected windows that share no row (window.stride of {self.window.length} or more), found "
            f"stride {self.window.stride}: a row would count in many windows; count by window or by unit",
        )
        need(
            privacy.unit != "row" or not self.contract.hold,
            "privacy.unit",
            "expected values that are not held over (contract.hold: 0): one reading's would stand in many "
            "rows; count by window or by unit",
        )
        need(
            privacy.unit != "row" or self.target.kind != EVENT or self.target.horizon == 0,
            "privacy.unit",
            f"expected target.horizon 0, found {self.target.horizon:g}: a row would tell the labels of many "
            "windows; count by window or by unit",
        )
        # Far outside, single precision and the accountants have no digits left.
        between(privacy.clip, 1e-6, 1e6, "privacy.clip")
        between(privacy.noise, 0.01, 1000.0, "privacy.noise")
        need(
            0 < privacy.delta < 1,
            "privacy.delta",
            f"expected a probability between 0 and 1, found {privacy.delta}",
        )
        for name, metric in self.metrics.items():
            _check_metric(name, metric)


# --- plant.yaml ------------------------------------------------------------------------------------


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


@dataclass
class ReleasePolicy:
    """When a release may serve (``approval``), and what the coordinator learns of it (``report``)."""

    approval: str = "person"
    margin: float = 0.05
    report: str = "nothing"


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


@dataclass
class Drift:
    """How live readings are held against the champion's snapshot; see `interplant.data.drift`.

    ``window`` counts readings, of all machines together. ``false_alarms`` is how many of 10 000 windows may
    alarm by chance, over all sensors and tests together.
    """

    window: int = 100
    false_alarms: float = 1.0

    def check(self, prefix: str = "") -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(
            10 <= self.window <= 1_000_000,
            f"{prefix}window",
            f"expected 10 to 1000000 readings, found {self.window}",
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
        one_of(release.approval, ("person", "auto"), "policy.release.approval")
        one_of(release.report, ("nothing", "verdict"), "policy.release.report")
        need(
            release.margin >= 0,
            "policy.release.margin",
            f"expected 0 or more, found {release.margin}",
        )
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
        need(self.trainer.threads >= 1, "trainer.threads", "expected 1 or more")
        need(0 <= self.trainer.nice <= 19, "trainer.nice", "expected 0 to 19")
        need(self.trainer.idle_seconds > 0, "trainer.idle_seconds", "expected more than 0")
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


# --- federation.yaml -------------------------------------------------------------------------------


@dataclass
class Certificates:
    """How long certificates are valid. They renew themselves when a third of the time is left."""

    plant_hours: float = 720.0
    server_hours: float = 2160.0
    join_hours: float = 24.0


@dataclass
class Compression:
    """How arrays may travel in fewer bytes; a plant takes part in it or not, as it likes.

    ``update`` is how plants pack their updates, ``model`` how the coordinator packs the difference between
    this round's model and the last one; ``keep`` is the share of the values that ``top_k`` sends.
    """

    update: str = "none"
    model: str = "none"
    keep: float = 0.01

    @property
    def offered(self) -> bool:
        """Whether anything is offered to plants."""
        return (self.update, self.model) != ("none", "none")


@dataclass
class Rounds:
    """When a round goes on, waits or gives up.

    ``order``: with ``plants``, updates are folded by the plants' names, and the same updates give the
    same bits; with ``arrival``, each is folded as it comes, and only rounding differs.

    ``plants`` is how many updates a round wants, 0 for all plants'; a share ``spare`` more are asked, and the
    slowest of them are not waited for. Who is asked has paid for its update all the same.
    """

    quorum: int = 1
    plants: int = 0
    spare: float = 0.0
    deadline_seconds: float = 600.0
    retries: int = 5
    retry_seconds: float = 5.0
    max_update_norm: float = 1e4
    order: str = "arrival"
    compression: Compression = field(default_factory=Compression)


@dataclass
class Federation:
    """The coordinator: where it listens, what it keeps, how it runs rounds.

    ``listen`` is what the server binds; ``address`` is what plants dial.
    """

    name: str = MISSING
    listen: str = "127.0.0.1:7443"
    address: str = "127.0.0.1:7443"
    database: str = "sqlite:///registry.db"
    upload_turns: int = 2
    certificates: Certificates = field(default_factory=Certificates)
    rounds: Rounds = field(default_factory=Rounds)

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(
            is_name(self.name),
            "name",
            f"expected letters, digits and hyphens, found {self.name!r}",
        )
        address(self.listen, "listen")
        address(self.address, "address")
        need(self.upload_turns >= 1, "upload_turns", f"expected 1 or more, found {self.upload_turns}")
        for key in ("plant_hours", "server_hours", "join_hours"):
            value = getattr(self.certificates, key)
            need(value > 0, f"certificates.{key}", f"expected more than 0, found {value}")
        rounds = self.rounds
        need(rounds.quorum >= 1, "rounds.quorum", f"expected 1 or more, found {rounds.quorum}")
        for key in ("deadline_seconds", "retry_seconds", "max_update_norm"):
            value = getattr(rounds, key)
            need(value > 0, f"rounds.{key}", f"expected more than 0, found {value}")
        need(rounds.retries >= 0, "rounds.retries", f"expected 0 or more, found {rounds.retries}")
        one_of(rounds.order, ORDERS, "rounds.order")
        for key in ("update", "model"):
            one_of(getattr(rounds.compression, key), ("none", *CODECS), f"rounds.compression.{key}")
        between(rounds.compression.keep, 1e-6, 0.5, "rounds.compression.keep")
        need(
            rounds.plants == 0 or rounds.plants >= rounds.quorum,
            "rounds.plants",
            f"expected 0 (all) or no less than rounds.quorum ({rounds.quorum}), found {rounds.plants}",
        )
        between(rounds.spare, 0.0, 10.0, "rounds.spare")


def _check_metric(name: str, metric: Metric) -> None:
    key = f"metrics.{name}"
    one_of(name, METRICS, key)
    one_of(metric.mechanism, ("noised", "none"), f"{key}.mechanism")
    between(metric.bound, 1e-6, 1e6, f"{key}.bound")
    between(metric.noise, 0.01, 1000.0, f"{key}.noise")
    if name == "units":
        need(metric.bound == 1, f"{key}.bound", f"expected 1, as a unit counts once, found {metric.bound}")
