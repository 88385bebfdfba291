"""A log-out ends its sockets in every process, through a real Redis, within a second."""

from __future__ import annotations

import resource
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from pytest_django import Settings

from tests.e2e.raw import RawClient
from tests.e2e.servers import DEFAULT, KINDS, Server
from tests.redis_server import RedisServer

SOCKETS = 1000
PATIENCE = 20.0  # seconds; the library promises one, which a busy machine need not keep


@pytest.fixture
def servers(transactional_db: None, settings: Settings) -> Iterator[list[Server]]:
    """Two, with the database of the test and one Redis."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        settings.WS_BROADCAST = redis.url
        environment = {
            "E2E_REDIS": redis.url,
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
