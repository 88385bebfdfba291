"""Settings: defaults, and a clear word for each that is wrong."""

import os
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from pytest_django import Settings

from django_ws import conf
from django_ws.conf import BroadcastConfig
from django_ws.conf.jwt import JWTConfig
from django_ws.conf.rate import Rate
from django_ws.conf.trusted_proxies import TrustedProxies
from django_ws.testing import HandshakeRejected, WebSocketClient

REDIS = "django_ws.pubsub.backends.redis.RedisBackend"
P = "django_ws:"
JWT = {"key": "very-hidden", "algorithms": ["HS256"]}

WRONG: list[tuple[str, Any, str]] = [
    ("ROOT_WS_URLCONF", "", "Name the module with the routes"),
    ("ROOT_WS_URLCONF", None, "Name the module with the routes"),
    ("ROOT_WS_URLCONF", 3, "Name the module with the routes"),
    ("WS_MIDDLEWARE", "a.B", "List dotted paths"),
    ("WS_MIDDLEWARE", None, "List dotted paths"),
    ("WS_MIDDLEWARE", {"a.B"}, "List dotted paths"),
    ("WS_MIDDLEWARE", ["a.B", 3], "List dotted paths"),
    ("WS_ALLOWED_ORIGINS", "*", "List origins"),
    ("WS_ALLOWED_ORIGINS", ["example.com"], "write scheme, host"),
    ("WS_ALLOWED_ORIGINS", ["https://"], "write scheme, host"),
    ("WS_ALLOWED_ORIGINS", ["://example.com"], "write scheme, host"),
    ("WS_ALLOWED_ORIGINS", ["https://example.com/"], "write scheme, host"),
    ("WS_ALLOWED_ORIGINS", ["https://example.com", 3], "List origins"),
    ("WS_MAX_MESSAGE_SIZE", 0, "Give bytes"),
    ("WS_MAX_MESSAGE_SIZE", -1, "Give bytes"),
    ("WS_MAX_MESSAGE_SIZE", "1 MiB", "Give bytes"),
    ("WS_MAX_MESSAGE_SIZE", 1.5, "Give bytes"),
    ("WS_MAX_MESSAGE_SIZE", True, "Give bytes"),
    ("WS_MAX_MESSAGE_SIZE", None, "Give bytes"),
    ("WS_SEND_BUFFER", 0, "Give bytes"),
    ("WS_PING_INTERVAL", 0, "Give seconds"),
    ("WS_PING_INTERVAL", -1.5, "Give seconds"),
    ("WS_PING_INTERVAL", "59", "Give seconds"),
    ("WS_PING_INTERVAL", float("nan"), "Give seconds"),
    ("WS_PING_INTERVAL", float("inf"), "Give seconds"),
    ("WS_CONNECT_TIMEOUT", None, "Give seconds"),
    ("WS_CLOSE_TIMEOUT", False, "Give seconds"),
    ("WS_DRAIN_SECONDS", -1, "Give seconds, for example 10, or 0"),
    ("WS_DRAIN_SECONDS", False, "Give seconds, for example 10, or 0"),
    ("WS_DRAIN_SECONDS", None, "Give seconds, for example 10, or 0"),
    ("WS_MAX_HANDSHAKES", 0, "Give how many handshakes"),
    ("WS_MAX_HANDSHAKES", None, "Give how many handshakes"),
    ("WS_SYNC_THREADS", 0, "Give the number of threads"),
    ("WS_MAX_TOPICS", 0, "Give the most topics"),
    ("WS_RATE_LIMIT", "20", "Give the most messages"),
    ("WS_RATE_LIMIT", 20, "Give the most messages"),
    ("WS_RATE_LIMIT", "", "Give the most messages"),
    ("WS_MAX_CONNECTIONS", 0, "Give the most connections"),
    ("WS_MAX_CONNECTIONS_PER_USER", "5", "Give the most connections"),
    ("WS_MAX_CONNECTIONS_PER_ADDRESS", True, "Give the most connections"),
    ("WS_BROADCAST", "127.0.0.1:6379", "Give the URL of a Redis server"),
    ("WS_BROADCAST", None, "neither a URL nor a dict"),
    ("WS_BROADCAST", {}, "with the key 'default'"),
    ("WS_BROADCAST", {"default": {}}, "in 'BACKEND'"),
    ("WS_BROADCAST", {"default": "redis://127.0.0.1"}, "in 'BACKEND'"),
    ("WS_BROADCAST", {"default": {"BACKEND": "a.B", "HOST": 1}}, "unknown keys: HOST"),
    ("WS_BROADCAST", {"default": {"BACKEND": "a.B", "PREFIX": 1}}, "PREFIX is a str"),
    ("WS_BROADCAST", {"default": {"BACKEND": "a.B", "OPTIONS": None}}, "OPTIONS is a dict"),
    ("WS_SYNC_THREADS", 2.0, "Give the number of threads"),
    ("WS_TOKEN_IN_URL", "yes", "neither True nor False"),
    ("WS_TOKEN_IN_URL", None, "Give True to take tokens"),
    ("WS_JWT", "very-hidden", "it is not a dict"),
    ("WS_JWT", {}, "'key' is not a str or bytes"),
    ("WS_JWT", {"key": "", "algorithms": ["HS256"]}, "'key' is not a str or bytes"),
    ("WS_JWT", {"key": 5, "algorithms": ["HS256"]}, "'key' is not a str or bytes"),
    ("WS_JWT", {**JWT, "secret": "x"}, "unknown keys: secret"),
    ("WS_JWT", {"key": "very-hidden"}, "'algorithms' is not a list"),
    ("WS_JWT", {**JWT, "algorithms": "HS256"}, "'algorithms' is not a list"),
    ("WS_JWT", {**JWT, "algorithms": []}, "'algorithms' is not a list"),
    ("WS_JWT", {**JWT, "algorithms": [None]}, "'algorithms' is not a list"),
    ("WS_JWT", {**JWT, "algorithms": ["HS256", "None"]}, "'algorithms' has 'none'"),
    ("WS_JWT", {**JWT, "algorithms": ["HS256", "RS256"]}, "mixes HS"),
    ("WS_JWT", {**JWT, "audience": 5}, "'audience' is neither a str nor"),
    ("WS_JWT", {**JWT, "issuer": []}, "'issuer' is neither a str nor"),
    ("WS_JWT", {**JWT, "user_claim": None}, "'user_claim' is not a name"),
    ("WS_JWT", {**JWT, "user_field": ""}, "'user_field' is not a name"),
    ("WS_JWT", {**JWT, "leeway": -1}, "'leeway' is not a number"),
    ("WS_JWT", {**JWT, "leeway": True}, "'leeway' is not a number"),
    ("WS_JWT", {**JWT, "leeway": "5"}, "'leeway' is not a number"),
    ("WS_JWT", {**JWT, "close_at_expiry": "no"}, "'close_at_expiry' is neither True nor False"),
    ("WS_JWT", {**JWT, "close_at_expiry": None}, "'close_at_expiry' is neither True nor False"),
]

