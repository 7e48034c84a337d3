"""Each kind of target at a plant: a private round with its loss, and a release through the gate."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from interplant.client import deployment, receiving
from interplant.client.directory import PlantDirectory
from interplant.client.round_training import Bench, train_round
from interplant.client.verdicts import Verdict
from interplant.core import models, release, signing
from interplant.core.contract import Column, Contract
from interplant.core.errors import Refusal
from interplant.core.measures import MEASURES
from interplant.core.release import Lineage, Participant
from interplant.core.schema import Metric, Model, Plant, Privacy, Task, Training, Window
from interplant.core.targets import Target
from interplant.core.wire import Tensors
from interplant.data.frames import Dataset
from interplant.data.repository import Repository
from interplant.server.packaging import PackageOrder, package

from .conftest import edit

CONTRACT = Contract(
    machine="part", time="second", label="state", sensors={"heat": Column("K", -3.0, 3.0)}, never=["cause"]
)


def task(target: Target, loss: str, **words: object) -> Task:
    return Task(
        name="wear",
        contract=CONTRACT,
        window=Window(1),
        target=target,
        model=Model("mlp", {"width": 8, "depth": 1}),
        training=Training(steps=40, batch=64, learning_rate=0.05, loss=loss),
        privacy=Privacy(unit="row", noise=1.0),
        metrics={"loss": Metric(bound=4.0)},
    )


TASKS = {
    "value": task(Target(kind="value", low=-2.0, high=2.0), "mse"),
    "event": task(Target(kind="event"), "bce"),
    "class": task(Target(kind="class", classes=["cold", "warm", "hot"]), "cross_entropy"),
}
kinds = pytest.mark.parametrize("kind", TASKS)


def readings(kind: str, first: int, count: int) -> pd.DataFrame:
    """Parts of one reading each, whose heat tells their state."""
    heat = np.random.default_rng(first).uniform(-2, 2, count)
    state = {
        "value": -heat,
        "event": (heat > 1).astype(int),
        "class": np.array(["cold", "warm", "hot"])[np.digitize(heat, [-0.5, 0.5])],
    }
    parts = np.arange(first, first + count)
    return pd.DataFrame({"part": parts, "second": 0, "heat": heat, "state": state[kind], "cause": "x"})


@pytest.fixture
def plant(bare: PlantDirectory) -> Callable[[str], PlantDirectory]:
    def made(kind: str) -> PlantDirectory:
        def change(settings: Plant) -> None:
            settings.data.machine, settings.data.time = "part", "second"
            settings.data.declared_windows = 300
            settings.policy.models, settings.policy.metrics = ["mlp"], ["loss"]
            settings.policy.privacy.units = ["row"]
            settings.policy.release.approval = "auto"

        edit(bare, change)
        repository = Repository.create(bare.path / "data", bare.path / "remote")
        dataset = Dataset(readings(kind, 0, 300), readings(kind, 1000, 100), simulated=True)
        repository.snapshot(dataset, machine="part")
        return bare

    return made


def trained(at: PlantDirectory, of: Task, weights: Tensors | None = None) -> tuple[Tensors, dict[str, float]]:
    start = weights or models.parameters(models.build(of))
    made = train_round(at, Bench(), "run-1", 1, of, start)
    assert (made.receipt.epsilon > 0) == of.privacy.private
    return {name: start[name] + change for name, change in made.update.items()}, made.metrics


def released(at: PlantDirectory, root: Path, of: Task, weights: Tensors, name: str) -> Verdict:
    key = signing.make_key()
    (root / "release.key").write_bytes(signing.key_pem(key))
    at.release_public_key.write_bytes(signing.public_pem(key.public_key()))
    north = Participant("north", {"ab" * 32: 3}, 3, "dp-sgd", "row", 0.7, 1e-5, True)
    lineage = Lineage(
        name, "run-1", of.name, release.task_digest(of), "0.1.0", "1", None,
        "2025-05-01T10:00:00+00:00", 3, "grpc", True, True, (north,),
    )  # fmt: skip
    save_file(weights, root / "merged.safetensors")
    package(PackageOrder(root / "merged.safetensors", of, lineage, root / "release.key"), root / "out" / name)
    for file in (root / "out" / name).iterdir():
        target = receiving.incoming(at, name)
        target.mkdir(parents=True, exist_ok=True)
        (target / file.name).write_bytes(file.read_bytes())
    return deployment.try_release(at, receiving.accept(at, name).folder)


@kinds
def test_a_private_round_learns_charges_and_tells_its_loss(
    kind: str, plant: Callable[[str], PlantDirectory]
) -> None:
    at = plant(kind)
    weights, metrics = trained(at, TASKS[kind])
    assert metrics.keys() == {"loss"}
    assert abs(metrics["loss"]) < 3.0
    start = models.parameters(models.build(TASKS[kind]))
    assert any(not np.array_equal(weights[name], start[name]) for name in start)


@kinds
def test_a_release_has_to_beat_what_is_always_the_same_and_then_the_champion(
    kind: str, plant: Callable[[str], PlantDirectory], tmp_path: Path
) -> None:
    at, of = plant(kind), TASKS[kind]
    public = replace(of, privacy=replace(of.privacy, mechanism="none"))
    fresh = models.parameters(models.build(of))
    good, _ = trained(at, public)
    measure = MEASURES[of.target.kind]
    refused = released(at, tmp_path, of, {name: 0.0 * array for name, array in fresh.items()}, "r-0")
    assert (refused.state, refused.code) == ("refused", "baseline")
    first = released(at, tmp_path, of, good, "r-1")
    assert (first.state, first.code) == ("active", ""), first.sentence
    assert first.figures[measure] < first.figures[f"{measure}_mean"]
    expected = {"value": {"r2"}, "event": {"auc", "f1", "mcc"}, "class": {"macro_f1", "accuracy"}}[kind]
    assert expected <= first.figures.keys()
    assert first.figures["windows"] == first.figures["machines"] == 100
    worse = released(at, tmp_path, of, {name: 0.05 * array for name, array in good.items()}, "r-2")
    assert (worse.state, worse.code) == ("refused", "worse")
    assert worse.figures[f"{measure}_champion"] == pytest.approx(first.figures[measure])
    assert "cycles" not in worse.sentence


def test_a_champion_of_another_kind_cannot_be_compared(
    plant: Callable[[str], PlantDirectory], tmp_path: Path
) -> None:
    at = plant("event")
    public = replace(TASKS["event"], privacy=Privacy(mechanism="none"))
    weights, _ = trained(at, public)
    assert released(at, tmp_path, TASKS["event"], weights, "r-1").state == "active"
    other = replace(TASKS["value"], target=Target(kind="value"))
    assert released(at, tmp_path, other, weights, "r-2").code == "other_task"


def test_log_odds_that_are_not_finite_are_refused(
    plant: Callable[[str], PlantDirectory], tmp_path: Path
) -> None:
    at, of = plant("event"), TASKS["event"]
    weights, _ = trained(at, replace(of, privacy=Privacy(mechanism="none")))
    wild = {name: np.full_like(array, 1e30) for name, array in weights.items()}
    assert released(at, tmp_path, of, wild, "r-1").code in ("not_finite", "parity", "implausible")


def test_labels_that_are_none_of_the_tasks_refuse_the_round_or_are_paid_for(
    plant: Callable[[str], PlantDirectory],
) -> None:
    at = plant("class")
    fewer = task(Target(kind="class", classes=["cold", "warm"]), "cross_entropy")
    start = models.parameters(models.build(fewer))
    with pytest.raises(Refusal) as caught:
        train_round(at, Bench(), "run-1", 1, fewer, start)
    assert caught.value.code == "contract"
    edit(at, lambda settings: setattr(settings.policy.privacy, "data_refusals", "billed"))
    edit(at, lambda settings: setattr(settings.policy.privacy, "refusal_noise", 0.1))
    edit(at, lambda settings: setattr(settings.policy.privacy, "epsilon", 1e6))
    with pytest.raises(Refusal, match="under differential privacy"):
        train_round(at, Bench(), "run-1", 1, fewer, start)
    made = train_round(
        at, Bench(), "run-1", 2, TASKS["class"], models.parameters(models.build(TASKS["class"]))
    )
    assert made.receipt.epsilon > 0
