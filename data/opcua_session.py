"""One connection to an OPC UA server: secured, subscribed, and filled up from the server's history."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UaClientState
from asyncua.common.subscription import DataChangeEvent, OverflowPolicy, Subscription
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.uaerrors import BadIdentityTokenRejected, BadUserAccessDenied
from asyncua.ua.uaerrors._base import UaError, UaStatusCodeError
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from interplant.core.errors import UsageError
from interplant.data.opcua_rows import plain

log = logging.getLogger(__name__)

WAITING: Final = 50_000
"""Values that wait in memory before the connection is let go; they come again from the server's history."""

_SLICE: Final = 100_000
"""Values, about, that are read from the history at a time."""

_ATONCE: Final = 20
"""Nodes whose history is read at the same time."""

_NO_TRIGGER: Final = ("BadFilterNotAllowed", "BadMonitoredItemFilterUnsupported")
"""What a server says that tells of changes alone."""

_DROPPED: Final = 0x0480
"""Bits of a status that tell of values before it that its queue had no room for (OPC UA part 4, 7.39)."""

Take = Callable[[str, datetime, Any], None]


class NotConnectedError(ConnectionError):
    """The server is away, or closed the connection."""


@dataclass
class Words:
    """What a connection needs; see `opcua_source.Args`."""

    url: str
    period_ms: float
    secure: bool
    certificate: Path
    key: Path
    server_certificate: Path
    user: str
    password: str
    history: bool
    where: str


@dataclass
class Session:
    """A connection at a time.

    Args:
        words: Where and how.
        nodes: Their ids.
        take: Called with each value: node, source timestamp, plain value.
        turn: Awaited between values: hands out what is complete, and waits while the store is behind. Its
            argument: up to when everything has come, if that is known.
        last: By node, the source timestamp after which values are wanted; kept up to date.
    """

    words: Words
    nodes: list[str]
    take: Take
    turn: Callable[[datetime | None], Awaitable[None]]
    last: dict[str, datetime] = field(default_factory=dict)
    _filled: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    _was_open: bool = False
    _without_history: set[str] = field(default_factory=set)

    async def run(self, opened: Callable[[], None]) -> None:
        """Connect, subscribe, fill up, and take values until the connection is gone.

        Args:
            opened: Called once values come.

        Raises:
            UsageError: The server refuses the words; never once it has agreed to them.
            NotConnectedError: It is away now.
        """
        client = Client(self.words.url, timeout=4, watchdog_intervall=5)
        try:
            await self._secure(client)
            await client.connect()
            try:
                subscription = await self._subscribe(client)
                self._was_open = True
                opened()
                await self._fill_up(client)
                await self._listen(client, subscription)
            finally:
                # The server may be gone: nothing to be polite to.
                await _quietly(asyncio.wait_for(client.disconnect(), 1.0))
        except (BadUserAccessDenied, BadIdentityTokenRejected) as error:
            self._refuse("user", f"the server refuses the user: {type(error).__name__}")
        except (TimeoutError, OSError, UaError) as error:
            raise NotConnectedError(str(error) or type(error).__name__) from error

    async def _secure(self, client: Client) -> None:
        client.name = client.description = "Interplant"
        if self.words.user:
            client.set_user(self.words.user)
            client.set_password(self.words.password)
        if self.words.secure:
            client.application_uri = application_uri(self.words.certificate)
            await client.set_security(
                SecurityPolicyBasic256Sha256,
                self.words.certificate,
                self.words.key,
                server_certificate=str(self.words.server_certificate),
            )

    async def _subscribe(self, client: Client) -> Subscription:
        """Ask to be told of every value: changes, and what is measured again without a change."""
        subscription = await client.create_subscription(
            self.words.period_ms, queue_maxsize=WAITING, overflow=OverflowPolicy.DISCONNECT
        )
        for trigger in (ua.DataChangeTrigger.StatusValueTimestamp, ua.DataChangeTrigger.StatusValue):
            wanted = [self._item(number, node, trigger) for number, node in enumerate(self.nodes)]
            answers = await subscription.create_monitored_items(wanted)
            bad = [
                (node, one) for node, one in zip(self.nodes, answers, strict=True) if not isinstance(one, int)
            ]
            if not bad:
                return subscription
            if any(
                one.name not in ("BadFilterNotAllowed", "BadMonitoredItemFilterUnsupported") for _, one in bad
            ):
                break
            await subscription.unsubscribe([one for one in answers if isinstance(one, int)])
        node, status = bad[0]
        self._refuse("nodes", f"the server refuses {node}: {status.name}")
        raise NotConnectedError(status.name)

    def _item(self, number: int, node: str, trigger: ua.DataChangeTrigger) -> ua.MonitoredItemCreateRequest:
        request = ua.MonitoredItemCreateRequest()
        request.ItemToMonitor.NodeId = ua.NodeId.from_string(node)
        request.ItemToMonitor.AttributeId = AttributeIds.Value
        request.MonitoringMode = ua.MonitoringMode.Reporting
        wanted = request.RequestedParameters
        wanted.ClientHandle = number
        wanted.SamplingInterval = self.words.period_ms
        # Room for ten seconds in which the network stands still.
        wanted.QueueSize = max(10, round(10_000 / self.words.period_ms))
        wanted.DiscardOldest = True
        wanted.Filter = ua.DataChangeFilter(Trigger=trigger)
        return request

    async def _fill_up(self, client: Client) -> None:
        """Take from the server's history what came without a connection, a slice of time at a time."""
        wanted = [node for node in self.last if node not in self._without_history and node in self.nodes]
        if not (self.words.history and wanted):
            return
        self._filled.clear()
        span = timedelta(milliseconds=max(1.0, _SLICE / len(wanted)) * self.words.period_ms)
        start = min(self.last[node] for node in wanted)
        while True:
            now = datetime.now(UTC)
            end = min(start + span, now)
            for first in range(0, len(wanted), _ATONCE):
                some = wanted[first : first + _ATONCE]
                await asyncio.gather(*(self._read_history(client, node, end) for node in some))
            if end == now:
                return
            await self.turn(end)
            start = end

    async def _read_history(self, client: Client, node: str, end: datetime) -> None:
        start = self.last[node]
        if start >= end:
            return
        try:
            found = await client.get_node(node).read_raw_history(start, end, return_bounds=False)
        except UaStatusCodeError as error:
            log.warning("%s has no history of %s (%s)", self.words.where, node, type(error).__name__)
            self._without_history.add(node)
            return
        for value in found:
            self._value(node, value, start)
        first, _ = self._filled.get(node, (start, start))
        self._filled[node] = (first, self.last[node])

    async def _listen(self, client: Client, subscription: Subscription) -> None:
        while client.state is UaClientState.CONNECTED:
            event = await subscription.next_event(0.1)
            if isinstance(event, DataChangeEvent):
                item = event.data.monitored_item
                if item.Value.StatusCode is not None and item.Value.StatusCode.value & _DROPPED == _DROPPED:
                    raise NotConnectedError("it has dropped values; they come from its history")
                node = self.nodes[item.ClientHandle]
                first, last = self._filled.get(node, (None, None))
                # What came while the history was read has come from there, too.
                if first is None or last is None or not first <= _when(item.Value) <= last:
                    self._value(node, item.Value)
            await self.turn(None)
        raise NotConnectedError("the connection is gone")

    def _value(self, node: str, value: ua.DataValue, after: datetime | None = None) -> None:
        when = _when(value)
        if after is not None and when <= after:
            return
        status = value.StatusCode.name if value.StatusCode is not None else "Good"
        self.take(node, when, plain(value.Value.Value if value.Value is not None else None, status))
        self.last[node] = max(when, self.last.get(node, when))

    def _refuse(self, key: str, why: str) -> None:
        if not self._was_open:
            raise UsageError(f"{self.words.where}: {key}: {why}")
        raise NotConnectedError(why)


