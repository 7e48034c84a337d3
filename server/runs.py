"""Start, stop and resume runs: what the commands do, over the registry and the bell."""

from __future__ import annotations  # a command that starts a run does not load Flower

import secrets
import shutil
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from interplant.core import blobs, config, models
from interplant.core.errors import InterplantError
from interplant.core.release import LINEAGE, TASK, WEIGHTS, parse_lineage, parse_task
from interplant.core.schema import Rounds, Task
from interplant.server.artifacts import Artifacts
from interplant.server.control import ring
from interplant.server.directory import CoordinatorDirectory
from interplant.server.records import Run
from interplant.server.registry import Registry
from interplant.server.run_folder import RunFolder, make_order
from interplant.strategies import registry as strategies

if TYPE_CHECKING:
    from interplant.core.tensors import Tensors

_FIRST = "first.safetensors"
"""The weights that a run starts from, in its folder."""


def start_run(
    directory: CoordinatorDirectory,
    task: Task,
    release: bool = True,
    start_from: str = "",
    rounds: Rounds | None = None,
    because: str = "",
) -> Run:
    """Queue a run and ring for the round process.

    The first weights are made here, so that a model that is not installed or does not fit its task is
    found before anything starts, and the coordinator's own processes need no torch. Nor is it loaded here
    where the run that made the release has built the same model; see `known_weights`.

    Args:
        directory: The coordinator's directory.
        task: What shall be learned; its strategy must be known here.
        release: Whether the run ends with a signed release.
        start_from: Id of a release to start from; fresh weights if empty.
        rounds: Rules for rounds, by default those of ``federation.yaml``.
        because: Why it is started, where no person has typed the command.
    """
    strategies.build(task.strategy)
    first = known_weights(directory, task, start_from) if start_from else None
    if first is None:
        weights = Artifacts.of(directory).folder(start_from) / WEIGHTS if start_from else None
        first = first_weights(task, weights)
    rules = rounds or directory.load().rounds
    settings = {"release": release, "start_from": start_from}
    settings |= {"because": because} if because else {}
    run_id = new_run_id()
    folder = directory.runs / run_id
    order = make_order(run_id, task, rules, "grpc", release, _FIRST, start_from)
    try:
        RunFolder(folder).create(order)
        blobs.replace(folder / _FIRST, first, {})
        with closing(Registry.open(directory.path)) as registry:
            run = registry.create_run(task.name, config.dump(task), task.rounds, settings, run_id)
    except BaseException:
        # Ctrl-C too: a folder without its run would never be looked at.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    ring(directory)
    return run


def known_weights(directory: CoordinatorDirectory, task: Task, release: str) -> Tensors | None:
    """Return what `first_weights` would of a release, without loading torch.

    The run that made the release has built the model; if it is one of ours, of this version, and the task
    asks for the same, the release's weights fit as they fitted then.

    Args:
        directory: The coordinator's directory.
        task: Of the run that shall start.
        release: The release's id.

    Returns:
        None where that is not so, or not known here: then the model has to be built.

    Raises:
        InterplantError: There is no such release, or it cannot be read.
    """
    folder = Artifacts.of(directory).folder(release)
    try:
        lineage = parse_lineage((folder / LINEAGE).read_bytes())
        before = parse_task((folder / TASK).read_bytes())
    except FileNotFoundError:
        return None
    if task.model.name not in models.REGISTERED or lineage.version != version("interplant"):
        return None
    if (task.model, task.shape, task.target.outputs) != (before.model, before.shape, before.target.outputs):
        return None
    first = directory.runs / lineage.run / _FIRST
    if not first.is_file():
        return None
    built, weights = blobs.load(first), blobs.load(folder / WEIGHTS)
    alike = [(name, one.shape, one.dtype) for name, one in sorted(built.items())]
    if alike != [(name, one.shape, one.dtype) for name, one in sorted(weights.items())]:
        return None  # some are frozen, or the files are not what they were
    return weights


def first_weights(task: Task, release: Path | None = None) -> Tensors:
    """Return the weights that a run of ``task`` starts from.

    Args:
        task: The task.
        release: A release's weights; fresh ones if None.

    Raises:
        UsageError: The model cannot be built.
        InterplantError: The release's weights are not those of the task's model.
    """
    model = models.build(task)
    if release is not None:
        try:
            models.set_parameters(model, blobs.load(release), frozen=True)
        except InterplantError as error:
            raise InterplantError(f"release {release.parent.name}: {error}; start from another") from None
    return models.parameters(model)


def stop_run(directory: CoordinatorDirectory, run_id: str) -> Run:
    """Stop a run after what it is doing; what its rounds have learned stays."""
    with closing(Registry.open(directory.path)) as registry:
        run = registry.update_run(
            run_id,
            state="stopped",
            reason="stopped by a person",
            expected={"queued", "running", "paused", "waiting"},
        )
    ring(directory)
    return run


def resume_run(directory: CoordinatorDirectory, run_id: str) -> Run:
    """Queue a paused, failed or stopped run again; it goes on after its last finished round."""
    with closing(Registry.open(directory.path)) as registry:
        run = registry.update_run(run_id, state="queued", expected={"paused", "failed", "stopped"})
    ring(directory)
    return run


def new_run_id() -> str:
    """Make a run id of the time and chance; letters, digits and hyphens."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
