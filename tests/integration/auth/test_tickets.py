"""Tickets: good for one connection, within 30 s, for as long as the password stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import RequestFactory
from pytest_django import Settings

from django_ws.auth import make_ticket
from tests import ROOT
from tests.support.redis_server import RedisServer

database = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _site(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__
    settings.WS_MIDDLEWARE = ["django_ws.middleware.TicketAuthMiddleware"]


def request_of(user: Any, session: Any = None) -> Any:
    request = RequestFactory().get("/")
    request.user = user
    if session is not None:
        request.session = session
    return request


DATABASE = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "once"}


REDIS = {"BACKEND": "django.core.cache.backends.redis.RedisCache"}


@pytest.fixture
def cache_in_database(db: None, settings: Settings) -> Iterator[None]:
    settings.CACHES = {"default": DATABASE}
    call_command("createcachetable")
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE once")


PROGRAM = """
import asyncio, json, os, sys
import django
from django.conf import settings
settings.CACHES = {"default": json.loads(os.environ["CACHE"])}
django.setup()
from django_ws.auth.tokens import TicketAuthenticator

async def main():
    authenticator = TicketAuthenticator()
    print("ready", flush=True)
    for ticket in sys.stdin.readline().split():
        login = await authenticator.authenticate(ticket)
        print(int(login is not None), end="", flush=True)

asyncio.run(main())
"""


def processes(cache: dict[str, Any], user: User, count: int = 2) -> list[str]:
    """What as many processes at once say of each of 20 tickets: 1 for in, 0 for refused."""
    environment = {
        **os.environ,
        "CACHE": json.dumps(cache),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DJANGO_WS_TEST_DATABASE": str(django_settings.DATABASES["default"]["NAME"]),
        "PYTHONPATH": str(ROOT),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        # Not before: they are good for 30 s.
        tickets = [make_ticket(request_of(user)) for _ in range(20)]
        for process in started:
            assert process.stdin is not None
            process.stdin.write(" ".join(tickets) + "\n")
            process.stdin.flush()
        return [process.communicate(timeout=30)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["redis", "database"])
def test_replayed_ticket_is_taken_by_exactly_one_of_two_processes(
    kind: str, alice: User, request: pytest.FixtureRequest
) -> None:
    if kind == "redis":
        with RedisServer() as server:
            said = processes({**REDIS, "LOCATION": server.url}, alice)
    else:
        request.getfixturevalue("cache_in_database")
        said = processes(DATABASE, alice)
    assert [sum(map(int, each)) for each in zip(*said, strict=True)] == [1] * 20
