"""One round inside the trainer: charged before noise, billed in full, the data read once."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interplant.client import gateway, learned, lineages, receipts, round_training
from interplant.client.directory import PlantDirectory
from interplant.client.round_training import Bench, train_round
from interplant.client.trained import Trained
from interplant.core import certificates
from interplant.core import receipt as core_receipt
from interplant.core.contract import Column
from interplant.core.errors import InterplantError, Refusal
from interplant.core.schema import Model, PlantData, Privacy, Strategy, Target, Task, Training, Window
from interplant.data import snapshots
from interplant.data.repository import Repository
from interplant.data.snapshots import keyed_digest
from interplant.privacy.checks import check_model
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Plan

from .conftest import OPEN, START, TASK, dataset, edit, model, request


def go(plant: PlantDirectory, task: Task = TASK, number: int = 1, bench: Bench | None = None) -> Trained:
    return train_round(plant, bench or Bench(), "run-1", number, task, START)


def refused(plant: PlantDirectory, task: Task = TASK) -> Refusal:
    with pytest.raises(Refusal) as caught:
        go(plant, task)
    return caught.value


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the snapshots whose readings were read."""
    seen: list[str] = []
    really = snapshots.load

    def counted(snapshot: Any, split: Any) -> Any:
        seen.append(snapshot.digest)
        return really(snapshot, split)

    monkeypatch.setattr(snapshots, "load", counted)
    return seen


# --- receipts --------------------------------------------------------------------------------------


