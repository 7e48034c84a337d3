"""Who may call what. Every call passes here; what is not listed is refused."""

from __future__ import annotations  # grpc's classes take type arguments only for the type checker

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from interplant.core import certificates
from interplant.core.certificates import Identity
from interplant.core.errors import InterplantError

ROLES: dict[str, frozenset[str]] = {
    "/interplant.v1.Coordinator/Enrol": frozenset({"bootstrap"}),
    "/interplant.v1.Coordinator/": frozenset({"plant"}),
    "/grpc.health.v1.Health/": frozenset({"plant", "server"}),
    "/grpc.reflection.v1alpha.ServerReflection/": frozenset({"plant", "server"}),
}
"""Roles by full method name, or by service for all of its other methods."""


class Guard(aio.ServerInterceptor):  # type: ignore[type-arg]
    """Check the certificate behind each call before the call is served.

    Args:
        is_allowed: Tells of a verified identity whether it is enrolled and not revoked.
    """

    def __init__(self, is_allowed: Callable[[Identity], bool]) -> None:
        self._is_allowed = is_allowed

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Wrap the method's handler so that `check` runs first."""
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        roles = ROLES.get(method) or ROLES.get(method.rpartition("/")[0] + "/", frozenset())

        async def check(context: Any) -> None:
            await self._check(roles, context)

        return handler and _guarded(handler, check)

    async def _check(self, roles: frozenset[str], context: aio.ServicerContext[Any, Any]) -> None:
        try:
            caller = identity_of(context)
        except InterplantError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        if caller.role not in roles:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"a certificate of role {caller.role} may not call this"
            )
        if not self._is_allowed(caller):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{caller.name} is not enrolled in this federation, or it was revoked; "
                "ask the coordinator's operator for a new join file",
            )


def identity_of(context: aio.ServicerContext[Any, Any]) -> Identity:
    """Read who calls from the certificate that TLS has verified.

    Raises:
        InterplantError: The certificate names no role of this federation.
    """
    pem = context.auth_context().get("x509_pem_cert")
    if not pem:
        raise InterplantError("expected a client certificate, found none")
    return certificates.identity(next(iter(pem)))


def _guarded(handler: Any, check: Callable[[Any], Awaitable[None]]) -> grpc.RpcMethodHandler[Any, Any]:
    kind = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }[handler.request_streaming, handler.response_streaming]
    inner = getattr(handler, kind[0])

    async def answer(request: Any, context: Any) -> Any:
        await check(context)
        return await inner(request, context)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await check(context)
        replies = inner(request, context)
        if hasattr(replies, "__aiter__"):
            async for reply in replies:
                yield reply
        else:  # a handler that writes to the context itself
            await replies

    return kind[1](
        stream if handler.response_streaming else answer,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
