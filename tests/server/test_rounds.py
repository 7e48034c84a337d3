"""The round loop over grids in memory: one that rings, as ours do, and one that does not, as Flower's."""

import gc
import json
import time
import weakref
from dataclasses import asdict

import numpy as np
import pytest
from flwr.app import MetricRecord

from interplant.core import certificates, config, flower
from interplant.core.contract import Column, Contract
from interplant.core.errors import REFUSALS, InterplantError
from interplant.core.receipt import Receipt, from_json, signed
from interplant.core.schema import Model, Rounds, Task
from interplant.server import rounds
from interplant.server.replies import RingingGrid, StoppedError
from interplant.server.rounds import QuorumError, carry_out
from interplant.server.run_folder import RunFolder, make_order

from .conftest import receipt_of
from .fakes import (
    NAMES,
    WEIGHTS,
    Polled,
    Ringing,
    answer,
    changed,
    close,
    closed_form,
    honest,
    receipt_for,
    refusing,
    same,
    silent,
    step_of,
)

GRIDS = pytest.mark.parametrize("kind", [Polled, Ringing])


# --- the good way --------------------------------------------------------------------------------------


def test_only_one_of_the_two_grids_rings():
    assert isinstance(Ringing(), RingingGrid)
    assert not isinstance(Polled(), RingingGrid)


@GRIDS
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_the_result_is_fedavg_in_closed_form(start, kind, rate):
    run = start(strategy={"learning_rate": rate})
    state = carry_out(kind(), run)
    close(state.weights, closed_form(3, rate=rate))
    same(run.restore().weights, state.weights)
    assert state.round == run.restore().round == 3
    assert {name: plant["rounds"] for name, plant in state.plants.items()} == dict.fromkeys(NAMES, 3)
    north = state.plants["north"]
    assert {key: north[key] for key in ("plant", "run", "round", "rounds", "epsilon")} == {
        "plant": "north", "run": run.order().run, "round": 3, "rounds": 3, "epsilon": 0.25
    }  # fmt: skip
    assert from_json(run.receipts()["north"]).round == 3, "kept for the plant, signed"


def test_both_grids_give_the_same_bits(start):
    same(carry_out(Polled(), start("a")).weights, carry_out(Ringing(), start("b")).weights)


@GRIDS
def test_every_round_changes_the_weights_and_all_plants_get_the_same(start, kind):
    grid, run, seen = kind(), start(), []
    carry_out(grid, run, lambda _: seen.append(run.restore().weights))
    assert len(grid.sent) == 9
    sent = [
        {key: array.numpy() for key, array in each.content.array_records["weights"].items()}
        for each in grid.sent
    ]
    for number in range(3):
        for each in sent[3 * number : 3 * number + 3]:
            same(each, [WEIGHTS, *seen][number])
    for before, after in zip([WEIGHTS, *seen], seen, strict=False):
        for key, array in before.items():
            assert not np.array_equal(after[key], array)


def test_what_a_plant_is_sent(start):
    grid, run = Ringing(), start(number=1)
    carry_out(grid, run)
    for each in grid.sent:
        assert set(each.content) == {"weights", "task"}
        words = each.content.config_records["task"]
        assert (words["run"], words["round"], words["rounds"]) == ("run", 1, 1)
        assert config.parse(json.loads(words["task"]), Task, "task") == run.task()
        assert (each.metadata.message_type, each.metadata.group_id) == ("train", "1")
    bodies = {id(each.content.array_records["weights"]) for each in grid.sent}
    assert len(bodies) == 1  # one broadcast, however many plants


def test_each_attempt_is_told_after_it_is_on_disk(start):
    run, told = start(number=2), []

    def tell(record):
        told.append(record)
        assert run.restore().round == record["round"]
        assert run.records() == told

    grid = Ringing()
    carry_out(grid, run, tell)
    assert [record["round"] for record in told] == [1, 2]
    for record in told:
        assert record["participants"] == sorted(NAMES)
        assert (record["attempt"], record["settled"], record["dropped"]) == (1, True, {})
        assert record["seconds"] >= 0
    ids = [sorted(f"run.{number}.{grid.node(name)}" for name in NAMES) for number in (1, 2)]
    assert grid.finished[-2:] == [(ids[0], 1), (ids[1], 2)]


