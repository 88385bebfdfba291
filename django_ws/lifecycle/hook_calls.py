"""Calls the user's hooks, and handles the exceptions that they raise."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from http import HTTPStatus
from typing import Any, ClassVar, Literal, Protocol

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.http import Http404

from django_ws.close_codes import CloseCode, close_code_of
from django_ws.codecs import Codec
from django_ws.connection.connection import CONNECTING, OPEN, Connection
from django_ws.exceptions import (
    BroadcastError,
    ConnectionClosed,
    InvalidMessage,
    InvalidTopic,
    MessageDropped,
    Reject,
    SendTimeout,
    TooManyTopics,
)
from django_ws.lifecycle.hooks import Hooks
from django_ws.logs.error_reports import debug_reason, report_error
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.request import WebSocketRequest
from django_ws.threads.mistakes import explain

logger = logging.getLogger("django.ws.request")

_suspicious = ThrottledLog(logger, logging.WARNING, "suspicious handshakes")
_invalid = ThrottledLog(logger, logging.WARNING, "messages that a handler found invalid")
_not_broadcast = ThrottledLog(logger, logging.ERROR, "hooks that a broadcast's failure has ended")
_refusals = ThrottledLog(logger, logging.WARNING, "connections closed by what a hook raised")

MIDDLEWARE = "the middleware"
LOG_IN = "the check of the log-in"
HANDLER_CLASS = "the class of the handler"
TOPIC_HANDLER = "the handler of the topic "
BROADCASTS = {"on_broadcast", "on_broadcast_gap"}
# Where an exception reaches no ``on_error``: no hook runs before the client may connect.
_WITHOUT_ON_ERROR = {
    MIDDLEWARE, LOG_IN, HANDLER_CLASS, "authenticate_first", "authorize", "on_error",
}  # fmt: skip
# Hooks that answer what another one has raised: nobody answers them in turn.
_LAST_WORDS = {"on_error", "on_invalid_message"}


class Handler(Protocol):
    """What the machinery needs of the user's handler, besides its hooks."""

    PROCESS_CANCEL_ERRORS: bool
    accept_headers: Sequence[tuple[str, str]]
    codec: Codec
    concurrent_broadcasts: bool
    first_message_seconds: float
    idle_timeout: float | None
    max_message_size: int | None
    rate_limit: str | Literal[False] | None
    topics: Sequence[str]
    using: str
    _hooks: ClassVar[Hooks]
    _rate_limited: int

    @property
    def request(self) -> WebSocketRequest: ...

    @property
    def _own_id(self) -> str: ...

    @property
    def _known_id(self) -> str | None: ...

    def authenticate_first(self, message: Any) -> Any: ...

    def get_topics(self) -> Any: ...

    def may_subscribe(self, topic: str) -> bool: ...

    def on_task_error(self, error: BaseException) -> Any: ...

    def _let_go(self) -> None: ...

    def _refusal(self) -> Reject: ...


