"""Plants folded in a fixed order: the same bits however replies arrive, and nobody is waited for for ever."""

import gc
import random
import time
import weakref

import numpy as np
import pytest

from interplant.server.replies import StoppedError
from interplant.server.rounds import QuorumError, carry_out
from interplant.server.run_folder import RunFolder

from .fakes import (
    NAMES,
    Polled,
    Ringing,
    answer,
    close,
    closed_form,
    honest,
    receipt_for,
    refusing,
    same,
    silent,
)

ORDERED = {"order": "plants"}


def rough(request, name):
    """An honest update whose sums depend, in their last bits, on their order."""
    number = request.content.config_records["task"]["round"]
    rng = np.random.default_rng([number, NAMES.index(name)])
    weights = sorted(request.content.array_records["weights"].items())
    step = {key: np.asarray(rng.normal(size=array.numpy().shape), np.float32) for key, array in weights}
    return answer(request, step, receipt_for(request, name))


class Shuffled(Ringing):
    """Replies arrive in an order of their own."""

    def __init__(self, seed, plants=None, away=()):
        super().__init__(plants or dict.fromkeys(NAMES, rough), away)
        self.chance = random.Random(seed)

    def wait(self, message_ids, seconds):
        ids = list(message_ids)
        return super().wait(self.chance.sample(ids, len(ids)), seconds)


def bits(weights):
    return b"".join(array.tobytes() for _, array in sorted(weights.items()))


def test_shuffled_arrival_gives_the_same_bits_in_order_and_others_otherwise(start):
    found = {
        order: {
            bits(carry_out(Shuffled(seed), start(f"{order}-{seed}", order=order)).weights)
            for seed in range(6)
        }
        for order in ("plants", "arrival")
    }
    assert len(found["plants"]) == 1
    assert len(found["arrival"]) > 1


def test_the_order_is_that_of_the_names_not_of_the_nodes(start):
    class Renumbered(Ringing):
        def node(self, name):
            return 300 - NAMES.index(name)

        def name(self, node):
            return NAMES[300 - node]

    plants = dict.fromkeys(NAMES, rough)
    expected = carry_out(Ringing(plants), start("a", **ORDERED)).weights
    same(carry_out(Renumbered(plants), start("b", **ORDERED)).weights, expected)


def test_a_killed_run_goes_on_to_the_same_bits_under_another_arrival(start):
    expected = carry_out(Shuffled(1), start("undisturbed", **ORDERED)).weights
    run, grid = start(**ORDERED), Shuffled(2)

    def killed(request, name):
        if request.content.config_records["task"]["round"] == 2:
            raise ZeroDivisionError
        return rough(request, name)

    grid.plants["west"] = killed
    with pytest.raises(ZeroDivisionError):
        carry_out(grid, run)
    assert run.restore().round == 1
    same(carry_out(Shuffled(3), RunFolder(run.path)).weights, expected)


def test_where_the_grid_knows_no_names_the_order_is_that_of_the_nodes(start):
    expected = carry_out(Ringing(dict.fromkeys(NAMES, rough)), start("a", **ORDERED)).weights
    plants = dict.fromkeys(reversed(NAMES), rough)
    same(carry_out(Polled(plants), start("b", **ORDERED)).weights, expected)


# --- who is late, away or refuses ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Polled, Ringing])
def test_after_the_deadline_the_others_are_folded_and_the_first_is_named(start, kind):
    run, begun = start(number=1, deadline_seconds=0.4, **ORDERED), time.monotonic()
    state = carry_out(kind(dict.fromkeys(NAMES, honest) | {"north": silent}), run)
    assert time.monotonic() - begun >= 0.4
    close(state.weights, closed_form(1, ("south", "west")))
    name = "north" if kind is Ringing else "node-100"
    assert run.records()[0]["dropped"] == {name: {"code": "late", "text": "no reply before the deadline"}}


