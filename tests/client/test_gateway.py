"""The one way out: what is not declared does not leave, and what leaves is on record first."""

import math
from dataclasses import asdict, fields, replace
from typing import Any

import flwr.app
import numpy as np
import pytest

from interplant.client import gateway
from interplant.client.directory import PlantDirectory
from interplant.client.trained import Trained
from interplant.core.errors import InterplantError, Refusal
from interplant.core.receipt import Receipt
from interplant.core.schema import Metric, Task
from interplant.core.tensors import Tensors

from .conftest import OPEN, START, TASK, audited, edit, receipt, request

UPDATE: Tensors = {"stretch": np.full(1, 0.5, np.float32), "shift": np.full(1, -0.5, np.float32)}


def let_out(plant: PlantDirectory, update: Tensors, task: Task = TASK, **words: Any) -> Any:
    trained = Trained(update, receipt(**words))
    return gateway.let_out(plant, task, START, trained, request(task, START))


def test_a_reply_holds_the_update_and_the_receipt_and_nothing_else(bare: PlantDirectory) -> None:
    asked = request(TASK, START)
    reply = gateway.let_out(bare, TASK, START, Trained(UPDATE, receipt()), asked)
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id
    assert {name: list(record) for name, record in reply.content.items()} == {
        "update": ["stretch", "shift"],
        "receipt": [field.name for field in fields(Receipt)],
    }
    for name, array in UPDATE.items():
        np.testing.assert_array_equal(reply.content.array_records["update"][name].numpy(), array)
    assert reply.content.config_records["receipt"]["epsilon"] == 0.5


def test_the_log_names_what_left_without_its_values(bare: PlantDirectory) -> None:
    let_out(bare, UPDATE)
    let_out(bare, UPDATE)
    first, second = audited(bare)
    assert first["time"] <= second["time"]
    assert (first["what"], first["message"]) == ("update", "run-1.1.7")
    assert first["arrays"] == {"stretch": [1], "shift": [1]}
    assert first["receipt"] == asdict(receipt())


BAD: list[Tensors] = [
    {},
    {"stretch": UPDATE["stretch"]},
    UPDATE | {"losses": np.zeros(3, np.float32)},
    UPDATE | {"stretch": np.zeros(2, np.float32)},
    UPDATE | {"stretch": np.zeros((1, 1), np.float32)},
    UPDATE | {"stretch": np.zeros((), np.float32)},
    UPDATE | {"stretch": np.zeros(1, np.float64)},
    UPDATE | {"stretch": np.zeros(1, np.int32)},
    UPDATE | {"stretch": np.full(1, np.nan, np.float32)},
    UPDATE | {"shift": np.full(1, -np.inf, np.float32)},
]


@pytest.mark.parametrize("update", BAD)
def test_an_update_that_is_not_the_models_stays(bare: PlantDirectory, update: Tensors) -> None:
    with pytest.raises(Refusal) as caught:
        let_out(bare, update)
    assert caught.value.code == "gateway"
    assert audited(bare) == []


