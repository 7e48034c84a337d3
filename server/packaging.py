"""A finished run becomes a release: weights, ONNX, lineage and card in one signed folder.

Exporting needs torch and ONNX Runtime, some 300 MB that the coordinator does not want to keep, so it
happens in a process of its own: `package_in_child`, or by hand
``python -m interplant.server.packaging ORDER.json``.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interplant.core import config, export, keyring, models, signing, targets
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import disk_errors, sync_folder, write_atomic
from interplant.core.processes import python_module
from interplant.core.release import (
    CARD,
    LINEAGE,
    ONNX,
    TASK,
    WEIGHTS,
    Lineage,
    Participant,
    Release,
    check_id,
    manifest_meta,
    parse_lineage,
    parse_task,
    read_release,
    task_digest,
)
from interplant.core.schema import PRIVATE, Privacy, Task


@dataclass(frozen=True)
class PackageOrder:
    """What a release is made of.

    Args:
        weights: The merged model, safetensors with plain parameter names.
        task: What was learned.
        lineage: Where it comes from; its ``release`` names the release.
        key: The federation's Ed25519 signing key, PEM.
        figures: Errors for the card, by what they are; a time's in cycles. Whoever gives them says that these
            numbers about data may be published (simulators, public benchmarks).
    """

    weights: Path
    task: Task
    lineage: Lineage
    key: Path
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_json(self, folder: Path) -> str:
        """Return the order for a child process that is to write ``folder``."""
        content = {
            "weights": str(self.weights.absolute()),
            "task": config.dump(self.task),
            "lineage": json.loads(self.lineage.to_json()),
            "key": str(self.key.absolute()),
            "figures": dict(self.figures),
            "folder": str(folder.absolute()),
        }
        return json.dumps(content)


def package(order: PackageOrder, folder: Path) -> Release:
    """Build and sign a release; ``folder`` is whole or not there, whenever this process is killed.

    Args:
        order: What goes in.
        folder: ``releases/<id>``. If it is there already and good, it is left as it is.

    Raises:
        UsageError: The order contradicts itself.
        InterplantError: The weights do not fit the model or are not finite, the model cannot be
            exported, the key cannot be read, or the disk is full.
    """
    _check(order, folder)
    keys = keyring.of(signing.read_private(order.key).public_key())
    statements = order.key.with_name(keyring.FILE)
    if statements.exists():
        keys = keys.extended(keyring.parse(statements.read_bytes(), str(statements)))
    with disk_errors(folder):
        if not folder.exists():
            _build(order, folder)
    release = read_release(folder, keys)
    if (release.lineage.run, release.lineage.task_digest) != (order.lineage.run, order.lineage.task_digest):
        raise InterplantError(f"{folder}: expected no release here, found one of run {release.lineage.run!r}")
    return release


def package_in_child(order: PackageOrder, folder: Path, seconds: float = 300.0) -> None:
    """Do `package` in a process of its own.

    Raises:
        UsageError: The child's one line, if the order is wrong.
        InterplantError: The child's one line; or it took longer than ``seconds``, or was killed.
    """
    with tempfile.TemporaryDirectory(prefix="interplant-") as scratch:
        file = Path(scratch) / "order.json"
        file.write_text(order.to_json(folder), encoding="utf-8")
        try:
            done = subprocess.run(
                python_module("interplant.server.packaging", str(file)),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InterplantError(
                f"release {order.lineage.release}: packaging took more than {seconds:g} s"
            ) from None
    if done.returncode:
        line = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        kind = UsageError if done.returncode == UsageError.exit_code else InterplantError
        raise kind(f"release {order.lineage.release} was not packaged: {line}")


def card(order: PackageOrder) -> str:
    """Return the model card, Markdown: what the model is, where it comes from, what it cannot do."""
    task, lineage = order.task, order.lineage
    marks = []
    if lineage.simulated:
        marks.append("> **Simulated data.** Results say nothing about real machines.")
    if not lineage.private:
        marks.append(
            "> **Not private.** At least one plant trained without a privacy mechanism; this model "
            "may reveal its data."
        )
    parts = [
        f"# Release {lineage.release}",
        *marks,
        _what(task),
        _contract(task),
        _training(task, lineage),
        _participants(lineage),
        _limits(order),
    ]
    return "\n\n".join(parts) + "\n"


def _check(order: PackageOrder, folder: Path) -> None:
    lineage = order.lineage
    if check_id(lineage.release) != folder.name:
        raise UsageError(f"{folder}: expected the folder of release {lineage.release!r}")
    if (lineage.task, lineage.task_digest) != (order.task.name, task_digest(order.task)):
        raise UsageError(f"release {lineage.release}: the lineage names another task than the order")
    parse_lineage(lineage.to_json())


def _build(order: PackageOrder, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(left)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    temporary.mkdir()
    try:
        _fill(order, temporary)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(order: PackageOrder, folder: Path) -> None:
    from safetensors.numpy import save

    model = models.build(order.task)
    models.set_parameters(model, export.read_weights(order.weights))
    weights = models.parameters(model, frozen=True)
    for name, array in weights.items():
        if not bool((abs(array) < float("inf")).all()):
            raise InterplantError(f"{order.weights}: {name!r} holds values that are not finite")
    export.export_onnx(model, order.task, folder / ONNX)
    write_atomic(folder / WEIGHTS, save(weights))
    write_atomic(folder / TASK, json.dumps(config.dump(order.task), indent=2) + "\n")
    write_atomic(folder / LINEAGE, order.lineage.to_json())
    write_atomic(folder / CARD, card(order))
    statements = order.key.with_name(keyring.FILE)
    if statements.exists():
        shutil.copyfile(statements, folder / keyring.IN_RELEASE)
    key = signing.read_private(order.key)
    signing.sign_folder(folder, manifest_meta(order.lineage), key)


def _what(task: Task) -> str:
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


def _training(task: Task, lineage: Lineage) -> str:
    privacy = task.privacy
    how = "none" if privacy.mechanism == "none" else _mechanism(privacy)
    facts = {
        "Run": lineage.run,
        "Created": lineage.created,
        "Rounds": str(lineage.rounds),
        "Engine": lineage.engine,
        "Strategy": task.strategy.name,
        "Privacy mechanism": how,
        "Code": f"interplant {lineage.version}, protocol {lineage.protocol}",
        "Task": f"{lineage.task} ({lineage.task_digest[:12]})",
        "Parent release": lineage.parent or "none",
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["## How it was trained", "", "| | |", "|---|---|", *rows])


def _mechanism(privacy: Privacy) -> str:
    drawn = f", at most {privacy.windows_per_unit} windows of each" if privacy.unit == "unit" else ""
    counted = f"DP-SGD on {privacy.unit}s{drawn}, noise {privacy.noise:g}, clip {privacy.clip:g}"
    return counted if privacy.private else f"{counted}; noise from the task's seed, so **not private**"


def _participants(lineage: Lineage) -> str:
    head = ["| plant | snapshot | rounds | privacy unit | ε | δ | data |", "|---|---|---|---|---|---|---|"]
    rows = [_participant(plant) for plant in lineage.participants]
    note = (
        "A snapshot is a keyed digest: only its plant can tell which data it is. ε is what the plant "
        "has spent on the named unit over its whole history, this run included; a machine with many "
        "windows is protected less than one window."
    )
    return "\n".join(["## Participants", "", *head, *rows, "", note])


def _participant(plant: Participant) -> str:
    private = plant.mechanism == PRIVATE
    spent = f"{plant.epsilon:.3g} | {plant.delta:g}" if private else "not private | -"
    data = "simulated" if plant.simulated else "own"
    unit = plant.unit if private else "-"
    return f"| {plant.name} | `{plant.snapshot[:12]}` | {plant.rounds} | {unit} | {spent} | {data} |"


def _limits(order: PackageOrder) -> str:
    points = [
        _limit(order.task),
        "Readings outside the contract's ranges were not trained on.",
        "Each plant tests the release on its own held-out machines before it serves it.",
    ]
    if order.figures:
        unit = " cycles" if order.task.target.kind == targets.TIME else ""
        points += [f"{name}: {value:.4g}{unit}" for name, value in order.figures.items()]
    else:
        points.append("No plant's error is given here: those figures do not leave the plants.")
    return "\n".join(["## Limits", "", *(f"- {point}" for point in points)])


def _limit(task: Task) -> str:
    target = task.target
    return {
        targets.TIME: f"A prediction is never meant to exceed {target.cap:g} cycles: longer lives look "
        "alike.",
        targets.VALUE: "Values outside the declared range were not learned.",
        targets.EVENT: "Where events are rarer or more frequent than in training, the probability is off.",
        targets.CLASS: "A state that is none of the classes is taken for one of them.",
    }[target.kind]


def _read_order(path: Path) -> tuple[PackageOrder, Path]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        order = PackageOrder(
            Path(content["weights"]),
            parse_task(json.dumps(content["task"]), str(path)),
            parse_lineage(json.dumps(content["lineage"])),
            Path(content["key"]),
            {str(name): float(value) for name, value in content.get("figures", {}).items()},
        )
        return order, Path(content["folder"])
    except (InterplantError, OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: expected an order as JSON: {error}") from None
    except KeyError as error:
        raise UsageError(f"{path}: expected the key {error}, found none") from None


def main(words: list[str]) -> int:
    """Package the order in the file ``words[0]``; return the exit code, with one line on stderr."""
    try:
        if len(words) != 1:
            raise UsageError("expected one word: the order's JSON file")
        package(*_read_order(Path(words[0])))
    except InterplantError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped; no release was written\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
