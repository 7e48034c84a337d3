"""Join a federation: the plant's half of `interplant plant join`.

The plant makes its own keys, and asks for a certificate with the join file's one-time certificate.
The folder appears whole, at the end; until then a hidden sibling keeps the plant's key, so that a
plant that lost the coordinator's answer asks again with the same key and is let in.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from interplant.client.directory import PlantDirectory
from interplant.core import certificates, commented, keyring, signing
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import write_atomic
from interplant.core.possible import Impossible
from interplant.core.schema import Connection, Plant
from interplant.core.staging import new_folder

FORMAT: Final = 1
_WORDS: Final = ("federation", "plant", "coordinator", "authority", "release-key", "certificate", "key")
_MARK: Final = ".join"

HEAD: Final = """The plant's settings and its policy: what this plant offers. Nothing that the
    coordinator sends can loosen it. An unknown key, a wrong type or an impossible value is refused with
    file, line and key when the plant starts."""

COMMENTS: Final = {
    "name": "Name of this plant, as its certificate says.",
    "federation": "The federation it has joined.",
    "connection": "The one outbound connection. When the coordinator is away, tries are ever further apart.",
    "connection.coordinator": "host:port of the coordinator.",
    "connection.compression": """How arrays may travel in fewer bytes if the coordinator offers it:
        bf16, int8, top_k; an empty list: as they are. It changes nothing about privacy.""",
    "data": "Where this plant's data lies. None of it leaves.",
    "data.repository": "Git and DVC repository, counted from this folder.",
    "data.machine": "The column that names a reading's machine; a private task must take it for that.",
    "data.time": "The column that orders a machine's readings.",
    "data.declared_windows": """Public number of training windows, rounded: it sets the sampling rate and
        so the privacy spent. Declare it once; 0 means not declared, and the plant takes no part.""",
    "data.declared_units": "Public number of machines, rounded: the same for tasks that count by machine.",
    "data.declared_unit_windows": """Public number of windows that no machine passes: what charges by
        window are worth when a machine is counted.""",
    "data.drift": "How `interplant data drift` holds readings against the champion's snapshot: readings of a "
    "window, and how many of 10 000 windows may alarm by chance, over all sensors together.",
    "data.simulated": "True marks data from the simulator, wherever its results are shown.",
    "policy": "What this plant offers; an empty list offers nothing.",
    "policy.tasks": "Names of the tasks that may train here.",
    "policy.strategies": "Strategies whose runs may train here.",
    "policy.models": "Models that may train here: registered names or dotted paths to installed classes.",
    "policy.metrics": "Numbers that may leave beside an update, noised and charged: loss, units.",
    "policy.privacy": "The caps on privacy spent over all rounds on this plant's data.",
    "policy.privacy.allow_none": "True lets tasks train without privacy: for simulators and public data.",
    "policy.privacy.units": "What one neighbour may differ by: row, window or unit (a machine).",
    "policy.privacy.epsilon": "All tasks together: a round that would pass it is refused before it starts.",
    "policy.privacy.tasks": "Budgets of single tasks within it, such as {turbofan: 0.5}.",
    "policy.privacy.delta": "The delta at which the budget counts.",
    "policy.privacy.data_refusals": """declared: whether data fits a task's contract is told as it is, as a
        public fact; billed: told with noise, charged once for each snapshot and contract.""",
    "policy.privacy.refusal_noise": "Standard deviation of that noise, in privacy units.",
    "policy.release": "When a new model may serve here.",
    "policy.release.approval": "person: somebody here approves each release; auto: the gate decides.",
    "policy.release.margin": "Share by which a release's error may exceed the present model's, for sure.",
    "policy.release.confidence": "How sure, over all releases together that are tried on one hold-out.",
    "policy.release.local": """True: a release must also hold against a model that is trained here, on the
        plant's own readings alone; it never leaves.""",
    "policy.release.latency_ms": "The most processor time that a prediction of one window may take.",
    "policy.release.cases": "Made-up inputs, and where the prediction must lie; see docs/releases.md.",
    "policy.release.report": """What the coordinator learns of the gate's decision: nothing; score: a noised
        loss on the hold-out, charged to the budget; verdict: the decision itself.""",
    "policy.release.score_bound": "What each privacy unit's loss is clipped to, in a score.",
    "policy.release.score_noise": "Standard deviation of its noise, as a multiple of that bound.",
    "policy.release.rollback": "The coordinator asks to go back from a release. obey: at once; person: "
    "somebody here does it.",
    "policy.release.trial": "What passes the gate answers beside the present model first: for so many "
    "predictions and seconds unheard, then as long for a share of the machines (canary).",
    "policy.release.probation": "How long the model of before stays beside a new one, and comes back if that "
    "turns out worse.",
    "automation": "What this plant does of its own accord; by itself a new plant does nothing.",
    "automation.snapshots": "True makes a snapshot once new readings have come to rest.",
    "automation.readings": "So many at least.",
    "automation.rest_seconds": "No more has come for so long,",
    "automation.longest_seconds": "or the first of them has waited for so long.",
    "automation.watch": "True holds new readings against those that the champion was trained on.",
    "automation.propose": "Reasons to propose a new run: new_data, drift, error, schedule.",
    "automation.tell": "nothing, or declared: that new data, a drift or an error is there may be known.",
    "automation.budget": "declared: how many more runs the privacy budget pays may be known.",
    "automation.schedule": "Moments of this plant's proposals, such as 'Sun 02:00'.",
    "automation.quiet": "No training and no proposals then, such as 'Mon-Fri 06:00-14:00'.",
    "trainer": "The trainer process: CPU threads, priority (nice), and when it is released.",
    "serving": "Predictions beside the line, over HTTP (Open Inference Protocol); off while listen is empty.",
    "serving.listen": "A port of this machine alone, such as '8080', or host:port.",
    "serving.threads": "Threads that one run of the model takes.",
    "serving.batch": "Most windows in one run, and how long a run waits for more (0: takes those there).",
    "serving.queue": "Windows that may wait; what comes on top is refused, to be sent again.",
    "serving.rate": "Requests a second that are taken; 0: any.",
    "serving.keep": "Predictions that the plant's log of them holds; the oldest go first.",
}


