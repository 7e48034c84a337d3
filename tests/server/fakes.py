"""Plants and grids in memory: a grid that rings, as ours do, and one that does not, as Flower's."""

import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, RecordDict
from safetensors.numpy import save_file

from interplant.core import flower
from interplant.core.contract import Column, Contract
from interplant.core.flower import Envelope, Grid, message
from interplant.core.schema import Privacy, Rounds, Strategy, Task
from interplant.server.run_folder import RunFolder, make_order

from .conftest import receipt_of

NAMES = ("north", "south", "west")
WEIGHTS = {
    "layer.weight": np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32),
    "scale": np.array(0.5, np.float32),
}


# --- plants --------------------------------------------------------------------------------------------


def step_of(weights, name):
    """A plant's honest update: half the way to its own target."""
    target = np.float32(NAMES.index(name) + 1)
    return {key: np.asarray((target - array) * 0.5, array.dtype) for key, array in weights.items()}


def receipt_for(request, name, **words):
    asked = request.content.config_records["task"]
    return receipt_of(name, epsilon=0.25, run=asked["run"], round=asked["round"], **words)


def honest(request, name, **more):
    weights = {key: array.numpy() for key, array in request.content.array_records["weights"].items()}
    return answer(request, step_of(weights, name), receipt_for(request, more.get("as_", name)))


def answer(request, arrays, receipt, **extra):
    content = {"update": ArrayRecord({key: Array(array) for key, array in arrays.items()})}
    return _reply(request, RecordDict(content | {"receipt": ConfigRecord(receipt)} | extra))


def refusing(code):
    return lambda request, name: _reply(request, None, Error(0, code))


def changed(change):
    """A plant whose honest arrays go through ``change``."""

    def act(request, name):
        weights = {key: array.numpy() for key, array in request.content.array_records["weights"].items()}
        return answer(request, change(step_of(weights, name)), receipt_for(request, name))

    return act


def silent(request, name):
    return None


def _reply(request, content, error=None):
    asked = Envelope.of(request)
    envelope = Envelope(
        "", asked.run_id, asked.destination, 0, asked.message_type, asked.group_id, asked.message_id
    )
    return message(envelope, content, error)


# --- grids ---------------------------------------------------------------------------------------------


class Polled(Grid):
    """As Flower's own: nodes have numbers only, messages get new ids, replies are pulled once."""

    def __init__(self, plants=None):
        self.plants = dict(plants or dict.fromkeys(NAMES, honest))
        self.requests, self.sent, self.replies = {}, [], {}

    def set_run(self, run):
        pass

    @property
    def run(self):
        return flower.empty_run(7)

    def node(self, name):
        return 100 + NAMES.index(name)

    def name(self, node):
        return NAMES[node - 100]

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return message(self.envelope(dst_node_id, message_type, group_id), content)

    def envelope(self, node, kind, group):
        return Envelope(f"{len(self.sent)}-{node}", 7, 0, node, kind, group)

    def get_node_ids(self):
        return [self.node(name) for name in self.plants]

    def push_messages(self, messages):
        ids = []
        for each in messages:
            self.sent.append(each)
            ids.append(each.metadata.message_id)
            self.requests[each.metadata.message_id] = each
        return ids

    def pull_messages(self, message_ids):
        return [reply for key in message_ids if (reply := self.answer(key)) is not None]

    def answer(self, message_id):
        request = self.requests.get(message_id)
        if request is None:
            return None
        name = self.name(request.metadata.dst_node_id)
        reply = self.plants[name](request, name)
        if reply is not None:
            del self.requests[message_id]
        return reply

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError


class Ringing(Polled):
    """As our own: names, who is online, replies one at a time, an end of messages."""

    def __init__(self, plants=None, away=()):
        super().__init__(plants)
        self.away, self.finished, self.spooled = set(away), [], {}

    def answer(self, message_id):
        """The reply: from the spool if it lies there, else the plant is asked, if it is connected."""
        if message_id in self.spooled:
            return self.spooled.pop(message_id)
        asked = self.requests.get(message_id)
        return super().answer(message_id) if asked and asked.metadata.dst_node_id in self.online() else None

    def answered(self, message_ids):
        for key in message_ids:
            if key not in self.spooled and (reply := self.answer(key)) is not None:
                self.spooled[key] = reply
        return {key: not self.spooled[key].has_error() for key in message_ids if key in self.spooled}

    def envelope(self, node, kind, group):
        return Envelope(f"run.{group}.{node}", 7, 0, node, kind, group)

    def names(self):
        return {self.node(name): name for name in self.plants}

    def online(self):
        return {self.node(name) for name in self.plants if name not in self.away}

    def wait(self, message_ids, seconds):
        for key in message_ids:
            if (reply := self.answer(key)) is not None:
                return reply
        time.sleep(max(0, seconds))
        return None

    def finish(self, message_ids, settled_round):
        self.finished.append((sorted(message_ids), settled_round))


def closed_form(number, names=NAMES, rate=1.0):
    """FedAvg by hand: weights after each round."""
    weights = WEIGHTS
    for _ in range(number):
        steps = [step_of(weights, name) for name in names]
        means = {key: np.mean([step[key].astype(np.float64) for step in steps], axis=0) for key in weights}
        weights = {key: np.asarray(array + rate * means[key], np.float32) for key, array in weights.items()}
    return weights


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)


def close(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-6, atol=1e-7)


# --- runs ----------------------------------------------------------------------------------------------


def make_run(
    folder, name="run", number=3, strategy=None, named="fedavg", mechanism="dp-sgd", learned=None, **rules
):
    """Make a run's folder that starts from `WEIGHTS`; ``learned`` are more of the task's settings."""
    task = Task(
        name="wear",
        rounds=number,
        contract=Contract(sensors={"s1": Column("bar", 0.0, 1.0)}),
        privacy=Privacy(mechanism=mechanism),
        strategy=Strategy(named, strategy or {}),
        **(learned or {}),
    )
    words = {"quorum": 1, "deadline_seconds": 20.0, "retries": 1, "retry_seconds": 0.01} | rules
    save_file(WEIGHTS, folder / "start.safetensors")
    run = RunFolder(folder / "runs" / name)
    run.create(make_order("run", task, Rounds(**words), "grpc", False, str(folder / "start.safetensors")))
    return run
