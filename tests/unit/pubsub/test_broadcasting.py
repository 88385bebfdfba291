"""Topics and broadcasts as handlers and their surroundings use them."""

import asyncio
import logging
import threading
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import transaction
from pytest_django import Settings

from django_ws import (
    ConnectionClosed,
    WebSocketHandler,
    abroadcast,
    adisconnect,
    broadcast,
    broadcast_on_commit,
    disconnect,
)
from django_ws.codecs import BytesCodec, MessagePackCodec, TextCodec
from django_ws.exceptions import BroadcastError, EncodeError, InvalidTopic
from django_ws.logs import throttled
from django_ws.pubsub import Publisher
from django_ws.pubsub.backends.memory import MemoryPublisher
from django_ws.testing import WebSocketClient
from tests.support.asgi_peer import PATH, SECONDS, client, route, the_handler, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)


class Room(WebSocketHandler):
    topics = ("room",)

    async def on_message(self, message: Any) -> None:
        await getattr(self, message["do"])(*message["with"])


async def in_thread(function: Any, *args: Any, **kwargs: Any) -> Any:
    return await asyncio.to_thread(function, *args, **kwargs)


async def test_a_broadcast_reaches_every_subscriber() -> None:
    async with client(Room) as alice, WebSocketClient(PATH) as bob:
        await abroadcast("room", {"text": "hi"})
        assert await alice.receive() == {"text": "hi"}
        assert await bob.receive() == {"text": "hi"}


async def test_nobody_else_gets_it() -> None:
    async with client(Room) as ws:
        await abroadcast("another room", 1)
        await abroadcast("room", 2)
        assert await ws.receive() == 2


async def test_a_handler_broadcasts_to_itself_and_others() -> None:
    async with client(Room) as alice, WebSocketClient(PATH) as bob:
        await alice.send({"do": "broadcast", "with": ["room", 1]})
        assert [await alice.receive(), await bob.receive()] == [1, 1]


async def test_exclude_self() -> None:
    async with client(Room) as alice, WebSocketClient(PATH) as bob:
        await alice.send({"do": "broadcast", "with": ["room", 1, True]})
        assert await bob.receive() == 1
        await alice.receive_nothing()


async def test_exclude_names_a_connection_id() -> None:
    async with client(Room) as alice, WebSocketClient(PATH) as bob:
        await in_thread(broadcast, "room", 1, exclude=the_handler().id)
        assert await alice.receive() == 1
        await bob.receive_nothing()


@pytest.mark.parametrize("awaited", [True, False])
async def test_broadcasts_of_one_publisher_keep_their_order(awaited: bool) -> None:
    async with client(Room) as ws:
        for number in range(1000):
            broadcasting = the_handler().broadcast("room", number)
            if awaited:
                await broadcasting
        assert [await ws.receive() for _ in range(1000)] == list(range(1000))


async def test_several_topics_in_one_call() -> None:
    class Both(WebSocketHandler):
        topics = ("a", "b")

    async with client(Both) as ws:
        await abroadcast(["a", "b", "a"], 1)
        assert await ws.receive() == 1
        await ws.receive_nothing()


async def test_broadcast_in_async_code_names_the_other_function() -> None:
    with pytest.raises(SynchronousOnlyOperation, match="abroadcast"):
        broadcast("room", 1)
    with pytest.raises(SynchronousOnlyOperation, match="adisconnect"):
        disconnect("room")


async def test_from_threads() -> None:
    async with client(Room) as ws:
        await asyncio.gather(*(in_thread(broadcast, "room", number) for number in range(20)))
        assert {await ws.receive() for _ in range(20)} == set(range(20))


async def test_from_a_sync_hook() -> None:
    class Sync(WebSocketHandler):
        topics = ("room",)

        def on_message(self, message: Any) -> None:
            self.broadcast("room", message)
            broadcast("room", message + 1)

    async with client(Sync) as ws:
        await ws.send(1)
        assert [await ws.receive(), await ws.receive()] == [1, 2]


