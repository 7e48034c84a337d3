"""From a finished run to a release that plants are told of."""

import json
import secrets
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

from interplant.core import federation_pb2 as pb
from interplant.core import keyring
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import sha256_file
from interplant.core.receipt import Receipt, to_json
from interplant.core.release import Lineage, Participant, read_release, task_digest
from interplant.core.schema import PRIVATE
from interplant.core.wire import PROTOCOL
from interplant.server.artifacts import Artifacts
from interplant.server.card import RoundFigures
from interplant.server.control import reload
from interplant.server.directory import CoordinatorDirectory
from interplant.server.packaging import PackageOrder, Packager, package_in_child
from interplant.server.records import Release
from interplant.server.registry import Registry
from interplant.server.run_folder import Checkpoint, RunFolder

_LONGEST_ID = 63
"""A release's id names folders and stands in manifests; see `interplant.core.release.check_id`."""


_OWN_DIGITS = 6


def release_run(
    directory: CoordinatorDirectory, registry: Registry, run: RunFolder, packager: Packager | None = None
) -> Release:
    """Package, sign and record the release of a finished run; done again, it changes nothing.

    Without a person's approval (``approval: auto``) it is approved at once.

    Args:
        directory: The coordinator's directory.
        registry: The coordinator's registry.
        run: A run whose rounds are all done.
        packager: Packages it; by default a process that is started now.

    Returns:
        The release as the registry has it.
    """
    order, task, state = run.order(), run.task(), run.restore()
    assert state is not None, "only a finished run is released"
    release = _id(directory, registry, task.name, order.run)
    folder = directory.releases / release
    if not folder.exists():
        lineage = lineage_of(release, run, state)
        package_order = PackageOrder(
            run.weights, task, lineage, directory.release_key, rounds=round_figures(run)
        )
        (packager.package if packager else package_in_child)(package_order, folder)
    Artifacts.of(directory).keep(release)
    made = registry.create_release(release, order.run, task.name, sha256_file(folder / "manifest.json"))
    if made.state == "candidate" and directory.load().approval == "auto":
        made = registry.approve_release(release, "by federation.yaml")
    return made


def _id(directory: CoordinatorDirectory, registry: Registry, task: str, run: str) -> str:
    """Name the release of a run: as it was named before, or by task, run and six digits of its own.

    A coordinator that was restored does rounds again that another release came of; that one keeps its name.
    """
    known = [one.id for one in registry.releases() if one.run == run]
    room = _LONGEST_ID - len(run) - _OWN_DIGITS - 2
    name = f"{task[:room].rstrip('-')}-{run}-"
    left = sorted(path.name for path in directory.releases.glob(f"{name}{'[0-9a-f]' * _OWN_DIGITS}"))
    return next(iter(known + left), name + secrets.token_hex(_OWN_DIGITS // 2))


def round_figures(run: RunFolder) -> tuple[RoundFigures, ...]:
    """Return what each finished round came to, as far as the run's folder tells."""
    return tuple(
        RoundFigures(one["round"], len(one["participants"]), one.get("metrics", {}))
        for one in run.records()
        if one["settled"]
    )


def approve(directory: CoordinatorDirectory, release: str, person: str) -> tuple[Release, bool]:
    """Let plants be told of a candidate; return it, and whether a serving coordinator tells them now.

    Raises:
        UsageError: Its key was revoked: plants would refuse it.
    """
    if why := _revoked(directory, release):
        raise UsageError(
            f"release {release}: {why}, so that plants would refuse it; reject it, and train another "
            f"(`interplant run start TASK --start-from {release}`)"
        )
    return _decide(directory, release, lambda registry: registry.approve_release(release, f"by {person}"))


def reject(directory: CoordinatorDirectory, release: str, person: str, reason: str) -> tuple[Release, bool]:
    """Keep a release from plants for good; see `approve`."""
    text = f"by {person}" + (f": {reason}" if reason else "")
    return _decide(directory, release, lambda registry: registry.reject_release(release, text))


def roll_back(
    directory: CoordinatorDirectory, release: str, to: str | None, person: str, reason: str
) -> tuple[Release, bool]:
    """Take a release back everywhere; see `Registry.roll_back_release` and `approve`.

    One does not go back to what a revoked key has signed: plants that do not have it would refuse it.

    Raises:
        UsageError: The key of ``to`` was revoked.
    """
    text = f"by {person}" + (f": {reason}" if reason else "")

    def decision(registry: Registry) -> Release:
        earlier = [one.id for one in registry.earlier_releases(release)]
        if to and (why := _revoked(directory, to)):
            good = ", ".join(one for one in earlier if not _revoked(directory, one))
            none = f"none is left, train one (`interplant run start TASK --start-from {to}`)"
            raise UsageError(f"release {to}: {why}; expected one whose key counts: {good or none}")
        passed_over = list(takewhile(partial(_revoked, directory), [] if to else earlier))
        words = f"; not to {', '.join(passed_over)}, whose key was revoked" if passed_over else ""
        return registry.roll_back_release(release, to, text + words, passed_over)[0]

    return _decide(directory, release, decision)


def _revoked(directory: CoordinatorDirectory, release: str) -> str:
    """Why plants refuse a release for its key, or empty; one that cannot be read is found out otherwise."""
    keys = keyring.read(directory.release_public_key)
    if not keys.statements:
        return ""
    try:
        return read_release(Artifacts.of(directory).folder(release), keys, kept=True).revoked
    except InterplantError:
        return ""


def _decide(
    directory: CoordinatorDirectory, release: str, decision: Callable[[Registry], Release]
) -> tuple[Release, bool]:
    with closing(Registry.open(directory)) as registry:
        decision(registry)
        serving = reload(directory)
        return registry.release(release), serving


def lineage_of(release: str, run: RunFolder, state: Checkpoint) -> Lineage:
    """Say where a release comes from: each participant's latest receipt, and the snapshots of all of them."""
    order, task = run.order(), run.task()
    participants = tuple(
        Participant(name=name, **_receipt(plant)) for name, plant in sorted(state.plants.items())
    )
    return Lineage(
        release=release,
        run=order.run,
        task=task.name,
        task_digest=task_digest(task),
        version=version("interplant"),
        protocol=PROTOCOL,
        parent=order.parent or None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        rounds=state.round,
        engine=order.engine,
        private=all(one.mechanism == PRIVATE for one in participants),
        simulated=any(one.simulated for one in participants),
        participants=participants,
    )


def offer_of(folder: Path, task: str) -> pb.Release:
    """Describe a release's files for the plants that will fetch them."""
    names = [*json.loads((folder / "manifest.json").read_text())["files"], "manifest.json", "manifest.sig"]
    files = [
        pb.File(
            name=name, blob=pb.Blob(sha256=sha256_file(folder / name), size=(folder / name).stat().st_size)
        )
        for name in names
    ]
    return pb.Release(id=folder.name, task=task, files=files)


def _receipt(plant: dict[str, Any]) -> dict[str, Any]:
    """A participant's fields from the latest receipt, and the receipt itself as the plant signed it."""
    keys = ("snapshots", "rounds", "mechanism", "unit", "epsilon", "delta", "simulated")
    signed = Receipt(**{field.name: plant[field.name] for field in fields(Receipt)})
    return {key: plant[key] for key in keys} | {"receipt": to_json(signed)}
