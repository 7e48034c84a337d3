"""The three configuration files as dataclasses: task.yaml, plant.yaml, federation.yaml.

`interplant.core.config.load` reads a file into one of them and refuses unknown keys, wrong types and
impossible values with file, line and key. Each ``check`` raises `Impossible` with a dotted key.
"""

import os.path
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

PRIVATE = "dp-sgd"
MECHANISMS = (PRIVATE, "dp-sgd-test", "none")
"""How a task trains; only the first is private."""

DATA_REFUSALS = ("declared", "billed")
UNITS = ("row", "window", "unit")
"""What one neighbour differs by, from the smallest to the largest; a unit is a machine, engine or lot."""

CLIPPINGS = ("norm", "normalised")
"""How a unit's gradient is bounded: scaled down if it is longer than ``clip``, or always to about it."""


ORDERS = ("arrival", "plants")
"""In which order updates are folded: as they come, or by the plants' names."""

CODECS = ("bf16", "int8", "top_k")
"""How arrays can travel in fewer bytes; see `interplant.core.compression`."""

METRICS = ("loss", "units")
"""What may leave a plant beside the update: the incoming model's mean loss, the number of privacy units."""


class Impossible(ValueError):
    """A value that has the right type and cannot be.

    Args:
        key: Dotted key in the file.
        expected: What would be possible, and what was found.
    """

    def __init__(self, key: str, expected: str) -> None:
        self.key = key
        super().__init__(expected)


def _need(condition: bool, key: str, expected: str) -> None:
    if not condition:
        raise Impossible(key, expected)


# --- task.yaml -------------------------------------------------------------------------------------


@dataclass
class Column:
    """One input column: its unit and the public range that also normalises it."""

    unit: str = MISSING
    low: float = MISSING
    high: float = MISSING


@dataclass
class Condition:
    """An operating condition: where its settings lie, and the public range of each sensor in it."""

    name: str = MISSING
    centre: dict[str, float] = field(default_factory=dict)
    # Pairs [low, high]; `Task.check` looks at them, since OmegaConf takes no 200 for a nested float.
    ranges: dict[str, Any] = field(default_factory=dict)


@dataclass
class Contract:
    """What a valid reading is. Ranges are declared public; nothing here is computed from data."""

    version: int = 1
    machine: str = "machine"
    time: str = "cycle"
    label: str = "rul"
    settings: dict[str, Column] = field(default_factory=dict)
    sensors: dict[str, Column] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)


@dataclass
class Target:
    """What is predicted: the contract's label, capped and divided by ``cap``."""

    cap: float = 125.0


@dataclass
class Window:
    """How readings become training windows."""

    length: int = 30
    stride: int = 1


