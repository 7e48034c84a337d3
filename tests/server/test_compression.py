"""The coordinator's side of compression: differences, who gets them, packed updates, checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from interplant.core.compression import CODECS, digest_of, largest, moved, pack, unpack
from interplant.core.flower import arrays as held_arrays
from interplant.core.schema import Compression
from interplant.server.compression import Broadcast
from interplant.server.rounds import carry_out
from interplant.server.run_folder import Checkpoint
from interplant.server.updates import BadUpdateError, checked

from .conftest import receipt_of
from .fakes import (
    NAMES,
    WEIGHTS,
    Polled,
    Ringing,
    answer,
    close,
    closed_form,
    receipt_for,
    refusing,
    same,
    step_of,
)

GRIDS = pytest.mark.parametrize("kind", [Polled, Ringing])
BOTH = Compression("int8", "int8")


class Plants:
    """Plants that hold models and pack updates, as the plant's own code does; each may say what it takes."""

    def __init__(self, takes=None):
        self.takes = takes or {}
        self.held, self.left, self.kinds = {}, {}, []

    def act(self, request, name):
        words = dict(request.content.config_records["compression"])
        takes = self.takes.get(name, tuple(CODECS))
        came = {key: array.numpy() for key, array in request.content.array_records["weights"].items()}
        whole = words["codec"] == "none"
        self.kinds.append((request.content.config_records["task"]["round"], name, words["codec"]))
        if not whole and digest_of(self.held.get(name, {})) != words["digest"]:
            if digest_of(self.held.get(name, {})) != words["base"]:
                return refusing("model_lost")(request, name)
            step = unpack(words["codec"], came["packed"].tobytes(), self.held[name], words["keep"])
            came = moved(self.held[name], step)
        elif not whole:
            came = self.held[name]
        if words["digest"]:
            assert digest_of(came) == words["digest"]
        self.held[name] = came
        update, told = step_of(came, name), {"update": "none", "holds": ""}
        told["holds"] = words["digest"] if words["model"] in takes else ""
        if words["update"] in takes:
            told["update"] = words["update"]
            meant = {key: np.asarray(array + self.left.get((name, key), 0)) for key, array in update.items()}
            packed = pack(words["update"], meant, words["keep"])
            read = unpack(words["update"], packed, meant, words["keep"])
            self.left |= {(name, key): meant[key] - read[key] for key in meant}
            update = {"packed": np.frombuffer(packed, np.uint8)}
        return answer(request, update, receipt_for(request, name), compression=ConfigRecord(told))

    def on(self, kind):
        return kind(dict.fromkeys(NAMES, self.act))


# --- rounds ----------------------------------------------------------------------------------------


@GRIDS
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_the_model_comes_near_what_it_is_without(start, kind, codec):
    offer = Compression(codec, codec, keep=0.5)
    plants, run = Plants(), start(number=12, compression=offer)
    state = carry_out(plants.on(kind), run)
    assert state.round == 12
    assert {name: one["rounds"] for name, one in state.plants.items()} == dict.fromkeys(NAMES, 12)
    for key, array in closed_form(12).items():
        np.testing.assert_allclose(state.weights[key], array, atol=0.3 if codec == "top_k" else 0.02)
    assert {codec_ for number, _, codec_ in plants.kinds if number == 1} == {"none"}
    assert {codec_ for number, _, codec_ in plants.kinds if number > 1} == {codec}


def test_both_grids_give_the_same_bits(start):
    one = carry_out(Plants().on(Polled), start("a", compression=BOTH))
    same(one.weights, carry_out(Plants().on(Ringing), start("b", compression=BOTH)).weights)


