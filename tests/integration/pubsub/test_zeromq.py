"""ZeroMQBackend with a real broker process."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import zmq

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import Gap, Received
from django_ws.pubsub.backends.zeromq import ZeroMQBackend, ZeroMQPublisher
from django_ws.pubsub.backends.zeromq import backend as zeromq
from django_ws.pubsub.backends.zeromq import broker as broker_module
from django_ws.pubsub.backends.zeromq.broker import Broker, addresses
from django_ws.pubsub.backends.zeromq.publisher import MAX_IDLE, sized_channel_of
from django_ws.testing.contract import BackendContract, Listener
from tests.support.listening import until_taken

BROKER = "django_ws.pubsub.backends.zeromq"
SECONDS = 20.0


class BrokerProcess:
    """A real one, that can be killed, frozen and started again at the same address."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", BROKER, self.location])

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait(SECONDS) == -signal.SIGKILL

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(SECONDS)


@contextmanager
def a_location() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own may be too long for a socket
        yield f"ipc://{folder}/ws"


@pytest.fixture
def location() -> Iterator[str]:
    with a_location() as location:
        yield location


@pytest.fixture
def broker(location: str) -> Iterator[BrokerProcess]:
    broker = BrokerProcess(location)
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def shared_broker() -> Iterator[BrokerProcess]:
    with a_location() as location:
        broker = BrokerProcess(location)
        yield broker
        broker.stop()


class TestContract(BackendContract):
    backend_class = ZeroMQBackend
    seconds = SECONDS

    @pytest.fixture(autouse=True)
    def server(self, shared_broker: BrokerProcess) -> None:
        self.location = shared_broker.location

    async def test_over_tcp(self, tcp: str) -> None:
        self.location = tcp
        await self.test_topics_of_any_characters()
        await self.test_data_of_one_megabyte()


# What the tests use


class Quick(ZeroMQBackend):
    publish_seconds = 0.5
    heartbeat_seconds = 0.1
    answer_seconds = 1.0


class Patient(Quick):
    """Takes no busy broker for one that is gone."""

    answer_seconds = 30.0


class QuickPublisher(ZeroMQPublisher):
    publish_seconds = 0.5


@pytest.fixture
def tcp() -> Iterator[str]:
    location = f"tcp://127.0.0.1:{two_free_ports()}"
    with running(location):
        yield location


def two_free_ports() -> int:
    """Two that follow each other: the first one."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                with socket.create_server(("127.0.0.1", port + 1)):
                    return port
            except OSError:
                continue


@contextmanager
def running(location: str, high_water_mark: int = 1000) -> Iterator[Broker]:
    """A broker in a thread."""
    broker = Broker(location, high_water_mark)
    thread = threading.Thread(target=broker.run)
    thread.start()
    yield broker
    broker.stop()
    thread.join(SECONDS)
    assert not thread.is_alive()


@asynccontextmanager
async def listening(backend: ZeroMQBackend, *topics: str) -> AsyncIterator[Listener]:
    listener = Listener(backend, SECONDS)
    await backend.connect()
    reading = asyncio.create_task(listener.read())
    try:
        async with asyncio.timeout(SECONDS):
            await backend.subscribe(topics)
        yield listener
    finally:
        await backend.close()
        await reading


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def numbered(count: int, size: int = 0) -> list[tuple[str, bytes]]:
    return [("room", b"%d" % number + b"." * size) for number in range(count)]


# The slow joiner

ONCE = """
import sys
from django_ws.pubsub.backends.zeromq.backend import ZeroMQPublisher
ZeroMQPublisher(sys.argv[1], "test:", {}).publish([("room", sys.argv[2].encode())])
"""
ONCE_ASYNC = """
import asyncio, sys
from django_ws.pubsub.backends.zeromq.backend import ZeroMQBackend

async def main():
    backend = ZeroMQBackend(sys.argv[1], "test:", {})
    await backend.connect()
    await backend.publish("room", sys.argv[2].encode())
    await backend.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(("program", "times"), [(ONCE, 20), (ONCE_ASYNC, 5)])