class Calls:
    """The calls into one handler. ``place`` names what runs now, for the log.

    Hooks do not overlap. ``lock`` is locked while one runs; it is None where no other task than
    the connection's own calls any. ``context`` is that of the connection: every hook runs in it.
    """

    __slots__ = ("_connection", "_handler", "context", "lock", "place")

    def __init__(self, handler: Handler, connection: Connection) -> None:
        self._handler = handler
        self._connection = connection
        self.place = MIDDLEWARE
        self.context: Context | None = None  # as long as only the middleware runs
        self.lock: asyncio.Lock | None = None

    def add_lock(self, *, is_locked: bool) -> None:
        """From now on hooks are called from several tasks; ``is_locked``: one runs right now."""
        if self.lock is None:
            self.lock = asyncio.Lock()
            if is_locked:
                with suppress(StopIteration):  # it is free, so nothing is waited for
                    self.lock.acquire().send(None)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Wait until no other hook runs, and let none run meanwhile."""
        if self.lock is not None:
            await self.lock.acquire()
        try:
            yield
        finally:
            if self.lock is not None:  # the hook may have made it
                self.lock.release()

    def is_sync(self, name: str) -> bool:
        """Whether a hook is a plain function, which runs in a thread."""
        return name in self._handler._hooks.sync

    def function(self, name: str) -> Callable[..., Awaitable[Any]]:
        """A hook as a coroutine function, in a thread where it is a plain function."""
        function: Callable[..., Any] = getattr(self._handler, name)
        return _threaded(function) if self.is_sync(name) else function

    async def call(self, name: str, *args: Any) -> None:
        """Run one hook; an exception in it is answered. Only cancellations come out."""
        self.place = name
        await self.call_in_task(name, *args)

    async def decide(self, name: str) -> None:
        """As ``call``, for a hook that decides who may connect: False refuses the handshake."""
        self.place = name
        try:
            answer = await self.function(name)()
            self._check_answer(name, answer)
        except (Exception, asyncio.CancelledError) as error:
            await self.failed(name, error)

    def _check_answer(self, name: str, answer: Any) -> None:
        if answer is None or answer is True:
            return
        if answer is False:
            raise self._handler._refusal()
        is_coroutine = inspect.iscoroutine(answer)
        if is_coroutine:
            answer.close()  # what it would have found out is not known: nobody gets in
        elif name == "on_connect":
            return  # whatever the last call in it gave
        raise TypeError(
            f"{type(self._handler).__qualname__}.{name}() gave {answer!r}"
            f"{', which nobody has awaited' if is_coroutine else ''}. Return True or None to let "
            "the client in and False to refuse it, or raise Reject(status, reason)."
        )

    async def call_in_task(self, name: str, *args: Any) -> None:
        """As ``call``, from another task than the connection's own: ``place`` stays as it is."""
        await self.call_function(name, self.function(name), *args)

    async def call_topic_handler(
        self, function: Callable[[str, Any], Any], topic: str, message: Any
    ) -> None:
        """As ``call_in_task``, for what was given to ``subscribe``."""
        if not iscoroutinefunction(function):
            function = _threaded(function)
        await self.call_function(f"{TOPIC_HANDLER}{topic!r}", function, topic, message)

    async def call_function(
        self, place: str, function: Callable[..., Awaitable[Any]], *args: Any
    ) -> None:
        try:
            await function(*args)
        except (Exception, asyncio.CancelledError) as error:
            await self.failed(place, error)

    async def failed(self, place: str, error: BaseException) -> None:
        """Answer an exception in the user's code; raise a cancellation of the connection again."""
        connection = self._connection
        if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
            raise error  # any other is the hook's own affair: something it awaited was cancelled
        # Nothing that happens to a message is an answer to the handshake.
        is_answered = connection.state is not CONNECTING
        is_of_close = isinstance(error, ConnectionClosed | SendTimeout) and connection.gone
        if is_answered and is_of_close:
            logger.debug("WebSocket %s: %s ended by the close", connection.path, place)
        elif is_answered and isinstance(error, MessageDropped):  # counted and warned of already
            logger.debug("WebSocket %s: %s ended by an overflow", connection.path, place)
        elif self.is_slow_client(error):
            connection.overflowed()
        elif isinstance(error, BroadcastError):
            await self._not_broadcast(place, error)
        elif connection.state is OPEN and isinstance(error, InvalidMessage):
            path = connection.path
            _invalid.log((path, place), "WebSocket %s: %s (in %s)", path, error, place)
            if place in _LAST_WORDS:
                connection.close(CloseCode.POLICY_VIOLATION, error.reason)
            else:
                await self.call("on_invalid_message", error)
        elif (rejection := _rejection_of(error)) is not None:
            self._reject(place, error, rejection)
        else:
            await self.report(place, error)
            if place not in _WITHOUT_ON_ERROR:
                await self.call("on_error", error)
            if connection.state is CONNECTING:
                connection.refuse(500, debug_reason(error) or HTTPStatus(500).phrase)
            elif connection.state is OPEN:
                connection.close(CloseCode.INTERNAL_ERROR, debug_reason(error))

    def is_slow_client(self, error: BaseException | None) -> bool:
        """Whether it is a time-out of this connection's own client, which does not read."""
        connection = self._connection
        return isinstance(error, SendTimeout) and connection.state is OPEN and connection.is_behind

    def tell_not_broadcast(self, place: str, error: BroadcastError) -> None:
        """The backend is away: told as such, and not with a report for each message."""
        path = self._connection.path
        _not_broadcast.log(
            (path, place, error.server),
            "WebSocket %s: %s (in %s). Catch BroadcastError where the code is to go on without it.",
            path,
            printable(str(error)),
            place,
        )

    async def _not_broadcast(self, place: str, error: BroadcastError) -> None:
        connection = self._connection
        self.tell_not_broadcast(place, error)
        if place not in _WITHOUT_ON_ERROR:
            await self.call("on_error", error)
        if connection.state is CONNECTING:
            connection.refuse(503)
        elif connection.state is OPEN:
            connection.close(CloseCode.TRY_AGAIN_LATER)

    async def failed_in_task(self, place: str, error: Exception) -> None:
        """As ``failed``, in what belongs to a background task: other errors end no connection."""
        if self._connection.state is OPEN and (rejection := _rejection_of(error)) is not None:
            self._reject(place, error, rejection)
        else:
            await self.report(place, error)

    async def report(self, place: str, error: BaseException) -> None:
        """Log an exception and send Django's signal, once."""
        explain(error)
        handler = self._handler
        await report_error(
            type(handler),
            handler.request,
            handler._own_id,
            place,
            error,
            is_of_broadcast=place in BROADCASTS or place.startswith(TOPIC_HANDLER),
        )

    def _reject(self, place: str, error: BaseException, rejection: Reject) -> None:
        """Not the site's fault: no traceback, and no mail to the administrators."""
        connection, path, name = self._connection, self._connection.path, type(error).__name__
        if connection.state is CONNECTING:
            if rejection.status == 400 and rejection is not error:
                _suspicious.log(
                    (path, name, place),
                    "WebSocket %s refused with 400: %s in %s",
                    path,
                    _shown(error),
                    place,
                )
            connection.refuse(rejection.status, rejection.reason, rejection.headers)
        elif connection.state is OPEN:
            code = close_code_of(rejection.status)
            _refusals.log(
                (path, name, place),
                "WebSocket %s closed with %d: %s in %s",
                path,
                code,
                _shown(error),
                place,
            )
            connection.close(code, rejection.reason)
        else:
            logger.debug("WebSocket %s: %r in %s, after the end", path, error, place)


def _rejection_of(error: BaseException) -> Reject | None:
    """What Django's own exceptions for a refused request mean here, as in a view."""
    match error:
        case Reject():
            return error
        case PermissionDenied():
            return Reject(403)
        case Http404():
            return Reject(404)
        case (
            SuspiciousOperation()
            | BadRequest()
            | InvalidMessage()
            | InvalidTopic()
            | TooManyTopics()
        ):
            return Reject(400, HTTPStatus(400).phrase)  # topics: as a rule a client chose them
        case _:
            return None


def _shown(error: BaseException) -> str:
    """With the text of those errors that is the library's own."""
    name = type(error).__name__
    return f"{name} ({error})" if isinstance(error, InvalidTopic | TooManyTopics) else name


def _threaded(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A plain function as a coroutine function that runs it in a thread."""
    in_thread = sync_to_async(function)

    async def hook(*args: Any) -> Any:
        result = await in_thread(*args)
        # It may be a plain function around a coroutine function.
        return await result if inspect.isawaitable(result) else result

    return hook


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
