"""A Redis server on the generator's core, and a connection that publishes prepared bytes."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.server import free_port

_OPTIONS = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no")


def command(*words: str | bytes) -> bytes:
    """A command as it goes over the wire."""
    data = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in data)


@dataclass
class Redis:
    """A running server, and this process's one connection to it."""

    url: str
    connection: socket.socket
    _received: bytes = field(default=b"", init=False)

    def ask(self, *words: str | bytes) -> bytes:
        """One command with an answer of one line or one string."""
        self.connection.sendall(command(*words))
        line = self._line()
        if line[:1] == b"$":
            size = int(line[1:]) + 2
            while len(self._received) < size:
                self._receive()
            line, self._received = self._received[: size - 2], self._received[size:]
        return line

    def publish(self, commands: bytes, count: int, receivers: int = 1) -> None:
        """So many PUBLISH commands. Raises where not so many processes have subscribed."""
        self.connection.sendall(commands)
        for _ in range(count):
            line = self._line()
            if line != b":%d" % receivers:
                raise RuntimeError(f"PUBLISH was answered {line!r} instead of {receivers}")

    def wait_for_subscribers(self, channels: Sequence[str | bytes], processes: int = 1) -> None:
        """Until all are subscribed to, by so many processes."""
        deadline = time.monotonic() + 20
        for channel in channels:
            while True:
                self.connection.sendall(command("PUBSUB", "NUMSUB", channel))
                if int([self._line() for _ in range(4)][3][1:]) >= processes:
                    break
                if time.monotonic() > deadline:
                    raise RuntimeError(f"nobody subscribed to {channel!r}")
                time.sleep(0.01)

    def others(self) -> int:
        """How many connections there are beside this one."""
        return self.ask("CLIENT", "LIST").count(b"id=") - 1

    def _line(self) -> bytes:
        while b"\r\n" not in self._received:
            self._receive()
        line, _, self._received = self._received.partition(b"\r\n")
        return line

    def _receive(self) -> None:
        data = self.connection.recv(65536)
        if not data:
            raise RuntimeError("Redis has closed the connection")
        self._received += data


@contextmanager
def redis_server() -> Iterator[Redis]:
    """Its URL is in the environment, too, for the servers that are started meanwhile."""
    if shutil.which("redis-server") is None:
        raise SystemExit("fanout needs redis-server: apt-get install redis-server")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        files = ("--dir", folder, "--logfile", "log")
        process = subprocess.Popen(["redis-server", "--port", str(port), *files, *_OPTIONS])
        try:
            connection = _connect(process, port)
            url = os.environ["BENCHMARK_REDIS"] = f"redis://127.0.0.1:{port}/0"
            with connection:
                yield Redis(url, connection)
        finally:
            os.environ.pop("BENCHMARK_REDIS", None)
            process.kill()
            process.wait()


def _connect(process: subprocess.Popen[bytes], port: int) -> socket.socket:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = socket.create_connection(("127.0.0.1", port), 10)
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    raise RuntimeError(f"redis-server did not start (exit code {process.poll()})")
