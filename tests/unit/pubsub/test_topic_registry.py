"""What a hub asks its backend for: bounded, whatever clients ask of it."""

import asyncio
from collections.abc import Collection, Iterator
from typing import Any, ClassVar

import pytest
from pytest_django import Settings

from django_ws import WebSocketHandler, abroadcast
from django_ws.exceptions import BroadcastError
from django_ws.pubsub.hub import topic_registry as rooms_module
from django_ws.pubsub.hub.hub import Hub
from django_ws.pubsub.hub.registry import running_hub
from django_ws.testing import WebSocketClient
from tests.support.asgi_peer import PATH, client, handlers, the_handler, turns, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)


class Room(WebSocketHandler):
    topics = ("room",)


class Slow(FickleBackend):
    """Answers a request when it is allowed to; notes each of them."""

    may_answer: ClassVar[asyncio.Event]
    requests: ClassVar[list[list[str]]] = []
    under_way: ClassVar[int] = 0

    async def subscribe(self, topics: Collection[str]) -> None:
        self.requests.append(list(topics))
        cls = type(self)
        cls.under_way += 1
        try:
            await self.may_answer.wait()
            await super().subscribe(topics)
        finally:
            cls.under_way -= 1


@pytest.fixture
def slow(fickle: type[FickleBackend], settings: Settings) -> Iterator[type[Slow]]:  # noqa: F811
    settings.WS_BROADCAST = {"default": {"BACKEND": f"{__name__}.Slow"}}
    Slow.may_answer = asyncio.Event()
    Slow.may_answer.set()
    Slow.requests = []
    yield Slow
    Slow.requests = []


def the_hub() -> Hub:
    hub = running_hub("default")
    assert hub is not None
    return hub


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request counts as blocked."""
    monkeypatch.setattr(rooms_module, "TOGETHER_SECONDS", 3600.0)


async def test_what_is_left_again_before_its_turn_is_never_asked_for(
    slow: type[Slow], patient: None
) -> None:
    async with client(Room) as ws:
        handler = the_handler()
        slow.requests.clear()
        slow.may_answer.clear()
        handler.subscribe("first")
        await until(lambda: slow.requests)
        for number in range(1000):
            handler.unsubscribe(handler.subscriptions - {"room"})
            last = handler.subscribe(f"room {number}")
            if number % 100 == 0:
                await turns()
        assert slow.requests == [["first"]]
        hub = the_hub()
        assert len(hub.topics._entries) < 10
        slow.may_answer.set()
        await last
        assert slow.requests == [["first"], ["room 999"]]
        await abroadcast("room 999", 1)
        assert await ws.receive() == 1


async def test_one_request_is_under_way_at_a_time_and_none_is_large(
    slow: type[Slow], patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms_module, "AT_ONCE", 7)
    async with client(Room), WebSocketClient(PATH):
        slow.requests.clear()
        slow.may_answer.clear()
        joining = []
        for number in range(30):
            joining += [each.subscribe(f"{number} {n}") for n, each in enumerate(handlers)]
            await turns(1)
            assert slow.under_way <= 1
        slow.may_answer.set()
        for each in joining:
            await each
        assert sum(map(len, slow.requests)) == 60
        assert max(map(len, slow.requests)) == 7


async def test_only_so_many_topics_wait_for_somebody_to_come_back(
    slow: type[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms_module, "MAX_LEFT", 3)
    monkeypatch.setattr(rooms_module, "GRACE_SECONDS", 3600.0)
    async with client(Room):
        for number in range(10):
            await the_handler().subscribe(f"{number}")
            await the_handler().unsubscribe(f"{number}")
        await until(lambda: len(slow.made[0].given_back) == 7)
        assert slow.made[0].given_back == [f"{number}" for number in range(7)]
        assert {*the_hub().topics._left} == {"7", "8", "9"}
        await the_handler().subscribe("8")
        assert {*the_hub().topics._left} == {"7", "9"}


async def test_the_topics_that_were_left_are_given_back_each_in_its_time(
    slow: type[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(Room):
        handler = the_handler()
        await handler.subscribe(["soon", "kept", "late"])
        monkeypatch.setattr(rooms_module, "GRACE_SECONDS", 0.02)
        await handler.unsubscribe("soon")
        await handler.unsubscribe("kept")
        monkeypatch.setattr(rooms_module, "GRACE_SECONDS", 0.2)
        await handler.unsubscribe("late")
        await handler.subscribe("kept")
        given_back = slow.made[0].given_back
        await until(lambda: given_back == ["soon"])
        await until(lambda: given_back == ["soon", "late"])
        assert "kept" in the_hub().topics


async def test_what_is_joined_again_before_it_was_given_back_stays(
    slow: type[Slow], patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is not asked for any more; and when it ends after all, it is."""
    monkeypatch.setattr(rooms_module, "MAX_LEFT", 0)
    async with client(Room) as ws:
        handler = the_handler()
        await handler.subscribe("a")
        slow.requests.clear()
        slow.may_answer.clear()
        handler.subscribe("first")
        await until(lambda: slow.requests)
        await handler.unsubscribe("a")
        assert "a" not in the_hub().topics
        handler.subscribe("a")
        await handler.unsubscribe("a")
        joining = handler.subscribe("a")
        slow.may_answer.set()
        await joining
        assert slow.made[0].given_back == []
        await abroadcast("a", 1)
        assert await ws.receive() == 1
        slow.may_answer.clear()
        handler.subscribe("second")
        await until(lambda: slow.requests[-1] == ["second"])
        await handler.unsubscribe("a")
        handler.subscribe("a")
        await handler.unsubscribe("a")  # before its turn, but the backend listens to it
        slow.may_answer.set()
        await until(lambda: slow.made[0].given_back == ["a"])


