"""Lets something happen only once in all processes, by Django's cache ``default``."""

from __future__ import annotations

import logging
import random
import threading
import time

from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache

from django_ws.logs.throttled import ThrottledLog
from django_ws.threads.caches import cache_of_thread

logger = logging.getLogger("django.ws")

_not_kept = ThrottledLog(logger, logging.ERROR, "tickets refused, since the cache keeps nothing")

TRY_SECONDS = 1.0
PAUSE_SECONDS = 0.02, 0.1  # between two tries: at random, so that two processes part

_taken: dict[str, float] = {}  # the keys that came first here, and until when, oldest first
_lock = threading.Lock()


def is_first(key: str, seconds: float) -> bool:
    """Whether nobody has asked for this key within so many seconds. Blocks; from any thread.

    As sharp as the cache's ``add``, and for the processes that share the cache: ``is_sharp``.
    False as well, and an error in the log, where the cache neither takes the key nor has it.
    """
    if _was_taken_here(key):
        return False
    cache = cache_of_thread("default")
    until = time.monotonic() + TRY_SECONDS
    while time.monotonic() < until:
        if cache.add(key, 1, timeout=seconds):
            return _take_here(key, seconds)
        if cache.get(key) is not None:
            return False
        # A transaction of the database was in the way: Django's cache says no more than False.
        time.sleep(random.uniform(*PAUSE_SECONDS))
    _not_kept.log(
        "default",
        "CACHES['default'] does not keep what is added to it, so that a ticket was refused: is "
        "its server down, or its database locked?",
    )
    return False


def _was_taken_here(key: str) -> bool:
    with _lock:
        return _taken.get(key, 0.0) > time.monotonic()


def _take_here(key: str, seconds: float) -> bool:
    """Keep it in this process too: the cache may be full, and forget it."""
    now = time.monotonic()
    with _lock:
        while _taken and _taken[oldest := next(iter(_taken))] <= now:
            del _taken[oldest]
        is_new = _taken.pop(key, 0.0) <= now
        _taken[key] = now + seconds
    return is_new


def is_sharp() -> bool:
    """Whether the cache is shared by all processes, and two of them cannot both be first."""
    # A cache in files looks and writes in two steps.
    return not isinstance(cache_of_thread("default"), DummyCache | FileBasedCache | LocMemCache)
