"""The ASGI state machine of one socket: refuse or accept, send, close.

Speaks ASGI (https://asgi.readthedocs.io/en/latest/specs/www.html#websocket) and knows neither
handlers nor hooks.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from enum import Enum, auto
from threading import get_ident
from typing import Any, Literal, cast

from django_ws import conf
from django_ws.close_codes import close_code_of, is_sendable, status_of
from django_ws.connection.inbound import STOPPED, Inbound
from django_ws.connection.outbound import MESSAGE_OVERHEAD, Outbound, data_size
from django_ws.connection.retry_after import retry_after
from django_ws.connection.shared_frames import extension_of
from django_ws.exceptions import (
    ConnectionClosed,
    MessageDropped,
    StateError,
    WebSocketError,
)
from django_ws.headers import encoded_headers
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.threads.any_thread import Failed, act, current_task_of, done
from django_ws.threads.pool import SyncWork, own_sync_work
from django_ws.types import ASGIApplication, Event, Receive, Scope, Send

logger = logging.getLogger("django.ws.request")

_overflows = ThrottledLog(logger, logging.WARNING, "connections ended by an overflow")
_drops = ThrottledLog(logger, logging.WARNING, "messages dropped on overflow")

Overflow = Literal["close", "drop_oldest", "drop_newest"]

MAX_REASON_BYTES = 123  # RFC 6455, 5.5: a control frame carries 125 bytes, two are the code


class State(Enum):
    CONNECTING = auto()
    OPEN = auto()
    CLOSED = auto()  # a close was sent or received, or the client is gone
    REFUSED = auto()  # never opened
    HANDED_OVER = auto()  # to an ASGI application, which speaks to the server itself


CONNECTING, OPEN, CLOSED, REFUSED, HANDED_OVER = State  # looked up once: the hot path compares them


_NOBODY = object()  # not None, which is the current task of a callback


def _nothing(by_client: bool) -> None: ...


class Connection:
    """One socket. For the event loop's thread, but for ``send_data`` and ``close``.

    ``on_closing(by_client)`` is called once, as soon as the connection begins to end.
    """

    __slots__ = (
        "__weakref__", "_closed_future", "_closing", "_is_accepted", "_send", "_sender", "_thread",
        "accept_headers", "close_code", "close_reason", "inbound", "loop", "on_closing", "outbound",
        "overflow", "refuse_after_accept", "scope", "state", "subprotocol", "subprotocols",
        "sync_work", "task", "token_subprotocol",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.loop = loop = asyncio.get_running_loop()
        self.task = cast(asyncio.Task[Any], asyncio.current_task())  # the server's
        self.inbound = Inbound(receive, loop, self.client_left)
        self._send = send
        self._thread = self.inbound.watch.thread
        self._sender: object = _NOBODY  # the task that may drive the server's send
        self.sync_work = SyncWork(self.path)
        own_sync_work(self.sync_work)  # before the outbound buffer keeps this context
        self.outbound = Outbound(
            send, loop, conf.get().ws_send_buffer, scope["path"], extension_of(scope, send)
        )
        self.state = CONNECTING
        self.close_code: int | None = None
        self.close_reason = ""
        self.subprotocol: str | None = None
        self.subprotocols: Sequence[str] = ()  # those that may be answered
        self.token_subprotocol: str | None = None  # answered for want of others, and told nobody
        self.accept_headers: Sequence[tuple[str, str]] = ()
        self._is_accepted = False  # early, while CONNECTING; or answered by an ASGI application
        self.refuse_after_accept = False  # so that browsers can read the status
        self.overflow: Overflow = "close"
        self.on_closing: Callable[[bool], None] = _nothing
        self._closing: Awaitable[None] = done(loop)
        self._closed_future: asyncio.Future[None] | None = None

    # Before the accept

    def refuse(
        self,
        status: int,
        body: str = "",
        headers: Iterable[tuple[str, str]] = (),
        close: tuple[int, str] | None = None,
    ) -> Awaitable[None]:
        """Answer the handshake with an HTTP status; nothing opens. Later calls do nothing.

        Servers without the extension ``websocket.http.response`` answer 403 whatever the status.
        With ``refuse_after_accept`` the socket is accepted and closed: with the code and the
        reason of ``close``, by default 4000 + status and the body. With 503 the client is told
        when to come back.
        """
        if self.state is REFUSED:
            return self._closing
        if self.state is not CONNECTING:
            raise StateError("reject() after the accept: use close(code, reason) instead")
        content = body.encode("utf-8", "replace")
        headers = list(headers)
        if status == 503 and not any(name.lower() == "retry-after" for name, _ in headers):
            headers.append(("Retry-After", str(retry_after())))
        start: Event = {
            "type": "websocket.http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(content)).encode()),
                *encoded_headers(headers),
            ],
        }
        self._ended(REFUSED, 1006, "")
        if self.refuse_after_accept:
            if not self._is_accepted:
                self._put_accept()
            self._closing = self._put_close(*(close or (close_code_of(status), body)))
            return self._closing
        if "websocket.http.response" not in (self.scope.get("extensions") or {}):
            self._closing = self.outbound.put({"type": "websocket.close", "code": 1000})
            return self._closing
        self.outbound.put(start)
        self._closing = self.outbound.put({"type": "websocket.http.response.body", "body": content})
        return self._closing

    async def settle(self) -> None:
        """After ``refuse``: let the server finish before the application returns."""
        with suppress(ConnectionClosed, TimeoutError):  # the client did not wait for the answer
            async with asyncio.timeout(conf.get().ws_close_timeout):
                await self._closing
        # uvicorn logs an error for an application that returns before the TCP connection is
        # closed, which takes it some turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)

    def accept(self) -> Awaitable[None]:
        """Open the connection with the first of ``subprotocols`` that the client offers."""
        self.state = OPEN
        self._sender = self.task
        return self._put_accept() if not self._is_accepted else done(self.loop)

    def accept_early(self) -> Awaitable[None]:
        """Accept, and leave all else as it is before: the log-in is still to come."""
        self.refuse_after_accept = self._is_accepted = True
        return self._put_accept()

    def _put_accept(self) -> Awaitable[None]:
        event: Event = {"type": "websocket.accept"}
        if self.accept_headers:
            event["headers"] = encoded_headers(self.accept_headers)
        offered = self.scope.get("subprotocols") or ()
        for name in self.subprotocols:
            if name in offered:
                event["subprotocol"] = self.subprotocol = name
                break
        else:
            if self.token_subprotocol is not None:
                event["subprotocol"] = self.token_subprotocol
        return self.outbound.put(event)

    async def hand_over(self, application: ASGIApplication, scope: Scope) -> None:
        """Let an ASGI application have the connection, as if the server had called it."""
        self.state = HANDED_OVER
        events: list[Event] = [{"type": "websocket.connect"}]

        async def receive() -> Event:
            event = events.pop() if events else await self.inbound.next()
            # No message after a log-out, though the application may have waited for one.
            if event is STOPPED or self.state is not HANDED_OVER:
                return self._disconnect_event()
            return event

        async def send(event: Event) -> None:
            if self.state is HANDED_OVER:  # otherwise it was closed for it
                self._is_accepted = True
                await self._send(event)

        await application(scope, receive, send)

    @property
    def is_unanswered(self) -> bool:
        """Whether an ASGI application has it that has not answered the handshake."""
        return self.state is HANDED_OVER and not self._is_accepted

    def _disconnect_event(self) -> Event:
        code, reason = self.close_code, self.close_reason
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    # While open

    def send_data(self, data: str | bytes) -> Awaitable[None]:
        """Send data as a text (``str``) or binary (``bytes``) frame. From any thread or loop.

        Hot path: in the connection's own task, with nothing waiting, the call goes straight to
        the server's ``send``, or past it where the server has a shorter way.
        """
        outbound = self.outbound
        is_direct = (
            (ready := outbound.ready) is not None
            and get_ident() == self._thread
            and current_task_of(self.loop) is self._sender
        )
        if is_direct and outbound.write_message(data):
            return outbound.done
        event: Event = {
            "type": "websocket.send",
            "text" if isinstance(data, str) else "bytes": data,
        }
        if is_direct and ready is not None:
            return outbound.drive(event, ready)
        return self._send_otherwise(event, data)

    def _send_otherwise(self, event: Event, data: str | bytes) -> Awaitable[None]:
        # Not in send_data: what a closure refers to is slower everywhere in its function.
        return act(
            self.loop, "send", lambda: self._send_or_drop(event, data), lambda: self.is_behind
        )

    def _send_or_drop(self, event: Event, data: str | bytes) -> Awaitable[None]:
        if self.state is not OPEN:
            if self.state is CONNECTING:
                raise StateError("send() before the accept: send in on_open or later")
            if self.state is HANDED_OVER:
                raise StateError("send() on a route of an ASGI application: it has the connection")
            return self.drop(self.closed_error())
        outbound = self.outbound
        if outbound.size:
            error = self.make_room(data_size(data) + MESSAGE_OVERHEAD, outbound.drop_oldest)
            if error is not None:
                return self.drop(error)
        return outbound.put(event)

    def deliver(self, event: Event) -> None:
        """Send an event for the hub, which awaits nothing. In a task of the loop, while open.

        Hot path, as ``send_data``.
        """
        outbound = self.outbound
        if (ready := outbound.ready) is not None:
            outbound.drive(event, ready)
        else:
            self._send_or_drop(event, event["text"] if "text" in event else event["bytes"])

    def make_room(
        self, size: int, drop_oldest: Callable[[], bool], in_hooks: Callable[[], int] = int
    ) -> WebSocketError | None:
        """None where so many bytes more may wait; otherwise, by ``overflow``, why they may not.

        ``in_hooks`` tells what waits for a hook instead of for the client.
        """
        has_room = self.outbound.has_room
        if has_room(size, in_hooks()):
            return None
        match self.overflow:
            case "drop_newest":
                return MessageDropped()
            case "drop_oldest":
                while not has_room(size, in_hooks()) and drop_oldest():
                    self._warn_of_drops()
                # Otherwise it is half sent already.
                return None if has_room(size, in_hooks()) else MessageDropped()
            case _:
                self.overflowed(in_hooks())
                return self.closed_error()

    def drop(self, error: WebSocketError) -> Awaitable[None]:
        """A message is not sent: count and log it."""
        self.outbound.count_drop(error)
        if isinstance(error, MessageDropped):
            self._warn_of_drops()
        return Failed(error)

    @property
    def is_behind(self) -> bool:
        """Whether the client has yet to take what was sent."""
        return self.outbound.size > 0

    def overflowed(self, in_hooks: int = 0) -> None:
        """End it, since the client reads too slowly, or its hooks handle too little."""
        cause = (
            "the client reads too slowly"
            if self.outbound.size > in_hooks
            else "broadcasts come faster than its hooks handle them"
        )
        is_open = self.state is OPEN
        _overflows.log(
            (self.path, cause, is_open),
            "WebSocket %s: %s, %d bytes wait: %s. "
            "Send less, raise WS_SEND_BUFFER, or set send_overflow on the handler.",
            self.path,
            cause,
            self.outbound.size + in_hooks,
            "closed with 1013" if is_open else "refused with 503",
        )
        if not is_open:
            self.refuse(503)
            return
        if self.outbound.size == 0:
            self._close(1013, cause)
            return
        # At once: a client that does not read receives no close frame.
        self._ended(CLOSED, 1013, cause)
        self.outbound.fail(self.closed_error())

    def _warn_of_drops(self) -> None:
        _drops.log(
            self.path,
            "WebSocket %s: the client reads too slowly, messages dropped so far: %d "
            "(send_overflow = %r)",
            self.path,
            self.dropped,
            self.overflow,
        )

    @property
    def dropped(self) -> int:
        """How many messages were not sent, for whatever reason."""
        return self.outbound.dropped

    # The end

    @property
    def closed(self) -> bool:
        return self.state is CLOSED or self.state is REFUSED

    @property
    def gone(self) -> bool:
        """Closed, or the server takes no more and has yet to say how the connection ended."""
        return self.closed or self.outbound.broken is not None

    @property
    def closed_future(self) -> asyncio.Future[None]:
        """Done as soon as the connection begins to end; made for the first who asks."""
        if self._closed_future is None:
            self._closed_future = self.loop.create_future()
            if self.closed:
                self._closed_future.set_result(None)
        return self._closed_future

    def closed_error(self) -> ConnectionClosed:
        return ConnectionClosed(self.close_code or 1006, self.close_reason)

    def close(self, code: int = 1000, reason: str = "") -> Awaitable[None]:
        """Close with a code and a reason (cut to 123 bytes). The first close counts.

        What was sent before it goes out before it. Raises ``ValueError`` for a code that no
        endpoint may send (RFC 6455, 7.4).
        """
        if not is_sendable(code):
            raise ValueError(
                f"close({code}): not a code that may be sent. Use 1000 to 1014 (but 1004 to "
                "1006), or 3000 to 4999 for codes of your own."
            )
        return act(
            self.loop,
            "close",
            lambda: self._close(int(code), reason),
            lambda: self.is_behind,
        )

    def _close(self, code: int, reason: str) -> Awaitable[None]:
        if self.is_unanswered:
            self.state = CONNECTING
        if self.state is CONNECTING:
            return self.refuse(status_of(code), reason, close=(code, reason))
        if self.state is OPEN or self.state is HANDED_OVER:
            self._closing = self._put_close(code, reason)
            self._ended(CLOSED, code, reason)
        return self._closing

    def _put_close(self, code: int, reason: str) -> Awaitable[None]:
        reason = reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")
        return self.outbound.put({"type": "websocket.close", "code": code, "reason": reason})

    def client_left(self, event: Event) -> None:
        """The server said ``websocket.disconnect``."""
        if self.state is CONNECTING:
            self._ended(REFUSED, 1006, "", by_client=True)
            if not self._is_accepted:
                # uvicorn logs an error for a handshake that is not answered, client or not.
                self.outbound.put({"type": "websocket.close", "code": 1000})
        elif self.state is OPEN:
            code = event.get("code") or 1005
            if code == 1005 and "reason" not in event and self._tells_reasons:
                # uvicorn says 1005 for a client that vanished too, but only then no reason.
                code = 1006
            self._ended(CLOSED, code, event.get("reason") or "", by_client=True)
        if self.outbound.writer is not None:  # nothing can be waiting otherwise
            self.outbound.fail(self.closed_error())

    @property
    def _tells_reasons(self) -> bool:
        """Whether the server gives the client's reason: ASGI has it since version 2.4."""
        asgi: dict[str, str] = self.scope.get("asgi") or {}
        version = re.match(r"(\d+)\.(\d+)", str(asgi.get("spec_version", "2.0")))
        return version is not None and (int(version[1]), int(version[2])) >= (2, 4)

    def over(self) -> None:
        """The application returns, whether or not anything was closed."""
        if self.state is CONNECTING:
            self._ended(REFUSED, 1006, "")
        elif self.state is HANDED_OVER:
            self._ended(CLOSED, 1006, "")

    @property
    def path(self) -> str:
        """The path, for the log."""
        return printable(self.scope["path"])

    def _ended(self, state: State, code: int, reason: str, *, by_client: bool = False) -> None:
        self.state = state
        self._sender = _NOBODY
        self.close_code = code
        self.close_reason = reason
        if self._closed_future is not None and not self._closed_future.done():
            self._closed_future.set_result(None)
        self.on_closing(by_client)

    def release(self) -> None:
        """Let go of what refers back here, so that nothing waits for the garbage collector."""
        self.on_closing = _nothing
        self.inbound.stop()
        self.outbound.release()
