"""A release: a signed, immutable model version with its lineage, as both sides know it.

A release is a flat folder named by its id. `interplant.server.packaging` writes it; a plant, or
anybody who holds the federation's public key, reads it with `read_release`, without a network.
"""

import functools
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from interplant.core import config, keyring, receipt, signing
from interplant.core.errors import REFUSALS, InterplantError, UsageError
from interplant.core.keyring import Keyring, RevokedKeyError
from interplant.core.schema import PRIVATE, Task

WEIGHTS: Final = "weights.safetensors"
ONNX: Final = "model.onnx"
TASK: Final = "task.json"
LINEAGE: Final = "lineage.json"
CARD: Final = "card.md"
CARD_HTML: Final = "card.html"
FILES: Final = (WEIGHTS, ONNX, TASK, LINEAGE, CARD)
"""What is signed, beside the card as a page and statements on keys where there are some; the manifest and its
signature stand with them."""

FORMAT: Final = "interplant-lineage/1"

RELEASE_REFUSALS: Final[dict[str, str]] = {
    "signature": "the release is not signed by this federation's release key",
    "revoked_key": "the release is signed by a key that was revoked, or that had handed over before",
    "tampered": "a file of the release was changed, added or removed after signing",
    "lineage": "the release's lineage cannot be read or contradicts the release",
    "other_task": "the plant's model is for another task, so the two cannot be compared",
    "model": "the release's weights do not fit its model",
    "onnx": "the release's ONNX model cannot be run, or takes or gives other than its task says",
    "runaway": "the release's model had to be stopped: it took more time or memory than it may",
    "slow": "the release's model takes longer for a prediction than the plant allows",
    "case": "the release's model fails a sanity case of its task",
    "own_case": "the release's model fails a sanity case of the plant's own",
    "stopped": "the release's model could not be run to the end on the plant's hold-out",
    "holdout_small": "the plant's hold-out is too small to tell whether the release is good enough",
    "parity": "the release's ONNX model and its weights do not give the same predictions",
    "not_finite": "the release's model gives predictions that are not finite numbers",
    "no_holdout": "the plant has no held-out machines to test the release on",
    "implausible": "the release's predictions are far outside what is possible",
    "worse": "it is not sure that the release is as good as the plant's present model, within its margin",
    "local": "it is not sure that the release is as good as the plant's own locally trained model",
    "baseline": "it is not sure that the release is better than predicting the average",
    "older": "the release is older than one of the same task that has come here",
    "replaced": "a newer release takes the place of the one that waited or was on trial",
    "rejected": "a person at the plant has rejected the release",
    "interrupted": "the release's trial was interrupted",
    "trial_failed": "the release failed to answer beside the champion, or gave no finite number",
    "trial_slow": "the release takes longer to answer than its trial allows",
    "trial_disagrees": "the release is further from the champion than its trial allows",
    "trial_worse": "the release is worse than the champion where the truth is known",
    "probation_failed": "the new champion failed to answer where the one before it answers",
    "probation_worse": "the new champion is worse than the one before it where the truth is known",
    "rolled_back": "a person at the plant went back to an earlier release",
    "called_back": "the federation went back from the release",
    "rollback_asked": "the federation asks to go back from the release, which a person at the plant decides",
    "never_served": "the release to go back to has never served here, or does not verify any more",
}
"""Why a plant does not serve a release, in our own words; `REFUSALS` holds what is not special to it."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
T = TypeVar("T")


class ReleaseRefused(InterplantError):
    """A release is not served; only ``code`` and its sentence may leave the plant.

    Args:
        code: A key of `RELEASE_REFUSALS` or of `interplant.core.errors.REFUSALS`.
        detail: For the plant's own eyes.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{sentence(code)} [{code}]" + (f": {detail}" if detail else ""))


@dataclass(frozen=True)
class Participant:
    """What one plant brought to a release.

    Args:
        name: The plant.
        snapshots: By keyed digest of its data (HMAC-SHA256, hex), which only the plant can open: how many
            rounds trained on it, in the order of their first one.
        rounds: Rounds whose merge its update is in.
        mechanism: ``dp-sgd``; ``dp-sgd-test`` or ``none``: not private.
        unit: What one neighbour differs by: ``window``, for example.
        epsilon: Privacy spent on that unit over the plant's whole history; 0 without a mechanism.
        delta: Probability that goes with epsilon; 0 without a mechanism.
        simulated: Whether a simulator made its data.
        receipt: The last receipt that the plant signed, as JSON; see `interplant.core.receipt`. Empty in
            releases of versions that had none.
    """

    name: str
    snapshots: dict[str, int]
    rounds: int
    mechanism: str
    unit: str
    epsilon: float
    delta: float
    simulated: bool
    receipt: str = ""

    def brief(self) -> list[tuple[str, str]]:
        """Return each snapshot's first digits, and its rounds in words where there are several snapshots."""
        several = len(self.snapshots) > 1
        return [
            (key[:12], f" ({rounds} round{'s' * (rounds != 1)})" * several)
            for key, rounds in self.snapshots.items()
        ]


