"""Strategies in the round loop: their state is in the checkpoint, and what they leave is looked at."""

import gc
import os
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from interplant.core.errors import InterplantError, UsageError
from interplant.core.flower import HeldArray
from interplant.server.merging import StrategyError
from interplant.server.rounds import carry_out
from interplant.server.run_folder import Checkpoint, RunFolder
from interplant.strategies import registry, spill
from interplant.strategies.fedavg import FedAvg

from .fakes import (
    NAMES,
    WEIGHTS,
    Polled,
    Ringing,
    changed,
    close,
    closed_form,
    honest,
    refusing,
    same,
    step_of,
)
from .test_order import Shuffled

STATEFUL = ["fedavgm", "fedadagrad", "fedadam", "fedyogi"]
ROBUST = ["median", "trimmed_mean", "krum", "multikrum"]


class KilledError(Exception):
    """What a SIGKILL looks like from inside."""


# --- state and checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("moment", ["save", "tell"])
@pytest.mark.parametrize("named", STATEFUL)
def test_a_killed_run_goes_on_with_its_state_to_the_very_same_bits(start, named, moment, after):
    expected = carry_out(Shuffled(1), start("undisturbed", 4, named=named, order="plants"))
    run = start("killed", 4, named=named, order="plants")
    write = run.save

    def killing(checkpoint):
        if moment == "save" and checkpoint.round == after + 1:
            raise KilledError
        write(checkpoint)

    def tell(record):
        if moment == "tell" and record["round"] == after + 1:
            raise KilledError

    run.save = killing
    with pytest.raises(KilledError):
        carry_out(Shuffled(2), run, tell)
    found = carry_out(Shuffled(3), RunFolder(run.path))
    same(found.weights, expected.weights)
    assert found.round == 4


@pytest.mark.parametrize("named", STATEFUL)
def test_the_state_is_in_every_checkpoint_but_the_last(start, named):
    run, kept = start(number=3, named=named), []
    carry_out(Ringing(), run, lambda _: kept.append(run.restore()))
    first = registry.REGISTERED[named]().init(WEIGHTS)
    for one in kept[:2]:
        assert one.state.keys() == first.keys()
        assert any((one.state[name] != first[name]).any() for name in first)
        assert one.weights.keys() == WEIGHTS.keys()
    assert kept[2].state == {}
    assert load_file(run.weights).keys() == WEIGHTS.keys(), "the result is the model and nothing else"


def test_without_its_state_a_run_would_end_elsewhere(start):
    """The tests above would not notice a state that does not matter."""
    expected = carry_out(Ringing(), start("undisturbed", named="fedavgm"))
    run = start(named="fedavgm")

    def stop(record):
        raise KilledError

    with pytest.raises(KilledError):
        carry_out(Ringing(), run, stop)
    kept = run.restore()
    run.save(Checkpoint(kept.round, kept.weights, kept.plants, zeros(kept.state)))
    found = carry_out(Ringing(), RunFolder(run.path))
    assert any((found.weights[name] != expected.weights[name]).any() for name in WEIGHTS)


def zeros(arrays):
    return {name: np.zeros_like(array) for name, array in arrays.items()}


def test_a_checkpoint_keeps_names_shapes_and_dtypes_of_the_state(tmp_path):
    state = {
        "m/layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "rounds": np.array(7, np.int64),
        "v/a b": np.zeros((0, 2), np.float64),
    }
    run = RunFolder(tmp_path)
    run.save(Checkpoint(3, WEIGHTS, {"north": {"rounds": 2}}, state))
    found = run.restore()
    same(found.state, state)
    same(found.weights, WEIGHTS)
    assert (found.round, found.plants) == (3, {"north": {"rounds": 2}})


def test_a_missed_quorum_leaves_the_state_as_it_was(start):
    asked = []

    def hesitant(request, name):
        asked.append(name)
        return honest(request, name) if len(asked) > 2 else refusing("trainer_died")(request, name)

    run = start("hesitant", number=2, named="fedadam", quorum=3, retries=5)
    found = carry_out(Ringing(dict.fromkeys(NAMES, honest) | {"south": hesitant}), run)
    assert [record["settled"] for record in run.records()] == [False, False, True, True]
    expected = carry_out(Ringing(), start("undisturbed", number=2, named="fedadam"))
    same(found.weights, expected.weights)


