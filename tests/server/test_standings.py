"""What people see of a task that is followed: before when no run starts."""

from datetime import UTC, datetime

import pytest

from interplant.core import config
from interplant.core.automation_config import Automation
from interplant.server import setup
from interplant.server import standings as module
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry
from interplant.server.standings import Standing, standings


@pytest.fixture
def directory(tmp_path):
    setup.init(tmp_path / "coordinator", "demo", "127.0.0.1:1", "127.0.0.1:1")
    return CoordinatorDirectory(tmp_path / "coordinator")


def standing(directory, **words) -> Standing:
    settings = directory.load()
    settings.automation = [Automation(**{"task": "turbofan", "apart_hours": 0.0} | words)]
    directory.config.write_text(config.to_yaml(settings))
    registry = Registry.open(directory)
    (found,) = standings(directory, registry)
    registry.close()
    return found


@pytest.mark.parametrize(
    ("words", "due"),
    [
        ({}, None),
        ({"quiet": ["09:00-22:00"]}, "2026-11-26 22:00"),
        ({"quiet": ["09:00-22:00", "Thu 22:00-23:00"]}, "2026-11-26 23:00"),
        ({"maintenance": ["Sun 02:00-04:00"]}, "2026-11-29 02:00"),
        ({"maintenance": ["Sun 02:00-04:00"], "quiet": ["Sun 00:00-03:00"]}, "2026-11-29 03:00"),
        ({"quiet": ["Mon-Sun"]}, None),
    ],
)
def test_people_see_before_when_no_run_starts(directory, monkeypatch, words, due):
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    monkeypatch.setattr(module, "utc_now", lambda: now)
    assert standing(directory, **words).not_before == (
        due and datetime.fromisoformat(due).replace(tzinfo=UTC)
    )
