"""Fewer bytes at a plant: packed after the gateway, what is left is kept once, a lost model is told."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from interplant.client import compression, gateway
from interplant.client.agent import Agent
from interplant.client.directory import PlantDirectory
from interplant.client.participation import take_part
from interplant.client.trained import Trained
from interplant.client.trainer import InlineTrainer
from interplant.core import blobs
from interplant.core import federation_pb2 as pb
from interplant.core.compression import CODECS, difference, digest_of, moved, pack, unpack
from interplant.core.errors import Refusal
from interplant.core.flower import arrays, refusal
from interplant.core.schema import Compression, Privacy
from interplant.core.tensors import Tensors
from interplant.privacy.ledger import Ledger

from .conftest import OPEN, TASK, FakeTrainer, audited, edit, receipt, request, weights

START: Tensors = {
    "a.weight": np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32),
    "b": np.array(0.5, np.float32),
}
BOTH = Compression("int8", "int8")


class Wandering(FakeTrainer):
    """Updates with many digits, other ones each time; remembers models and updates."""

    def __init__(self) -> None:
        super().__init__()
        self.models: list[Tensors] = []
        self.updates: list[Tensors] = []

    def train(self, run: str, number: int, task: Any, start: Tensors) -> Trained:
        chance = np.random.default_rng([number, len(self.updates)])
        self.models.append({name: array.copy() for name, array in start.items()})
        self.updates.append({k: chance.normal(size=v.shape).astype(np.float32) for k, v in start.items()})
        return replace(super().train(run, number, task, start), update=self.updates[-1])


@pytest.fixture
def trainer() -> Wandering:
    return Wandering()


def asked(
    number: int = 1,
    model: Tensors = START,
    base: Tensors | None = None,
    offer: Compression = BOTH,
    **more: Any,
) -> Message:
    """A request that offers compression; with ``base`` the model comes as the difference from it.

    The model that plants then hold is ``unpacked`` of the same arguments.
    """
    task, run, words = more.get("task", TASK), more.get("run", "run-1"), more.get("words", {})
    target = unpacked(model, base, offer) if base else model
    message = request(task, target, number, run=run)
    about: dict[str, Any] = {"codec": "none", "base": "", "digest": digest_of(target)}
    if base:
        packed = pack(offer.model, difference(model, base), offer.keep)
        message.content["weights"] = arrays({"packed": np.frombuffer(packed, np.uint8)})
        about |= {"codec": offer.model, "base": digest_of(base)}
    message.content["compression"] = ConfigRecord(asdict(offer) | about | words)
    return message


def unpacked(model: Tensors, base: Tensors, offer: Compression = BOTH) -> Tensors:
    packed = pack(offer.model, difference(model, base), offer.keep)
    return moved(base, unpack(offer.model, packed, base, offer.keep))


def another(seed: int) -> Tensors:
    chance = np.random.default_rng(seed)
    return {
        name: np.asarray(array + chance.normal(size=array.shape), np.float32) for name, array in START.items()
    }


def sent(reply: Message, offer: Compression = BOTH) -> Tensors:
    """What the coordinator reads of an update."""
    assert reply.has_content(), reply.error
    (packed,) = reply.content.array_records["update"].values()
    return unpack(offer.update, packed.numpy().tobytes(), START, offer.keep)


def told(reply: Message) -> dict[str, Any]:
    return dict(reply.content.config_records["compression"])


def same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def near(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5)


def files(plant: PlantDirectory, run: str = "run-1") -> list[str]:
    return sorted(path.name for path in (plant.compression / run).glob("*"))


# --- what is agreed --------------------------------------------------------------------------------


def test_without_an_offer_a_reply_is_as_it_was(bare: PlantDirectory, trainer: Wandering) -> None:
    reply = take_part(bare, trainer, request(TASK, START))
    assert set(reply.content) == {"update", "receipt"}
    assert reply.content.array_records["update"].keys() == START.keys()
    assert "compression" not in audited(bare)[0]
    assert not bare.compression.exists()


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_an_update_leaves_as_one_array_of_bytes(bare: PlantDirectory, trainer: Wandering, codec: str) -> None:
    offer = Compression(codec, "none", keep=0.2)
    reply = take_part(bare, trainer, asked(offer=offer))
    assert list(reply.content.array_records["update"]) == ["packed"]
    assert told(reply) == {"update": codec, "holds": ""}
    found, meant = sent(reply, offer), trainer.updates[0]
    size = np.abs(meant["a.weight"]).max()
    if codec == "top_k":
        assert np.count_nonzero(found["a.weight"]) == 6
    else:
        np.testing.assert_allclose(found["a.weight"], meant["a.weight"], atol=size / 127)
    np.testing.assert_array_equal(found["b"], meant["b"])


@pytest.mark.parametrize(
    ("takes", "update", "holds"),
    [(["int8"], "int8", True), (["bf16", "top_k"], "none", False), ([], "none", False)],
)
def test_the_plants_own_settings_decide(
    bare: PlantDirectory, trainer: Wandering, takes: list[str], update: str, holds: bool
) -> None:
    edit(bare, lambda plant: setattr(plant.connection, "compression", takes))
    reply = take_part(bare, trainer, asked())
    assert told(reply) == {"update": update, "holds": digest_of(START) if holds else ""}
    plain = reply.content.array_records["update"].keys() == START.keys()
    assert plain == (update == "none")
    assert bool(files(bare)) == holds


@pytest.mark.parametrize(
    "words", [{"update": "gzip"}, {"codec": "gzip"}, {"keep": 0.0}, {"keep": "half"}, {"keep": 0.9}]
)
def test_an_offer_that_cannot_be_is_refused(
    bare: PlantDirectory, trainer: Wandering, words: dict[str, Any]
) -> None:
    assert refusal(take_part(bare, trainer, asked(words=words))) == "task_invalid"
    assert trainer.trained == []


# --- privacy ---------------------------------------------------------------------------------------


def test_ledger_noise_and_what_the_gateway_sees_are_the_same_with_and_without(
    ready: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Charged by the real ledger; noise from the task's seed where two draws are compared."""
    start, seen = weights(), []
    real = gateway.let_out

    def watch(plant: Any, task: Any, model: Any, trained: Trained, *rest: Any) -> Message:
        seen.append({name: array.copy() for name, array in trained.update.items()})
        return real(plant, task, model, trained, *rest)

    monkeypatch.setattr(gateway, "let_out", watch)
    edit(ready, lambda plant: setattr(plant.policy.privacy, "allow_none", True))
    repeated = replace(TASK, privacy=Privacy(mechanism="dp-sgd-test", noise=2.0))
    for message in (request(repeated, start, run="plain"), asked(1, start, task=repeated, run="light")):
        assert take_part(ready, InlineTrainer(ready), message).has_content()
    same(seen[1], seen[0])

    charged = []
    for message in (request(TASK, start, run="plain"), asked(1, start, task=TASK, run="light")):
        before = len(Ledger(ready.ledger).entries())
        assert take_part(ready, InlineTrainer(ready), message).has_content()
        charged.append([(one.unit, one.q, one.noise, one.steps) for one in Ledger(ready.ledger).events()])
        assert len(Ledger(ready.ledger).entries()) == before + 2
    assert sum(steps for *_, steps in charged[1]) == 2 * sum(steps for *_, steps in charged[0])
    assert {tuple(kind[:3]) for kind in charged[1]} == {tuple(kind[:3]) for kind in charged[0]}

    lines = audited(ready)
    assert [line["arrays"] for line in lines] == [lines[0]["arrays"]] * 4
    assert [line.get("compression", {}).get("update") for line in lines] == [None, "int8", None, "int8"]
    assert lines[3]["compression"]["holds"] == digest_of(start)