def test_a_plant_that_takes_no_part_gets_and_sends_arrays_as_they_are_in_the_same_rounds(start):
    plants = Plants({"south": (), "west": ("bf16",)})
    grid, run = plants.on(Ringing), start(number=3, compression=BOTH)
    state = carry_out(grid, run)
    assert all(one["rounds"] == 3 for one in state.plants.values())
    assert [kind for kind in plants.kinds if kind[2] != "none"] == [
        (2, "north", "int8"),
        (3, "north", "int8"),
    ]
    for number in (2, 3):
        models = [{k: a.tobytes() for k, a in plants.held[name].items()} for name in NAMES]
        assert models == [models[0]] * 3, f"round {number}: all train from the same model"


def test_one_difference_is_packed_a_round_however_many_plants(start):
    grid = Plants({"south": ()}).on(Ringing)
    carry_out(grid, start(number=2, compression=BOTH))
    second = [each for each in grid.sent if each.metadata.group_id == "2"]
    bodies = {id(each.content.array_records["weights"]) for each in second}
    assert len(bodies) == 2, "one whole, one packed"


def test_without_an_offer_nothing_of_it_is_sent_or_kept(start):
    grid, run = Ringing(), start()
    carry_out(grid, run)
    assert all(set(each.content) == {"weights", "task"} for each in grid.sent)
    assert not run.restore().held


def test_only_updates_are_packed_if_only_that_is_offered(start):
    plants, seen = Plants(), []
    run = start(number=2, compression=Compression("int8"))
    carry_out(plants.on(Ringing), run, lambda _: seen.append(run.restore()))
    assert {codec for _, _, codec in plants.kinds} == {"none"}
    assert not seen[0].held


def test_a_plant_that_has_lost_its_model_gets_the_next_one_whole(start):
    plants, run = Plants(), start(number=5, compression=BOTH)
    told = []

    def lose(record):
        told.append(record)
        if record["round"] == 2:
            plants.held["south"] = {}

    state = carry_out(plants.on(Ringing), run, lose)
    assert told[2]["dropped"]["south"]["code"] == "model_lost"
    assert [codec for number, name, codec in plants.kinds if name == "south"] == [
        "none", "int8", "int8", "none", "int8"
    ]  # fmt: skip
    assert state.plants["south"]["rounds"] == 4
    assert run.records()[3]["participants"] == sorted(NAMES), "nobody rests for it"


def test_a_round_that_is_tried_again_sends_it_whole_at_once(start):
    plants, run = Plants(), start(number=2, quorum=3, compression=BOTH)
    grid = plants.on(Ringing)
    carry_out(grid, run, lambda record: plants.held.pop("south") if record["round"] == 1 else None)
    assert [record["settled"] for record in run.records()] == [True, False, True]
    assert run.records()[1]["dropped"]["south"]["code"] == "model_lost"
    assert [kind for kind in plants.kinds if kind[:2] == (2, "south")] == [
        (2, "south", "int8"), (2, "south", "none")
    ]  # fmt: skip


def test_a_round_that_is_tried_again_gives_the_same_model(start):
    plants, once = Plants(), []

    def act(request, name):
        if request.content.config_records["task"]["round"] == 2 and name == "west" and not once:
            once.append(name)
            return refusing("no_snapshot")(request, name)
        return plants.act(request, name)

    run = start(number=3, quorum=3, compression=BOTH)
    state = carry_out(Ringing(dict.fromkeys(NAMES, act)), run)
    assert [record["settled"] for record in run.records()] == [True, False, True, True]
    # Who answered in the first try has a residual of its own; models are the same for all.
    assert len({digest_of(plants.held[name]) for name in NAMES}) == 1
    assert state.round == 3


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_round_loop_goes_on_to_the_same_bits(start, after):
    class Killed(Exception):
        pass

    def kill(record):
        if record["round"] == after:
            raise Killed

    whole = carry_out(Plants().on(Ringing), start("whole", number=4, compression=BOTH, order="plants"))
    plants, run = Plants(), start("killed", number=4, compression=BOTH, order="plants")
    with pytest.raises(Killed):
        carry_out(plants.on(Ringing), run, kill)
    kept = run.restore()
    same(kept.held, plants.held["north"])
    assert kept.holders == dict.fromkeys(NAMES, digest_of(kept.held))
    before = len(plants.kinds)
    state = carry_out(plants.on(Ringing), run)
    same(state.weights, whole.weights)
    assert {codec for _, _, codec in plants.kinds[before:]} == {"int8"}, "no model is sent whole again"
    assert not run.restore().held, "after the last round nothing but the model is needed"


