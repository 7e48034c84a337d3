"""What the registry knows, as plain values. Times are UTC with zone."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

RUN_STATES: Final = ("queued", "running", "waiting", "paused", "finished", "failed", "stopped")
RUN_ENDS: Final = ("finished", "failed", "stopped")

RELEASE_MOVES: Final = {
    "candidate": ("approved", "rejected", "superseded"),
    "approved": ("rolling_out", "rejected", "superseded"),
    "rolling_out": ("active", "superseded", "rolled_back"),
    "active": ("superseded", "rolled_back"),
    "superseded": ("rolling_out",),
    "rejected": (),
    "rolled_back": (),
}
"""Which states a release may go to from each. A superseded one is offered again by a rollback alone."""

OFFERED: Final = ("approved", "rolling_out", "active")
"""States in which plants are told of a release; of one task, one release at a time."""


@dataclass(frozen=True)
class Plant:
    """A plant that is (``enrolled``) or was (``revoked``) part of the federation.

    Attributes:
        name: Unique in the federation.
        state: ``enrolled`` or ``revoked``.
        node_id: Flower's number for the plant: positive, 63 bits, the same for ever.
        enrolled_at: When it last joined.
        last_seen: When it was last heard of.
        protocol: Version it spoke then.
    """

    name: str
    state: str
    node_id: int
    enrolled_at: datetime
    last_seen: datetime | None
    protocol: str | None

    @property
    def is_enrolled(self) -> bool:
        """Whether the plant is part of the federation now."""
        return self.state == "enrolled"


@dataclass(frozen=True)
class Invitation:
    """A join file: usable once, until it expires or a newer one for the plant withdraws it."""

    serial: str
    plant: str
    created: datetime
    expires: datetime
    used_at: datetime | None
    withdrawn_at: datetime | None


@dataclass(frozen=True)
class Issued:
    """A certificate fresh from the authority.

    Attributes:
        serial: Its serial number, lower-case hex.
        expires: End of its validity.
        pem: The certificate itself.
        key: SHA-256 of the holder's public key, hex.
    """

    serial: str
    expires: datetime
    pem: str
    key: str


@dataclass(frozen=True)
class CatalogueTask:
    """A task as at least one run had it.

    Attributes:
        digest: See `interplant.core.release.task_digest`.
        name: Its name; a task that was changed has the same one.
        contract: Version of its contract.
        content: The whole task, as plain JSON values.
        created: When its first run was queued.
    """

    digest: str
    name: str
    contract: str
    content: dict[str, Any]
    created: datetime


@dataclass(frozen=True)
class Run:
    """One federated training; ``round`` is the last finished one, from 0."""

    id: str
    task_name: str
    task_digest: str
    task: dict[str, Any]
    config: dict[str, Any]
    state: str
    round: int
    rounds: int
    created: datetime
    started: datetime | None
    finished: datetime | None
    reason: str

    @property
    def is_over(self) -> bool:
        """Whether the run has ended; a stopped or failed one may still be resumed."""
        return self.state in RUN_ENDS


@dataclass(frozen=True)
class Dropped:
    """A plant that a round went on without, and why, in our own words."""

    plant: str
    code: str
    sentence: str


@dataclass(frozen=True)
class Round:
    """One attempt at one round; ``seconds`` maps a part of the round to its duration."""

    run: str
    round: int
    attempt: int
    participants: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    seconds: dict[str, float]
    recorded: datetime


@dataclass(frozen=True)
class Release:
    """A signed model version.

    Attributes:
        id: Its name.
        run: What trained it.
        task: Name of the task.
        manifest_sha256: Digest of its manifest, which names all of its bytes.
        created: When it was recorded.
        state: A key of `RELEASE_MOVES`.
        back_to: The release that its rollback led to, if there was one to go back to.
    """

    id: str
    run: str | None
    task: str
    manifest_sha256: str
    created: datetime
    state: str
    back_to: str | None


@dataclass(frozen=True)
class Deployment:
    """What a plant said of a release, as far as its policy lets it."""

    release: str
    plant: str
    state: str
    reason: str
    updated: datetime


@dataclass(frozen=True)
class Event:
    """One line of history: ``kind`` such as ``plant.revoked``, ``subject`` such as a plant's name."""

    id: int
    time: datetime
    kind: str
    subject: str
    text: str


def no_quorum(number: int, found: int, quorum: int) -> str:
    """Begin the reason of a run that is paused for want of plants; other reasons begin otherwise."""
    return f"round {number} found {found} good updates, expected {quorum}"


def node_id(name: str) -> int:
    """Return Flower's number for a plant: the same for the same name, positive, 63 bits.

    Made from the name, so that a federation rebuilt elsewhere visits its plants in the same order.
    """
    return (int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1) or 1
