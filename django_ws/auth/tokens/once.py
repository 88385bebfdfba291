"""What may happen once, in whichever process: told by Django's cache ``default``."""

from __future__ import annotations

from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache

from django_ws.thread_caches import cache_of_thread


def is_first(key: str, seconds: float) -> bool:
    """Whether nobody has asked for this key within so many seconds. Blocks.

    As sharp as the cache's ``add``, and for the processes that share the cache: ``is_sharp``.
    """
    return bool(cache_of_thread("default").add(key, 1, timeout=seconds))


def is_sharp() -> bool:
    """Whether the cache is shared by all processes, and two of them cannot both be first."""
    # A cache in files looks and writes in two steps.
    return not isinstance(cache_of_thread("default"), DummyCache | FileBasedCache | LocMemCache)
