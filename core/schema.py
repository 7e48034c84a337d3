"""The three configuration files as dataclasses, in one place: task.yaml, plant.yaml, federation.yaml.

`interplant.core.config.load` reads a file into one of them and refuses unknown keys, wrong types and
impossible values with file, line and key. Each ``check`` raises `Impossible` with a dotted key.
"""

from interplant.core.automation_config import ACTIONS, REASONS, TOLD, Automation, PlantAutomation
from interplant.core.cases import Case
from interplant.core.contract import Contract
from interplant.core.federation_config import (
    CODECS,
    ORDERS,
    Certificates,
    Compression,
    Federation,
    Rounds,
)
from interplant.core.plant_config import (
    DATA_REFUSALS,
    SOURCES,
    Connection,
    Drift,
    Plant,
    PlantData,
    Policy,
    PrivacyPolicy,
    ReleasePolicy,
    Serving,
    Source,
    TrainerSettings,
)
from interplant.core.targets import Target
from interplant.core.task_config import (
    BAND,
    CLIPPINGS,
    FEATURES,
    MECHANISMS,
    METRICS,
    PRIVATE,
    UNITS,
    Metric,
    Model,
    Privacy,
    Split,
    Stopping,
    Strategy,
    Task,
    Training,
    Window,
)

__all__ = [
    "ACTIONS",
    "BAND",
    "CLIPPINGS",
    "CODECS",
    "DATA_REFUSALS",
    "FEATURES",
    "MECHANISMS",
    "METRICS",
    "ORDERS",
    "PRIVATE",
    "REASONS",
    "SOURCES",
    "TOLD",
    "UNITS",
    "Automation",
    "Case",
    "Certificates",
    "Compression",
    "Connection",
    "Contract",
    "Drift",
    "Federation",
    "Metric",
    "Model",
    "Plant",
    "PlantAutomation",
    "PlantData",
    "Policy",
    "Privacy",
    "PrivacyPolicy",
    "ReleasePolicy",
    "Rounds",
    "Serving",
    "Source",
    "Split",
    "Stopping",
    "Strategy",
    "Target",
    "Task",
    "TrainerSettings",
    "Training",
    "Window",
]