async def test_a_process_that_publishes_once_and_ends_loses_nothing(
    program: str, times: int, broker: BrokerProcess
) -> None:
    async with listening(ZeroMQBackend(broker.location, "test:", {}), "room") as listener:
        for number in range(times):
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-W", "error", "-c", program, broker.location, f"{number}"],
                capture_output=True,
                timeout=SECONDS,
            )
            assert (done.returncode, done.stderr) == (0, b"")
            assert await listener.receive(1) == [("room", b"%d" % number)]
    assert not listener.gaps


async def test_many_at_once_leave_the_loop_its_turns(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeromq, "AT_ONCE", 1)
    async with listening(ZeroMQBackend(broker.location, "test:", {}), "room") as listener:
        await listener.backend.publish_many(numbered(3))
        assert await listener.receive(3) == numbered(3)


async def test_what_was_under_way_when_its_topic_was_given_back_is_dropped(
    broker: BrokerProcess,
) -> None:
    backend = ZeroMQBackend(broker.location, "test:", {})
    publisher = ZeroMQPublisher(broker.location, "test:", {})
    await backend.connect()
    reading = asyncio.ensure_future(anext(backend.stream()))
    await backend.subscribe(["room", "other"])
    reading.cancel()
    await asyncio.wait([reading])
    await asyncio.to_thread(publisher.publish, [("room", b"too late"), ("other", b"last")])
    # As ``unsubscribe`` does, but the socket has taken the message before.
    assert backend._topics.pop(sized_channel_of("test:", "room")) == "room"
    received: list[Received] = []
    async with asyncio.timeout(SECONDS):
        while not received:
            backend._given = 0  # as the stream does, which nobody reads here
            received.extend(backend.read_nowait())
            await asyncio.sleep(0.005)
    assert received == [("other", b"last")]
    await backend.close()
    publisher.close()


# Faults


