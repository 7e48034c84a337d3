"""The loop of one federation, and what happens to it when something dies."""

import itertools
import json
import signal
from typing import Any

import numpy as np
import psutil
import pytest

from interplant.client import champion as pointers
from interplant.client import verdicts
from interplant.core import signing
from interplant.core.release import read_release
from interplant.lab.federation import LocalFederation
from interplant.privacy.ledger import Ledger
from interplant.server import control
from interplant.server.authority import Authority
from interplant.server.run_folder import RunFolder
from interplant.server.runs import resume_run, stop_run

from .conftest import PLANTS, add_plant, child_of, processes_of, turbofan

pytestmark = pytest.mark.system


def trainings(federation: LocalFederation, plant: str, run: str) -> list[int]:
    """Rounds of a run that a plant has trained, as often as it has."""
    lines = federation.plant(plant).rounds.read_text().splitlines()
    return [entry["round"] for entry in map(json.loads, lines) if entry["run"] == run]


def until_training(federation: LocalFederation) -> None:
    """Wait until both plants are in the middle of a round's training."""
    jobs = [federation.plant(name).fetched / "weights.job" for name in PLANTS]
    federation.until(lambda: all(job.exists() for job in jobs), 60, "both plants to train")


def test_a_private_run_ends_with_a_signed_release_that_every_plant_tries(federation: LocalFederation) -> None:
    words = ["rounds=3", "training.steps=60", "training.batch=128", "privacy.noise=0.8"]
    run = federation.until_over(federation.start_run(turbofan(*words)).id)
    assert (run.state, run.round) == ("finished", 3)
    assert [record.participants for record in federation.registry.rounds(run.id)] == [PLANTS] * 3

    (release,) = [one for one in federation.registry.releases() if one.run == run.id]
    folder = federation.coordinator.releases / release.id
    opened = read_release(folder, signing.read_public(federation.coordinator.release_public_key))
    assert opened.lineage.private
    assert opened.lineage.simulated
    assert {one.name: one.rounds for one in opened.lineage.participants} == {"north": 3, "south": 3}
    for one in opened.lineage.participants:
        ledger = Ledger(federation.plant(one.name).ledger)
        ledger.verify()
        assert one.epsilon == pytest.approx(ledger.spent(None, one.delta).epsilon)
        assert 0 < one.epsilon < 20

    federation.until(lambda: len(federation.registry.deployments(release.id)) == 2, 60, "two verdicts")
    for told in federation.registry.deployments(release.id):
        plant = federation.plant(told.plant)
        verdict = verdicts.verdict_of(plant, release.id)
        assert verdict is not None
        assert told.state == verdict.state
        champion = pointers.champion(plant)
        assert (champion is not None and champion.release == release.id) == (verdict.state == "active")


def test_weights_change_every_round_with_privacy_on_and_all_plants_start_from_them(
    federation: LocalFederation,
) -> None:
    seen: dict[int, Any] = {}

    def look(run: Any) -> None:
        state = RunFolder(federation.coordinator.runs / run.id).restore()
        if state is not None:
            seen.setdefault(state.round, state.weights)

    words = ["rounds=3", "training.steps=20", "training.batch=64"]
    run = federation.start_run(turbofan(*words), release=False)
    federation.until_over(run.id, watch=look)
    look(run)
    assert len(seen) >= 2
    rounds = sorted(seen)
    for earlier, later in itertools.pairwise(rounds):
        for name, array in seen[earlier].items():
            assert (array != seen[later][name]).any(), f"{name} did not change"


@pytest.mark.parametrize("victim", ["interplant.server.service", "interplant.server.runner"])
def test_a_killed_coordinator_process_goes_on_without_training_twice(
    federation: LocalFederation, victim: str
) -> None:
    words = ["rounds=6", "training.steps=40", "privacy.mechanism=none"]
    run = federation.start_run(turbofan(*words), release=False)
    federation.until(lambda: federation.registry.run(run.id).round >= 2, 60, "two rounds")
    child_of(federation.children["coordinator"], victim).send_signal(signal.SIGKILL)
    ended = federation.until_over(run.id)
    assert (ended.state, ended.round) == ("finished", 6)
    for name in PLANTS:
        assert trainings(federation, name, run.id) == [1, 2, 3, 4, 5, 6]


def test_a_run_that_is_stopped_in_the_middle_of_a_round_goes_on_in_it(federation: LocalFederation) -> None:
    """A pause: what the plants train meanwhile is kept, and counts when the run goes on."""
    words = ["rounds=2", "training.steps=300", "privacy.mechanism=none"]
    run = federation.start_run(turbofan(*words), release=False)
    until_training(federation)
    assert stop_run(federation.coordinator, run.id).state == "stopped"
    kept = [federation.plant(name).outbox for name in PLANTS]
    federation.until(lambda: all(any(own.glob("*.parcel")) for own in kept), 60, "two kept replies")
    assert federation.registry.run(run.id).round == 0
    resume_run(federation.coordinator, run.id)
    control.reload(federation.coordinator)
    assert federation.until_over(run.id).state == "finished"
    for name in PLANTS:
        assert trainings(federation, name, run.id) == [1, 2]