def test_fresh_weights_come_from_the_tasks_model(tmp_path):
    from interplant.core import models

    task = Task(
        name="wear",
        rounds=1,
        seed=4,
        contract=Contract(sensors={"s1": Column("bar", 0.0, 1.0)}),
        model=Model(args={"width": 4, "hidden": 4}),
    )
    run = RunFolder(tmp_path / "run")
    run.create(make_order("run", task, Rounds(), "grpc", False))
    grid = Polled()
    carry_out(grid, run)
    same(
        {key: array.numpy() for key, array in grid.sent[0].content.array_records["weights"].items()},
        models.parameters(models.build(task)),
    )


def test_the_server_app_carries_out_the_run_that_the_configuration_names(start):
    run = start()
    rounds.app(Polled(), flower.context(0, 7, {}, {"run": str(run.path)}))
    close(run.restore().weights, closed_form(3))


# --- bad updates ---------------------------------------------------------------------------------------

NAN = changed(lambda step: step | {"layer.weight": np.full((4, 3), np.nan, np.float32)})
BAD = {
    "not_finite": NAN,
    "norm": changed(lambda step: {key: np.full_like(array, 1e9) for key, array in step.items()}),
    "bad_names": changed(lambda step: {"layer.weight": step["layer.weight"]}),
    "bad_shape": changed(lambda step: step | {"scale": np.ones(2, np.float32)}),
    "bad_dtype": changed(lambda step: step | {"scale": np.array(1.0)}),
    "bad_receipt": lambda request, name: answer(request, WEIGHTS, {"plant": name}),
    "budget_spent": refusing("budget_spent"),
    "unreadable": refusing("unreadable"),
    "internal": refusing("ZeroDivisionError: row 7"),
}


@GRIDS
@pytest.mark.parametrize("code", sorted(BAD))
def test_a_bad_update_is_dropped_and_named_and_the_model_as_without_it(start, kind, code):
    grid, run = kind(dict.fromkeys(NAMES, honest) | {"south": BAD[code]}), start()
    state = carry_out(grid, run)
    close(state.weights, closed_form(3, ("north", "west")))
    assert set(state.plants) == {"north", "west"}
    for record in run.records():
        assert record["participants"] == ["north", "west"]
        ((name, dropped),) = record["dropped"].items()
        assert name == ("south" if kind is Ringing else "node-101")
        assert dropped["code"] == (code if record["round"] < 3 else "resting")
        assert dropped["text"] == REFUSALS.get(dropped["code"], dropped["text"])


def test_metrics_beside_an_update_drop_it(start):
    def chatty(request, name):
        step = step_of(WEIGHTS, name)
        return answer(request, step, receipt_for(request, name), metrics=MetricRecord({"loss": 0.5}))

    run = start(number=1)
    carry_out(Ringing(dict.fromkeys(NAMES, honest) | {"south": chatty}), run)
    assert run.records()[0]["dropped"]["south"]["code"] == "bad_receipt"


def test_a_plant_cannot_answer_in_anothers_name(start):
    plants = dict.fromkeys(NAMES, honest)
    plants["south"] = lambda request, name: honest(request, name, as_="north")
    run = start(number=1)
    state = carry_out(Ringing(plants), run)
    close(state.weights, closed_form(1, ("north", "west")))
    assert run.records()[0]["dropped"]["south"]["text"] == "the receipt names another plant"


@pytest.mark.parametrize(("asked", "claimed"), [("dp-sgd", "none"), ("none", "dp-sgd")])
def test_one_plants_word_does_not_mark_a_release(start, asked, claimed):
    def says(mechanism):
        def act(request, name):
            weights = {key: array.numpy() for key, array in request.content.array_records["weights"].items()}
            return answer(request, step_of(weights, name), receipt_for(request, name, mechanism=mechanism))

        return act

    run = start(number=1, mechanism=asked)
    state = carry_out(Ringing(dict.fromkeys(NAMES, says(asked)) | {"south": says(claimed)}), run)
    assert set(state.plants) == {"north", "west"}
    assert run.records()[0]["dropped"]["south"]["text"] == f"expected a round with {asked}"


def test_a_plant_counts_once_where_the_grid_knows_no_names(start):
    plants = dict.fromkeys(NAMES, honest)
    plants["south"] = lambda request, name: honest(request, name, as_="north")
    run = start(number=1, quorum=2)
    state = carry_out(Polled(plants), run)
    close(state.weights, closed_form(1, ("north", "west")))
    assert run.records()[0]["participants"] == ["north", "west"]
    assert "in the merge already" in run.records()[0]["dropped"]["node-101"]["text"]


