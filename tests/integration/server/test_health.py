"""``/ws-health/``: what it tells, when, to whom; and that it tells nothing else."""

from __future__ import annotations

import asyncio
import json
import sys
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from django.test import AsyncClient, Client
from django.urls import include, path
from pytest_django import Settings
from websockets.sync.client import connect

from django_ws import drain
from django_ws.pubsub.hub.registry import close_all, open_all
from tests.support.redis_server import RedisServer, free_port, until
from tests.support.servers import DEFAULT, KINDS, Server

WAIT_SECONDS = 50.0


@pytest.fixture(autouse=True)
def routes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{__name__}_routes"
    module = types.ModuleType(name)
    module.__dict__["urlpatterns"] = [path("ws-health/", include("django_ws.health"))]
    monkeypatch.setitem(sys.modules, name, module)
    settings.ROOT_URLCONF = name


@pytest.fixture
async def asgi() -> AsyncIterator[AsyncClient]:
    """A client in the event loop of the process, whose backends are open as after a start-up."""
    yield AsyncClient()
    await close_all()


async def answer(client: AsyncClient, path: str = "/ws-health/") -> tuple[int, Any]:
    response = await client.get(path)
    return response.status_code, json.loads(response.content)


async def settled(client: AsyncClient, alias: str = "default") -> None:
    """As after a server's start-up, and a moment later."""
    await open_all()
    async with asyncio.timeout(WAIT_SECONDS):
        while (await answer(client))[1]["broadcast"][alias] != "connected":  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.001)


async def test_all_is_well(asgi: AsyncClient) -> None:
    await settled(asgi)
    assert await answer(asgi) == (
        200,
        {
            "status": "ok",
            "broadcast": {"default": "connected"},
            "connections": len(drain.lives),  # none, unless another test has left some
        },
    )
    response = await asgi.head("/ws-health/")
    assert (response.status_code, response.content) == (200, b"")


async def test_no_cache_keeps_the_answer_and_no_log_in_is_asked_for(
    asgi: AsyncClient, settings: Settings
) -> None:
    settings.MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    await settled(asgi)
    for url in ("/ws-health/", "/ws-health/live/"):
        response = await asgi.get(url)
        assert response.status_code == 200
        assert "no-store" in response["Cache-Control"], url
        assert response["Content-Type"] == "application/json", url


async def test_it_is_for_reading_only(asgi: AsyncClient) -> None:
    assert (await asgi.post("/ws-health/")).status_code == 405


async def test_a_process_that_drains_wants_no_new_clients_but_lives(asgi: AsyncClient) -> None:
    await settled(asgi)
    await drain.drain(0)
    status, content = await answer(asgi)
    assert (status, content["status"]) == (503, "draining")
    assert await answer(asgi, "/ws-health/live/") == (200, {"status": "ok"})


async def test_a_backend_that_is_away_is_told_without_its_place(
    asgi: AsyncClient, settings: Settings
) -> None:
    settings.WS_BROADCAST = {
        "default": {
            "BACKEND": "django_ws.pubsub.backends.redis.RedisBackend",
            "LOCATION": f"redis://alice:secret@127.0.0.1:{free_port()}/0",
        },
        "here": {"BACKEND": "django_ws.pubsub.backends.memory.MemoryBackend"},
    }
    await settled(asgi, "here")
    assert await answer(asgi) == (
        503,
        {
            "status": "disconnected",
            "broadcast": {"default": "disconnected", "here": "connected"},
            "connections": len(drain.lives),
        },
    )


def test_a_process_that_serves_wsgi_has_no_sockets(client: Client) -> None:
    response = client.get("/ws-health/")
    assert response.status_code == 503
    assert "WSGI" in response.json()["status"]


@pytest.fixture
def server() -> Iterator[tuple[Server, RedisServer]]:
    with RedisServer() as redis:
        server = Server(KINDS[DEFAULT], E2E_REDIS=redis.url)
        try:
            yield server, redis
        finally:
            server.stop()


def test_a_real_server_whose_redis_goes_and_comes_back(server: tuple[Server, RedisServer]) -> None:
    site, redis = server
    url = f"http://127.0.0.1:{site.port}/ws-health/"

    def health() -> tuple[int, Any]:
        try:
            with urlopen(url, timeout=WAIT_SECONDS) as response:
                return response.status, json.load(response)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    def becomes(status: int, connections: int) -> None:
        until(
            lambda: (found := health())[0] == status and found[1]["connections"] == connections,
            f"a health of {status} with {connections} connections",
            WAIT_SECONDS,
        )

    becomes(200, 0)
    with connect(f"ws://127.0.0.1:{site.port}/health/echo/"):
        becomes(200, 1)
        redis.kill()
        becomes(503, 1)
        assert health()[1]["broadcast"] == {"default": "disconnected"}
        redis.start()
        becomes(200, 1)
    becomes(200, 0)
