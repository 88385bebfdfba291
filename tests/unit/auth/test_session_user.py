"""A connection ends where a page would not know the user of its session any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from django_ws.auth.recheck import recheck_here
from django_ws.auth.session import SessionLogin
from django_ws.auth.session_user import SessionUsers
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, SECONDS, client, handlers, until
from tests.support.handlers import Quiet

pytestmark = pytest.mark.django_db(transaction=True)

MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
trouble: dict[str, Exception] = {}  # what asking for these users raises


class OwnBackend(ModelBackend):
    """Bans by what is written in the user's last name; may have trouble with somebody."""

    def get_user(self, user_id: Any) -> Any:
        user = super().get_user(user_id)
        if user is not None and user.get_username() in trouble:
            raise trouble[user.get_username()]
        return None if user is None or user.last_name == "banned" else user


class PickyBackend(ModelBackend):
    def user_can_authenticate(self, user: Any) -> bool:
        return bool(super().user_can_authenticate(user)) and user.last_name != "banned"


@pytest.fixture(autouse=True)
def no_trouble(settings: Settings) -> Iterator[None]:
    settings.WS_AUTH_RECHECK = 3600  # the tests ask for it
    settings.WS_CONNECT_TIMEOUT = SECONDS  # a busy machine is no failure
    yield
    trouble.clear()


def people() -> tuple[User, User]:
    return User.objects.create_user("alice"), User.objects.create_user("bob")


def session_of(user: User, backend: str) -> dict[str, str]:
    browser = Client()
    browser.force_login(user, backend)
    return {"sessionid": browser.cookies["sessionid"].value}


@contextmanager
def backend_is(settings: Any, name: str) -> Iterator[str]:
    path = name if "." in name else f"{__name__}.{name}"
    settings.AUTHENTICATION_BACKENDS = [path]
    yield path


def check_all() -> None:
    for handler in handlers:
        assert handler.request.login is not None
        handler.request.login.check()


async def checked() -> None:
    check_all()
    await until(lambda: recheck_here().is_idle)


def changed(user: User, **fields: Any) -> None:
    User.objects.filter(pk=user.pk).update(**fields)  # which sends no signal


change = sync_to_async(changed)


@pytest.mark.parametrize("backend", ["OwnBackend", "PickyBackend"])
async def test_a_user_whom_the_backend_refuses_from_now_on(
    backend: str, settings: Settings
) -> None:
    alice, bob = await sync_to_async(people)()
    with backend_is(settings, backend) as path:
        cookies = [await sync_to_async(session_of)(user, path) for user in (alice, bob)]
        async with (
            client(Quiet, cookies=cookies[0]) as of_alice,
            WebSocketClient(PATH, cookies=cookies[1]) as of_bob,
        ):
            await checked()
            await of_alice.receive_nothing()
            await change(alice, last_name="banned")
            await checked()
            assert await of_alice.wait_closed() == 4401
            await of_bob.receive_nothing()


async def test_a_user_who_is_saved_is_looked_at_at_once(settings: Settings) -> None:
    alice, _ = await sync_to_async(people)()
    with backend_is(settings, "OwnBackend") as path:
        cookies = await sync_to_async(session_of)(alice, path)
        async with client(Quiet, cookies=cookies) as ws:
            alice.last_name = "banned"
            await alice.asave()
            assert await ws.wait_closed() == 4401


async def test_a_session_hash_of_the_sites_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a number in the user's row ends all sessions of the user."""
    real = AbstractBaseUser.get_session_auth_hash
    monkeypatch.setattr(
        AbstractBaseUser, "get_session_auth_hash", lambda self: real(self) + self.last_name
    )
    alice, bob = await sync_to_async(people)()
    cookies = [await sync_to_async(session_of)(user, MODEL_BACKEND) for user in (alice, bob)]
    async with (
        client(Quiet, cookies=cookies[0]) as of_alice,
        WebSocketClient(PATH, cookies=cookies[1]) as of_bob,
    ):
        await change(alice, last_name="2")
        await checked()
        assert await of_alice.wait_closed() == 4401
        await of_bob.receive_nothing()


@pytest.mark.parametrize("key", [HASH_SESSION_KEY, BACKEND_SESSION_KEY])
async def test_a_session_that_lacks_what_a_page_asks_for(key: str) -> None:
    alice, _ = await sync_to_async(people)()
    cookies = await sync_to_async(session_of)(alice, MODEL_BACKEND)
    async with client(Quiet, cookies=cookies) as ws:
        session = import_module(django_settings.SESSION_ENGINE).SessionStore(cookies["sessionid"])
        await session.apop(key)
        await session.asave()
        await checked()
        assert await ws.wait_closed() == 4401


async def test_a_backend_that_is_not_listed_any_more(settings: Settings) -> None:
    alice, _ = await sync_to_async(people)()
    with backend_is(settings, "PickyBackend") as path:
        cookies = await sync_to_async(session_of)(alice, path)
        async with client(Quiet, cookies=cookies) as ws:
            settings.AUTHENTICATION_BACKENDS = [MODEL_BACKEND]
            await checked()
            assert await ws.wait_closed() == 4401


@pytest.mark.parametrize("is_fallback", [True, False])
async def test_a_new_secret_key(is_fallback: bool, settings: Settings) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"  # which signs nothing
    alice, _ = await sync_to_async(people)()
    cookies = await sync_to_async(session_of)(alice, MODEL_BACKEND)
    async with client(Quiet, cookies=cookies) as ws:
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY] if is_fallback else []
        settings.SECRET_KEY = "a new one"
        await checked()
        if is_fallback:
            await ws.receive_nothing()
        else:
            assert await ws.wait_closed() == 4401


