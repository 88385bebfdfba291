"""WebSocketClient: a client for tests, through the whole stack, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from asgiref.sync import sync_to_async
from django.contrib.sessions.backends.base import SessionBase

from django_ws.asgi import WebSocketApplication
from django_ws.codecs import Codec, JSONCodec
from django_ws.exceptions import ConnectionClosed, WebSocketError
from django_ws.testing.login import session_cookie
from django_ws.testing.server import InProcessServer
from django_ws.testing.thread import LoopThread
from django_ws.types import ASGIApplication, Event, Scope

HOST = "testserver"
NOTHING_SECONDS = 0.05


class HandshakeRejected(WebSocketError):
    """The handshake was refused: ``status``, ``reason`` (the body, as text), ``headers``.

    ``path`` is that of the client, with its query.
    """

    def __init__(
        self, status: int, reason: str = "", headers: dict[str, str] | None = None, path: str = ""
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers or {}
        self.path = path
        super().__init__(
            f"{path + ': ' if path else ''}the handshake was refused with {status}"
            f"{': ' + reason if reason else ''}"
        )


class WebSocketClient:
    """``async with WebSocketClient("/ws/rooms/lobby/", user=alice) as ws: ...``

    In sync tests ``with WebSocketClient(...) as ws: ...``: the same methods, without ``await``,
    and the handler's sync work runs in the test's own thread, inside its transaction.

    Arguments: ``user`` is logged in through a real session; ``session`` is a dict of session
    data, or a session; ``headers`` and ``cookies`` are sent along; ``origin`` is the Origin
    header (None sends none, as a program would; by default the site's own); ``application`` is
    any ASGI application (the project's WebSocket routes by default); ``codec`` encodes and
    decodes messages (JSON); ``timeout`` bounds each wait, in seconds.

    Entering raises ``HandshakeRejected``, ``receive*`` raise ``ConnectionClosed`` after the
    close, and all raise ``TimeoutError``, with the handler's own exception as the cause where
    there was one. An exception that nobody was told of so, by a close that the test has read, or
    by ``error``, is raised on leaving the block, unless the block itself raises: several of them
    as an ``ExceptionGroup``.
    """

    def __init__(
        self,
        path: str,
        *,
        user: Any = None,
        session: Mapping[str, Any] | SessionBase | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        cookies: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        origin: str | None = f"http://{HOST}",
        application: ASGIApplication | None = None,
        codec: Codec | None = None,
        timeout: float = 1.0,
    ) -> None:
        self.path = path
        self.user = user
        self.session = session
        self.headers = list(headers.items() if isinstance(headers, Mapping) else headers)
        self.cookies = dict(cookies or {})
        self.subprotocols = list(subprotocols)
        self.origin = origin
        self.application = application or WebSocketApplication()
        self.codec: Codec = codec or JSONCodec()
        self.timeout = timeout
        self.subprotocol: str | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self._accepted = False
        self._server: InProcessServer
        self._thread: LoopThread

    # Life

    async def __aenter__(self) -> WebSocketClient:
        if self.user is not None or self.session is not None:
            self.cookies |= await sync_to_async(session_cookie)(self.user, self.session)
        await self._connect()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._leave()
        if not any(exc_info):
            self._server.raise_untold()

    def __enter__(self) -> SyncWebSocketClient:
        if self.user is not None or self.session is not None:
            self.cookies |= session_cookie(self.user, self.session)
        self._thread = LoopThread()
        try:
            self._thread.run(self._connect())
        except BaseException:
            self._thread.stop()
            raise
        return SyncWebSocketClient(self, self._thread)

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._thread.run(self._leave())
        finally:
            self._thread.stop()
        if not any(exc_info):
            self._server.raise_untold()

    @property
    def error(self) -> BaseException | None:
        """What was raised in the handler so far; None where nothing was.

        Several exceptions come as an ``ExceptionGroup``. The test knows of them now: they are not
        raised on leaving the block.
        """
        return self._server.tell()

    # Messages

    async def send(self, message: Any) -> None:
        """Send one message, encoded with ``codec``."""
        await self._send(self.codec.encode(message))

    async def send_text(self, text: str) -> None:
        """Send a text frame as it is."""
        await self._send(text)

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary frame as it is."""
        await self._send(data)

    async def receive(self) -> Any:
        """The next message, decoded with ``codec``."""
        return self.codec.decode(await self.receive_data())

    async def receive_data(self) -> str | bytes:
        """The next frame's raw payload: ``str`` of a text frame, ``bytes`` of a binary one."""
        event = await self._next_event(f"no message within {self.timeout:g} s")
        data: str | bytes | None = event.get("text")
        return event["bytes"] if data is None else data

    async def receive_nothing(self, seconds: float = NOTHING_SECONDS) -> None:
        """Raises ``AssertionError`` if a message or a close comes within ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                event = await self._server.events.get()
        except TimeoutError:
            return
        raise AssertionError(f"expected nothing, received {event!r}") from self._server.tell()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close from the client's side and wait until the handler has ended."""
        self._note_close(code, reason)
        self._server.feed({"type": "websocket.disconnect", "code": code, "reason": reason})
        await self._ended()

    async def wait_closed(self) -> int:
        """Wait until the server closes, skipping messages; its close code."""
        while self.close_code is None:
            try:
                await self._next_event(f"not closed within {self.timeout:g} s")
            except ConnectionClosed:
                break
        await self._ended()
        return self.close_code or 1006

    # Below

    async def _connect(self) -> None:
        self._server = InProcessServer(self.application, self._scope())
        try:
            await self._shake_hands()
        except BaseException:
            await self._server.stop()
            raise

    async def _shake_hands(self) -> None:
        self._server.feed({"type": "websocket.connect"})
        event = await self._next_event(f"no answer to the handshake within {self.timeout:g} s")
        if event["type"] == "websocket.accept":
            self._accepted = True
            self.subprotocol = event.get("subprotocol")
            return
        status, headers, body = 403, {}, b""
        if event["type"] == "websocket.http.response.start":
            status = event["status"]
            headers = {
                key.decode("latin-1"): value.decode("latin-1")
                for key, value in event.get("headers", ())
            }
            body = (await self._next_event("no body of the refusal")).get("body", b"")
        self._server.feed({"type": "websocket.disconnect", "code": 1006})
        await self._ended()
        raise HandshakeRejected(status, body.decode(), headers, self.path) from self._server.tell()

    async def _leave(self) -> None:
        if self.close_code is None:
            await self.close()
        else:
            await self._ended()

    async def _ended(self) -> None:
        if not await self._server.ended(self.timeout):
            await self._server.stop()
            raise TimeoutError(
                f"{self.path}: the handler did not end within {self.timeout:g} s of the close"
            ) from self._server.tell()

    async def _send(self, data: str | bytes) -> None:
        if self.close_code is not None:
            raise ConnectionClosed(self.close_code, self.close_reason)
        key = "text" if isinstance(data, str) else "bytes"
        self._server.feed({"type": "websocket.receive", key: data})

    async def _next_event(self, otherwise: str) -> Event:
        """The next event but for a close, which raises ``ConnectionClosed``."""
        if self.close_code is not None and self._server.events.empty():
            raise ConnectionClosed(self.close_code, self.close_reason)
        try:
            async with asyncio.timeout(self.timeout):
                event = await self._server.events.get()
        except TimeoutError:
            raise TimeoutError(f"{self.path}: {otherwise}") from self._server.tell()
        if event["type"] == "websocket.close" and self._accepted:
            self._note_close(event.get("code", 1000), event.get("reason") or "")
            error = self._server.tell_close()
        elif event["type"] == "ended":
            error = self._server.tell()
            if not self._accepted:
                raise HandshakeRejected(500, path=self.path) from error
            self._note_close(1006, "the application returned")
        else:
            return event
        raise ConnectionClosed(self.close_code or 1006, self.close_reason) from error

    def _note_close(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason

    def _scope(self) -> Scope:
        url = urlsplit(self.path)
        headers = [("host", HOST), ("upgrade", "websocket"), ("connection", "Upgrade")]
        if self.origin is not None:
            headers.append(("origin", self.origin))
        if self.cookies:
            cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            headers.append(("cookie", cookies))
        if self.subprotocols:
            headers.append(("sec-websocket-protocol", ", ".join(self.subprotocols)))
        given = {name.lower() for name, _ in self.headers}
        headers = [item for item in headers if item[0] not in given] + self.headers
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": unquote(url.path),
            "raw_path": url.path.encode(),
            "query_string": url.query.encode(),
            "root_path": "",
            "headers": [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers],
            "client": ("127.0.0.1", 50000),
            "server": (HOST, 80),
            "subprotocols": self.subprotocols,
            "extensions": {"websocket.http.response": {}},
        }


class SyncWebSocketClient:
    """What ``with WebSocketClient(...) as ws`` gives: the same methods, without ``await``."""

    def __init__(self, client: WebSocketClient, thread: LoopThread) -> None:
        self._client = client
        self._thread = thread

    def send(self, message: Any) -> None:
        self._thread.run(self._client.send(message))

    def send_text(self, text: str) -> None:
        self._thread.run(self._client.send_text(text))

    def send_bytes(self, data: bytes) -> None:
        self._thread.run(self._client.send_bytes(data))

    def receive(self) -> Any:
        return self._thread.run(self._client.receive())

    def receive_data(self) -> str | bytes:
        return self._thread.run(self._client.receive_data())

    def receive_nothing(self, seconds: float = NOTHING_SECONDS) -> None:
        self._thread.run(self._client.receive_nothing(seconds))

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._thread.run(self._client.close(code, reason))

    def wait_closed(self) -> int:
        return self._thread.run(self._client.wait_closed())

    @property
    def error(self) -> BaseException | None:
        return self._client.error

    @property
    def close_code(self) -> int | None:
        return self._client.close_code

    @property
    def close_reason(self) -> str:
        return self._client.close_reason

    @property
    def subprotocol(self) -> str | None:
        return self._client.subprotocol