@dataclass(frozen=True)
class JoinFile:
    """What a join file holds, checked.

    Attributes:
        federation: Name of the federation.
        plant: Name of the plant to be.
        coordinator: ``host:port`` to dial.
        expires: End of its validity, UTC.
        authority: The federation's trust root, PEM.
        release_key: Public key that checks releases, PEM.
        certificate: One-time certificate that may call only ``Enrol``, PEM.
        key: Its private key, PEM.
        release_keys: Statements on release keys before that one and after it, JSON; empty before the first.
    """

    federation: str
    plant: str
    coordinator: str
    expires: datetime
    authority: bytes
    release_key: bytes
    certificate: bytes
    key: bytes
    release_keys: bytes = b""


Enrol: TypeAlias = Callable[[JoinFile, bytes], bytes]
"""Sends a certificate request under the join file's certificate; returns the plant's certificate."""


def read_join_file(path: Path, now: datetime | None = None) -> JoinFile:
    """Read and check a join file.

    Raises:
        UsageError: It cannot be read, is no join file, contradicts itself, has expired, or the clock
            of this machine is off.
    """
    content = _content(path)
    try:
        join = _parsed(content)
    except InterplantError as error:
        raise UsageError(f"{path}: this join file is damaged: {error}; ask for a new one") from None
    _check_time(path, join, now or certificates.utc_now())
    return join


def join_federation(
    directory: Path, join: JoinFile, enrol: Enrol, address: str | None = None
) -> PlantDirectory:
    """Make the plant directory: keys, certificate, settings. After a failure, just try again.

    Args:
        directory: Where; it must not exist yet, or be empty.
        join: See `read_join_file`.
        enrol: The network call.
        address: ``host:port`` to dial instead of the join file's, if the network needs it.

    Raises:
        UsageError: The directory is taken.
        InterplantError: The coordinator refuses, cannot be reached, or answers with another
            certificate than was asked for; the disk is full.
    """
    directory, address = directory.absolute(), address or join.coordinator
    plant_yaml(join, address)  # an impossible address is found before the join file is used
    with new_folder(directory, "plant join", keep=True) as folder:
        certificate = enrol(join, prepare(folder, join))
        finish(folder, join, certificate, address)
    return PlantDirectory(directory)


def prepare(folder: Path, join: JoinFile) -> bytes:
    """Make the plant's key, once for a join file, and request a certificate for it.

    Args:
        folder: The folder under construction.
        join: See `read_join_file`.

    Returns:
        The request as PEM, for the same key in every try.
    """
    plant, mark = PlantDirectory(folder), hashlib.sha256(join.certificate).hexdigest()
    plant.keys.mkdir(mode=0o700, exist_ok=True)
    present = (folder / _MARK).read_text() if (folder / _MARK).exists() else ""
    if present != mark or not plant.plant_key.exists():
        certificates.write_key(plant.plant_key, certificates.key_pem(certificates.make_key()))
        write_atomic(folder / _MARK, mark)
    return certificates.make_csr(certificates.read_key(plant.plant_key))


