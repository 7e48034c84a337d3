"""``task.yaml``: what is learned."""

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from interplant.core.cases import Case
from interplant.core.contract import Contract
from interplant.core.possible import between, count, is_name, need, one_of
from interplant.core.targets import CLASS, EVENT, LOSSES, Target

PRIVATE = "dp-sgd"

MECHANISMS = (PRIVATE, "dp-sgd-test", "none")
"""How a task trains; only the first is private."""

UNITS = ("row", "window", "unit")
"""What one neighbour differs by, from the smallest to the largest; a unit is a machine, engine or lot."""

CLIPPINGS = ("norm", "normalised")
"""How a unit's gradient is bounded: scaled down if it is longer than ``clip``, or always to about it."""

FEATURES = ("mean", "std", "slope", "min", "max")
"""What can be computed of each window's inputs in place of their readings; and spectral bands."""

BAND = re.compile(r"band([1-9][0-9]{0,3})")

METRICS = ("loss", "units")
"""What may leave a plant beside the update: the incoming model's mean loss, the number of privacy units."""


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
class Stopping:
    """When a run has learned enough to end before its last round; with ``rounds`` 0, never.

    It ends once ``metrics.loss``, noised and charged in each round, is over ``rounds`` rounds together not
    lower, by the share ``improvement``, than over as many before. What is planned is all of the run's rounds.
    """

    rounds: int = 0
    improvement: float = 0.01

    def check(self, metrics: dict[str, Metric]) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(self.rounds >= 0, "stopping.rounds", f"expected 0 or more, found {self.rounds}")
        between(self.improvement, 0.0, 0.9, "stopping.improvement")
        asked = "loss" in metrics and metrics["loss"].mechanism != "none"
        need(
            self.rounds == 0 or asked,
            "stopping.rounds",
            "expected metrics.loss beside it, noised, as what ends a run depends on data; found none",
        )


@dataclass
class Task:
    """What is learned. Configuration only: no code crosses.

    Each plant's gate asks a release the ``cases``; see `interplant.core.cases`.
    """

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
    stopping: Stopping = field(default_factory=Stopping)
    cases: list[Case] = field(default_factory=list)

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
        self._check_texts()
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
        self.stopping.check(self.metrics)
        for place, case in enumerate(self.cases):
            case.check(f"cases.{place}")
            case.check_fits(f"cases.{place}", self.contract, self.window.length, self.target)

    def _check_texts(self) -> None:
        texts, kind, classes = self.contract.texts, self.target.kind, self.target.classes
        if not texts:
            return
        need(
            kind in (CLASS, EVENT),
            "contract.texts",
            f"expected none, as a label of target.kind {kind} is a number, found {texts}",
        )
        need(
            kind != EVENT or len(texts) == 2,
            "contract.texts",
            f"expected two for target.kind event, no event and event, found {texts}",
        )
        need(
            kind != CLASS or set(classes) <= set(texts),
            "target.classes",
            f"expected some of contract.texts, {texts}, found {classes}",
        )


def _check_metric(name: str, metric: Metric) -> None:
    key = f"metrics.{name}"
    one_of(name, METRICS, key)
    one_of(metric.mechanism, ("noised", "none"), f"{key}.mechanism")
    between(metric.bound, 1e-6, 1e6, f"{key}.bound")
    between(metric.noise, 0.01, 1000.0, f"{key}.noise")
    if name == "units":
        need(metric.bound == 1, f"{key}.bound", f"expected 1, as a unit counts once, found {metric.bound}")
