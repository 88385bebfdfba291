"""The Redis backend while Redis is killed, frozen, cut off, full. Each test shows first that the
fault happened, and counts what was delivered, what was missed, and who was told.

The times are shortened in all but the tests marked ``faults``.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends import base
from django_ws.pubsub.backends.redis import RedisPublisher
from django_ws.pubsub.backends.redis.listener import Listener
from django_ws.pubsub.backends.redis.outage import Outage
from tests.support.listening import Listening, eventually, until_taken
from tests.support.redis_server import Proxy, RedisServer


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deaths are noticed, and errors raised, within half a second."""
    monkeypatch.setattr(Listener, "PING_SECONDS", 0.2)
    monkeypatch.setattr(Listener, "PONG_SECONDS", 0.3)
    monkeypatch.setattr(Listener, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(Listener, "LONGEST_WAIT", 0.2)
    monkeypatch.setattr(base, "PUBLISH_SECONDS", 0.5)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if each.name == "django.ws"]


# Connections that end


async def test_listeners_killed_while_ten_thousand_messages_pass(server: RedisServer) -> None:
    total, kills = 10_000, [2500, 5000, 7500]
    async with Listening(server.url, "a", "b") as here:
        for n in range(0, total, 10):
            if n in kills:
                assert server.ask("CLIENT KILL TYPE pubsub") == 1
            if n - 500 in kills:  # by then it has been away for 500 messages, or came back
                await here.has(gaps=kills.index(n - 500) + 1)
            await here.backend.publish_many([("a", b"%d" % m) for m in range(n, n + 10)])
        await here.has(gaps=3)
        await here.backend.publish("a", b"%d" % total)
        await eventually(lambda: ("a", b"%d" % total) in here.received)
        got = [int(data) for _, data in here.messages]
        assert got == sorted(set(got)), "in order, none twice"
        missed = total + 1 - len(got)
        holes = sum(after != before + 1 for before, after in pairwise(got))
        assert 0 <= holes <= 3
        assert 0 < missed <= 1500
        assert here.gaps == [{"a", "b"}] * 3