async def test_from_other_event_loops_one_after_the_other() -> None:
    def run_three() -> None:
        for number in range(3):
            asyncio.run(abroadcast("room", number))

    async with client(Room) as ws:
        await in_thread(run_three)
        assert [await ws.receive() for _ in range(3)] == [0, 1, 2]


async def test_to_connections_of_another_event_loop() -> None:
    def other_loop() -> Any:
        with WebSocketClient(PATH) as ws:
            opened.set()
            return ws.receive()

    opened = threading.Event()
    with route(Room):
        receiving = asyncio.ensure_future(in_thread(other_loop))
        await in_thread(opened.wait, SECONDS)
        await abroadcast("room", 1)
        assert await receiving == 1


def test_sync_tests_broadcast_to_a_client() -> None:
    with route(Room), WebSocketClient(PATH) as ws:
        broadcast("room", {"text": "hi"})
        assert ws.receive() == {"text": "hi"}


async def test_a_process_without_django_publishes_with_a_publisher() -> None:
    def publish() -> None:
        with Publisher(None, backend=MemoryPublisher) as publisher:
            publisher.broadcast(["room", "another"], 1)

    async with client(Room) as ws:
        await in_thread(publish)
        assert await ws.receive() == 1


# What is sent


@pytest.mark.parametrize("codec", [MessagePackCodec(), TextCodec(), BytesCodec()])
async def test_every_codec_gets_its_own_form(codec: Any) -> None:
    class Other(Room):
        pass

    Other.codec = codec
    text: Any = codec.encode("é") if not isinstance(codec, BytesCodec) else None
    async with client(Other) as ws:
        await abroadcast("room", "é")
        if text is None:  # text is nothing that BytesCodec can send
            await ws.receive_nothing()
            assert the_handler().dropped == 1
        else:
            assert await ws.receive_data() == text


async def test_bytes_travel_as_they_are() -> None:
    async with client(Room) as ws:
        await abroadcast("room", bytes(range(256)))
        assert await ws.receive_data() == bytes(range(256))


async def test_bytes_inside_a_message_fail_at_the_call_whatever_the_codec_of_the_receivers() -> (
    None
):
    class Packed(Room):
        codec = MessagePackCodec()

        async def on_message(self, message: Any) -> None:
            await self.send({"echo": message})

    async with client(Packed, codec=MessagePackCodec()) as ws:
        for broadcasting in (abroadcast, the_handler().broadcast):
            with pytest.raises(EncodeError, match="bytes, which JSON has not") as caught:
                await broadcasting("room", {"a": [1, b"x"]})
            assert caught.value.path == '$["a"][1]'
        await ws.send({"a": [1, b"\xff"]})  # by MessagePack alone
        assert await ws.receive() == {"echo": {"a": [1, b"\xff"]}}


async def test_what_a_codec_cannot_encode_is_counted_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Texts(Room):
        codec = TextCodec()

    async with client(Texts) as ws:
        await abroadcast("room", {"a": 1})
        await abroadcast("room", "text")
        assert await ws.receive_data() == "text"
        assert the_handler().dropped == 1
    assert "a broadcast to 'room' was not sent" in caplog.text


async def test_an_unencodable_message_fails_at_the_call() -> None:
    async with client(Room):
        with pytest.raises(EncodeError):
            the_handler().broadcast("room", object())
    with pytest.raises(EncodeError):
        await abroadcast("room", object())


@pytest.mark.parametrize("topic", ["", "\0a", "x" * 513, "\ud800", 3, None, "django_ws.user:1"])
async def test_what_is_no_topic_fails_at_the_call(topic: Any) -> None:
    with pytest.raises(InvalidTopic):
        await abroadcast(topic, 1)
    with pytest.raises(InvalidTopic):
        await abroadcast([topic], 1)


@pytest.mark.parametrize("topics", [b"room", 3])
async def test_topics_are_one_str_or_several(topics: Any) -> None:
    with pytest.raises(InvalidTopic):
        await abroadcast(topics, 1)


