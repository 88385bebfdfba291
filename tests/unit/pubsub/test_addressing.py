"""Whom a broadcast or an order reaches: users by their ids, all but some, many at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import connections, transaction
from django.test import TestCase
from django.utils.functional import SimpleLazyObject

from django_ws import (
    ConnectionClosed,
    WebSocketHandler,
    abroadcast,
    abroadcast_many,
    adisconnect,
    broadcast,
    broadcast_many,
    broadcast_on_commit,
    connection_topic,
    disconnect,
    user_topic,
)
from django_ws.exceptions import BroadcastError, EncodeError, InvalidTopic
from django_ws.pubsub import Publisher
from django_ws.pubsub.backends.memory import MemoryPublisher
from django_ws.pubsub.hub.registry import running_hub
from django_ws.testing import WebSocketClient
from tests.support.asgi_peer import PATH, Peer, client, handlers, route
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)


class Room(WebSocketHandler):
    topics = ("room",)


async def in_thread(function: Any, *args: Any, **kwargs: Any) -> Any:
    return await sync_to_async(function)(*args, **kwargs)  # whose thread keeps its connection


@pytest.fixture
def users(db: None) -> list[User]:
    return [User.objects.create_user(name) for name in ("alice", "bob", "carol")]


# Users by their ids


@pytest.mark.parametrize("key", [5, "5", UUID(int=5), "name@example.com", 0])
def test_a_user_by_the_primary_key(key: Any) -> None:
    class Row:
        pk = key

    assert user_topic(key) == user_topic(Row())
    assert user_topic(key) == f"django_ws.user:{key}"


def test_a_user_by_the_key_of_a_url_or_a_task() -> None:
    assert user_topic(5) == user_topic("5")
    key = uuid4()
    assert user_topic(key) == user_topic(str(key))


@pytest.mark.parametrize("wrong", [None, "", True, AnonymousUser(), User(), object(), b"5", 5.0])
def test_who_is_no_user(wrong: Any) -> None:
    with pytest.raises(ValueError, match="only a saved user has a topic"):
        user_topic(wrong)


# All but some


async def connected(stack: AsyncExitStack, *users: User | None) -> list[WebSocketClient]:
    stack.enter_context(route(Room))
    return [await stack.enter_async_context(WebSocketClient(PATH, user=user)) for user in users]


async def texts_of(sockets: list[WebSocketClient]) -> list[list[Any]]:
    """What each got before the last one, which goes to all."""
    await abroadcast("room", "last")
    found: list[list[Any]] = []
    for each in sockets:
        found.append([])
        while (message := await each.receive()) != "last":
            found[-1].append(message)
    return found


@pytest.mark.django_db(transaction=True)
class TestExcludedUsers:
    @pytest.mark.parametrize("form", ["user", "users", "id", "ids", "lazy", "queryset", "text"])
    async def test_none_of_their_connections_gets_it(self, users: list[User], form: str) -> None:
        alice, bob, _ = users
        exclude: Any = {
            "user": alice,
            "users": [alice],
            "id": alice.pk,
            "ids": (alice.pk, str(alice.pk)),
            "lazy": SimpleLazyObject(lambda: alice),
            "queryset": [user async for user in User.objects.filter(username="alice")],
            "text": str(alice.pk),
        }[form]
        async with AsyncExitStack() as stack:
            sockets = await connected(stack, alice, alice, bob, None)
            await abroadcast("room", 1, exclude_users=exclude)
            assert await texts_of(sockets) == [[], [], [1], [1]]

    async def test_by_every_function(self, users: list[User]) -> None:
        alice, bob, carol = users
        async with AsyncExitStack() as stack:
            sockets = await connected(stack, alice, bob, carol)
            both: Any = {"exclude_users": [alice, bob.pk]}
            await in_thread(broadcast, "room", 1, **both)
            await in_thread(broadcast_many, [("room", 2)], **both)
            await abroadcast_many([("room", 3)], **both)
            await in_thread(broadcast_on_commit, "room", 4, **both)
            await handlers[0].broadcast("room", 5, **both)
            await handlers[2].broadcast("room", 6, exclude_self=True, exclude_users=alice)
            with Publisher(None, backend=MemoryPublisher) as publisher:
                publisher.broadcast("room", 7, **both)
            assert await texts_of(sockets) == [[], [6], [1, 2, 3, 4, 5, 7]]

    async def test_beside_connections_and_in_one_burst(self, users: list[User]) -> None:
        alice, bob, _ = users
        async with AsyncExitStack() as stack:
            sockets = await connected(stack, alice, bob, bob)
            two = handlers[1].id
            last: Any = None
            for number in range(6):
                exclude: Any = ({}, {"exclude_users": alice}, {"exclude": two})[number % 3]
                last = asyncio.ensure_future(abroadcast("room", number, **exclude))
            await last
            await abroadcast("room", 6, exclude=two, exclude_users=[alice])
            assert await texts_of(sockets) == [
                [0, 2, 3, 5],
                [0, 1, 3, 4],
                [0, 1, 2, 3, 4, 5, 6],
            ]


@pytest.mark.parametrize("wrong", [AnonymousUser(), [None], [AnonymousUser()]])
async def test_who_cannot_be_excluded(wrong: Any) -> None:
    with pytest.raises(ValueError, match="only a saved user has a topic"):
        await abroadcast("room", 1, exclude_users=wrong)


async def test_several_connections_are_excluded() -> None:
    async with client(Room), WebSocketClient(PATH), WebSocketClient(PATH):
        pass
    async with AsyncExitStack() as stack:
        sockets = await connected(stack, None, None, None)
        await abroadcast("room", 1, exclude=[handlers[0].id, handlers[2].id])
        await abroadcast("room", 2, exclude={handlers[1].id})
        await abroadcast("room", 3, exclude=[])
        assert await texts_of(sockets) == [[2, 3], [1, 3], [2, 3]]


@pytest.mark.parametrize("wrong", ["a;b", "a\nb", "a,b", "é", 5, b"id", ["id", 5], ["a;b"]])
async def test_what_can_be_no_connection(wrong: Any) -> None:
    with pytest.raises(ValueError, match="give the id of a connection"):
        await abroadcast("room", 1, exclude=wrong)
    with pytest.raises(ValueError, match="give the id of a connection"):
        await adisconnect("room", exclude=wrong)


# Disconnecting all but some


async def test_disconnect_spares_the_connections_that_are_excluded() -> None:
    async with AsyncExitStack() as stack:
        sockets = await connected(stack, None, None, None)
        await adisconnect("room", exclude=handlers[0].id)
        for each in sockets[1:]:
            with pytest.raises(ConnectionClosed):
                await each.receive()
        await abroadcast("room", 1)
        assert await sockets[0].receive() == 1
        await in_thread(disconnect, "room", exclude=["0" * 32])
        with pytest.raises(ConnectionClosed):
            await sockets[0].receive()


@pytest.mark.django_db(transaction=True)
async def test_all_other_connections_of_a_user_are_ended(users: list[User]) -> None:
    alice, bob, _ = users
    async with AsyncExitStack() as stack:
        sockets = await connected(stack, alice, alice, bob)
        await adisconnect(user_topic(alice.pk), exclude=handlers[0].id)
        with pytest.raises(ConnectionClosed):
            await sockets[1].receive()
        await abroadcast("room", 1)
        assert [await sockets[0].receive(), await sockets[2].receive()] == [1, 1]
        await adisconnect(connection_topic(handlers[0].id), exclude=handlers[0].id)
        await abroadcast("room", 2)
        assert await sockets[0].receive() == 2


# Many at once


async def test_many_messages_go_out_in_order_and_in_one_piece(
    fickle: type[FickleBackend],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with client(Room) as ws:
        hub = running_hub("default")
        assert hub is not None
        pieces: list[int] = []
        real = FickleBackend.publish_many

        async def publish_many(self: FickleBackend, messages: Any) -> None:
            pieces.append(len(messages))
            await real(self, messages)

        monkeypatch.setattr(FickleBackend, "publish_many", publish_many)
        pairs: Any = [("room", number) for number in range(10)] + [(["room", "other"], "both")]
        await abroadcast_many(pairs)
        assert [await ws.receive() for _ in range(11)] == [*range(10), "both"]
        assert pieces == [12]
        await abroadcast_many([])
        await ws.receive_nothing()
        fickle.is_down = True
        with pytest.raises(BroadcastError):
            await abroadcast_many(pairs)


async def test_many_messages_from_sync_code(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    real = MemoryPublisher.publish

    def publish(self: MemoryPublisher, messages: Any) -> None:
        pieces.append(len(messages))
        real(self, messages)

    monkeypatch.setattr(MemoryPublisher, "publish", publish)
    async with client(Room) as ws:
        await in_thread(broadcast_many, (("room", number) for number in range(5)))
        assert [await ws.receive() for _ in range(5)] == list(range(5))
        assert pieces == [5]
        await in_thread(broadcast_many, [])
    with pytest.raises(SynchronousOnlyOperation, match="abroadcast_many"):
        broadcast_many([("room", 1)])


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (("room", {"a": [object()]}), EncodeError, r'\$\["a"\]\[0\] of item 1'),
        (("\0room", 1), InvalidTopic, "reserved"),
        (("room",), TypeError, r"item 1 is \('room',\)"),
        (5, TypeError, "item 1 is 5"),
    ],
)
async def test_of_many_messages_none_is_sent_where_one_is_wrong(
    wrong: Any, error: type[Exception], says: str
) -> None:
    async with client(Room) as ws:
        with pytest.raises(error, match=says):
            await abroadcast_many([("room", 1), wrong])
        await abroadcast("room", 2)
        assert await ws.receive() == 2


# Which backend, which database


class OnCommit(TestCase):
    databases = {"default"}

    def test_using_is_the_alias_of_the_backend(self) -> None:
        config = {
            "default": {"BACKEND": "django_ws.pubsub.backends.memory.MemoryBackend"},
            "other": {
                "BACKEND": "django_ws.pubsub.backends.memory.MemoryBackend",
                "PREFIX": "other:",
            },
        }

        class Other(Room):
            using = "other"

        with self.settings(WS_BROADCAST=config), route(Other), WebSocketClient(PATH) as ws:
            with self.captureOnCommitCallbacks(execute=True):
                broadcast_on_commit("room", 1, using="other")
                broadcast_on_commit("room", 2, using="default")
                broadcast_on_commit("room", 3, using="other", database="default")
            broadcast("room", 4, using="other")
            assert [ws.receive() for _ in range(3)] == [1, 3, 4]

    def test_a_wrong_alias_is_an_error_at_the_call(self) -> None:
        with transaction.atomic():
            with pytest.raises(ImproperlyConfigured, match=r"no 'wrong', only 'default'\. Nam"):
                broadcast_on_commit("room", 1, using="wrong")
            with pytest.raises(ImproperlyConfigured, match="For an alias of WS_BROADCAST write us"):
                broadcast_on_commit("room", 1, database="wrong")
        for function in (broadcast, broadcast_on_commit, disconnect):
            with pytest.raises(ImproperlyConfigured, match="only 'default'"):
                function("room", *([] if function is disconnect else [1]), using="wrong")


def test_a_database_in_the_place_of_a_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings, "replica", connections.settings["default"])
    with pytest.raises(ImproperlyConfigured, match="For the database write database='replica'"):
        broadcast_on_commit("room", 1, using="replica")


async def test_excluding_is_for_handlers_without_a_log_in_too() -> None:
    async with Peer(Room) as peer:
        await abroadcast("room", 1, exclude_users=[5, "6"])
        await abroadcast("room", 2)
        async with asyncio.timeout(20):
            while len(peer.texts) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert peer.texts == ["1", "2"]
