"""The topics of one connection: joining, leaving, what waits, what is told."""

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import PermissionDenied
from pytest_django import Settings

from django_ws import (
    ConnectionClosed,
    WebSocketHandler,
    abroadcast,
    adisconnect,
    user_topic,
)
from django_ws.exceptions import BroadcastError, InvalidTopic, TooManyTopics
from django_ws.pubsub.hub.addresses import addresses_of
from django_ws.pubsub.hub.registry import close_all
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, Peer, client, the_handler, turns, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)
from tests.support.handlers import Quiet

# Joining and leaving


async def test_subscribe_and_unsubscribe() -> None:
    async with client(Quiet) as ws:
        handler = the_handler()
        assert handler.subscriptions == frozenset()
        await handler.subscribe("a")
        await handler.subscribe(["b", "c"])
        assert handler.subscriptions == {"a", "b", "c"}
        await handler.unsubscribe(["a", "unknown"])
        assert handler.subscriptions == {"b", "c"}
        await abroadcast(["a", "b"], 1)
        assert await ws.receive() == 1
        await ws.receive_nothing()


async def test_a_topic_that_is_joined_twice_delivers_once() -> None:
    async with client(Quiet) as ws:
        await the_handler().subscribe("a")
        await the_handler().subscribe("a")
        await abroadcast("a", 1)
        assert await ws.receive() == 1
        await ws.receive_nothing()


async def test_a_sync_hook_blocks_until_it_has_joined() -> None:
    class Sync(WebSocketHandler):
        def on_open(self) -> None:
            self.subscribe("a")
            self.broadcast("a", sorted(self.subscriptions))
            self.unsubscribe("a")

    async with client(Sync) as ws:
        assert await ws.receive() == ["a"]


async def test_nothing_is_lost_between_the_confirmation_and_the_first_broadcast() -> None:
    async with client(Quiet) as ws:
        for number in range(50):
            await the_handler().subscribe(f"topic {number}")
            await abroadcast(f"topic {number}", number)
        assert [await ws.receive() for _ in range(50)] == list(range(50))


async def test_what_is_no_topic_fails_at_the_call() -> None:
    async with client(Quiet):
        with pytest.raises(InvalidTopic, match="reserved: use user_topic"):
            the_handler().subscribe("django_ws.user:1")
        with pytest.raises(InvalidTopic):
            the_handler().unsubscribe("")


async def test_more_topics_than_the_setting_allows(settings: Settings) -> None:
    settings.WS_MAX_TOPICS = 3
    async with client(Quiet):
        handler = the_handler()
        await handler.subscribe(["a", "b"])
        with pytest.raises(TooManyTopics, match="WS_MAX_TOPICS"):
            handler.subscribe(["c", "d"])
        await handler.subscribe(["b", "c"])
        assert len(handler.subscriptions) == 3