def test_every_plant_failing_at_once_leaves_the_model_untouched(start):
    run = start(retries=0)
    grid = Ringing({"north": NAN, "south": refusing("paused"), "west": silent})
    with pytest.raises(QuorumError) as failed:
        carry_out(Ringing(grid.plants), start("short", retries=0, deadline_seconds=0.2))
    for words in ("north: layer.weight", "south: the plant is paused", "west: no reply before the deadline"):
        assert words in str(failed.value)
    assert run.restore() is None


def test_a_plant_that_has_just_joined_has_its_name(start):
    class Joining(Ringing):
        asked = False

        def get_node_ids(self):
            self.asked = True
            return super().get_node_ids()

        def names(self):
            return super().names() if self.asked else {}

    run = start(number=1)
    carry_out(Joining(), run)
    assert run.records()[0]["participants"] == sorted(NAMES)


# --- quorum, deadline, absence -------------------------------------------------------------------------


@GRIDS
def test_a_round_without_quorum_is_not_consumed(start, kind):
    undisturbed = carry_out(kind(), start("undisturbed", quorum=3))
    run, grid = start(quorum=3, retries=2), kind()
    one = rounds.carry_out

    def tell(record):
        if record["round"] == 1:
            grid.plants["south"] = refusing("paused")

    with pytest.raises(QuorumError, match="round 2 found 2 good updates, expected 3") as failed:
        one(grid, run, tell)
    assert "the plant is paused by its engineer" in str(failed.value)
    assert str(failed.value).endswith("; mend it"), "how to go on is the engine's affair"
    assert [(r["round"], r["attempt"], r["settled"]) for r in run.records()] == [
        (1, 1, True), (2, 1, False), (2, 2, False), (2, 3, False),
    ]  # fmt: skip
    assert run.restore().round == 1
    close(run.restore().weights, closed_form(1))
    if kind is Ringing:
        assert [settled for _, settled in grid.finished] == [0, 1]
    state = carry_out(kind(), RunFolder(run.path))
    same(state.weights, undisturbed.weights)
    assert unsigned(state.plants) == unsigned(undisturbed.plants)


def test_a_retry_can_succeed(start):
    asked = []

    def hesitant(request, name):
        asked.append(request.metadata.message_id)
        return honest(request, name) if len(asked) > 1 else refusing("trainer_died")(request, name)

    run = start(number=1, quorum=3, retries=3)
    state = carry_out(Ringing(dict.fromkeys(NAMES, honest) | {"south": hesitant}), run)
    assert asked == ["run.1.101", "run.1.101"]  # the same message, asked again
    assert [(r["attempt"], r["settled"]) for r in run.records()] == [(1, False), (2, True)]
    close(state.weights, closed_form(1))
    assert state.plants["north"]["rounds"] == 1  # two attempts are one round


def test_retries_wait_a_little(start):
    begun = time.monotonic()
    with pytest.raises(QuorumError):
        carry_out(Ringing(dict.fromkeys(NAMES, refusing("paused"))), start(retries=2, retry_seconds=0.2))
    assert time.monotonic() - begun >= 0.4


def test_nobody_enrolled_is_told(start):
    grid = Ringing({"north": honest})
    grid.plants.clear()
    with pytest.raises(QuorumError, match="no plant is enrolled"):
        carry_out(grid, start(retries=0))


@GRIDS
def test_after_the_deadline_the_round_goes_on_and_the_late_are_named(start, kind):
    run = start(number=2, deadline_seconds=0.4)
    begun = time.monotonic()
    state = carry_out(kind(dict.fromkeys(NAMES, honest) | {"west": silent}), run)
    assert time.monotonic() - begun >= 0.8
    close(state.weights, closed_form(2, ("north", "south")))
    for record in run.records():
        name = "west" if kind is Ringing else "node-102"
        assert record["dropped"] == {name: {"code": "late", "text": "no reply before the deadline"}}


def test_who_is_away_holds_nobody_up(start):
    run = start(number=2, deadline_seconds=600.0)
    begun = time.monotonic()
    state = carry_out(Ringing(away={"west"}), run)
    assert 0.4 <= time.monotonic() - begun < 300  # two rounds' grace
    close(state.weights, closed_form(2, ("north", "south")))
    assert [record["dropped"] for record in run.records()] == [
        {"west": {"code": "away", "text": "not connected"}}
    ] * 2


def test_who_returns_within_the_grace_takes_part(start):
    grid = Ringing(away={"west"})
    looks = []

    def returning(request, name):
        looks.append(name)
        if len(looks) == 2:
            grid.away.clear()
        return honest(request, name)

    grid.plants |= {"north": returning, "south": returning}
    state = carry_out(grid, start(number=1))
    close(state.weights, closed_form(1))


