"""Settings: defaults, and a clear word for each that is wrong."""

import os
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from pytest_django import Settings

from django_ws import conf
from django_ws.conf import BroadcastConfig
from django_ws.testing import HandshakeRejected, WebSocketClient

REDIS = "django_ws.pubsub.backends.redis.RedisBackend"
P = "django_ws:"

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
    ("WS_SYNC_THREADS", 0, "Give the number of threads"),
    ("WS_MAX_TOPICS", 0, "Give the most topics"),
    ("WS_BROADCAST", "127.0.0.1:6379", "Give the URL of a Redis server"),
    ("WS_BROADCAST", None, "neither a URL nor a dict"),
    ("WS_BROADCAST", {}, "with the key 'default'"),
    ("WS_BROADCAST", {"default": {}}, "in 'BACKEND'"),
    ("WS_BROADCAST", {"default": "redis://127.0.0.1"}, "in 'BACKEND'"),
    ("WS_BROADCAST", {"default": {"BACKEND": "a.B", "HOST": 1}}, "unknown keys: HOST"),
    ("WS_BROADCAST", {"default": {"BACKEND": "a.B", "PREFIX": 1}}, "PREFIX is a str"),
    ("WS_BROADCAST", {"default": {"BACKEND": "a.B", "OPTIONS": None}}, "OPTIONS is a dict"),
    ("WS_SYNC_THREADS", 2.0, "Give the number of threads"),
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
    ("WS_SYNC_THREADS", 7, 7),
    ("WS_MAX_TOPICS", 5, 5),
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
        ("WS_MAX_TOPICS", 100),
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