@dataclass
class Model:
    """A registered name or a dotted path to an installed ``nn.Module``, and its arguments."""

    name: str = "cnn1d"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class Training:
    """What a plant does in one round."""

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
    ``loss`` is the training loss's, on targets divided by ``target.cap``.
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
    target: Target = field(default_factory=Target)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    privacy: Privacy = field(default_factory=Privacy)
    strategy: Strategy = field(default_factory=Strategy)
    metrics: dict[str, Metric] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Number of input channels of the model: settings and sensors."""
        return len(self.contract.settings) + len(self.contract.sensors)

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        _need(
            _is_name(self.name),
            "name",
            f"expected letters, digits and hyphens, found {self.name!r}",
        )
        _need(self.rounds >= 1, "rounds", f"expected 1 or more, found {self.rounds}")
        self._check_contract()
        _count(self.window.length, 100_000, "window.length")
        _need(
            self.window.stride >= 1,
            "window.stride",
            f"expected 1 or more, found {self.window.stride}",
        )
        _need(self.target.cap > 0, "target.cap", f"expected more than 0, found {self.target.cap}")
        training, privacy = self.training, self.privacy
        _count(training.steps, 100_000, "training.steps")
        _need(training.batch >= 1, "training.batch", f"expected 1 or more, found {training.batch}")
        _need(
            training.learning_rate > 0,
            "training.learning_rate",
            f"expected more than 0, found {training.learning_rate}",
        )
        _one_of(training.optimizer, ("adam", "sgd"), "training.optimizer")
        _one_of(training.loss, ("mse", "huber"), "training.loss")
        _one_of(privacy.mechanism, MECHANISMS, "privacy.mechanism")
        _one_of(privacy.engine, ("auto", "onepass", "opacus"), "privacy.engine")
        _one_of(privacy.unit, UNITS, "privacy.unit")
        _one_of(privacy.clipping, CLIPPINGS, "privacy.clipping")
        _count(privacy.windows_per_unit, 10_000, "privacy.windows_per_unit")
        _need(
            privacy.unit != "row" or self.window.stride >= self.window.length,
            "privacy.unit",
            f"expected windows that share no row (window.stride of {self.window.length} or more), found "
            f"stride {self.window.stride}: a row would count in many windows; count by window or by unit",
        )
        # Far outside, single precision and the accountants have no digits left.
        _between(privacy.clip, 1e-6, 1e6, "privacy.clip")
        _between(privacy.noise, 0.01, 1000.0, "privacy.noise")
        _need(
            0 < privacy.delta < 1,
            "privacy.delta",
            f"expected a probability between 0 and 1, found {privacy.delta}",
        )
        for name, metric in self.metrics.items():
            _check_metric(name, metric)

    def _check_contract(self) -> None:
        contract = self.contract
        _need(bool(contract.sensors), "contract.sensors", "expected at least one sensor, found none")
        for group in ("settings", "sensors"):
            for name, column in getattr(contract, group).items():
                _need(
                    column.low < column.high,
                    f"contract.{group}.{name}",
                    f"expected low < high, found {column.low} and {column.high}",
                )
        inputs = set(contract.settings) | set(contract.sensors)
        for reserved in (contract.machine, contract.time, contract.label):
            _need(
                reserved not in inputs,
                "contract.sensors",
                f"expected inputs only, found {reserved!r}, which is the machine, time or label",
            )
        for index, condition in enumerate(contract.conditions):
            key = f"contract.conditions.{index}"
            _need(
                set(condition.centre) == set(contract.settings),
                f"{key}.centre",
                f"expected one value for each of {sorted(contract.settings)}, "
                f"found {sorted(condition.centre)}",
            )
            for name, ends in condition.ranges.items():
                _need(name in contract.sensors, f"{key}.ranges", f"{name!r} is not a sensor")
                _need(
                    _is_range(ends),
                    f"{key}.ranges.{name}",
                    f"expected [low, high] with low < high, found {ends!r}",
                )


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


@dataclass
class PlantData:
    """Where the plant's data lies, and its size as the plant declares it: public, rounded, 0 if not told.

    ``machine`` and ``time`` name the columns that tell machines and times: a task cannot take others for
    them, or what it calls a machine would be no machine. ``declared_units`` is the number of machines,
    ``declared_unit_windows`` the most windows that one of them has.
    """

    repository: str = "data"
    machine: str = "machine"
    time: str = "cycle"
    declared_windows: int = 0
    declared_units: int = 0
    declared_unit_windows: int = 0
    simulated: bool = False


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
        _need(
            _is_name(self.name),
            "name",
            f"expected letters, digits and hyphens, found {self.name!r}",
        )
        _address(self.connection.coordinator, "connection.coordinator")
        privacy, release = self.policy.privacy, self.policy.release
        _need(
            privacy.epsilon > 0,
            "policy.privacy.epsilon",
            f"expected more than 0, found {privacy.epsilon}",
        )
        _need(
            0 < privacy.delta < 1,
            "policy.privacy.delta",
            f"expected a probability between 0 and 1, found {privacy.delta}",
        )
        _one_of(release.approval, ("person", "auto"), "policy.release.approval")
        _one_of(release.report, ("nothing", "verdict"), "policy.release.report")
        _need(
            release.margin >= 0,
            "policy.release.margin",
            f"expected 0 or more, found {release.margin}",
        )
        # Another spelling of the same folder would have a budget of its own.
        _need(
            os.path.normpath(self.data.repository) == self.data.repository,
            "data.repository",
            f"expected {os.path.normpath(self.data.repository)!r}, found {self.data.repository!r}",
        )
        for key in ("declared_windows", "declared_units", "declared_unit_windows"):
            size = getattr(self.data, key)
            _need(size >= 0, f"data.{key}", f"expected 0 (not declared) or more, found {size}")
        for unit in privacy.units:
            _one_of(unit, UNITS, "policy.privacy.units")
        _one_of(privacy.data_refusals, DATA_REFUSALS, "policy.privacy.data_refusals")
        _need(
            0 < privacy.refusal_noise < float("inf"),
            "policy.privacy.refusal_noise",
            f"expected a number more than 0, found {privacy.refusal_noise}",
        )
        for name in self.policy.metrics:
            _one_of(name, METRICS, "policy.metrics")
        for name, cap in privacy.tasks.items():
            _need(cap > 0, f"policy.privacy.tasks.{name}", f"expected more than 0, found {cap}")
        _need(self.trainer.threads >= 1, "trainer.threads", "expected 1 or more")
        _need(0 <= self.trainer.nice <= 19, "trainer.nice", "expected 0 to 19")
        _need(self.trainer.idle_seconds > 0, "trainer.idle_seconds", "expected more than 0")
        _need(
            self.connection.backoff_seconds > 0,
            "connection.backoff_seconds",
            "expected more than 0",
        )
        _need(
            self.connection.backoff_max_seconds >= self.connection.backoff_seconds,
            "connection.backoff_max_seconds",
            "expected no less than connection.backoff_seconds",
        )
        for codec in self.connection.compression:
            _one_of(codec, CODECS, "connection.compression")


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
        _need(
            _is_name(self.name),
            "name",
            f"expected letters, digits and hyphens, found {self.name!r}",
        )
        _address(self.listen, "listen")
        _address(self.address, "address")
        _need(self.upload_turns >= 1, "upload_turns", f"expected 1 or more, found {self.upload_turns}")
        for key in ("plant_hours", "server_hours", "join_hours"):
            value = getattr(self.certificates, key)
            _need(value > 0, f"certificates.{key}", f"expected more than 0, found {value}")
        rounds = self.rounds
        _need(rounds.quorum >= 1, "rounds.quorum", f"expected 1 or more, found {rounds.quorum}")
        for key in ("deadline_seconds", "retry_seconds", "max_update_norm"):
            value = getattr(rounds, key)
            _need(value > 0, f"rounds.{key}", f"expected more than 0, found {value}")
        _need(rounds.retries >= 0, "rounds.retries", f"expected 0 or more, found {rounds.retries}")
        _one_of(rounds.order, ORDERS, "rounds.order")
        for key in ("update", "model"):
            _one_of(getattr(rounds.compression, key), ("none", *CODECS), f"rounds.compression.{key}")
        _between(rounds.compression.keep, 1e-6, 0.5, "rounds.compression.keep")
        _need(
            rounds.plants == 0 or rounds.plants >= rounds.quorum,
            "rounds.plants",
            f"expected 0 (all) or no less than rounds.quorum ({rounds.quorum}), found {rounds.plants}",
        )
        _between(rounds.spare, 0.0, 10.0, "rounds.spare")


def _check_metric(name: str, metric: Metric) -> None:
    key = f"metrics.{name}"
    _one_of(name, METRICS, key)
    _one_of(metric.mechanism, ("noised", "none"), f"{key}.mechanism")
    _between(metric.bound, 1e-6, 1e6, f"{key}.bound")
    _between(metric.noise, 0.01, 1000.0, f"{key}.noise")
    if name == "units":
        _need(metric.bound == 1, f"{key}.bound", f"expected 1, as a unit counts once, found {metric.bound}")


def _is_range(ends: Any) -> bool:
    if not isinstance(ends, list) or [type(end) for end in ends if type(end) not in (int, float)]:
        return False
    return len(ends) == 2 and bool(ends[0] < ends[1])


def _is_name(text: str) -> bool:
    return 0 < len(text) <= 63 and text.isascii() and text.replace("-", "a").isalnum()


def _one_of(value: str, allowed: tuple[str, ...], key: str) -> None:
    _need(value in allowed, key, f"expected one of {', '.join(allowed)}, found {value!r}")


def _count(value: int, most: int, key: str) -> None:
    _need(value >= 1, key, f"expected 1 or more, found {value}")
    _need(value <= most, key, f"expected at most {most}, found {value}")


def _between(value: float, low: float, high: float, key: str) -> None:
    _need(low <= value <= high, key, f"expected {low:g} to {high:g}, found {value}")


def _address(text: str, key: str) -> None:
    host, _, port = text.rpartition(":")
    good = bool(host) and port.isdigit() and 0 < int(port) < 65536
    _need(good, key, f"expected host:port, found {text!r}")
