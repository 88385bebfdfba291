"""A middleware of the site's own makes somebody else of the user: both are watched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils.functional import SimpleLazyObject
from pytest_django import Settings
from rest_framework.authtoken.models import Token

from django_ws import WebSocketHandler, adisconnect, user_topic
from django_ws.auth.login import Login
from django_ws.auth.recheck import recheck_here
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, client, the_handler, until
from tests.support.handlers import Quiet

pytestmark = pytest.mark.django_db(transaction=True)

SESSION = "django_ws.middleware.AuthMiddleware"
TOKEN = "django_ws.middleware.TokenAuthMiddleware"
other: Any = None  # whom the middleware makes of everybody


class ActAs:
    """As a site has it whose staff may see with the eyes of a customer."""

    def __init__(self, func: Callable[[WebSocketHandler], Awaitable[None]]) -> None:
        self.func = func

    async def __call__(self, ws: WebSocketHandler) -> None:
        ws.request.user = other
        await self.func(ws)


MIDDLEWARE = [SESSION, TOKEN, f"{__name__}.ActAs"]


@pytest.fixture
def staff() -> User:
    return User.objects.create_user("staff")


@pytest.fixture
def customer() -> Any:
    global other
    other = User.objects.create_user("customer")
    return other


def session_of(user: User) -> dict[str, str]:
    browser = Client()
    browser.force_login(user)
    return {"sessionid": browser.cookies["sessionid"].value}


def token_of(user: User) -> dict[str, str]:
    return {"Authorization": f"Token {Token.objects.create(user=user).key}"}


async def made_inactive(user: User) -> None:
    user.is_active = False
    await user.asave()


async def by_sql(user: User) -> None:
    await User.objects.filter(pk=user.pk).aupdate(is_active=False)
    the_handler().request.login.check()


async def deleted(user: User) -> None:
    await user.adelete()


async def disconnected(user: User) -> None:
    await adisconnect(user_topic(user), code=4401)


async def logged_out(user: User) -> None:
    await Session.objects.all().adelete()
    await Token.objects.all().adelete()
    the_handler().request.login.check()


ENDS = [made_inactive, by_sql, deleted, disconnected]


@pytest.mark.parametrize("way", ["session", "token"])
@pytest.mark.parametrize("who", ["staff", "customer"])
@pytest.mark.parametrize("end", ENDS)
async def test_the_end_of_either_ends_the_connection(
    way: str, who: str, end: Any, staff: User, customer: User
) -> None:
    options: dict[str, Any] = {}
    if way == "session":
        options["cookies"] = await sync_to_async(session_of)(staff)
    else:
        options["headers"] = await sync_to_async(token_of)(staff)
    async with client(Quiet, middleware=MIDDLEWARE, **options) as ws:
        assert the_handler().request.user == customer
        await ws.receive_nothing()
        await end(staff if who == "staff" else customer)
        assert await ws.wait_closed() == 4401


@pytest.mark.parametrize("way", ["session", "token"])
async def test_the_end_of_the_log_in_itself_ends_it(way: str, staff: User, customer: User) -> None:
    options: dict[str, Any] = {}
    if way == "session":
        options["cookies"] = await sync_to_async(session_of)(staff)
    else:
        options["headers"] = await sync_to_async(token_of)(staff)
    async with client(Quiet, middleware=MIDDLEWARE, **options) as ws:
        await logged_out(staff)
        assert await ws.wait_closed() == 4401


@pytest.mark.parametrize("who", ["staff", "customer"])
async def test_a_handshake_of_somebody_who_has_just_ended_is_refused(
    who: str, staff: User, customer: User
) -> None:
    cookies = await sync_to_async(session_of)(staff)
    global other

    class Ended:
        def __init__(self, func: Any) -> None:
            self.func = func

        async def __call__(self, ws: WebSocketHandler) -> None:
            await User.objects.filter(username=who).aupdate(is_active=False)
            await self.func(ws)

    global EndsSomebody
    EndsSomebody = Ended
    with pytest.raises(HandshakeRejected) as refused:
        async with client(
            Quiet, middleware=[*MIDDLEWARE, f"{__name__}.EndsSomebody"], cookies=cookies
        ):
            pass
    assert refused.value.status == 401


EndsSomebody: Any = None


async def test_an_asgi_application_acts_as_somebody_too(staff: User, customer: User) -> None:
    users: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        users.append(scope["user"])
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    cookies = await sync_to_async(session_of)(staff)
    target: Any = application
    async with client(target, middleware=MIDDLEWARE, cookies=cookies) as ws:
        await until(lambda: users)
        assert users == [customer]
        await deleted(customer)
        assert await ws.wait_closed() == 4401


async def test_the_same_user_is_watched_once(staff: User) -> None:
    global other
    other = SimpleLazyObject(lambda: User.objects.get(pk=staff.pk))
    await sync_to_async(lambda: other.username)()
    cookies = await sync_to_async(session_of)(staff)
    async with client(Quiet, middleware=MIDDLEWARE, cookies=cookies):
        assert len(recheck_here()._all) == 1
        assert the_handler().request.login.user == staff


async def test_nothing_is_left_of_two_log_ins(staff: User, customer: User) -> None:
    cookies = await sync_to_async(session_of)(staff)
    async with client(Quiet, middleware=MIDDLEWARE, cookies=cookies):
        await until(lambda: recheck_here().is_idle)
        assert len(recheck_here()._all) == 2
        login = the_handler().request.login
        assert login.user == customer
        assert {user_topic(staff), user_topic(customer)} < set(login.identities)
    assert recheck_here()._all == {}


async def test_a_middleware_that_makes_a_visitor_anonymous(staff: User) -> None:
    global other
    other = AnonymousUser()
    cookies = await sync_to_async(session_of)(staff)
    async with client(Quiet, middleware=MIDDLEWARE, cookies=cookies) as ws:
        assert the_handler().request.user.is_anonymous
        await ws.receive_nothing()


async def test_a_check_that_fails_for_one_of_two_refuses_the_handshake(
    staff: User, customer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(logins: Any) -> Any:
        raise OSError("the database is down")

    monkeypatch.setattr(Login, "ended", broken)
    cookies = await sync_to_async(session_of)(staff)
    with pytest.raises(HandshakeRejected) as refused:
        async with client(Quiet, middleware=MIDDLEWARE, cookies=cookies):
            pass
    assert refused.value.status == 500


async def test_the_limit_for_a_user_counts_the_one_that_was_made(
    staff: User, customer: User, settings: Settings
) -> None:
    settings.WS_MAX_CONNECTIONS_PER_USER = 1
    cookies = await sync_to_async(session_of)(staff)
    async with client(Quiet, middleware=MIDDLEWARE, cookies=cookies):
        with pytest.raises(HandshakeRejected) as refused:
            async with WebSocketClient(PATH, cookies=cookies):
                pass
        assert refused.value.status == 429
