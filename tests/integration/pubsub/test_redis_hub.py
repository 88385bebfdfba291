"""Much at once through handlers, the hub and a real Redis: large, many topics, many subscribers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import WebSocketHandler, abroadcast, broadcast
from django_ws.pubsub import Publisher
from django_ws.testing import WebSocketClient
from tests.support.asgi_peer import PATH, SECONDS, client, route, the_handler
from tests.support.listening import Listening, channel_of, eventually
from tests.support.redis_server import RedisServer

MEGABYTE = 1_000_000


@pytest.fixture
def server(settings: Settings) -> Iterator[RedisServer]:
    with RedisServer() as server:
        settings.WS_BROADCAST = server.url
        settings.WS_SEND_BUFFER = 64 * MEGABYTE
        yield server


def calls(server: RedisServer, command: str) -> int:
    return int(server.ask("INFO", "commandstats")[f"cmdstat_{command}"]["calls"])


class Room(WebSocketHandler):
    topics = ("room",)


async def test_megabytes_arrive_in_order(server: RedisServer) -> None:
    async with client(Room) as ws:
        waiting = [the_handler().broadcast("room", f"{n:02}" + "x" * MEGABYTE) for n in range(10)]
        for each in waiting:
            await each
        got = [await ws.receive() for _ in range(10)]
        assert [text[:2] for text in got] == [f"{n:02}" for n in range(10)]
        assert {len(text) for text in got} == {MEGABYTE + 2}
        with Publisher(server.url) as publisher:
            for way in (broadcast, publisher.broadcast):
                await asyncio.to_thread(way, "room", "y" * MEGABYTE)
                assert await ws.receive() == "y" * MEGABYTE


async def test_ten_thousand_topics(server: RedisServer) -> None:
    class Some(WebSocketHandler):
        topics = tuple(f"topic {n}" for n in range(0, 10_000, 100))

    async with client(Some) as ws:
        for n in range(10_000):
            last = the_handler().broadcast(f"topic {n}", n)
        await last
        assert [await ws.receive() for _ in range(100)] == list(range(0, 10_000, 100))
        assert calls(server, "publish") == 10_000
        await abroadcast([f"topic {n}" for n in range(10_000)], "all")
        assert await ws.receive() == "all"
        await ws.receive_nothing()
        assert calls(server, "publish") == 20_000
        assert len(server.clients()) == 2


async def test_many_topics_asked_for_and_given_back_at_once_do_not_cut_the_listener_off() -> None:
    """Redis' answers to 30,000 names are many times what it keeps for a listener here."""
    with RedisServer("client-output-buffer-limit pubsub 600kb 0 0") as server:
        topics = [f"{number}".ljust(500, "x") for number in range(30_000)]
        async with Listening(server.url) as here:
            await here.subscribe(*topics)
            await here.backend.unsubscribe(topics)
            await here.subscribe("end")
            await here.backend.publish_many([(topics[0], b"no"), ("end", b"yes")])
            await here.has(messages=1)
            assert here.messages == [("end", b"yes")]
            assert here.listener.losses == 0


@pytest.mark.heavy
async def test_a_thousand_connections_join_and_leave_one_topic_at_once(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.GRACE_SECONDS", 0.01)

    class Coming(WebSocketHandler):
        topics = ("lobby",)

        async def on_message(self, message: Any) -> None:
            await getattr(self, message)("room")
            await self.send(message)

    def channels() -> int:
        return int(server.ask("PUBSUB NUMSUB", channel_of("django_ws:", "room"))[0][1])

    async def everybody(does: str, *others: WebSocketClient) -> None:
        await asyncio.gather(*(each.send(does) for each in others))
        for each in others:
            assert await each.receive() == does

    async with AsyncExitStack() as stack:
        stack.enter_context(route(Coming))
        sockets = [
            await stack.enter_async_context(WebSocketClient(PATH, timeout=SECONDS))
            for _ in range(1000)
        ]
        before = calls(server, "subscribe")
        for number in range(2):
            await everybody("subscribe", *sockets)
            assert channels() == 1
            await abroadcast("room", number)
            assert [await each.receive() for each in sockets] == [number] * 1000
            half = sockets[number % 2 :: 2]
            await everybody("unsubscribe", *half)
            await abroadcast("room", "to the others")
            for each in sockets[1 - number % 2 :: 2]:
                assert await each.receive() == "to the others"
            await everybody("unsubscribe", *sockets)
            await eventually(lambda: not channels())
        assert calls(server, "subscribe") - before == 2
        assert len(server.clients()) == 2