def _when(value: ua.DataValue) -> datetime:
    """When a value was so, as its source says; else the server; else now."""
    when = value.SourceTimestamp or value.ServerTimestamp or datetime.now(UTC)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def application_uri(certificate: Path) -> str:
    """Return the application that a certificate names; servers compare it with what the client says.

    Raises:
        UsageError: It is no certificate, or names none.
    """
    raw = certificate.read_bytes()
    try:
        parsed = (
            x509.load_pem_x509_certificate(raw)
            if raw.startswith(b"-")
            else x509.load_der_x509_certificate(raw)
        )
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.UniformResourceIdentifier)[0]
    except (ValueError, IndexError, x509.ExtensionNotFound) as error:
        raise UsageError(f"{certificate}: expected a certificate with an application URI: {error}") from None


def make_certificate(certificate: Path, key: Path, name: str) -> None:
    """Make a certificate of the client's own, signed by itself, for a person to have the server trust."""
    certificate.parent.mkdir(parents=True, exist_ok=True)
    uri, use = f"urn:interplant:{name}", [ExtendedKeyUsageOID.CLIENT_AUTH]
    asyncio.run(
        setup_self_signed_certificate(key, certificate, uri, name, use, {"commonName": f"Interplant {name}"})
    )
    key.chmod(0o600)
    log.warning("%s is this plant's certificate for OPC UA: have the server trust it", certificate)


async def _quietly(work: Awaitable[Any]) -> None:
    try:
        await work
    except (TimeoutError, OSError, UaError) as error:
        log.debug("while leaving: %s", error)