# --- robust rules --------------------------------------------------------------------------------------


def scratch_of(run):
    """Files without a name that this process keeps in a run's folder."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        path = Path("/proc/self/fd") / descriptor
        links += [os.readlink(path)] if path.is_symlink() else []
    return [link for link in links if link.startswith(str(run.path))]


@pytest.mark.parametrize("named", ROBUST)
def test_a_robust_rule_ignores_one_wrong_plant_and_leaves_nothing_on_disk(start, named):
    """North and west are alike here; south is far off, but within the norm bound."""
    wild = changed(lambda step: {key: np.full_like(array, 500.0) for key, array in step.items()})
    alike = changed(lambda step: step_of(WEIGHTS, "north"))
    run = start(number=1, named=named, strategy={"beta": 0.34} if named == "trimmed_mean" else {})
    if named == "multikrum":
        run = start("two", number=1, named=named, strategy={"keep": 2})
    state = carry_out(Ringing({"north": alike, "south": wild, "west": alike}), run)
    step = step_of(WEIGHTS, "north")
    close(state.weights, {key: array + step[key] for key, array in WEIGHTS.items()})
    gc.collect()
    assert scratch_of(run) == []
    assert {path.name for path in run.path.iterdir()} == {
        "order.json",
        "checkpoint.safetensors",
        "rounds.jsonl",
    }


def test_fedavg_is_moved_by_the_same_plant(start):
    wild = changed(lambda step: {key: np.full_like(array, 500.0) for key, array in step.items()})
    state = carry_out(Ringing(dict.fromkeys(NAMES, honest) | {"south": wild}), start(number=1))
    assert np.abs(state.weights["layer.weight"] - WEIGHTS["layer.weight"]).min() > 100


def test_a_merged_update_is_gone_when_the_next_one_comes(start):
    """Without the collector, which comes by when it likes: a large update is a mapped file."""
    held, most = [], []

    def act(request, name):
        most.append(sum(one() is not None for one in held))
        reply = honest(request, name)
        record = reply.content.array_records["update"]
        for key in [*record]:
            record[key] = HeldArray(record[key].numpy())
            held.append(weakref.ref(record[key]))
        return reply

    gc.disable()
    try:
        carry_out(Polled(dict.fromkeys(NAMES, act)), start(number=2))
    finally:
        gc.enable()
    assert len(most) == 2 * len(NAMES)
    assert len(held) == len(most) * len(WEIGHTS)
    assert max(most) == 0


@pytest.mark.parametrize("named", ROBUST)
def test_a_round_that_is_given_up_leaves_nothing_on_disk(start, named, monkeypatch):
    monkeypatch.setattr(spill, "MEMORY", 0)
    seen = []

    def killing(request, name):
        seen.extend(scratch_of(run))
        raise KilledError

    run = start(number=1, named=named)
    with pytest.raises(KilledError):
        carry_out(Ringing(dict.fromkeys(NAMES, honest) | {"west": killing}), run)
    assert len(seen) == 1, "two updates lay there"
    gc.collect()
    assert scratch_of(run) == []
    assert [path.name for path in run.path.iterdir()] == ["order.json"]


# --- what a strategy must not do -----------------------------------------------------------------------


def test_a_step_that_ends_in_infinity_is_not_a_checkpoint(start):
    run = start(strategy={"learning_rate": 1e300})
    with pytest.raises(InterplantError, match="FedAvg: expected finite values, found others in "):
        carry_out(Ringing(), run)
    assert run.restore() is None


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: {"scale": weights["scale"]},
        lambda weights: weights | {"scale": np.float64(weights["scale"])},
        lambda weights: weights | {"scale": np.ones(2, np.float32)},
    ],
    ids=["names", "dtype", "shape"],
)
def test_a_strategy_that_changes_the_model_is_named(start, monkeypatch, change):
    class Careless(FedAvg):
        def finish(self, merge, weights, state):
            return change(super().finish(merge, weights, state)[0]), state

    monkeypatch.setitem(registry.REGISTERED, "careless", Careless)
    run = start(named="careless")
    with pytest.raises(InterplantError, match="strategy Careless: expected weights with the model"):
        carry_out(Ringing(), run)
    assert run.restore() is None


def fail(*_):
    raise RuntimeError("out of luck")


def leave(*_):
    raise SystemExit(0)


def give(value):
    return lambda *_: value


WRONG = {
    "init raises": ("init", fail, "init failed with RuntimeError: out of luck"),
    "begin raises": ("begin", fail, "begin failed with RuntimeError: out of luck"),
    "fold raises": ("fold", fail, "fold failed with RuntimeError: out of luck"),
    "finish raises": ("finish", fail, "finish failed with RuntimeError: out of luck"),
    "init leaves": ("init", leave, "init failed with SystemExit: 0"),
    "fold leaves": ("fold", leave, "fold failed with SystemExit: 0"),
    "no state": ("init", give(None), "expected init to return arrays by name, found NoneType"),
    "numbered": ("init", give({1: np.ones(1)}), "expected init to return arrays by name, found other names"),
    "words": ("init", give({"a": "word"}), "expected numbers in a, found dtype <U4"),
    "ragged": ("init", give({"a": [[1], [1, 2]]}), "init failed with ValueError"),
    "nothing": ("finish", give(None), "expected finish to return weights and state, found NoneType"),
    "one": ("finish", lambda _, weights, state: weights, "to return weights and state, found dict"),
    "lists": ("finish", give(([], {})), "expected finish to return arrays by name, found list"),
    "objects": ("finish", lambda _, weights, state: (weights, {"a": {}}), "numbers in a, found dtype object"),
}


@pytest.mark.parametrize(("part", "does", "said"), WRONG.values(), ids=WRONG)
def test_a_strategy_that_fails_is_named_and_its_round_can_be_tried_again(
    start, monkeypatch, part, does, said
):
    """It does well in the first round, unless it cannot begin."""
    armed = [part == "init"]

    class Own(FedAvg):
        pass

    def act(self, *words):
        return does(*words) if armed[0] else getattr(FedAvg, part)(self, *words)

    setattr(Own, part, act)
    monkeypatch.setitem(registry.REGISTERED, "own", Own)
    run = start(named="own", order="plants")
    with pytest.raises(StrategyError, match=f"^strategy Own: .*{re.escape(said)}.*; mend the strategy$"):
        carry_out(Ringing(), run, lambda _: armed.__setitem__(0, True))
    before = run.restore()
    assert (before.round if before else 0) == (0 if part == "init" else 1)
    monkeypatch.setitem(registry.REGISTERED, "own", FedAvg)
    mended = carry_out(Ringing(), RunFolder(run.path))
    same(mended.weights, carry_out(Ringing(), start("undisturbed", order="plants")).weights)


def test_a_full_disk_is_not_the_strategys_fault(start, monkeypatch):
    class Own(FedAvg):
        def fold(self, merge, update, weight=1.0):
            raise InterplantError("the disk is full")

    monkeypatch.setitem(registry.REGISTERED, "own", Own)
    with pytest.raises(InterplantError, match=r"^the disk is full$"):
        carry_out(Ringing(), start(named="own"))


def test_a_strategy_of_ones_own_may_return_bare_numbers(start, monkeypatch):
    class Own(FedAvg):
        def init(self, weights):
            return {"rounds": np.zeros(())}

        def finish(self, merge, weights, state):
            mean = merge.value()
            return {name: array + mean[name] for name, array in weights.items()}, {
                "rounds": state["rounds"] + 1
            }

    monkeypatch.setitem(registry.REGISTERED, "own", Own)
    run, kept = start(named="own"), []
    state = carry_out(Ringing(), run, lambda _: kept.append(run.restore()))
    close(state.weights, closed_form(3))
    assert [float(one.state["rounds"]) for one in kept[:2]] == [1.0, 2.0]


def test_a_strategy_that_is_no_longer_installed_is_named(start):
    run = start(named="theirs")
    with pytest.raises(UsageError, match=r"strategy\.name: expected one of .*, found 'theirs'"):
        carry_out(Ringing(), run)
