"""Reads, checks and caches the ``WS_*`` settings. Other code calls ``conf.get()``.

``get()`` gives all settings at once as one frozen object, built at first use and again after
``override_settings``: a connection reads its limits with plain attribute access.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from django_ws.conf.jwt import JWTConfig, jwt_config
from django_ws.conf.rate import Rate, parse_rate
from django_ws.conf.trusted_proxies import TrustedProxies, parse_trusted_proxies
from django_ws.conf.web_origin import DEFAULT_PORTS, NULL

DEFAULT_PREFIX = "django_ws:"  # of everything that a broadcast backend keeps on a server
# In the environment of the workers of `runws`: where their broker is, if WS_BROADCAST is not set.
BROKER_VARIABLE = "DJANGO_WS_BROKER"


def _positive_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is not a positive whole number")
    return value


def seconds(value: Any) -> float:
    """The value, if it is a positive number. Raises ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError(f"{value!r} is not a positive number of seconds")
    return float(value)


def _seconds_or_none_at_all(value: Any) -> float:
    return 0.0 if value == 0 and not isinstance(value, bool) else seconds(value)


def _limit(value: Any) -> int | None:
    return None if value is None else _positive_int(value)


def _rate(value: Any) -> Rate | None:
    return None if value is None else parse_rate(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither True nor False")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{value!r} is not a list of strings")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise ValueError(f"item {index} is {item!r}, not a string")
    return tuple(value)


