"""The hub of each event loop, and the publishers of the process, by the aliases of WS_BROADCAST."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from django_ws import conf
from django_ws.pubsub.backends.base import Backend, SyncPublisher
from django_ws.pubsub.hub import Hub

DEFAULT = "default"  # the alias that every WS_BROADCAST has
# A hub leaves when its loop ends: that cancels its tasks, whether anybody closes it or not.
_hubs: dict[tuple[asyncio.AbstractEventLoop, str], Hub] = {}
_publishers: dict[str, SyncPublisher] = {}
_lock = threading.Lock()


def backend_class(alias: str, config: conf.BroadcastConfig) -> type[Backend]:
    """The class that ``WS_BROADCAST`` names. Raises ``ImproperlyConfigured``."""
    path = config.backend
    try:
        found = import_string(path)
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
            f"WS_BROADCAST has no {alias!r}, only {', '.join(map(repr, configured))}."
        ) from None


def hub_of(alias: str) -> Hub:
    """The hub of the running event loop; made, and its backend opened, at first use."""
    key = asyncio.get_running_loop(), alias
    hub = _hubs.get(key)
    if hub is None:
        config = config_of(alias)
        backend = backend_class(alias, config)
        hub = _hubs[key] = Hub(
            lambda: backend(config.location, config.prefix, config.options),
            on_end=lambda: _forget_hub(key),
        )
    return hub


def _forget_hub(key: tuple[asyncio.AbstractEventLoop, str]) -> None:
    _hubs.pop(key, None)


def running_hub(alias: str) -> Hub | None:
    """The hub of the running event loop, if it has one."""
    return _hubs.get((asyncio.get_running_loop(), alias))


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
    with _lock:
        publisher = _publishers.get(alias)
        if publisher is None:
            config = config_of(alias)
            make: Any = backend_class(alias, config).sync_publisher
            publisher = make(config.location, config.prefix, config.options)
            _publishers[alias] = publisher
        return publisher


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "WS_BROADCAST":
        with _lock:
            publishers = list(_publishers.values())
            _publishers.clear()
            _hubs.clear()  # those of connections that are open go on
        for publisher in publishers:
            publisher.close()
