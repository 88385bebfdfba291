"""The contract of backends: on the one that needs no server, and on some that break it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from itertools import count

import pytest

from django_ws.pubsub.backends.base import Backend, Gap, Received
from django_ws.pubsub.backends.memory import MemoryBackend
from django_ws.testing.contract import BackendContract


class TestMemory(BackendContract):
    backend_class = MemoryBackend


class Losing(MemoryBackend):
    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        await super().publish_many(messages[:-1])


class Doubling(MemoryBackend):
    async def stream(self) -> AsyncIterator[Received]:
        async for received in super().stream():
            yield received
            yield received


class Reversing(MemoryBackend):
    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        await super().publish_many(messages[::-1])


class Telling(MemoryBackend):
    """Tells of losses that were none."""

    async def stream(self) -> AsyncIterator[Received]:
        yield Gap(frozenset({"room"}))
        async for received in super().stream():
            yield received


class Careless(MemoryBackend):
    """Confirms before it has asked."""

    async def subscribe(self, topics: Collection[str]) -> None:
        asyncio.get_running_loop().call_later(0.01, asyncio.ensure_future, self.later(topics))

    async def later(self, topics: Collection[str]) -> None:
        await super().subscribe(topics)


class Deaf(MemoryBackend):
    """Gives nothing back."""

    async def unsubscribe(self, topics: Collection[str]) -> None: ...


class Mixing(MemoryBackend):
    """Mixes sites up."""

    def __init__(self, location: object, prefix: str, options: dict[str, object]) -> None:
        super().__init__(location, "", options)


class Joining(MemoryBackend):
    """Joins prefix and topic with nothing in between."""

    def __init__(self, location: object, prefix: str, options: dict[str, object]) -> None:
        super().__init__(location, "", options)
        self.joined = prefix

    async def subscribe(self, topics: Collection[str]) -> None:
        await super().subscribe([self.joined + topic for topic in topics])

    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        await super().publish_many([(self.joined + topic, data) for topic, data in messages])

    async def stream(self) -> AsyncIterator[Received]:
        async for received in super().stream():
            assert isinstance(received, tuple)
            yield received[0].removeprefix(self.joined), received[1]


class Leaking(MemoryBackend):
    async def connect(self) -> None:
        await super().connect()
        self.task = asyncio.create_task(asyncio.sleep(3600))


class Impatient(MemoryBackend):
    """Counts who asked, and a second asking goes wrong."""

    asked = count()

    async def subscribe(self, topics: Collection[str]) -> None:
        await super().subscribe(topics)
        if "room" in topics and next(self.asked):
            await super().unsubscribe(topics)


Contract = BackendContract


@pytest.mark.parametrize(
    ("backend", "test"),
    [
        (Losing, Contract.test_what_is_published_after_subscribe_arrives),
        (Losing, Contract.test_publish_many_keeps_the_order),
        (Losing, Contract.test_many_topics),
        (Losing, Contract.test_data_of_any_bytes),
        (Doubling, Contract.test_topics_of_any_characters),
        (Doubling, Contract.test_subscribing_twice_is_subscribing_once),
        (Doubling, Contract.test_many_callers_subscribe_to_one_topic_at_once),
        (Reversing, Contract.test_publish_many_keeps_the_order),
        (Telling, Contract.test_what_is_published_after_subscribe_arrives),
        (Careless, Contract.test_what_is_published_after_subscribe_arrives),
        (Careless, Contract.test_subscribing_again_at_once_after_giving_back),
        (Deaf, Contract.test_a_topic_given_back_is_silent_and_the_others_are_not),
        (Mixing, Contract.test_another_prefix_hears_nothing),
        (Joining, Contract.test_no_topic_reaches_into_another_prefix),
        (Leaking, Contract.test_close_ends_the_stream_and_leaves_no_task),
        (Leaking, Contract.test_close_while_nothing_was_asked_for),
        (Impatient, Contract.test_subscribing_twice_is_subscribing_once),
        (Impatient, Contract.test_many_callers_subscribe_to_one_topic_at_once),
    ],
)
async def test_the_contract_sees_what_is_broken(
    backend: type[Backend], test: Callable[[BackendContract], Awaitable[None]]
) -> None:
    class Broken(BackendContract):
        backend_class = backend
        seconds = 0.4
        many = 300

    Impatient.asked = count()
    before = asyncio.all_tasks()
    with pytest.raises(AssertionError):
        await test(Broken())
    left = asyncio.all_tasks() - before
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
