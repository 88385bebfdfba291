"""``manage.py runserver``: pages, static files and sockets; its output; reloads; its end."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.utils import autoreload
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import tests.asgi
from django_ws.asgi import WebSocketApplication
from django_ws.management.commands.runserver import Command
from django_ws.server.dev.log import Lines as DevelopmentLines
from django_ws.server.dev.server import application
from django_ws.types import Event
from tests.support.project import environment
from tests.support.redis_server import free_port
from tests.support.servers import Lines

WAIT_SECONDS = 45.0
SECRET = "wd7Ht0Kq2s"  # in the query strings of sockets: no line may show it

SETTINGS = """
DEBUG = {debug}
SECRET_KEY = "x"
ALLOWED_HOSTS = ["127.0.0.1", "[::1]"]
INSTALLED_APPS = ["django_ws", "django.contrib.contenttypes", "django.contrib.auth"]
INSTALLED_APPS += {apps}
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}}}
ROOT_URLCONF = "mysite.urls"
ASGI_APPLICATION = "mysite.asgi.application"
STATIC_URL = "static/"
STATICFILES_DIRS = ["files"]
WS_MIDDLEWARE = []
WS_MAX_MESSAGE_SIZE = 1000
"""
URLS = """
from django.http import HttpResponse
from django.urls import path

def fail(request):
    raise LookupError("a view that fails")

urlpatterns = [path("", lambda request: HttpResponse("version 1")), path("fail/", fail)]
"""
WS_URLS = """
import time
from django.urls import path
from django_ws import WebSocketHandler

class Echo(WebSocketHandler):
    async def on_message(self, message):
        await self.send(message)

    async def on_close(self):
        print("on_close", self.close_code, flush=True)

class Busy(WebSocketHandler):
    def on_message(self, message):
        print("busy", flush=True)
        time.sleep(600)

class Blocks(WebSocketHandler):
    async def on_message(self, message):
        time.sleep(3)
        await self.send(message)

urlpatterns = [path("ws/echo/", Echo), path("ws/busy/", Busy), path("ws/blocks/", Blocks)]
"""
ASGI = """
import os
from django_ws import get_websocket_application

os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
site = get_websocket_application()

async def application(scope, receive, send):
    async def telling_send(event):
        if event["type"].startswith("lifespan"):
            print(event["type"], flush=True)
        await send(event)

    await site(scope, receive, telling_send)
