"""A broadcast to several topics: each connection gets it once, with every backend."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import WebSocketHandler, abroadcast, broadcast, disconnect
from django_ws.pubsub.hub import copies
from django_ws.pubsub.hub.hub import Hub
from django_ws.pubsub.hub.registry import running_hub
from django_ws.pubsub.outgoing import broadcast_of
from django_ws.testing import WebSocketClient
from tests.integration.pubsub.test_zeromq import BrokerProcess
from tests.support.asgi_peer import PATH, SECONDS, client, handlers, route, the_handler, turns
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)
from tests.support.handlers import Quiet
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

SEVERAL = ["a", "b", "c"]


class Both(WebSocketHandler):
    topics = ("a", "b")


class Hooked(WebSocketHandler):
    topics = ("c", "b", "a")

    async def on_broadcast(self, topic: str, message: Any) -> None:
        await self.send([topic, message])


# With every backend


@pytest.fixture(
    params=["memory", "redis", "zeromq", pytest.param("cluster", marks=pytest.mark.heavy)]
)
def backend(request: pytest.FixtureRequest, settings: Settings) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "redis":
            settings.WS_BROADCAST = stack.enter_context(RedisServer()).url
        elif request.param == "cluster":
            location = stack.enter_context(RedisCluster()).location
            path = "django_ws.pubsub.backends.redis.RedisBackend"
            settings.WS_BROADCAST = {"default": {"BACKEND": path, "LOCATION": location}}
        elif request.param == "zeromq":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            broker = BrokerProcess(f"ipc://{folder}/ws")
            stack.callback(broker.stop)
            path = "django_ws.pubsub.backends.zeromq.ZeroMQBackend"
            settings.WS_BROADCAST = {"default": {"BACKEND": path, "LOCATION": broker.location}}
        yield request.param


class Elsewhere:
    """A connection in another event loop, and so with another hub, as in another process."""

    def __enter__(self) -> Elsewhere:
        self._client = WebSocketClient(PATH, timeout=SECONDS)
        self.ws = self._client.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._client.__exit__(*exc_info)


@pytest.mark.parametrize("handler", [Both, Hooked])
def test_each_connection_gets_it_once_in_every_process(
    backend: str, handler: type[WebSocketHandler]
) -> None:
    with route(handler), Elsewhere() as one, Elsewhere() as two:
        excluded = handlers[0].id
        for number in range(20):
            broadcast(SEVERAL, number)
        broadcast(SEVERAL, "to the other", exclude=excluded)
        broadcast("b", "last")
        plain: list[Any] = list(range(20))
        for each, expected in ((one, plain), (two, [*plain, "to the other"])):
            received = [each.ws.receive() for _ in [*expected, "last"]]
            messages = received if handler is Both else [message for _, message in received]
            # Topics have no order among each other where different servers have them.
            assert sorted(map(str, messages)) == sorted(map(str, [*expected, "last"]))
            each.ws.receive_nothing()
        disconnect("a")


def test_the_hook_is_told_the_first_topic_that_the_connection_has_joined() -> None:
    with route(Hooked), Elsewhere() as one:
        broadcast(["other", "b", "c"], 1)
        assert one.ws.receive() == ["b", 1]
        broadcast(["c", "b"], 2)
        assert one.ws.receive() == ["c", 2]


# Copies that come at different times, as from several nodes of a cluster


def the_hub() -> Hub:
    hub = running_hub("default")
    assert hub is not None
    return hub


async def copy_of(messages: dict[str, bytes], topic: str) -> None:
    """Let one copy arrive."""
    FickleBackend.made[0]._received.put_nowait((topic, messages[topic]))
    await turns()


def copies_of(topics: list[str], message: Any) -> dict[str, bytes]:
    return dict(broadcast_of(topics, message).messages())


@pytest.mark.usefixtures("fickle")
class TestCopies:
    async def test_who_has_got_one_copy_gets_no_other_however_late(self) -> None:
        async with client(Quiet) as ws, WebSocketClient(PATH) as other:
            one, two = handlers
            await one.subscribe(["a", "b"])
            await two.subscribe(["b"])
            first, second = copies_of(SEVERAL, 1), copies_of(SEVERAL, 2)
            await copy_of(first, "a")
            await copy_of(second, "b")
            await copy_of(first, "b")
            await copy_of(second, "a")
            assert [await ws.receive(), await ws.receive()] == [1, 2]
            assert [await other.receive(), await other.receive()] == [2, 1]
            await ws.receive_nothing()
            await other.receive_nothing()

    async def test_who_joins_a_topic_in_between_gets_it_at_most_once(self) -> None:
        async with client(Quiet) as ws, WebSocketClient(PATH) as other:
            one, two = handlers
            await one.subscribe("a")
            messages = copies_of(SEVERAL, 1)
            await copy_of(messages, "a")
            await one.subscribe("b")
            await two.subscribe("b")
            await copy_of(messages, "b")
            assert await ws.receive() == 1
            await ws.receive_nothing()
            await other.receive_nothing()  # it joined when the broadcast had been made
            messages = copies_of(SEVERAL, 2)
            await copy_of(messages, "b")
            assert [await ws.receive(), await other.receive()] == [2, 2]

    async def test_who_joins_one_before_and_another_in_between_gets_it(self) -> None:
        async with client(Quiet) as ws, WebSocketClient(PATH):
            one, two = handlers
            await one.subscribe("b")
            await two.subscribe("a")
            messages = copies_of(SEVERAL, 1)
            await copy_of(messages, "a")
            await one.subscribe("a")
            await copy_of(messages, "b")
            assert await ws.receive() == 1
            await ws.receive_nothing()

    async def test_who_leaves_a_topic_in_between_gets_it_once(self) -> None:
        async with client(Quiet) as ws:
            await the_handler().subscribe(["a", "b"])
            messages = copies_of(SEVERAL, 1)
            await copy_of(messages, "a")
            await the_handler().unsubscribe("a")
            await copy_of(messages, "b")
            assert await ws.receive() == 1
            await ws.receive_nothing()

    async def test_what_is_remembered_has_a_bound_in_number_and_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with client(Quiet), WebSocketClient(PATH):
            for handler in handlers:
                await handler.subscribe(["a", "b"])
            remembered = the_hub().topics.copies
            for number in range(10):
                await copy_of(copies_of(SEVERAL, number), "a")
            assert (len(remembered._broadcasts), remembered._size) == (10, 20)
            monkeypatch.setattr(copies, "MAX_REMEMBERED", 6)
            await copy_of(copies_of(SEVERAL, 10), "a")
            assert (len(remembered._broadcasts), remembered._size) == (4, 8)
            monkeypatch.setattr(copies, "MAX_REMEMBERED", 100)
            for broadcast in remembered._broadcasts.values():
                broadcast.until = 0.0
            await copy_of(copies_of(SEVERAL, 11), "a")
            assert (len(remembered._broadcasts), remembered._size) == (1, 2)


async def test_a_broadcast_to_one_topic_carries_nothing_more_and_is_not_remembered() -> None:
    for topics in ("a", ["a", "a"]):
        assert broadcast_of(topics, 1).messages() == [("a", b"1J;;\n1")]
    async with client(Both) as ws:
        await abroadcast("a", 1)
        assert await ws.receive() == 1
        assert not the_hub().topics.copies._broadcasts