@dataclass(frozen=True)
class Lineage:
    """Where a release comes from.

    Args:
        release: Its id.
        run: The run that trained it.
        task: Name of the task.
        task_digest: `task_digest` of the task.
        version: Version of the package that trained it.
        protocol: Version of the wire protocol.
        parent: Release whose weights the run started from, or None.
        created: ISO 8601, UTC.
        rounds: Rounds done.
        engine: What carried the rounds: ``grpc``, ``simulate`` or ``flower``.
        private: Whether every participant trained under a privacy mechanism.
        simulated: Whether any participant's data is simulated.
        participants: The plants, by name.
    """

    release: str
    run: str
    task: str
    task_digest: str
    version: str
    protocol: str
    parent: str | None
    created: str
    rounds: int
    engine: str
    private: bool
    simulated: bool
    participants: tuple[Participant, ...]

    def to_json(self) -> str:
        """Return the lineage as JSON for people and programs, one key a line."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Release:
    """A release whose signature, files and lineage hold together.

    Args:
        id: Its name.
        folder: Where it lies.
        sha256: Digest of its manifest, which names all of its bytes.
        task: What it predicts, and from what.
        lineage: Where it comes from.
        revoked: Why its signature, which is right, would not be taken from elsewhere any more; empty if it
            would. Only what was kept can have it; see `read_release`.
    """

    id: str
    folder: Path
    sha256: str
    task: Task
    lineage: Lineage
    revoked: str = ""


def sentence(code: str) -> str:
    """Return our own words for a code that a plant reports, known here or not."""
    unknown = "the plant gave a reason that this version does not know"
    return RELEASE_REFUSALS.get(code) or REFUSALS.get(code) or unknown


def is_id(name: str) -> bool:
    """Tell whether a name can be a release's; see `check_id`."""
    return _ID.fullmatch(name) is not None


def check_id(release: str) -> str:
    """Return ``release`` if it can name a release and its folder.

    Raises:
        UsageError: It is not 1 to 63 letters, digits and hyphens, or starts with a hyphen.
    """
    if not is_id(release):
        raise UsageError(f"release {release!r}: expected letters, digits and hyphens (at most 63)")
    return release


def task_digest(task: Task) -> str:
    """Return the SHA-256 of a task's JSON: equal exactly if every value is, and the order of columns."""
    return hashlib.sha256(config.to_json(task).encode()).hexdigest()


def manifest_meta(lineage: Lineage) -> dict[str, Any]:
    """Return what a release's manifest says of it beside the digests of its files."""
    names = ("release", "run", "task", "task_digest", "parent", "created", "private", "simulated")
    return {name: getattr(lineage, name) for name in names}


def parse_lineage(text: str | bytes) -> Lineage:
    """Read a lineage.

    Raises:
        InterplantError: It is not one of this format, a key is missing, unknown or of the wrong type,
            or it contradicts itself.
    """
    content = _json(text, LINEAGE)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InterplantError(f"{LINEAGE}: expected format {FORMAT!r}; update Interplant here")
    plants = content.get("participants")
    if not isinstance(plants, list):
        raise InterplantError(f"{LINEAGE}: participants: expected a list")
    content["participants"] = tuple(
        _strictly(Participant, _with_receipt(plant), f"participants.{place}")
        for place, plant in enumerate(plants)
    )
    lineage = _strictly(Lineage, content, "")
    _check_sense(lineage)
    return lineage


@functools.lru_cache(maxsize=8)
def parse_task(text: str | bytes, origin: str = TASK) -> Task:
    """Read a task from JSON; every value is checked as in a task file. Treat it as read-only.

    A release is verified each time that it is about to move; its task is looked at once.

    Raises:
        InterplantError: It is not JSON, or not a possible task.
    """
    return config.parse(_json(text, origin), Task, origin)


def read_release(folder: Path, keys: Keyring | Ed25519PublicKey, kept: bool = False) -> Release:
    """Read a release folder and check that it is whole, signed and consistent.

    Args:
        folder: Named by the release's id.
        keys: The federation's; see `interplant.core.keyring.read`.
        kept: It was verified when it came and has been kept since: it is whole and signed also if its key was
            revoked meanwhile, which `Release.revoked` then tells.

    Raises:
        ReleaseRefused: ``signature``, ``revoked_key``, ``tampered``, ``lineage`` or ``task_invalid``; the
            detail names the file.
    """
    manifest, revoked = _verified(folder, keys if isinstance(keys, Keyring) else keyring.of(keys), kept)
    try:
        lineage = parse_lineage((folder / LINEAGE).read_bytes())
        _check_manifest(manifest, lineage, folder)
    except InterplantError as error:
        raise ReleaseRefused("lineage", str(error)) from None
    try:
        task = parse_task((folder / TASK).read_bytes())
    except InterplantError as error:
        raise ReleaseRefused("task_invalid", str(error)) from None
    if (task.name, task_digest(task)) != (lineage.task, lineage.task_digest):
        raise ReleaseRefused("lineage", f"{TASK} is not the task that {LINEAGE} names")
    sha256 = hashlib.sha256((folder / signing.MANIFEST).read_bytes()).hexdigest()
    return Release(lineage.release, folder, sha256, task, lineage, revoked)


