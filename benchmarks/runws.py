"""`runws` in a process of its own, with its workers on the server's core."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from benchmarks.server import Server, free_port, on_server_core, wait

APPLICATION = "benchmarks.project.asgi:application"
END_SECONDS = 60.0


@contextmanager
def runws(name: str, *options: str, workers: int = 1, **environment: str) -> Iterator[Server]:
    """Its ``pid`` is the parent's. It listens; handshakes wait until the workers are ready."""
    port = free_port()
    command = [sys.executable, "-m", "django_ws.server", APPLICATION, f"--bind=127.0.0.1:{port}"]
    command += [f"--workers={workers}", "--no-access-log", "--log-level=warning", *options]
    with on_server_core():  # which the workers inherit
        process = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        wait(process, port)
        yield Server(name, port, process.pid)
    finally:
        for _ in range(2):  # a second signal ends it at once, with its workers
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        try:
            process.wait(END_SECONDS)
        finally:
            process.kill()