@pytest.mark.parametrize("opened", [False, True], ids=["handshake", "open"])
@pytest.mark.parametrize(
    ("topics", "shown"),
    [
        (["x" * 600], "InvalidTopic (not a topic: 'xxx"),
        ([5], "InvalidTopic (not a topic: 5"),
        (["a", "b", "c", "d"], "TooManyTopics (this connection has joined 3 topics"),
    ],
    ids=["long", "number", "many"],
)
async def test_what_a_client_chose_as_a_topic_is_no_error_of_the_sites(
    opened: bool,
    topics: list[Any],
    shown: str,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.WS_MAX_TOPICS = 3

    class Joining(WebSocketHandler):
        async def get_topics(self) -> Any:
            return [] if opened else topics

        async def on_message(self, message: Any) -> None:
            await self.subscribe(topics)

    if opened:
        async with Peer(Joining) as peer:
            peer.say("1")
            await peer.ended()
            assert [code for code, _ in peer.closes] == [4400]
    else:
        with pytest.raises(HandshakeRejected) as refused:
            async with client(Joining):
                pass
        assert refused.value.status == 400
    [record] = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert shown in record.getMessage()


async def test_after_the_close() -> None:
    async with Peer(Quiet) as peer:
        handler = peer.handler
        await handler.subscribe("a")
        await handler.close()
        assert handler.subscriptions == {"a"}  # as it was then
        await handler.unsubscribe("a")
        with pytest.raises(ConnectionClosed):
            await handler.subscribe("b")
        assert handler.subscriptions == {"a"}
        await peer.ended()
        with pytest.raises(ConnectionClosed):
            await handler.subscribe("a")
        await handler.unsubscribe("a")
        assert handler.subscriptions == frozenset()


async def test_what_was_joined_is_known_in_on_close() -> None:
    class Leaving(WebSocketHandler):
        topics = ("room",)

        async def on_message(self, message: Any) -> None:
            await self.subscribe(message)

        async def on_close(self) -> None:
            await self.broadcast(self.subscriptions, "has left")

    async with client(Leaving) as stays, WebSocketClient(PATH) as leaves:
        await leaves.send("other")
        await leaves.close()
        assert await stays.receive() == "has left"


async def test_a_handler_may_broadcast_its_own_end() -> None:
    class Leaving(WebSocketHandler):
        topics = ("room",)

        async def on_close(self) -> None:
            await self.broadcast("room", "left")

    async with client(Leaving) as stays, WebSocketClient(PATH) as leaves:
        await leaves.close()
        assert await stays.receive() == "left"


# From the start


async def test_get_topics_may_depend_on_the_request() -> None:
    class Room(WebSocketHandler):
        def get_topics(self) -> list[str]:
            return [f"room:{self.kwargs['room']}"]

    async with client(Room, url="ws/<room>/", at="/ws/lobby/") as ws:
        assert the_handler().subscriptions == {"room:lobby"}
        await abroadcast("room:lobby", 1)
        assert await ws.receive() == 1


async def test_get_topics_may_be_async_and_give_nothing() -> None:
    class Room(WebSocketHandler):
        async def get_topics(self) -> list[str]:
            return []

    async with client(Room):
        assert the_handler().subscriptions == frozenset()


@pytest.mark.parametrize(("error", "status"), [(PermissionDenied(), 403), (ValueError(), 500)])
async def test_get_topics_may_refuse(error: Exception, status: int) -> None:
    class Room(WebSocketHandler):
        def get_topics(self) -> list[str]:
            raise error

    with pytest.raises(HandshakeRejected) as caught:
        async with client(Room):
            pass
    assert caught.value.status == status


async def test_what_arrives_before_on_open_has_returned_waits_for_it() -> None:
    opening = asyncio.Event()

    class Room(WebSocketHandler):
        topics = ("room",)

        async def on_open(self) -> None:
            await opening.wait()
            await self.send("first")

    async with client(Room) as ws:
        await abroadcast("room", "second")
        await abroadcast("room", "third")
        await turns()
        opening.set()
        assert [await ws.receive() for _ in range(3)] == ["first", "second", "third"]


async def test_a_hook_too_waits_for_on_open() -> None:
    opening = asyncio.Event()
    called: list[Any] = []

    class Room(WebSocketHandler):
        topics = ("room",)

        async def on_open(self) -> None:
            await opening.wait()
            called.append("opened")

        async def on_broadcast(self, topic: str, message: Any) -> None:
            called.append(message)

    async with client(Room):
        await abroadcast("room", 1)
        await turns()
        assert called == []
        opening.set()
        await until(lambda: called == ["opened", 1])


# The hook


class Filter(WebSocketHandler):
    topics = ("room",)

    async def on_broadcast(self, topic: str, message: Any) -> None:
        if message["for"] == "everybody":
            await self.send([topic, message["text"]])


async def test_on_broadcast_sends_what_it_likes() -> None:
    async with client(Filter) as ws:
        await abroadcast("room", {"for": "staff", "text": "psst"})
        await abroadcast("room", {"for": "everybody", "text": "hi"})
        assert await ws.receive() == ["room", "hi"]


async def test_on_broadcast_may_be_a_plain_function() -> None:
    class Sync(WebSocketHandler):
        topics = ("room",)

        def on_broadcast(self, topic: str, message: Any) -> None:
            self.send([threading.current_thread() is threading.main_thread(), message])

    async with client(Sync) as ws:
        await abroadcast("room", 1)
        assert await ws.receive() == [False, 1]


async def test_with_concurrent_broadcasts_on_broadcast_may_overlap_on_message() -> None:
    going_on = asyncio.Event()
    running: list[int] = []

    class Slow(WebSocketHandler):
        topics = ("room",)
        concurrent_broadcasts = True

        async def on_broadcast(self, topic: str, message: Any) -> None:
            running.append(message)
            await going_on.wait()
            running.remove(message)
            await self.send(message)

        async def on_message(self, message: Any) -> None:
            await self.send("meanwhile")

    async with client(Slow) as ws:
        for number in range(5):
            await abroadcast("room", number)
        await until(lambda: running)
        await ws.send(1)
        assert await ws.receive() == "meanwhile"
        assert running == [0]
        going_on.set()
        assert [await ws.receive() for _ in range(5)] == list(range(5))


async def test_on_broadcast_gets_a_message_of_its_own() -> None:
    class Changing(WebSocketHandler):
        topics = ("room",)

        async def on_broadcast(self, topic: str, message: Any) -> None:
            message.append("seen")
            await self.send(message)

    async with client(Changing) as alice, WebSocketClient(PATH) as bob:
        await abroadcast("room", [])
        assert [await alice.receive(), await bob.receive()] == [["seen"], ["seen"]]


async def test_the_default_may_be_called() -> None:
    class Default(WebSocketHandler):
        topics = ("room",)

        async def on_broadcast(self, topic: str, message: Any) -> None:
            await super().on_broadcast(topic, message)

    async with client(Default) as ws:
        await abroadcast("room", 1)
        assert await ws.receive() == 1


async def test_an_error_in_on_broadcast_ends_that_connection_alone() -> None:
    errors: list[BaseException] = []

    class Failing(WebSocketHandler):
        topics = ("room",)

        async def on_broadcast(self, topic: str, message: Any) -> None:
            if self.request.GET:
                raise ValueError(message)
            await self.send(message)

        async def on_error(self, error: BaseException) -> None:
            errors.append(error)

    async with client(Failing) as good, WebSocketClient(f"{PATH}?bad") as bad:
        await abroadcast("room", "x")
        assert await good.receive() == "x"
        assert await bad.wait_closed() == 1011
    assert [str(error) for error in errors] == ["x"]


# Bounds


class Stuck(WebSocketHandler):
    topics = ("room",)
    going_on: asyncio.Event
    begun: ClassVar[list[str]] = []

    async def on_broadcast(self, topic: str, message: Any) -> None:
        self.begun.append(message)
        await self.going_on.wait()
        await self.send(message[0])


@pytest.fixture
def going_on(settings: Settings) -> asyncio.Event:
    settings.WS_SEND_BUFFER = 1000
    Stuck.going_on = asyncio.Event()
    Stuck.begun.clear()
    return Stuck.going_on


async def flood() -> None:
    """One is under way, two wait, and two more have no room."""
    await abroadcast("room", "0")
    await until(lambda: Stuck.begun)
    for number in range(1, 5):
        await abroadcast("room", str(number) + "x" * 300)
    await turns()


async def test_waiting_broadcasts_count_to_the_outbound_buffer(going_on: asyncio.Event) -> None:
    async with client(Stuck):
        handler = the_handler()
        await flood()
        assert (handler.closed, handler.close_code) == (True, 1013)
        going_on.set()


@pytest.mark.parametrize(("overflow", "received"), [("drop_oldest", "034"), ("drop_newest", "012")])
async def test_the_overflow_policy_counts_for_waiting_broadcasts(
    going_on: asyncio.Event, overflow: Any, received: str
) -> None:
    class Dropping(Stuck):
        send_overflow = overflow

    async with client(Dropping) as ws:
        handler = the_handler()
        await flood()
        going_on.set()
        assert [await ws.receive() for _ in range(3)] == list(received)
        assert handler.dropped == 2


async def test_dropping_the_oldest_ends_at_what_has_begun(
    settings: Settings, going_on: asyncio.Event
) -> None:
    class Dropping(Stuck):
        send_overflow = "drop_oldest"

    async with Peer(Dropping) as peer:
        peer.block()
        sending = peer.handler.send("x" * 2000)  # half sent already, and more than the bound
        await abroadcast("room", "0")
        await until(lambda: peer.handler.dropped == 1)
        peer.unblock()
        await sending


async def test_a_subscriber_that_does_not_read_holds_up_nobody() -> None:
    class Room(WebSocketHandler):
        topics = ("room",)

    async with Peer(Room) as stuck:
        stuck.block()
        async with WebSocketClient(PATH) as ws:
            for number in range(20):
                await abroadcast("room", number)
            assert [await ws.receive() for _ in range(20)] == list(range(20))
        stuck.unblock()
        await until(lambda: stuck.texts == [str(number) for number in range(20)])


async def test_a_large_room_leaves_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.time_slice.TURN_SECONDS", 0.0)

    class Room(WebSocketHandler):
        topics = ("room",)

    async with client(Room) as first:
        rest = [WebSocketClient(PATH) for _ in range(40)]
        for ws in rest:
            await ws.__aenter__()
        await abroadcast("room", 1)
        await first.receive()
        await the_handler().unsubscribe("room")  # the last, before its slice
        assert [await ws.receive() for ws in rest[:-1]] == [1] * 39
        await rest[-1].receive_nothing()
        for ws in rest:
            await ws.__aexit__(None, None, None)


async def test_who_changes_its_handler_while_a_broadcast_is_under_way_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.time_slice.TURN_SECONDS", 0.0)

    class Room(WebSocketHandler):
        topics = ("room",)

        async def on_topic(self, topic: str, message: Any) -> None:
            await self.send([topic, message])

    async with client(Room) as first, AsyncExitStack() as stack:
        others = [await stack.enter_async_context(WebSocketClient(PATH)) for _ in range(40)]
        last: Any = the_handler()
        await abroadcast("room", 1)
        await first.receive()
        await last.subscribe("room", last.on_topic)  # before its slice
        assert [await ws.receive() for ws in others[:-1]] == [1] * 39
        assert await others[-1].receive() in (1, ["room", 1])
        await others[-1].receive_nothing()
        await abroadcast("room", 2)
        assert await others[-1].receive() == ["room", 2]


async def test_a_large_room_is_served_to_the_last() -> None:
    class Room(WebSocketHandler):
        topics = ("room",)

    async with client(Room), AsyncExitStack() as stack:
        others = [await stack.enter_async_context(WebSocketClient(PATH)) for _ in range(40)]
        await abroadcast("room", 1)
        assert [await ws.receive() for ws in others] == [1] * 40


# Users


@pytest.fixture
def alice(transactional_db: None) -> User:
    return User.objects.create_user("alice")


async def test_user_topic_reaches_the_sockets_that_subscribe_to_it(alice: User) -> None:
    class Own(WebSocketHandler):
        def get_topics(self) -> list[str]:
            return [user_topic(self.request.user)]

    async with client(Own, user=alice) as ws:
        await abroadcast(user_topic(alice), "for alice")
        assert await ws.receive() == "for alice"


async def test_disconnect_of_a_user_ends_all_sockets_of_the_user_alone(alice: User) -> None:
    async with (
        client(Quiet, user=alice) as one,
        WebSocketClient(PATH, user=alice) as two,
        WebSocketClient(PATH) as anonymous,
    ):
        await adisconnect(user_topic(alice), code=4401, reason="logged out")
        for ws in (one, two):
            with pytest.raises(ConnectionClosed):
                await ws.receive()
            assert ws.close_code == 4401
        await anonymous.receive_nothing()


@pytest.mark.parametrize("user", [AnonymousUser(), User(username="not saved"), None])
def test_who_is_not_logged_in_has_no_topic(user: Any) -> None:
    with pytest.raises(ValueError, match="only a saved user"):
        user_topic(user)


# The backend


async def test_a_backend_that_does_not_confirm_is_told_after_a_while(
    fickle: type[FickleBackend],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.SUBSCRIBE_SECONDS", 0.02)
    monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.GRACE_SECONDS", 0.001)
    async with client(Quiet):
        handler = the_handler()
        await handler.subscribe("before")
        fickle.is_down = True
        with pytest.raises(BroadcastError, match="not confirmed"):
            await asyncio.gather(handler.subscribe("a"), handler.subscribe("a"))
        assert handler.subscriptions == {"before"}
        assert "subscribe('a') failed at fickle" in caplog.text
        await until(lambda: fickle.made[0].given_back == ["a"])
        await until(lambda: "unsubscribe failed" in caplog.text)
        fickle.is_down = False


async def test_a_handshake_without_its_topics_is_refused(
    fickle: type[FickleBackend],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.SUBSCRIBE_SECONDS", 0.02)
    fickle.is_down = True

    class Room(WebSocketHandler):
        topics = ("room",)

    with pytest.raises(HandshakeRejected) as caught:
        async with client(Room):
            pass
    assert caught.value.status == 503
    fickle.is_down = False


async def test_who_leaves_before_the_confirmation_waits_no_longer(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    async with client(Quiet) as ws:
        handler = the_handler()
        await handler.subscribe("before")
        fickle.is_down = True
        subscribing = handler.subscribe("a")
        handler.unsubscribe("a")
        await subscribing
        assert handler.subscriptions == {"before"}
        fickle.is_down = False
        await handler.subscribe("a")
        await abroadcast("a", 1)
        assert await ws.receive() == 1


async def test_a_topic_is_asked_for_once_and_given_back_after_the_last_has_left(
    fickle: type[FickleBackend],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.GRACE_SECONDS", 0.01)

    class Room(WebSocketHandler):
        topics = ("room", "hall")

    async with client(Room):
        handler = the_handler()
        async with WebSocketClient(PATH):
            pass
        backend = fickle.made[0]
        await turns()
        own = addresses_of(asyncio.get_running_loop()).topic
        assert sorted(backend.asked) == ["\0control", own, "hall", "room"]
        assert backend.given_back == []
        await handler.unsubscribe(["room", "hall"])
        await until(lambda: len(backend.given_back) == 2)
        assert sorted(backend.given_back) == ["hall", "room"]


async def test_a_page_that_reloads_finds_its_topic_still_there(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    class Room(WebSocketHandler):
        topics = ("room",)

    async with client(Room):
        handler = the_handler()
        await handler.unsubscribe("room")
        await handler.subscribe("room")
        assert fickle.made[0].asked.count("room") == 1


async def test_on_broadcast_gap_is_told_in_turn(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    class Room(WebSocketHandler):
        topics = ("a", "b", "c")

        async def on_broadcast(self, topic: str, message: Any) -> None:
            await self.send(message)

        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            await super().on_broadcast_gap(topics)
            await self.send(sorted(topics))

    async with client(Room) as ws:
        await abroadcast("a", 1)
        assert await ws.receive() == 1
        fickle.made[0].lose("a", "b", "unknown")
        await abroadcast("a", 2)
        assert [await ws.receive(), await ws.receive()] == [["a", "b"], 2]


async def test_a_gap_is_told_without_on_broadcast_too(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    class Room(WebSocketHandler):
        topics = ("a",)

        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            await self.send("gap")

    async with client(Room) as ws:
        for _ in range(3):
            fickle.made[0].lose("a")
            await abroadcast("a", 1)
            assert [await ws.receive(), await ws.receive()] == ["gap", 1]


async def test_a_gap_before_on_open_has_returned_waits_for_it(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    opening = asyncio.Event()

    class Room(WebSocketHandler):
        topics = ("a",)

        async def on_open(self) -> None:
            await opening.wait()

        async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
            await self.send("gap")

    async with client(Room) as ws:
        fickle.made[0].lose("a")
        await abroadcast("a", 1)
        await turns()
        opening.set()
        assert [await ws.receive(), await ws.receive()] == [1, "gap"]


async def test_who_has_no_hook_for_a_gap_hears_nothing_of_it(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    class Room(WebSocketHandler):
        topics = ("a",)

    async with client(Room) as ws:
        fickle.made[0].lose("a")
        await abroadcast("a", 1)
        assert await ws.receive() == 1


async def test_shutdown_publishes_what_waits_and_closes_the_backend(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    class Room(WebSocketHandler):
        topics = ("room",)

    async with client(Room):
        broadcasting = the_handler().broadcast("room", 1)
        await close_all()
        await broadcasting
        assert fickle.made[0].is_closed


def test_an_event_loop_that_was_closed_without_a_shutdown_is_forgotten(
    fickle: type[FickleBackend],  # noqa: F811
) -> None:
    async def visit() -> None:
        async with client(Quiet):
            await the_handler().subscribe("room")

    for _ in range(2):
        asyncio.run(visit())
    assert [backend.is_closed for backend in fickle.made] == [True, True]


async def test_disconnect_of_a_user_finds_sockets_of_other_aliases(
    settings: Settings, alice: User
) -> None:
    memory = "django_ws.pubsub.backends.memory.MemoryBackend"
    settings.WS_BROADCAST = {
        "default": {"BACKEND": memory},
        "other": {"BACKEND": memory, "PREFIX": "other:"},
    }

    class Other(WebSocketHandler):
        using = "other"

    async with client(Other, user=alice) as ws:
        await adisconnect(user_topic(alice))
        assert await ws.wait_closed() == 4403
