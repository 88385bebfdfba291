"""Broadcasts and orders to one connection, by its id, in whichever process it is."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from django_ws import (
    ConnectionClosed,
    WebSocketHandler,
    abroadcast,
    adisconnect,
    broadcast,
    connection_topic,
    disconnect,
)
from django_ws.exceptions import BroadcastError, InvalidTopic
from django_ws.pubsub.hub.addresses import addresses_of
from django_ws.pubsub.hub.hub import Hub
from django_ws.pubsub.hub.registry import running_hub
from django_ws.testing import WebSocketClient
from tests.support.asgi_peer import PATH, SECONDS, Peer, client, handlers, route, the_handler, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)
from tests.support.handlers import Quiet
from tests.support.redis_server import RedisServer


class Telling(WebSocketHandler):
    """Tells its id, when the hub is open: with a server's lifespan it would be from the start."""

    async def on_connect(self) -> None:
        await self.subscribe("any")

    async def on_open(self) -> None:
        await self.send(self.id)


class Room(WebSocketHandler):
    topics = ("room",)


def the_hub() -> Hub:
    hub = running_hub("default")
    assert hub is not None
    return hub


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest, settings: Settings) -> Iterator[str]:
    if request.param == "memory":
        yield request.param
        return
    with RedisServer() as server:
        settings.WS_BROADCAST = server.url
        yield request.param


def test_it_reaches_that_connection_alone_in_whichever_loop_it_is(backend: str) -> None:
    def elsewhere() -> Any:  # in an event loop and thread of its own, with a hub of its own
        return WebSocketClient(PATH, timeout=SECONDS)

    with route(Telling), elsewhere() as one, elsewhere() as two:
        ids = [each.receive() for each in (one, two)]
        assert ids == [handler.id for handler in handlers]
        for number in range(10):
            broadcast(connection_topic(ids[number % 2]), number)
        assert [one.receive() for _ in range(5)] == [0, 2, 4, 6, 8]
        assert [two.receive() for _ in range(5)] == [1, 3, 5, 7, 9]
        disconnect(connection_topic(ids[0]), code=4400, reason="you alone")
        with pytest.raises(ConnectionClosed):
            one.receive()
        assert (one.close_code, one.close_reason) == (4400, "you alone")
        broadcast(connection_topic(ids[0]), "is dropped quietly")
        disconnect(connection_topic(ids[0]))
        broadcast(connection_topic(ids[1]), "last")
        assert two.receive() == "last"


async def test_a_connection_can_be_reached_as_soon_as_its_id_is_known() -> None:
    class Eager(WebSocketHandler):
        async def on_connect(self) -> None:
            await abroadcast(connection_topic(self.id), "before the accept")

        async def on_open(self) -> None:
            await abroadcast(connection_topic(self.id), "in on_open")
            await self.send("on_open")

    async with client(Eager) as ws:
        received = [await ws.receive() for _ in range(3)]
        assert received == ["on_open", "before the accept", "in on_open"]


async def test_a_connection_in_the_handshake_can_be_refused_by_its_id() -> None:
    class Early(WebSocketHandler):
        async def on_connect(self) -> None:
            await adisconnect(connection_topic(self.id), code=4401)
            await until(lambda: self.closed)

    async with Peer(Early, opens=False) as peer:
        await peer.ended()
        assert peer.closes


