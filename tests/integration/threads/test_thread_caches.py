"""Sessions in a cache cost no connection for each socket."""

import asyncio
from contextlib import AsyncExitStack
from contextvars import Context
from importlib import import_module
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.cache import caches
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.testing import WebSocketClient
from django_ws.testing.login import session_cookie
from tests.support.asgi_peer import PATH, client, the_handler
from tests.support.redis_server import RedisServer

SOCKETS = 20


class Counting(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        count = await self.request.session.aget("count", 0) + 1
        await self.request.session.aset("count", count)
        await self.request.session.asave()
        await self.send(count)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("engine", ["cache", "cached_db"])
async def test_redis_connections_do_not_grow_with_sockets(settings: Settings, engine: str) -> None:
    settings.WS_SYNC_THREADS = 2
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    alice = await User.objects.acreate(username="alice")
    with RedisServer() as server:
        settings.CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": server.url,
            }
        }
        cookies = await sync_to_async(session_cookie)(alice, None)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(client(Counting, cookies=cookies))
            sockets = [WebSocketClient(PATH, cookies=cookies) for _ in range(SOCKETS)]
            for ws in sockets:
                # As a server does it: every connection has a context of its own.
                await asyncio.create_task(ws.__aenter__(), context=Context())
                stack.push_async_exit(ws)
                await ws.send("count")
            counted = [await ws.receive() for ws in sockets]
            store = import_module(settings.SESSION_ENGINE).SessionStore
            assert await sync_to_async(store(cookies["sessionid"]).get)("count") in counted
            # One for each thread, and those of the test itself.
            assert len(server.clients()) < 8
            assert the_handler().request.user == alice
        await asyncio.to_thread(lambda: caches["default"].close())
