"""One uvicorn in a process of its own, alone on one core, and what it uses up there."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

APPLICATIONS = {
    "bare": "benchmarks.bare:application",
    "django_ws": "benchmarks.project.asgi:application",
    "channels": "benchmarks.channels_peer:application",
}
_OPTIONS = (
    "--loop=uvloop",
    "--http=httptools",
    "--ws=websockets-sansio",
    "--ws-per-message-deflate=false",
    "--no-access-log",
    "--log-level=warning",
    "--host=127.0.0.1",
)


_CORES = sorted(os.sched_getaffinity(0))


@contextmanager
def on_server_core() -> Iterator[None]:
    """Has this process do the server's part, on its core."""
    os.sched_setaffinity(0, {_CORES[-1]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, {_CORES[0]})


def pin_generator() -> None:
    """Keeps this process on the first core. Raises ``SystemExit`` where there is no second one."""
    if len(_CORES) < 2:
        raise SystemExit("The benchmark needs two cores: one for the server, one for the load.")
    os.sched_setaffinity(0, {_CORES[0]})


@dataclass(frozen=True)
class Server:
    name: str
    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Time on a processor so far, of all threads, to the nanosecond."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def memory(self) -> int:
        """Bytes of resident memory."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(rollup.partition("Rss:")[2].split()[0]) * 1024


@dataclass(frozen=True)
class Workers:
    """Several processes of one application, which share the server's core."""

    name: str
    servers: Sequence[Server]

    def cpu_seconds(self) -> float:
        return sum(server.cpu_seconds() for server in self.servers)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"the server did not start (exit code {process.poll()})")


@contextmanager
def serve(name: str, *options: str) -> Iterator[Server]:
    """Runs the application called ``name``; ends the process, however the block ends."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", APPLICATIONS[name], f"--port={port}"]
    process = subprocess.Popen([*command, *_OPTIONS, *options])
    try:
        os.sched_setaffinity(process.pid, {_CORES[-1]})
        wait(process, port)
        yield Server(name, port, process.pid)
    finally:
        # Its sockets are already closed, or do not matter any more.
        process.kill()
        process.wait()