async def test_a_broker_that_is_killed_and_comes_back(
    broker: BrokerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = QuickPublisher(broker.location, "test:", {})
    backend = Patient(broker.location, "test:", {})
    async with listening(backend, "room", "room 2", "given back") as listener:
        await backend.unsubscribe(["given back"])
        for _ in range(2):
            await asyncio.to_thread(publisher.publish, [("room", b"before")])
            assert await listener.receive(1) == [("room", b"before")]
            listener.gaps.clear()
            caplog.clear()
            await asyncio.to_thread(broker.kill)
            with pytest.raises(BroadcastError, match=r"no broker took it in 0\.5 s"):
                await backend.publish("room", b"lost")
            with pytest.raises(BroadcastError, match=r"no broker took it in 0\.5 s"):
                await asyncio.to_thread(publisher.publish, [("room", b"lost")])
            await until(lambda: "is lost: the connection broke" in caplog.text)
            joining = asyncio.create_task(backend.subscribe(["joined while it was away"]))
            assert not listener.gaps
            broker.start()
            await until(lambda: listener.gaps)
            assert {"room", "room 2"} <= listener.gaps[0].topics
            assert "given back" not in listener.gaps[0].topics
            async with asyncio.timeout(SECONDS):
                await joining
            for topic in ("room", "room 2", "joined while it was away"):
                await backend.publish(topic, b"async")
                await until_taken(publisher, (topic, b"sync"))
            assert len(await listener.receive(6)) == 6
            assert len([m for m in caplog.messages if "is lost" in m]) == 1
            assert len([m for m in caplog.messages if "is back" in m]) == 1
    publisher.close()


async def test_no_broker_at_all(location: str, caplog: pytest.LogCaptureFixture) -> None:
    class Impatient(Quick):
        answer_seconds = 0.1

    publisher = QuickPublisher(location, "test:", {})
    backend = Impatient(location, "test:", {})
    async with listening(backend) as listener:
        joining = asyncio.create_task(backend.subscribe(["room"]))
        began = time.monotonic()
        with pytest.raises(BroadcastError) as caught:
            await backend.publish("room", b"hi")
        assert isinstance(caught.value.__cause__, TimeoutError)
        with pytest.raises(BroadcastError) as caught:
            await asyncio.to_thread(publisher.publish, [("room", b"hi")])
        assert time.monotonic() - began >= 1.0
        assert (caught.value.action, caught.value.server) == ("broadcast", location)
        await until(lambda: caplog.text.count("no broker answers") >= 3)
        refused = [message for message in caplog.messages if "refused at once" in message]
        assert len(refused) == 1  # and the publisher's is counted
        assert caplog.text.count("no broker answers") == len(caplog.messages) - 1
        assert not joining.done()
        broker = BrokerProcess(location)
        async with asyncio.timeout(SECONDS):
            await joining
        await backend.publish("room", b"1")
        await until_taken(publisher, ("room", b"2"))
        assert await listener.receive(2) == [("room", b"1"), ("room", b"2")]
        await until(lambda: "is back, after" in caplog.text)
    publisher.close()
    await asyncio.to_thread(broker.stop)


def test_the_time_that_publishing_may_take_is_the_contracts() -> None:
    assert ZeroMQBackend.publish_seconds == ZeroMQPublisher.publish_seconds == 5.0


async def test_a_frozen_broker(broker: BrokerProcess, caplog: pytest.LogCaptureFixture) -> None:
    publisher = QuickPublisher(broker.location, "test:", {})
    backend = Quick(broker.location, "test:", {})
    async with listening(backend, "room") as listener:
        await until(lambda: not backend._probes)  # it has come up
        caplog.clear()  # that may have taken long
        broker.signal(signal.SIGSTOP)
        with pytest.raises(BroadcastError):
            await backend.publish("room", b"?")
        with pytest.raises(BroadcastError):
            await asyncio.to_thread(publisher.publish, [("room", b"?")])
        await until(lambda: "is lost" in caplog.text)
        listener.gaps.clear()  # there is one where coming up took long
        broker.signal(signal.SIGCONT)
        await until(lambda: listener.gaps)
        assert listener.gaps[0].topics == {"room"}
        await backend.publish("room", b"hi")
        await until(lambda: ("room", b"hi") in listener.waiting())
    publisher.close()


async def test_a_frozen_broker_that_is_killed_is_lost_once(
    broker: BrokerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(Quick):
        losses = 0

        def _lose(self, reason: str) -> None:
            self.losses += 1
            super()._lose(reason)

    backend = Counting(broker.location, "test:", {})
    async with listening(backend, "room") as listener:
        await until(lambda: not backend._probes)
        broker.signal(signal.SIGSTOP)
        await until(lambda: "it does not answer" in caplog.text)
        losses, said = backend.losses, caplog.text
        await asyncio.to_thread(broker.kill)
        await until(lambda: backend.losses > losses)
        assert "is lost" not in caplog.text.removeprefix(said)
        listener.gaps.clear()
        broker.start()
        await until(lambda: listener.gaps)
        assert listener.gaps[0].topics == {"room"}


async def test_a_connection_that_breaks_while_the_broker_stays(broker: BrokerProcess) -> None:
    """As a firewall breaks it: what was published meanwhile is told as a gap."""
    backend = Patient(broker.location, "test:", {})
    async with listening(backend, "room") as listener:
        await until(lambda: not backend._probes)  # it has come up
        listener.gaps.clear()  # there is one where that took long
        broken = break_connections(f"{broker.location}.sub".removeprefix("ipc://"))
        assert broken == 1
        await until(lambda: listener.gaps)
        assert listener.gaps[0].topics == {"room"}
        await backend.publish("room", b"hi")
        assert await listener.receive(1) == [("room", b"hi")]


def break_connections(path: str) -> int:
    """Of this process, to that path. Returns how many there were."""
    broken = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(fd))) as connection:
                if connection.getpeername() == path:
                    connection.shutdown(socket.SHUT_RDWR)
                    broken += 1
        except OSError:  # no socket, or not a connected one
            continue
    return broken


# Bounds