@pytest.mark.parametrize("topic", ["x" * 512, "räume/1 🙂", "*", "{a}", " "])
async def test_a_topic_is_any_other_text(topic: str) -> None:
    class Any_(WebSocketHandler):
        topics = (topic,)

    async with client(Any_) as ws:
        await abroadcast(topic, 1)
        assert await ws.receive() == 1


async def test_what_another_version_published_is_told_and_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    publisher = MemoryPublisher(None, "django_ws:", {})
    async with client(Room) as ws:
        publisher.publish([("room", b"2J;\n1")] * 3)
        await abroadcast("room", 1)
        assert await ws.receive() == 1
        throttled.flush_all()
    first, count = [text for text in caplog.messages if "in an unknown envelope" in text]
    assert first.startswith("dropped: ")
    assert count.startswith("Further broadcasts in an unknown envelope in 10 s: 2. The last: ")


async def test_what_cannot_be_read_is_logged_and_the_next_broadcast_arrives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client(Room) as ws:
        MemoryPublisher(None, "django_ws:", {}).publish([("room", b"1D;\nno JSON")])
        await abroadcast("room", 1)
        assert await ws.receive() == 1
    assert "could not be handed on" in caplog.text


# On commit


@pytest.mark.django_db(transaction=True)
class TestOnCommit:
    async def test_a_commit_sends(self) -> None:
        def work() -> None:
            with transaction.atomic():
                message = {"n": 1}
                broadcast_on_commit("room", message)
                message["n"] = 2
                broadcast("room", "before")

        async with client(Room) as ws:
            await sync_to_async(work)()
            assert [await ws.receive(), await ws.receive()] == ["before", {"n": 1}]

    async def test_a_rollback_does_not(self) -> None:
        def work() -> None:
            with transaction.atomic():
                broadcast_on_commit("room", 1)
                transaction.set_rollback(True)

        async with client(Room) as ws:
            await sync_to_async(work)()
            await ws.receive_nothing()

    def test_encodes_at_the_call(self) -> None:
        with transaction.atomic(), pytest.raises(EncodeError):
            broadcast_on_commit("room", object())

    def test_a_failure_after_the_commit_is_logged(
        self,
        fickle: type[FickleBackend],  # noqa: F811
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fickle.is_down = True
        with transaction.atomic():
            broadcast_on_commit("room", 1)
        assert "it is down" in caplog.text


# Failure


async def test_a_broadcast_that_the_backend_did_not_take_raises(
    fickle: type[FickleBackend],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client(Room) as ws:
        fickle.is_down = True
        with pytest.raises(BroadcastError, match="it is down"):
            await abroadcast("room", 1)
        with pytest.raises(BroadcastError, match="it is down"):
            await in_thread(broadcast, "room", 1)
        fickle.is_down = False
        await abroadcast("room", 2)
        assert await ws.receive() == 2
    assert "lost" not in caplog.text  # who broadcast has been told


async def test_a_hook_that_does_not_await_its_broadcast_is_not_interrupted_by_its_failure(
    fickle: type[FickleBackend],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Sending(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            for _ in range(3):
                self.broadcast("room", "x" * 500)
            await self.send("done")

    monkeypatch.setattr("django_ws.pubsub.outbox.outbox.MAX_WAITING_BYTES", 1000)
    async with client(Sending) as ws:
        fickle.is_down = True
        await ws.send(1)
        assert await ws.receive() == "done"
        await until(lambda: caplog.text.count("lost") == 2)
    assert "it is down" in caplog.text
    assert "wait to be published" in caplog.text


@pytest.mark.parametrize("exclude", ['\n{"text":"evil"}', "a;b", "\ud800", "\xe9", 7, b"a"])
async def test_what_cannot_be_a_connection_id_is_no_exclude(exclude: Any) -> None:
    with pytest.raises(ValueError, match="give the id of a connection"):
        await abroadcast("room", 1, exclude=exclude)
    with pytest.raises(ValueError, match="give the id of a connection"):
        broadcast_on_commit("room", 1, exclude=exclude)
    publisher = Publisher(None, backend=MemoryPublisher)
    with pytest.raises(ValueError, match="give the id of a connection"):
        publisher.broadcast("room", b"data", exclude=exclude)


async def test_large_numbers_go_out_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_ws.pubsub.outbox.publish_queue.MAX_BATCH", 3)
    async with client(Room) as ws:
        for number in range(10):
            the_handler().broadcast("room", number)
        assert [await ws.receive() for _ in range(10)] == list(range(10))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"default": {"BACKEND": "no.such.Backend"}}, "cannot import 'no.such.Backend'"),
        ({"default": {"BACKEND": "tests.support.asgi_peer.Peer"}}, "no subclass"),
        ({"default": {"BACKEND": "tests.support.asgi_peer.until"}}, "no subclass"),
    ],
)
async def test_a_wrong_backend_is_named(settings: Settings, setting: Any, says: str) -> None:
    settings.WS_BROADCAST = setting
    with pytest.raises(ImproperlyConfigured, match=says):
        await abroadcast("room", 1)