def _verified(folder: Path, keys: Keyring, kept: bool) -> tuple[dict[str, Any], str]:
    """The manifest of a folder whose signature and files are right; each failure has its code.

    With it, why the key of one that was ``kept`` does not count any more, or empty.
    """
    try:
        manifest = (folder / signing.MANIFEST).read_bytes()
        signature = (folder / signing.SIGNATURE).read_bytes()
        statements = folder / keyring.IN_RELEASE
        if statements.is_file():
            keys = keys.extended(keyring.parse(statements.read_bytes(), str(statements)))
        signer = keys.signer(manifest, signature)
    except OSError as error:
        raise ReleaseRefused("signature", f"{error.filename}: {error.strerror}") from None
    except InterplantError as error:
        raise ReleaseRefused("signature", f"{folder}: {error}") from None
    try:
        checked = signing.verify(folder, Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer)))
    except InterplantError as error:
        raise ReleaseRefused("tampered", str(error)) from None
    missing = sorted(set(FILES) - set(checked["files"]))
    if missing:
        raise ReleaseRefused("tampered", f"the manifest does not list {missing[0]!r}")
    try:
        _check_key(keys, signer, checked)
    except ReleaseRefused as error:
        if not kept:
            raise
        return checked, error.detail
    return checked, ""


def _check_key(keys: Keyring, signer: str, manifest: Mapping[str, Any]) -> None:
    """A key that was revoked, or had handed over when the release was made, does not count."""
    try:
        keys.check_counts(signer, str(manifest["meta"].get("created")))
    except RevokedKeyError as error:
        raise ReleaseRefused("revoked_key", str(error)) from None
    except ValueError as error:
        raise ReleaseRefused("lineage", f"created: {error}") from None


def _with_receipt(plant: Any) -> Any:
    return {"receipt": "", **plant} if isinstance(plant, dict) else plant


def _check_receipt(plant: Participant) -> None:
    """A receipt must be the plant's own, and say what the lineage says of it."""
    signed = receipt.from_json(plant.receipt)
    same = ("mechanism", "unit", "epsilon", "delta", "simulated")
    differs = any(getattr(signed, key) != getattr(plant, key) for key in same)
    if signed.plant != plant.name or signed.snapshot not in plant.snapshots or differs:
        raise InterplantError(f"{LINEAGE}: {plant.name}: contradicts the receipt that the plant signed")


def _check_manifest(manifest: Mapping[str, Any], lineage: Lineage, folder: Path) -> None:
    if manifest["meta"] != manifest_meta(lineage):
        raise InterplantError(f"{signing.MANIFEST} and {LINEAGE} describe different releases")
    if lineage.release != folder.name:
        raise InterplantError(f"expected release {folder.name!r}, found {lineage.release!r}")


def _check_sense(lineage: Lineage) -> None:
    """A lineage may not call private, or real, what its own participants contradict."""
    plants = lineage.participants
    if not plants:
        raise InterplantError(f"{LINEAGE}: participants: expected at least one plant, found none")
    if lineage.private != all(plant.mechanism == PRIVATE for plant in plants):
        raise InterplantError(f"{LINEAGE}: private: contradicts the participants' mechanisms")
    if lineage.simulated != any(plant.simulated for plant in plants):
        raise InterplantError(f"{LINEAGE}: simulated: contradicts the participants' data")
    for plant in plants:
        rounds = list(plant.snapshots.values())
        if not all(_fits(one, int) and one > 0 for one in rounds) or sum(rounds) != plant.rounds:
            raise InterplantError(
                f"{LINEAGE}: {plant.name}: snapshots: expected keyed digests whose rounds add up to "
                f"{plant.rounds}, found others"
            )
        if plant.receipt:
            _check_receipt(plant)
    check_id(lineage.release)


def _json(text: str | bytes, origin: str) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a number that JSON knows")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise InterplantError(f"{origin}: not valid JSON: {error}") from None


def _strictly(kind: type[T], content: Any, where: str) -> T:
    """Build a flat dataclass from a JSON object with exactly its keys and types."""
    known = typing.get_type_hints(kind)
    place = f"{LINEAGE}: {where}".rstrip(": ")
    if not isinstance(content, dict):
        raise InterplantError(f"{place}: expected keys and values, found {type(content).__name__}")
    wrong = sorted(set(content) ^ {field.name for field in fields(kind)})  # type: ignore[arg-type]
    if wrong:
        raise InterplantError(f"{place}: key {wrong[0]!r} is missing or unknown")
    for name, value in content.items():
        if not _fits(value, known[name]):
            raise InterplantError(f"{place}: {name}: a {type(value).__name__} cannot stand here")
    return kind(**content)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value has the annotated type; a whole number is a float, a bool is no number."""
    if isinstance(kind, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(kind))
    kind = typing.get_origin(kind) or kind
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind
