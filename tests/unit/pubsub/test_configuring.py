"""What a wrong WS_BROADCAST says, and where; and the publishers of a process that forks."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from pytest_django import Settings

from django_ws import WebSocketHandler, abroadcast, broadcast, conf
from django_ws.pubsub.backends.memory import MemoryPublisher
from django_ws.pubsub.hub import registry
from tests.support.asgi_peer import client, until

REDIS = "django_ws.pubsub.backends.redis.RedisBackend"
ZEROMQ = "django_ws.pubsub.backends.zeromq.ZeroMQBackend"


@pytest.mark.parametrize(
    "value",
    [
        "reddis://:secret@127.0.0.1/0",
        {"BACKEND": REDIS, "LOCATION": "redis://:secret@127.0.0.1/0"},
        {"BACKEND": REDIS, "OPTIONS": {"password": "secret"}},
        [("secret", 7)],
    ],
)
def test_what_is_no_setting_is_refused_without_being_shown(settings: Settings, value: Any) -> None:
    settings.WS_BROADCAST = value
    with pytest.raises(ImproperlyConfigured, match="WS_BROADCAST: ") as caught:
        conf.get()
    (message,) = [each for each in run_checks(tags=["django_ws"]) if each.id == "django_ws.E001"]
    assert "secret" not in f"{caught.value} {message}"


WRONG = [
    ("redis://alice:12#secret@127.0.0.1", r"LOCATION has '#'"),
    ({"default": {"BACKEND": REDIS}}, r"LOCATION of NoneType"),
    (
        {"default": {"BACKEND": REDIS, "LOCATION": "redis://h", "OPTIONS": {"colour": 1}}},
        r"OPTIONS, or the LOCATION for redis://h:6379/0",
    ),
    (
        {"default": {"BACKEND": ZEROMQ, "LOCATION": "redis://:secret@127.0.0.1"}},
        r"LOCATION is not an address for ZeroMQ",
    ),
]


@pytest.fixture(params=WRONG)
def says(settings: Settings, request: pytest.FixtureRequest) -> str:
    settings.WS_BROADCAST, text = request.param
    return f"WS_BROADCAST\\['default'\\]: {text}"


def test_a_check_finds_a_location_that_cannot_be_used(says: str) -> None:
    (message,) = run_checks(tags=["django_ws"])
    assert message.id == "django_ws.E015"
    with pytest.raises(ImproperlyConfigured, match=says) as caught:
        broadcast("room", 1)
    assert str(message.msg) == str(caught.value)
    assert "secret" not in str(message)


def test_a_backend_that_cannot_be_imported_is_not_said_to_be_the_memory(
    settings: Settings,
) -> None:
    settings.DEBUG = False
    settings.WS_BROADCAST = {"default": {"BACKEND": "no.Such"}}
    found = {m.id for m in run_checks(tags=["django_ws"], include_deployment_checks=True)}
    assert "django_ws.E015" in found
    assert "django_ws.W010" not in found


async def test_publishing_and_listening_name_the_setting(says: str) -> None:
    for awaitable in (abroadcast("room", 1), asyncio.to_thread(broadcast, "room", 1)):
        with pytest.raises(ImproperlyConfigured, match=says):
            await awaitable
    with pytest.raises(ImproperlyConfigured, match=says):
        registry.hub_of("default")


def test_the_command_names_the_setting(says: str) -> None:
    with pytest.raises(CommandError, match=says):
        call_command("wsbroadcast", "room", "1")


@pytest.mark.parametrize(
    ("setting", "using", "says"),
    [
        (None, "default", "WS_BROADCAST: "),
        ({"default": {"BACKEND": "no.Such"}}, "default", "cannot import 'no.Such'"),
        ("redis://127.0.0.1", "other", "WS_BROADCAST has no 'other', only 'default'"),
    ],
)
def test_the_command_names_what_is_wrong(
    settings: Settings, setting: Any, using: str, says: str
) -> None:
    settings.WS_BROADCAST = setting
    with pytest.raises(CommandError, match=says):
        call_command("wsbroadcast", "room", "1", using=using)


class Room(WebSocketHandler):
    topics = ("room",)


async def test_a_publisher_is_made_once() -> None:
    async with client(Room) as ws:
        for number in range(3):
            await asyncio.to_thread(broadcast, "room", number)
        assert [await ws.receive() for _ in range(3)] == [0, 1, 2]
        assert registry.publisher_of("default") is registry.publisher_of("default")


async def test_two_threads_that_need_a_publisher_at_once_get_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_publishers", {})
    publishers: list[Any] = []
    with registry._lock:
        thread = threading.Thread(
            target=lambda: publishers.append(registry.publisher_of("default"))
        )
        thread.start()
        await until(lambda: blocked_in(thread, "publisher_of"))
        made = registry._publishers["default"] = MemoryPublisher(None, "another's:", {})
    thread.join(20)
    assert publishers == [made]


def blocked_in(thread: threading.Thread, function: str) -> bool:
    """Whether it runs there, and in nothing that was called from there."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == function