def test_a_first_plant_that_is_away_holds_nobody_up(start):
    run, begun = start(number=2, deadline_seconds=600.0, quorum=2, **ORDERED), time.monotonic()
    state = carry_out(Ringing(away={"north"}), run)
    assert 0.4 <= time.monotonic() - begun < 300  # two rounds' grace
    close(state.weights, closed_form(2, ("south", "west")))
    assert [record["dropped"] for record in run.records()] == [
        {"north": {"code": "away", "text": "not connected"}}
    ] * 2
    assert [record["attempt"] for record in run.records()] == [1, 1]


class Returning(Shuffled):
    """The plant that is away returns after so many seconds."""

    def __init__(self, seconds, away):
        super().__init__(0, away={away})
        self.back = time.monotonic() + seconds

    def online(self):
        if time.monotonic() > self.back:
            self.away.clear()
        return super().online()


@pytest.mark.parametrize(("seconds", "quorum"), [(0.1, 1), (0.6, 3)])
def test_who_returns_in_time_takes_its_own_place(start, seconds, quorum):
    """Within the grace, or below the quorum whenever before the deadline."""
    expected = carry_out(Shuffled(0), start("undisturbed", number=1, **ORDERED)).weights
    run = start(number=1, quorum=quorum, **ORDERED)
    same(carry_out(Returning(seconds, "north"), run).weights, expected)
    assert run.records()[0]["attempt"] == 1


def test_a_refusal_is_dropped_in_its_turn_and_does_not_count_for_the_quorum(start):
    """South has answered, but with a refusal: below the quorum, north is waited for."""
    grid = Returning(0.6, "north")
    grid.plants["south"] = refusing("paused")
    run = start(number=1, quorum=2, **ORDERED)
    carry_out(grid, run)
    (record,) = run.records()
    assert record["participants"] == ["north", "west"]
    assert record["dropped"]["south"]["code"] == "paused"


def test_a_round_that_passed_over_a_plant_in_vain_is_tried_again_in_order(start):
    """What looked like a quorum held a bad update: north is not folded out of its turn."""
    expected = carry_out(Shuffled(0), start("undisturbed", number=1, **ORDERED)).weights
    asked = []

    def bad_at_first(request, name):
        asked.append(name)
        if len(asked) > 1:
            return rough(request, name)
        grid.away.clear()  # north returns just when it has been passed over
        return answer(request, {"scale": np.ones(1, np.float32)}, receipt_for(request, name))

    grid = Shuffled(0, away={"north"})
    grid.plants["south"] = bad_at_first
    grid.answered = lambda ids: {key: True for key in ids if not key.endswith("100")}
    run = start(number=1, quorum=2, retries=2, **ORDERED)
    state = carry_out(grid, run)
    assert [record["settled"] for record in run.records()] == [False, True]
    assert run.records()[0]["participants"] == ["west"]
    same(state.weights, expected)


def test_every_plant_away_ends_at_the_deadline(start):
    run = start(number=1, deadline_seconds=0.3, retries=0, **ORDERED)
    with pytest.raises(QuorumError, match="found 0 good updates"):
        carry_out(Ringing(away=set(NAMES)), run)


def test_a_person_stops_a_run_that_waits_for_the_first(start):
    run, begun = start(deadline_seconds=600.0, **ORDERED), time.monotonic()
    with pytest.raises(StoppedError):
        carry_out(
            Ringing(dict.fromkeys(NAMES, honest) | {"north": silent}),
            run,
            stopped=lambda: time.monotonic() - begun > 0.2,
        )
    assert time.monotonic() - begun < 300


@pytest.mark.usefixtures("quick_collections")
def test_one_update_is_in_memory_at_a_time(start):
    alive, most = [], []

    def watched(request, name):
        gc.collect()
        most.append(sum(ref() is not None for ref in alive))
        reply = honest(request, name)
        alive.append(weakref.ref(reply))
        alive.extend(weakref.ref(array) for array in reply.content.array_records["update"].values())
        return reply

    carry_out(Shuffled(0, dict.fromkeys(NAMES, watched)), start(**ORDERED))
    assert len(most) == 9
    assert max(most) == 0