RIGHT: list[tuple[str, Any, Any]] = [
    ("ROOT_WS_URLCONF", "mysite.sockets", "mysite.sockets"),
    ("WS_MIDDLEWARE", [], ()),
    ("WS_MIDDLEWARE", ("a.B", "c.D"), ("a.B", "c.D")),
    ("WS_ALLOWED_ORIGINS", None, None),
    ("WS_ALLOWED_ORIGINS", [], ()),
    ("WS_ALLOWED_ORIGINS", ["*"], ("*",)),
    ("WS_ALLOWED_ORIGINS", ["https://a.example:8443"], ("https://a.example:8443",)),
    ("WS_MAX_MESSAGE_SIZE", 1, 1),
    ("WS_SEND_BUFFER", 2**40, 2**40),
    ("WS_PING_INTERVAL", 30, 30.0),
    ("WS_CONNECT_TIMEOUT", 0.5, 0.5),
    ("WS_CLOSE_TIMEOUT", 3, 3.0),
    ("WS_DRAIN_SECONDS", 0, 0.0),
    ("WS_DRAIN_SECONDS", 60, 60.0),
    ("WS_MAX_HANDSHAKES", 1, 1),
    ("WS_SYNC_THREADS", 7, 7),
    ("WS_MAX_TOPICS", 5, 5),
    ("WS_RATE_LIMIT", "20/s", Rate(20, 10**9)),
    ("WS_RATE_LIMIT", None, None),
    ("WS_RATE_LIMIT", False, None),
    ("WS_MAX_CONNECTIONS", 5, 5),
    ("WS_MAX_CONNECTIONS", None, None),
    ("WS_TRUSTED_PROXIES", ["unix"], TrustedProxies((), unix=True)),
    ("WS_TOKEN_IN_URL", True, True),
    ("WS_JWT", None, None),
    ("WS_JWT", JWT, JWTConfig("very-hidden", ("HS256",))),
    (
        "WS_JWT",
        {**JWT, "audience": "us", "issuer": ["a", "b"], "user_field": "email", "leeway": 1.5},
        JWTConfig("very-hidden", ("HS256",), "us", ("a", "b"), user_field="email", leeway=1.5),
    ),
    (
        "WS_JWT",
        {**JWT, "close_at_expiry": False},
        JWTConfig("very-hidden", ("HS256",), close_at_expiry=False),
    ),
    ("WS_BROADCAST", "rediss://a/1", {"default": BroadcastConfig(REDIS, "rediss://a/1", P, {})}),
    (
        "WS_BROADCAST",
        {"default": {"BACKEND": "a.B"}, "other": {"BACKEND": "c.D", "PREFIX": "x"}},
        {
            "default": BroadcastConfig("a.B", None, P, {}),
            "other": BroadcastConfig("c.D", None, "x", {}),
        },
    ),
]