"""
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


def new_project(
    folder: Path, debug: bool = True, apps: tuple[str, ...] = ("django.contrib.staticfiles",)
) -> Path:
    site = folder / "mysite"
    site.mkdir()
    (folder / "files").mkdir()
    (folder / "files" / "page.css").write_text("a style")
    (folder / "manage.py").write_text(MANAGE)
    settings = SETTINGS.format(debug=debug, apps=list(apps))
    for name, text in {
        "__init__.py": "",
        "settings.py": settings,
        "urls.py": URLS,
        "ws_urls.py": WS_URLS,
        "asgi.py": ASGI,
    }.items():
        (site / name).write_text(text)
    return folder


class RunServer:
    """The command in a process group of its own; ``with`` ends what is left of it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-W", "default", "manage.py", "runserver", *arguments],
            cwd=folder,
            env=environment(PYTHONUNBUFFERED="1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.output = Lines(self.process.stdout)

    def started(self, times: int = 1) -> str:
        """Wait until the address has been told so often; the last one."""
        pattern = r"Starting ASGI development server at http://(\S+)/"
        self.wait_for(lambda text: len(re.findall(pattern, text)) >= times)
        address: str = re.findall(pattern, self.printed)[-1]
        return address

    def wait_for(self, condition: Callable[[str], bool]) -> None:
        fulfilled = self.output.wait_for(lambda lines: condition("\n".join(lines)), WAIT_SECONDS)
        assert fulfilled, self.printed

    def expect(self, text: str, times: int = 1) -> None:
        self.wait_for(lambda printed: printed.count(text) >= times)

    def change(self, path: Path, text: str) -> None:
        """Write the file, until the reloader takes note: it must have seen the file before."""
        path.write_text(text)
        noted = "changed, reloading."
        before = self.printed.count(noted)
        end = time.monotonic() + WAIT_SECONDS
        while not self.output.wait_for(lambda lines: "\n".join(lines).count(noted) > before, 1):
            assert time.monotonic() < end, self.printed
            path.touch()

    @property
    def printed(self) -> str:
        return "\n".join(self.output.lines)

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(WAIT_SECONDS)
        self.output.close()
        return code

    def __enter__(self) -> RunServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.output.close()


def get(address: str, path: str = "") -> bytes:
    with urlopen(f"http://{address}/{path}", timeout=WAIT_SECONDS) as page:
        content: bytes = page.read()
    return content


def status_of(address: str, path: str) -> int:
    with pytest.raises(HTTPError) as caught:
        get(address, path)
    caught.value.close()
    return caught.value.code


@contextmanager
def open_socket(address: str, path: str = "ws/echo/") -> Iterator[ClientConnection]:
    with connect(f"ws://{address}/{path}?token={SECRET}", open_timeout=WAIT_SECONDS) as ws:
        yield ws


def echo(ws: ClientConnection) -> None:
    ws.send('"hi"')
    assert ws.recv(WAIT_SECONDS) == '"hi"'


def closed_with(ws: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed):
        ws.recv(WAIT_SECONDS)
    return ws.close_code


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return new_project(tmp_path)


@pytest.mark.parametrize("options", [(), ("--noreload",)], ids=["reloader", "no reloader"])
def test_a_hook_that_blocks_the_event_loop_is_told_with_its_line(
    project: Path, options: tuple[str, ...]
) -> None:
    with RunServer(project, *options, "0") as server:
        with open_socket(server.started(), "ws/blocks/") as ws:
            echo(ws)
        server.expect("The event loop has stood still for")
        server.expect(", in Blocks.on_message: time.sleep(3)")


def test_serves_and_tells_what_django_tells_and_what_becomes_of_sockets(project: Path) -> None:
    with RunServer(project, "--noreload", "0") as server:
        address = server.started()
        server.expect("Quit the server with CONTROL-C.")
        server.expect("lifespan.startup.complete")
        assert address.startswith("127.0.0.1:")
        assert "Performing system checks..." in server.printed
        assert "unapplied migration(s)" in server.printed

        assert get(address, "?next=a") == b"version 1"
        server.expect('"GET /?next=a HTTP/1.1" 200 9')
        assert get(address, "static/page.css") == b"a style"
        server.expect('"GET /static/page.css HTTP/1.1" 200 7')
        assert status_of(address, "static/none.css") == 404
        assert status_of(address, "none%0Athere/") == 404
        server.expect('"GET /none%0Athere/ HTTP/1.1" 404')
        assert status_of(address, "fail/") == 500
        server.expect('"GET /fail/ HTTP/1.1" 500')
        server.expect("LookupError: a view that fails")

        with open_socket(address) as ws:
            echo(ws)
            server.expect("WebSocket /ws/echo/ opened")
        server.expect("WebSocket /ws/echo/ closed with 1000 after ")
        with open_socket(address) as ws:
            ws.send("0" * 1001)
            assert closed_with(ws) == 1009  # the server's limit is WS_MAX_MESSAGE_SIZE
        # A page takes cookies of that size, too.
        with connect(
            f"ws://{address}/ws/echo/",
            additional_headers={"Cookie": f"a={'x' * 60_000}"},
            open_timeout=WAIT_SECONDS,
        ) as ws:
            echo(ws)
        with pytest.raises(InvalidStatus), open_socket(address, "ws/none/"):
            pass
        server.expect("] WebSocket /ws/none/ refused with 404")

        with open_socket(address) as ws:
            server.process.send_signal(signal.SIGINT)
            assert closed_with(ws) == 1012
        assert server.ended() == 0
        assert "on_close 1012" in server.printed
        assert "lifespan.shutdown.complete" in server.printed
        assert re.search(
            r"\[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] WebSocket /ws/echo/ opened", server.printed
        )
        assert SECRET not in server.printed
        assert "Warning:" not in server.printed  # of Python


@pytest.mark.heavy
@pytest.mark.timeout(180)
def test_a_change_closes_the_sockets_and_serves_the_new_code(project: Path) -> None:
    port = str(free_port())
    # However slow the machine is: the closes go out before the busy process is ended.
    with (project / "mysite" / "asgi.py").open("a") as file:
        file.write("\nfrom django_ws.server.dev import server\nserver.EXIT_SECONDS = 5\n")
    with RunServer(project, port) as server, ExitStack() as stack:
        address = server.started()
        sockets = [stack.enter_context(open_socket(address)) for _ in range(10)]
        for ws in sockets:
            echo(ws)
        busy = stack.enter_context(open_socket(address, "ws/busy/"))
        busy.send("0")
        server.expect("busy")
        urls = project / "mysite" / "urls.py"
        server.change(urls, URLS.replace("version 1", "version 2"))
        assert [closed_with(ws) for ws in [*sockets, busy]] == [1012] * 11
        assert server.started(2) == address  # though a hook would run on for minutes
        assert get(address) == b"version 2"
        assert "on_close 1012" in server.printed
        assert "What was still at work after 0.5 s is cancelled." in server.printed
        assert "CancelledError" not in server.printed

        # A mistake ends nothing: its file is watched as well.
        server.change(urls, "urlpatterns = [")
        server.expect("SyntaxError")
        server.change(urls, URLS.replace("version 1", "version 3"))
        server.started(3)
        assert get(address) == b"version 3"
        ws_urls = project / "mysite" / "ws_urls.py"
        server.change(ws_urls, "import a_module_that_is_not_there")
        server.expect("No module named 'a_module_that_is_not_there'")
        server.change(ws_urls, WS_URLS)
        server.started(4)

        ws = stack.enter_context(open_socket(address))
        echo(ws)
        # Not the parent, which would give its child no time at all.
        os.kill(child_of(server.process.pid), signal.SIGTERM)
        assert closed_with(ws) == 1012
        assert server.ended() == 0


def child_of(pid: int) -> int:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return int(found.stdout.split()[0])


def test_a_port_in_use_is_told(project: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        with RunServer(project, "--noreload", port) as server:
            assert server.ended() == 1
            assert "Error: That port is already in use." in server.printed


def test_without_asgi_application_serves_what_startproject_makes(project: Path) -> None:
    settings = project / "mysite" / "settings.py"
    settings.write_text(settings.read_text().replace("ASGI_APPLICATION", "NOTHING"))
    with RunServer(project, "--noreload", "0") as server:
        assert get(server.started()) == b"version 1"
        assert "W004) ASGI_APPLICATION is not set" in server.printed


def test_an_application_that_cannot_be_imported_is_told(project: Path) -> None:
    (project / "mysite" / "asgi.py").write_text("import nowhere")
    with RunServer(project, "--noreload", "0", "--skip-checks") as server:
        assert server.ended() == 1
        assert "ASGI_APPLICATION: cannot import 'mysite.asgi.application'" in server.printed
        assert "No module named 'nowhere'" in server.printed
        assert "asgi.py, line 1" in server.printed
        assert "Performing system checks" not in server.printed


def test_a_start_up_that_fails_is_told(project: Path) -> None:
    asgi = project / "mysite" / "asgi.py"
    asgi.write_text(ASGI.replace("    await site(", "    await fail(scope, send)\n    await site("))
    with asgi.open("a") as file:
        file.write(
            """
async def fail(scope, send):
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.startup.failed", "message": "no database"})
"""
        )
    with RunServer(project, "--noreload", "0") as server:
        assert server.ended() == 3
        assert "no database" in server.printed


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6(project: Path) -> None:
    with RunServer(project, "--noreload", "-6", "0") as server:
        address = server.started()
        assert address.startswith("[::1]:")
        assert get(address) == b"version 1"
        with open_socket(address) as ws:
            echo(ws)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_all_addresses_of_ipv6_are_those_of_ipv4_too(project: Path) -> None:
    with RunServer(project, "--noreload", "[::]:0") as server:
        port = server.started().rpartition(":")[2]
        assert get(f"127.0.0.1:{port}") == get(f"[::1]:{port}") == b"version 1"


class TestInThisProcess:
    """What can be seen without a server."""

    @pytest.fixture(autouse=True)
    def no_reload_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(autoreload.StatReloader, "SLEEP_TIME", 1)

    def test_is_the_command_that_manage_py_finds(self) -> None:
        from django.core.management import get_commands

        assert get_commands()["runserver"] == "django_ws"

    def test_uvicorn_must_be_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        with pytest.raises(CommandError, match=r'pip install "django-ws\[server\]"'):
            call_command("runserver")

    @pytest.mark.parametrize("absent", [True, False])
    def test_without_the_setting_serves_what_startproject_makes(
        self, absent: bool, settings: Any
    ) -> None:
        if absent:
            del settings.ASGI_APPLICATION
        else:
            settings.ASGI_APPLICATION = None
        assert application(static_files=False) is tests.asgi.application
        settings.ROOT_URLCONF = "nowhere.urls"
        with pytest.raises(
            ImproperlyConfigured,
            match=r"cannot import 'nowhere.asgi.application' .*: ASGI_APPLICATION = 'mysite.asgi",
        ):
            application(static_files=False)

    def test_an_address_that_is_none_is_refused(self) -> None:
        with pytest.raises(CommandError, match="not a valid port number"):
            call_command("runserver", "here")

    @pytest.mark.parametrize(
        ("debug", "arguments", "serves_files"),
        [
            (True, [], True),
            (True, ["--nostatic"], False),
            (False, [], False),
            (False, ["--insecure"], True),
        ],
    )
    def test_static_files(
        self, debug: bool, arguments: list[str], serves_files: bool, settings: Any
    ) -> None:
        settings.DEBUG = debug
        command = Command()
        options = vars(command.create_parser("manage.py", "runserver").parse_args(arguments))
        handler: Any = command.get_handler(**options)
        assert getattr(handler, "handles_files", False) is serves_files
        assert isinstance(getattr(handler, "application", handler), WebSocketApplication)

    def test_without_the_app_for_static_files_there_are_no_options_for_them(
        self, settings: Any
    ) -> None:
        settings.DEBUG = True
        static_files = "django.contrib.staticfiles"
        settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != static_files]
        command = Command()
        parser = command.create_parser("manage.py", "runserver")
        assert "--nostatic" not in parser.format_help()
        assert "--noreload" in parser.format_help()
        assert isinstance(command.get_handler(**vars(parser.parse_args([]))), WebSocketApplication)


class Peer:
    """An ASGI server of one connection, for ``development_log``."""

    def __init__(self, kind: str, *events: Event) -> None:
        self.scope = {
            "type": kind,
            "path": "/a\nb/",
            "query_string": f"token={SECRET}".encode(),
            "method": "GET",
            "http_version": "1.1",
        }
        self._events = iter(events)

    async def receive(self) -> Event:
        return next(self._events)

    async def send(self, event: Event) -> None: ...


ACCEPT = {"type": "websocket.accept"}


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    logger, kept = logging.getLogger("django.server"), Kept()
    logger.addHandler(kept)
    yield kept.records
    logger.removeHandler(kept)


async def told(
    peer: Peer, records: list[logging.LogRecord], *steps: Any
) -> list[tuple[str, str, int | None]]:
    """What the log says where the application does this: events to send, None to receive."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for step in steps:
            if step is None:
                await receive()
            elif isinstance(step, Exception):
                raise step
            else:
                await send(step)

    try:
        await DevelopmentLines(application)(peer.scope, peer.receive, peer.send)
    except LookupError:
        assert any(isinstance(step, LookupError) for step in steps)
    if peer.scope["type"] == "websocket":
        assert all(SECRET not in record.getMessage() for record in records)
    return [
        (
            re.sub(r"after \d+\.\d s", "after N s", record.getMessage()),
            record.levelname,
            getattr(record, "status_code", None),
        )
        for record in records
    ]


OPENED = (r"WebSocket /a\nb/ opened", "INFO", 101)


@pytest.mark.parametrize(
    ("events", "steps", "lines"),
    [
        ([], [ACCEPT, {"type": "websocket.close"}], [OPENED, ("1000", "INFO", 101)]),
        (
            [],
            [ACCEPT, {"type": "websocket.close", "code": 4401}],
            [OPENED, ("4401", "WARNING", 400)],
        ),
        ([], [ACCEPT, {"type": "websocket.close", "code": 1011}], [OPENED, ("1011", "ERROR", 500)]),
        ([1001], [ACCEPT, None], [OPENED, ("1001", "INFO", 101)]),
        ([None], [ACCEPT, None], [OPENED, ("1005", "INFO", 101)]),
        ([], [ACCEPT, LookupError()], [OPENED, ("1011", "ERROR", 500)]),
        ([], [ACCEPT], [OPENED, ("1006", "WARNING", 400)]),
        ([], [{"type": "websocket.close"}], ["refused with 403"]),
        ([], [{"type": "websocket.http.response.start", "status": 404}], ["refused with 404"]),
        ([], [LookupError()], ["refused with 500"]),
        ([1006], [None], []),
    ],
)
async def test_a_line_for_each_thing_that_becomes_of_a_socket(
    events: list[int | None], steps: list[Any], lines: list[Any], records: Any
) -> None:
    peer = Peer("websocket", *({"type": "websocket.disconnect", "code": code} for code in events))
    found = await told(peer, records, *steps)
    expected = []
    for line in lines:
        if isinstance(line, str):
            status = int(line.split()[-1])
            level = "ERROR" if status == 500 else "WARNING"
            expected.append((rf"WebSocket /a\nb/ {line}", level, status))
        elif line is OPENED:
            expected.append(line)
        else:
            code, level, colour = line
            expected.append((rf"WebSocket /a\nb/ closed with {code} after N s", level, colour))
    assert found == expected


def body(size: int) -> Event:
    return {"type": "http.response.body", "body": b"0" * size, "more_body": True}


@pytest.mark.parametrize(
    ("steps", "lines"),
    [
        (
            [{"type": "http.response.start", "status": 200}, body(3), body(4)],
            [(rf'"GET /a\nb/?token={SECRET} HTTP/1.1" 200 7', "INFO", 200)],
        ),
        ([LookupError()], [(rf'"GET /a\nb/?token={SECRET} HTTP/1.1" 500 0', "ERROR", 500)]),
        ([], []),  # the client has left
    ],
)
async def test_a_line_for_each_request(steps: list[Any], lines: list[Any], records: Any) -> None:
    assert await told(Peer("http"), records, *steps) == lines


async def test_what_is_neither_a_request_nor_a_socket_passes(records: Any) -> None:
    sent = {"type": "lifespan.startup.complete"}
    assert await told(Peer("lifespan"), records, sent) == []