def test_what_is_kept_is_made_of_updates_that_were_let_out_and_of_nothing_else(
    bare: PlantDirectory, trainer: Wandering
) -> None:
    reply = take_part(bare, trainer, asked(1))
    kept = blobs.load(bare.compression / "run-1" / "residual-1.safetensors")
    assert kept.keys() == {"a.weight"}
    left = trainer.updates[0]["a.weight"] - sent(reply)["a.weight"]
    np.testing.assert_array_equal(kept["a.weight"], left)


def test_an_update_that_the_gateway_stops_leaves_nothing_behind(bare: PlantDirectory) -> None:
    class Unpaid(Wandering):
        def train(self, *job: Any) -> Trained:
            return replace(super().train(*job), receipt=receipt(epsilon=0.0))

    assert refusal(take_part(bare, Unpaid(), asked(offer=Compression("int8")))) == "gateway"
    assert files(bare) == []


@pytest.mark.parametrize(
    "words",
    [{"update": "int8"}, {"update": "int8", "holds": "secret"}, {"update": "gzip", "holds": ""},
     {"update": "int8", "holds": "", "rows": "17"}],
)  # fmt: skip
def test_the_gateway_lets_a_codec_and_a_digest_out_and_nothing_else(
    bare: PlantDirectory, words: dict[str, str]
) -> None:
    with pytest.raises(Refusal, match="compression") as caught:
        gateway.let_out(bare, TASK, START, Trained(START, receipt()), request(TASK, START), words)
    assert caught.value.code == "gateway"
    assert audited(bare) == []


