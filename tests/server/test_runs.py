"""What `run start`, `run stop` and `run resume` do, with nobody serving."""

from importlib.metadata import version

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from interplant.core import config, models
from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.core.release import Lineage, Participant, task_digest
from interplant.core.schema import Model, Rounds, Strategy, Task
from interplant.server import runs
from interplant.server.registry import Registry
from interplant.server.run_folder import RunFolder, flower_run_id


@pytest.fixture
def task():
    return Task(
        name="wear",
        rounds=4,
        contract=Contract(sensors={"s1": Column("bar", 0.0, 1.0)}),
        model=Model(args={"width": 4, "hidden": 4}),
    )


@pytest.fixture
def registry(coordinator):
    registry = Registry.open(coordinator)
    yield registry
    registry.close()


def test_a_run_is_ordered_and_queued(coordinator, registry, task):
    run = runs.start_run(coordinator, task, release=False)
    assert registry.run(run.id) == run
    assert (run.state, run.round, run.rounds, run.task_name) == ("queued", 0, 4, "wear")
    assert run.task == config.dump(task)
    folder = RunFolder(coordinator.runs / run.id)
    order = folder.order()
    assert folder.task() == task
    assert folder.rounds() == coordinator.load().rounds
    assert (order.run, order.engine, order.release) == (run.id, "grpc", False)
    assert order.run_id == flower_run_id(run.id)


def test_the_rules_for_rounds_can_be_given(coordinator, task):
    run = runs.start_run(coordinator, task, rounds=Rounds(quorum=3))
    assert RunFolder(coordinator.runs / run.id).rounds() == Rounds(quorum=3)


def test_a_run_starts_from_fresh_weights_of_the_tasks_seed(coordinator, task):
    run = runs.start_run(coordinator, task)
    first = load_file(coordinator.runs / run.id / RunFolder(coordinator.runs / run.id).order().start_from)
    expected = models.parameters(models.build(task))
    assert first.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(first[name], array)


def test_a_run_starts_from_a_release(coordinator, task):
    folder = coordinator.releases / "r-1"
    folder.mkdir()
    released = {name: array + 1 for name, array in models.parameters(models.build(task)).items()}
    save_file(released, folder / "weights.safetensors")
    run = runs.start_run(coordinator, task, start_from="r-1")
    (folder / "weights.safetensors").unlink()  # the run has its own copy
    first = load_file(coordinator.runs / run.id / RunFolder(coordinator.runs / run.id).order().start_from)
    assert first.keys() == released.keys()
    for name, array in released.items():
        np.testing.assert_array_equal(first[name], array)
    assert run.config == {"release": True, "start_from": "r-1"}
    assert RunFolder(coordinator.runs / run.id).order().parent == "r-1"


def released(coordinator, task, run):
    """The release of a run, with weights that its rounds have changed."""
    folder = coordinator.releases / "r-1"
    folder.mkdir()
    weights = {
        name: array + 1 for name, array in load_file(coordinator.runs / run / "first.safetensors").items()
    }
    save_file(weights, folder / "weights.safetensors")
    (folder / "task.json").write_text(config.to_json(task))
    plants = (Participant("north", {"ab" * 32: 3}, 3, "none", "window", 0.0, 0.0, True),)
    lineage = Lineage(
        "r-1", run, task.name, task_digest(task), version("interplant"), "2", None,
        "2025-05-01T10:00:00+00:00", 3, "grpc", False, True, plants,
    )  # fmt: skip
    (folder / "lineage.json").write_text(lineage.to_json())
    return weights


def test_a_run_from_a_release_of_the_same_model_builds_none(coordinator, task, monkeypatch):
    weights = released(coordinator, task, runs.start_run(coordinator, task).id)
    monkeypatch.setattr(models, "build", lambda _: pytest.fail("the model is built"))
    task.rounds, task.training.steps = 2, 7
    run = runs.start_run(coordinator, task, start_from="r-1")
    first = load_file(coordinator.runs / run.id / "first.safetensors")
    assert first.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(first[name], array)