def _origins(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    origins = _strings(value)
    for origin in origins:
        if origin == "*" or origin.lower() == NULL:
            continue
        scheme, separator, host = origin.partition("://")
        needs_host = scheme.lower() in DEFAULT_PORTS
        if not separator or not scheme or (needs_host and not host) or "/" in host:
            raise ValueError(
                f"{origin!r} is not an origin: write scheme, host and, unless it is the "
                "scheme's default, port, as in 'https://example.com:8443', or '*' for all"
            )
    return origins


def _module(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not the dotted path of a module")
    return value


@dataclass(frozen=True)
class BroadcastConfig:
    """One entry of ``WS_BROADCAST``. Its ``repr`` shows no password."""

    backend: str
    location: Any = field(repr=False)
    prefix: str
    options: Mapping[str, Any] = field(repr=False)


_MEMORY = "django_ws.pubsub.backends.memory.MemoryBackend"
_REDIS = "django_ws.pubsub.backends.redis.RedisBackend"
_ZEROMQ = "django_ws.pubsub.backends.zeromq.ZeroMQBackend"
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
_BROADCAST_KEYS = {"BACKEND", "LOCATION", "PREFIX", "OPTIONS"}


def _broadcast(value: Any) -> dict[str, BroadcastConfig]:
    """No error shows the value: there may be a password in it."""
    if isinstance(value, str):
        if not value.startswith(_REDIS_SCHEMES):
            schemes = ", ".join(_REDIS_SCHEMES)
            raise ValueError(f"the text is not the URL of a Redis server ({schemes})")
        value = {"default": {"BACKEND": _REDIS, "LOCATION": value}}
    if not isinstance(value, Mapping) or "default" not in value:
        raise ValueError(
            f"a {type(value).__name__} that is neither a URL nor a dict with the key 'default'"
        )
    return {alias: _broadcast_entry(alias, entry) for alias, entry in value.items()}


def _broadcast_entry(alias: str, entry: Any) -> BroadcastConfig:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("BACKEND"), str):
        raise ValueError(f"{alias!r} is not a dict with the dotted path of a class in 'BACKEND'")
    if unknown := entry.keys() - _BROADCAST_KEYS:
        raise ValueError(f"{alias!r} has unknown keys: {', '.join(sorted(map(str, unknown)))}")
    prefix, options = entry.get("PREFIX", DEFAULT_PREFIX), entry.get("OPTIONS", {})
    if not isinstance(prefix, str) or not isinstance(options, Mapping):
        raise ValueError(f"{alias!r}: PREFIX is a str and OPTIONS is a dict")
    return BroadcastConfig(entry["BACKEND"], entry.get("LOCATION"), prefix, options)


def _default_broadcast() -> dict[str, BroadcastConfig]:
    broker = os.environ.get(BROKER_VARIABLE)
    backend = _ZEROMQ if broker else _MEMORY
    return {"default": BroadcastConfig(backend, broker, DEFAULT_PREFIX, {})}


def _default_urlconf() -> str:
    root = getattr(settings, "ROOT_URLCONF", None)
    if not root:
        raise ImproperlyConfigured(
            "ROOT_WS_URLCONF: neither it nor ROOT_URLCONF is set. Set ROOT_WS_URLCONF to the "
            "module with the WebSocket routes, for example 'mysite.ws_urls'."
        )
    package, _, _ = root.rpartition(".")
    return f"{package}.ws_urls" if package else "ws_urls"


def _default_middleware() -> tuple[str, ...]:
    if apps.is_installed("django.contrib.auth") and apps.is_installed("django.contrib.sessions"):
        return ("django_ws.middleware.AuthMiddleware",)
    return ()


def _default_threads() -> int:
    return min(32, (os.cpu_count() or 1) * 4)


@dataclass(frozen=True)
class Setting:
    """One setting: its default and the check of its value.

    ``parse`` raises ``ValueError`` saying what is wrong with the value; ``cure`` says what to
    write instead.
    """

    default: Callable[[], Any]
    parse: Callable[[Any], Any]
    cure: str


_LIMIT_CURE = "Give the most connections in one process, for example 1000, or None."

SETTINGS = {
    "ROOT_WS_URLCONF": Setting(
        _default_urlconf, _module, "Name the module with the routes, for example 'mysite.ws_urls'."
    ),
    "WS_MIDDLEWARE": Setting(
        _default_middleware, _strings, "List dotted paths, the outermost middleware first."
    ),
    "WS_ALLOWED_ORIGINS": Setting(
        lambda: None, _origins, "List origins such as 'https://example.com', or leave it unset."
    ),
    "WS_MAX_MESSAGE_SIZE": Setting(
        lambda: 1024 * 1024, _positive_int, "Give bytes, for example 1024 * 1024."
    ),
    "WS_SEND_BUFFER": Setting(
        lambda: 1024 * 1024, _positive_int, "Give bytes, for example 1024 * 1024."
    ),
    "WS_SEND_TIMEOUT": Setting(lambda: 10.0, seconds, "Give seconds, for example 10."),
    "WS_PING_INTERVAL": Setting(lambda: 59.0, seconds, "Give seconds, for example 59."),
    "WS_CONNECT_TIMEOUT": Setting(lambda: 10.0, seconds, "Give seconds, for example 10."),
    "WS_MAX_HANDSHAKES": Setting(
        lambda: 200, _positive_int, "Give how many handshakes may be under way, for example 200."
    ),
    "WS_CLOSE_TIMEOUT": Setting(lambda: 10.0, seconds, "Give seconds, for example 10."),
    "WS_DRAIN_SECONDS": Setting(
        lambda: 10.0, _seconds_or_none_at_all, "Give seconds, for example 10, or 0."
    ),
    "WS_BROADCAST": Setting(
        _default_broadcast,
        _broadcast,
        "Give the URL of a Redis server, for example 'redis://127.0.0.1:6379/0', or a dict "
        "{'default': {'BACKEND': ..., 'LOCATION': ..., 'PREFIX': ..., 'OPTIONS': {...}}}.",
    ),
    "WS_MAX_TOPICS": Setting(
        lambda: 100, _positive_int, "Give the most topics of one connection, for example 100."
    ),
    "WS_AUTH_RECHECK": Setting(lambda: 60.0, seconds, "Give seconds, for example 60."),
    "WS_RATE_LIMIT": Setting(
        lambda: None,
        _rate,
        "Give the most messages of one client, for example '20/s', '600/m' or '10000/h', or None.",
    ),
    "WS_MAX_CONNECTIONS": Setting(lambda: None, _limit, _LIMIT_CURE),
    "WS_MAX_CONNECTIONS_PER_USER": Setting(lambda: None, _limit, _LIMIT_CURE),
    "WS_MAX_CONNECTIONS_PER_ADDRESS": Setting(lambda: None, _limit, _LIMIT_CURE),
    "WS_TRUSTED_PROXIES": Setting(
        TrustedProxies,
        parse_trusted_proxies,
        "List addresses and networks of your proxies, for example ['10.0.0.5', '10.1.0.0/16', "
        "'fd00::/8'], and 'unix' where they come over a unix socket.",
    ),
    "WS_TOKEN_IN_URL": Setting(
        lambda: False, _boolean, "Give True to take tokens from ?token=, or leave it unset."
    ),
    "WS_JWT": Setting(
        lambda: None,
        jwt_config,
        "Give a dict such as {'key': PUBLIC_KEY, 'algorithms': ['ES256'], 'audience': 'mysite', "
        "'issuer': 'https://login.example.com'}; user_claim, user_field and leeway may be added.",
    ),
    "WS_SYNC_THREADS": Setting(
        _default_threads, _positive_int, "Give the number of threads, for example 8."
    ),
}


@dataclass(frozen=True, slots=True)
class Conf:
    """All settings, checked. The field names are the settings' names in lower case."""

    root_ws_urlconf: str
    ws_middleware: tuple[str, ...]
    ws_allowed_origins: tuple[str, ...] | None
    ws_max_message_size: int
    ws_send_buffer: int
    ws_send_timeout: float
    ws_ping_interval: float
    ws_connect_timeout: float
    ws_max_handshakes: int
    ws_close_timeout: float
    ws_drain_seconds: float
    ws_broadcast: Mapping[str, BroadcastConfig]
    ws_max_topics: int
    ws_auth_recheck: float
    ws_rate_limit: Rate | None
    ws_max_connections: int | None
    ws_max_connections_per_user: int | None
    ws_max_connections_per_address: int | None
    ws_trusted_proxies: TrustedProxies
    ws_token_in_url: bool
    ws_jwt: JWTConfig | None
    ws_sync_threads: int


def read(name: str) -> Any:
    """One setting's checked value. Raises ``ImproperlyConfigured`` naming setting and cure."""
    setting = SETTINGS[name]
    try:
        value = getattr(settings, name)
    except AttributeError:
        return setting.default()
    try:
        return setting.parse(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {error}. {setting.cure}") from None


_generation = 0  # how often a setting has changed
_current: tuple[int, Conf] | None = None  # of which generation, since threads may read meanwhile


def get() -> Conf:
    """All settings now. Raises ``ImproperlyConfigured`` for the first that is wrong."""
    global _current
    current = _current
    if current is None or current[0] != _generation:
        generation = _generation
        values = {each.name: read(each.name.upper()) for each in fields(Conf)}
        _current = current = generation, Conf(**values)
    return current[1]


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    global _generation
    if setting in SETTINGS or setting in {"ROOT_URLCONF", "INSTALLED_APPS"}:
        _generation += 1
