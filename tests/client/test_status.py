"""How a plant stands, from its directory alone."""

import json
import subprocess
import sys

import pytest

from interplant.client import connection, policy, verdicts
from interplant.client.directory import PlantDirectory
from interplant.client.outbox import Outbox
from interplant.client.serving_status import ServingStatus
from interplant.client.spending import spending
from interplant.client.status import status
from interplant.client.verdicts import Verdict
from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError

from .conftest import START


def test_a_new_plant(bare: PlantDirectory) -> None:
    found = status(bare)
    assert (found.plant, found.federation) == ("north", "test")
    assert found.connection.state == connection.NOT_SERVING
    assert not found.paused
    assert found.budgets == spending(bare)
    assert (found.champion, found.waiting, found.kept_replies) == (None, [], 0)
    assert found.serving == ServingStatus("off")


def test_everything_that_a_person_has_to_know(bare: PlantDirectory) -> None:
    policy.pause(bare)
    connection.note(bare, connection.TURNED_AWAY, "revoked")
    bare.champion.write_text(json.dumps({"release": "r-1", "previous": None, "since": "now"}))
    for release, state in (("r-1", "active"), ("r-2", "waiting"), ("r-3", "refused")):
        verdicts.record(bare, release, Verdict(state, "", "words"))
    outbox = Outbox(bare.outbox)
    for message_id in ("run.1.7", "run.2.7"):
        outbox.keep(pb.Parcel(reply_to=message_id), START)
    found = status(bare)
    assert found.paused
    assert (found.connection.state, found.connection.reason) == (connection.TURNED_AWAY, "revoked")
    assert (found.champion, found.waiting, found.kept_replies) == ("r-1", ["r-2"], 2)


def test_a_damaged_pointer_is_said(bare: PlantDirectory) -> None:
    bare.champion.write_text("{")
    with pytest.raises(InterplantError, match="restore it from a backup"):
        status(bare)


def test_looking_is_light() -> None:
    heavy = ["torch", "flwr", "grpc", "dp_accounting"]
    code = f"import sys, interplant.client.status; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
