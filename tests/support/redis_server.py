"""Real Redis servers, sentinels, and a proxy in between, that tests can harm.

Each runs in a temporary directory of its own, on a free port of 127.0.0.1.
"""

from __future__ import annotations

import _thread
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

SECONDS = 20.0  # the longest that anything here may take


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Wait until ``condition()`` is true, and give what it returned."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not after {seconds:g} s: {what}")
        time.sleep(0.01)
    return result


_given_ports: set[int] = set()


def free_port() -> int:
    """Below the range the system gives to clients, so that it stays free during a restart."""
    while True:
        port = random.SystemRandom().randrange(15000, 32000)
        if port in _given_ports:  # somebody will use it soon
            continue
        _given_ports.add(port)
        with socket.socket() as candidate, suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A redis-server process. Its arguments are lines of redis.conf: ``"maxclients 10"``.

    The environment's TEST_REDIS_SERVER may name another program of the same language, such as
    valkey-server.
    """

    def __init__(self, *config: str, port: int | None = None) -> None:
        self.config = config
        self.port = port or free_port()
        self.program = os.environ.get("TEST_REDIS_SERVER", "redis-server")
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket_path = self.directory / "socket"
        self.process: subprocess.Popen[bytes] | None = None
        self.mode: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        assert self.process is not None, "start() first"
        return self.process.pid

    def start(self) -> Self:
        """Returns when it answers."""
        file = self.directory / "redis.conf"
        if not file.exists():  # a sentinel and a cluster node write their own into it
            lines = [
                "bind 127.0.0.1",
                f"port {self.port}",
                f"unixsocket {self.socket_path}",
                f"dir {self.directory}",
                'save ""',
                "appendonly no",
                f"logfile {self.directory}/log",
                *self.config,
            ]
            file.write_text("\n".join(lines) + "\n")
        self.process = subprocess.Popen([self.program, str(file), *self.mode])
        until(self._answers, f"an answer of {self.program} on port {self.port}")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ChildProcessError((self.directory / "log").read_text()[-2000:])
        with suppress(OSError), socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(1)
            plain.connect(str(self.socket_path))
            plain.sendall(b"PING\r\n")
            answer = plain.recv(100)
            return answer[:1] in b"+-" and b"LOADING" not in answer
        return False

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(SECONDS)
            self.process = None

    def restart(self) -> None:
        """A new, empty process on the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing answers. Returns when it is stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        until(lambda: self.state() == "T", "the stop")

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        until(lambda: self.state() != "T", "the end of the stop")

    def state(self) -> str:
        """The process's state in /proc: R, S, T (stopped), ..."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0]

    def ask(self, *command: Any) -> Any:
        """One command on a connection of its own, over the Unix socket."""
        password = next((c.split()[1] for c in self.config if c.startswith("requirepass")), None)
        client: Any = redis.Redis(unix_socket_path=str(self.socket_path), password=password)
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    def clients(self, *, pubsub: bool = False) -> list[dict[str, str]]:
        """CLIENT LIST without the one that asks, sentinels and replicas; only who subscribed."""
        return [
            client
            for client in self.ask("CLIENT LIST")
            if not client["cmd"].startswith("client|list")
            and not client["name"].startswith("sentinel-")
            and "S" not in client["flags"]
            and (not pubsub or "P" in client["flags"])
        ]

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class SentinelSet:
    """A master, a replica, and sentinels that promote the replica soon after a death."""

    name = "mymaster"

    def __init__(self, sentinels: int = 1, *config: str, down_after: float = 0.5) -> None:
        config = (
            "repl-diskless-sync-delay 0",  # otherwise a replica waits for 5 s
            "user sentinel on >theirs ~* &* +@all",
            *config,
        )
        self.servers = [RedisServer(*config)]
        self.servers.append(RedisServer(f"replicaof 127.0.0.1 {self.servers[0].port}", *config))
        master = self.servers[0].port
        self.sentinels = [
            RedisServer(
                f"sentinel monitor {self.name} 127.0.0.1 {master} {sentinels // 2 + 1}",
                f"sentinel down-after-milliseconds {self.name} {int(down_after * 1000)}",
                f"sentinel failover-timeout {self.name} 3000",
                f"sentinel auth-user {self.name} sentinel",
                f"sentinel auth-pass {self.name} theirs",
            )
            for _ in range(sentinels)
        ]
        for sentinel in self.sentinels:
            sentinel.mode = ("--sentinel",)
        self._started = ExitStack()

    @property
    def location(self) -> dict[str, Any]:
        """LOCATION for a backend."""
        addresses = [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]
        return {"sentinels": addresses, "service_name": self.name}

    def master_port(self) -> int:
        """As the first sentinel sees it."""
        address = self.sentinels[0].ask("SENTINEL GET-MASTER-ADDR-BY-NAME", self.name)
        return int(address[1])

    def failover(self) -> None:
        """By hand: the master lives on, as a replica. Returns when it has begun."""

        def begin() -> bool:
            with suppress(redis.ResponseError):  # the replica has not shown itself fit yet
                self.sentinels[0].ask("SENTINEL FAILOVER", self.name)
                return True
            return False

        until(begin, "a failover")

    def cut_off(self, server: RedisServer) -> None:
        """The server refuses all that sentinels ask, and serves its other clients."""
        server.ask("ACL", "SETUSER", "sentinel", "-@all")

    def _is_known(self) -> bool:
        for sentinel in self.sentinels:
            state = sentinel.ask("SENTINEL MASTERS")
            state = state[self.name]
            if (state["num-slaves"], state["num-other-sentinels"]) != (1, len(self.sentinels) - 1):
                return False
        return bool(self.servers[1].ask("INFO", "replication")["master_link_status"] == "up")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (*self.servers, *self.sentinels):
                stack.enter_context(server)
            for sentinel in self.sentinels:  # as often as a test can wait for
                for period in ("info-period", "publish-period", "ask-period"):
                    sentinel.ask("SENTINEL DEBUG", period, 200)
            until(self._is_known, "sentinels that know the replica and each other")
            self._started = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._started.close()


class Proxy:
    """A TCP proxy to 127.0.0.1:port. While it holds, connections stay and nothing passes.

    What is held is passed on later, as by a network that comes back: TCP loses nothing.
    """

    EVERYBODY = ""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._passing = threading.Event()
        self._passing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.held = 0  # bytes that came while it held, in both directions
        self._sockets: set[socket.socket] = set()
        self._barred: set[str] = set()  # addresses of clients
        self._ended: list[threading.Event] = []
        self._is_closed = False
        self._run(self._accept)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def hold(self) -> None:
        self._passing.clear()

    def go_on(self) -> None:
        self._passing.set()

    def cut(self) -> None:
        """Reset every connection."""
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def bar(self, client: str = EVERYBODY) -> None:
        """Let a client's address, or nobody, through any more, until ``unbar``."""
        self._barred.add(client)
        self.cut()  # the others come back

    def unbar(self) -> None:
        self._barred.clear()

    def _is_barred(self, client: str) -> bool:
        return not self._barred.isdisjoint({client, self.EVERYBODY})

    def close(self) -> None:
        self._is_closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.go_on()
        self.cut()
        for ended in self._ended:
            ended.wait(SECONDS)
        for each in self._sockets:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, target: Callable[..., None], *args: object) -> None:
        ended = threading.Event()
        self._ended.append(ended)

        def run() -> None:
            try:
                target(*args)
            finally:
                ended.set()

        # Not threading.Thread: coverage traces these, and where two begin at once CPython 3.11 may
        # fail ("Cannot install a trace function while another trace function is being installed").
        _thread.start_new_thread(run, ())

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                near, (client, *_) = self._listener.accept()
            except OSError:
                return
            if self._is_barred(client):
                near.close()
                continue
            self._sockets.add(near)
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                self._sockets.discard(near)
                continue
            self._sockets.add(far)
            if self._is_barred(client):  # meanwhile
                self.cut()
            self._run(self._pump, near, far)
            self._run(self._pump, far, near)

    def _pump(self, source: socket.socket, drain: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self._passing.is_set():
                    self.held += len(data)
                    self._passing.wait()
                drain.sendall(data)
        for each in (source, drain):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
