"""``plant serve``: what is wrong is said before anything starts."""

import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from interplant.client import connection, plant
from interplant.client.directory import PlantDirectory
from interplant.core import certificates
from interplant.core.errors import InterplantError
from interplant.core.files import only_one

from ..waiting import until
from .conftest import edit

AGENT = """
import sys
sys.path[:0] = {path!r}
print("away")
print({words!r})
sys.exit({code})
"""


@pytest.fixture
def served(ready: PlantDirectory, certify: Callable[..., None]) -> PlantDirectory:
    """A plant that can be served."""
    certify(ready)
    return ready


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Agents that were started; each is turned away at once."""
    seen: list[str] = []

    def command(module: str, *words: str) -> list[str]:
        seen.append(module)
        return [
            sys.executable,
            "-S",
            "-c",
            AGENT.format(path=[], words="127.0.0.1:1: north is revoked", code=3),
        ]

    monkeypatch.setattr(plant, "python_module", command)
    return seen


def test_what_the_agent_said_last_is_the_commands_one_line(
    served: PlantDirectory, started: list[str]
) -> None:
    connection.note(served, connection.AWAY, "nobody")
    with pytest.raises(InterplantError, match=r"^127\.0\.0\.1:1: north is revoked$"):
        plant.serve(served, threading.Event())
    assert started == ["interplant.client.agent"]
    assert not served.connection.exists(), "a plant that does not serve is not away"


def test_a_polite_end_is_exit_0(served: PlantDirectory, started: list[str]) -> None:
    stopping = threading.Event()
    stopping.set()
    assert plant.serve(served, stopping) == 0


def test_one_plant_is_served_once(served: PlantDirectory, started: list[str]) -> None:
    with (
        only_one(served.serve_lock, "x"),
        pytest.raises(InterplantError, match="this plant is already running"),
    ):
        plant.serve(served, threading.Event())
    assert started == []


def wrong_authority(served: PlantDirectory, certify: Callable[..., None]) -> None:
    served.ca_certificate.write_bytes(certificates.make_authority("other").pem)


def wrong_key(served: PlantDirectory, certify: Callable[..., None]) -> None:
    certificates.write_key(served.plant_key, certificates.key_pem(certificates.make_key()))


def wrong_name(served: PlantDirectory, certify: Callable[..., None]) -> None:
    certify(served, name="south")


def ended(served: PlantDirectory, certify: Callable[..., None]) -> None:
    certify(served, lifetime=timedelta(seconds=-1))


def no_certificate(served: PlantDirectory, certify: Callable[..., None]) -> None:
    served.plant_certificate.write_text("nonsense")


@pytest.mark.parametrize("spoil", [wrong_authority, wrong_key, wrong_name, ended, no_certificate])
def test_keys_that_every_coordinator_would_turn_away_start_nothing(
    served: PlantDirectory, certify: Callable[..., None], started: list[str], spoil: Callable[..., None]
) -> None:
    plant.check_keys(served)
    spoil(served, certify)
    with pytest.raises(InterplantError, match="new join file") as caught:
        plant.serve(served, threading.Event())
    assert str(caught.value).startswith(str(served.plant_certificate))
    assert str(caught.value).count("new join file") == 1
    assert "\n" not in str(caught.value)
    assert started == []


def test_who_serves_goes_on_when_the_coordinator_turns_it_away(
    served: PlantDirectory, started: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    edit(served, lambda one: setattr(one.serving, "listen", "0"))
    stopping = threading.Event()
    code: list[int] = []
    child = "import sys, time; print('revoked', flush=True); "
    ends = {"interplant.client.agent": child + "sys.exit(3)"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            plant,
            "python_module",
            lambda module, *_: [sys.executable, "-S", "-c", ends.get(module, child + "time.sleep(600)")],
        )
        thread = threading.Thread(target=lambda: code.append(plant.serve(served, stopping)))
        thread.start()
        until(lambda: "agent: revoked; trying again in 300 s" in caplog.text)
        assert thread.is_alive()
        stopping.set()
        thread.join(30)
    assert code == [0]


def test_who_serves_does_so_also_with_keys_that_have_ended(
    served: PlantDirectory, certify: Callable[..., None], started: list[str]
) -> None:
    edit(served, lambda one: setattr(one.serving, "listen", "0"))
    ended(served, certify)
    stopping = threading.Event()
    thread = threading.Thread(target=lambda: plant.serve(served, stopping))
    thread.start()
    until(lambda: "interplant.client.serving" in started and served.connection.exists())
    stopping.set()
    thread.join(30)
    assert "interplant.client.agent" not in started


def test_a_coordinators_certificate_is_not_a_plants(
    served: PlantDirectory, authority: certificates.Issuer
) -> None:
    key = certificates.read_key(served.plant_key)
    pem = certificates.issue(
        authority, key.public_key(), "server", "north", lifetime=timedelta(hours=1), hosts=["127.0.0.1"]
    )
    served.plant_certificate.write_bytes(pem)
    with pytest.raises(InterplantError, match="found that of server north"):
        plant.check_keys(served)
