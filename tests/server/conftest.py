"""A real coordinator's gRPC process in a thread: real TLS, real authority and registry, raw stubs."""

import asyncio
import gc
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from interplant.core import certificates, wire
from interplant.core import federation_pb2 as pb
from interplant.core import federation_pb2_grpc as rpc
from interplant.core.flower import Envelope, message
from interplant.core.receipt import Receipt, signed
from interplant.lab.counterparts import database
from interplant.server import control, replies, setup
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry
from interplant.server.service import Service

SECONDS = 20


class Caller:
    """One TLS connection with a certificate of its own."""

    def __init__(self, port, authority, key, certificate):
        self.key, self.certificate = key, certificate
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        self.channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, [("grpc.enable_retries", 0)])
        self.stub = rpc.CoordinatorStub(self.channel)

    @property
    def serial(self):
        return certificates.identity(self.certificate).serial

    @contextmanager
    def watch(self):
        """Open the standing stream; every read is bounded."""
        call = self.stub.Watch(pb.Hello(protocol=wire.PROTOCOL, clock=time.time()), timeout=SECONDS)
        try:
            assert next(call).WhichOneof("what") == "welcome"
            yield call
        finally:
            call.cancel()

    def offer(self, parcel):
        return self.stub.Offer(parcel, timeout=SECONDS)

    def upload(self, parcel, body, offset=0, size=7):
        first = pb.Piece(message_id=parcel.reply_to, offset=offset, data=body[offset : offset + size])
        rest = [pb.Piece(data=body[at : at + size]) for at in range(offset + size, len(body), size)]
        return self.stub.Upload(iter([first, *rest]), timeout=SECONDS)

    def deliver(self, parcel, body):
        answer = self.offer(parcel)
        return self.upload(parcel, body, answer.offset) if answer.want == pb.Answer.SEND else answer

    def body_of(self, work):
        """A request's tensors, however they come."""
        return work.inline or self.fetch(work.body.sha256)

    def fetch(self, sha256, offset=0):
        pieces = self.stub.Fetch(pb.FetchRequest(sha256=sha256, offset=offset), timeout=SECONDS)
        return b"".join(piece.data for piece in pieces)


