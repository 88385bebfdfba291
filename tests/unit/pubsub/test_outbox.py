"""What an event loop's outbox promises, with a backend that does as the test says."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from itertools import count
from typing import Any

import pytest

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import error_of
from django_ws.pubsub.backends.memory import MemoryBackend
from django_ws.pubsub.outbox import outbox, publish_queue
from django_ws.pubsub.outbox.loss_log import LossLog
from django_ws.pubsub.outbox.outbox import Outbox
from tests.support.asgi_peer import until

Message = tuple[str, bytes]
LONG = 30.0  # seconds, in which a test that waits for the next event is over


class Server(MemoryBackend):
    """Takes what comes while ``is_up``; queues named in ``frozen`` say nothing."""

    server = "somewhere"

    def __init__(self) -> None:
        super().__init__(None, "", {})
        self.taken: list[Message] = []
        self.batches: list[list[str]] = []
        self.frozen: set[str] = set()
        self.forbidden: set[str] = set()
        self.defect: Exception | None = None
        self.is_up = True
        self.thawed = asyncio.Event()

    def queue_of(self, topic: str) -> Hashable:
        return topic[0]

    async def publish_many(self, messages: Sequence[Message]) -> None:
        self.batches.append([topic for topic, _ in messages])
        while any(topic[0] in self.frozen for topic, _ in messages):
            await self.thawed.wait()
        if self.defect is not None:
            raise self.defect
        if not self.is_up:
            raise BroadcastError("broadcast", self.server, "it is down")
        self.taken += [each for each in messages if each[0] not in self.forbidden]
        errors = {
            n: BroadcastError("broadcast", self.server, f"{topic} is forbidden")
            for n, (topic, _) in enumerate(messages)
            if topic in self.forbidden
        }
        if errors:
            raise error_of(errors)

    def thaw(self) -> None:
        self.frozen.clear()
        self.thawed.set()


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def sending(server: Server) -> AsyncIterator[Outbox]:
    sending = Outbox(asyncio.get_running_loop(), server.publish_many, lambda: server)
    yield sending
    server.thaw()
    sending.close()
    await until(lambda: not writers(sending))


def writers(sending: Outbox) -> list[Any]:
    return [each.writer for each in sending._queues.values() if each.writer is not None]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "django.ws"]


async def failure(broadcasting: Any) -> BroadcastError:
    async with asyncio.timeout(LONG):
        with pytest.raises(BroadcastError) as caught:
            await broadcasting
    return caught.value


# In time


async def test_every_broadcast_fails_in_its_own_time_however_many_wait(
    server: Server, sending: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PUBLISH_SECONDS", 0.3)
    monkeypatch.setattr(publish_queue, "MAX_BATCH", 1)
    server.frozen = {"a"}
    loop = asyncio.get_running_loop()

    async def fails() -> float:
        began = loop.time()
        assert (await failure(sending.put([("a", b"")]))).reason.startswith("not taken within")
        return loop.time() - began

    took = await asyncio.gather(*(fails() for _ in range(100)))
    assert all(0.25 < seconds < 20 for seconds in took)  # one after the other would be 30
    await until(lambda: not writers(sending))
    assert len(server.batches) < 3  # what is too late is not sent any more
    assert sending._size == 0
    assert sending._places == {}


async def test_later_ones_fail_later(
    server: Server, sending: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PUBLISH_SECONDS", 0.2)
    server.frozen = {"a"}
    first = asyncio.ensure_future(failure(sending.put([("a", b"")])))
    monkeypatch.setattr(outbox, "PUBLISH_SECONDS", 0.5)
    second = asyncio.ensure_future(failure(sending.put([("a", b"")])))
    await first
    assert not second.done()
    assert server.batches == [["a", "a"]]
    await second


async def test_what_is_too_late_already_is_not_sent(
    server: Server, sending: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PUBLISH_SECONDS", 0.01)
    late = sending.put([("a", b"")])
    time.sleep(0.02)  # noqa: ASYNC251  # something blocks the event loop
    await failure(late)
    assert server.batches == []


async def test_flush_waits_for_what_is_taken_and_not_for_ever(
    server: Server, sending: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sending.flush()  # nothing to wait for
    sending.put([("a", b"1")])
    sending.put([("b", b"2")])
    await sending.flush()
    assert sorted(server.taken) == [("a", b"1"), ("b", b"2")]
    server.frozen = {"a"}
    sending.put([("a", b"3")])
    monkeypatch.setattr(outbox, "PUBLISH_SECONDS", 0.05)
    async with asyncio.timeout(2):
        await sending.flush()


# Each caller for itself


async def test_one_callers_failure_is_not_its_neighbours(server: Server, sending: Outbox) -> None:
    server.forbidden = {"a2"}
    calls = [
        sending.put([("a1", b"")]),
        sending.put([("a1", b""), ("a2", b""), ("a2", b"")]),
        sending.put([("a3", b"")]),
    ]
    assert (await failure(calls[1])).reason == "a2 is forbidden"
    await calls[0]
    await calls[2]
    assert len(server.batches) == 1
    assert [topic for topic, _ in server.taken] == ["a1", "a1", "a3"]


async def test_a_call_over_several_queues_is_over_when_all_are(
    server: Server, sending: Outbox
) -> None:
    server.frozen, server.forbidden = {"a"}, {"b"}
    both = sending.put([("a", b""), ("b", b"")])
    await until(lambda: len(server.batches) == 2)
    assert not both.done  # type: ignore[attr-defined]
    server.thaw()
    assert (await failure(both)).reason == "b is forbidden"


async def test_nothing_to_publish_is_over_at_once(sending: Outbox) -> None:
    await sending.put([])


async def test_a_defect_of_the_backend_is_told_and_the_next_broadcast_goes_out(
    server: Server, sending: Outbox
) -> None:
    server.defect = RuntimeError("a defect")
    error = await failure(sending.put([("a", b"1")]))
    assert error.reason == "RuntimeError: a defect"
    assert error.__cause__ is server.defect
    server.defect = TimeoutError()
    assert (await failure(sending.put([("a", b"2")]))).reason.startswith("not taken within")
    server.defect = None
    await sending.put([("a", b"3")])
    assert server.taken == [("a", b"3")]


# Lanes


async def test_a_queue_that_is_blocked_does_not_hold_up_the_others(
    server: Server, sending: Outbox
) -> None:
    server.frozen = {"a"}
    blocked = sending.put([("a", b"")])
    for n in range(100):
        async with asyncio.timeout(LONG):
            await sending.put([("b", b"%d" % n)])
    assert server.taken == [("b", b"%d" % n) for n in range(100)]
    server.thaw()
    await blocked


async def test_a_topic_keeps_its_order_when_its_queue_changes(
    server: Server, sending: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.frozen = {"a"}
    calls = [sending.put([("a", b"1")])]
    await until(lambda: server.batches)
    monkeypatch.setattr(Server, "queue_of", lambda *_: "another")
    calls += [sending.put([("a", b"2")]), sending.put([("b", b"")])]
    await calls[2]
    assert server.batches == [["a"], ["b"]]  # the second waits for the first
    server.thaw()
    for call in calls:
        await call
    assert server.taken == [("b", b""), ("a", b"1"), ("a", b"2")]
    await sending.put([("a", b"3")])
    assert "another" in sending._queues


async def test_queues_that_nobody_uses_any_more_are_forgotten(
    server: Server, sending: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_QUEUES", 3)
    names = count()
    monkeypatch.setattr(Server, "queue_of", lambda *_: next(names))
    for _ in range(20):
        await sending.put([("a", b"")])
        await sending.flush()
    assert len(sending._queues) <= 3


async def test_queues_that_were_busy_together_are_forgotten_when_they_are_not_any_more(
    server: Server, sending: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_QUEUES", 3)
    names = [chr(ord("a") + number) for number in range(20)]
    server.frozen = {*names}
    calls = [sending.put([(name, b"")]) for name in names]
    await until(lambda: len(server.batches) == 20)
    assert len(sending._queues) == 20
    server.thaw()
    for call in calls:
        await call
    await until(lambda: len(sending._queues) <= 3)
    await sending.put([("a", b"again")])
    assert server.taken[-1] == ("a", b"again")


async def test_a_queue_whose_writer_was_cancelled_at_once_is_forgotten_too(
    server: Server, sending: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_QUEUES", 1)
    waiting = sending.put([("a", b"1")])
    queue_of_a = sending._queues["a"]
    assert queue_of_a.writer is not None
    queue_of_a.writer.cancel()
    await asyncio.wait([queue_of_a.writer])
    await sending.put([("b", b"2")])
    assert "a" in sending._queues  # something still waits in it
    await sending.put([("a", b"3")])
    await waiting
    assert server.taken == [("b", b"2"), ("a", b"1"), ("a", b"3")]
    await until(lambda: len(sending._queues) <= 1)


async def test_batches_are_bounded_by_number_and_bytes(
    server: Server, sending: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_queue, "MAX_BATCH", 3)
    monkeypatch.setattr(publish_queue, "MAX_BATCH_BYTES", 100)
    for data in [b""] * 4 + [b"x" * 60] * 2 + [b"x" * 200]:
        last = sending.put([("a", data)])
    await last
    assert [len(batch) for batch in server.batches] == [3, 2, 1, 1]
    await sending.put([("a", b"")] * 5)  # one call is not torn apart
    assert len(server.batches[-1]) == 5


# Bounds


async def test_a_waiting_message_takes_no_more_memory_than_is_counted(
    server: Server, sending: Outbox
) -> None:
    server.frozen = {"a"}
    sending.put([("a", b"")])
    await until(lambda: server.batches)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        counted = sending._size
        for n in range(2000):
            sending.put([(f"a room: {n}", b'1J;\n{"a": %d}' % n)])
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= sending._size - counted <= 2 * taken


async def test_too_much_is_refused_and_told_to_who_waits_or_to_the_log(
    server: Server,
    sending: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(outbox, "MAX_WAITING_BYTES", 1000)
    await sending.put([("a", b"x" * 2000)])  # one always may
    server.frozen = {"a"}
    sending.put([("a", b"1")])
    error = await failure(sending.put([("a", b"x" * 400)]))
    assert f"{outbox.MESSAGE_BYTES + 1} bytes wait to be published already" in str(error)
    assert lines(caplog) == []
    sending.put([("a", b"x" * 400)])  # as a hook does: it is not interrupted
    await until(lambda: lines(caplog))
    assert lines(caplog) == [f"1 broadcast was lost: {error}"]
    server.thaw()
    await sending.flush()
    await sending.put([("a", b"2")])
    assert lines(caplog)[1:] == [
        "Broadcasts are taken again by the outbox; 0 more were lost meanwhile."
    ]


# The log


async def test_what_somebody_awaits_is_not_logged(
    server: Server, sending: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    server.is_up = False
    for _ in range(10):
        await failure(sending.put([("a", b"")]))
    server.is_up = True
    await sending.put([("a", b"")])
    assert lines(caplog) == []


async def test_what_nobody_awaits_is_logged_with_its_number_and_then_that_it_is_over(
    server: Server, sending: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    server.is_up = False
    for _ in range(10):
        sending.put([("a", b""), ("a", b"")])
        await sending.flush()
    assert lines(caplog) == ["2 broadcasts were lost: broadcast failed at somewhere: it is down"]
    server.is_up = True
    for _ in range(2):
        sending.put([("a", b"")])
        await sending.flush()
    assert lines(caplog)[1:] == [
        "Broadcasts are taken again by somewhere; 18 more were lost meanwhile."
    ]


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes as the test says."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def let_pass(self, seconds: float) -> None:
        end = self.now + seconds
        while self._scheduled and self._scheduled[0].when() <= end:  # type: ignore[attr-defined]
            self.now = self._scheduled[0].when()  # type: ignore[attr-defined]
            self.run_until_complete(asyncio.sleep(0))
        self.now = end


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.close()


def test_losses_are_told_at_growing_intervals_and_all_of_them(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log = LossLog(clock)
    error = BroadcastError("broadcast", "somewhere", "it is down")
    told_at = []
    for _ in range(3000):
        before = len(caplog.records)
        log.add(1, error)
        clock.let_pass(1)
        if len(caplog.records) > before:
            told_at.append(int(clock.now) - 1001)
    assert told_at == [0, 9, 29, 69, 149, 309, 629, 1229, 1829, 2429]
    log.tell()  # as at the end
    assert sum(int(line.split()[0]) for line in lines(caplog)) == 3000


def test_after_a_quiet_time_the_intervals_begin_anew(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log = LossLog(clock)
    error = BroadcastError("broadcast", "somewhere", "it is down")
    for number in (1, 2):  # the second is told by the timer, though none comes after it
        log.add(number, error)
        clock.let_pass(15)
    assert [line[0] for line in lines(caplog)] == ["1", "2"]
    clock.let_pass(60)
    for number in (3, 4):
        log.add(number, error)
        clock.let_pass(11)
    assert [line[0] for line in lines(caplog)] == ["1", "2", "3", "4"]


def test_coming_and_going_fills_no_log(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LossLog(clock)
    for _ in range(1000):
        log.add(1, BroadcastError("broadcast", "somewhere", "it is down"))
        log.end()
        clock.let_pass(0.01)
    clock.let_pass(1000)
    lost = [line for line in lines(caplog) if " lost: " in line]
    assert [line.split()[0] for line in lost] == ["1", "999"]
    assert len(lines(caplog)) == 3


# The end


async def test_after_close_everything_fails_at_once(
    server: Server, sending: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    server.frozen = {"a"}
    under_way = asyncio.ensure_future(failure(sending.put([("a", b"")])))
    await until(lambda: server.batches)
    waiting = asyncio.ensure_future(failure(sending.put([("a", b"")])))
    sending.put([("a", b"")])
    await asyncio.sleep(0)
    sending.close()
    for each in (under_way, waiting):
        assert "was closed before" in (await each).reason
    assert len(lines(caplog)) == 1  # of the one that nobody waits for
    async with asyncio.timeout(1):
        assert "has been closed" in (await failure(sending.put([("a", b"")]))).reason
    await until(lambda: not writers(sending))
    assert sending._size == 0
    assert len(server.batches) == 1


@pytest.mark.parametrize("has_begun", [True, False])
async def test_who_waits_is_told_when_the_writer_is_cancelled(
    server: Server, sending: Outbox, has_begun: bool
) -> None:
    """As ``asyncio.run`` does with every task at its end."""
    server.frozen = {"a"}
    calls = [asyncio.ensure_future(failure(sending.put([("a", b"")])))]
    if has_begun:
        await until(lambda: server.batches)
        calls.append(asyncio.ensure_future(failure(sending.put([("a", b"")]))))
        await asyncio.sleep(0)
    (writer,) = writers(sending)
    writer.cancel()
    await asyncio.wait([writer])
    if has_begun:
        assert [(await call).reason for call in calls] == ["cancelled"] * 2
    server.thaw()
    await sending.put([("a", b"2")])  # goes on
    assert ("a", b"2") in server.taken
    if not has_begun:  # nothing was lost
        assert server.taken == [("a", b""), ("a", b"2")]
        calls[0].cancel()
