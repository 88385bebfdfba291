"""captured_broadcasts: what was broadcast in a block, for assertions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import transaction
from django.test import TestCase
from pytest_django import Settings

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
from django_ws.exceptions import EncodeError
from django_ws.pubsub import Publisher
from django_ws.pubsub.backends.memory import MemoryPublisher
from django_ws.testing import CapturedBroadcast, WebSocketClient, captured_broadcasts
from tests.support.asgi_peer import PATH, client, route, the_handler


class Room(WebSocketHandler):
    topics = ("room",)

    async def on_message(self, message: Any) -> None:
        await self.broadcast("room", message, exclude_self=True, exclude_users=[5])

    def on_close(self) -> None:
        broadcast("room", "left")


def captured(**fields: Any) -> CapturedBroadcast:
    defaults: dict[str, Any] = {
        "action": "broadcast",
        "topics": ["room"],
        "message": None,
        "exclude": [],
        "exclude_users": [],
        "using": "default",
    }
    return CapturedBroadcast(**{**defaults, **fields})


def test_sync_code() -> None:
    at = datetime(2030, 1, 2, tzinfo=UTC)
    with captured_broadcasts() as found:
        broadcast("room", {"at": at})
        broadcast(["room", "hall"], b"\x00\xff", exclude="id", exclude_users=5)
        broadcast_many([("room", 1), (["hall", "room"], 2)], exclude=["a", "b"])
        disconnect("room", code=4400, reason="why", exclude="id")
        disconnect(user_topic(5))
        assert len(found) == 6
    broadcast("room", "after the block")
    users = [user_topic(5)]
    assert found == [
        captured(message={"at": "2030-01-02T00:00:00Z"}),
        captured(topics=["room", "hall"], message=b"\x00\xff", exclude=["id"], exclude_users=users),
        captured(message=1, exclude=["a", "b"]),
        captured(topics=["hall", "room"], message=2, exclude=["a", "b"]),
        captured(action="disconnect", code=4400, reason="why", exclude=["id"]),
        captured(action="disconnect", topics=users, code=4403),
    ]


async def test_async_code_and_handlers() -> None:
    async with client(Room) as ws, WebSocketClient(PATH) as other:
        async with captured_broadcasts() as found:
            await abroadcast("room", 1)
            await abroadcast_many([("room", 2)])
            await other.send(3)
            assert [await ws.receive() for _ in range(3)] == [1, 2, 3]
            await adisconnect(connection_topic(the_handler().id))
            assert [await other.receive() for _ in range(2)] == [1, 2]
            with pytest.raises(ConnectionClosed):
                await other.receive()
            assert await ws.receive() == "left"
        excluded = {"exclude": [the_handler().id], "exclude_users": [user_topic(5)]}
        assert found == [
            captured(message=1),
            captured(message=2),
            captured(message=3, **excluded),
            captured(action="disconnect", topics=[connection_topic(the_handler().id)], code=4403),
            captured(message="left"),
        ]


async def test_async_code_where_no_hub_listens() -> None:
    with captured_broadcasts() as found:
        await abroadcast("room", 1, using="default")
    assert found == [captured(message=1)]


def test_other_ways_to_broadcast(settings: Settings) -> None:
    settings.WS_BROADCAST = "redis://127.0.0.1:1/0"
    with captured_broadcasts(deliver=False) as found:
        with Publisher(None, backend=MemoryPublisher) as publisher:
            publisher.broadcast("room", 1, exclude_users=[5])
        call_command("wsbroadcast", "room", "2")
    assert found == [
        captured(message=1, using="a Publisher", exclude_users=[user_topic(5)]),
        captured(message=2),
    ]


@pytest.mark.parametrize("deliver", [True, False])
def test_whether_it_is_delivered_too(deliver: bool) -> None:
    with route(Room), WebSocketClient(PATH) as ws:
        with captured_broadcasts(deliver=deliver) as found:
            broadcast("room", 1)
            broadcast_many([("room", 2), ("room", 3)])
            disconnect("other")
        broadcast("room", "last")
        received = [ws.receive() for _ in range(4 if deliver else 1)]
        assert received == ([1, 2, 3, "last"] if deliver else ["last"])
        assert [each.message for each in found] == [1, 2, 3, None]


async def test_nothing_is_delivered_by_handlers_and_async_code_either() -> None:
    async with client(Room) as ws:
        with captured_broadcasts(deliver=False) as found:
            await abroadcast("room", 1)
            await the_handler().broadcast("room", 2)
            with captured_broadcasts() as inner:
                await the_handler().broadcast("room", 3)
        await abroadcast("room", "last")
        assert await ws.receive() == "last"
        assert [each.message for each in found] == [1, 2, 3]
        assert inner == [captured(message=3)]


def test_what_fails_at_the_call_is_not_captured() -> None:
    with captured_broadcasts() as found, pytest.raises(EncodeError):
        broadcast("room", object())
    assert found == []


def test_one_object_may_be_used_again() -> None:
    def failing() -> None:
        broadcast("room", 1)
        raise ZeroDivisionError

    capturing = captured_broadcasts()
    with pytest.raises(ZeroDivisionError), capturing as first:
        failing()
    with capturing as second:
        broadcast("room", 2)
    assert (first, second) == ([captured(message=1)], [captured(message=2)])


async def test_threads_and_tasks_are_seen() -> None:
    with captured_broadcasts() as found:
        await asyncio.gather(
            asyncio.to_thread(broadcast, "room", 1), asyncio.create_task(abroadcast("room", 2))
        )
    assert sorted(each.message for each in found) == [1, 2]


class OnCommit(TestCase):
    def test_when_the_transaction_commits(self) -> None:
        with captured_broadcasts() as found:
            with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
                broadcast_on_commit("room", 1)
                assert found == []
            assert found == [captured(message=1)]
            with self.captureOnCommitCallbacks():
                broadcast_on_commit("room", 2)
        assert found == [captured(message=1)]


@pytest.mark.django_db
def test_the_end_of_a_log_in_is_no_broadcast_of_the_code_under_test() -> None:
    with captured_broadcasts() as found:
        User.objects.create_user("alice").delete()
    assert found == []