class Pausing(Patient):
    """One whose reader can stop to read."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def stream(self) -> AsyncIterator[Received]:
        async for received in super().stream():
            await self.may_read.wait()
            yield received


async def test_what_a_listener_does_not_read_is_dropped_counted_and_told(
    location: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "PATIENCE_SECONDS", 0.2)
    options = {"high_water_mark": 10}
    messages = numbered(100, 100_000)
    stuck_backend = Pausing(location, "test:", options)
    with running(location, 10) as broker:
        async with (
            listening(Patient(location, "test:", options), "room") as reader,
            listening(stuck_backend, "room") as stuck,
        ):
            stuck_backend.may_read.clear()
            for topic, data in messages:
                await reader.backend.publish(topic, data)
            assert await reader.receive(100) == messages  # nobody else loses anything
            assert broker.drops > 0
            assert len([m for m in caplog.messages if "drops broadcasts" in m]) == 1
            assert not stuck.gaps
            stuck_backend.may_read.set()
            await until(lambda: stuck.gaps)
            assert stuck.gaps[0].topics == {"room"}
            await until(lambda: reader.gaps)  # the broker cannot know whose loss it was
            await reader.backend.publish("room", b"again")
            received = []
            while ("room", b"again") not in received:
                received += await stuck.receive(1)
            assert 0 < len(received) < 100
            assert received[:-1] == messages[: len(received) - 1]
            stuck_backend.may_read.clear()
            drops = broker.drops
            began = time.monotonic()
            await reader.backend.publish_many(messages)
            assert broker.drops > drops  # counted anew; the log says it once in ten seconds
            assert time.monotonic() - began < broker_module.IMPATIENCE_SECONDS
            assert len([m for m in caplog.messages if "drops broadcasts" in m]) == 1
            stuck_backend.may_read.set()


async def test_more_topics_than_the_high_water_mark(location: str) -> None:
    """ZeroMQ would drop subscriptions above it, too."""
    topics = [f"room {number}" for number in range(500)]
    with running(location, 100):
        backend = ZeroMQBackend(location, "test:", {"high_water_mark": 100})
        async with listening(backend, *topics) as listener:
            await backend.publish_many([(topic, b"hi") for topic in topics])
            received = await listener.receive(500)
            assert sorted(received) == sorted((topic, b"hi") for topic in topics)
            await backend.unsubscribe(topics)
            assert not backend._confirmed


async def test_a_long_stream_lets_the_loop_turn(location: str) -> None:
    with running(location):
        backend = Pausing(location, "test:", {})
        async with listening(backend, "room") as listener:
            backend.may_read.clear()
            await backend.publish_many(numbered(500))
            turns: list[int] = []
            backend.may_read.set()
            while (left := listener._received.qsize()) < 500:
                turns.append(left)
                await asyncio.sleep(0)
            assert len(set(turns)) > 3


async def test_only_a_few_idle_connections_of_a_publisher_are_kept(location: str) -> None:
    with running(location):
        publisher = QuickPublisher(location, "test:", {})
        threads = MAX_IDLE + 3
        together = threading.Barrier(threads)

        def publish() -> None:
            together.wait(SECONDS)
            for _ in range(50):
                publisher.publish([("room", b"hi")])

        publishing = [threading.Thread(target=publish) for _ in range(threads)]
        for thread in publishing:
            thread.start()
        for thread in publishing:
            thread.join(SECONDS)
        [pool] = publisher._pools.values()
        assert 1 <= len(pool.idle) <= MAX_IDLE
        for _ in range(2 * MAX_IDLE):
            pool.give_back(pool.context.socket(zmq.DEALER))
        assert len(pool.idle) == MAX_IDLE
        publisher.close()
        assert all(socket.closed for socket in pool.idle)
        assert not publisher._pools


def test_closing_a_publisher_ends_what_is_under_way(location: str) -> None:
    """A connection in use does not hold the close up."""
    publisher = ZeroMQPublisher(location, "test:", {})
    errors: list[BroadcastError] = []

    def publish() -> None:
        try:
            publisher.publish([("room", b"hi")])  # no broker runs: it waits
        except BroadcastError as error:
            errors.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    end = time.monotonic() + SECONDS
    while not publisher._pools and time.monotonic() < end:
        time.sleep(0.01)
    publisher.close()
    thread.join(SECONDS)
    assert isinstance(errors[0].__cause__, zmq.ZMQError)  # and not TimeoutError


def test_a_connection_that_comes_back_after_the_close_is_closed(location: str) -> None:
    with running(location):
        publisher = ZeroMQPublisher(location, "test:", {})
        publisher.publish([("room", b"hi")])
        [pool] = publisher._pools.values()
        taken = pool.take()
        assert taken is not None
        closing = threading.Thread(target=publisher.close)
        closing.start()
        while not pool.is_closed:
            time.sleep(0.01)
        pool.give_back(taken)
        closing.join(SECONDS)
        assert not closing.is_alive()
        assert taken.closed


FORKING = """
import os, sys
from django_ws.pubsub.backends.zeromq.backend import ZeroMQPublisher