class Serving:
    """The service in a thread of its own; ``call`` runs something in its event loop."""

    def __init__(self, directory):
        self.directory, self.callers = directory, []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.call(self._start)
        self.local_channel = control.connect(directory)
        self.local = rpc.LocalStub(self.local_channel)

    async def _start(self):
        self.service = Service(self.directory)
        self.servers = [self.service._public(), self.service._local()]
        for server in self.servers:
            await server.start()

    def call(self, function, *arguments):
        async def run():
            result = function(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(SECONDS)

    def restart(self):
        """A new service, which knows only what is on disk."""

        async def stop():
            await asyncio.gather(*(server.stop(None) for server in self.servers))

        self.call(stop)
        self.service.registry.close()
        self.service.authority.registry.close()
        self.call(self._start)

    def close(self):
        for channel in [self.local_channel, *(caller.channel for caller in self.callers)]:
            channel.close()

        async def stop():
            await asyncio.gather(*(server.stop(None) for server in self.servers))
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.call(stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(SECONDS)
        self.loop.close()
        self.service.registry.close()
        self.service.authority.registry.close()

    # --- who calls ---------------------------------------------------------------------------------

    @property
    def port(self):
        return int(self.service.federation.listen.rpartition(":")[2])

    @property
    def authority_pem(self):
        return self.directory.ca_certificate.read_bytes()

    def caller(self, key, certificate):
        self.callers.append(Caller(self.port, self.authority_pem, key, certificate))
        return self.callers[-1]

    def bootstrap(self, name):
        """Hold a join file that was not used yet."""
        words = yaml.safe_load(self.service.authority.invite(name))
        return self.caller(words["key"].encode(), words["certificate"].encode())

    def plant(self, name):
        """Join as a plant."""
        key = certificates.make_key()
        bootstrap = certificates.identity(yaml.safe_load(self.service.authority.invite(name))["certificate"])
        pem = self.service.authority.accept(bootstrap, certificates.make_csr(key))
        self.call(self.service.reload)
        return self.caller(certificates.key_pem(key), pem)

    def revoke(self, name):
        self.service.registry.revoke(name)
        assert control.reload(self.directory)

    def node(self, name):
        return self.service.registry.plant(name).node_id

    # --- messages ----------------------------------------------------------------------------------

    def question(self, name, run="run", round=1, body=None):
        """An instruction to a plant whose tensors are in the spool."""
        blob = self.spooled(body or wire.to_bytes({"weights/w": np.ones(64, np.float32)}))
        return pb.Parcel(
            message_id=f"{run}.{round}.{self.node(name)}",
            run_id=7,
            destination=self.node(name),
            group_id=str(round),
            message_type="train",
            records=b"{}",
            body=blob,
        )

    def spooled(self, body):
        """Any bytes as a broadcast."""
        blob = wire.blob_of(body)
        self.service.exchange.spool.blob(blob.sha256).write_bytes(body)
        return blob

    def push(self, *parcels):
        self.local.Push(pb.ParcelList(parcels=parcels), timeout=SECONDS)

    def announce(self, offer):
        """Tell the plants of a release, as if the registry had it."""
        exchange = self.service.exchange
        self.call(
            lambda: exchange.offer_releases(exchange.releases | {offer.task: offer}, exchange.rollbacks)
        )

    def offer(self, release, task):
        """Sign nothing, but have a release of no files in the registry, and plants told of it."""
        folder = self.directory.releases / release
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({"files": {}, "id": release}))
        (folder / "manifest.sig").write_bytes(b"signature")
        self.service.registry.create_release(release, None, task, "0" * 64)
        self.service.registry.approve_release(release, "by a test")
        assert control.reload(self.directory)

    def replies(self, *parcels, seconds=0.0, limit=100):
        ids = [parcel.message_id for parcel in parcels]
        request = pb.AwaitRequest(message_ids=ids, limit=limit, seconds=seconds)
        return list(self.local.Await(request, timeout=SECONDS).parcels)

    def close_messages(self, *parcels, settled=None):
        ids = [parcel.message_id for parcel in parcels]
        self.local.Close(pb.MessageIds(ids=ids, settled=settled), timeout=SECONDS)


def reply_to(question, body=None, error=""):
    """A reply as a plant's gateway makes it, and its tensors."""
    body = body if body is not None else wire.to_bytes({"update/w": np.full(64, 0.5, np.float32)})
    records = {"config": {"receipt": {"plant": "north"}}, "metrics": {}}
    parcel = pb.Parcel(
        reply_to=question.message_id,
        run_id=question.run_id,
        source=question.destination,
        message_type="train",
        records=b"" if error else json.dumps(records).encode(),
        error=error,
        body=None if error else wire.blob_of(body),
    )
    return parcel, body


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server."""
    with database() as started:
        yield started


@pytest.fixture
def postgres_url(postgres):
    """The URL of an empty database."""
    engine = create_engine(postgres.url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    return postgres.url


@pytest.fixture(params=["sqlite", "postgresql"])
def registry_url(request, tmp_path):
    """The URL of an empty registry to be, in each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def registry(registry_url, tmp_path):
    """An empty registry in each kind of database."""
    registry = Registry.create(registry_url, tmp_path)
    yield registry
    registry.close()


@pytest.fixture
def in_sqlite(tmp_path):
    """An empty registry in the file ``registry.db``."""
    registry = Registry.create("sqlite:///registry.db", tmp_path)
    yield registry
    registry.close()


@pytest.fixture
def coordinator(tmp_path):
    """A coordinator directory on a free port."""
    address = f"127.0.0.1:{free_port()}"
    setup.init(tmp_path / "coordinator", "demo", address, address)
    return CoordinatorDirectory(tmp_path / "coordinator")


@pytest.fixture
def change(coordinator):
    """Change federation.yaml before the service starts."""

    def edit(key, value):
        words = yaml.safe_load(coordinator.config.read_text())
        words[key] = value
        coordinator.config.write_text(yaml.safe_dump(words))

    return edit


@pytest.fixture
def serve(coordinator):
    """Start the service when the test is ready for it."""
    started = []

    def start():
        started.append(Serving(coordinator))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def serving(serve):
    return serve()


@pytest.fixture
def answer():
    return reply_to


@pytest.fixture
def an_update():
    """Make a reply message as it reaches the checks."""

    def make(arrays, receipt, extra=None):
        content = RecordDict(
            {
                "update": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
                "receipt": ConfigRecord(receipt),
                **(extra or {}),
            }
        )
        return message(Envelope("", 1, 2, 0, "train", "1", "run.1.2"), content)

    return make


_PLANTS_KEY = certificates.make_key()


@pytest.fixture
def quick_collections():
    """Have the garbage collector look only at what a test makes, not at all libraries each time."""
    gc.freeze()
    yield
    gc.unfreeze()


def receipt_of(name: str = "north", **words: Any) -> dict[str, Any]:
    """A round's receipt as its plant signs it."""
    fields: dict[str, Any] = {
        "plant": name,
        "snapshot": "ab" * 32,
        "mechanism": "dp-sgd",
        "unit": "window",
        "epsilon": 0.5,
        "delta": 1e-5,
        "simulated": True,
    }
    return asdict(signed(Receipt(**(fields | words)), _PLANTS_KEY))


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Make runs' folders, whose rounds wait for tenths of a second where real ones wait for seconds."""
    from .fakes import make_run  # it needs this module

    monkeypatch.setattr(replies, "_POLL", 0.005)
    monkeypatch.setattr(replies, "_SLICE", 0.05)
    monkeypatch.setattr(replies, "_GRACE", 0.2)
    return partial(make_run, tmp_path)
