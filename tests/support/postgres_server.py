"""A real PostgreSQL server for tests, in a temporary directory of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import psycopg

from tests.support.redis_server import SECONDS, free_port, until

CURE = "PostgreSQL is missing: apt-get install postgresql"


def _program(name: str) -> str:
    """Debian keeps the server's programs apart from PATH, by version."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4])
    )
    found = str(versions[-1]) if versions else shutil.which(name)
    if found is None:
        raise RuntimeError(CURE)
    return found


class PostgresServer:
    """One cluster, reached by TCP without a password. ``settings``: ``"max_connections=60"``."""

    def __init__(self, *settings: str) -> None:
        self.settings = settings
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.process: subprocess.Popen[bytes] | None = None
        # It refuses to run as root; and from a directory that it may not look into.
        self._options: dict[str, Any] = {"cwd": self.directory}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
            self._options |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}

    def start(self) -> Self:
        data = self.directory / "data"
        if not data.exists():
            subprocess.run(
                [
                    *(_program("initdb"), "-D", str(data), "-U", "tests", "-A", "trust"),
                    *("--no-sync", "--locale=C.UTF-8", "--encoding=UTF8"),
                ],
                stdout=subprocess.DEVNULL,
                check=True,
                **self._options,
            )
        settings = ["fsync=off", "listen_addresses=127.0.0.1", f"port={self.port}", *self.settings]
        settings += [f"unix_socket_directories={self.directory}"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(_program("postgres"), "-D", str(data)),
                    *(part for setting in settings for part in ("-c", setting)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._options,
            )
        until(self._answers, f"an answer of PostgreSQL on port {self.port}")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ChildProcessError((self.directory / "log").read_text()[-2000:])
        try:
            self.ask("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def ask(self, query: str) -> list[Any]:
        """One statement on a connection of its own, outside a transaction; its rows."""
        with psycopg.connect(
            f"host=127.0.0.1 port={self.port} user=tests dbname=postgres",
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            done = connection.execute(query.encode())
            return done.fetchall() if done.description else []

    def stop(self) -> None:
        """At once, as in a crash."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT: its children end, too
            self.process.wait(SECONDS)
            self.process = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