def test_a_receipt_does_not_fall_behind_what_another_process_has_signed_meanwhile(
    ready: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``privacy measure`` charges and signs while a round without charges trains."""
    go(ready)
    bench = Bench(ledger=Ledger(ready.ledger))
    really = round_training.train

    def meanwhile(*words: Any, **more: Any) -> Any:
        monkeypatch.setattr(round_training, "train", really)
        go(ready, number=9)
        return really(*words, **more)

    edit(ready, lambda plant: setattr(plant.policy.privacy, "allow_none", True))
    monkeypatch.setattr(round_training, "train", meanwhile)
    receipt = go(ready, OPEN, bench=bench).receipt
    assert receipt.entries == len(Ledger(ready.ledger).entries()) == 4


def test_a_receipt_is_signed_and_names_the_ledgers_end(ready: PlantDirectory) -> None:
    receipt = go(ready, number=3).receipt
    core_receipt.verify(receipt)
    head = Ledger(ready.ledger).end()
    assert (receipt.run, receipt.round, receipt.entries, receipt.head) == ("run-1", 3, 2, head.hash)
    assert receipt.charges() == {
        lineages.keyed(ready, Repository(ready.data).lineage): [("window", 0.08, 2.0, TASK.training.steps)]
    }
    with pytest.raises(InterplantError, match="signature"):
        core_receipt.verify(replace(receipt, epsilon=receipt.epsilon / 2))


def test_a_receipt_is_checked_once_and_one_of_this_process_never(
    ready: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To check a signature takes longer than the rest of what a plant does with a receipt."""
    checked: list[str] = []
    really = core_receipt.verify
    monkeypatch.setattr(core_receipt, "verify", lambda one: (checked.append(one.plant), really(one)))
    text = core_receipt.to_json(go(ready).receipt)
    assert (core_receipt.from_json(text).round, checked) == (1, [])
    monkeypatch.setattr(core_receipt, "_KNOWN", {})
    for _ in range(2):
        core_receipt.from_json(text)
    assert checked == [core_receipt.from_json(text).plant]
    with pytest.raises(InterplantError, match="signature"):
        core_receipt.from_json(text.replace('"round": 1', '"round": 2'))


@pytest.mark.parametrize("known", ["own", "told"])
def test_an_older_ledger_put_back_while_the_plant_is_stopped_is_refused_and_repaired(
    ready: PlantDirectory, loads: list[str], known: str
) -> None:
    """A backup restored, a disk cloned: the plant's own receipt shows it, or the coordinator's."""
    go(ready)
    old, own = ready.ledger.read_bytes(), ready.receipt.read_bytes()
    last = go(ready, number=2).receipt
    spent = Ledger(ready.ledger).spent(None, 1e-5).epsilon
    ready.ledger.write_bytes(old)
    if known == "told":
        ready.receipt.write_bytes(own)  # the whole disk went back
        receipts.hear(ready, core_receipt.to_json(last))
    read = len(loads)
    for _ in range(2):
        assert refused(ready).code == "ledger_behind"
    assert len(loads) == read, "refused before data is touched"
    ledger = Ledger(ready.ledger)
    assert ledger.spent(None, 1e-5).epsilon < spent
    assert [one.head for one in receipts.repair(ready, ledger)] == [last.head]
    assert ledger.spent(None, 1e-5).epsilon == pytest.approx(spent), "the gap is charged"
    assert receipts.repair(ready, ledger) == [], "once"
    after = go(ready, number=3).receipt
    assert after.epsilon > spent
    Ledger(ready.ledger).verify()


def test_a_clone_that_trained_elsewhere_is_refused(ready: PlantDirectory, tmp_path: Path) -> None:
    go(ready)
    clone = PlantDirectory(tmp_path / "clone")
    shutil.copytree(ready.path, clone.path)
    receipts.hear(clone, core_receipt.to_json(go(ready, number=2).receipt))
    assert refused(clone).code == "ledger_behind"


def test_nobody_else_can_make_a_plant_charge_itself(
    ready: PlantDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    real = go(ready).receipt
    other = core_receipt.signed(replace(real, entries=900), certificates.make_key())
    for text in (
        core_receipt.to_json(other),
        core_receipt.to_json(replace(real, entries=900)),
        "{}",
        "no receipt",
        "[" * 10_000,
    ):
        receipts.hear(ready, text)
        assert "left alone" in caplog.text
        caplog.clear()
    assert go(ready, number=2).receipt.entries == 4
    assert receipts.repair(ready, Ledger(ready.ledger)) == []


def test_the_dataset_keeps_its_account_under_another_folders_name(ready: PlantDirectory) -> None:
    """A clone of the repository must not have a budget of its own."""
    spent = go(ready).receipt.epsilon
    shutil.copytree(ready.data, ready.path / "other")
    edit(ready, lambda plant: setattr(plant.data, "repository", "other"))
    assert go(ready, number=2).receipt.epsilon > spent


def test_a_ledger_of_an_earlier_version_is_gone_on_with(ready: PlantDirectory) -> None:
    """It knew the dataset by its folder's name; under another one the charges count all the same."""
    plan = Plan.of(TASK, PlantData(declared_windows=100))
    Ledger(ready.ledger).reserve(plan, run="old", round=1, task="wear", lineage="data")
    ready.data.rename(ready.path / "moved")
    edit(ready, lambda plant: setattr(plant.data, "repository", "moved"))
    both = Ledger(ready.ledger).spent_after(plan, None, 1e-5).epsilon
    assert go(ready).receipt.epsilon == pytest.approx(both)


def test_another_datasets_account_is_not_its_own_for_having_had_the_folder(ready: PlantDirectory) -> None:
    """A dataset put where an earlier version charged another one keeps all that it was charged itself."""
    own = go(ready).receipt.epsilon
    plan = Plan.of(TASK, PlantData(declared_windows=100))
    Ledger(ready.ledger).reserve(plan, run="old", round=1, task="wear", lineage="swapped")
    ready.data.rename(ready.path / "swapped")
    edit(ready, lambda plant: setattr(plant.data, "repository", "swapped"))
    assert own < go(ready, number=2).receipt.epsilon == Ledger(ready.ledger).spent(None, 1e-5).epsilon


def test_a_folder_that_holds_another_dataset_does_not_count(ready: PlantDirectory) -> None:
    plan = Plan.of(TASK, PlantData(declared_windows=100))
    one = Ledger(ready.ledger).spent_after(plan, None, 1e-5).epsilon
    Ledger(ready.ledger).reserve(plan, run="old", round=1, task="wear", lineage="press")
    Repository.create(ready.path / "press", ready.path / "press-remote").snapshot(dataset(2), "press")
    assert Repository(ready.path / "press").lineage != Repository(ready.data).lineage
    assert go(ready).receipt.epsilon == pytest.approx(one)


def test_a_task_has_a_budget_of_its_own_within_the_whole(ready: PlantDirectory) -> None:
    one = go(ready).receipt.epsilon
    edit(ready, lambda plant: plant.policy.privacy.tasks.update(wear=one * 1.01))
    refusal = refused(ready)
    assert refusal.code == "budget_spent"
    assert "policy.privacy.tasks.wear" in refusal.detail
    edit(ready, lambda plant: plant.policy.tasks.append("other"))
    assert go(ready, replace(TASK, name="other")).receipt.epsilon > one, "the account is the dataset's"


# --- the charge ------------------------------------------------------------------------------------


def test_the_receipt_says_what_the_ledger_says(ready: PlantDirectory) -> None:
    bench = Bench()
    edit(ready, lambda plant: setattr(plant.policy.privacy, "delta", 1e-4))
    first, second = go(ready, bench=bench), go(ready, number=2, bench=bench)
    ledger = Ledger(ready.ledger)
    assert second.receipt.epsilon == ledger.spent(None, 1e-4).epsilon
    assert 0 < first.receipt.epsilon < second.receipt.epsilon
    assert second.receipt.delta == 1e-4, "the delta of the plant's own policy"
    charges = [entry for entry in ledger.entries() if entry.kind == "reserve"]
    assert [(entry.run, entry.round, entry.task, entry.lineage) for entry in charges] == [
        ("run-1", 1, "wear", Repository(ready.data).lineage),
        ("run-1", 2, "wear", Repository(ready.data).lineage),
    ]
    assert all(entry.plan == Plan.of(TASK, PlantData(declared_windows=100)) for entry in charges), (
        "the declared size, not the counted"
    )
    assert [entry.kind for entry in ledger.entries()] == ["reserve", "commit"] * 2


def test_the_receipt_names_the_snapshot_only_keyed(ready: PlantDirectory) -> None:
    said = go(ready, OPEN).receipt
    digest = Repository(ready.data).open().digest
    assert said.snapshot == keyed_digest(digest, b"k" * 32) != digest
    assert (said.plant, said.mechanism, said.unit, said.simulated) == ("north", "none", "", True)
    assert (said.epsilon, said.delta) == (0.0, 0.0)


def test_the_charge_is_on_the_disk_when_the_first_noise_is_drawn(
    ready: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interplant.privacy import dpsgd

    seen: list[int] = []
    really: Callable[..., Any] = dpsgd.PrivateOptimizer

    def looks(*args: Any) -> Any:
        seen.append(len(Ledger(ready.ledger).entries()))
        return really(*args)

    monkeypatch.setattr(dpsgd, "PrivateOptimizer", looks)
    go(ready)
    assert seen == [1]


def test_a_round_that_fails_after_its_charge_is_charged_all_the_same(
    ready: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interplant.privacy import dpsgd

    def fails(*_: object) -> None:
        raise RuntimeError("out of something")

    with monkeypatch.context() as patch:
        patch.setattr(dpsgd, "descend", fails)
        with pytest.raises(RuntimeError):
            go(ready)
    assert [entry.kind for entry in Ledger(ready.ledger).entries()] == ["reserve"]
    go(ready)
    (charged,) = Ledger(ready.ledger).events()
    assert charged.steps == 2 * TASK.training.steps


def test_a_spent_budget_refuses_and_charges_nothing(ready: PlantDirectory) -> None:
    bench = Bench()
    spent = go(ready, bench=bench).receipt.epsilon
    edit(ready, lambda plant: setattr(plant.policy.privacy, "epsilon", spent * 1.01))
    before = Ledger(ready.ledger).entries()
    with pytest.raises(Refusal) as caught:
        go(ready, number=2, bench=bench)
    assert caught.value.code == "budget_spent"
    assert Ledger(ready.ledger).entries() == before


def test_the_budget_counts_at_the_policys_delta_not_the_tasks(ready: PlantDirectory) -> None:
    """A task with its own delta must not make the same noise look cheaper."""
    strict = replace(TASK, privacy=Privacy(noise=2.0, delta=1e-9))
    assert go(ready, strict).receipt.epsilon == Ledger(ready.ledger).spent(None, 1e-5).epsilon
    edit(ready, lambda plant: setattr(plant.policy.privacy, "delta", 1e-9))
    at_policy = (
        Ledger(ready.ledger).spent_after(Plan.of(TASK, PlantData(declared_windows=100)), None, 1e-9).epsilon
    )
    edit(ready, lambda plant: setattr(plant.policy.privacy, "epsilon", at_policy * 0.99))
    assert refused(ready).code == "budget_spent"


def test_a_new_snapshot_does_not_renew_the_budget(ready: PlantDirectory) -> None:
    spent = go(ready).receipt.epsilon
    Repository(ready.data).snapshot(dataset(4))
    assert go(ready).receipt.epsilon > spent


@pytest.mark.parametrize("engine", ["auto", "onepass", "opacus"])
def test_the_tasks_engine_is_asked_for_the_steps_and_charged_alike(
    ready: PlantDirectory, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def spy(model: Any, shape: tuple[int, ...], engine: str, outputs: int) -> str:
        asked.append(engine)
        return check_model(model, shape, engine, outputs)

    monkeypatch.setattr(round_training.checks, "check_model", spy)
    go(ready, replace(TASK, privacy=replace(TASK.privacy, engine=engine)))
    assert asked == [engine], "once a round"
    assert len(Ledger(ready.ledger).entries()) == 2, "reserved and committed"


def test_a_model_that_cannot_be_private_is_refused_before_data_is_touched(
    ready: PlantDirectory, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import nn

    class Normed(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 1))

    monkeypatch.setattr(round_training, "_model", lambda task, weights: Normed())
    assert refused(ready).code == "model_unfit"
    assert loads == []


def test_noise_that_repeats_is_charged_nothing_and_called_not_private(ready: PlantDirectory) -> None:
    task = replace(TASK, privacy=replace(TASK.privacy, mechanism="dp-sgd-test"))
    first, again, other = (go(ready, replace(task, seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(first.update[name], again.update[name]) for name in first.update)
    assert not all(np.array_equal(first.update[name], other.update[name]) for name in first.update)
    assert Ledger(ready.ledger).entries() == []
    receipt = first.receipt
    assert (receipt.mechanism, receipt.unit, receipt.epsilon) == ("dp-sgd-test", "", 0.0)


def test_machines_are_sampled_where_they_are_the_unit(ready: PlantDirectory) -> None:
    def declare(plant: Any) -> None:
        plant.data.declared_units, plant.policy.privacy.units = 4, ["unit"]

    edit(ready, declare)
    task = replace(
        TASK,
        privacy=replace(TASK.privacy, unit="unit", windows_per_unit=3),
        training=replace(TASK.training, batch=2),
    )
    made = go(ready, task)
    assert made.receipt.unit == "unit"
    (charge,) = (entry.plan for entry in Ledger(ready.ledger).entries() if entry.plan)
    assert (charge.unit, charge.q, charge.windows) == ("unit", 0.5, 3)


def test_without_privacy_nothing_is_charged(ready: PlantDirectory) -> None:
    go(ready, OPEN)
    assert Ledger(ready.ledger).entries() == []


def test_a_ledger_put_back_while_the_trainer_runs_is_noticed(ready: PlantDirectory) -> None:
    bench = Bench()
    go(ready, bench=bench)
    old = ready.ledger.read_bytes()
    go(ready, number=2, bench=bench)
    ready.ledger.write_bytes(old)
    with pytest.raises(Refusal) as caught:
        go(ready, number=3, bench=bench)
    assert caught.value.code == "ledger"


# --- the update ------------------------------------------------------------------------------------


def test_an_update_is_what_the_gateway_lets_out(ready: PlantDirectory) -> None:
    for task in (TASK, OPEN):
        trained = go(ready, task)
        gateway.let_out(ready, task, START, trained, request(task, START))
        assert any(array.any() for array in trained.update.values())


def test_frozen_weights_neither_cross_nor_stop_the_round(ready: PlantDirectory) -> None:
    """The coordinator sends only what is trained; the update must hold just that."""
    start = {"shift": np.zeros(1, np.float32)}
    for task in (model("Frozen", TASK), model("Frozen", OPEN)):
        trained = train_round(ready, Bench(), "run-1", 1, task, start)
        gateway.let_out(ready, task, start, trained, request(task, start))


def test_without_privacy_a_round_repeats_and_plants_and_rounds_differ(ready: PlantDirectory) -> None:
    def shift(number: int = 1) -> float:
        return float(go(ready, OPEN, number).update["shift"][0])

    first = shift()
    assert shift() == first
    assert shift(2) != first
    edit(ready, lambda plant: setattr(plant, "name", "south"))
    assert shift() != first


def test_with_privacy_no_round_repeats(ready: PlantDirectory) -> None:
    assert go(ready).update["shift"] != go(ready).update["shift"]


# --- the windows -----------------------------------------------------------------------------------


def test_readings_are_read_once_for_a_snapshot_and_a_task(ready: PlantDirectory, loads: list[str]) -> None:
    bench = Bench()
    go(ready, OPEN, 1, bench)
    kept = bench.windows
    go(ready, replace(OPEN, training=Training(steps=1), seed=9), 2, bench)
    assert len(loads) == 1
    assert bench.windows is kept


@pytest.mark.parametrize(
    "other",
    [
        replace(OPEN, window=Window(5)),
        replace(OPEN, window=Window(4, 2)),
        replace(OPEN, target=Target(5.0)),
        replace(OPEN, contract=replace(OPEN.contract, sensors={"health": Column("share", -1.0, 2.0)})),
    ],
)
def test_windows_of_another_task_are_not_used(ready: PlantDirectory, loads: list[str], other: Task) -> None:
    bench = Bench()
    go(ready, OPEN, 1, bench)
    stale, update = bench.windows, go(ready, other, 2, bench).update
    assert bench.windows is not stale
    assert update["shift"] == go(ready, other, 2).update["shift"], "as if nothing had been kept"
    assert len(loads) == 3


def test_windows_of_an_older_snapshot_are_not_used(ready: PlantDirectory, loads: list[str]) -> None:
    bench = Bench()
    first = go(ready, OPEN, 1, bench).receipt.snapshot
    Repository(ready.data).snapshot(dataset(4))
    assert go(ready, OPEN, 1, bench).receipt.snapshot != first
    assert len(set(loads)) == 2
    assert bench.windows is not None
    assert len(np.unique(bench.windows.machine)) == 4


def test_a_plant_knows_which_runs_have_trained_on_which_snapshots(ready: PlantDirectory) -> None:
    """Before the training: a plant that is killed in it has a receipt to give all the same."""
    first = Repository(ready.data).find().digest
    go(ready, OPEN, 1)
    before = ready.trained.read_bytes()
    go(ready, OPEN, 2)
    assert ready.trained.read_bytes() == before, "one line for a run and a snapshot"
    second = Repository(ready.data).snapshot(dataset(4)).digest
    edit(ready, lambda plant: setattr(plant.policy.privacy, "epsilon", 1e-9))
    with pytest.raises(Refusal, match="budget_spent"):
        go(ready, TASK, 3)
    assert learned.awaited(ready, [second]) == [], "who refuses learns nothing"
    go(ready, OPEN, 3)
    for digest in (first, second):
        assert learned.awaited(ready, [digest]) == ["run-1"]
    assert ready.trained.stat().st_mode & 0o777 == 0o600


# --- what cannot be trained ------------------------------------------------------------------------


def test_a_plant_without_a_snapshot_says_so(bare: PlantDirectory, tiny_models: None) -> None:
    Repository.create(bare.data, bare.remote)
    assert refused(bare).code == "no_snapshot"
    assert Ledger(bare.ledger).entries() == []


def test_data_that_lacks_a_column_is_a_broken_contract(ready: PlantDirectory) -> None:
    sensors = TASK.contract.sensors | {"bore": TASK.contract.sensors["health"]}
    assert refused(ready, replace(TASK, contract=replace(TASK.contract, sensors=sensors))).code == "contract"
    assert not ready.ledger.exists() or Ledger(ready.ledger).entries() == []


@pytest.mark.parametrize("name", ["tiny_models.Missing", "nowhere.Model", "tiny_models.Odd", "Line"])
def test_a_model_that_is_not_installed_is_named_as_such(ready: PlantDirectory, name: str) -> None:
    assert refused(ready, replace(TASK, model=Model(name))).code == "model_missing"


def test_weights_of_another_model_do_not_fit(ready: PlantDirectory) -> None:
    for odd in (
        {"shift": START["shift"]},
        START | {"more": START["shift"]},
        START | {"shift": np.zeros(2, np.float32)},
    ):
        with pytest.raises(Refusal) as caught:
            train_round(ready, Bench(), "run-1", 1, TASK, odd)
        assert caught.value.code == "model_unfit"
    assert not ready.ledger.exists() or Ledger(ready.ledger).entries() == []


def test_a_model_that_cannot_be_private_says_so_and_costs_nothing(ready: PlantDirectory) -> None:
    refusal = refused(ready, model("Norm", TASK))
    assert refusal.code == "model_unfit"
    assert "mixes the samples" in refusal.detail
    assert Ledger(ready.ledger).entries() == []


def test_the_round_stands_in_the_plants_own_record(ready: PlantDirectory) -> None:
    go(ready, OPEN, 4)
    (line,) = map(json.loads, ready.rounds.read_text().splitlines())
    assert (line["run"], line["round"]) == ("run-1", 4)
    assert line["finished"] >= line["first_step"]
    assert not ready.audit.exists(), "nothing has left"


def test_a_damaged_snapshot_is_not_trained_on(ready: PlantDirectory) -> None:
    for path in ready.data.rglob("*.parquet"):
        path.chmod(0o600)
        path.write_bytes(b"other")
    with pytest.raises(InterplantError):
        go(ready)
    assert not ready.ledger.exists() or Ledger(ready.ledger).entries() == []


# --- strategies with a part at the plant -----------------------------------------------------------


def test_fedprox_reaches_the_steps(ready: PlantDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []
    really = round_training.train

    def watched(*arguments: Any, **words: Any) -> Any:
        held.append(words["proximal"])
        return really(*arguments, **words)

    monkeypatch.setattr(round_training, "train", watched)
    go(ready, replace(TASK, strategy=Strategy("fedprox", {"mu": 0.5})))
    go(ready, TASK, number=2)
    assert held == [0.5, 0.0]


def test_fedprox_changes_what_an_open_round_learns(ready: PlantDirectory) -> None:
    edit(ready, lambda plant: setattr(plant.policy.privacy, "allow_none", True))
    plain = replace(TASK, privacy=Privacy(mechanism="none"))
    updates = [
        go(ready, replace(plain, strategy=strategy)).update
        for strategy in (Strategy(), Strategy("fedprox", {"mu": 0.0}), Strategy("fedprox", {"mu": 1.0}))
    ]
    norms = [sum(float((part**2).sum()) for part in update.values()) for update in updates]
    assert norms[0] == norms[1] > norms[2]


def test_a_strategys_arguments_that_do_not_fit_cost_nothing(ready: PlantDirectory) -> None:
    refusal = refused(ready, replace(TASK, strategy=Strategy("fedprox", {"mu": -1})))
    assert (refusal.code, refusal.detail) == (
        "task_invalid", "strategy.args: mu: expected a number from 0, found -1"
    )  # fmt: skip
    assert Ledger(ready.ledger).entries() == []


def test_a_coordinators_own_strategy_is_no_concern_of_the_trainer(ready: PlantDirectory) -> None:
    """It is installed at the coordinator only; whether it may be used is the policy's word."""
    go(ready, replace(TASK, strategy=Strategy("theirs", {"anything": 1})))