async def test_a_restart_of_the_listener_forgets_the_topics_that_were_left(
    slow: type[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.hub.RESTART_SECONDS", 0.001)
    async with client(Room) as ws:
        await the_handler().subscribe("left")
        await the_handler().unsubscribe("left")
        slow.requests.clear()
        slow.made[0].crash()
        await until(lambda: slow.requests)
        assert "room" in slow.requests[0]
        assert "left" not in slow.requests[0]
        await the_handler().subscribe("left")
        await abroadcast("left", 1)
        assert await ws.receive() == 1


async def test_a_gap_is_told_to_all_however_long_that_takes(
    fickle: type[FickleBackend],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.hub.RESTART_SECONDS", 0.001)

    class Telling(WebSocketHandler):
        topics = ("room", "other")

        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            await self.send(sorted(topics))

    async with client(Telling) as one, WebSocketClient(PATH) as two:
        monkeypatch.setattr(rooms_module, "TOGETHER_SECONDS", 0.001)
        hub = the_hub()
        tell = hub.topics._tell_gap

        async def slowly(topics: Collection[str]) -> None:
            await asyncio.sleep(0.05)  # as to ten thousand
            await tell(topics)

        monkeypatch.setattr(hub.topics, "_tell_gap", slowly)
        fickle.made[0].crash()
        assert await one.receive() == ["other", "room"]
        assert await two.receive() == ["other", "room"]


async def test_a_backend_that_refuses_is_asked_again_while_somebody_waits(
    slow: type[Slow], patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = 0

    async def subscribe(self: FickleBackend, topics: Collection[str]) -> None:
        nonlocal refusals
        if "refused" in topics or (refusals < 2 and "later" in topics):
            refusals += 1
            raise BroadcastError("subscribe", "slow", "not now")
        await self._memory.subscribe(topics)

    async with client(Room):
        monkeypatch.setattr(rooms_module, "AGAIN_SECONDS", 0.001)
        monkeypatch.setattr(rooms_module, "GRACE_SECONDS", 0.001)
        monkeypatch.setattr(slow, "subscribe", subscribe)
        await the_handler().subscribe("later")
        assert refusals == 2
        tasks = len(asyncio.all_tasks())
        monkeypatch.setattr(rooms_module, "TOGETHER_SECONDS", 0.001)
        the_handler().subscribe("refused")
        await until(lambda: refusals > 2)
        await the_handler().unsubscribe("refused")
        await until(lambda: "refused" not in the_hub().topics)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)


# Joining again


async def test_each_who_waits_gives_up_in_its_own_time(
    slow: type[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(Room):
        handler = the_handler()
        slow.may_answer.clear()
        monkeypatch.setattr(rooms_module, "SUBSCRIBE_SECONDS", 0.02)
        early = asyncio.ensure_future(handler.subscribe("early"))
        await turns()
        monkeypatch.setattr(rooms_module, "SUBSCRIBE_SECONDS", 0.3)
        late = asyncio.ensure_future(handler.subscribe("late"))
        with pytest.raises(BroadcastError, match="not confirmed"):
            await early
        assert not late.done()
        with pytest.raises(BroadcastError, match="not confirmed"):
            await late
        assert handler.subscriptions == {"room"}
        slow.may_answer.set()


# The end of a hub


async def test_a_hub_that_is_closed_leaves_no_timer_and_nobody_waiting(slow: type[Slow]) -> None:
    timers: list[asyncio.TimerHandle] = []

    async with client(Room):
        handler, hub = the_handler(), the_hub()
        real: Any = hub._hub_tasks.later
        hub._hub_tasks.later = lambda *args: timers.append(handle := real(*args)) or handle  # type: ignore[method-assign, func-returns-value]
        await handler.subscribe("left")
        await handler.unsubscribe("left")
        slow.may_answer.clear()
        waiting = asyncio.ensure_future(handler.subscribe("waits"))
        await turns()
        await hub.close()
        with pytest.raises(BroadcastError, match="closed"):
            await waiting
        assert timers
        assert all(timer.cancelled() for timer in timers)
        with pytest.raises(BroadcastError, match="closed"):
            await handler.subscribe("late")
        with pytest.raises(BroadcastError, match="closed"):
            await handler.subscribe("room")
        assert handler.subscriptions == {"room"}
        await handler.unsubscribe("room")
        assert slow.made[0].is_closed
        assert slow.made[0].given_back == []
        slow.may_answer.set()
