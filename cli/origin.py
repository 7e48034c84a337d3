"""How ``interplant lineage`` shows what it found."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from interplant.cli.output import facts, table
from interplant.cli.releases import Ancestors
from interplant.client.predictions import Prediction
from interplant.client.provenance import OwnSnapshot
from interplant.core import config, receipt
from interplant.core.release import Participant, Release
from interplant.core.schema import PRIVATE


@dataclass(frozen=True)
class Origin:
    """Where a release comes from.

    Args:
        release: Checked.
        ancestors: The releases before it.
        own: By keyed digest, the plant's own snapshots among those that it was trained on.
        prediction: What was asked about, if it was a prediction of this release.
    """

    release: Release
    ancestors: Ancestors
    own: Mapping[str, OwnSnapshot]
    prediction: Prediction | None = None


def document(origin: Origin) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    found = origin.release
    lines = asdict(found.lineage)
    for one in lines["participants"]:
        own = {key: origin.own[key] for key in one["snapshots"] if key in origin.own}
        one["own_snapshots"] = {key: _opened(found) for key, found in own.items()}
    return {
        "prediction": None if origin.prediction is None else asdict(origin.prediction),
        "sha256": found.sha256,
        "signature_verified": True,
        "key_revoked": bool(found.revoked),
        **lines,
        "task_config": config.dump(found.task),
        "parents": [
            {"sha256": one.sha256, "key_revoked": bool(one.revoked), **asdict(one.lineage)}
            for one in origin.ancestors.releases
        ],
        "parents_broken": origin.ancestors.broken,
    }


def text(origin: Origin) -> str:
    """Return the same for people."""
    columns = ["plant", "keyed snapshots", "rounds", "unit", "epsilon", "delta", "data", "signed receipt"]
    rows = [_participant(one) for one in origin.release.lineage.participants]
    parts = [facts(_facts(origin)), table(columns, rows)]
    if origin.own:
        columns = [
            "own snapshot",
            "digest",
            "made",
            "readings",
            "machines",
            "brought last by",
            "readings now",
        ]
        parts.append(table(columns, [_own(key, one) for key, one in origin.own.items()]))
    if origin.ancestors.releases:
        columns = ["parent", "run", "rounds", "made", "plants", "most epsilon", "task", "code"]
        parts.append(table(columns, [_parent(one) for one in origin.ancestors.releases]))
    if origin.ancestors.broken:
        parts.append(f"The parents cannot be followed beyond {origin.ancestors.broken}")
    return "\n\n".join(parts)


def epsilon(one: Participant) -> str:
    """What a plant had spent, in a word."""
    return f"{one.epsilon:.3f}" if one.mechanism == PRIVATE else "not private"


def _facts(origin: Origin) -> dict[str, object]:
    found, line, task = origin.release, origin.release.lineage, origin.release.task
    privacy = task.privacy.mechanism
    if task.privacy.private:
        privacy += f", noise {task.privacy.noise:g}, clip {task.privacy.clip:g}"
    marks = [
        *([found.revoked] if found.revoked else []),
        *(["simulated data"] if line.simulated else []),
        *([] if line.private else ["not private: a plant trained without a privacy mechanism"]),
    ]
    return _prediction(origin.prediction) | {
        "release": f"{line.release} ({found.sha256[:12]}, signature verified)",
        "marks": "; ".join(marks),
        "task": f"{line.task} ({line.task_digest[:12]})",
        "config": f"model {task.model.name}, window {task.window.length}, "
        f"strategy {task.strategy.name}, {privacy}",
        "code": f"interplant {line.version}, protocol {line.protocol}, engine {line.engine}",
        "run": f"{line.run}, {line.rounds} rounds, {line.created}",
        "parent": line.parent or "none: it started from fresh weights",
    }


def _prediction(said: Prediction | None) -> dict[str, object]:
    if said is None:
        return {}
    when = datetime.fromtimestamp(said.time, UTC)
    return {
        "prediction": f"{said.id}, {when:%Y-%m-%d %H:%M:%S} UTC",
        "said": ", ".join(f"{value:g}" for value in said.prediction),
        "machine": said.machine or "not told",
        "inputs": "drifting" if said.drifting else "not drifting",
        "label": "not known yet" if said.label is None else said.label,
    }


def _participant(one: Participant) -> list[object]:
    return [
        one.name,
        ", ".join(digits + rounds for digits, rounds in one.brief()),
        one.rounds,
        one.unit or "-",
        epsilon(one),
        f"{one.delta:g}" if one.mechanism == PRIVATE else "-",
        "simulated" if one.simulated else "own",
        _receipt(one.receipt),
    ]


def _own(key: str, one: OwnSnapshot) -> list[object]:
    found = one.snapshot
    sources = dict(found.sources) | ({"corrections": found.corrections} if found.corrections else {})
    brought = ", ".join(f"{name}: {count}" for name, count in sources.items())
    now = f"removed: {one.removed}" if one.removed else "kept"
    return [key[:12], found.digest[:12], found.created, found.rows, found.machines, brought, now]


def _opened(one: OwnSnapshot) -> dict[str, Any]:
    names = (
        "digest",
        "commit",
        "created",
        "rows",
        "machines",
        "simulated",
        "contract",
        "sources",
        "quarantined",
        "corrections",
    )
    return {name: getattr(one.snapshot, name) for name in names} | {"removed": one.removed}


def _parent(one: Release) -> list[object]:
    line = one.lineage
    most = max(line.participants, key=lambda plant: (plant.mechanism != PRIVATE, plant.epsilon))
    task = f"{line.task} ({line.task_digest[:12]})"
    names = ", ".join(plant.name for plant in line.participants)
    name = line.release + (" (key revoked)" if one.revoked else "")
    return [name, line.run, line.rounds, line.created, names, epsilon(most), task, line.version]


def _receipt(text: str) -> str:
    """What a receipt, whose signature was checked with the release, says of the plant's ledger."""
    if not text:
        return "-"
    found = receipt.from_json(text)
    signer = hashlib.sha256(base64.b64decode(found.signer)).hexdigest()
    return f"round {found.round}: {found.entries} entries to {found.head[:12] or 'none'}, key {signer[:12]}"