async def test_a_restart_is_survived_and_the_first_message_after_it_is_not_refused(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = RedisPublisher(server.url, "t:", {})
    async with Listening(server.url, "a", "b") as here:
        for round_ in range(3):
            await here.backend.publish("a", b"before")
            await asyncio.to_thread(publisher.publish, [("a", b"before, sync")])
            await here.has(messages=4 * round_ + 2)
            pid = server.pid
            server.restart()  # blocks the event loop: it knows nothing of the end yet
            assert server.pid != pid
            await here.backend.publish("b", b"into the gap")  # no error
            await asyncio.to_thread(publisher.publish, [("b", b"into the gap, sync")])
            await here.has(gaps=round_ + 1)
            await here.backend.publish("a", b"after")
            await asyncio.to_thread(publisher.publish, [("a", b"after, sync")])
            await here.has(messages=4 * round_ + 4)
        assert here.gaps == [{"a", "b"}] * 3
        assert [data for topic, data in here.messages if topic == "a"] == [
            b"before",
            b"before, sync",
            b"after",
            b"after, sync",
        ] * 3
        assert len(warnings(caplog)) == 6
    publisher.close()


async def test_while_redis_is_down_publishing_fails_at_once_and_nothing_spins(
    server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listener, "LONGEST_WAIT", 0.2)
    publisher = RedisPublisher(server.url, "t:", {})
    async with Listening(server.url, "a") as here:
        await here.backend.publish("a", b"1")
        await asyncio.to_thread(publisher.publish, [("a", b"2")])
        server.kill()
        # Among them the first, over the connections of before. To wait for each would take 2,000 s.
        for n in range(200):
            with pytest.raises(BroadcastError, match=f"broadcast failed at {server.url}: ") as e:
                await here.backend.publish("a", b"%d" % n)
            assert e.value.__cause__ is not None
            with pytest.raises(BroadcastError, match=f"broadcast failed at {server.url}: "):
                publisher.publish([("a", b"%d" % n)])
        losses = here.listener.losses
        await eventually(lambda: here.listener.losses > losses)  # while it waits, it waits
        busy, began = time.process_time(), time.monotonic()
        await eventually(lambda: here.listener.losses > losses + 2)
        assert time.process_time() - busy < (time.monotonic() - began) / 2
        assert len(warnings(caplog)) == 1
        assert f"no connection to {server.url} (" in warnings(caplog)[0]
        server.start()
        await here.has(gaps=1)
        await here.backend.publish("a", b"again")
        await eventually(lambda: ("a", b"again") in here.messages)
        assert len(warnings(caplog)) == 2
        assert "Broadcasts arrive again" in warnings(caplog)[1]
    publisher.close()


async def test_a_server_that_is_down_at_the_start_is_waited_for(
    server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listener, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(Listener, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(Outage, "FIRST_REMINDER", 0.1)
    server.kill()
    async with Listening(server.url) as here:
        subscribing = [asyncio.create_task(here.subscribe(topic)) for topic in ("a", "b")]
        await eventually(lambda: len(warnings(caplog)) >= 4)
        # Once at the beginning, then after 0.1, 0.3 and 0.7 s.
        times = [each.created for each in caplog.records if each.name == "django.ws"]
        waits = [after - before for before, after in pairwise(times)]
        assert waits[0] < waits[1] < waits[2]
        assert "do not arrive for" in warnings(caplog)[3]
        assert not any(task.done() for task in subscribing)
        await here.backend.unsubscribe(["b"])  # as after a time-out
        server.start()
        await subscribing[0]
        with pytest.raises(BroadcastError):
            await subscribing[1]
        await here.backend.publish_many([("b", b"1"), ("a", b"2")])
        await here.has(messages=1)
        assert here.messages == [("a", b"2")]
        assert here.gaps == []  # nothing had been confirmed before
        assert "Broadcasts arrive again" in warnings(caplog)[-1]


async def test_what_is_asked_for_and_given_back_while_away(server: RedisServer) -> None:
    async with Listening(server.url, "stays", "goes", "returns") as here:
        server.kill()
        await eventually(lambda: here.listener._lost)
        await here.backend.unsubscribe(["goes", "returns"])
        coming = asyncio.create_task(here.subscribe("comes", "returns", "stays"))
        await eventually(lambda: len(here.listener._waiters) == 3)
        server.start()
        await coming
        await here.has(gaps=1)
        # "returns" was asked for anew: what came before is not missed.
        assert here.gaps == [{"stays"}]
        sent = [(topic, b"x") for topic in ("stays", "goes", "comes", "returns")]
        await here.backend.publish_many(sent)
        await here.has(messages=3)
        assert [topic for topic, _ in here.messages] == ["stays", "comes", "returns"]


async def test_a_connection_that_never_holds_is_tried_ever_more_rarely(
    server: RedisServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listener, "FIRST_WAIT", 0.01)
    attempts: list[float] = []

    async def count(n: int) -> None:
        while len(attempts) < n:
            await eventually(lambda: server.clients(pubsub=True))
            attempts.append(time.monotonic())
            await here.has(gaps=len(attempts) - 1)
            proxy.cut()

    async with Listening(proxy.url, "a") as here:
        await count(9)
        waits = [after - before for before, after in pairwise(attempts)]
        assert waits[-1] > 0.5  # at least half of eight doublings
        monkeypatch.setattr(Listener, "STEADY_SECONDS", 0)  # now every connection is steady
        monkeypatch.setattr(Listener, "LONGEST_WAIT", 60.0)
        monkeypatch.setattr(Listener, "FIRST_WAIT", 0.001)
        await count(25)  # doubled as often again, the waits would exceed the test's time


# Servers and networks that say nothing


async def test_a_frozen_redis_is_noticed_and_what_was_missed_told(
    server: RedisServer, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    publishers = [RedisPublisher(server.url, "t:", {}) for _ in range(2)]
    async with Listening(server.url, "a") as here, Listening(server.url) as there:
        for backend, publisher in zip((here.backend, there.backend), publishers, strict=True):
            await backend.publish("a", b"1")
            await asyncio.to_thread(publisher.publish, [("a", b"2")])
        await here.has(messages=4)
        server.freeze()
        assert server.state() == "T"
        for backend, publisher, data in (
            (here.backend, publishers[0], b"3"),  # it waits for an answer
            (there.backend, publishers[1], b"x" * 5_000_000),  # it waits to be taken
        ):
            with pytest.raises(BroadcastError, match=r"no answer in 0.5 s") as caught:
                await backend.publish("a", data)
            assert isinstance(caught.value.__cause__, TimeoutError)
            with pytest.raises(BroadcastError, match=r"(?i)time|no answer"):
                await asyncio.to_thread(publisher.publish, [("a", data)])
        await eventually(lambda: "no answer to a PING in 0.3 s" in caplog.text)
        assert server.state() == "T"
        server.thaw()
        await here.has(gaps=1)
        assert here.gaps == [{"a"}]
        await here.backend.publish("a", b"async again")
        await until_taken(publishers[0], ("a", b"sync again"))
        await eventually(lambda: ("a", b"sync again") in here.messages)
        # What was handed over without an answer may have been published, but once at most, and not
        # after what the same publisher has published later.
        assert [each for _, each in here.messages][-2:] == [b"async again", b"sync again"]
        assert len(here.messages) <= 6 + 4
    for publisher in publishers:
        publisher.close()


async def test_many_threads_at_a_frozen_redis_all_get_their_error_in_time(
    server: RedisServer, soon: None
) -> None:
    publisher = RedisPublisher(server.url, "t:", {})
    publisher.publish([("a", b"1")])
    server.freeze()
    assert server.state() == "T"
    errors: list[BroadcastError] = []

    def publish() -> None:
        try:
            publisher.publish([("a", b"2")])
        except BroadcastError as error:
            errors.append(error)

    began = time.monotonic()
    threads = [threading.Thread(target=publish) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert time.monotonic() - began < 20  # one after the other would be 30
    assert len(errors) == 60
    server.thaw()
    await until_taken(publisher, ("a", b"3"))
    publisher.close()


async def test_a_network_that_swallows_everything(
    server: RedisServer, proxy: Proxy, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = RedisPublisher(server.url, "t:", {})
    async with Listening(proxy.url, "a", "b") as here:
        proxy.hold()
        await asyncio.to_thread(publisher.publish, [("a", b"swallowed")])  # on its own way
        await eventually(lambda: proxy.held)  # it was on its way to the listener
        await eventually(lambda: "no answer to a PING" in caplog.text)
        with pytest.raises(BroadcastError, match=r"no answer in 0.5 s"):
            await here.backend.publish("a", b"not sent")
        attempts = len(proxy._sockets)
        await eventually(lambda: len(proxy._sockets) >= attempts + 4)  # it is tried on
        assert here.received == []
        proxy.go_on()
        await here.has(gaps=1)
        assert here.gaps == [{"a", "b"}]
        await here.backend.publish("b", b"again")
        await eventually(lambda: ("b", b"again") in here.messages)
        assert ("a", b"swallowed") not in here.messages
        # The connections that were given up leave nothing behind, here or there.
        await eventually(lambda: len(server.clients()) == 3)
    publisher.close()


async def test_a_publish_that_is_cancelled_leaves_no_answer_for_the_next(
    server: RedisServer,
) -> None:
    async with Listening(server.url, "a") as here:
        await here.backend.publish("a", b"1")
        server.freeze()
        publishing = asyncio.create_task(here.backend.publish("a", b"2"))
        closing_later = asyncio.create_task(here.backend.publish("a", b"3"))
        await asyncio.sleep(0)
        publishing.cancel()
        await asyncio.wait([publishing])
        assert publishing.cancelled()
        server.thaw()
        await closing_later
        await here.backend.publish_many([("a", b"4"), ("a", b"5")])
        await here.has(messages=4)
        assert [data for _, data in here.messages][-3:] == [b"3", b"4", b"5"]


# Servers that refuse


async def test_a_full_server_is_named_and_waited_for(soon: None) -> None:
    with RedisServer("maxclients 3") as server:
        # Redis says why and closes at once: what was sent meanwhile can wipe out what it said.
        refused = r"(?i)max number of clients|reset|closed|lost|pipe"
        others = [Holding(server) for _ in range(3)]
        publisher = RedisPublisher(server.url, "t:", {})
        async with Listening(server.url) as here:
            subscribing = asyncio.create_task(here.subscribe("a"))
            with pytest.raises(BroadcastError, match=refused):
                await here.backend.publish("a", b"1")
            with pytest.raises(BroadcastError, match=refused):
                await asyncio.to_thread(publisher.publish, [("a", b"1")])
            await eventually(lambda: here.listener._outage._since)
            assert others[0].ask(b"INFO stats").count(b"rejected_connections:0") == 0
            assert not subscribing.done()
            for other in others:
                other.close()
            await subscribing
            await here.backend.publish("a", b"2")
            publisher.close()
            await here.has(messages=1)


class Holding:
    """A plain connection that takes one of the server's places."""

    def __init__(self, server: RedisServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self.ask(b"PING")

    def ask(self, command: bytes) -> bytes:
        self.socket.settimeout(5)
        self.socket.sendall(command + b"\r\n")
        return self.socket.recv(100_000)

    def close(self) -> None:
        self.socket.close()


async def test_full_memory_refuses_keys_but_no_broadcasts(server: RedisServer) -> None:
    async with Listening(server.url, "a") as here:
        server.ask("CONFIG SET", "maxmemory-policy", "noeviction")
        server.ask("CONFIG SET", "maxmemory", "1")
        with pytest.raises(Exception, match=r"OOM|used memory"):
            server.ask("SET", "key", "value")
        await here.backend.publish_many([("a", b"%d" % n) for n in range(100)])
        await here.subscribe("b")
        await here.backend.publish("b", b"x")
        await here.has(messages=101)
        assert here.gaps == []


async def test_a_user_who_may_not_is_named_in_log_and_error(
    soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer("user alice on >secret resetchannels &other:* +@all") as server:
        url = f"redis://alice:secret@127.0.0.1:{server.port}/0"
        async with Listening(url) as here:
            subscribing = asyncio.create_task(here.subscribe("a"))
            publisher = RedisPublisher(url, "t:", {})
            with pytest.raises(BroadcastError, match=r"No permissions|no permissions|NOPERM"):
                await here.backend.publish("a", b"1")
            with pytest.raises(BroadcastError, match=r"No permissions|no permissions|NOPERM"):
                publisher.publish([("a", b"1")])
            publisher.close()
            await eventually(lambda: any("ermission" in each for each in warnings(caplog)))
            assert "secret" not in "".join(warnings(caplog))
            server.ask("ACL SETUSER", "alice", "&t:*")
            await subscribing
            await here.backend.publish("a", b"2")
            await here.has(messages=1)


async def test_a_message_that_is_refused_takes_no_other_with_it() -> None:
    with RedisServer("user alice on >secret resetchannels &t:*[ab] +@all") as server:
        url = f"redis://alice:secret@127.0.0.1:{server.port}/0"
        async with Listening(url, "a", "b") as here:
            sent = [("a", b"1"), ("forbidden", b"2"), ("b", b"3"), ("forbidden", b"4")]
            with pytest.raises(BroadcastError, match=r"(?i)no permissions|noperm") as caught:
                await here.backend.publish_many(sent)
            assert caught.value.errors.keys() == {1, 3}
            await here.backend.publish("a", b"5")  # over the same connection
            await here.has(messages=3)
            assert here.messages == [("a", b"1"), ("b", b"3"), ("a", b"5")]
            assert len([c for c in server.clients() if c["user"] == "alice"]) == 2


async def test_of_a_connection_cut_in_the_middle_it_is_known_what_was_taken(
    server: RedisServer,
) -> None:
    """A server that answers twice and vanishes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b"PUBLISH" in data:
                writer.write(b":0\r\n:0\r\n")
                await writer.drain()
                break
            writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as vanishing:
        port = vanishing.sockets[0].getsockname()[1]
        async with Listening(f"redis://127.0.0.1:{port}") as here:
            with pytest.raises(BroadcastError) as caught:
                await here.backend.publish_many([("a", b"%d" % n) for n in range(5)])
            assert caught.value.errors.keys() == {2, 3, 4}


async def test_topics_that_come_and_go_while_redis_is_away_leave_nothing_behind(
    server: RedisServer,
) -> None:
    async with Listening(server.url, "stays") as here:
        server.kill()
        await eventually(lambda: here.listener._lost)
        for n in range(100):
            coming = asyncio.create_task(here.subscribe(f"{n}"))
            await asyncio.sleep(0)
            await here.backend.unsubscribe([f"{n}"])
            with pytest.raises(BroadcastError):
                await coming
        assert len(here.listener._changed) == 0
        server.start()
        await here.has(gaps=1)
        await here.backend.publish("stays", b"x")
        await here.has(messages=1)


# At full length


@pytest.mark.faults
@pytest.mark.timeout(180)
async def test_a_redis_frozen_for_forty_seconds(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = RedisPublisher(server.url, "t:", {})
    async with Listening(server.url, "a") as here:
        publisher.publish([("a", b"1")])
        await here.backend.publish("a", b"2")
        await here.has(messages=2)
        server.freeze()
        frozen = time.monotonic()
        with pytest.raises(BroadcastError):
            await here.backend.publish("a", b"3")
        assert time.monotonic() - frozen < 5.5
        with pytest.raises(BroadcastError):
            await asyncio.to_thread(publisher.publish, [("a", b"4")])
        assert time.monotonic() - frozen < 11
        async with asyncio.timeout(60):
            while not warnings(caplog):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        noticed = time.monotonic() - frozen
        assert 10 < noticed < 26
        await asyncio.sleep(40 - noticed)
        assert server.state() == "T"
        server.thaw()
        async with asyncio.timeout(60):
            while not here.gaps:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert here.gaps == [{"a"}]
        await here.backend.publish("a", b"5")
        await eventually(lambda: ("a", b"5") in here.messages)
    publisher.close()
