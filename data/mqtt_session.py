"""One MQTT 5 session over paho's client, driven by whoever calls it: there is no thread."""

import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from interplant.core.errors import UsageError
from interplant.core.possible import between, count, need

_STEP: Final = 1.0
"""Seconds for each step of connecting: the connection, its TLS, each of the broker's answers."""

_WRONG: Final = (0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C)
"""Refusals that waiting does not help: protocol, client identifier, password, rights, ban, method."""


@dataclass
class Tls:
    """Files of a TLS connection, relative to the plant's folder.

    Args:
        ca: Who may sign the broker's certificate; empty: the system's authorities.
        certificate: The client's own, where the broker asks for one.
        key: Of that certificate.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""


@dataclass
class Args:
    """What ``plant.yaml`` says of a broker.

    Args:
        host: The broker's name or address.
        port: Its port.
        topics: Filters to subscribe to, with ``+`` and ``#``.
        machine_level: Which level of a topic, from 1, names the machine; 0: the reading does.
        client_id: The session's name at the broker; empty: one is made and remembered.
        session_hours: How long the broker keeps what it could not deliver.
        window: Messages that the broker may send before it waits for acknowledgements.
        username: At the broker.
        password: At the broker; ``${oc.env:NAME}`` keeps it out of the file.
        plain: Whether to connect without TLS.
        tls: See `Tls`.
    """

    host: str = ""
    port: int = 8883
    topics: list[str] = field(default_factory=list)
    machine_level: int = 0
    client_id: str = ""
    session_hours: float = 168.0
    window: int = 1000
    username: str = ""
    password: str = ""
    plain: bool = False
    tls: Tls = field(default_factory=Tls)

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(bool(self.host), "host", "expected the broker's name or address, found none")
        between(self.port, 1, 65535, "port")
        need(bool(self.topics), "topics", "expected at least one topic, found none")
        for number, topic in enumerate(self.topics):
            said = f"expected a topic filter such as line/+/readings, found {topic!r}"
            need(_is_filter(topic), f"topics.{number}", said)
        need(self.machine_level >= 0, "machine_level", f"expected 0 or more, found {self.machine_level}")
        between(self.session_hours, 0.01, 100_000, "session_hours")
        count(self.window, 65535, "window")
        need(
            not (self.plain and self.tls != Tls()),
            "plain",
            "expected files of TLS or plain: true, found both",
        )
        both = bool(self.tls.certificate) == bool(self.tls.key)
        need(both, "tls.key", "expected certificate and key, or neither")


class Session:
    """A connection to a broker at a time, always of the same session.

    Args:
        args: Where and who.
        context: Of TLS; None: plain.
        take: Called, from within `listen` and `open`, with each message.
        key: Of the source's args in ``plant.yaml``, for errors.
    """

    def __init__(
        self, args: Args, context: ssl.SSLContext | None, take: Callable[[paho.MQTTMessage], None], key: str
    ) -> None:
        self._args, self._key = args, key
        self._answers: list[ReasonCode] = []
        self._was_open = False
        self.connection = 0
        """Number of the connection: an acknowledgement belongs to the one over which its message came."""
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=args.client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = _STEP
        if context:
            client.tls_set_context(context)
        if args.username:
            client.username_pw_set(args.username, args.password)
        client.on_connect = lambda _client, _data, _flags, reason, _properties: self._answers.append(reason)
        client.on_subscribe = lambda _client, _data, _mid, reasons, _properties: self._answers.extend(reasons)
        client.on_message = lambda _client, _data, message: take(message)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._client.is_connected()

    def open(self) -> None:
        """Connect, take up the session and subscribe.

        Raises:
            UsageError: The broker refuses for ever; never once it has agreed.
            OSError: It is away, does not answer, or refuses for now.
        """
        self.connection += 1
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = int(self._args.session_hours * 3600)
        properties.ReceiveMaximum = self._args.window
        try:
            self._client.connect(
                self._args.host, self._args.port, keepalive=30, clean_start=False, properties=properties
            )
        except ssl.SSLCertVerificationError as error:
            self._refuse("tls.ca", f"expected a certificate to trust, found: {error.verify_message}")
        except UnicodeError as error:
            self._refuse("host", f"expected a name or address, found {self._args.host!r}: {error}")
        (answer,) = self._ask(lambda: None)
        if answer.value in _WRONG:
            self._refuse("username", f"the broker refuses the connection: {answer}")
        if answer.is_failure:
            raise ConnectionError(str(answer))
        self._subscribe()
        self._was_open = True

    def listen(self, seconds: float) -> None:
        """Take what comes within some seconds, at most one packet; returns at once when the broker leaves."""
        self._client.loop(seconds)

    def acknowledge(self, connection: int, messages: Iterable[int]) -> None:
        """Tell the broker that messages are safe; those of an earlier connection come again anyway."""
        if connection == self.connection and self.is_open:
            for message in messages:
                self._client.ack(message, 1)

    def close(self) -> None:
        """Leave; the session stays at the broker."""
        self._client.disconnect()
        self._client.loop(0)

    def _subscribe(self) -> None:
        # What the broker retains is delivered to a new session, not at each connection.
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        topics = [(topic, options) for topic in self._args.topics]
        for topic, answer in zip(
            self._args.topics, self._ask(lambda: self._client.subscribe(topics)), strict=False
        ):
            if answer.is_failure:
                self._refuse("topics", f"the broker refuses {topic!r}: {answer}")

    def _ask(self, question: Callable[[], object]) -> list[ReasonCode]:
        self._answers.clear()
        question()
        end = time.monotonic() + _STEP
        while not self._answers:
            # Messages of the session may come before the answer; a refusal ends the connection.
            failed = self._client.loop(0.05)
            if not self._answers and (failed or time.monotonic() >= end):
                raise ConnectionError("it does not answer")
        return list(self._answers)

    def _refuse(self, key: str, why: str) -> None:
        """Raise: for a person to mend, unless the broker has agreed to the same words before."""
        if self._was_open:
            raise ConnectionError(why)
        raise UsageError(f"{self._key}: {key}: {why}")


def _is_filter(topic: str) -> bool:
    levels = topic.split("/")
    wild = [level for level in levels if ("+" in level or "#" in level) and level not in ("+", "#")]
    return bool(topic) and not wild and "#" not in levels[:-1] and "\0" not in topic and len(topic) < 65536
