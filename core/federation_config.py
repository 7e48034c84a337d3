"""``federation.yaml``: the coordinator's settings."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from interplant.core.automation_config import Automation
from interplant.core.possible import address, between, is_name, need, one_of

CODECS = ("bf16", "int8", "top_k")
"""How arrays can travel in fewer bytes; see `interplant.core.compression`."""

APPROVALS = ("auto", "person")
"""Who lets plants be told of a release: the coordinator by itself, or a person with `release approve`."""

ORDERS = ("arrival", "plants")
"""In which order updates are folded: as they come, or by the plants' names."""


@dataclass
class Certificates:
    """How long certificates are valid. They renew themselves when a third of the time is left."""

    plant_hours: float = 720.0
    server_hours: float = 2160.0
    join_hours: float = 24.0


@dataclass
class Compression:
    """How arrays may travel in fewer bytes; a plant takes part in it or not, as it likes.

    ``update`` is how plants pack their updates, ``model`` how the coordinator packs the difference between
    this round's model and the last one; ``keep`` is the share of the values that ``top_k`` sends.
    """

    update: str = "none"
    model: str = "none"
    keep: float = 0.01

    @property
    def offered(self) -> bool:
        """Whether anything is offered to plants."""
        return (self.update, self.model) != ("none", "none")


@dataclass
class Rounds:
    """When a round goes on, waits or gives up.

    ``order``: with ``plants``, updates are folded by the plants' names, and the same updates give the
    same bits; with ``arrival``, each is folded as it comes, and only rounding differs.

    ``plants`` is how many updates a round wants, 0 for all plants'; a share ``spare`` more are asked, and the
    slowest of them are not waited for. Who is asked has paid for its update all the same.
    """

    quorum: int = 1
    plants: int = 0
    spare: float = 0.0
    deadline_seconds: float = 600.0
    retries: int = 5
    retry_seconds: float = 5.0
    max_update_norm: float = 1e4
    order: str = "arrival"
    compression: Compression = field(default_factory=Compression)


@dataclass
class Federation:
    """The coordinator: where it listens, what it keeps, how it runs rounds.

    ``listen`` is what the server binds; ``address`` is what plants dial.
    """

    name: str = MISSING
    listen: str = "127.0.0.1:7443"
    address: str = "127.0.0.1:7443"
    database: str = "sqlite:///registry.db"
    artifacts: str = ""
    upload_turns: int = 2
    approval: str = "auto"
    certificates: Certificates = field(default_factory=Certificates)
    rounds: Rounds = field(default_factory=Rounds)
    automation: list[Automation] = field(default_factory=list)

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(
            is_name(self.name),
            "name",
            f"expected letters, digits and hyphens, found {self.name!r}",
        )
        address(self.listen, "listen")
        address(self.address, "address")
        need(self.upload_turns >= 1, "upload_turns", f"expected 1 or more, found {self.upload_turns}")
        one_of(self.approval, APPROVALS, "approval")
        for key in ("plant_hours", "server_hours", "join_hours"):
            value = getattr(self.certificates, key)
            need(value > 0, f"certificates.{key}", f"expected more than 0, found {value}")
        rounds = self.rounds
        need(rounds.quorum >= 1, "rounds.quorum", f"expected 1 or more, found {rounds.quorum}")
        for key in ("deadline_seconds", "retry_seconds", "max_update_norm"):
            value = getattr(rounds, key)
            need(value > 0, f"rounds.{key}", f"expected more than 0, found {value}")
        need(rounds.retries >= 0, "rounds.retries", f"expected 0 or more, found {rounds.retries}")
        one_of(rounds.order, ORDERS, "rounds.order")
        for key in ("update", "model"):
            one_of(getattr(rounds.compression, key), ("none", *CODECS), f"rounds.compression.{key}")
        between(rounds.compression.keep, 1e-6, 0.5, "rounds.compression.keep")
        need(
            rounds.plants == 0 or rounds.plants >= rounds.quorum,
            "rounds.plants",
            f"expected 0 (all) or no less than rounds.quorum ({rounds.quorum}), found {rounds.plants}",
        )
        between(rounds.spare, 0.0, 10.0, "rounds.spare")
        for place, one in enumerate(self.automation):
            one.check(f"automation.{place}")
        names = [one.task for one in self.automation]
        twice = sorted({name for name in names if names.count(name) > 1})
        need(not twice, "automation", f"expected a task once, found {twice} twice")
