"""The order of a contract's columns is the order of the model's input channels: nothing may sort it."""

import json

from interplant.core import config
from interplant.core.release import parse_task, task_digest
from interplant.core.schema import Task
from interplant.data.tasks import builtin


def turbofan() -> Task:
    return config.load(builtin("turbofan"), Task)


def test_a_task_keeps_the_order_of_its_columns_on_the_wire() -> None:
    task = turbofan()
    there = config.parse(json.loads(config.to_json(task)), Task, "task")
    assert list(there.contract.sensors) == list(task.contract.sensors)
    assert list(task.contract.sensors) != sorted(task.contract.sensors), "or this test proves nothing"


def test_a_task_keeps_the_order_of_its_columns_in_a_release() -> None:
    task = turbofan()
    there = parse_task(json.dumps(config.dump(task)))
    assert list(there.contract.sensors) == list(task.contract.sensors)


def test_another_order_of_columns_is_another_task() -> None:
    task, other = turbofan(), turbofan()
    other.contract.sensors = dict(sorted(other.contract.sensors.items()))
    assert task_digest(task) != task_digest(other)
