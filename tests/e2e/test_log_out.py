"""The end of a log-in ends its sockets in every process, through a real Redis."""

from __future__ import annotations

import resource
import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from pytest_django import Settings

from tests.support.raw import RawClient
from tests.support.redis_server import RedisServer
from tests.support.servers import DEFAULT, KINDS, Server

SOCKETS = 1000
PATIENCE = 20.0  # seconds; the library promises one, which a busy machine need not keep


@pytest.fixture
def engine() -> str:
    return "db"


@pytest.fixture
def servers(engine: str, transactional_db: None, settings: Settings) -> Iterator[list[Server]]:
    """Two, with the database of the test and one Redis."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        settings.WS_BROADCAST = redis.url
        settings.CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": redis.url,
            }
        }
        stack.callback(caches["default"].close)
        settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
        environment = {
            "E2E_REDIS": redis.url,
            "E2E_SESSION_ENGINE": settings.SESSION_ENGINE,
            "DJANGO_WS_TEST_DATABASE": str(connection.settings_dict["NAME"]),
        }
        started = []
        for _ in range(2):
            started.append(Server(KINDS[DEFAULT], **environment))
            stack.callback(started[-1].stop)
        yield started


def logged_in(user: User) -> tuple[Client, bytes]:
    client = Client()
    client.force_login(user)
    return client, b"sessionid=" + client.cookies["sessionid"].value.encode()


def sockets(server: Server, cookie: bytes, count: int, stack: ExitStack) -> list[RawClient]:
    opened = []
    for _ in range(count):
        client = RawClient(server.port, b"/log-out/without-hooks/", [(b"Cookie", cookie)])
        assert stack.enter_context(client).status() == 101
        opened.append(client)
    return opened


@pytest.mark.heavy
def test_a_thousand_sockets_in_two_processes(servers: list[Server]) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    alice = User.objects.create_user("alice")
    here, cookie = logged_in(alice)
    _, other_cookie = logged_in(alice)
    with ExitStack() as stack:
        ending, staying = [], []
        for server in servers:
            ending += sockets(server, cookie, SOCKETS // 2, stack)
            staying += sockets(server, other_cookie, 5, stack)
        poll = select.epoll()
        stack.callback(poll.close)
        for client in ending:
            poll.register(client.fileno(), select.EPOLLIN)
        here.logout()
        until = time.monotonic() + PATIENCE
        waiting = {client.fileno(): client for client in ending}
        while waiting and time.monotonic() < until:
            for fileno, _ in poll.poll(0.1):
                poll.unregister(fileno)
                assert waiting.pop(fileno).receive_close() == 4401
        assert not waiting
        for client in staying:
            poll.register(client.fileno(), select.EPOLLIN)
        assert not poll.poll(0.1)
        alice.set_password("new")
        alice.save()
        assert {client.receive_close() for client in staying} == {4401}


# Pages of the site, in a process without sockets


def page(request: HttpRequest, act: str) -> HttpResponse:
    match act:
        case "flush":
            request.session.flush()
        case "log-out":
            logout(request)
        case _:
            login(request, User.objects.get(username=act))
    return HttpResponse()


urlpatterns = [path("<str:act>/", page)]


def row_deleted(browser: Client) -> None:
    Session.objects.get(pk=browser.cookies["sessionid"].value).delete()


def rows_deleted(browser: Client) -> None:
    Session.objects.filter(pk__contains=browser.cookies["sessionid"].value).delete()


ENDS: dict[str, Callable[[Client], Any]] = {
    "log-out": lambda browser: browser.get("/log-out/"),
    "another logs in": lambda browser: browser.get("/bob/"),
    "flush": lambda browser: browser.get("/flush/"),
    "row deleted": row_deleted,
    "rows deleted": rows_deleted,
}
WITHOUT_ROWS = {"log-out", "another logs in"}  # what a cache tells of


@pytest.mark.parametrize("engine", ["db", "cached_db", "cache"])
def test_whatever_ends_a_session_ends_its_sockets_in_both_processes(
    engine: str, servers: list[Server], settings: Settings
) -> None:
    settings.ROOT_URLCONF = __name__
    alice = User.objects.create_user("alice")
    User.objects.create_user("bob")
    _, other_cookie = logged_in(alice)
    with ExitStack() as stack:
        staying = [
            client for server in servers for client in sockets(server, other_cookie, 1, stack)
        ]
        for name, end in ENDS.items():
            if engine == "cache" and name not in WITHOUT_ROWS:
                continue
            browser, cookie = logged_in(alice)
            ending = [client for server in servers for client in sockets(server, cookie, 2, stack)]
            end(browser)
            assert [client.receive_close() for client in ending] == [4401] * 4, name
        poll = select.epoll()
        stack.callback(poll.close)
        for client in staying:
            poll.register(client.fileno(), select.EPOLLIN)
        assert not poll.poll(0.1)
