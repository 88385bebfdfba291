"""Sessions in a cache cost no connection for each socket."""

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.contrib.sessions.backends import cache
from django.core.cache import caches
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.auth.recheck import recheck_here
from django_ws.testing.login import session_cookie
from django_ws.threads.caches import ThreadCache, cache_of_thread, share_cache
from tests.support.asgi_peer import client, the_handler, until


class Counting(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        count = await self.request.session.aget("count", 0) + 1
        await self.request.session.aset("count", count)
        await self.request.session.asave()
        await self.send(count)


def test_every_method_reaches_the_cache() -> None:
    cache = ThreadCache("default")
    cache.clear()
    cache.set("a", 1)
    assert cache.add("a", 2) is False
    cache.set_many({"b": 2, "c": 3})
    assert cache.get_many(["a", "b", "unknown"]) == {"a": 1, "b": 2}
    assert cache.incr("a") == 2
    assert cache.has_key("c")
    assert cache.touch("c")
    cache.delete("c")
    cache.delete_many(["b"])
    assert [cache.get(key) for key in "abc"] == [2, None, None]
    assert cache_of_thread("default").get("a") == 2


def test_another_setting_is_another_cache(settings: Settings) -> None:
    before = cache_of_thread("default")
    assert cache_of_thread("default") is before
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    assert cache_of_thread("default") is not before


class SessionStore(cache.SessionStore):
    """A site's own engine, with a cache beside that of ``SESSION_CACHE_ALIAS``."""

    cache_key_prefix = "own:"

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self._cache = caches["sessions"]


@pytest.mark.django_db(transaction=True)
async def test_an_engine_with_a_cache_of_its_own_keeps_it(settings: Settings) -> None:
    """At the handshake, and when the log-in is checked again."""
    local = "django.core.cache.backends.locmem.LocMemCache"
    settings.CACHES = {
        name: {"BACKEND": local, "LOCATION": name} for name in ("default", "sessions")
    }
    settings.SESSION_ENGINE = __name__
    settings.WS_AUTH_RECHECK = 0.05
    alice = await User.objects.acreate(username="alice")
    cookies = await sync_to_async(session_cookie)(alice, None)
    async with client(Counting, cookies=cookies) as ws:
        assert the_handler().request.user == alice
        await ws.send("count")
        assert await ws.receive() == 1
        assert caches["sessions"].get(f"own:{cookies['sessionid']}")["count"] == 1
        assert the_handler().request.login.store is SessionStore
        the_handler().request.login.check()
        await until(lambda: recheck_here().is_idle)
        await ws.receive_nothing()
        await caches["sessions"].aclear()
        assert await ws.wait_closed() == 4401


def test_what_is_no_cache_stays(settings: Settings) -> None:
    session: Any = cache.SessionStore()
    session._cache = mine = object()
    share_cache(session)
    assert session._cache is mine
