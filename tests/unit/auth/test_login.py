"""Login: what a connection is logged in by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject
from pytest_django import Settings
from rest_framework.authtoken.models import Token

from django_ws import WebSocketHandler, user_topic
from django_ws.auth.login import Login
from django_ws.auth.session import SessionLogin
from django_ws.auth.tokens import TokenLogin
from django_ws.testing.login import session_cookie
from tests.support.asgi_peer import client, the_handler
from tests.support.handlers import Quiet

pytestmark = pytest.mark.django_db(transaction=True)


lazy_user: Any = None


def sets_lazy_user(func: Any) -> Any:
    """As a middleware does it that was written for pages."""

    async def middleware(ws: WebSocketHandler) -> None:
        ws.request.user = lazy_user
        await func(ws)

    return middleware


@pytest.mark.parametrize("change", ["nothing", "password", "deleted"])
async def test_a_lazy_user_is_watched_as_any_other(alice: User, change: str) -> None:
    global lazy_user
    lazy_user = SimpleLazyObject(lambda: alice)
    async with client(Quiet, middleware=[f"{__name__}.sets_lazy_user"]) as ws:
        same = await User.objects.aget(pk=alice.pk)
        match change:
            case "password":
                same.set_password("new")
                await same.asave()
            case "deleted":
                await same.adelete()
            case _:
                the_handler().request.login.check()
                await ws.receive_nothing()
                return
        assert await ws.wait_closed() == 4401


def test_no_owner_is_told_twice(alice: User) -> None:
    login = Login(alice, identities=["a", user_topic(alice), "a", "b"])
    assert login.identities == (user_topic(alice), "a", "b")


def test_a_time_that_is_none_is_refused_where_it_is_given(alice: User) -> None:
    with pytest.raises(OverflowError):
        Login(alice, expires_at=10**400)


class Replicas:
    """Reads from one database, writes to another."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        raise AssertionError("the copy was asked, which may not have what was just saved")

    def db_for_write(self, model: Any, **hints: Any) -> str:
        asked.append((model.__name__, hints.get("instance")))
        return "default"


asked: list[Any] = []


@contextmanager
def replicas(settings: Settings) -> Iterator[None]:
    asked.clear()
    settings.DATABASE_ROUTERS = [f"{__name__}.Replicas"]
    yield
    settings.DATABASE_ROUTERS = []


def test_what_is_looked_at_again_is_read_where_it_is_written(
    alice: User, settings: Settings
) -> None:
    token = Token.objects.create(user=alice)
    session = SessionStore(session_cookie(alice, None)["sessionid"])
    logins = [
        Login(alice),
        TokenLogin(alice, model=Token, key=token.key),
        SessionLogin(alice, session),
    ]
    alice._state.db = "replica"  # where it came from
    with replicas(settings), CaptureQueriesContext(connection) as queries:
        for login in logins:
            assert set(async_to_sync(type(login).ended)([login])) == set()
    assert len(queries) == 5
    assert asked == [
        ("User", alice), ("User", alice), ("Token", None), ("User", alice), ("Session", None),
    ]  # fmt: skip
