"""From a finished run to a release that plants are told of."""

import json
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from interplant.core import federation_pb2 as pb
from interplant.core.files import sha256_file
from interplant.core.receipt import Receipt, to_json
from interplant.core.release import Lineage, Participant, task_digest
from interplant.core.schema import PRIVATE
from interplant.core.wire import PROTOCOL
from interplant.server.directory import CoordinatorDirectory
from interplant.server.packaging import PackageOrder, package_in_child
from interplant.server.registry import Registry
from interplant.server.run_folder import Checkpoint, RunFolder

_LONGEST_ID = 63
"""A release's id names folders and stands in manifests; see `interplant.core.release.check_id`."""


def release_run(directory: CoordinatorDirectory, registry: Registry, run: RunFolder) -> pb.Release:
    """Package, sign and record the release of a finished run; done again, it changes nothing.

    Args:
        directory: The coordinator's directory.
        registry: The coordinator's registry.
        run: A run whose rounds are all done.

    Returns:
        The offer that is announced to plants.
    """
    order, task, state = run.order(), run.task(), run.restore()
    assert state is not None, "only a finished run is released"
    release = f"{task.name[: _LONGEST_ID - len(order.run) - 1].rstrip('-')}-{order.run}"
    folder = directory.releases / release
    if not folder.exists():
        lineage = lineage_of(release, run, state)
        package_in_child(PackageOrder(run.weights, task, lineage, directory.release_key), folder)
    registry.create_release(release, order.run, task.name, sha256_file(folder / "manifest.json"))
    return offer_of(folder, task.name)


def lineage_of(release: str, run: RunFolder, state: Checkpoint) -> Lineage:
    """Say where a release comes from: what each participant's latest receipt says."""
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
    keys = ("snapshot", "rounds", "mechanism", "unit", "epsilon", "delta", "simulated")
    signed = Receipt(**{field.name: plant[field.name] for field in fields(Receipt)})
    return {key: plant[key] for key in keys} | {"receipt": to_json(signed)}