def test_below_the_quorum_who_is_away_is_waited_for(start):
    grid = Ringing(away={"west"})
    begun = time.monotonic()

    def back(request, name):
        return honest(request, name)

    class Returning(Ringing):
        def online(self):
            if time.monotonic() - begun > 0.6:  # three times the grace
                self.away.clear()
            return super().online()

    grid = Returning(dict.fromkeys(NAMES, back), away={"west"})
    run = start(number=1, quorum=3)
    close(carry_out(grid, run).weights, closed_form(1))
    assert run.records()[0]["attempt"] == 1


def test_a_slow_plant_that_is_here_is_waited_for_until_the_deadline(start):
    """The grace is for those who are away: a plant that trains is not cut short by it."""
    begun = time.monotonic()

    def slow(request, name):
        return honest(request, name) if time.monotonic() - begun > 0.8 else None

    state = carry_out(Ringing(dict.fromkeys(NAMES, honest) | {"west": slow}), start(number=1))
    close(state.weights, closed_form(1))


# --- stops and kills -----------------------------------------------------------------------------------


@GRIDS
def test_a_person_stops_a_run_that_waits(start, kind):
    run, begun = start(deadline_seconds=600.0), time.monotonic()
    with pytest.raises(StoppedError):
        carry_out(kind(dict.fromkeys(NAMES, silent)), run, stopped=lambda: time.monotonic() - begun > 0.2)
    assert time.monotonic() - begun < 300
    assert run.restore() is None


def test_a_person_stops_a_run_between_two_attempts(start):
    asked = []

    def stopped():
        asked.append(0)
        return len(asked) > 8

    grid = Ringing(dict.fromkeys(NAMES, refusing("paused")))
    begun = time.monotonic()
    with pytest.raises(StoppedError):
        carry_out(grid, start(retries=5, retry_seconds=600.0), stopped=stopped)
    assert time.monotonic() - begun < 300


# --- receipts ------------------------------------------------------------------------------------------


def told(request):
    return request.content.config_records["task"]["receipt"]


def with_ledger(entries, key=None):
    """Answer with a receipt of a ledger with so many entries, signed by the plant or by ``key``."""

    def act(request, name):
        weights = {key: array.numpy() for key, array in request.content.array_records["weights"].items()}
        said = receipt_for(request, name, entries=entries, head=f"{entries:064x}")
        if key is not None:
            said = asdict(signed(Receipt(**said), key))
        return answer(request, step_of(weights, name), said)

    return act


def test_a_plant_is_told_its_own_last_receipt_also_of_another_run(start):
    first, second = Ringing(), Ringing()
    carry_out(first, start(number=2))
    carry_out(second, start("later", number=1))
    for name in NAMES:
        sent = [*first.sent, *second.sent]
        before, *after = [told(each) for each in sent if first.name(each.metadata.dst_node_id) == name]
        assert before == ""
        assert [(from_json(text).plant, from_json(text).round) for text in after] == [(name, 1), (name, 2)]


def test_every_snapshot_of_a_plant_is_kept_with_its_rounds(start):
    """North brings new readings after the second round; a kill in between forgets nothing."""
    first, second = "ab" * 32, "cd" * 32

    def act(request, name):
        weights = {key: array.numpy() for key, array in request.content.array_records["weights"].items()}
        number = int(request.content.config_records["task"]["round"])
        said = receipt_for(request, name, snapshot=first if number < 3 else second)
        return answer(request, step_of(weights, name), said)

    def killed(record):
        if record["round"] == 2:
            raise KilledError

    run, plants = start(number=4), dict.fromkeys(NAMES, honest) | {"north": act}
    with pytest.raises(KilledError):
        carry_out(Ringing(plants), run, killed)
    state = carry_out(Ringing(plants), RunFolder(run.path))
    north, south = state.plants["north"], state.plants["south"]
    assert (list(north["snapshots"].items()), north["rounds"]) == ([(first, 2), (second, 2)], 4)
    assert (south["snapshots"], south["rounds"]) == ({"ab" * 32: 4}, 4)
    assert run.restore().plants == state.plants


def test_a_receipt_is_kept_though_the_round_found_no_quorum(start):
    """The plant has paid for its update, whatever became of it."""
    run = start(quorum=2, retries=0)
    with pytest.raises(QuorumError):
        carry_out(Ringing({"north": with_ledger(6), "south": refusing("paused")}), run)
    assert from_json(run.receipts()["north"]).entries == 6


