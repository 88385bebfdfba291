"""A handshake that a server takes for the request of a page: one warning, whose cure works."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from django.core.signals import request_started
from django.core.wsgi import get_wsgi_application
from django.test import RequestFactory
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from django_ws import get_websocket_application, missed_upgrades
from django_ws.types import Receive, Scope, Send
from tests import ROOT
from tests.integration.management.test_runserver import new_project
from tests.support.project import environment
from tests.support.servers import Lines

WAIT_SECONDS = 45.0
SAID = "the handshake came as the request of a page"
HANDSHAKE: list[tuple[bytes, bytes]] = [
    (b"host", b"testserver"),
    (b"connection", b"keep-alive, Upgrade"),
    (b"upgrade", b"WebSocket"),
]


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(missed_upgrades, "_untold", Lock())
    missed_upgrades.connect()
    yield
    monkeypatch.undo()
    request_started.disconnect(dispatch_uid="django_ws")
    missed_upgrades.connect()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if SAID in record.getMessage()]


def wsgi(**headers: str) -> None:
    environ = RequestFactory().get("/ws/echo/", headers=headers).environ
    list(get_wsgi_application()(environ, lambda *answer: lambda data: None))


async def asgi(headers: list[tuple[bytes, bytes]], application: Any = None) -> None:
    events = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if events:
            return events.pop()
        return await asyncio.Event().wait()  # nobody leaves

    async def send(event: Any) -> None: ...

    scope = {
        "type": "http", "method": "GET", "path": "/ws/echo/\n", "raw_path": b"/ws/echo/",
        "query_string": b"", "headers": headers, "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    await (application or get_websocket_application())(scope, receive, send)


async def other_framework(scope: Scope, receive: Receive, send: Send) -> None: ...


# What is said, and when


@pytest.mark.django_db  # Django looks after its connections at each request
def test_wsgi_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    wsgi()
    wsgi(upgrade="h2c")
    assert warnings(caplog) == []
    wsgi(upgrade="WebSocket")
    wsgi(upgrade="websocket")
    [line] = warnings(caplog)
    for words in ("WebSocket /ws/echo/: ", "WSGI", "INSTALLED_APPS", "runws", "Said once"):
        assert words in line


async def test_asgi_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    await asgi(HANDSHAKE[:1])
    await asgi([*HANDSHAKE[:2], (b"upgrade", b"h2c")])
    assert warnings(caplog) == []
    await asgi(HANDSHAKE)
    await asgi(HANDSHAKE)
    [line] = warnings(caplog)
    assert line.startswith(r"WebSocket /ws/echo/\n: ")


@pytest.mark.django_db
def test_a_signal_that_tells_nothing_is_no_handshake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    request_started.send(sender=None)
    assert warnings(caplog) == []


def test_of_several_threads_that_see_it_at_once_one_says_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    receivers = [each for each in request_started.receivers if each[0][0] == "django_ws"]
    assert len(receivers) == 1
    environ = {"HTTP_UPGRADE": "websocket", "PATH_INFO": "/ws/echo/"}
    look = missed_upgrades._request_started
    for _ in range(2):  # as one that the signal had begun to call before the other was done
        look(environ=environ)
    assert len(warnings(caplog)) == 1


async def test_nothing_is_looked_at_any_more_once_it_is_said() -> None:
    def count() -> int:
        return len(request_started.receivers)

    before = count()
    await asgi(HANDSHAKE)
    assert count() == before - 1
    missed_upgrades.connect()  # of another application in this process
    assert count() == before - 1


async def test_an_http_application_that_is_not_djangos_says_it_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    application = get_websocket_application(http_app=other_framework)
    await asgi(HANDSHAKE[:1], application)
    assert warnings(caplog) == []
    await asgi(HANDSHAKE, application)
    await asgi(HANDSHAKE, application)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(
    ("connection", "without", "cure"),
    [
        ([], (), "its header Connection is ''. A proxy"),
        ([b"close"], (), "pass on `Connection: upgrade` too"),
        ([b"keep-alive", b"upgrade"], (), "without --ws none"),
        ([b"upgrade"], missed_upgrades.LIBRARIES, 'pip install "django-ws[server]"'),
        ([b"upgrade"], missed_upgrades.LIBRARIES[:1], "without --ws none"),
    ],
)
async def test_the_cure_is_that_of_the_cause(
    connection: list[bytes],
    without: tuple[str, ...],
    cure: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in without:
        monkeypatch.setitem(sys.modules, name, None)
    values = [(b"connection", value) for value in connection]
    await asgi([*values, (b"upgrade", b"websocket")])
    [line] = warnings(caplog)
    assert cure in line


# On real servers, and following the advice


class Process:
    """A server in a process of its own, and what it prints."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment(PYTHONUNBUFFERED="1", PYTHONPATH=str(ROOT)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.output = Lines(self.process.stdout)

    @property
    def printed(self) -> str:
        return "\n".join(self.output.lines)

    def find(self, pattern: str) -> str:
        found = self.output.wait_for(
            lambda lines: re.search(pattern, "\n".join(lines)) is not None, WAIT_SECONDS
        )
        assert found, self.printed
        [first, *_] = re.findall(pattern, self.printed)
        return str(first)

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(WAIT_SECONDS)
        self.output.close()


