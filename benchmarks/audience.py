"""The subscribers of topics: each checks that it gets every broadcast, once, and in order."""

import fcntl
import json
import os
import select
import socket
import struct
import termios
from collections.abc import Sequence
from time import perf_counter

from benchmarks.load import Load, poll
from benchmarks.redis_server import Redis, command
from benchmarks.server import Server, Workers

_FIRST = 10_000_000  # all numbers have eight digits
TEXT = '{"type":"chat","room":"lobby","user":"alice","text":"Hello there","id":10000000}'
_PATIENCE = 10.0  # seconds without a single delivery


def _django_ws(topic: str, text: str) -> tuple[bytes, bytes]:
    from django_ws.conf import DEFAULT_PREFIX  # Django is not set up at import
    from django_ws.pubsub.backends.base import channel_of
    from django_ws.pubsub.backends.redis.location import site_of
    from django_ws.pubsub.backends.sequence import HEAD, MESSAGE
    from django_ws.pubsub.envelope import seal

    # The number of a call has eight bytes, as the number in the text has: both are replaced.
    number = int.from_bytes(b"%d" % _FIRST)
    head = HEAD.pack(MESSAGE, os.urandom(8), number, number)
    return channel_of(site_of(DEFAULT_PREFIX), topic), head + seal(json.loads(text))


def _bare(topic: str, text: str) -> tuple[bytes, bytes]:
    return topic.encode(), text.encode()


def _channels(topic: str, text: str) -> tuple[bytes, bytes]:
    from channels_redis.pubsub import RedisPubSubChannelLayer

    message = RedisPubSubChannelLayer().serialize({"type": "fan.out", "text": text})
    return f"asgi__group__{topic}".encode(), message


# What each application's own publisher would hand to Redis: the channel and the data.
_SEALED = {"bare": _bare, "django_ws": _django_ws, "runws": _django_ws, "channels": _channels}


class Post:
    """The commands that publish a text with a number to some topics, in so many processes; or,
    in one write, a ``burst`` of such texts with the next numbers.
    """

    def __init__(
        self,
        application: str,
        topics: Sequence[str],
        text: str = TEXT,
        processes: int = 1,
        burst: int = 1,
    ) -> None:
        self.text, self.burst = text, burst
        sealed = [_SEALED[application](topic, text) for topic in topics]
        self.channels = [channel for channel, _ in sealed]
        self.processes = processes
        self._commands = b"".join(command("PUBLISH", *one) for one in sealed)

    def publish(self, redis: Redis, number: int) -> None:
        """This number, or the numbers up to it."""
        commands = b"".join(
            self._commands.replace(b"%d" % _FIRST, b"%d" % each) for each in self._numbers(number)
        )
        redis.publish(commands, len(self.channels) * self.burst, self.processes)

    def texts(self, number: int) -> list[str]:
        return [self.text.replace(str(_FIRST), str(each)) for each in self._numbers(number)]

    def _numbers(self, number: int) -> range:
        return range(number - self.burst + 1, number + 1)


def _frame(text: str) -> bytes:
    """A server's frame of 126 bytes or less."""
    return bytes([0x81, len(text)]) + text.encode()


class Audience:
    """Sockets that get one message for each number published. One number is under way."""

    def __init__(
        self, redis: Redis, server: Server | Workers, clients: Sequence[socket.socket]
    ) -> None:
        self.redis, self.server = redis, server
        self.reads = {client.fileno(): client.recv for client in clients}
        self.partial: dict[int, bytes] = {}
        self.missing: set[int] = set()
        self.number = _FIRST
        self.frame = b""
        self.each = 1  # messages in that
        self.slept = 0.0  # seconds of waiting for Redis and the server to begin
        self.epoll = select.epoll()
        for client in clients:
            client.setblocking(False)
            self.epoll.register(client, select.EPOLLIN)

    def expected(self, post: Post) -> bytes:
        """What each of them should get for the number."""
        return b"".join(map(_frame, post.texts(self.number)))

    def read(self, fileno: int) -> int:
        data, before = self.reads[fileno](4096), b""
        if data != self.frame:
            before = self.partial.pop(fileno, b"")
            data = before + data
            if data != self.frame:
                if not data or not self.frame.startswith(data):
                    raise RuntimeError(f"number {self.number} expected, got {data!r}")
                self.partial[fileno] = data
                return self._whole(data) - self._whole(before)
        self.missing.remove(fileno)  # a KeyError: it came twice
        return self.each - self._whole(before)

    def _whole(self, data: bytes) -> int:
        """How many messages these are; all of a burst are of one size."""
        return len(data) * self.each // len(self.frame)

    def next(self, post: Post, patience: float = _PATIENCE) -> None:
        """Publish the next number; returns when somebody has it, or after ``patience`` seconds."""
        self.number += post.burst
        self.frame, self.each = self.expected(post), post.burst
        self.missing = set(self.reads)
        start = perf_counter()
        post.publish(self.redis, self.number)
        # Redis has the same core: without a sleep it would not come to pass the message on.
        self.epoll.poll(patience)
        self.slept += perf_counter() - start

    def run(self, post: Post, seconds: float) -> Load:
        """Each time that all have got the last number, publish the next."""

        def read(fileno: int) -> int:
            got = self.read(fileno)
            if not self.missing:
                self.next(post)
            return got

        used, self.slept = self.server.cpu_seconds(), 0.0
        self.next(post)
        first = self.slept
        load = poll(self.epoll, read, seconds)
        used, slept = self.server.cpu_seconds() - used, self.slept
        if left := self.drain(_PATIENCE):
            raise RuntimeError(f"number {self.number} did not reach {left} subscribers")
        whole = load.seconds + first
        busy = load.busy * load.seconds + first - slept
        return Load(load.answers, whole, busy / whole, used, slept)

    def drain(self, patience: float) -> int:
        """Read the rest of the last number. How many are still without it after ``patience``
        seconds with no delivery at all; nobody may have more than that.
        """
        while self.missing:
            events = self.epoll.poll(patience)
            if not events:
                return len(self.missing)
            for fileno, _ in events:
                self.read(fileno)
        for fileno, _ in self.epoll.poll(0):
            raise RuntimeError(f"one too many: {self.reads[fileno](4096)!r}")
        return 0


class Stuck:
    """Sockets with small buffers, that subscribe and never read."""

    def __init__(self, redis: Redis, server: Server, clients: Sequence[socket.socket]) -> None:
        self.redis, self.server, self.clients = redis, server, clients
        self.published = 0

    def fill(self, topic: str, size: int) -> None:
        """Publish so many bytes to the topic that all of them have joined."""
        text = json.dumps("x" * 1000 + str(_FIRST))
        post = Post(self.server.name, [topic], text)
        self.redis.wait_for_subscribers(post.channels)
        for number in range(size // len(text)):
            post.publish(self.redis, _FIRST + number)
            self.published += len(text)

    def in_kernel(self) -> list[int]:
        """What the kernel holds for each: sent and not acknowledged, or received and not read."""
        held = {client.getsockname()[1]: _unread(client) for client in self.clients}
        with open("/proc/net/tcp") as table:
            next(table)
            for line in table:
                _, local, remote, _, queues, *_ = line.split()
                port = int(remote.partition(":")[2], 16)
                if port in held and int(local.partition(":")[2], 16) == self.server.port:
                    held[port] += int(queues.partition(":")[0], 16)
        return list(held.values())


def _unread(client: socket.socket) -> int:
    count = fcntl.ioctl(client, termios.FIONREAD, b"\0" * 4)
    return int(struct.unpack("i", count)[0])