# --- error feedback --------------------------------------------------------------------------------


@pytest.mark.parametrize("offer", [Compression("int8"), Compression("bf16"), Compression("top_k", keep=0.1)])
def test_what_was_sent_tracks_what_was_trained(
    bare: PlantDirectory, trainer: Wandering, offer: Compression
) -> None:
    total = {name: np.zeros(array.shape) for name, array in START.items()}
    for number in range(1, 9):
        for name, array in sent(take_part(bare, trainer, asked(number, offer=offer)), offer).items():
            total[name] += array
    kept = blobs.load(bare.compression / "run-1" / "residual-8.safetensors")["a.weight"]
    meant = np.sum([one["a.weight"] for one in trainer.updates], axis=0)
    np.testing.assert_allclose(total["a.weight"] + kept, meant, atol=1e-5)
    assert files(bare) == ["residual-7.safetensors", "residual-8.safetensors"]


def test_a_round_that_is_trained_again_does_not_take_its_own_residual(
    bare: PlantDirectory, trainer: Wandering
) -> None:
    """Killed after the residual was written and before the reply was kept: nothing was sent of it."""
    offer = Compression("top_k", keep=0.1)
    first = sent(take_part(bare, trainer, asked(1, offer=offer)), offer)
    take_part(bare, trainer, asked(2, offer=offer))
    again = sent(take_part(bare, trainer, asked(2, offer=offer)), offer)
    left = blobs.load(bare.compression / "run-1" / "residual-2.safetensors")["a.weight"]
    meant = trainer.updates[0]["a.weight"] + trainer.updates[2]["a.weight"]
    np.testing.assert_allclose(first["a.weight"] + again["a.weight"] + left, meant, atol=1e-5)


def test_a_run_that_went_back_takes_no_residual_of_later_rounds(
    bare: PlantDirectory, trainer: Wandering
) -> None:
    offer = Compression("top_k", keep=0.1)
    for number in (7, 8, 3):
        reply = take_part(bare, trainer, asked(number, offer=offer))
    left = blobs.load(bare.compression / "run-1" / "residual-3.safetensors")["a.weight"]
    np.testing.assert_allclose(
        sent(reply, offer)["a.weight"] + left, trainer.updates[2]["a.weight"], atol=1e-6
    )
    assert files(bare) == ["residual-3.safetensors"]


@pytest.mark.parametrize("damage", ["bytes", "shape", "names", "huge"])
def test_a_residual_that_does_not_fit_is_left_alone(
    bare: PlantDirectory, trainer: Wandering, damage: str
) -> None:
    offer = Compression("top_k", keep=0.1)
    take_part(bare, trainer, asked(1, offer=offer))
    file = bare.compression / "run-1" / "residual-1.safetensors"
    wrong: dict[str, Callable[[], object]] = {
        "bytes": lambda: file.write_bytes(b"no tensors"),
        "shape": lambda: blobs.save(file, {"a.weight": np.ones(30, np.float32)}),
        "names": lambda: blobs.save(file, {"other": np.ones((6, 5), np.float32)}),
        "huge": lambda: blobs.save(file, {"a.weight": np.full((6, 5), np.inf, np.float32)}),
    }
    wrong[damage]()
    reply = take_part(bare, trainer, asked(2, offer=offer))
    left = blobs.load(bare.compression / "run-1" / "residual-2.safetensors")["a.weight"]
    np.testing.assert_allclose(
        sent(reply, offer)["a.weight"] + left, trainer.updates[1]["a.weight"], atol=1e-6
    )


# --- models as differences -------------------------------------------------------------------------


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_rounds_start_from_what_the_coordinator_says_plants_hold(
    bare: PlantDirectory, trainer: Wandering, codec: str
) -> None:
    offer, held = Compression("none", codec, keep=0.3), START
    reply = take_part(bare, trainer, asked(1, offer=offer))
    for number in (2, 3, 4):
        model = another(number)
        reply = take_part(bare, trainer, asked(number, model, held, offer))
        held = unpacked(model, held, offer)
        assert told(reply) == {"update": "none", "holds": digest_of(held)}
        same(trainer.models[-1], held)
        assert reply.content.array_records["update"].keys() == START.keys()
    assert files(bare) == ["model.safetensors"]


