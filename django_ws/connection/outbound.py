"""What a connection sends: in order, and with a limit on what waits for the client."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import re
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, cast

from django_ws.connection.shared_frames import FrameExtension, Prepare, Write
from django_ws.exceptions import ConnectionClosed, MessageDropped, WebSocketError
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.threads.any_thread import Failed, Pending, current_task, done
from django_ws.types import Event, Send

FINISHED: Any = object()
logger = logging.getLogger("django.ws.request")

_defects = ThrottledLog(logger, logging.ERROR, "failures of the server's send()")

MESSAGE_OVERHEAD = 100  # bytes counted for each waiting message besides its own


class Outbound:
    """Sends events in the order of the calls. For the event loop's thread only.

    Hot path: the server's ``send`` is driven by hand, with no task, queue or future, because
    nearly always it finishes without suspending. When it does suspend (the client reads too
    slowly), a writer task takes that call over, and what is sent meanwhile waits here until
    the writer has come to it. When nothing waits any more the writer ends.
    """

    __slots__ = (
        "_in_flight",
        "_limit",
        "_loop",
        "_path",
        "_send",
        "_server_writes",
        "_waiting",
        "broken",
        "context",
        "done",
        "dropped",
        "prepare",
        "ready",
        "size",
        "write_message",
        "writer",
    )  # fmt: skip

    def __init__(
        self,
        send: Send,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        path: str,
        extension: FrameExtension | None = None,
    ) -> None:
        self._send = send
        self._loop = loop
        self._limit = limit
        self._path = path  # as it came: escaped when it is logged
        self.done = done(loop)
        # The server's send always runs in this one context, whichever task sends: it never
        # sees a stranger's variables, and may reset its own after a suspension.
        self.context = contextvars.copy_context()
        self.ready: Context | None = self.context  # None while anything waits or has failed
        self.writer: asyncio.Task[None] | None = None  # while anything waits
        self._in_flight: _Waiting | None = None
        self._waiting: deque[_Waiting] | None = None
        self.size = 0  # bytes that wait
        self.broken: ConnectionClosed | None = None
        self.dropped = 0
        # None where the server has no frames to be shared.
        self.prepare: Prepare | None = None
        self._server_writes: Write = _never
        self.write_message: Callable[[str | bytes], bool] = _never
        if extension is not None:
            self.prepare = extension["prepare"]
            self._server_writes = extension["write"]
            self.write_message = extension["write_message"]

    def write_frames(self, frames: Any) -> bool:
        """Send what ``prepare`` has made of some messages, if that is possible at once.

        Hot path. Where it returns False each of the messages must be ``put``.
        """
        return self.ready is not None and self._server_writes(frames)

    def put(self, event: Event) -> Awaitable[None]:
        """Send one event, or let it wait its turn behind others."""
        # Outside a task (in a callback of the loop) no server expects to be driven.
        if self.ready is not None and current_task() is not None:
            return self.drive(event, self.ready)
        if self.broken is not None:
            return self._refuse(event, self.broken)
        return self._wait(event)

    def drive(self, event: Event, ready: Context) -> Awaitable[None]:
        """Send one event now. Only inside a task; ``ready`` is that of this buffer."""
        try:
            sent: Any = self._send(event)
        except (Exception, asyncio.CancelledError) as error:  # nobody has cancelled this one
            return self._failed(event, error)
        try:
            call = sent.__await__()
        except AttributeError as error:
            if not inspect.isawaitable(sent):
                return self._failed(event, error)
            call = sent  # a generator-based coroutine
        try:
            # next() with a default costs no StopIteration, as send() would.
            suspended_on = ready.run(next, call, FINISHED)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, RuntimeError) and self._is_driving():
                # The server's send has itself led here, for example through the log and one
                # of its handlers that tells clients: this event waits behind that one.
                if isinstance(sent, Coroutine):  # has not begun, and is made again
                    sent.close()
                    return self._wait(event)
                return self._wait(event, sent)
            return self._failed(event, error)
        if suspended_on is FINISHED:
            return self.done
        if asyncio.isfuture(suspended_on):
            # Until the writer's first step others may come to wait for the same future, which
            # this mark of its one awaiter would make fail ("await wasn't used with future").
            suspended_on._asyncio_future_blocking = False
        return self._wait(event, _resume(call, suspended_on), is_under_way=True)

    def _failed(self, event: Event, error: BaseException) -> Awaitable[None]:
        if self.ready is not None and (other := _other_close(event, error)) is not None:
            return self.drive(other, self.ready)
        return self._refuse(event, self._break(error))

    def _is_driving(self) -> bool:
        try:
            self.context.run(bool)
        except RuntimeError:  # "cannot enter context: it is already entered"
            return True
        return False

    def has_room(self, size: int, in_hooks: int = 0) -> bool:
        """Whether so many bytes more may wait, with those that wait elsewhere for the same
        connection; the first message always may.
        """
        waiting = self.size + in_hooks
        return waiting == 0 or waiting + size <= self._limit

    def drop_oldest(self) -> bool:
        """Drop the message that has waited longest; not the one under way, which is half sent."""
        if not self._waiting:
            return False
        self._drop(self._waiting.popleft(), MessageDropped())
        return True

    def fail(self, error: ConnectionClosed) -> None:
        """The connection is gone: drop all that waits, cancel the call under way."""
        self.broken = self.broken or error
        self.ready = None
        if self.writer is not None:
            self.writer.cancel()
            self.writer = None
        self._drop_all(error)

    def release(self) -> None:
        """The connection is over: keep no exception, whose traceback refers back here."""
        if self.broken is not None:
            self.broken = ConnectionClosed(self.broken.code, self.broken.reason)

    def _wait(
        self, event: Event, call: Awaitable[None] | None = None, *, is_under_way: bool = False
    ) -> Awaitable[None]:
        item = _Waiting(event, call)
        self.size += item.size
        if self._waiting is None:
            self._waiting = deque()
        if is_under_way:  # what it has led to itself stands behind it
            self._in_flight = item
        else:
            self._waiting.append(item)
        if self.writer is None:
            self.ready = None
            # Not loop.create_task(): an eager factory would run it before it is known here.
            self.writer = asyncio.Task(
                self._write(), loop=self._loop, name="django_ws outbound", context=self.context
            )
        return item.pending

    async def _write(self) -> None:
        waiting = cast(deque[_Waiting], self._waiting)
        item: _Waiting | None = None
        try:
            while True:
                item = self._in_flight = self._in_flight or waiting.popleft()
                try:
                    await (item.call or self._send(item.event))
                except Exception as error:
                    if (other := _other_close(item.event, error)) is None:
                        raise
                    await self._send(other)
                self.size -= item.size
                item.pending.finish()
                self._in_flight = None
                if not waiting:
                    break
        except Exception as error:
            self._break(error)
        except asyncio.CancelledError as error:
            self._break(error)
            raise
        finally:
            item = None  # the traceback of what was raised refers to this frame
            self.writer = None
            if self.broken is None:
                self.ready = self.context
            else:
                self._drop_all(self.broken)

    def _break(self, cause: BaseException) -> ConnectionClosed:
        if self.broken is None:
            self.ready = None
            self.broken = ConnectionClosed()
            self.broken.__cause__ = cause
            if not _is_lost(cause):
                _defects.log(
                    type(cause).__name__,
                    "WebSocket %s: the server's send() failed: %r. Nothing more can be sent on "
                    "this connection. It was not lost: the fault is in the server, or in what "
                    "stands between it and this application.",
                    printable(self._path),
                    cause,
                    exc_info=cause,
                )
        return self.broken

    def _refuse(self, event: Event, error: ConnectionClosed) -> Awaitable[None]:
        if event["type"] == "websocket.send":
            self.count_drop(error)
        return Failed(error)

    def count_drop(self, error: Exception) -> None:
        """A message is not sent: who awaits it is told why, the log is told for all others."""
        self.dropped += 1
        logger.debug("WebSocket %s: a message was dropped: %s", printable(self._path), error)

    def _drop_all(self, error: ConnectionClosed) -> None:
        if self._in_flight is not None:
            self._drop(self._in_flight, error)
            self._in_flight = None
        while self._waiting:
            self._drop(self._waiting.popleft(), error)

    def _drop(self, item: _Waiting, error: WebSocketError) -> None:
        self.size -= item.size
        if item.event["type"] == "websocket.send":
            self.count_drop(error)
        item.pending.finish(error)


def _never(unsendable: Any) -> bool:
    return False


class _Waiting:
    """An event that the server has not taken yet; ``call`` where its ``send`` was called."""

    __slots__ = ("call", "event", "pending", "size")

    def __init__(self, event: Event, call: Awaitable[None] | None) -> None:
        self.event = event
        self.call = call
        self.pending = Pending()
        self.size = 0  # a close frame is never refused a place
        if event["type"] == "websocket.send":
            data = event["text"] if "text" in event else event["bytes"]
            self.size = data_size(data) + MESSAGE_OVERHEAD


def _other_close(event: Event, error: BaseException) -> Event | None:
    """A close that a server takes which refuses this one for its code; None for all else.

    Daphne sends no code of its own protocol but 1000: its clients get 4011 instead of 1011.
    """
    if event["type"] != "websocket.close" or isinstance(error, OSError):
        return None
    code: int = event["code"]
    return {**event, "code": code + 3000} if 1000 < code < 3000 else None


def data_size(data: str | bytes) -> int:
    """The bytes that data takes on the wire."""
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    return len(data.encode())


# Servers that raise no ``OSError`` for a lost connection say so in the name or the text of what
# they raise: Disconnected, "after sending 'websocket.close'", "Connection already upgraded".
_SAYS_LOST = re.compile(r"clos|disconnect|lost|already", re.IGNORECASE)
_MISTAKES = (TypeError, AttributeError, LookupError, NameError, AssertionError)


def _is_lost(error: BaseException) -> bool:
    """Whether an exception of a server's ``send`` means that the connection is gone."""
    if isinstance(error, OSError | EOFError | asyncio.CancelledError):
        return True
    return not isinstance(error, _MISTAKES) and bool(_SAYS_LOST.search(repr(error)))


@types.coroutine
def _resume(call: Any, suspended_on: Any) -> Generator[Any, Any, None]:
    """Go on with an awaitable's iterator that was driven by hand to its first suspension.

    As ``await`` does it: ``__next__`` is all that an iterator must have.
    """
    if asyncio.isfuture(suspended_on):
        suspended_on._asyncio_future_blocking = True
    try:
        while True:
            try:
                value = yield suspended_on
            except BaseException as error:
                throw = getattr(call, "throw", None)
                if throw is None:
                    raise
                suspended_on = throw(error)
            else:
                suspended_on = next(call) if value is None else call.send(value)
    except StopIteration:
        return
