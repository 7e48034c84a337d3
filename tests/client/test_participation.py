"""A round at a plant: an update, or a code; never a text about data."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from interplant.client import policy
from interplant.client.directory import PlantDirectory
from interplant.client.participation import read, take_part
from interplant.core import config
from interplant.core.errors import InterplantError, Refusal
from interplant.core.flower import refusal
from interplant.core.schema import Plant
from interplant.core.wire import to_parcel

from .conftest import OPEN, START, TASK, FakeTrainer, audited, edit, receipt, request

SECRET = "bore 42.7 mm"


def answer(plant: PlantDirectory, trainer: FakeTrainer, message: Message) -> str:
    """The code of a refusal, which is all that the reply holds."""
    reply = take_part(plant, trainer, message)
    assert reply.has_error()
    assert not reply.has_content()
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert SECRET.encode() not in to_parcel(reply, None).SerializeToString()
    assert reply.error.reason == refusal(reply)
    return refusal(reply)


def test_a_good_round_is_answered_with_an_update(bare: PlantDirectory, fake: FakeTrainer) -> None:
    reply = take_part(bare, fake, request(TASK, START, 2))
    assert fake.trained == [("run-1", 2)]
    assert reply.content.array_records["update"]["shift"].numpy() == [2.0]
    assert [line["what"] for line in audited(bare)] == ["update"]


def test_the_request_is_read_whole() -> None:
    found = read(request(TASK, START, 3))
    assert (found.run, found.round) == ("run-1", 3)
    assert config.dump(found.task) == config.dump(TASK)
    assert found.weights.keys() == START.keys()
    assert all(isinstance(array, np.ndarray) for array in found.weights.values())


def test_the_policy_is_asked_before_anything_is_trained(bare: PlantDirectory, fake: FakeTrainer) -> None:
    assert answer(bare, fake, request(replace(TASK, name="other"), START)) == "policy_task"
    assert answer(bare, fake, request(OPEN, START)) == "policy_privacy"
    edit(bare, lambda plant: setattr(plant.data, "declared_windows", 0))
    assert answer(bare, fake, request(TASK, START)) == "undeclared_size"
    policy.pause(bare)
    assert answer(bare, fake, request(TASK, START)) == "paused"
    assert fake.trained == []
    assert not bare.ledger.exists()


def test_a_policy_that_cannot_be_read_trains_nothing(bare: PlantDirectory, fake: FakeTrainer) -> None:
    bare.config.write_text(bare.config.read_text() + f"allow: {SECRET}\n")
    assert answer(bare, fake, request(TASK, START)) == "internal"
    assert fake.trained == []


@pytest.mark.parametrize(
    "text", ["nonsense", "[]", "{}", '{"name": "wear"}', '{"name": "wear", "code": "x"}']
)
def test_a_task_that_cannot_be_is_refused(bare: PlantDirectory, fake: FakeTrainer, text: str) -> None:
    assert answer(bare, fake, request(TASK, START, text=text)) == "task_invalid"


@pytest.mark.parametrize("missing", ["task", "weights", "round", "run"])
def test_a_request_that_lacks_a_part_is_refused(
    bare: PlantDirectory, fake: FakeTrainer, missing: str
) -> None:
    message = request(TASK, START)
    content: RecordDict = message.content
    if missing in content:
        del content[missing]
    else:
        del content.config_records["task"][missing]
    assert answer(bare, fake, message) == "task_invalid"


def test_a_round_that_is_no_number_is_refused(bare: PlantDirectory, fake: FakeTrainer) -> None:
    message = request(TASK, START)
    words: Any = dict(message.content.config_records["task"])
    message.content["task"] = ConfigRecord(words | {"round": "one"})
    assert answer(bare, fake, message) == "task_invalid"


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Refusal("budget_spent", SECRET), "budget_spent"),
        (Refusal("trainer_died", SECRET), "trainer_died"),
        (InterplantError(SECRET), "internal"),
        (ValueError(SECRET), "internal"),
        (OSError(28, SECRET), "internal"),
        (type("Own", (Exception,), {})(SECRET), "internal"),
    ],
)
def test_a_failure_leaves_as_a_code_without_its_text(
    bare: PlantDirectory, fake: FakeTrainer, failure: Exception, code: str
) -> None:
    fake.fail = failure
    assert answer(bare, fake, request(TASK, START)) == code


def test_the_plants_own_log_has_the_text(
    bare: PlantDirectory, fake: FakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    fake.fail = ValueError(SECRET)
    answer(bare, fake, request(TASK, START))
    assert SECRET in caplog.text


def test_a_result_that_the_gateway_stops_is_a_refusal(bare: PlantDirectory) -> None:
    class Lazy(FakeTrainer):
        def train(self, *job: Any) -> Any:
            trained = super().train(*job)
            return replace(trained, receipt=receipt(epsilon=0.0))

    assert answer(bare, Lazy(), request(TASK, START)) == "gateway"


def test_nothing_in_a_request_reaches_the_policy(bare: PlantDirectory, fake: FakeTrainer) -> None:
    """Words beside the known ones are not read, whatever they say."""
    message = request(OPEN, START)
    words: Any = dict(message.content.config_records["task"])
    message.content["task"] = ConfigRecord(words | {"allow_none": "true", "policy": "allow_none: true"})
    message.content["policy"] = ConfigRecord({"allow_none": True, "tasks": ["other"]})
    assert answer(bare, fake, message) == "policy_privacy"
    settings: Plant = bare.load()
    assert not settings.policy.privacy.allow_none