def test_a_killed_round_loop_goes_on_with_its_strategys_state_to_the_same_bits(
    federation: LocalFederation,
) -> None:
    for name in PLANTS:
        federation.edit(name, lambda plant: setattr(plant.policy, "strategies", ["fedavg", "fedadam"]))
    task = turbofan("rounds=8", "training.steps=40", "privacy.mechanism=none", "strategy.name=fedadam")
    rules = federation.coordinator.load().rounds
    rules.order = "plants"
    found = []
    for kill in (False, True):
        run = federation.start_run(task, release=False, rounds=rules)
        if kill:
            federation.until(lambda run=run: federation.registry.run(run.id).round >= 2, 60, "two rounds")
            child_of(federation.children["coordinator"], "interplant.server.runner").send_signal(
                signal.SIGKILL
            )
            assert federation.registry.run(run.id).round < 8
        assert federation.until_over(run.id).state == "finished"
        state = RunFolder(federation.coordinator.runs / run.id).restore()
        assert state is not None
        found.append(state.weights)
    undisturbed, killed = found
    for name, array in undisturbed.items():
        np.testing.assert_array_equal(killed[name], array, err_msg=name)


def test_a_plant_that_was_alone_offers_its_kept_reply_again(federation: LocalFederation) -> None:
    words = ["rounds=2", "training.steps=300", "privacy.mechanism=none"]
    run = federation.start_run(turbofan(*words), release=False)
    outbox = federation.plant("north").outbox
    until_training(federation)
    federation.stop("coordinator", kill=True)
    federation.until(lambda: any(outbox.glob("*.parcel")), 60, "a kept reply")
    federation.until(
        lambda: processes_of(federation.coordinator.path) == [], 20, "the killed one's children to end"
    )
    federation.start_coordinator()
    ended = federation.until_over(run.id)
    assert (ended.state, ended.round) == ("finished", 2)
    assert trainings(federation, "north", run.id) == [1, 2]
    federation.until(lambda: not any(outbox.iterdir()), 10, "an empty outbox")


def test_a_dead_trainer_is_told_at_once_and_asked_again(federation: LocalFederation) -> None:
    words = ["rounds=1", "training.steps=400", "privacy.mechanism=none"]
    trainer = child_of(federation.children["south"], "interplant.client.worker")
    idle = trainer.cpu_times().user
    run = federation.start_run(turbofan(*words), release=False)
    until_training(federation)
    federation.until(lambda: trainer.cpu_times().user > idle + 0.2, 60, "the trainer to work")
    trainer.send_signal(signal.SIGKILL)
    ended = federation.until_over(run.id)
    assert ended.state == "finished"
    dropped = [drop for record in federation.registry.rounds(run.id) for drop in record.dropped]
    assert [(drop.plant, drop.code) for drop in dropped] == [("south", "trainer_died")]


def test_a_killed_agent_is_started_again_and_takes_part(federation: LocalFederation) -> None:
    child_of(federation.children["south"], "interplant.client.agent").send_signal(signal.SIGKILL)
    words = ["rounds=2", "training.steps=5", "privacy.mechanism=none"]
    run = federation.start_run(turbofan(*words), release=False)
    assert federation.until_over(run.id).state == "finished"
    for process in psutil.Process(federation.children["south"].pid).children(recursive=True):
        assert process.status() != psutil.STATUS_ZOMBIE


def test_a_spent_budget_refuses_the_round_and_the_others_go_on(federation: LocalFederation) -> None:
    def poor(plant: Any) -> None:
        plant.policy.privacy.epsilon = 0.001

    federation.edit("south", poor)
    spent = Ledger(federation.plant("south").ledger).entries()
    try:
        rules = federation.coordinator.load().rounds
        rules.quorum = 1
        words = ["rounds=1", "training.steps=5"]
        run = federation.start_run(turbofan(*words), release=False, rounds=rules)
        assert federation.until_over(run.id).state == "finished"
    finally:
        federation.edit("south", lambda plant: setattr(plant.policy.privacy, "epsilon", 20.0))
    (record,) = federation.registry.rounds(run.id)
    assert record.participants == ("north",)
    assert [(drop.plant, drop.code) for drop in record.dropped] == [("south", "budget_spent")]
    assert "budget" in record.dropped[0].sentence
    assert Ledger(federation.plant("south").ledger).entries() == spent


def test_a_missed_quorum_is_not_consumed_and_can_be_resumed(federation: LocalFederation) -> None:
    def unwilling(plant: Any) -> None:
        plant.policy.tasks = []

    federation.edit("south", unwilling)
    rules = federation.coordinator.load().rounds
    rules.retries, rules.retry_seconds = 1, 0.2
    words = ["rounds=1", "training.steps=5", "privacy.mechanism=none"]
    run = federation.start_run(turbofan(*words), release=False, rounds=rules)
    paused = federation.until_over(run.id)
    assert (paused.state, paused.round) == ("paused", 0)
    assert "does not offer this task" in paused.reason
    federation.edit("south", lambda plant: setattr(plant.policy, "tasks", ["turbofan"]))
    resume_run(federation.coordinator, run.id)
    assert federation.until_over(run.id).state == "finished"
    assert trainings(federation, "north", run.id) == [1], "a kept reply is used again, not paid for twice"


def test_a_revoked_plant_is_shut_out_from_the_next_message_on(federation: LocalFederation) -> None:
    add_plant(federation, "east")
    federation.start_plant("east")
    federation.until_online(["east"])
    Authority.open(federation.coordinator).revoke("east")
    assert control.reload(federation.coordinator)
    federation.until(lambda: federation.children["east"].poll() is not None, 20, "east to end")
    assert federation.children["east"].returncode == 1
    assert "revoked" in federation.log_of("east").read_text().strip().splitlines()[-1]
    federation.stop("east")
    words = ["rounds=1", "training.steps=5", "privacy.mechanism=none"]
    run = federation.start_run(turbofan(*words), release=False)
    federation.until_over(run.id)
    (record,) = federation.registry.rounds(run.id)
    assert record.participants == PLANTS
