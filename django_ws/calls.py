"""Calling the user's hooks, and answering the exceptions that come out of them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Literal, Protocol

from asgiref.sync import sync_to_async
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.http import Http404

from django_ws.close_codes import CloseCode
from django_ws.codecs import Codec
from django_ws.connection import CONNECTING, OPEN, Connection
from django_ws.exceptions import ConnectionClosed, MessageDropped, Reject
from django_ws.hooks import Hooks
from django_ws.reporting import debug_reason, report_error
from django_ws.request import WebSocketRequest
from django_ws.throttled_log import ThrottledLog

logger = logging.getLogger("django.ws.request")

_suspicious = ThrottledLog(logger, logging.WARNING, "suspicious handshakes")

MIDDLEWARE = "the middleware"
LOG_IN = "the check of the log-in"
# Where an exception reaches no ``on_error``: no hook runs before the client may connect.
_WITHOUT_ON_ERROR = {MIDDLEWARE, LOG_IN, "authenticate_first", "authorize", "on_error"}


class Handler(Protocol):
    """What the machinery needs of the user's handler, besides its hooks."""

    PROCESS_CANCEL_ERRORS: bool
    codec: Codec
    first_message_seconds: float
    hooks: ClassVar[Hooks]
    idle_timeout: float | None
    max_message_size: int | None
    rate_limit: str | Literal[False] | None
    rate_limited: int
    request: WebSocketRequest
    topics: Sequence[str]
    using: str

    @property
    def id(self) -> str: ...

    @property
    def known_id(self) -> str | None: ...

    def authenticate_first(self, message: Any) -> Any: ...

    def get_topics(self) -> Any: ...

    def may_subscribe(self, topic: str) -> bool: ...

    def on_task_error(self, error: BaseException) -> Any: ...

    def _let_go(self) -> None: ...


class Calls:
    """The calls into one handler. ``place`` names what runs now, for the log."""

    __slots__ = ("_connection", "_handler", "place")

    def __init__(self, handler: Handler, connection: Connection) -> None:
        self._handler = handler
        self._connection = connection
        self.place = MIDDLEWARE

    def function(self, name: str) -> Callable[..., Awaitable[Any]]:
        """A hook as a coroutine function, in a thread where it is a plain function."""
        function: Callable[..., Any] = getattr(self._handler, name)
        if name not in self._handler.hooks.sync:
            return function
        in_thread = sync_to_async(function)

        async def hook(*args: Any) -> None:
            result = await in_thread(*args)
            if inspect.isawaitable(result):  # a plain function around a coroutine function
                await result

        return hook

    async def call(self, name: str, *args: Any) -> None:
        """Run one hook; an exception in it is answered. Only cancellations come out."""
        self.place = name
        await self.call_beside(name, *args)

    async def call_beside(self, name: str, *args: Any) -> None:
        """As ``call``, while another hook may be running: ``place`` stays that one's."""
        try:
            await self.function(name)(*args)
        except (Exception, asyncio.CancelledError) as error:
            await self.failed(name, error)

    async def failed(self, place: str, error: BaseException) -> None:
        """Answer an exception in the user's code; raise a cancellation of the connection again."""
        connection = self._connection
        if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
            raise error  # any other is the hook's own affair: something it awaited was cancelled
        # Nothing that happens to a message is an answer to the handshake.
        is_answered = connection.state is not CONNECTING
        if is_answered and isinstance(error, ConnectionClosed) and connection.gone:
            logger.debug("WebSocket %s: %s ended by the close", connection.path, place)
        elif is_answered and isinstance(error, MessageDropped):  # counted and warned of already
            logger.debug("WebSocket %s: %s ended by an overflow", connection.path, place)
        elif isinstance(error, Reject):
            self._reject(error)
        elif connection.state is CONNECTING and isinstance(error, PermissionDenied | Http404):
            self._reject(Reject(403 if isinstance(error, PermissionDenied) else 404))
        elif connection.state is CONNECTING and isinstance(error, SuspiciousOperation | BadRequest):
            # The client's fault, as undecodable data is: no traceback, and no mail.
            name = type(error).__name__
            _suspicious.log(
                (connection.path, name, place),
                "WebSocket %s refused with 400: %s in %s",
                connection.path,
                name,
                place,
            )
            self._reject(Reject(400, HTTPStatus(400).phrase))
        else:
            await self.report(place, error)
            if place not in _WITHOUT_ON_ERROR:
                await self.call("on_error", error)
            if connection.state is CONNECTING:
                connection.refuse(500, debug_reason(error) or HTTPStatus(500).phrase)
            elif connection.state is OPEN:
                connection.close(CloseCode.INTERNAL_ERROR, debug_reason(error))

    async def report(self, place: str, error: BaseException) -> None:
        """Log an exception and send Django's signal, once."""
        handler = self._handler
        await report_error(type(handler), handler.request, handler.id, place, error)

    def _reject(self, rejection: Reject) -> None:
        connection = self._connection
        if connection.state is CONNECTING:
            connection.refuse(rejection.status, rejection.reason, rejection.headers)
        elif connection.state is OPEN:
            code = 4000 + rejection.status
            known = code in list(CloseCode)
            connection.close(code if known else CloseCode.POLICY_VIOLATION, rejection.reason)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