@pytest.mark.parametrize(("name", "value", "cure"), WRONG)
def test_wrong_value_is_named_with_the_cure(
    settings: Settings, name: str, value: Any, cure: str
) -> None:
    setattr(settings, name, value)
    with pytest.raises(ImproperlyConfigured) as raised:
        conf.get()
    assert str(raised.value).startswith(f"{name}: ")
    assert cure in str(raised.value)


@pytest.mark.parametrize("value", [value for name, value, _ in WRONG if name == "WS_JWT"])
def test_what_is_wrong_with_ws_jwt_is_told_without_the_key(settings: Settings, value: Any) -> None:
    settings.WS_JWT = value
    with pytest.raises(ImproperlyConfigured) as raised:
        conf.get()
    assert "very-hidden" not in str(raised.value)


def test_key_is_not_in_the_repr_of_the_settings(settings: Settings) -> None:
    settings.WS_JWT = JWT
    assert "very-hidden" not in repr(conf.get())


@pytest.mark.parametrize(("name", "value", "cure"), WRONG)
async def test_handshake_with_a_wrong_setting_tells_the_server(
    settings: Settings, name: str, value: Any, cure: str
) -> None:
    setattr(settings, name, value)
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient("/echo/").__aenter__()
    assert isinstance(refused.value.__cause__, ImproperlyConfigured)


@pytest.mark.parametrize(("name", "value", "read"), RIGHT)
def test_right_value_is_read(settings: Settings, name: str, value: Any, read: Any) -> None:
    setattr(settings, name, value)
    assert getattr(conf.get(), name.lower()) == read


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("ROOT_WS_URLCONF", "tests.ws_urls"),
        ("WS_MIDDLEWARE", ("django_ws.middleware.AuthMiddleware",)),
        ("WS_ALLOWED_ORIGINS", None),
        ("WS_MAX_MESSAGE_SIZE", 1024 * 1024),
        ("WS_SEND_BUFFER", 1024 * 1024),
        ("WS_PING_INTERVAL", 59),
        ("WS_CONNECT_TIMEOUT", 10),
        ("WS_CLOSE_TIMEOUT", 10),
        ("WS_DRAIN_SECONDS", 10),
        ("WS_MAX_HANDSHAKES", 200),
        ("WS_MAX_TOPICS", 100),
        ("WS_RATE_LIMIT", None),
        ("WS_MAX_CONNECTIONS", None),
        ("WS_MAX_CONNECTIONS_PER_USER", None),
        ("WS_MAX_CONNECTIONS_PER_ADDRESS", None),
        ("WS_TRUSTED_PROXIES", TrustedProxies()),
        ("WS_TOKEN_IN_URL", False),
        ("WS_JWT", None),
    ],
)
def test_setting_that_is_not_set_has_a_default(settings: Settings, name: str, default: Any) -> None:
    if hasattr(settings, name):
        delattr(settings, name)
    assert getattr(conf.get(), name.lower()) == default


@pytest.mark.parametrize(("cores", "threads"), [(1, 4), (2, 8), (64, 32), (None, 4)])
def test_threads_are_four_for_each_core_and_at_most_32(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    with override_settings(WS_SEND_BUFFER=1):  # any change: the settings are read again
        assert conf.get().ws_sync_threads == threads


@pytest.mark.parametrize("missing", ["django.contrib.auth", "django.contrib.sessions"])
def test_without_users_or_sessions_there_is_no_default_middleware(
    settings: Settings, missing: str
) -> None:
    apps = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
    with override_settings(INSTALLED_APPS=[app for app in apps if app != missing]):
        assert conf.get().ws_middleware == ()


def test_override_settings_is_seen_and_undone() -> None:
    with override_settings(WS_SEND_BUFFER=77):
        assert conf.get().ws_send_buffer == 77
    assert conf.get().ws_send_buffer == 1024 * 1024


def test_settings_are_one_object_until_one_changes(settings: Settings) -> None:
    before = conf.get()
    assert conf.get() is before
    settings.LANGUAGE_CODE = "de"
    assert conf.get() is before
    settings.WS_SEND_BUFFER = 77
    assert conf.get() is not before


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        conf.get().ws_send_buffer = 1  # type: ignore[misc]


def test_every_setting_has_an_attribute() -> None:
    assert {name.lower() for name in conf.SETTINGS} == set(conf.Conf.__dataclass_fields__)
