"""The hub of each event loop, and the publishers of the process, by their alias."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from django_ws import conf
from django_ws.conf.importing import import_named
from django_ws.pubsub.backends.base import Backend, SyncPublisher
from django_ws.pubsub.hub.hub import READY_SECONDS, Hub

DEFAULT = "default"  # the alias that every WS_BROADCAST has
# A hub leaves when its loop ends: that cancels its tasks, whether anybody closes it or not.
_hubs: dict[tuple[asyncio.AbstractEventLoop, str], Hub] = {}
_publishers: dict[str, SyncPublisher] = {}
_lock = threading.Lock()
T = TypeVar("T")


def backend_class(alias: str, config: conf.BroadcastConfig) -> type[Backend]:
    """The class that ``WS_BROADCAST`` names. Raises ``ImproperlyConfigured``."""
    path = config.backend
    try:
        found = import_named(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"WS_BROADCAST[{alias!r}]['BACKEND']: cannot import {path!r} ({error}). Check the "
            "dotted path, and that what it needs is installed."
        ) from error
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise ImproperlyConfigured(
            f"WS_BROADCAST[{alias!r}]['BACKEND']: {path} is no subclass of "
            "django_ws.pubsub.backends.base.Backend."
        )
    return found


def config_of(alias: str) -> conf.BroadcastConfig:
    """One entry of ``WS_BROADCAST``. Raises ``ImproperlyConfigured`` for an unknown alias."""
    configured: Mapping[str, conf.BroadcastConfig] = conf.get().ws_broadcast
    try:
        return configured[alias]
    except KeyError:
        raise ImproperlyConfigured(
            f"WS_BROADCAST has no {alias!r}, only {', '.join(map(repr, configured))}. Name one of "
            "these, or add it there."
        ) from None


def made(alias: str, factory: Callable[..., T], config: conf.BroadcastConfig) -> T:
    """A backend or a publisher. Raises ``ImproperlyConfigured`` for a wrong LOCATION or OPTIONS."""
    try:
        return factory(config.location, config.prefix, config.options)
    except ValueError as error:
        text = str(error).rstrip(".")
        raise ImproperlyConfigured(f"WS_BROADCAST[{alias!r}]: {text}.") from error


def hub_of(alias: str) -> Hub:
    """The hub of the running event loop; made, and its backend opened, at first use."""
    key = asyncio.get_running_loop(), alias
    hub = _hubs.get(key)
    if hub is None:
        config = config_of(alias)
        backend = backend_class(alias, config)
        hub = _hubs[key] = Hub(
            lambda: made(alias, backend.for_location, config),
            on_end=lambda ended: _forget_hub(key, ended),
        )
    return hub


def _forget_hub(key: tuple[asyncio.AbstractEventLoop, str], hub: Hub) -> None:
    if _hubs.get(key) is hub:  # a setting may have changed, and another one have taken its place
        del _hubs[key]


def ensure_hub(loop: asyncio.AbstractEventLoop, alias: str) -> None:
    """Let the hub of this loop be there, as it is from the start on servers with a lifespan.

    From any thread: in one without an event loop it waits until the hub can be reached, at most
    half a second. A wrong setting is told to whoever broadcasts.
    """
    if (loop, alias) in _hubs:
        return
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        _make(alias)
        return
    making = _make_ready(alias)
    try:
        ready = asyncio.run_coroutine_threadsafe(making, loop)
    except RuntimeError:  # the loop has been closed
        making.close()
        return
    if running is None:
        wait([ready], 2 * READY_SECONDS)


def _make(alias: str) -> Hub | None:
    try:
        return hub_of(alias)
    except ImproperlyConfigured:
        return None


async def _make_ready(alias: str) -> None:
    hub = _make(alias)
    if hub is not None:
        await hub.ready()


def running_hub(alias: str) -> Hub | None:
    """The hub of the running event loop, if it has one."""
    return _hubs.get((asyncio.get_running_loop(), alias))


def all_connected() -> bool:
    """Whether no hub of the running event loop is cut off from its backend."""
    loop = asyncio.get_running_loop()
    return all(hub.is_connected for (of, _), hub in list(_hubs.items()) if of is loop)


async def open_all() -> None:
    """Open every backend. One that is down is retried: nothing here waits for it."""
    for alias in conf.get().ws_broadcast:
        hub_of(alias)


async def close_all() -> None:
    """Close the backends of the running event loop."""
    loop = asyncio.get_running_loop()
    for hub in [hub for (of, _), hub in list(_hubs.items()) if of is loop]:
        await hub.close()


def publisher_of(alias: str) -> SyncPublisher:
    """The publisher for sync code, made at first use. For any thread."""
    publisher = _publishers.get(alias)
    if publisher is not None:
        return publisher
    with _lock:
        publisher = _publishers.get(alias)
        if publisher is None:
            config = config_of(alias)
            kind = backend_class(alias, config).sync_publisher
            publisher = made(alias, kind.for_location, config)
            _publishers[alias] = publisher
        return publisher


def _renew_lock() -> None:
    """In a forked child: another thread, which is not there, may have held it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_renew_lock)


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "WS_BROADCAST":
        with _lock:
            publishers = list(_publishers.values())
            _publishers.clear()
            _hubs.clear()  # those of connections that are open go on
        for publisher in publishers:
            publisher.close()
