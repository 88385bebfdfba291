"""All hooks of one connection run in its own context: what one of them sets, the others find."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
from django.utils import translation

from django_ws import WebSocketHandler, abroadcast
from django_ws.drain import drain
from django_ws.pubsub.hub.registry import running_hub
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import Peer, client, route, until

here = f"{__name__}.german"
variable: ContextVar[str] = ContextVar("variable", default="unset")


def german(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        with translation.override("de"):
            await func(ws)

    return middleware


class Noting(WebSocketHandler):
    topics = ("room",)
    seen: dict[str, tuple[str, str | None]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.seen = {}

    def note(self, name: str) -> None:
        self.seen[name] = variable.get(), translation.get_language()

    async def on_connect(self) -> None:
        variable.set("on_connect")

    async def on_open(self) -> None:
        await self.subscribe("control", self.on_control)
        self.note("on_open")

    async def on_message(self, message: Any) -> None:
        self.note("on_message")
        variable.set(message)
        await self.send(message)

    async def on_broadcast(self, topic: str, message: Any) -> None:
        self.note("on_broadcast")
        variable.set("on_broadcast")
        await self.send(message)

    async def on_control(self, topic: str, message: Any) -> None:
        self.note("topic handler")
        await self.send(message)

    async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
        self.note("on_broadcast_gap")
        await self.send("gap")

    async def on_restart(self) -> None:
        self.note("on_restart")

    async def on_close(self) -> None:
        self.note("on_close")


async def test_what_a_middleware_or_a_hook_sets_is_there_in_every_later_hook() -> None:
    class Handler(Noting):
        pass

    async with Peer(Handler, middleware=[here]) as peer:
        await abroadcast("room", 1)
        await until(lambda: len(peer.texts) == 1)
        peer.say('"on_message"')
        await until(lambda: len(peer.texts) == 2)
        await abroadcast("control", 3)
        await until(lambda: len(peer.texts) == 3)
        hub = running_hub("default")
        assert hub is not None
        [subscriber] = hub.topics.members_of("room")
        subscriber.missed(frozenset({"room"}))
        await until(lambda: len(peer.texts) == 4)
        await drain(0)
        await peer.ended()
    assert Handler.seen == {
        "on_open": ("on_connect", "de"),
        "on_broadcast": ("on_connect", "de"),
        "on_message": ("on_broadcast", "de"),
        "topic handler": ("on_message", "de"),
        "on_broadcast_gap": ("on_message", "de"),
        "on_restart": ("on_message", "de"),
        "on_close": ("on_message", "de"),
    }


async def test_a_plain_function_finds_it_too() -> None:
    class Handler(Noting):
        def on_broadcast(self, topic: str, message: Any) -> None:  # type: ignore[override]
            self.note("on_broadcast")
            self.send(message)

    async with client(Handler, middleware=[here]) as ws:
        await abroadcast("room", 1)
        assert await ws.receive() == 1
    assert Handler.seen["on_broadcast"] == ("on_connect", "de")


async def test_a_token_of_one_hook_is_good_in_another() -> None:
    """As tracing libraries attach in one hook and detach in another."""

    class Handler(WebSocketHandler):
        async def on_open(self) -> None:
            self.token = variable.set("open")

        async def on_close(self) -> None:
            variable.reset(self.token)

    async with client(Handler):
        pass


async def test_a_task_started_in_a_thread_finds_the_connections_context() -> None:
    class Handler(Noting):
        topics = ()  # type: ignore[assignment]

        def on_open(self) -> None:  # type: ignore[override]
            variable.set("on_open")
            self.start_task("noting", self.noting)

        async def noting(self) -> None:
            self.note("task")
            await self.send("noted")

    async with client(Handler, middleware=[here]) as ws:
        assert await ws.receive() == "noted"
    assert Handler.seen["task"] == ("on_open", "de")


async def test_concurrent_broadcasts_get_a_copy_so_that_nothing_is_torn() -> None:
    class Handler(Noting):
        concurrent_broadcasts = True

    async with client(Handler, middleware=[here]) as ws:
        await abroadcast("room", 1)
        assert await ws.receive() == 1
        await ws.send("message")
        assert await ws.receive() == "message"
    assert Handler.seen["on_broadcast"] == ("on_connect", "de")
    assert Handler.seen["on_message"] == ("on_connect", "de")


async def test_two_connections_have_two_contexts() -> None:
    class Handler(Noting):
        async def on_connect(self) -> None:
            variable.set(str(self.request.GET["name"]))

        async def on_broadcast(self, topic: str, message: Any) -> None:
            await self.send(variable.get())

    with route(Handler):
        async with WebSocketClient("/ws/?name=1") as one, WebSocketClient("/ws/?name=2") as two:
            await abroadcast("room", 1)
            assert [await one.receive(), await two.receive()] == ["1", "2"]
    assert variable.get() == "unset"


@pytest.mark.parametrize("where", ["before the middleware", "in it"])
async def test_a_server_that_ends_a_handshake_at_once_is_no_error(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(Noting):
        pass

    async with Peer(Handler, opens=False) as peer:
        await asyncio.sleep(0)
        if where == "in it":
            await until(lambda: peer.received)
        peer.task.cancel()
        await asyncio.wait([peer.task])
    assert Handler.seen == {}
    assert caplog.records == []


def refuses_soon(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        asyncio.get_running_loop().call_soon(ws.reject, 403)
        await func(ws)

    return middleware


async def test_a_refusal_just_as_the_hooks_begin_counts() -> None:
    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            await asyncio.sleep(0)

    with pytest.raises(HandshakeRejected) as refused:
        async with client(Handler, middleware=[f"{__name__}.refuses_soon"]):
            pass
    assert refused.value.status == 403
