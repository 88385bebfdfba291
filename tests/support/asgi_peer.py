"""An ASGI server of one connection that the test drives by hand, and routes for one handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

from django.test import override_settings
from django.urls import URLPattern, URLResolver, clear_url_caches, path

from django_ws import WebSocketHandler
from django_ws.conf import get as current_conf
from django_ws.testing import WebSocketClient
from tests.asgi import application

SECONDS = 50.0  # the bound of every wait: only a broken test comes near it
PATH = "/ws/"

Event = dict[str, Any]
HandlerClass = type[WebSocketHandler]

urlpatterns: list[URLPattern | URLResolver] = []
handlers: list[WebSocketHandler] = []  # those of the current route, in order of their connections


def noting(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    """A middleware that lets the test have the handler."""

    async def middleware(ws: WebSocketHandler) -> None:
        handlers.append(ws)
        await func(ws)

    return middleware


@contextmanager
def route(
    handler_class: HandlerClass, url: str = "ws/", middleware: Sequence[str] | None = None
) -> Iterator[None]:
    """Make one handler class the only route."""
    above = current_conf().ws_middleware if middleware is None else middleware
    with override_settings(ROOT_WS_URLCONF=__name__, WS_MIDDLEWARE=[f"{__name__}.noting", *above]):
        view: Any = handler_class
        urlpatterns[:] = [path(url, view, name="only")]
        clear_url_caches()
        try:
            yield
        finally:
            urlpatterns.clear()
            handlers.clear()


@asynccontextmanager
async def client(
    handler_class: HandlerClass,
    url: str = "ws/",
    at: str = PATH,
    middleware: Sequence[str] | None = None,
    **options: Any,
) -> AsyncIterator[WebSocketClient]:
    """A connected ``WebSocketClient`` of a handler class."""
    with route(handler_class, url, middleware):
        async with WebSocketClient(at, **{"timeout": SECONDS, **options}) as ws:
            yield ws


def the_handler() -> Any:
    """The handler of the newest connection."""
    return handlers[-1]


class Peer:
    """``async with Peer(Handler) as peer:`` has accepted; the test plays server and client.

    ``sent`` is what the server took. ``block()`` makes the server's ``send`` wait until
    ``unblock()``; ``send_error`` and ``receive_error`` make ``send`` and ``receive`` raise.
    """

    def __init__(
        self,
        handler_class: HandlerClass,
        *,
        opens: bool = True,
        extensions: dict[str, Any] | None = None,
        subprotocols: Sequence[str] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
        middleware: Sequence[str] | None = None,
        coroutines: bool = True,
    ) -> None:
        self.sent: list[Event] = []
        self.received = 0  # events that the application has taken
        self.send_error: BaseException | None = None
        self.receive_error: BaseException | None = None
        self.on_send: Callable[[Event], None] = lambda event: None
        self._opens = opens
        self._coroutines = coroutines
        self._route = route(handler_class, middleware=middleware)
        self._gate = asyncio.Event()
        self._gate.set()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self.scope: Event = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"testserver"), *headers],
            "client": ("127.0.0.1", 50000),
            "server": ("testserver", 80),
            "subprotocols": list(subprotocols),
            "extensions": extensions,
        }

    async def __aenter__(self) -> Self:
        self._route.__enter__()
        self.feed({"type": "websocket.connect"})
        self.task = asyncio.create_task(self._serve(), name="the server's task")
        if self._opens:
            await until(lambda: self.sent or self.task.done())
            assert self.sent[0]["type"] == "websocket.accept"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            self.unblock()
            self.leave()
            await asyncio.wait([self.task], timeout=SECONDS)
            assert self.task.done()
        finally:
            self._route.__exit__(None, None, None)

    async def _serve(self) -> None:
        await application(self.scope, self._receive, self._send)

    async def _receive(self) -> Event:
        if self.receive_error is not None:
            raise self.receive_error
        event = await self._events.get()
        if event["type"] == "raise":
            raise event["error"]
        self.received += 1
        return event

    def _send(self, event: Any) -> Awaitable[None]:
        call = self._take(event)
        return call if self._coroutines else _Awaitable(call)

    async def _take(self, event: Event) -> None:
        self.on_send(event)
        if not self._gate.is_set():
            await self._gate.wait()
        if self.send_error is not None:
            raise self.send_error
        self.sent.append(event)

    # What the test does

    def feed(self, event: Event) -> None:
        self._events.put_nowait(event)

    def say(self, *texts: str) -> None:
        """The client sends text messages."""
        for text in texts:
            self.feed({"type": "websocket.receive", "text": text})

    def leave(self, **event: Any) -> None:
        """The client has closed, or is gone."""
        self.feed({"type": "websocket.disconnect", **event})

    def break_receive(self, error: BaseException) -> None:
        """Let ``receive`` raise where it waits now."""
        self.feed({"type": "raise", "error": error})

    def block(self) -> None:
        self._gate.clear()

    def unblock(self) -> None:
        self._gate.set()

    async def ended(self) -> None:
        """Wait until the application has returned; raises what it raised."""
        async with asyncio.timeout(SECONDS):
            await self.task

    @property
    def handler(self) -> Any:
        return the_handler()

    @property
    def texts(self) -> list[str]:
        """The text messages that the server took."""
        return [event["text"] for event in self.sent if "text" in event]

    @property
    def closes(self) -> list[tuple[int, str]]:
        """Code and reason of each close frame that the server took."""
        return [
            (event["code"], event.get("reason", ""))
            for event in self.sent
            if event["type"] == "websocket.close"
        ]


class _Awaitable:
    """What some servers give in the place of a coroutine."""

    def __init__(self, call: Awaitable[None]) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, None, None]:
        return self._call.__await__()


async def until(condition: Callable[[], Any]) -> None:
    """Wait until ``condition()`` is true."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  # it may be anything, anywhere
            await asyncio.sleep(0.001)


async def turns(count: int = 10) -> None:
    """Let everything that can run now run."""
    for _ in range(count):
        await asyncio.sleep(0)