async def test_from_a_sync_hook() -> None:
    class Sync(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            broadcast(connection_topic(self.id), message)

    async with client(Sync) as ws:
        await ws.send(1)
        assert await ws.receive() == 1


async def test_the_hook_gets_the_topic_of_the_connection() -> None:
    class Hooked(WebSocketHandler):
        async def on_broadcast(self, topic: str, message: Any) -> None:
            await self.send([topic == connection_topic(self.id), message])

    async with client(Hooked) as ws:
        await abroadcast(connection_topic(the_handler().id), 1)
        assert await ws.receive() == [True, 1]


async def test_with_a_room_that_it_has_joined_it_gets_one_copy() -> None:
    async with client(Room) as ws, WebSocketClient(PATH) as other:
        topics = [connection_topic(handlers[0].id), "room"]
        for order in (topics, topics[::-1]):
            await abroadcast(order, 1)
            assert [await ws.receive(), await other.receive()] == [1, 1]
        await abroadcast(topics, 2, exclude=handlers[0].id)
        assert await other.receive() == 2
        await ws.receive_nothing()
        await other.receive_nothing()


async def test_nobody_joins_or_leaves_it() -> None:
    class Asked(WebSocketHandler):
        def may_subscribe(self, topic: str) -> bool:
            raise AssertionError("nobody asks")

    async with client(Asked) as ws:
        handler = the_handler()
        topic = connection_topic(handler.id)
        with pytest.raises(InvalidTopic, match="by itself"):
            handler.subscribe(topic)
        with pytest.raises(InvalidTopic, match="use connection_topic"):
            handler.subscribe(str(topic))
        with pytest.raises(InvalidTopic, match="use connection_topic"):
            await abroadcast("django_ws.connection:" + handler.id, 1)
        await handler.unsubscribe(topic)
        assert handler.subscriptions == frozenset()
        await abroadcast(topic, 1)
        assert await ws.receive() == 1


@pytest.mark.parametrize("wrong", ["", "x", "A" * 32, "0" * 31, "0" * 33, None, 5, b"0" * 32])
def test_what_can_be_no_id(wrong: Any) -> None:
    with pytest.raises(ValueError, match="give the id of a connection"):
        connection_topic(wrong)


async def test_an_id_that_nobody_has_is_dropped_quietly(caplog: pytest.LogCaptureFixture) -> None:
    async with client(Room) as ws:
        token = addresses_of(asyncio.get_running_loop()).token
        for unknown in ("0" * 32, token + "0" * 16):
            await abroadcast(connection_topic(unknown), 1)
            await adisconnect(connection_topic(unknown))
        await abroadcast("room", 2)
        assert await ws.receive() == 2
    assert not caplog.records


async def test_a_connection_whose_id_nobody_asked_for_costs_nothing() -> None:
    async with client(Room) as ws:
        loop = asyncio.get_running_loop()
        await the_handler().broadcast("room", 1, exclude_self=True)
        await abroadcast("room", 2)
        assert await ws.receive() == 2
        assert len(addresses_of(loop)._connections) == 0
        assert the_handler().id
        assert len(addresses_of(loop)._connections) == 1


async def test_a_connection_that_has_ended_is_forgotten() -> None:
    async with Peer(Room) as peer:
        loop, identity = asyncio.get_running_loop(), peer.handler.id
        handler = weakref.ref(peer.handler)
        peer.leave()
        await peer.ended()
        assert addresses_of(loop).find(identity) is None
        assert peer.handler.id == identity
        handlers.clear()
    del peer
    gc.collect()
    assert handler() is None
    assert len(addresses_of(loop)._connections) == 0


async def test_an_id_that_is_asked_for_after_the_end_of_the_loop() -> None:
    made = []

    async def elsewhere() -> None:
        async with client(Room):
            made.append(the_handler())

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert len(made[0].id) == 32


async def test_an_id_needs_no_backend(settings: Settings) -> None:
    settings.WS_BROADCAST = {"default": {"BACKEND": "nowhere.Backend"}}
    async with client(Quiet):
        assert len(the_handler().id) == 32
        with pytest.raises(ImproperlyConfigured):
            await abroadcast("room", 1)


# An application of the routes


async def test_an_application_gets_orders_and_no_messages() -> None:
    events: list[Any] = []
    ids: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        ids.append(handlers[-1].id)
        while True:
            events.append(await receive())
            if events[-1]["type"] == "websocket.disconnect":
                return

    async with client(application) as ws:  # type: ignore[arg-type]
        await ws.send("hi")
        await until(lambda: events)
        for _ in range(3):
            await abroadcast(connection_topic(ids[0]), "x" * 1_000_000)
        await ws.receive_nothing()
        await adisconnect(connection_topic(ids[0]), code=4403)
        with pytest.raises(ConnectionClosed):
            await ws.receive()
        assert ws.close_code == 4403


# Gaps


class Missing(WebSocketHandler):
    async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
        await self.send(sorted(topics))


async def test_a_gap_is_told_to_those_whose_id_is_known(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    async with client(Missing) as ws, WebSocketClient(PATH) as other:
        one, two = handlers
        topic = connection_topic(one.id)
        own = addresses_of(asyncio.get_running_loop()).topic
        await two.subscribe("room")
        fickle.made[0].lose(own, "room")
        assert await ws.receive() == [topic]
        assert await other.receive() == ["room"]
        await ws.receive_nothing()


async def test_a_gap_is_not_told_to_who_has_no_hook_or_has_ended() -> None:
    async with Peer(Missing) as ended, Peer(Quiet) as hookless, Peer(Missing) as peer:
        addresses = addresses_of(asyncio.get_running_loop())
        for each in handlers:
            assert addresses.find(each.id) is not None
        ended.leave()
        await ended.ended()
        assert [each for each, _ in addresses.those_who_hear_gaps()] == [peer.handler.id]
        assert hookless.handler.connected


# Ids from everywhere, where no hub is there yet


async def test_an_id_that_is_asked_for_in_a_thread_or_another_loop() -> None:
    async def elsewhere(handler: WebSocketHandler) -> str:
        return handler.id

    async with client(Quiet) as ws:
        handler = the_handler()
        assert running_hub("default") is None
        identity = await asyncio.to_thread(asyncio.run, elsewhere(handler))
        await until(lambda: running_hub("default"))
        await the_hub().ready()
        await asyncio.to_thread(broadcast, connection_topic(identity), 1)
        assert await ws.receive() == 1


async def test_an_id_in_a_thread_needs_no_backend_either(settings: Settings) -> None:
    settings.WS_BROADCAST = {"default": {"BACKEND": "nowhere.Backend"}}
    async with client(Quiet):
        handler = the_handler()
        assert await asyncio.to_thread(lambda: handler.id) == handler.id


async def test_a_backend_that_is_away_holds_up_nobody_who_publishes_or_asks_for_an_id(
    fickle: type[FickleBackend],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.hub.READY_SECONDS", 0.01)
    waits: list[Hub] = []
    real = Hub.ready

    async def ready(self: Hub) -> None:
        waits.append(self)
        await real(self)

    monkeypatch.setattr(Hub, "ready", ready)
    fickle.is_down = True
    async with client(Quiet):
        handler = the_handler()
        assert await asyncio.to_thread(lambda: handler.id) == handler.id
        assert not the_hub().topics.is_ready.is_set()
        with pytest.raises(BroadcastError, match="it is down"):
            await abroadcast("room", 1)
        began = len(waits)
        for _ in range(3):
            with pytest.raises(BroadcastError, match="it is down"):
                await abroadcast("room", 1)
        assert len(waits) == began == 2  # once for the id, and once for all broadcasts
        fickle.is_down = False
        await until(the_hub().topics.is_ready.is_set)