publisher = ZeroMQPublisher(sys.argv[1], "test:", {})
publisher.publish([("room", b"parent")])
for name in (b"child 1", b"child 2"):
    child = os.fork()
    if not child:
        publisher.publish([("room", name)])
        publisher.publish([("room", name)])
        sys.exit()
    _, status = os.waitpid(child, 0)
    assert status == 0, status
publisher.publish([("room", b"parent")])
"""


async def test_forked_children_connect_for_themselves(location: str) -> None:
    with running(location):
        async with listening(Patient(location, "test:", {}), "room") as listener:
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-W", "error", "-c", FORKING, location],
                capture_output=True,
                timeout=SECONDS,
            )
            assert (done.returncode, done.stderr) == (0, b"")
            names = [b"parent", b"child 1", b"child 1", b"child 2", b"child 2", b"parent"]
            assert [data for _, data in await listener.receive(6)] == names


async def test_closing_a_backend_ends_what_is_under_way(location: str) -> None:
    backend = ZeroMQBackend(location, "test:", {})
    async with listening(backend):
        publishing = asyncio.create_task(backend.publish("room", b"hi"))  # no broker runs: it waits
        await asyncio.sleep(0)
    async with asyncio.timeout(4):
        with pytest.raises(BroadcastError) as caught:
            await publishing
    assert isinstance(caught.value.__cause__, zmq.ZMQError)


# The broker


@pytest.mark.parametrize(
    ("location", "given"),
    [
        ("ipc:///run/site/ws", "ipc:///run/site/ws.sub"),
        ("ipc://@site", "ipc://@site.sub"),
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"),
        ("tcp://[::1]:1", "tcp://[::1]:2"),
    ],
)
def test_addresses(location: str, given: str) -> None:
    assert addresses(location) == (location, given)


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "ipc://",
        "redis://127.0.0.1:6379",
        "tcp://127.0.0.1",
        "tcp://:5555",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65535",
        "tcp://127.0.0.1:*",
        ["tcp://127.0.0.1:1"],
    ],
)
def test_what_is_no_address(location: object) -> None:
    for made in (ZeroMQBackend, ZeroMQPublisher):
        with pytest.raises(ValueError, match=r"is not an address for ZeroMQ: use ipc://"):
            made(location, "", {})


@pytest.mark.parametrize("mark", [0, -1, "1000", 1.5, True, None, 2**31])
def test_what_is_no_high_water_mark(mark: object) -> None:
    for made in (ZeroMQBackend, ZeroMQPublisher):
        with pytest.raises(ValueError, match=r"high_water_mark is .* Give a number of messages"):
            made("tcp://127.0.0.1:5555", "", {"high_water_mark": mark})


def test_unknown_options_are_named() -> None:
    with pytest.raises(ValueError, match="unknown 'colour', 'hwm'"):
        ZeroMQBackend("tcp://127.0.0.1:5555", "", {"hwm": 7, "colour": "red"})


@pytest.mark.parametrize("which", [0, 1])
async def test_what_could_be_connected_by_half_can_be_closed(location: str, which: int) -> None:
    gc.collect()  # what earlier tests have left is closed now
    before = len(os.listdir("/proc/self/fd"))
    backend = ZeroMQBackend(location, "", {})
    if which:
        backend._addresses = (location, "tcp://a b:5555")
    else:
        backend.location = "tcp://a b:5555"
    with pytest.raises(zmq.ZMQError, match="Invalid argument"):
        await backend.connect()
    await backend.close()
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_probe_among_what_is_at_hand_confirms(broker: BrokerProcess) -> None:
    backend = ZeroMQBackend(broker.location, "test:", {})
    await backend.connect()
    subscribing = asyncio.create_task(backend.subscribe(["room"]))
    try:
        async with asyncio.timeout(SECONDS):
            while not backend.is_confirmed("room"):
                backend._given = 0  # as the stream does, which nobody reads here
                assert backend.read_nowait() == []
                await asyncio.sleep(0.005)
            await subscribing
    finally:
        await backend.close()


async def test_a_stream_without_a_pause_lets_the_loop_turn(location: str) -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    backend = ZeroMQBackend(location, "test:", {})
    await backend.connect()
    try:
        gaps = [Gap(frozenset({f"{number}"})) for number in range(3 * zeromq.AT_ONCE)]
        backend._gaps.extend(gaps)  # each of them is there without any waiting
        loop.call_soon(turn)
        received: list[Received] = []
        async for each in backend.stream():
            received.append(each)
            if len(received) == len(gaps):
                break
        assert received == gaps
        assert turns >= 2
    finally:
        await backend.close()


def test_a_publisher_that_cannot_connect_says_so_and_can_be_closed() -> None:
    publisher = ZeroMQPublisher("tcp://a b:5555", "", {})
    with pytest.raises(BroadcastError, match="Invalid argument") as caught:
        publisher.publish([("room", b"hi")])
    publisher.close()  # while the error, as in a debugger, keeps all its frames alive
    assert caught.tb is not None


def test_a_path_that_is_too_long() -> None:
    assert addresses("ipc://" + "x" * 103)
    with pytest.raises(ValueError, match="too long for a socket"):
        addresses("ipc://" + "x" * 104)


def test_a_prefix_and_a_topic_are_told_apart() -> None:
    names = [("", "ab"), ("a", "b"), ("ab", ""), ("a", "bc"), ("", "a"), ("", "a\0"), ("\0", "a")]
    channels = [sized_channel_of(prefix, topic) for prefix, topic in names]
    for one in channels:
        assert [one] == [other for other in channels if other.startswith(one)]


async def test_a_request_of_another_version_is_not_answered(
    location: str, caplog: pytest.LogCaptureFixture
) -> None:
    header = broker_module.REQUEST.pack(broker_module.VERSION, 1)
    newer = broker_module.REQUEST.pack(broker_module.VERSION + 1, 1)
    with running(location) as broker, zmq.Context() as context:
        for wrong in ([b""], [b"hello"], [newer], [header, b"channel"], [header, b"a", b""]):
            broker._log_at = 0.0
            caplog.clear()
            with context.socket(zmq.DEALER) as stranger:
                stranger.linger = 1000
                stranger.connect(location)
                stranger.send_multipart(wrong)
                await until(lambda: "was sent what is no request" in caplog.text)
        publisher = QuickPublisher(location, "test:", {})
        await asyncio.to_thread(publisher.publish, [("room", b"hi")])  # it still serves
        publisher.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_broker(location: str, number: signal.Signals) -> None:
    broker = BrokerProcess(location)
    publisher = ZeroMQPublisher(location, "test:", {})
    publisher.publish([("room", b"hi")])  # it serves
    publisher.close()
    broker.signal(number)
    assert broker.process.wait(SECONDS) == 0


def run_broker(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", BROKER, *arguments], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 1
    return done.stderr


def test_a_broker_without_an_address_says_how_to_call_it() -> None:
    assert run_broker() == f"usage: python -m {BROKER} LOCATION\n"


def test_a_broker_at_no_address_says_so() -> None:
    said = run_broker("redis://:secret@localhost")
    assert said.startswith("cannot serve: LOCATION is not an address for ZeroMQ: use ipc://")
    assert "secret" not in said


def test_a_second_broker_leaves_the_first_one_its_address(location: str, tcp: str) -> None:
    with running(location):
        for taken in (location, tcp):
            assert run_broker(taken).startswith(f"cannot serve at {taken}: Address already in use")
        publisher = ZeroMQPublisher(location, "test:", {})
        publisher.publish([("room", b"hi")])
        publisher.close()


def test_an_address_without_a_file_can_be_used() -> None:
    location = f"ipc://@django_ws-{os.urandom(8).hex()}"
    with running(location):
        publisher = ZeroMQPublisher(location, "test:", {})
        publisher.publish([("room", b"hi")])
        publisher.close()


def test_without_pyzmq_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['zmq'] = None; import django_ws.pubsub.backends.zeromq.backend"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS
    )
    assert "ImportError: ZeroMQBackend needs pyzmq: pip install 'django-ws[zmq]'" in done.stderr


def test_two_threads_that_begin_at_once_share_one_pool() -> None:
    with a_location() as location:
        publisher = ZeroMQPublisher(location, "t:", {})
        pool = publisher._new_pool()
        assert publisher._new_pool() is pool
        publisher.close()
