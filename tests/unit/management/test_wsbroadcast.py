"""manage.py wsbroadcast."""

import asyncio
import io
import sys
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_ws import WebSocketHandler
from tests.support.asgi_peer import client
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)


class Room(WebSocketHandler):
    topics = ("room",)


async def command(*arguments: str, **options: Any) -> str:
    output = io.StringIO()
    await asyncio.to_thread(call_command, "wsbroadcast", *arguments, stdout=output, **options)
    return output.getvalue()


async def test_a_message_reaches_the_subscribers(fickle: type[FickleBackend]) -> None:  # noqa: F811
    async with client(Room) as ws:
        assert await command("room", '{"a": 1}') == "Broadcast to 'room'.\n"
        assert await ws.receive() == {"a": 1}


async def test_the_message_may_come_from_the_standard_input(
    fickle: type[FickleBackend],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("[1, 2]\n"))
    async with client(Room) as ws:
        assert await command("room", "-", verbosity=0) == ""
        assert await ws.receive() == [1, 2]


@pytest.mark.parametrize(
    ("topic", "message", "says"),
    [("room", "{a: 1}", "no JSON"), ("", "1", "not a topic"), ("room", "1", "it is down")],
)
async def test_what_cannot_be_sent_is_told(
    fickle: type[FickleBackend],  # noqa: F811
    topic: str,
    message: str,
    says: str,
) -> None:
    fickle.is_down = True
    with pytest.raises(CommandError, match=says):
        await command(topic, message)


async def test_memory_would_reach_nobody() -> None:
    with pytest.raises(CommandError, match="the memory of one process"):
        await command("room", "1")


async def test_an_unknown_alias_is_named() -> None:
    with pytest.raises(Exception, match="no 'other'"):
        await command("room", "1", using="other")
