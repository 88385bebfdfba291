"""Which hub belongs to an event loop, and how long."""

from __future__ import annotations

import asyncio

from pytest_django import Settings

from django_ws import WebSocketHandler, abroadcast
from django_ws.pubsub.hub.registry import hub_of, running_hub
from tests.support.asgi_peer import client, until

MEMORY = "django_ws.pubsub.backends.memory.MemoryBackend"


class Room(WebSocketHandler):
    topics = ("room",)


async def test_the_end_of_an_older_hub_does_not_take_its_successor_with_it(
    settings: Settings,
) -> None:
    """A changed setting gives the loop a new one, while connections still have the old one."""
    older = hub_of("default")
    await until(lambda: older.is_connected)
    settings.WS_BROADCAST = {"default": {"BACKEND": MEMORY, "PREFIX": "newer:"}}
    newer = hub_of("default")
    assert newer is not older
    await older.close()
    assert running_hub("default") is newer
    async with client(Room) as ws:
        await abroadcast("room", 1)
        assert await ws.receive() == 1
    await newer.close()
    assert running_hub("default") is None


def test_a_loop_that_takes_the_place_of_another_has_a_hub_of_its_own() -> None:
    hubs = []

    async def once() -> None:
        hubs.append(hub_of("default"))
        await until(lambda: hubs[-1].is_connected)

    for _ in range(3):
        asyncio.run(once())
    assert len({id(hub) for hub in hubs}) == 3


async def test_a_hub_may_be_closed_twice() -> None:
    hub = hub_of("default")
    await hub.close()
    await hub.close()
    assert running_hub("default") is None