def test_of_two_receipts_of_one_plant_the_one_with_more_entries_stays(start):
    """Two copies of a plant answer two runs at once: the one that is behind is to hear of the other."""
    run = start(number=1)
    before = run.receipts()
    run.keep_receipts({"north": receipt_of(entries=8)}, before)
    run.keep_receipts({"north": receipt_of(entries=6)}, before)
    assert from_json(run.receipts()["north"]).entries == 8
    run.keep_receipts({"north": receipt_of(entries=6, round=2)}, run.receipts())
    assert from_json(run.receipts()["north"]).entries == 6, "it trained, so it knew the other"


def test_where_the_grid_knows_no_names_another_key_cannot_speak_for_a_plant(start):
    other = certificates.make_key()
    run = start(number=2)
    carry_out(Polled(), run)
    again = start("again", number=1)
    carry_out(Polled(dict.fromkeys(NAMES, honest) | {"south": with_ledger(4, other)}), again)
    assert again.records()[0]["dropped"]["node-101"]["code"] == "bad_receipt"
    assert "another key" in again.records()[0]["dropped"]["node-101"]["text"]
    assert sorted(again.restore().plants) == ["north", "west"]
    named = start("named", number=1)
    carry_out(Ringing(dict.fromkeys(NAMES, honest) | {"south": with_ledger(4, other)}), named)
    assert sorted(named.restore().plants) == sorted(NAMES), "there its certificate says who it is"


def unsigned(plants):
    """Receipts without what no two signatures share."""
    return {
        name: {key: value for key, value in plant.items() if key not in ("signature", "run")}
        for name, plant in plants.items()
    }


class KilledError(Exception):
    """What a SIGKILL looks like from inside: nothing after it happens."""


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("moment", ["train", "save", "finish", "append", "tell"])
def test_a_killed_run_goes_on_to_the_very_same_bits(start, monkeypatch, moment, after):
    undisturbed = carry_out(Ringing(), start("undisturbed"))
    run, grid = start(), Ringing()
    state = {"armed": True}

    def killing(function):
        def act(*arguments):
            done = run.restore().round if run.restore() else 0
            if state["armed"] and done >= (after - 1 if moment in ("train", "save") else after):
                raise KilledError
            return function(*arguments)

        return act

    tell = (lambda _: None) if moment != "tell" else killing(lambda _: None)
    if moment == "train":
        grid.plants["west"] = killing(honest)
    elif moment == "save":
        run.save = killing(run.save)
    elif moment == "append":
        run.append = killing(run.append)
    elif moment == "finish":
        grid.finish = killing(grid.finish)
    with pytest.raises(KilledError):
        carry_out(grid, run, tell)
    resumed = Ringing()
    found = carry_out(resumed, RunFolder(run.path))
    same(found.weights, undisturbed.weights)
    assert unsigned(found.plants) == unsigned(undisturbed.plants)
    done = after if moment not in ("train", "save") else after - 1
    assert [each.metadata.group_id for each in resumed.sent] == [
        str(number) for number in range(done + 1, 4) for _ in NAMES
    ]
    # Plants hear that their kept replies are in a merge, though the killed process did not come to it.
    assert resumed.finished[0] == ([], done)


def test_a_finished_run_is_not_run_again(start):
    run = start()
    first = carry_out(Ringing(), run)
    grid = Ringing()
    again = carry_out(grid, run)
    assert grid.sent == []
    same(again.weights, first.weights)


def test_a_damaged_checkpoint_is_not_a_fresh_start(start):
    run = start()
    carry_out(Ringing(), run)
    run.weights.write_bytes(b"nonsense")
    with pytest.raises(InterplantError, match="the checkpoint cannot be read"):
        carry_out(Ringing(), run)


# --- memory --------------------------------------------------------------------------------------------


@GRIDS
@pytest.mark.usefixtures("quick_collections")
def test_one_update_is_in_memory_at_a_time(start, kind):
    alive, most = [], []

    def watched(request, name):
        gc.collect()
        most.append(sum(ref() is not None for ref in alive))
        reply = honest(request, name)
        alive.append(weakref.ref(reply))
        alive.extend(weakref.ref(array) for array in reply.content.array_records["update"].values())
        return reply

    carry_out(kind(dict.fromkeys(NAMES, watched)), start())
    assert len(most) == 9
    assert max(most) == 0
