"""Hooks of one connection do not overlap, whichever task calls them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from django_ws import WebSocketHandler, abroadcast, adisconnect, user_topic
from django_ws.exceptions import BroadcastError
from django_ws.pubsub.hub.registry import running_hub
from tests.support.asgi_peer import Peer, client, turns, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)


class Exclusive(WebSocketHandler):
    """Notes each hook, and whether another one ran meanwhile."""

    topics: tuple[str, ...] = ("room",)
    entered: list[str]
    running: set[str]
    overlaps: list[set[str]]
    may_end: asyncio.Event

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.entered, cls.running, cls.overlaps = [], set(), []
        cls.may_end = asyncio.Event()

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        cls = type(self)
        cls.entered.append(name)
        if cls.running:
            cls.overlaps.append({name, *cls.running})
        cls.running.add(name)
        await asyncio.sleep(0)
        try:
            yield
        finally:
            cls.running.discard(name)

    async def on_broadcast(self, topic: str, message: Any) -> None:
        async with self.alone("on_broadcast"):
            await self.send(message)

    async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
        async with self.alone("on_broadcast_gap"):
            await self.send("gap")

    async def on_close(self) -> None:
        async with self.alone("on_close"):
            pass


async def broadcast_and_lose(number: int) -> None:
    """A broadcast, and a gap behind it, that have reached the connection."""
    await abroadcast("room", number)
    hub = running_hub("default")
    assert hub is not None
    for subscriber in tuple(hub.topics.members_of("room")):
        subscriber.missed(frozenset({"room"}))


@pytest.mark.parametrize("hook", ["on_message", "on_bytes", "on_decode_error", "on_rate_limited"])
async def test_a_broadcast_waits_for_the_hook_that_runs(hook: str) -> None:
    class Handler(Exclusive):
        pass

    async def busy(self: Any, *args: Any) -> None:
        async with self.alone(hook):
            await self.may_end.wait()

    setattr(Handler, hook, busy)
    Busy: Any = type(
        "Busy", (Handler,), {hook: busy, "rate_limit": "1/h" if hook == "on_rate_limited" else None}
    )
    async with Peer(Busy) as peer:
        if hook == "on_bytes":
            peer.feed({"type": "websocket.receive", "bytes": b"1"})
        elif hook == "on_decode_error":
            peer.say("{")
        else:
            peer.say("1", "2")
        await until(lambda: hook in Busy.entered)
        await broadcast_and_lose(7)
        await turns()
        assert peer.texts == []
        Busy.may_end.set()
        await until(lambda: len(peer.texts) == 2)
        assert peer.texts == ["7", '"gap"']
    assert Busy.overlaps == []
    assert Busy.entered[-1] == "on_close"


async def test_a_message_waits_for_the_broadcast_that_runs() -> None:
    class Handler(Exclusive):
        async def on_broadcast(self, topic: str, message: Any) -> None:
            async with self.alone("on_broadcast"):
                await self.may_end.wait()

        async def on_message(self, message: Any) -> None:
            async with self.alone("on_message"):
                await self.send("answer")

    async with Peer(Handler) as peer:
        await abroadcast("room", 1)
        await until(lambda: Handler.entered)
        peer.say("1")
        await turns()
        assert Handler.entered == ["on_broadcast"]
        Handler.may_end.set()
        await until(lambda: peer.texts)
    assert Handler.overlaps == []


async def test_messages_and_broadcasts_alternate() -> None:
    class Handler(Exclusive):
        async def on_message(self, message: Any) -> None:
            async with self.alone("on_message"):
                await self.may_end.wait()

    async with Peer(Handler) as peer:
        peer.say(*["1"] * 20)
        await until(lambda: Handler.entered)
        for number in range(20):
            await abroadcast("room", number)
        await turns()
        Handler.may_end.set()
        await until(lambda: len(Handler.entered) == 40 and len(peer.texts) == 20)
        assert peer.texts == [str(number) for number in range(20)]
    assert Handler.overlaps == []
    assert Handler.entered[:6] == ["on_message", "on_broadcast"] * 3


async def test_broadcasts_that_no_hook_gets_wait_for_none() -> None:
    class Handler(WebSocketHandler):
        topics = ("room",)
        busy = asyncio.Event()
        may_end = asyncio.Event()

        async def on_message(self, message: Any) -> None:
            self.busy.set()
            await self.may_end.wait()

        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            await self.send("gap")

    async with client(Handler) as ws:
        await ws.send(1)
        await Handler.busy.wait()
        await broadcast_and_lose(1)
        await abroadcast("room", 2)
        assert [await ws.receive(), await ws.receive()] == [1, 2]
        Handler.may_end.set()
        assert await ws.receive() == "gap"


async def test_a_hook_that_waits_for_its_turn_is_cut_off_by_our_own_close() -> None:
    """What the client had sent before is not handled then."""

    class Handler(Exclusive):
        async def on_broadcast(self, topic: str, message: Any) -> None:
            async with self.alone("on_broadcast"):
                await self.may_end.wait()
                await self.close(4000)

        async def on_message(self, message: Any) -> None:
            async with self.alone("on_message"):
                pass

    async with Peer(Handler) as peer:
        await abroadcast("room", 1)
        await until(lambda: Handler.entered)
        peer.say("1")
        await until(lambda: peer.handler._connection.inbound.in_hook)
        Handler.may_end.set()
        await peer.ended()
        assert peer.closes == [(4000, "")]
    assert Handler.entered == ["on_broadcast", "on_close"]
    assert Handler.overlaps == []


async def test_a_message_that_came_before_the_clients_close_gets_its_turn() -> None:
    class Handler(Exclusive):
        async def on_broadcast(self, topic: str, message: Any) -> None:
            async with self.alone("on_broadcast"):
                await self.may_end.wait()

        async def on_message(self, message: Any) -> None:
            async with self.alone("on_message"):
                assert self.closed

    async with Peer(Handler) as peer:
        await abroadcast("room", 1)
        await until(lambda: Handler.entered)
        peer.say("1")
        await until(lambda: peer.handler._connection.inbound.in_hook)
        peer.leave(code=1001)
        await until(lambda: peer.handler.closed)
        Handler.may_end.set()
        await peer.ended()
    assert Handler.entered == ["on_broadcast", "on_message", "on_close"]
    assert Handler.overlaps == []


async def test_a_broadcast_that_never_ends_is_named_and_cancelled_at_the_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_CLOSE_TIMEOUT = 0.02
    monkeypatch.setattr("django_ws.lifecycle.end.LAST_SECONDS", 0.02)
    ends: list[str] = []

    class Handler(Exclusive):
        async def on_broadcast(self, topic: str, message: Any) -> None:
            ends.append("began")
            try:
                await asyncio.Event().wait()
            finally:
                ends.append("cancelled")

        async def on_message(self, message: Any) -> None:
            raise AssertionError("its turn never came")

    async with Peer(Handler) as peer:
        await abroadcast("room", 1)
        await until(lambda: ends)
        peer.say("1")
        await until(lambda: peer.handler._connection.inbound.in_hook)
        await peer.handler.close()
        await peer.ended()
        await until(lambda: len(ends) == 2)
    assert ends == ["began", "cancelled"]
    assert any("on_broadcast did not end within WS_CLOSE_TIMEOUT" in m for m in caplog.messages)
    assert any("left behind: on_broadcast" in message for message in caplog.messages)


async def test_what_waits_for_a_turn_when_the_connection_ends_is_counted() -> None:
    class Handler(Exclusive):
        async def on_message(self, message: Any) -> None:
            async with self.alone("on_message"):
                await self.may_end.wait()

    async with Peer(Handler) as peer:
        handler = peer.handler
        peer.say("1")
        await until(lambda: Handler.entered)
        for number in range(3):
            await abroadcast("room", number)
        await turns()
        handler.close()
        assert handler.dropped == 3
        Handler.may_end.set()
        await peer.ended()
    assert Handler.entered == ["on_message", "on_close"]


async def test_with_concurrent_broadcasts_nothing_waits(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    class Handler(Exclusive):
        concurrent_broadcasts = True

        async def on_message(self, message: Any) -> None:
            async with self.alone("on_message"):
                await self.may_end.wait()

    async with client(Handler) as ws:
        await ws.send(1)
        await until(lambda: Handler.entered)
        await abroadcast("room", 7)
        fickle.made[0].lose("room")
        await abroadcast("room", 8)
        assert [await ws.receive() for _ in range(3)] == [7, "gap", 8]
        Handler.may_end.set()
    assert {"on_broadcast", "on_message"} in Handler.overlaps


# --- a handler for one topic ---------------------------------------------------------------------


class Controlled(WebSocketHandler):
    topics: tuple[str, ...] = ("room",)

    async def on_message(self, message: Any) -> None:
        await self.subscribe("control", self.on_control)
        await self.send("joined")

    async def on_control(self, topic: str, message: Any) -> None:
        await self.send([topic, message])


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_topic_may_have_a_handler_of_its_own(kind: str) -> None:
    class Handler(Controlled):
        pass

    if kind == "sync":

        def on_control(self: Any, topic: str, message: Any) -> None:
            self.send([topic, message])

        Handler.on_control = on_control  # type: ignore[method-assign,assignment]
    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.receive() == "joined"
        await abroadcast("control", 1)
        assert await ws.receive() == ["control", 1]
        await abroadcast("room", 2)
        assert await ws.receive() == 2


async def test_other_topics_keep_their_short_way() -> None:
    async with client(Controlled) as ws:
        hub = running_hub("default")
        assert hub is not None
        await ws.send(1)
        assert await ws.receive() == "joined"
        [plain] = hub.topics.members_of("room")
        [controlled] = hub.topics.members_of("control")
        assert plain.send is not None
        assert controlled.send is None


async def test_it_takes_turns_with_the_hook_in_which_it_was_joined() -> None:
    class Handler(Exclusive):
        topics = ()

        async def on_message(self, message: Any) -> None:
            async with self.alone("on_message"):
                await self.subscribe("control", self.on_control)
                await self.send("joined")
                await self.may_end.wait()

        async def on_control(self, topic: str, message: Any) -> None:
            async with self.alone("on_control"):
                await self.send(message)

    # Without a hook that takes turns from the start.
    for name in ("on_broadcast", "on_broadcast_gap"):
        setattr(Handler, name, getattr(WebSocketHandler, name))
    Plain: Any = type("Plain", (Handler,), {})
    assert not Plain._hooks.takes_turns
    async with client(Plain) as ws:
        await ws.send(1)
        assert await ws.receive() == "joined"
        await abroadcast("control", 1)
        await turns()
        assert Plain.entered == ["on_message"]
        Plain.may_end.set()
        assert await ws.receive() == 1
        await ws.send(2)  # hooks go on as always
        assert await ws.receive() == "joined"
    assert Plain.overlaps == []


async def test_joining_again_replaces_the_handler() -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            function = {"first": self.first, "second": self.second, "none": None}[message]
            await self.subscribe("a", function)
            await self.send("joined")

        async def first(self, topic: str, message: Any) -> None:
            await self.send(f"first {message}")

        async def second(self, topic: str, message: Any) -> None:
            await self.send(f"second {message}")

    async with client(Handler) as ws:
        for name, expected in [("first", "first 1"), ("second", "second 1"), ("none", 1)]:
            await ws.send(name)
            assert await ws.receive() == "joined"
            await abroadcast("a", 1)
            assert await ws.receive() == expected
            await ws.receive_nothing()


@pytest.mark.parametrize("waits", [False, True], ids=["confirmed", "not confirmed yet"])
async def test_a_topic_that_was_joined_without_one_may_get_a_handler(waits: bool) -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await self.subscribe("other", self.on_other)
            for topic in ("a", "b"):
                joining = self.subscribe(topic)
                if not waits:
                    await joining
                await self.subscribe(topic, self.on_topic)
                await joining
            await self.send("joined")

        async def on_topic(self, topic: str, message: Any) -> None:
            await self.send(f"{topic}: {message}")

        async def on_other(self, topic: str, message: Any) -> None: ...

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.receive() == "joined"
        for topic in ("a", "b"):
            await abroadcast(topic, 1)
            assert await ws.receive() == f"{topic}: 1"
        await ws.receive_nothing()


async def test_leaving_the_topic_forgets_the_handler() -> None:
    class Handler(Controlled):
        async def on_message(self, message: Any) -> None:
            if message == "leave":
                await self.unsubscribe("control")
            elif message == "plain":
                await self.subscribe("control")
            else:
                await self.subscribe("control", self.on_control)
            await self.send(sorted(self.subscriptions))

    async with client(Handler) as ws:
        await ws.send("join")
        assert await ws.receive() == ["control", "room"]
        await ws.send("leave")
        assert await ws.receive() == ["room"]
        await abroadcast("control", 1)
        await ws.receive_nothing()
        await ws.send("plain")
        assert await ws.receive() == ["control", "room"]
        await abroadcast("control", 2)
        assert await ws.receive() == 2


async def test_an_exception_in_it_is_that_of_a_hook(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(Controlled):
        async def on_control(self, topic: str, message: Any) -> None:
            raise ZeroDivisionError("in the handler")

    async with Peer(Handler) as peer:
        peer.say("1")
        await until(lambda: peer.texts)
        await abroadcast("control", 1)
        await peer.ended()
        assert [code for code, _ in peer.closes] == [1011]
    await until(lambda: "exception in the handler of the topic 'control'" in caplog.text)


async def test_what_the_connection_itself_has_broadcast_can_leave_it_out_there_too() -> None:
    class Handler(Controlled):
        async def on_message(self, message: Any) -> None:
            await self.subscribe("control", self.on_control)
            await self.broadcast("control", "not to me", exclude_self=True)
            await self.broadcast("control", "to all")

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.receive() == ["control", "to all"]


async def test_a_topic_that_the_backend_does_not_confirm_is_not_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Handler(Controlled):
        async def on_message(self, message: Any) -> None:
            hub = running_hub("default")
            assert hub is not None

            async def never(topics: Any) -> None:
                await asyncio.Event().wait()

            monkeypatch.setattr(hub.topics.backend, "subscribe", never)
            monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.SUBSCRIBE_SECONDS", 0.01)
            with pytest.raises(BroadcastError):
                await self.subscribe("control", self.on_control)
            await self.send(sorted(self.subscriptions))

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.receive() == ["room"]


@pytest.mark.django_db(transaction=True)
async def test_a_log_in_is_checked_by_such_a_topic_too() -> None:
    class Handler(Controlled):
        async def on_message(self, message: Any) -> None:
            await self.subscribe(user_topic(self.request.user), self.on_control)
            await self.send("joined")

    user = await User.objects.acreate(username="alice")
    async with client(Handler, user=user) as ws:
        await ws.send(1)
        assert await ws.receive() == "joined"
        await User.objects.filter(pk=user.pk).aupdate(is_active=False)
        hub = running_hub("default")
        assert hub is not None
        [member] = hub.topics.members_of(user_topic(user))
        member.check_login()
        assert await ws.wait_closed() == 4401


async def test_what_is_no_function_is_refused_at_the_call() -> None:
    async with Peer(WebSocketHandler) as peer:
        with pytest.raises(TypeError, match="give a function that takes topic and message"):
            peer.handler.subscribe("a", "on_control")
        assert peer.handler.subscriptions == frozenset()


async def test_a_gap_and_a_disconnect_reach_a_connection_by_such_a_topic_too(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    class Handler(Controlled):
        topics = ()

        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            await self.send(sorted(topics))

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.receive() == "joined"
        fickle.made[0].lose("control")
        assert await ws.receive() == ["control"]
        await adisconnect("control", code=4000)
        assert await ws.wait_closed() == 4000