async def test_an_unknown_alias_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match="no 'other', only 'default'"):
        await abroadcast("room", 1, using="other")


async def test_aliases_are_apart(settings: Settings) -> None:
    memory = "django_ws.pubsub.backends.memory.MemoryBackend"
    settings.WS_BROADCAST = {
        "default": {"BACKEND": memory},
        "other": {"BACKEND": memory, "PREFIX": "other:"},
    }

    class Other(Room):
        using = "other"

    async with client(Other) as ws:
        await abroadcast("room", 1)
        await abroadcast("room", 2, using="other")
        await in_thread(broadcast, "room", 3, using="other")
        assert [await ws.receive(), await ws.receive()] == [2, 3]


# Disconnecting


async def test_disconnect_ends_the_subscribers_of_a_topic() -> None:
    class Elsewhere(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await self.subscribe(message)
            await self.send("joined")

    async with client(Elsewhere) as inside, WebSocketClient(PATH) as outside:
        await inside.send("room")
        await inside.receive()
        await adisconnect("room", code=4001, reason="bye")
        with pytest.raises(ConnectionClosed):
            await inside.receive()
        assert (inside.close_code, inside.close_reason) == (4001, "bye")
        await outside.receive_nothing()


async def test_disconnect_keeps_the_order_behind_broadcasts() -> None:
    async with client(Room) as ws:
        await in_thread(broadcast, "room", "the last word")
        await in_thread(disconnect, "room")
        assert await ws.receive() == "the last word"
        with pytest.raises(ConnectionClosed):
            await ws.receive()
        assert ws.close_code == 4403


async def test_disconnect_of_many_leaves_the_loop_its_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.time_slice.TURN_SECONDS", 0.0)
    async with client(Room) as alice, WebSocketClient(PATH) as bob:
        await adisconnect("room")
        for ws in (alice, bob):
            with pytest.raises(ConnectionClosed):
                await ws.receive()


@pytest.mark.parametrize("code", [999, 1005, 5000])
async def test_disconnect_refuses_codes_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(ValueError, match="may be sent"):
        await adisconnect("room", code=code)


async def test_disconnect_refuses_a_reason_that_is_no_text() -> None:
    with pytest.raises(TypeError, match="give a str"):
        await adisconnect("room", reason=None)  # type: ignore[arg-type]


async def test_handlers_of_connections_that_are_being_closed_get_nothing() -> None:
    class Slow(Room):
        async def on_close(self) -> None:
            await abroadcast("room", 1)

    async with client(Slow) as ws:
        handler = the_handler()
        await ws.close()
        await until(lambda: handler._life is None)
        assert handler.dropped == 0


async def test_a_log_line_names_what_cannot_be_dispatched(
    fickle: type[FickleBackend],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.pubsub.hub.hub.RESTART_SECONDS", 0.001)
    caplog.set_level(logging.INFO)
    async with client(Room) as ws:
        fickle.made[0].crash()
        await until(lambda: len(fickle.made) == 2)
        await until(lambda: "room" in fickle.made[1].asked)
        await asyncio.sleep(0)
        await abroadcast("room", 1)
        assert await ws.receive() == 1
        assert fickle.made[0].is_closed
    assert "a defect in the backend" in caplog.text