# --- the model that plants hold --------------------------------------------------------------------


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_what_plants_hold_follows_the_model(codec):
    """What one difference leaves out is in the next: a model that stands still is reached."""
    offer, chance = Compression("none", codec, keep=0.1), np.random.default_rng(0)
    target = {"w": chance.normal(size=(40, 5)).astype(np.float32), "n": np.array([5])}
    held, errors = {"w": np.zeros((40, 5), np.float32), "n": np.array([0])}, []
    for number in range(1, 13):
        state = Checkpoint(number, target, held=held)
        sent = Broadcast.of(offer, state)
        assert digest_of(sent.weights) == sent.digest
        assert digest_of(held) == sent.base
        held = sent.weights
        errors.append(float(np.linalg.norm(held["w"] - target["w"])))
    assert errors == sorted(errors, reverse=True) or errors[-1] < 1e-6
    assert errors[-1] < 0.01 * np.linalg.norm(target["w"])
    np.testing.assert_array_equal(held["n"], [5])


# --- updates of strangers --------------------------------------------------------------------------


UPDATE = {"layer.weight": np.full((4, 3), 0.5, np.float32), "scale": np.array(0.25, np.float32)}


def reply(packed=None, told=None, wire=held_arrays, **extra):
    """A packed reply, with whatever is wrong in it."""
    from interplant.core.flower import Envelope, message

    packed = np.frombuffer(pack("int8", UPDATE, 0.01), np.uint8) if packed is None else packed
    records = {
        "update": wire({"packed": packed} | extra),
        "receipt": ConfigRecord(receipt_of()),
        "compression": ConfigRecord(told or {"update": "int8", "holds": ""}),
    }
    return message(Envelope("", 1, 2, 0, "train", "1", "run.1.2"), RecordDict(records))


def as_npy(arrays):
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def bad(found, code="bad_packed", max_norm=100.0, offer=BOTH):
    with pytest.raises(BadUpdateError) as failed:
        checked(found, WEIGHTS, max_norm, offer=offer)
    assert failed.value.code == code
    assert "\n" not in str(failed.value)
    return str(failed.value)


@pytest.mark.parametrize("wire", [held_arrays, as_npy])
def test_a_packed_update_is_what_any_other_is(wire):
    update = checked(
        reply(wire=wire, told={"update": "int8", "holds": "ab" * 32}), WEIGHTS, 100.0, offer=BOTH
    )
    close(update.arrays, UPDATE)
    assert update.holds == "ab" * 32
    assert all(array.dtype == np.float32 for array in update.arrays.values())


def test_norms_and_values_are_looked_at_after_unpacking():
    assert "at most 1" in bad(reply(), "norm", max_norm=1.0)
    huge = pack("int8", {"layer.weight": np.full((4, 3), 3e38, np.float32), "scale": UPDATE["scale"]}, 0.01)
    bad(reply(np.frombuffer(huge, np.uint8)), "norm")


@pytest.mark.parametrize(
    "told",
    [
        {"update": "bf16", "holds": ""},
        {"update": "gzip", "holds": ""},
        {"update": 8, "holds": ""},
        {"update": "int8", "holds": "abc"},
        {"update": "int8", "holds": 7},
        {"update": "int8", "holds": "AB" * 32},
        {"update": "int8"},
        {"update": "int8", "holds": "", "rows": 17},
    ],
)
def test_words_that_were_not_offered_are_refused(told):
    bad(reply(told=told))


