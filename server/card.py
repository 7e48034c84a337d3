"""A release's model card: what the model is, where it comes from, what it cannot do. Markdown.

`interplant.server.card_html` says the same as a page with curves. Both say only what the coordinator has: the
task, what plants signed, and metrics that a plant's policy let out, noised and billed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from interplant.core import export, targets
from interplant.core.release import Lineage, Participant
from interplant.core.schema import PRIVATE, Privacy, Task


@dataclass(frozen=True)
class RoundFigures:
    """What one finished round came to.

    Args:
        round: Its number, from 1.
        plants: How many updates were merged.
        metrics: Mean of each metric over the plants that let it out.
    """

    round: int
    plants: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of.

    Args:
        task: What was learned.
        lineage: Where the model comes from.
        figures: Errors that may be published, by what they are; a time's in cycles.
        rounds: The run's rounds, in order; none where nobody kept them.
        key: The public key that signs the release, hex.
    """

    task: Task
    lineage: Lineage
    figures: Mapping[str, float] = field(default_factory=dict)
    rounds: tuple[RoundFigures, ...] = ()
    key: str = ""


NOTE = (
    "A snapshot is a keyed digest: only its plant can tell which data it is. ε is what the plant "
    "has spent on the named unit over its whole history, this run included; a machine with many "
    "windows is protected less than one window."
)
METRICS = "Metrics are means over the plants that let them out: bounded, noised and charged with the round."
NO_METRICS = "No plant let a metric out with its updates."


def warnings(lineage: Lineage) -> list[tuple[str, str]]:
    """Return what must be known before anything else: a head and a sentence each."""
    found = []
    if lineage.simulated:
        found.append(("Simulated data.", "Results say nothing about real machines."))
    if not lineage.private:
        found.append(
            (
                "Not private.",
                "At least one plant trained without a privacy mechanism; this model may reveal its data.",
            )
        )
    return found


def markdown(facts: CardFacts) -> str:
    """Return the card as Markdown."""
    task, lineage = facts.task, facts.lineage
    marks = [f"> **{head}** {text}" for head, text in warnings(lineage)]
    parts = [
        f"# Release {lineage.release}",
        *marks,
        what(task),
        _contract(task),
        _training(facts),
        _participants(lineage),
        *([_rounds(facts.rounds)] if facts.rounds else []),
        _limits(facts),
    ]
    return "\n\n".join(parts) + "\n"


def what(task: Task) -> str:
    """Return what the model predicts, and from what."""
    channels, length = task.shape
    features = ", ".join(task.window.features)
    inputs = f"the features {features} of each input, " if features else ""
    several = f", {task.target.outputs}" if task.target.outputs > 1 else ""
    return (
        f"Predicts `{task.contract.label}` of the task **{task.name}**: {_said(task)}. "
        f"Model `{task.model.name}`. Input `{export.INPUT}`, float32 (batch, {channels}, {length}), {inputs}"
        f"normalised by the contract; output `{export.OUTPUT}`, float32 (batch{several or ','}), "
        f"in {targets.unit(task.target)}."
    )


def _said(task: Task) -> str:
    """What is predicted, in words."""
    target = task.target
    return {
        targets.TIME: f"the cycles left, at most {target.cap:g}",
        targets.VALUE: f"its value at the last reading, declared to be {target.low:g} to {target.high:g}",
        targets.EVENT: "whether it is 1 at the last reading"
        + (f" or within {target.horizon:g} after it" if target.horizon else ""),
        targets.CLASS: f"which of {', '.join(map(str, target.classes))} it is at the last reading",
    }[target.kind]


def _contract(task: Task) -> str:
    inputs = {**task.contract.settings, **task.contract.sensors}
    rows = [f"| {name} | {c.unit} | {c.low:g} | {c.high:g} |" for name, c in inputs.items()]
    conditions = ", ".join(condition.name for condition in task.contract.conditions) or "one"
    head = f"## Contract (version {task.contract.version})\n\nOperating conditions: {conditions}."
    return "\n".join([head, "", "| input | unit | low | high |", "|---|---|---|---|", *rows])


