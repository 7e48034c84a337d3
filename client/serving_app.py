"""What is answered over HTTP: the Open Inference Protocol and ``POST /feedback``; an ASGI application.

Whatever is wrong is said in the protocol's own form, ``{"error": "..."}``.
"""

import asyncio
import importlib.metadata
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Final

from interplant.client import answering, feedback, protocol, requests
from interplant.client.batching import Batcher
from interplant.client.beside import Beside
from interplant.client.directory import PlantDirectory
from interplant.client.predictions import new_id
from interplant.client.protocol import HEADER_LENGTH, Body, ProtocolError, json_bytes, json_object
from interplant.client.recording import Answered, Recorder
from interplant.client.serving_models import Followed, Model
from interplant.core.errors import InterplantError
from interplant.core.schema import Serving

log = logging.getLogger(__name__)

BODY_SECONDS: Final = 30.0
"""How long a request's body may take to come."""

BODIES: Final = 4
"""How many bodies of the greatest size may be held at once."""

SMALL: Final = 1 << 16
"""Bytes of a body that needs none of that room: as connections are bounded, so are all such bodies."""

STEP_SECONDS: Final = 2.0
"""Each so many bytes more of a body that takes room have to come within this time: it is for others too."""

_FEEDBACK: Final = 1000
"""Lists, objects or quotation marks of a label's body."""

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Headers = list[tuple[bytes, bytes]]
Reply = tuple[int, bytes, Headers]

_JSON: Final[Headers] = [(b"content-type", b"application/json")]


class App:
    """One plant's predictions.

    Args:
        plant: Its directory.
        models: What answers.
        batcher: Runs it.
        beside: What answers beside it.
        recorder: Takes what was answered.
        settings: Limits.
    """

    def __init__(
        self,
        plant: PlantDirectory,
        models: Followed,
        batcher: Batcher,
        beside: Beside,
        recorder: Recorder,
        settings: Serving,
    ) -> None:
        self._plant = plant
        self._models, self._batcher, self._beside, self._recorder = models, batcher, beside, recorder
        self._bodies, self._queue = Bodies(settings.body_megabytes * 1_000_000), settings.queue
        self._rate = Rate(settings.rate) if settings.rate else None
        self._version = importlib.metadata.version("interplant")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        taken = False
        try:
            if self._rate and scope["method"] == "POST":
                self._rate.take()
            async with self._bodies.of(receive) as asked:
                taken = True
                status, body, headers = await self._reply(scope, asked)
        except ProtocolError as error:
            status, body, headers = _refusal(error)
            if not taken:  # nothing of what is still to come is read
                headers.append((b"connection", b"close"))
        except Exception:  # a fault of ours must not end the connection without a word
            log.exception("a request failed")
            status, body, headers = _refusal(ProtocolError(500, "an unexpected fault; see the plant's log"))
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _reply(self, scope: Message, body: Body) -> Reply:
        match scope["method"], tuple(part for part in scope["path"].split("/") if part):
            case "POST", ("v2", "models", name, "infer"):
                return await self._infer(scope, body, self._model(name))
            case "POST", ("v2", "models", name, "versions", version, "infer"):
                return await self._infer(scope, body, self._model(name, version), canary=False)
            case "POST", ("feedback",):
                return await self._feedback(body)
            case method, path:
                return self._looked_up(method, path)
        raise AssertionError

    def _looked_up(self, method: str, path: tuple[str, ...]) -> Reply:
        """What is told without running a model."""
        version = path[4] if path[:2] == ("v2", "models") and path[3:4] == ("versions",) else None
        plain = path[:3] + path[5:] if version else path
        match plain:
            case ("v2",):
                found: dict[str, Any] = {"name": "interplant", "version": self._version}
                found["extensions"] = list(protocol.EXTENSIONS)
            case ("v2", "health", "live"):
                found = {"live": True}
            case ("v2", "health", "ready"):
                self._ready()
                found = {"ready": True}
            case ("v2", "models", name):
                found = _metadata(self._model(name, version))
            case ("v2", "models", name, "ready"):
                found = {"name": self._model(name, version).task.name, "ready": True}
            case ("v2", "models", _, "infer") | ("feedback",):
                raise ProtocolError(405, f"{method} /{'/'.join(path)[:200]}: expected POST")
            case _:
                raise ProtocolError(404, f"{method} /{'/'.join(path)[:200]}: nothing is there")
        if method != "GET":
            raise ProtocolError(405, f"{method} /{'/'.join(path)[:200]}: expected GET")
        return 200, json_bytes(found), _JSON

    async def _infer(self, scope: Message, body: Body, model: Model, canary: bool = True) -> Reply:
        parts = requests.parts(model.task, self._queue) if len(body) > SMALL else None
        request = protocol.parse(body, _header(scope, HEADER_LENGTH), parts)
        asked = requests.asked(request, model.task)
        ids, drifting = [new_id() for _ in range(len(asked))], self._models.drifting
        try:
            heard = await answering.predict(
                self._batcher, self._beside, model, asked.x, asked.machines or ids[:1], canary
            )
        except InterplantError as error:
            log.error("%s", error)
            raise ProtocolError(500, str(error)) from None
        target = model.task.target
        outputs = requests.outputs(target, heard.predicted, ids)
        head = {
            "model_name": model.task.name,
            "model_version": heard.release,
            "parameters": {"release": heard.release, "drifting": drifting},
        }
        said, headers = protocol.answer(request, head, outputs)
        numbers = outputs["prediction"]
        assert not isinstance(numbers, list)
        self._recorder.put(
            Answered(
                ids, time.time(), heard.release, numbers, asked.machines, asked.times, drifting,
                heard.other, heard.beside, target,
            )
        )  # fmt: skip
        return 200, said, headers

    async def _feedback(self, body: Body) -> Reply:
        content = json_object(body, _FEEDBACK)
        prediction = content.get("prediction_id")
        if set(content) != {"prediction_id", "label"} or not isinstance(prediction, str):
            raise ProtocolError(400, "expected prediction_id, the text that came with it, and label")
        model, label = self._ready(), content["label"]
        asked = self._recorder.ask(
            lambda log: feedback.note(self._plant, log, prediction, label, model.release, model.task)
        )
        try:
            said = await asyncio.wrap_future(asked)
        except InterplantError as error:
            raise ProtocolError(503, str(error), retry_after=5) from None
        return 200, json_bytes(said), _JSON

    def _ready(self) -> Model:
        model = self._models.model
        if model is None:
            raise ProtocolError(503, f"nothing serves: {self._models.trouble}", retry_after=5)
        return model

    def _model(self, name: str, version: str | None = None) -> Model:
        model = self._models.model
        if model is None or name != model.task.name:
            here = repr(model.task.name) if model else "none"
            status = 404 if model else 503
            raise ProtocolError(status, f"model {name[:64]!r}: not served here; what serves: {here}")
        if version is not None and version != model.release:
            raise ProtocolError(404, f"version {version[:64]!r}: not served here; it is {model.release!r}")
        return model