@pytest.mark.parametrize("wire", [held_arrays, as_npy])
@pytest.mark.parametrize(
    "packed",
    [
        np.zeros(0, np.uint8),
        np.zeros(40, np.uint8),
        np.frombuffer(pack("int8", UPDATE, 0.01), np.uint8)[:-1],
        np.frombuffer(pack("bf16", UPDATE, 0.01), np.uint8),
        np.zeros(largest("int8", UPDATE, 0.01) + 1, np.uint8),
        np.zeros(40, np.int16),
        np.zeros((5, 8), np.float32),
    ],
)  # fmt: skip
def test_bytes_that_are_no_update_are_refused(packed, wire):
    bad(reply(packed, wire=wire))


def test_npy_bytes_beyond_what_the_model_needs_are_not_read():
    assert "found more" in bad(reply(np.zeros(1 << 16, np.uint8), wire=as_npy), "bad_shape")


def test_more_bytes_than_the_model_needs_are_not_looked_at():
    most = largest("int8", UPDATE, BOTH.keep)
    assert bad(reply(np.zeros(most + 1, np.uint8))).startswith(f"expected at most {most} bytes")


def test_another_array_beside_the_bytes_is_refused():
    bad(reply(more=np.ones(3, np.float32)))
    bad(reply(wire=lambda _: held_arrays(UPDATE)))


def test_a_packed_update_is_refused_where_none_was_offered():
    for offer in (Compression(), Compression("none", "int8"), Compression("top_k")):
        with pytest.raises(BadUpdateError):
            checked(reply(), WEIGHTS, 100.0, offer=offer)
    with pytest.raises(BadUpdateError):
        checked(reply(), WEIGHTS, 100.0)


def test_one_hostile_plant_costs_the_others_nothing(start):
    plants = Plants()

    def hostile(request, name):
        told = ConfigRecord({"update": "int8", "holds": "0" * 64})
        update = {"packed": np.full(60, 255, np.uint8)}
        return answer(request, update, receipt_for(request, name), compression=told)

    grid = Ringing({"north": plants.act, "south": plants.act, "west": hostile})
    run = start(number=3, quorum=2, compression=BOTH)
    state = carry_out(grid, run)
    assert sorted(state.plants) == ["north", "south"]
    assert run.records()[0]["dropped"]["west"]["code"] == "bad_packed"


def test_a_plant_that_names_another_model_is_sent_it_whole(start):
    """Its word decides what it is sent, and nothing else."""
    plants = Plants()

    def boastful(request, name):
        found = plants.act(request, name)
        found.content["compression"] = ConfigRecord({"update": "int8", "holds": "0" * 64})
        return found

    grid = Ringing({"north": plants.act, "south": boastful})
    carry_out(grid, start(number=3, quorum=2, compression=BOTH))
    assert {codec for _, name, codec in plants.kinds if name == "south"} == {"none"}


def test_an_older_plant_that_knows_no_compression_takes_part(start):
    grid = Ringing()
    state = carry_out(grid, start(number=2, compression=BOTH))
    assert state.round == 2
    assert set(state.plants) == set(NAMES)
    for each in grid.sent:
        assert each.content.config_records["compression"]["codec"] == "none"


# --- the folder ------------------------------------------------------------------------------------


def test_orders_and_checkpoints_come_back(start):
    run = start(compression=Compression("top_k", "int8", 0.25))
    assert run.rounds().compression == Compression("top_k", "int8", 0.25)
    state = Checkpoint(1, WEIGHTS, state={"m": np.ones(2)}, held={"w": np.zeros(3)}, holders={"north": "ab"})
    run.save(state)
    found = run.restore()
    for part in ("weights", "state", "held"):
        same(getattr(found, part), getattr(state, part))
    assert found.holders == {"north": "ab"}


def test_an_order_of_an_older_version_offers_nothing(start):
    run = start()
    order = run.order()
    words = {key: value for key, value in order.rounds.items() if key != "compression"}
    (run.path / "order.json").unlink()
    run.create(replace(order, rounds=words))
    assert run.rounds().compression == Compression()
