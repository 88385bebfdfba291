"""Django's caches with one connection per thread, instead of one per WebSocket.

``caches[alias]`` makes an object, with its connections to the server, for each asynchronous
context, and so for each socket, and keeps it for as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.core.cache import BaseCache, caches
from django.core.signals import setting_changed
from django.dispatch import receiver

_own = threading.local()


def cache_of_thread(alias: str) -> BaseCache:
    """This thread's cache; made at first use, as long-lived as the thread."""
    cache: BaseCache | None = getattr(_own, alias, None)
    if cache is None:
        cache = caches.create_connection(alias)
        setattr(_own, alias, cache)
    return cache


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    global _own
    if setting == "CACHES":
        _own = threading.local()


def _in_thread(name: str) -> Callable[..., Any]:
    def method(self: ThreadCache, *args: Any, **kwargs: Any) -> Any:
        return getattr(cache_of_thread(self.alias), name)(*args, **kwargs)

    return method


class ThreadCache(BaseCache):
    """A cache that each thread reaches through its own object. For any thread.

    The asynchronous methods are those of ``BaseCache``: they run the others in a thread.
    """

    def __init__(self, alias: str) -> None:
        super().__init__({})
        self.alias = alias

    get = _in_thread("get")
    get_many = _in_thread("get_many")
    has_key = _in_thread("has_key")
    set = _in_thread("set")
    set_many = _in_thread("set_many")
    add = _in_thread("add")
    touch = _in_thread("touch")
    incr = _in_thread("incr")
    delete = _in_thread("delete")
    delete_many = _in_thread("delete_many")
    clear = _in_thread("clear")


def share_cache(session: SessionBase) -> None:
    """Let a session that keeps itself in the cache of ``SESSION_CACHE_ALIAS``, as those of Django's
    engines "cache" and "cached_db", use the caches of the threads. In the context that made it.
    """
    alias = settings.SESSION_CACHE_ALIAS
    own = getattr(session, "_cache", None)
    # An engine of the site's may have another cache, or something else of that name.
    if isinstance(own, BaseCache) and alias in caches and own is caches[alias]:
        session._cache = ThreadCache(alias)  # type: ignore[attr-defined]
