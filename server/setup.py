"""Make a federation: `interplant coordinator init`."""

from pathlib import Path
from typing import Final

from interplant.core import certificates, commented, signing
from interplant.core.errors import UsageError
from interplant.core.files import write_atomic
from interplant.core.possible import Impossible
from interplant.core.schema import Federation
from interplant.core.staging import new_folder
from interplant.server.authority import write_server_certificate
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry

HEAD: Final = """The coordinator's settings. An unknown key, a wrong type or an impossible value is refused
    with file, line and key when the coordinator starts."""

COMMENTS: Final = {
    "name": "Name of the federation; it stands in every certificate.",
    "listen": "host:port that the coordinator binds; 0.0.0.0 listens on all networks.",
    "address": """host:port that plants dial. It stands in join files and in the server's certificate,
        which is issued anew when this changes.""",
    "database": "Database URL; a relative SQLite path counts from this folder.",
    "artifacts": """URL at which releases are kept, of any kind that fsspec opens (s3://bucket/path, for
        example); releases/ then holds copies. Empty: they lie in releases/ alone.""",
    "upload_turns": "How many plants send their updates at the same time.",
    "approval": """auto: plants are told of every release. person: only after `interplant release approve`
        here; each plant's own approval is a matter of its policy.""",
    "automation": """Tasks whose runs start without a command: when, and whether a person approves each;
        see docs/automation.md.""",
    "certificates": """How long certificates are valid. They renew themselves when a third of the time
        is left.""",
    "certificates.join_hours": "A join file that is not used within this time is worth nothing.",
    "rounds": "When a round goes on, waits or gives up.",
    "rounds.quorum": "Fewest plants whose updates make a round.",
    "rounds.plants": "How many updates a round wants; 0: those of all plants.",
    "rounds.spare": """Share of plants asked beyond that number. The slowest are not waited for; they have
        trained, and paid, all the same.""",
    "rounds.deadline_seconds": "A plant that has not answered by then is left out of the round.",
    "rounds.retries": "How often a round without quorum is tried again before the run stops and waits.",
    "rounds.max_update_norm": "An update with a larger L2 norm is dropped.",
    "rounds.compression": """How arrays may travel in fewer bytes between plants that take part in it:
        none, bf16, int8 or top_k.""",
    "rounds.compression.update": "The plants' updates; what rounding leaves is added to a plant's next one.",
    "rounds.compression.model": "The model, as a difference from the last round's.",
    "rounds.compression.keep": "Share of the values that top_k sends.",
    "rounds.order": """arrival: each update is folded as it comes. plants: in the order of the plants'
        names, so that the same updates give the same bits; a round then waits for the slowest in turn.""",
}


def init(directory: Path, name: str, listen: str, address: str) -> None:
    """Make a federation: authority, server certificate, release key, settings and registry.

    It appears as a whole or not at all.

    Args:
        directory: Where; it must not exist yet, or be empty.
        name: Name of the federation.
        listen: ``host:port`` that the coordinator binds.
        address: ``host:port`` that plants dial.

    Raises:
        UsageError: The directory is taken, or the name or an address is impossible.
        InterplantError: The disk is full or cannot be written.
    """
    directory = directory.absolute()
    federation = Federation(name=name, listen=listen, address=address)
    _check(federation)
    _refuse_initialised(directory)
    with new_folder(directory, "coordinator init") as folder:
        place = CoordinatorDirectory(folder)
        place.keys.mkdir(mode=0o700)
        _make_keys(place, federation)
        write_atomic(place.config, commented.to_yaml(federation, HEAD, COMMENTS))
        for empty in (place.runs, place.releases, place.spool):
            empty.mkdir()
        registry = Registry.create(federation.database, folder)
        registry.add_event("federation.created", name, f"plants dial {address}")
        registry.close()


def _check(federation: Federation) -> None:
    try:
        federation.check()
    except Impossible as error:
        raise UsageError(f"{error.key}: {error}") from None
    if not certificates.is_valid_name(federation.name):
        raise UsageError(f"name: expected a letter or digit first, found {federation.name!r}")


def _refuse_initialised(directory: Path) -> None:
    if (directory / "federation.yaml").exists():
        raise UsageError(f"{directory}: there is a federation here already; choose another folder")


def _make_keys(place: CoordinatorDirectory, federation: Federation) -> None:
    issuer = certificates.make_authority(federation.name)
    certificates.write_key(place.ca_key, certificates.key_pem(issuer.key))
    write_atomic(place.ca_certificate, issuer.pem)
    server = certificates.make_key()
    certificates.write_key(place.server_key, certificates.key_pem(server))
    write_server_certificate(place, issuer, federation, server.public_key())
    release = signing.make_key()
    certificates.write_key(place.release_key, signing.key_pem(release))
    write_atomic(place.release_public_key, signing.public_pem(release.public_key()))
