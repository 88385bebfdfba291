"""A site below a path: behind a proxy that strips the path off, and behind one that does not."""

from __future__ import annotations

import io
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import django
import pytest
from django.conf import settings as django_settings
from django.core.handlers.asgi import ASGIRequest
from pytest_django import Settings
from websockets.sync.client import connect

from django_ws import get_websocket_application
from django_ws.conf.script_name import normal_scope, normal_script_name
from django_ws.server.config import uvicorn_config
from django_ws.server.options import Options
from django_ws.server.protocol.handshake import without_host
from tests.support.running import SECONDS, Runws, fetch, receive

FOUND = {
    "path": "/app/where/",
    "path_info": "/where/",
    "page": "/app/where/",
    "socket": "/app/where/",
}
SPELLINGS = ("/app", "/app/", "app", "app/", "//app//")


@contextmanager
def proxy(port: int, prefix: bytes) -> Iterator[int]:
    """To a server on a port, without the prefix: as nginx with a path in ``proxy_pass``."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client = stack.enter_context(listening.accept()[0])
                    server = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                    head = client.recv(65536)
                    assert head.startswith(b"GET %b/" % prefix)
                    server.sendall(head.replace(prefix, b"", 1))
                    for pair in ((client, server), (server, client)):
                        threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def found(port: int, path: str) -> list[Any]:
    """What a page and a socket know of their place."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as plain:
        page = fetch(plain, path)
    with connect(f"ws://127.0.0.1:{port}{path}", open_timeout=SECONDS, proxy=None) as client:
        return [page, receive(client)]


@pytest.mark.parametrize("root_path", ["/app", "/app/", "app"])
def test_the_root_path_is_for_a_proxy_that_strips(root_path: str) -> None:
    with Runws("--root-path", root_path) as server, proxy(server.port, b"/app") as port:
        assert found(port, "/app/where/") == [FOUND, FOUND]


@pytest.mark.parametrize("script_name", ["/app", "/app/", "app"])
def test_force_script_name_is_for_one_that_does_not(script_name: str) -> None:
    with Runws(environment={"RUNWS_SCRIPT_NAME": script_name}) as server:
        assert found(server.port, "/app/where/") == [FOUND, FOUND]


def test_the_wrong_one_of_the_two_finds_nothing_or_forgets_the_path() -> None:
    with Runws("--root-path", "/app") as server, pytest.raises(AssertionError, match="404"):
        found(server.port, "/app/where/")
    with (
        Runws(environment={"RUNWS_SCRIPT_NAME": "/app"}) as server,
        proxy(server.port, b"/app") as port,
    ):
        stripped = {**FOUND, "path": "/where/"}
        assert found(port, "/app/where/") == [stripped, stripped]


@pytest.mark.parametrize("options", [["--root-path", "/"], ["--root-path", ""], []])
def test_the_root_is_no_path(options: list[str]) -> None:
    with Runws(*options) as server:
        here = {key: value.removeprefix("/app") for key, value in FOUND.items()}
        assert found(server.port, "/where/") == [here, here]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_spellings_are_one(spelling: str) -> None:
    assert normal_script_name(spelling) == "/app"
    assert uvicorn_config("a:b", Options(root_path=spelling)).root_path == "/app"


@pytest.mark.parametrize("spelling", ["", "/", "//"])
def test_those_of_the_root_are_one(spelling: str) -> None:
    assert normal_script_name(spelling) == ""


@pytest.mark.parametrize(
    ("root_path", "path", "root_path_then", "path_then"),
    [
        ("/app/", "/app//x/", "/app", "/app/x/"),  # uvicorn, with what it was given
        ("/app/", "/app/x/", "/app", "/app/x/"),
        ("app", "app/x/", "/app", "/app/x/"),
        ("/", "//x/", "", "/x/"),
        ("/app/", "/elsewhere/", "/app", "/elsewhere/"),  # a server that puts nothing before it
    ],
)
def test_what_other_servers_make_of_it_is_put_right(
    root_path: str, path: str, root_path_then: str, path_then: str
) -> None:
    scope = {"root_path": root_path, "path": path, "raw_path": path.encode(), "more": 1}
    assert normal_scope(scope) == {
        "root_path": root_path_then,
        "path": path_then,
        "raw_path": path_then.encode(),
        "more": 1,
    }
    assert scope["root_path"] == root_path
    scope = {"root_path": root_path, "path": path}
    assert normal_scope(scope) == {"root_path": root_path_then, "path": path_then}


def test_a_scope_that_is_right_is_left_alone() -> None:
    scope = {"root_path": "/app", "path": "/app/x/"}
    assert normal_scope(scope) is scope


def test_django_before_61_finds_no_page_with_a_slash_at_its_end(settings: Settings) -> None:
    """Where 6.1 is the oldest that is supported, the setting can be left as it is."""
    settings.FORCE_SCRIPT_NAME = "/app/"
    scope = {"type": "http", "method": "GET", "path": "/app/x/", "headers": []}
    assert ASGIRequest(scope, io.BytesIO()).path_info == (
        "/x/" if django.VERSION >= (6, 1) else "x/"
    )


def test_the_setting_is_put_right_when_the_application_is_made(settings: Settings) -> None:
    """Django takes it off paths as it is written."""
    settings.FORCE_SCRIPT_NAME = "/app/"
    get_websocket_application()
    assert re.fullmatch("/app", django_settings.FORCE_SCRIPT_NAME or "")


def test_a_target_that_names_no_host_stays_as_it_is() -> None:
    for target in (b"/a?b=http://c/", b"*", b"site:8000", b"a/b"):
        assert without_host(target) == target