def finish(folder: Path, join: JoinFile, certificate: bytes, address: str) -> None:
    """Check the coordinator's answer and write everything else that a plant needs.

    Raises:
        InterplantError: The certificate is not from this federation, for another key, or another name.
        UsageError: The address is impossible.
    """
    plant = PlantDirectory(folder)
    key = certificates.read_key(plant.plant_key)
    _check_certificate(certificate, join.authority, join.plant, key)
    write_atomic(plant.plant_certificate, certificate)
    write_atomic(plant.ca_certificate, join.authority)
    write_atomic(plant.release_public_key, join.release_key)
    if join.release_keys:
        write_atomic(plant.release_public_key.with_name(keyring.FILE), join.release_keys)
    certificates.write_key(plant.snapshot_key, secrets.token_bytes(32))
    write_atomic(plant.config, plant_yaml(join, address))
    plant.outbox.mkdir(exist_ok=True)
    plant.releases.mkdir(exist_ok=True)
    (folder / _MARK).unlink(missing_ok=True)


def plant_yaml(join: JoinFile, address: str) -> str:
    """Return the settings of a new plant, with the cautious policy and its explanation."""
    connection = Connection(coordinator=address)
    plant = Plant(name=join.plant, federation=join.federation, connection=connection)
    try:
        plant.check()
    except Impossible as error:
        raise UsageError(f"{error.key}: {error}") from None
    return commented.to_yaml(plant, HEAD, COMMENTS)


def renew_if_due(plant: PlantDirectory, renew: Callable[[bytes], bytes], now: datetime | None = None) -> bool:
    """Get a fresh certificate for the plant's key when less than a third of the old one's time is left.

    Args:
        plant: The plant's directory.
        renew: The network call: takes a request, returns the certificate, both PEM.
        now: By default the clock.

    Returns:
        True if there is a new certificate; the next connection shows it.

    Raises:
        InterplantError: The answer is not a certificate of this federation for this plant and key; the
            old certificate stays.
    """
    pem = plant.plant_certificate.read_bytes()
    if not certificates.renewal_due(pem, now):
        return False
    key = certificates.read_key(plant.plant_key)
    fresh = renew(certificates.make_csr(key))
    name = certificates.identity(pem).name
    _check_certificate(fresh, plant.ca_certificate.read_bytes(), name, key)
    write_atomic(plant.plant_certificate, fresh)
    return True


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict) or "interplant-join" not in content:
        raise UsageError(
            f"{path}: expected a join file, found something else; the coordinator's operator makes one "
            "with `interplant coordinator enrol NAME`"
        )
    if str(content["interplant-join"]) != str(FORMAT):
        raise UsageError(
            f"{path}: expected a join file of format {FORMAT}, found {content['interplant-join']}; "
            "install the same version of interplant on both sides"
        )
    return content


def _parsed(content: dict[str, Any]) -> JoinFile:
    for word in _WORDS:
        if not isinstance(content.get(word), str) or "${" in content[word]:
            raise InterplantError(f"it has no plain {word!r}")
    pem = {word: content[word].encode() for word in _WORDS}
    bootstrap = certificates.identity(pem["certificate"])
    if (bootstrap.role, bootstrap.name) != ("bootstrap", content["plant"]):
        raise InterplantError(f"its certificate is for {bootstrap.role} {bootstrap.name}")
    certificates.check_issued(pem["certificate"], pem["authority"])
    certificates.check_pair(pem["certificate"], certificates.parse_key(pem["key"]))
    root = keyring.of(signing.parse_public(pem["release-key"]))
    statements = str(content.get("release-keys", "")).encode()
    if statements:
        root.extended(keyring.parse(statements, "release-keys"))
    join = JoinFile(
        content["federation"],
        content["plant"],
        content["coordinator"],
        bootstrap.not_after,
        pem["authority"],
        pem["release-key"],
        pem["certificate"],
        pem["key"],
        statements,
    )
    plant_yaml(join, join.coordinator)
    return join


def _check_time(path: Path, join: JoinFile, now: datetime) -> None:
    if now > join.expires:
        raise UsageError(
            f"{path}: this join file expired on {certificates.readable(join.expires)}, and the clock of "
            f"this machine says {certificates.readable(now)}; ask for a new one "
            f"(`interplant coordinator enrol {join.plant}`) or set the clock"
        )
    try:
        certificates.check_clock(join.certificate, "ask for a new join file", now)
    except InterplantError as error:
        raise UsageError(f"{path}: {error}") from None


def _check_certificate(pem: bytes, authority: bytes, name: str, key: certificates.Key) -> None:
    certificates.check_issued(pem, authority)
    certificates.check_pair(pem, key)
    found = certificates.identity(pem)
    if (found.role, found.name) != ("plant", name):
        raise InterplantError(
            f"expected a certificate for plant {name}, the coordinator sent one for {found.role} "
            f"{found.name}; ask its operator for a new join file"
        )