@contextmanager
def running(folder: Path, *command: str) -> Iterator[tuple[Process, str]]:
    server = Process(folder, *command)
    try:
        yield server, server.find(r"http://(127\.0\.0\.1:\d+)")
    finally:
        server.stop()


def refused(address: str) -> int:
    with pytest.raises(InvalidStatus) as raised, connect(f"ws://{address}/ws/echo/"):
        pass
    return raised.value.response.status_code


def echo(address: str) -> Any:
    with connect(f"ws://{address}/ws/echo/", open_timeout=WAIT_SECONDS) as ws:
        ws.send('"hi"')
        return ws.recv(WAIT_SECONDS)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


LOG_EVERYTHING = """
LOGGING = {
    "version": 1, "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django": {"handlers": ["console"], "level": "INFO"}},
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = new_project(tmp_path)
    settings = folder / "mysite" / "settings.py"
    settings.write_text(settings.read_text() + LOG_EVERYTHING)
    return folder


@pytest.mark.heavy
def test_djangos_runserver_says_it_and_the_advice_works(project: Path) -> None:
    settings = project / "mysite" / "settings.py"
    right = settings.read_text()
    # So that Django's own command is found first, which serves WSGI:
    wrong = right + "INSTALLED_APPS = INSTALLED_APPS[1:] + INSTALLED_APPS[:1]\n"
    settings.write_text(wrong)
    command = ("manage.py", "runserver", "--noreload", f"127.0.0.1:{free_port()}")
    with running(project, *command) as (server, address):
        assert refused(address) == 404
        assert refused(address) == 404
        server.find(SAID)
        server.find('/ws/echo/ HTTP/1.1" 404(?s:.*)/ws/echo/ HTTP/1.1" 404')
        assert server.printed.count(SAID) == 1
        assert 'with "django_ws" at the top of INSTALLED_APPS' in server.printed
    settings.write_text(right)
    with running(project, *command) as (server, address):
        assert echo(address) == '"hi"'
        assert SAID not in server.printed


UVICORN = ("-m", "uvicorn", "mysite.asgi:site", "--port", "0")
WITHOUT_LIBRARY = """
import sys
sys.path.insert(0, ".")
sys.modules["websockets"] = sys.modules["wsproto"] = None
import uvicorn
uvicorn.run("mysite.asgi:site", port=0)
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("command", "cure"),
    [
        ((*UVICORN, "--ws", "none"), "Start uvicorn without --ws none"),
        (("-c", WITHOUT_LIBRARY), 'pip install "django-ws[server]"'),
    ],
    ids=["switched off", "no library"],
)
def test_uvicorn_says_it_and_the_advice_works(
    project: Path, command: tuple[str, ...], cure: str
) -> None:
    with running(project, *command) as (server, address):
        assert refused(address) == 404
        assert refused(address) == 404
        server.find(SAID)
        assert server.printed.count(SAID) == 1
        assert cure in server.printed
    with running(project, *UVICORN) as (server, address):
        assert echo(address) == '"hi"'
        assert SAID not in server.printed


@pytest.mark.heavy
def test_a_proxy_that_keeps_the_connection_header_back_is_named(project: Path) -> None:
    request = (
        "GET /ws/echo/ HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: {}\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with running(project, *UVICORN) as (server, address):

        def status(connection: str) -> str:
            host, _, port = address.partition(":")
            with socket.create_connection((host, int(port)), WAIT_SECONDS) as client:
                client.sendall(request.format(address, connection).encode())
                return client.recv(1000).decode().split(" ")[1]

        assert status("close") == "404"
        server.find("its header Connection is 'close'. A proxy")
        assert status("Upgrade") == "101"


# The app that is missing


@pytest.mark.heavy
def test_a_site_without_the_app_says_what_is_missing_and_serves(project: Path) -> None:
    settings = project / "mysite" / "settings.py"
    right = settings.read_text()
    settings.write_text(right + 'INSTALLED_APPS.remove("django_ws")\n')
    missing = '"django_ws" is not in INSTALLED_APPS'
    with running(project, *UVICORN) as (server, address):
        assert echo(address) == '"hi"'
        assert server.printed.count(missing) == 1
        assert "log-out" in server.printed
    settings.write_text(right)
    with running(project, *UVICORN) as (server, address):
        assert echo(address) == '"hi"'
        assert missing not in server.printed


def test_the_app_that_is_missing_is_one_line(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "django.ws")
    get_websocket_application()
    assert caplog.messages == []
    settings.INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
    get_websocket_application()
    [line] = caplog.messages
    assert '"django_ws" is not in INSTALLED_APPS' in line