@pytest.mark.parametrize(
    "words",
    [
        {"mechanism": "none"},
        {"mechanism": ""},
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": math.nan},
        {"epsilon": math.inf},
    ],
)
def test_a_private_update_without_a_charge_stays(bare: PlantDirectory, words: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        let_out(bare, UPDATE, **words)
    assert caught.value.code == "gateway"
    assert audited(bare) == []


def test_without_privacy_the_receipt_must_say_so(bare: PlantDirectory) -> None:
    with pytest.raises(Refusal):
        let_out(bare, UPDATE, OPEN)
    let_out(bare, UPDATE, OPEN, mechanism="none", unit="", epsilon=0.0, delta=0.0)
    assert audited(bare)[0]["receipt"]["mechanism"] == "none"


def test_what_cannot_be_logged_does_not_leave(bare: PlantDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.audit.mkdir()
    with pytest.raises(OSError, match="directory"):
        let_out(bare, UPDATE)
    with pytest.raises(OSError, match="directory"):
        gateway.let_out_words(bare, "refusal", {"code": "paused"})
    bare.audit.rmdir()
    bare.audit.symlink_to("/dev/full")
    with pytest.raises(InterplantError, match="disk is full"):
        let_out(bare, UPDATE)


def test_the_line_is_on_the_disk_before_the_reply_exists(
    bare: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    really, sync = flwr.app.Message, gateway.os.fsync

    def synced(descriptor: int) -> None:
        sync(descriptor)
        order.append(f"synced {len(audited(bare))}")

    def built(*args: Any, **words: Any) -> Any:
        order.append("reply")
        return really(*args, **words)

    monkeypatch.setattr(gateway.os, "fsync", synced)
    monkeypatch.setattr(flwr.app, "Message", built)
    let_out(bare, UPDATE)
    assert order == ["synced 1", "reply"]


def test_short_words_are_logged_and_handed_back(bare: PlantDirectory) -> None:
    words = {"release": "r-1", "state": "active", "code": ""}
    assert gateway.let_out_words(bare, "deployment", words) == words
    (line,) = audited(bare)
    assert line.pop("time") > 0
    assert line == {"what": "deployment"} | words


def test_a_round_in_test_mode_leaves_without_a_charge(bare: PlantDirectory) -> None:
    """Its noise can be repeated: nothing is private, so nothing was charged."""
    task = replace(TASK, privacy=replace(TASK.privacy, mechanism="dp-sgd-test"))
    reply = let_out(bare, UPDATE, task, mechanism="dp-sgd-test", unit="", epsilon=0.0, delta=0.0)
    assert reply.content.config_records["receipt"]["mechanism"] == "dp-sgd-test"
    with pytest.raises(Refusal):
        let_out(bare, UPDATE, TASK, epsilon=0.0)


MEASURED = replace(TASK, metrics={"loss": Metric()})


def let_metrics_out(
    plant: PlantDirectory, metrics: dict[str, Any], task: Task = MEASURED, **words: Any
) -> Any:
    return gateway.let_out(
        plant, task, START, Trained(UPDATE, receipt(**words), metrics), request(task, START)
    )


def allow(plant: PlantDirectory, *names: str) -> None:
    edit(plant, lambda settings: setattr(settings.policy, "metrics", list(names)))


def test_a_metric_that_task_and_policy_name_leaves_and_is_on_record(bare: PlantDirectory) -> None:
    allow(bare, "loss", "units")
    reply = let_metrics_out(bare, {"loss": -0.25})
    assert set(reply.content) == {"update", "receipt", "metrics"}
    assert dict(reply.content.metric_records["metrics"]) == {"loss": -0.25}
    assert audited(bare)[0]["metrics"] == {"loss": -0.25}


def test_without_metrics_neither_reply_nor_record_speaks_of_them(bare: PlantDirectory) -> None:
    allow(bare, "loss")
    assert not let_metrics_out(bare, {}).content.metric_records
    assert "metrics" not in audited(bare)[0]


def test_a_metric_stays_that_the_policy_does_not_name(bare: PlantDirectory) -> None:
    stays(bare, {"loss": 0.5})
    allow(bare, "units")
    stays(bare, {"loss": 0.5})


def test_a_metric_stays_that_the_task_does_not_declare(bare: PlantDirectory) -> None:
    allow(bare, "loss", "units")
    stays(bare, {"units": 40.0})
    stays(bare, {"loss": 0.5, "rows": 7.0})
    stays(bare, {"loss": 0.5}, TASK)
    stays(bare, {"loss": 0.5}, replace(TASK, metrics={"loss": Metric(mechanism="none")}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3, True, "0.5", [0.5], None])
def test_a_metric_stays_that_is_not_a_finite_number(bare: PlantDirectory, value: Any) -> None:
    allow(bare, "loss")
    stays(bare, {"loss": value})


@pytest.mark.parametrize("mechanism", ["dp-sgd-test", "none"])
def test_metrics_of_a_task_without_privacy_stay(bare: PlantDirectory, mechanism: str) -> None:
    """Nothing was charged for them."""
    allow(bare, "loss")
    task = replace(MEASURED, privacy=replace(TASK.privacy, mechanism=mechanism))
    stays(bare, {"loss": 0.5}, task, mechanism=mechanism, unit="", epsilon=0.0, delta=0.0)


def stays(plant: PlantDirectory, metrics: dict[str, Any], task: Task = MEASURED, **words: Any) -> None:
    with pytest.raises(Refusal, match="metric") as caught:
        let_metrics_out(plant, metrics, task, **words)
    assert caught.value.code == "gateway"
    assert audited(plant) == []
