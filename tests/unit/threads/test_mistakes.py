"""Frequent mistakes that Python has only a bare word for: what happened, and the cure."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from django_ws import WebSocketHandler
from django_ws.threads.mistakes import NEEDS_NO_TASK, explain
from tests.support.asgi_peer import Peer, client

NOTE = "need no task"


def create_task(handler: Any) -> None:
    asyncio.create_task(handler.send("sent"))  # noqa: RUF006


def create_task_of_the_loop(handler: Any) -> None:
    asyncio.get_running_loop().create_task(handler.send("sent"))


def create_task_around_a_broadcast(handler: Any) -> None:
    asyncio.create_task(handler.broadcast("news", "sent"))  # noqa: RUF006


def create_task_around_a_subscription(handler: Any) -> None:
    asyncio.create_task(handler.subscribe("news"))  # noqa: RUF006


def create_task_around_a_task(handler: Any) -> None:
    asyncio.create_task(handler.start_task("mine", asyncio.sleep, args=[0]))  # noqa: RUF006


def start_task(handler: Any) -> None:
    handler.start_task("mine", handler.send("sent"))


def start_task_with_the_method(handler: Any) -> None:
    handler.start_task("mine", handler.send, args=["sent"])


def threadsafe(handler: Any) -> None:
    loop = asyncio.get_running_loop()
    asyncio.run_coroutine_threadsafe(handler.send("sent"), loop)


MISTAKES = [
    create_task,
    create_task_of_the_loop,
    create_task_around_a_broadcast,
    create_task_around_a_subscription,
    create_task_around_a_task,
    start_task,
    start_task_with_the_method,
    threadsafe,
]


def note(caplog: pytest.LogCaptureFixture) -> str:
    """What the log shows of the one exception."""
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info
    return "".join(traceback.format_exception(record.exc_info[1]))


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_task_around_an_action_is_explained(
    mistake: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            mistake(self)

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.wait_closed() == 1011
    text = note(caplog)
    assert text.count(NOTE) >= 1
    assert text.count(NEEDS_NO_TASK) == 1


async def test_it_is_explained_while_the_client_does_not_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            self.send("waits")
            create_task(self)

    async with Peer(Handler) as peer:
        peer.block()
        peer.say("1")
        peer.unblock()
        await peer.ended()
    assert NEEDS_NO_TASK in note(caplog)


async def test_it_is_explained_in_a_task_group(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.send("sent"))  # type: ignore[arg-type]

    async with client(Handler) as ws:
        await ws.send(1)
        while await ws.receive() != "sent":
            pass
        assert await ws.wait_closed() == 1011
    assert NEEDS_NO_TASK in note(caplog)


async def test_it_is_explained_in_a_background_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        async def on_open(self) -> None:
            self.start_task("mine", self.work)

        async def work(self) -> None:
            create_task(self)

        async def on_task_error(self, error: BaseException) -> None:
            await self.send("failed")

    async with client(Handler) as ws:
        assert await ws.receive() == "sent"
        assert await ws.receive() == "failed"
        error = ws.error
    assert error is not None
    assert NEEDS_NO_TASK in error.__notes__
    assert NEEDS_NO_TASK in note(caplog)


async def test_it_is_explained_where_the_actions_are_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await asyncio.wait([self.subscribe("news")])  # type: ignore[type-var]

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.wait_closed() == 1011
    assert NEEDS_NO_TASK in note(caplog)


async def test_it_is_explained_in_a_sync_hook(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            asyncio.run(self.send("sent"))  # type: ignore[arg-type]

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.receive() == "sent"
        assert await ws.wait_closed() == 1011
    assert NEEDS_NO_TASK in note(caplog)


async def test_following_the_advice_works() -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await self.send(1)
            self.send(2)
            await asyncio.gather(self.send(3), self.send(4))
            self.start_task("mine", self.work)

        async def work(self) -> None:
            await self.send(5)

    async with client(Handler) as ws:
        await ws.send(1)
        assert [await ws.receive() for _ in range(5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "error",
    [
        TypeError("a coroutine was expected, got 5"),
        ValueError("no"),
        AttributeError("no", obj=5),
        LookupError("no"),
    ],
    ids=repr,
)
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    explain(error)
    assert not hasattr(error, "__notes__")


def test_other_objects_in_the_place_of_a_coroutine_are_not_explained() -> None:
    loop = asyncio.new_event_loop()
    with pytest.raises(TypeError) as raised:
        asyncio.run_coroutine_threadsafe(5, loop)  # type: ignore[arg-type]
    loop.close()
    explain(raised.value)
    assert not hasattr(raised.value, "__notes__")
