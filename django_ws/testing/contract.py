"""The tests that every backend must pass, also those of other packages."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any, ClassVar

from django_ws.pubsub.backends.base import Backend, Gap, SyncPublisher

Message = tuple[str, bytes]

EVERY_BYTE = bytes(range(256))
TOPICS = [
    "room",
    "room:42",
    "rooms",
    "ROOM",
    " room ",
    "a b\tc\r\nd",
    "😀 чат 部屋",
    "e\u0301",  # is not the composed one
    "\xe9",
    "{tag}room",
    "{",
    "}{",
    "{}",
    "*",
    "room*",
    "r?om",
    "[r]oom",
    "[a-z]*",
    "\\",
    "%s%(x)d",
    "'\"`;--",
    "\x00control",  # begins as the library's own
    "a",
    "a\0",
    "a\0b",
    "\x7f\x1b[0m",
    "x" * 512,
    "€" * 170 + "xy",
]


class Listener:
    """A started backend, and what its stream has given so far."""

    def __init__(self, backend: Backend, seconds: float) -> None:
        self.backend = backend
        self.seconds = seconds
        self.gaps: list[Gap] = []
        self._received: asyncio.Queue[Message] = asyncio.Queue()

    async def read(self) -> None:
        """Until the stream ends; as the hub does."""
        async for first in self.backend.stream():
            for received in (first, *self.backend.read_nowait()):
                if isinstance(received, Gap):
                    self.gaps.append(received)
                else:
                    self._received.put_nowait(received)

    async def receive(self, count: int) -> list[Message]:
        """The next messages. Says what has come when they do not come in time."""
        received: list[Message] = []
        try:
            async with asyncio.timeout(self.seconds):
                while len(received) < count:
                    received.append(await self._received.get())
        except TimeoutError:
            raise AssertionError(
                f"{len(received)} of {count} messages in {self.seconds:g} s, "
                f"the last ones: {_shown(received[-3:])}"
            ) from None
        return received

    async def receive_nothing(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        received = self.waiting()
        assert not received, f"arrived, and should not have: {_shown(received)}"

    def waiting(self) -> list[Message]:
        """What has come and was not asked for."""
        return [self._received.get_nowait() for _ in range(self._received.qsize())]


def _shown(messages: Iterable[Message]) -> str:
    return ", ".join(f"{topic!r}: {data[:40]!r}" for topic, data in messages)


class BackendContract:
    """The tests of a backend. Subclass it where pytest finds it, and name the backend::

        class TestMyBackend(BackendContract):
            backend_class = MyBackend

            @pytest.fixture(autouse=True)
            def server(self, my_server):        # a fixture that starts a real server
                self.location = my_server.url
                self.options = {}               # if it needs any

    The tests are coroutines: use pytest-asyncio with ``asyncio_mode = "auto"``, or mark the
    class with ``@pytest.mark.asyncio``. For failures that show their values, write
    ``pytest.register_assert_rewrite("django_ws.testing.contract")`` in the ``conftest.py``.

    They show what a backend promises while its server is up. That it comes back after its
    server was away, and then tells a ``Gap``, is for tests that know how to stop the server.
    """

    backend_class: ClassVar[type[Backend]]
    location: Any = None
    options: Mapping[str, Any] = {}
    seconds: float = 10.0  # the longest wait for what must come
    quiet_seconds: float = 0.1  # the wait for what must not come
    many: int = 3_000  # messages, where the order is looked at

    # What the tests use

    @property
    def prefix(self) -> str:
        """One for each test: many of them can share a server."""
        self.__dict__.setdefault("_prefix", f"contract-{uuid.uuid4().hex}:")
        prefix: str = self.__dict__["_prefix"]
        return prefix

    def make_backend(self, prefix: str | None = None) -> Backend:
        return self.backend_class.for_location(
            self.location, self.prefix if prefix is None else prefix, self.options
        )

    def make_publisher(self) -> SyncPublisher:
        kind = self.backend_class.sync_publisher
        return kind.for_location(self.location, self.prefix, self.options)

    @asynccontextmanager
    async def listening(
        self, topics: Collection[str] = (), prefix: str | None = None
    ) -> AsyncIterator[Listener]:
        """A backend that is connected, read and subscribed; closed, and looked at, at the end."""
        listener = Listener(self.make_backend(prefix), self.seconds)
        await listener.backend.connect()
        reading = asyncio.create_task(listener.read(), name="contract.read")
        try:
            async with asyncio.timeout(self.seconds):
                await listener.backend.subscribe(topics)
            yield listener
        finally:
            await listener.backend.close()
            async with asyncio.timeout(self.seconds):
                await reading  # the stream has ended
        assert not listener.gaps, f"nothing was lost, and yet: {listener.gaps}"

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[SyncPublisher]:
        publisher = self.make_publisher()
        try:
            yield publisher
        finally:
            await asyncio.to_thread(publisher.close)

    async def publish_both_ways(
        self, listener: Listener, messages: Sequence[Message]
    ) -> list[Message]:
        """Publish from async and from sync code; returns what arrived for it, sorted."""
        async with self.publishing() as publisher:
            await listener.backend.publish_many(messages)
            await asyncio.to_thread(publisher.publish, messages)
            received = await listener.receive(2 * len(messages))
        return sorted(received)

    # What arrives

    async def test_what_is_published_after_subscribe_arrives(self) -> None:
        async with self.listening() as listener:
            for number in range(20):
                topic, data = f"room {number}", f"hi {number}".encode()
                async with asyncio.timeout(self.seconds):
                    await listener.backend.subscribe([topic])
                assert listener.backend.is_confirmed(topic)
                await listener.backend.publish(topic, data)
                assert await listener.receive(1) == [(topic, data)]

    async def test_what_is_published_from_sync_code_after_subscribe_arrives(self) -> None:
        async with self.listening() as listener, self.publishing() as publisher:
            for number in range(20):
                topic, data = f"room {number}", f"hi {number}".encode()
                async with asyncio.timeout(self.seconds):
                    await listener.backend.subscribe([topic])
                await asyncio.to_thread(publisher.publish, [(topic, data)])
                assert await listener.receive(1) == [(topic, data)]

    async def test_topic_and_data_come_as_str_and_bytes(self) -> None:
        async with self.listening(["room"]) as listener:
            for topic, data in await self.publish_both_ways(listener, [("room", b"hi")]):
                assert (type(topic), type(data)) == (str, bytes)

    async def test_topics_of_any_characters(self) -> None:
        messages = [(topic, f"{number}".encode()) for number, topic in enumerate(TOPICS)]
        async with self.listening(TOPICS) as listener:
            received = await self.publish_both_ways(listener, messages)
            assert received == sorted(2 * messages)  # each by its own topic, and by no other
            await listener.receive_nothing(self.quiet_seconds)

    async def test_data_of_any_bytes(self) -> None:
        messages = [("room", EVERY_BYTE), ("room", b"\r\n$3\r\n"), ("room", b"\0"), ("room", b"")]
        async with self.listening(["room"]) as listener:
            assert await self.publish_both_ways(listener, messages) == sorted(2 * messages)

    async def test_data_of_one_megabyte(self) -> None:
        data = EVERY_BYTE * 4096
        async with self.listening(["room"]) as listener:
            assert await self.publish_both_ways(listener, [("room", data)]) == 2 * [("room", data)]

    async def test_nothing_to_publish_and_nothing_to_subscribe_to(self) -> None:
        async with self.listening(["room"]) as listener, self.publishing() as publisher:
            await listener.backend.publish_many([])
            await asyncio.to_thread(publisher.publish, [])
            async with asyncio.timeout(self.seconds):
                await listener.backend.subscribe([])
            await listener.backend.unsubscribe([])
            await listener.backend.publish("room", b"hi")
            assert await listener.receive(1) == [("room", b"hi")]

    async def test_many_topics(self) -> None:
        topics = [f"room {number}" for number in range(1000)]
        messages = [(topic, topic.encode()) for topic in topics]
        async with self.listening(topics) as listener:
            await listener.backend.publish_many(messages)
            assert sorted(await listener.receive(len(topics))) == sorted(messages)
            await listener.backend.unsubscribe(topics)

    async def test_a_publisher_need_not_listen(self) -> None:
        async with self.listening(["room"]) as listener, self.listening() as publisher:
            await publisher.backend.publish("room", b"hi")
            assert await listener.receive(1) == [("room", b"hi")]
            await publisher.receive_nothing(self.quiet_seconds)

    async def test_two_backends_in_one_loop_both_get_it(self) -> None:
        async with self.listening(["room"]) as first, self.listening(["room"]) as second:
            for listener in (first, second):
                await listener.backend.publish("room", b"hi")
                assert await first.receive(1) == [("room", b"hi")]
                assert await second.receive(1) == [("room", b"hi")]
            await first.backend.unsubscribe(["room"])
            await second.backend.publish("room", b"still")
            assert await second.receive(1) == [("room", b"still")]

    async def test_another_prefix_hears_nothing(self) -> None:
        async with (
            self.listening(["room"]) as listener,
            self.listening(["room"], prefix=f"{self.prefix}x") as longer,
            self.listening(["room"], prefix=self.prefix[:-1]) as shorter,
            self.listening(["room"], prefix="") as bare,
        ):
            await listener.backend.publish("room", b"hi")
            assert await listener.receive(1) == [("room", b"hi")]
            for other in (longer, shorter, bare):
                await other.receive_nothing(self.quiet_seconds)

    async def test_no_topic_reaches_into_another_prefix(self) -> None:
        """Visitors may name topics as they like; another site's prefix may begin with ours."""
        prefix = self.prefix
        topics = ["room", "eu:room", "\0eu:room", "\xffroom", "eu:\xffroom"]
        async with (
            self.listening(["room"], prefix=f"{prefix}eu:") as longer,
            self.listening([f"{prefix}room"], prefix="") as bare,
            self.listening(topics) as listener,
        ):
            messages = [(topic, topic.encode()) for topic in topics]
            received = await self.publish_both_ways(listener, messages)
            assert received == sorted(2 * messages)
            for other in (longer, bare):
                await other.receive_nothing(self.quiet_seconds)
            for other, topic in ((longer, "room"), (bare, f"{prefix}room")):
                await other.backend.publish(topic, b"its own")
                assert await other.receive(1) == [(topic, b"its own")]
            await listener.receive_nothing(self.quiet_seconds)

    # Subscribing

    async def test_nothing_arrives_without_a_subscription(self) -> None:
        async with self.listening(["room"]) as listener:
            others = [(topic, b"no") for topic in ("roo", "rooms", "Room", "", "room ", "*")]
            await listener.backend.publish_many([m for m in others if m[0]])
            await listener.backend.publish("room", b"yes")
            assert await listener.receive(1) == [("room", b"yes")]
            await listener.receive_nothing(self.quiet_seconds)

    async def test_a_topic_given_back_is_silent_and_the_others_are_not(self) -> None:
        async with self.listening(["room", "kept"]) as listener:
            await listener.backend.unsubscribe(["room"])
            end = time.monotonic() + self.seconds
            while True:  # the server may not know it yet
                await listener.backend.publish_many([("room", b"no"), ("kept", b"yes")])
                await asyncio.sleep(self.quiet_seconds)
                received = listener.waiting()
                assert ("kept", b"yes") in received
                if received == [("kept", b"yes")]:
                    break
                assert time.monotonic() < end, "it still arrives"

    async def test_subscribing_twice_is_subscribing_once(self) -> None:
        async with self.listening(["room"]) as listener:
            async with asyncio.timeout(self.seconds):
                await listener.backend.subscribe(["room", "room"])
            await listener.backend.publish("room", b"hi")
            assert await listener.receive(1) == [("room", b"hi")]
            await listener.receive_nothing(self.quiet_seconds)
            await listener.backend.unsubscribe(["room"])
            async with asyncio.timeout(self.seconds):
                await listener.backend.subscribe(["kept"])
            await listener.backend.publish("kept", b"hi")
            assert await listener.receive(1) == [("kept", b"hi")]

    async def test_many_callers_subscribe_to_one_topic_at_once(self) -> None:
        async with self.listening() as listener:

            async def join(number: int) -> None:
                await listener.backend.subscribe(["room"])
                await listener.backend.publish("room", f"{number}".encode())

            async with asyncio.timeout(self.seconds):
                await asyncio.gather(*(join(number) for number in range(100)))
            received = await listener.receive(100)  # each its own, and none of them twice
            assert sorted(received) == sorted(("room", f"{n}".encode()) for n in range(100))
            await listener.receive_nothing(self.quiet_seconds)

    async def test_callers_with_topics_in_common(self) -> None:
        async with self.listening() as listener:

            async def join(number: int) -> None:
                await listener.backend.subscribe(["room", f"room {number}"])
                await listener.backend.publish(f"room {number}", b"hi")

            async with asyncio.timeout(self.seconds):
                await asyncio.gather(*(join(number) for number in range(50)))
            received = await listener.receive(50)
            assert sorted(received) == sorted((f"room {n}", b"hi") for n in range(50))

    async def test_subscribing_again_at_once_after_giving_back(self) -> None:
        async with self.listening(["room"]) as listener:
            for number in range(20):
                await listener.backend.unsubscribe(["room"])
                async with asyncio.timeout(self.seconds):
                    await listener.backend.subscribe(["room"])
                await listener.backend.publish("room", f"{number}".encode())
                assert await listener.receive(1) == [("room", f"{number}".encode())]

    async def test_a_cancelled_subscribe_can_be_taken_back_and_asked_for_again(self) -> None:
        async with self.listening(["kept"]) as listener:
            for steps in range(10):
                subscribing = asyncio.create_task(listener.backend.subscribe(["room"]))
                for _ in range(steps):
                    await asyncio.sleep(0)
                subscribing.cancel()
                await asyncio.wait([subscribing])
                await listener.backend.unsubscribe(["room"])
            async with asyncio.timeout(self.seconds):
                await listener.backend.subscribe(["room"])
            await listener.backend.publish("room", b"hi")
            await listener.backend.publish("kept", b"hi")
            assert sorted(await listener.receive(2)) == [("kept", b"hi"), ("room", b"hi")]

    async def test_a_cancelled_caller_leaves_the_others_subscribed(self) -> None:
        async with self.listening() as listener:
            callers = [asyncio.create_task(listener.backend.subscribe(["room"])) for _ in range(10)]
            await asyncio.sleep(0)
            for caller in callers[::2]:
                caller.cancel()
            async with asyncio.timeout(self.seconds):
                await asyncio.gather(*callers[1::2])
            await asyncio.wait(callers)
            await listener.backend.publish("room", b"hi")
            assert await listener.receive(1) == [("room", b"hi")]

    async def test_giving_back_unknown_topics_does_nothing(self) -> None:
        async with self.listening(["room"]) as listener:
            await listener.backend.unsubscribe(["never", "room 2"])
            await listener.backend.publish("room", b"hi")
            assert await listener.receive(1) == [("room", b"hi")]

    # Order

    async def test_the_order_of_one_publisher(self) -> None:
        expected = [("room", f"{number}".encode()) for number in range(self.many)]
        async with self.listening(["room"]) as listener:
            for topic, data in expected:
                await listener.backend.publish(topic, data)
            assert await listener.receive(self.many) == expected

    async def test_publish_many_keeps_the_order(self) -> None:
        expected = [(f"room {n % 3}", f"{n // 3}".encode()) for n in range(self.many)]
        async with self.listening([f"room {n}" for n in range(3)]) as listener:
            for begin in range(0, self.many, 100):
                await listener.backend.publish_many(expected[begin : begin + 100])
            assert _by_topic(await listener.receive(self.many)) == _by_topic(expected)

    async def test_the_order_of_one_sync_publisher(self) -> None:
        expected = [("room", f"{number}".encode()) for number in range(self.many)]
        async with self.listening(["room"]) as listener, self.publishing() as publisher:

            def publish() -> None:
                publisher.publish(expected[: self.many // 2])
                for begin in range(self.many // 2, self.many):
                    publisher.publish(expected[begin : begin + 1])

            await asyncio.to_thread(publish)
            assert await listener.receive(self.many) == expected

    async def test_several_threads_share_a_publisher_and_each_keeps_its_order(self) -> None:
        threads, each = 8, self.many // 8
        together = threading.Barrier(threads)
        async with self.listening(["room"]) as listener, self.publishing() as publisher:

            def publish(thread: int) -> None:
                together.wait(self.seconds)
                for number in range(each):
                    publisher.publish([("room", f"{thread}:{number}".encode())])

            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(threads) as pool:  # asyncio's own may have fewer
                await asyncio.gather(
                    *(loop.run_in_executor(pool, publish, t) for t in range(threads))
                )
            received = [
                data.decode().split(":") for _, data in await listener.receive(threads * each)
            ]
        for thread in range(threads):
            assert [int(n) for t, n in received if t == f"{thread}"] == list(range(each))

    # Life

    async def test_each_asyncio_run_can_publish_and_listen(self) -> None:
        async with self.listening(["room"]) as listener, self.publishing() as publisher:

            async def visit(number: int) -> None:
                publisher.publish([("room", f"{number} sync".encode())])
                async with self.listening(["own"]) as own:
                    await own.backend.publish("room", f"{number} async".encode())
                    await own.backend.publish("own", b"hi")
                    assert await own.receive(1) == [("own", b"hi")]

            for number in range(3):
                await asyncio.to_thread(asyncio.run, visit(number))
            assert [data for _, data in await listener.receive(6)] == [
                f"{number} {way}".encode() for number in range(3) for way in ("sync", "async")
            ]

    async def test_a_sync_publisher_that_was_closed_publishes_again(self) -> None:
        async with self.listening(["room"]) as listener, self.publishing() as publisher:
            for data in (b"1", b"2", b"3"):
                await asyncio.to_thread(publisher.publish, [("room", data)])
                await asyncio.to_thread(publisher.close)
                await asyncio.to_thread(publisher.close)
            assert [data for _, data in await listener.receive(3)] == [b"1", b"2", b"3"]

    async def test_close_ends_the_stream_and_leaves_no_task(self) -> None:
        before = asyncio.all_tasks()
        threads = threading.active_count()
        async with self.listening(["room", "room 2"]) as listener:
            await listener.backend.publish_many([("room", b"hi")] * 100)
            await listener.receive(100)
        assert asyncio.all_tasks() == before
        assert threading.active_count() == threads

    async def test_close_while_nothing_was_asked_for(self) -> None:
        before = asyncio.all_tasks()
        async with self.listening():
            pass
        assert asyncio.all_tasks() == before

    async def test_what_was_never_connected_can_be_closed(self) -> None:
        before = asyncio.all_tasks()
        await self.make_backend().close()
        assert asyncio.all_tasks() == before

    async def test_the_server_has_a_name(self) -> None:
        assert self.make_backend().server


def _by_topic(messages: Iterable[Message]) -> dict[str, list[bytes]]:
    """Across topics no order is promised."""
    topics = groupby(sorted(messages, key=lambda m: m[0]), key=lambda m: m[0])
    return {topic: [data for _, data in group] for topic, group in topics}