async def test_a_backend_that_lets_inactive_users_in(settings: Settings) -> None:
    alice, _ = await sync_to_async(people)()
    await change(alice, is_active=False)
    with backend_is(settings, "django.contrib.auth.backends.AllowAllUsersModelBackend") as path:
        cookies = await sync_to_async(session_of)(alice, path)
        async with client(Quiet, cookies=cookies) as ws:
            await checked()
            await ws.receive_nothing()


class Robot:
    """A user that is no model, and has no hash."""

    pk = 5
    is_authenticated = True
    is_active = True


class RobotBackend:
    def get_user(self, user_id: Any) -> Robot:
        return Robot()


async def test_a_user_that_is_no_model_has_a_session_too(settings: Settings) -> None:
    with backend_is(settings, "RobotBackend") as path:
        session = import_module(settings.SESSION_ENGINE).SessionStore()
        await session.aupdate({SESSION_KEY: "5", BACKEND_SESSION_KEY: path})
        await session.asave()
        async with client(Quiet, cookies={"sessionid": str(session.session_key)}) as ws:
            assert isinstance(handlers[-1].request.user, Robot)
            await checked()
            await ws.receive_nothing()
            await session.adelete()
            assert await ws.wait_closed() == 4401


def test_a_user_model_without_a_session_hash_is_known_without_one() -> None:
    row: Any = Robot()  # as of a model that is built on none of Django's
    assert SessionUsers().is_known({BACKEND_SESSION_KEY: MODEL_BACKEND}, row)


# What it costs


@pytest.mark.parametrize(
    ("backend", "queries"), [(MODEL_BACKEND, 2), ("PickyBackend", 2), ("OwnBackend", 2 + 5)]
)
def test_how_many_queries_it_takes(backend: str, queries: int, settings: Settings) -> None:
    with backend_is(settings, backend) as path:
        users = [User.objects.create_user(f"user-{number}") for number in range(5)]
        store = import_module(settings.SESSION_ENGINE).SessionStore
        logins = [SessionLogin(user, store(session_of(user, path)["sessionid"])) for user in users]
        with CaptureQueriesContext(connection) as captured:
            assert async_to_sync(SessionLogin.ended)(logins) == set()
        assert len(captured) == queries


# Backends that fail


async def test_a_backend_that_fails_for_one_user_is_asked_for_the_others(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = await sync_to_async(people)()
    with backend_is(settings, "OwnBackend") as path:
        cookies = [await sync_to_async(session_of)(user, path) for user in (alice, bob)]
        async with (
            client(Quiet, cookies=cookies[0]) as of_alice,
            WebSocketClient(PATH, cookies=cookies[1]) as of_bob,
        ):
            trouble["alice"] = LookupError("no entry in the directory")
            await change(bob, last_name="banned")
            await checked()
            assert await of_bob.wait_closed() == 4401
            await of_alice.receive_nothing()
            assert "1 log-in could not be checked, and stays until the next check" in caplog.text
            assert "no entry in the directory" in caplog.text
            del trouble["alice"]
            await change(alice, last_name="banned")
            await checked()
            assert await of_alice.wait_closed() == 4401


async def test_a_database_that_is_away_ends_nobody(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = await sync_to_async(people)()
    with backend_is(settings, "OwnBackend") as path:
        cookies = [await sync_to_async(session_of)(user, path) for user in (alice, bob)]
        async with (
            client(Quiet, cookies=cookies[0]) as of_alice,
            WebSocketClient(PATH, cookies=cookies[1]) as of_bob,
        ):
            trouble.update(alice=OperationalError("away"), bob=OperationalError("away"))
            await checked()
            assert "2 log-ins could not be checked, and stay until the next check" in caplog.text
            await of_alice.receive_nothing()
            await of_bob.receive_nothing()


class FailsLater(OwnBackend):
    """As a directory that goes away between the middleware and the first check."""

    def get_user(self, user_id: Any) -> Any:
        user = super().get_user(user_id)
        trouble["alice"] = LookupError("the directory is away")
        return user


async def test_a_handshake_that_cannot_be_checked_is_refused(settings: Settings) -> None:
    alice, _ = await sync_to_async(people)()
    with backend_is(settings, "FailsLater") as path:
        cookies = await sync_to_async(session_of)(alice, path)
        with pytest.raises(HandshakeRejected) as refused:
            async with client(Quiet, cookies=cookies):
                pass
        assert refused.value.status == 500


class SlowBackend(OwnBackend):
    asked: list[Any] = []

    def get_user(self, user_id: Any) -> Any:
        self.asked.append(user_id)
        time.sleep(1.1)
        return super().get_user(user_id)


def test_a_backend_that_is_slow_is_not_asked_for_all(settings: Settings) -> None:
    settings.WS_CONNECT_TIMEOUT = 2
    with backend_is(settings, "SlowBackend") as path:
        users = [User.objects.create_user(f"user-{number}") for number in range(5)]
        store = import_module(settings.SESSION_ENGINE).SessionStore
        logins = [SessionLogin(user, store(session_of(user, path)["sessionid"])) for user in users]
        SlowBackend.asked.clear()
        assert async_to_sync(SessionLogin.ended)(logins) == set()
        assert len(SlowBackend.asked) == 1
        late = [str(login.failure) for login in logins if login.failure is not None]
        assert late == ["asking backends for their users took 1 s"] * 4
