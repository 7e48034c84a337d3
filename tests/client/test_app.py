"""The installed ClientApp, as our agent and as a stock SuperNode call it."""

import pytest

from interplant.client import app as module
from interplant.client.directory import PlantDirectory
from interplant.core import flower
from interplant.core.flower import refusal
from interplant.core.schema import Task

from .conftest import OPEN, START, TASK, FakeTrainer, edit, request


def test_our_agent_has_its_own_trainer(bare: PlantDirectory, fake: FakeTrainer) -> None:
    app = module.make_app(bare, fake)
    reply = app(request(TASK, START), flower.context(7, 5, {}, {}))
    assert list(reply.content.array_records["update"]) == ["stretch", "shift"]
    assert fake.trained == [("run-1", 1)]


@pytest.mark.parametrize("task", [TASK, OPEN])
def test_a_supernode_finds_its_plant_by_the_nodes_configuration(ready: PlantDirectory, task: Task) -> None:
    edit(ready, lambda plant: setattr(plant.policy.privacy, "allow_none", True))
    node = flower.context(7, 5, {"plant": str(ready.path)}, {"plant": "/somewhere/else"})
    reply = module.app(request(task, START), node)
    assert reply.content.config_records["receipt"]["plant"] == "north"
    assert (reply.content.config_records["receipt"]["epsilon"] > 0) == (task is TASK)
    assert ready.audit.exists()


def test_the_policy_holds_there_too(ready: PlantDirectory) -> None:
    node = flower.context(7, 5, {"plant": str(ready.path)}, {"allow_none": True})
    assert refusal(module.app(request(OPEN, START), node)) == "policy_privacy"


@pytest.mark.parametrize("kind", ["query", "evaluate", "system"])
def test_nothing_but_training_is_offered(bare: PlantDirectory, fake: FakeTrainer, kind: str) -> None:
    message = request(TASK, START)
    message.metadata.message_type = kind
    with pytest.raises(ValueError, match=kind):
        module.make_app(bare, fake)(message, flower.context(7, 5, {}, {}))
    assert fake.trained == []
