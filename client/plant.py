"""``interplant plant serve``: its processes, started again when they die; the agent keeps the trainer."""

import logging
import threading
from typing import Final

from interplant.client import connection
from interplant.client.directory import PlantDirectory, data_repository
from interplant.client.model_repository import InStep
from interplant.core import certificates, processes
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import only_one
from interplant.core.processes import Service, python_module, supervise

log = logging.getLogger(__name__)

_TURNED_AWAY_SECONDS: Final = 300.0
"""After how long a plant that the coordinator has turned away asks again, if it serves meanwhile."""

_REMEDY: Final = "ask the coordinator's operator for a new join file"


def serve(plant: PlantDirectory, stopping: threading.Event | None = None) -> int:
    """Run the plant until Ctrl-C or a polite end.

    Args:
        plant: The plant's directory.
        stopping: Ends it; by default the signals do.

    Returns:
        The exit code.

    Raises:
        UsageError: A word or a file is wrong, as one of its processes has found.
        InterplantError: Another process runs this plant; its certificate is no good; the coordinator
            will not have it.
    """
    serves = bool(plant.load().serving.listen)
    outside = _keys_trouble(plant)
    if outside and not serves:
        raise InterplantError(outside)
    data_repository(plant)
    if stopping is None:
        stopping = threading.Event()
        processes.on_stop_signals(stopping)
    with only_one(plant.serve_lock, "this plant"):
        here = str(plant.path.resolve())
        services = []
        if outside:
            log.error("%s: the plant serves without a connection", outside)
            connection.note(plant, connection.TURNED_AWAY, outside)
        else:
            # Predictions go on, whatever the coordinator makes of this plant.
            again = _TURNED_AWAY_SECONDS if serves else 0.0
            services.append(Service("agent", python_module("interplant.client.agent", here), alone=again))
        if plant.load().data.sources:
            services.append(Service("sources", python_module("interplant.client.feeding", here)))
        if plant.load().automation.monitors:
            services.append(Service("monitor", python_module("interplant.client.monitor", here)))
        if serves:
            services.append(Service("serving", python_module("interplant.client.serving", here)))
            services.append(Service("trial", python_module("interplant.client.trial", here)))
        try:
            if code := supervise(services, stopping, InStep(plant)):
                reasons = [service.reason for service in services if service.reason]
                kind = UsageError if code == UsageError.exit_code else InterplantError
                raise kind(reasons[0] if reasons else "the agent ended without a word")
        finally:
            connection.forget(plant)
    return 0


def _keys_trouble(plant: PlantDirectory) -> str:
    try:
        check_keys(plant)
    except InterplantError as error:
        return str(error)
    return ""


def check_keys(plant: PlantDirectory) -> None:
    """Raise `InterplantError` unless the plant's certificate is its own, of its federation, and valid now.

    Who would be turned away by every coordinator is told before anything starts.
    """
    pem = certificates.read_pem(plant.plant_certificate)
    try:
        certificates.check_issued(pem, certificates.read_pem(plant.ca_certificate))
        certificates.check_pair(pem, certificates.read_key(plant.plant_key))
        holder, name = certificates.identity(pem), plant.load().name
        if (holder.role, holder.name) != ("plant", name):
            raise InterplantError(
                f"expected the certificate of plant {name}, found that of {holder.role} {holder.name}"
            )
        certificates.check_clock(pem, _REMEDY)
    except InterplantError as error:
        remedy = "" if _REMEDY in str(error) else f": restore keys/ from a backup, or {_REMEDY}"
        raise InterplantError(f"{plant.plant_certificate}: {error}{remedy}") from None