def training_facts(facts: CardFacts) -> dict[str, str]:
    """Return how the model was trained, by name."""
    task, lineage = facts.task, facts.lineage
    privacy = task.privacy
    how = "none" if privacy.mechanism == "none" else _mechanism(privacy)
    return {
        "Run": lineage.run,
        "Created": lineage.created,
        "Rounds": str(lineage.rounds),
        "Engine": lineage.engine,
        "Strategy": task.strategy.name,
        "Privacy mechanism": how,
        "Code": f"interplant {lineage.version}, protocol {lineage.protocol}",
        "Task": f"{lineage.task} ({lineage.task_digest[:12]})",
        "Contract": f"version {task.contract.version}",
        "Parent release": lineage.parent or "none",
        "Signed by": f"Ed25519 key {facts.key[:16]}" if facts.key else "a key of the federation",
    }


def _training(facts: CardFacts) -> str:
    rows = [f"| {name} | {value} |" for name, value in training_facts(facts).items()]
    return "\n".join(["## How it was trained", "", "| | |", "|---|---|", *rows])


def _mechanism(privacy: Privacy) -> str:
    drawn = f", at most {privacy.windows_per_unit} windows of each" if privacy.unit == "unit" else ""
    counted = f"DP-SGD on {privacy.unit}s{drawn}, noise {privacy.noise:g}, clip {privacy.clip:g}"
    return counted if privacy.private else f"{counted}; noise from the task's seed, so **not private**"


def _participants(lineage: Lineage) -> str:
    head = ["| plant | snapshot | rounds | privacy unit | ε | δ | data |", "|---|---|---|---|---|---|---|"]
    rows = [_participant(plant) for plant in lineage.participants]
    return "\n".join(["## Participants", "", *head, *rows, "", NOTE])


def _rounds(rounds: tuple[RoundFigures, ...]) -> str:
    names = sorted({name for one in rounds for name in one.metrics})
    head = ["round", "updates", *names]
    rows = [
        [f"{one.round}", f"{one.plants}"]
        + [f"{one.metrics[name]:.4g}" if name in one.metrics else "-" for name in names]
        for one in rounds
    ]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    told = METRICS if names else NO_METRICS
    return "\n".join(["## Rounds", "", *lines, "", told])


def _participant(plant: Participant) -> str:
    private = plant.mechanism == PRIVATE
    spent = f"{plant.epsilon:.3g} | {plant.delta:g}" if private else "not private | -"
    data = "simulated" if plant.simulated else "own"
    unit = plant.unit if private else "-"
    snapshots = ", ".join(f"`{digits}`{rounds}" for digits, rounds in plant.brief())
    return f"| {plant.name} | {snapshots} | {plant.rounds} | {unit} | {spent} | {data} |"


def limits(facts: CardFacts) -> list[str]:
    """Return what the model cannot do, and the errors that may be published, a sentence each."""
    points = [
        _limit(facts.task),
        "Readings outside the contract's ranges were not trained on.",
        "Each plant tests the release on its own held-out machines before it serves it.",
    ]
    if facts.figures:
        unit = " cycles" if facts.task.target.kind == targets.TIME else ""
        points += [f"{name}: {value:.4g}{unit}" for name, value in facts.figures.items()]
    else:
        points.append("No plant's error is given here: those figures do not leave the plants.")
    return points


def _limits(facts: CardFacts) -> str:
    return "\n".join(["## Limits", "", *(f"- {point}" for point in limits(facts))])


def _limit(task: Task) -> str:
    target = task.target
    return {
        targets.TIME: f"A prediction is never meant to exceed {target.cap:g} cycles: longer lives look "
        "alike.",
        targets.VALUE: "Values outside the declared range were not learned.",
        targets.EVENT: "Where events are rarer or more frequent than in training, the probability is off.",
        targets.CLASS: "A state that is none of the classes is taken for one of them.",
    }[target.kind]
