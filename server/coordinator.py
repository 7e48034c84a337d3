"""``interplant coordinator serve``: its children, restarted when they die."""

import logging
import threading
import time
from collections.abc import Callable

from interplant.core import certificates, processes
from interplant.core.errors import InterplantError
from interplant.core.files import only_one
from interplant.core.processes import Service, python_module, supervise
from interplant.server.authority import Authority
from interplant.server.directory import CoordinatorDirectory
from interplant.server.rules import MEND, Rules

log = logging.getLogger(__name__)

_FRUGAL = {"MALLOC_ARENA_MAX": "1"}
"""One heap for all of gRPC's threads: pieces of models leave less unused memory behind."""

_RENEW_EVERY = 20.0
"""Seconds between looks at the server's own certificate."""


def serve(directory: CoordinatorDirectory, stopping: threading.Event | None = None) -> int:
    """Run the gRPC process, the round process and the automation, once there is one, until a polite end.

    Args:
        directory: The coordinator's directory.
        stopping: Ends it; by default the signals do.

    Returns:
        The exit code.

    Raises:
        UsageError: ``federation.yaml`` or a task that it follows is wrong.
        InterplantError: Another coordinator runs from this directory; the port is in use.
    """
    rules = Rules(directory)
    check_keys(directory)
    if stopping is None:
        stopping = threading.Event()
        processes.on_stop_signals(stopping)
    with only_one(directory.path / "serve.lock", "a coordinator"):
        path = str(directory.path.resolve())
        services = [
            Service("gRPC server", python_module("interplant.server.service", path), environment=_FRUGAL),
            Service("round loop", python_module("interplant.server.runner", path)),
        ]
        automation = Service("automation", python_module("interplant.server.automation", path))
        automation.has_worked = True  # its files were right just now: one that is spoilt later is waited for
        renew = _chores(directory)

        def tick() -> None:
            renew()
            if automation not in services and _follows(rules):
                services.append(automation)  # the supervisor starts what is new

        if supervise(services, stopping, tick):
            raise InterplantError(next(filter(None, (one.reason for one in services)), "a process ended"))
    return 0


def check_keys(directory: CoordinatorDirectory) -> None:
    """Raise `InterplantError` unless the server's certificate is its own and of this federation."""
    if not directory.server_certificate.exists():
        return  # `Authority.ensure_server_certificate` writes it anew
    pem = certificates.read_pem(directory.server_certificate)
    try:
        certificates.check_issued(pem, certificates.read_pem(directory.ca_certificate))
        certificates.check_pair(pem, certificates.read_key(directory.server_key))
    except InterplantError as error:
        raise InterplantError(
            f"{directory.server_certificate}: {error}: restore keys/ from a backup, or remove this file to "
            "have it issued anew"
        ) from None


def _follows(rules: Rules) -> bool:
    """Whether a task is followed now; without one, no other process looks at the rules."""
    if rules.refresh():
        log.error("%s; %s", rules.wrong, MEND)
    return bool(rules.followed)


def _chores(directory: CoordinatorDirectory) -> Callable[[], None]:
    """Renew the server's own certificate in time; the gRPC process takes it up by itself."""
    authority = Authority.open(directory)
    authority.ensure_server_certificate()
    due = [time.monotonic() + _RENEW_EVERY]

    def tick() -> None:
        if time.monotonic() >= due[0]:
            due[0] = time.monotonic() + _RENEW_EVERY
            if authority.ensure_server_certificate():
                log.info("the server's certificate is renewed")

    return tick