@pytest.mark.parametrize("other", ["args", "channels", "version", "no run", "weights"])
def test_where_the_model_may_be_another_it_is_built(coordinator, task, other):
    before = runs.start_run(coordinator, task)
    released(coordinator, task, before.id)
    folder = coordinator.releases / "r-1"
    if other == "args":
        task.model = Model(args={"width": 5, "hidden": 4})
    elif other == "channels":
        task.contract.sensors["s2"] = Column("K", 200.0, 300.0)
    elif other == "version":
        text = (folder / "lineage.json").read_text()
        (folder / "lineage.json").write_text(text.replace(f'"{version("interplant")}"', '"0.0.9"'))
    elif other == "no run":
        (coordinator.runs / before.id / "first.safetensors").unlink()
    else:
        save_file({"w": np.ones(3, np.float32)}, folder / "weights.safetensors")
    assert runs.known_weights(coordinator, task, "r-1") is None


def test_a_release_of_another_model_is_refused_before_anything_is_written(coordinator, registry, task):
    folder = coordinator.releases / "r-1"
    folder.mkdir()
    save_file({"w": np.ones(3, np.float32)}, folder / "weights.safetensors")
    with pytest.raises(InterplantError, match="release r-1: the weights do not fit the model"):
        runs.start_run(coordinator, task, start_from="r-1")
    assert registry.runs() == []
    assert list(coordinator.runs.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "start_from", "words"),
    [
        ({"strategy": Strategy("mode")}, "", r"strategy\.name: expected one of .*median.*, found 'mode'"),
        ({"strategy": Strategy(args={"momentum": 1})}, "", r"strategy\.args: "),
        ({"model": Model("my_models.Missing")}, "", r"model\.name: .*cannot be imported"),
        ({"model": Model(args={"depth": 7})}, "", r"model\.args: "),
        ({}, "r-9", "release 'r-9' is not in .*`interplant release list`"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    coordinator, registry, task, change, start_from, words
):
    for key, value in change.items():
        setattr(task, key, value)
    with pytest.raises(UsageError, match=words):
        runs.start_run(coordinator, task, start_from=start_from)
    assert registry.runs() == []
    assert list(coordinator.runs.iterdir()) == []


@pytest.mark.parametrize("state", ["queued", "running", "paused", "waiting"])
def test_a_run_can_be_stopped_and_resumed(coordinator, registry, task, state):
    run = runs.start_run(coordinator, task)
    registry.update_run(run.id, state=state, round=2)
    assert runs.stop_run(coordinator, run.id).state == "stopped"
    assert registry.run(run.id).reason == "stopped by a person"
    resumed = runs.resume_run(coordinator, run.id)
    assert (resumed.state, resumed.round, resumed.reason) == ("queued", 2, "")


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_what_has_ended_cannot_be_stopped(coordinator, registry, task, state):
    run = runs.start_run(coordinator, task)
    registry.update_run(run.id, state=state)
    with pytest.raises(InterplantError, match=f"is {state}; expected"):
        runs.stop_run(coordinator, run.id)


@pytest.mark.parametrize("state", ["queued", "running", "finished"])
def test_what_goes_on_or_is_done_cannot_be_resumed(coordinator, registry, task, state):
    run = runs.start_run(coordinator, task)
    registry.update_run(run.id, state=state)
    with pytest.raises(InterplantError, match=f"is {state}; expected"):
        runs.resume_run(coordinator, run.id)


def test_an_unknown_run_is_told(coordinator):
    for act in (runs.stop_run, runs.resume_run):
        with pytest.raises(InterplantError, match="no run 'r-9'; see `interplant run list`"):
            act(coordinator, "r-9")


def test_run_ids_differ_and_name_messages_and_folders():
    found = {runs.new_run_id() for _ in range(50)}
    assert len(found) > 45
    assert all("." not in one and "/" not in one for one in found)
    assert all(0 <= flower_run_id(one) < 2**63 for one in found)
