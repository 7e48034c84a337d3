"""``interplant lineage``: where a release comes from."""

import base64
import hashlib
from dataclasses import asdict

from interplant.cli import releases
from interplant.cli.coordinator import HERE, Directory
from interplant.cli.output import Json, facts, show, table
from interplant.core import receipt
from interplant.core.schema import PRIVATE


def lineage(
    release: releases.Name,
    directory: Directory = HERE,
    plant: releases.AtPlant = None,
    key: releases.Key = None,
    json: Json = False,
) -> None:
    """Show where a release comes from, after checking its signature: task, code, data, privacy, parent."""
    found = releases.find(release, directory, plant, key)
    line = found.lineage
    marks = [
        *(["simulated data"] if line.simulated else []),
        *([] if line.private else ["not private: a plant trained without a privacy mechanism"]),
    ]
    lines: dict[str, object] = {
        "release": f"{line.release} ({found.sha256[:12]}, signature verified)",
        "marks": "; ".join(marks),
        "task": f"{line.task} ({line.task_digest[:12]})",
        "code": f"interplant {line.version}, protocol {line.protocol}, engine {line.engine}",
        "run": f"{line.run}, {line.rounds} rounds, {line.created}",
        "parent": line.parent or "none: it started from fresh weights",
    }
    rows = [
        [
            one.name,
            one.snapshot[:12],
            one.rounds,
            one.unit or "-",
            f"{one.epsilon:.3f}" if one.mechanism == PRIVATE else "not private",
            f"{one.delta:g}" if one.mechanism == PRIVATE else "-",
            "simulated" if one.simulated else "own",
            _receipt(one.receipt),
        ]
        for one in line.participants
    ]
    columns = ["plant", "keyed snapshot", "rounds", "unit", "epsilon", "delta", "data", "signed receipt"]
    document = {"sha256": found.sha256, "signature_verified": True, **asdict(line)}
    show(json, document, f"{facts(lines)}\n\n{table(columns, rows)}")


def _receipt(text: str) -> str:
    """What a receipt, whose signature was checked with the release, says of the plant's ledger."""
    if not text:
        return "-"
    found = receipt.from_json(text)
    signer = hashlib.sha256(base64.b64decode(found.signer)).hexdigest()
    return f"round {found.round}: {found.entries} entries to {found.head[:12] or 'none'}, key {signer[:12]}"