class Bodies:
    """Requests' bodies, each bounded and all together; counted until the request is answered.

    Args:
        most: Bytes of one body.
    """

    def __init__(self, most: int) -> None:
        self._most, self._left = most, BODIES * most

    @asynccontextmanager
    async def of(self, receive: Receive) -> AsyncIterator[Body]:
        """Give the body of a request.

        Raises:
            ProtocolError: 400, 408: it ends early, or comes too slowly; 413: it is too long; 503: too much
                is held for other requests.
        """
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(BODY_SECONDS) as limit:
                    await self._take(receive, body, limit)
            except TimeoutError:
                raise ProtocolError(
                    408,
                    f"the body did not come within {BODY_SECONDS:g} seconds, "
                    f"or of a long one not {SMALL // 1024} kB every {STEP_SECONDS:g} seconds",
                ) from None
            yield body
        finally:
            self._left += _room(len(body))

    async def _take(self, receive: Receive, body: bytearray, limit: asyncio.Timeout) -> None:
        """Take a body in parts. One too long is read on, not kept, as its sender hears nothing before."""
        size, step, end = 0, SMALL, limit.when() or math.inf
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ProtocolError(400, "the body ended early")
            part = message.get("body", b"")
            size += len(part)
            if size <= self._most:
                more = _room(size) - _room(len(body))
                if more > self._left:
                    raise ProtocolError(
                        503, "other requests' bodies take the room; send the request again", retry_after=1
                    )
                self._left -= more
                body += part
            else:
                self._left += _room(len(body))
                body.clear()
            if not message.get("more_body"):
                break
            if size >= step:
                step = size + SMALL
                limit.reschedule(min(end, asyncio.get_running_loop().time() + STEP_SECONDS))
        if size > self._most:
            raise ProtocolError(
                413, f"expected a body of at most {self._most // 1_000_000} MB, found {size} bytes or more"
            )


def _room(size: int) -> int:
    """What a body of so many bytes takes of the room for all."""
    return size if size > SMALL else 0


class Rate:
    """Lets so many requests a second pass, and a second's worth at once.

    Args:
        rate: Requests a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._left, self._last = rate, max(1.0, rate), time.monotonic()

    def take(self) -> None:
        """Count a request.

        Raises:
            ProtocolError: 429: there are too many.
        """
        now = time.monotonic()
        self._left = min(max(1.0, self._rate), self._left + (now - self._last) * self._rate)
        self._last = now
        if self._left < 1.0:
            raise ProtocolError(
                429, f"more than {self._rate:g} requests a second; send it again", retry_after=1
            )
        self._left -= 1.0


def _metadata(model: Model) -> dict[str, Any]:
    inputs, outputs = requests.described(model.task)
    return {
        "name": model.task.name,
        "versions": [model.release],
        "platform": "onnxruntime_onnx",
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {"release": model.release, "contract_version": model.task.contract.version},
    }


def _header(scope: Message, name: str) -> str | None:
    wanted = name.encode()
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    for key, value in headers:
        if key == wanted:
            return value.decode("latin-1")
    return None


def _refusal(error: ProtocolError) -> Reply:
    headers = list(_JSON)
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    return error.status, json_bytes({"error": str(error)}), headers