def test_a_round_that_is_tried_again_starts_from_the_same_model(
    bare: PlantDirectory, trainer: Wandering
) -> None:
    take_part(bare, trainer, asked(1))
    for _ in range(2):
        assert take_part(bare, trainer, asked(2, another(2), START)).has_content()
    same(trainer.models[1], trainer.models[2])


@pytest.mark.parametrize("lost", ["never held", "removed", "damaged", "another"])
def test_a_plant_that_has_lost_its_model_says_so_and_takes_the_next_whole(
    bare: PlantDirectory, trainer: Wandering, lost: str
) -> None:
    file = bare.compression / "run-1" / "model.safetensors"
    if lost != "never held":
        take_part(bare, trainer, asked(1))
    if lost == "removed":
        file.unlink()
    elif lost == "damaged":
        file.write_bytes(file.read_bytes()[:-9])
    elif lost == "another":
        blobs.save(file, another(9))
    before = len(trainer.trained)
    assert refusal(take_part(bare, trainer, asked(2, another(2), START))) == "model_lost"
    assert len(trainer.trained) == before, "and nothing is paid for"
    assert take_part(bare, trainer, asked(3, another(3))).has_content()
    same(trainer.models[-1], another(3))


@pytest.mark.parametrize("wrong", ["digest", "bytes", "bomb", "plain"])
def test_a_model_that_is_not_what_was_said_is_refused(
    bare: PlantDirectory, trainer: Wandering, wrong: str
) -> None:
    take_part(bare, trainer, asked(1))
    message = asked(2, another(2), START)
    if wrong == "digest":
        message = asked(2, another(2), START, words={"digest": "0" * 64})
    elif wrong == "plain":
        message.content["weights"] = arrays(START)
    else:
        body = b"\xff" * 40 if wrong == "bytes" else b"\x03\x00" * 99
        message.content["weights"] = arrays({"packed": np.frombuffer(body, np.uint8)})
    assert refusal(take_part(bare, trainer, message)) == "task_invalid"
    assert refusal(take_part(bare, trainer, asked(1, words={"digest": "0" * 64}))) == "task_invalid"
    assert len(trainer.trained) == 1


# --- what is kept ----------------------------------------------------------------------------------


def test_of_other_runs_only_the_last_stays(bare: PlantDirectory, trainer: Wandering) -> None:
    for number in range(4):
        take_part(bare, trainer, asked(1, run=f"run-{number}"))
    assert len(list(bare.compression.iterdir())) == compression.RUNS
    assert files(bare, "run-3") == ["model.safetensors", "residual-1.safetensors"]


def test_a_run_is_forgotten_when_its_last_round_is_settled(bare: PlantDirectory, trainer: Wandering) -> None:
    """Requests of these tests say that a run has three rounds."""
    take_part(bare, trainer, asked(3))
    take_part(bare, trainer, asked(3, run="run-2"))
    compression.settle(bare, "run-1", 2)
    assert files(bare)
    compression.settle(bare, "run-1", 3)
    assert not (bare.compression / "run-1").exists()
    for odd in ("unknown", "", ".", "..", "../compression/run-2", "/"):
        compression.settle(bare, odd, 9)
    assert files(bare, "run-2")
    (bare.compression / "run-2" / "model.safetensors").write_bytes(b"damaged")
    (bare.compression / "run-2" / "residual-3.safetensors").write_bytes(b"damaged")
    compression.settle(bare, "run-2", 9)
    assert files(bare, "run-2"), "a damaged file does not end the agent; the next run's begin removes it"


def test_the_agent_forgets_a_run_that_is_over(bare: PlantDirectory, trainer: Wandering) -> None:
    take_part(bare, trainer, asked(3))
    Agent(bare)._heed(pb.Notice(settled=pb.Settled(run="run-1", round=3)))
    assert not (bare.compression / "run-1").exists()


def test_the_record_of_what_left_has_the_words(bare: PlantDirectory, trainer: Wandering) -> None:
    reply = take_part(bare, trainer, asked(1))
    (line,) = [json.loads(text) for text in bare.audit.read_text().splitlines()]
    assert line["compression"] == told(reply) == {"update": "int8", "holds": digest_of(START)}
    assert line["arrays"] == {name: list(array.shape) for name, array in START.items()}


def test_an_open_task_is_packed_like_a_private_one(bare: PlantDirectory, trainer: Wandering) -> None:
    edit(bare, lambda plant: setattr(plant.policy.privacy, "allow_none", True))
    near(sent(take_part(bare, trainer, asked(task=OPEN))), sent(take_part(bare, Wandering(), asked())))
    assert Path(bare.compression / "run-1").is_dir()
