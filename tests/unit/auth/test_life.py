"""A log-in that ends ends its sockets, and no others."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import SESSION_KEY, alogout
from django.contrib.auth.models import Permission, User
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.models import Session
from django.db import transaction
from django.test import Client
from django.utils.timezone import now
from pytest_django import Settings
from rest_framework.authtoken.models import Token

from django_ws import ConnectionClosed, WebSocketHandler, adisconnect, user_topic
from django_ws.auth.login import Login
from django_ws.auth.orders import publish
from django_ws.auth.recheck import recheck_here
from django_ws.auth.session import SessionLogin
from django_ws.auth.session_identity import session_identity
from django_ws.auth.signals import connect
from django_ws.pubsub.envelope import seal_disconnect
from django_ws.pubsub.hub.registry import running_hub
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, Peer, client, the_handler, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)
from tests.support.handlers import Quiet

pytestmark = pytest.mark.django_db(transaction=True)

MIDDLEWARE = "django_ws.middleware.AuthMiddleware"


class Browser:
    """Django's test client, logged in."""

    def __init__(self, user: User) -> None:
        self.client = Client()
        self.client.force_login(user)
        self.key = self.client.cookies["sessionid"].value

    @property
    def cookies(self) -> dict[str, str]:
        return {"sessionid": self.key}


def browsers(*users: User) -> list[Browser]:
    return [Browser(user) for user in users]


async def ends(ws: WebSocketClient, code: int = 4401) -> None:
    with pytest.raises(ConnectionClosed):
        await ws.receive()
    assert (ws.close_code, ws.close_reason) == (code, "the log-in has ended")


async def stays(ws: WebSocketClient) -> None:
    await ws.receive_nothing()


async def checked(ws: WebSocketHandler) -> None:
    """Whatever was due has been looked at."""
    await until(lambda: recheck_here().is_idle)


async def settled() -> None:
    """Orders are heard, and what may have come before has been looked at."""
    hub = running_hub("default")
    assert hub is not None
    await until(lambda: hub._hears_orders)
    await checked(the_handler())


# Log-out


async def test_a_log_out_ends_the_sockets_of_that_session_alone(alice: User, bob: User) -> None:
    here, there, other = await sync_to_async(browsers)(alice, alice, bob)
    async with (
        client(Quiet, cookies=here.cookies) as first,
        WebSocketClient(PATH, cookies=here.cookies) as second,
        WebSocketClient(PATH, cookies=there.cookies) as elsewhere,
        WebSocketClient(PATH, cookies=other.cookies) as of_bob,
        WebSocketClient(PATH) as anonymous,
    ):
        await sync_to_async(here.client.logout)()
        await ends(first)
        await ends(second)
        for ws in (elsewhere, of_bob, anonymous):
            await stays(ws)


async def test_an_asynchronous_log_out(alice: User) -> None:
    [here] = await sync_to_async(browsers)(alice)
    async with client(Quiet, cookies=here.cookies) as ws:
        await alogout(the_handler().request)
        await ends(ws)


async def test_an_order_in_the_event_loop_of_the_sockets(alice: User) -> None:
    [here] = await sync_to_async(browsers)(alice)
    async with client(Quiet, cookies=here.cookies) as ws:
        publish(seal_disconnect(session_identity(here.key), 4401, "the log-in has ended"))
        await ends(ws)


async def test_a_log_out_in_an_event_loop_without_a_hub(alice: User) -> None:
    """As an asynchronous view in a process whose sockets live in another loop."""
    [here] = await sync_to_async(browsers)(alice)

    def log_out() -> None:
        async def view() -> None:
            publish(seal_disconnect(session_identity(here.key), 4401, "the log-in has ended"))

        asyncio.run(view())

    async with client(Quiet, cookies=here.cookies) as ws:
        await asyncio.to_thread(log_out)
        await ends(ws)


async def test_a_log_out_that_cannot_be_told_in_such_a_loop_is_logged(
    fickle: type[FickleBackend],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    def log_out() -> None:
        async def view() -> None:
            publish(seal_disconnect(session_identity("a" * 32), 4401, "the log-in has ended"))

        asyncio.run(view())  # which waits for its threads

    fickle.is_down = True
    await asyncio.to_thread(log_out)
    assert "Sockets stay open until their log-in is checked again" in caplog.text


async def test_the_log_out_of_nobody(alice: User) -> None:
    async with client(Quiet, user=alice) as ws:
        await sync_to_async(Client().logout)()
        await stays(ws)


async def test_a_log_out_while_the_backend_is_down(
    alice: User,
    fickle: type[FickleBackend],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    [here] = await sync_to_async(browsers)(alice)
    async with client(Quiet, cookies=here.cookies) as ws:
        fickle.is_down = True
        await sync_to_async(here.client.logout)()  # raises nothing
        assert "stay open until their log-in is checked again" in caplog.text
        fickle.is_down = False
        fickle.made[0].lose("\0control")
        await ends(ws)
        assert "Orders to disconnect users may not have arrived" in caplog.text


# The user


def new_password(user: User) -> None:
    user.set_password("new")
    user.save()


def made_inactive(user: User) -> None:
    user.is_active = False
    user.save(update_fields=["is_active"])


@pytest.mark.parametrize("engine", ["session", "own middleware"])
@pytest.mark.parametrize(
    "change",
    [
        new_password,
        made_inactive,
        User.delete,
    ],
)
async def test_a_changed_user(
    alice: User, bob: User, change: Callable[[User], Any], engine: str
) -> None:
    global somebody
    somebody = alice
    middleware = [MIDDLEWARE] if engine == "session" else [f"{__name__}.sets_user"]
    async with client(Quiet, user=alice, middleware=middleware) as ws:
        await stays(ws)
        same = await User.objects.aget(pk=alice.pk)
        await sync_to_async(change)(same)
        await ends(ws)


somebody: Any = None


def sets_user(func: Any) -> Any:
    """A middleware as a site writes it, which knows nothing of log-ins."""

    async def middleware(ws: WebSocketHandler) -> None:
        ws.request.user = somebody
        await func(ws)

    return middleware


async def test_a_user_who_is_no_model(alice: User) -> None:
    class Robot:
        pk = 5
        is_authenticated = True

    global somebody
    somebody = Robot()
    async with client(Quiet, middleware=[f"{__name__}.sets_user"]) as ws:
        the_handler().request.login.check()
        await checked(the_handler())
        await stays(ws)
        await adisconnect(user_topic(somebody))
        with pytest.raises(ConnectionClosed):
            await ws.receive()


async def test_what_ends_no_log_in(alice: User, bob: User) -> None:
    async with client(Quiet, user=alice) as ws:
        login = the_handler().request.login
        before = login.check
        alice.first_name = "Alice"
        await alice.asave()
        await alice.asave(update_fields=["last_login"])
        bob.set_password("new")
        await bob.asave()
        await bob.adelete()
        await User.objects.acreate(username="carol")
        await Permission.objects.all().adelete()
        await checked(the_handler())
        await stays(ws)
        assert login.check == before


async def test_saving_other_fields_checks_nothing(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = spy(monkeypatch, SessionLogin)
    async with client(Quiet, user=alice):
        await settled()
        looks.clear()
        await alice.asave(update_fields=["last_login"])
        await User.objects.acreate(username="carol")
        await checked(the_handler())
        assert looks == []
        await alice.asave(update_fields=["password"])
        await until(lambda: len(looks) == 1)


async def test_who_only_listens_to_a_users_topic_has_no_log_in_to_end(alice: User) -> None:
    class Listening(WebSocketHandler):
        def get_topics(self) -> list[str]:
            return [user_topic(alice)]

    async with client(Listening) as ws, WebSocketClient(PATH, user=alice) as of_alice:
        await sync_to_async(new_password)(alice)
        await ends(of_alice)
        await stays(ws)


async def test_a_log_in_that_ends_at_a_time(alice: User) -> None:
    class Timed:
        def __init__(self, func: Any) -> None:
            self.func = func

        async def __call__(self, ws: WebSocketHandler) -> None:
            ws.request.user = alice
            ws.request.login = Login(alice, expires_at=time.time() + 3600)
            await self.func(ws)

    Login(alice).check()  # of no connection: does nothing
    global middleware
    middleware = Timed
    async with client(Quiet, middleware=[f"{__name__}.middleware"]) as ws:
        expires_in(the_handler().request.login, 0.1)
        await ends(ws)


def expires_in(login: Login, seconds: float) -> None:
    """So short a time that the handshake might take longer begins once it is through."""
    login.expires_at = time.time() + seconds
    login.expect_expiry()


middleware: Any = None


def test_a_site_without_users(settings: Settings) -> None:
    settings.INSTALLED_APPS = ["django_ws"]
    before = list(user_logged_out.receivers)
    connect()
    assert user_logged_out.receivers == before


def test_a_site_without_rest_framework(settings: Settings) -> None:
    settings.INSTALLED_APPS = [
        name for name in settings.INSTALLED_APPS if not name.startswith("rest_framework")
    ]
    connect()  # asks for no model of it


async def test_a_rolled_back_change_ends_nothing(alice: User) -> None:
    def change() -> None:
        with transaction.atomic():
            alice.set_password("new")
            alice.save()
            transaction.set_rollback(True)

    async with client(Quiet, user=alice) as ws:
        await sync_to_async(change)()
        await stays(ws)


async def test_a_deleted_token_has_its_user_checked(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await Token.objects.acreate(user=alice)
    looks = spy(monkeypatch, SessionLogin)
    async with client(Quiet, user=alice) as ws:
        await token.adelete()
        await until(lambda: len(looks) == 2)
        await stays(ws)


# The session


async def test_an_expired_session(alice: User) -> None:
    [here] = await sync_to_async(browsers)(alice)
    async with client(Quiet, cookies=here.cookies) as ws:
        await Session.objects.aupdate(expire_date=now() + timedelta(seconds=0.3))
        the_handler().request.login.check()  # which finds that, and waits for it
        await ends(ws)


async def test_a_prolonged_session_stays(alice: User) -> None:
    [here] = await sync_to_async(browsers)(alice)
    async with client(Quiet, cookies=here.cookies) as ws:
        login = the_handler().request.login
        await Session.objects.aupdate(expire_date=now() + timedelta(days=1))
        expires_in(login, 0.1)  # as it was when it was looked at last
        first = login.expires_at
        await until(lambda: login.expires_at not in (None, first))
        assert login.expires_at - time.time() > 80_000
        await stays(ws)


ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_flushed_session_is_found_in_time(
    alice: User, settings: Settings, engine: str
) -> None:
    """What no signal has told."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.WS_AUTH_RECHECK = 0.05
    [here, other] = await sync_to_async(browsers)(alice, alice)
    async with (
        client(Quiet, cookies=here.cookies) as ws,
        WebSocketClient(PATH, cookies=other.cookies) as stays_open,
    ):
        store = import_module(settings.SESSION_ENGINE).SessionStore
        await store(here.key).aflush()
        if engine == "signed_cookies":  # which knows nothing of the others
            await stays(ws)
        else:
            await ends(ws)
        await stays(stays_open)


async def test_a_session_that_became_anothers(alice: User, bob: User, settings: Settings) -> None:
    settings.WS_AUTH_RECHECK = 0.05
    [here] = await sync_to_async(browsers)(alice)
    async with client(Quiet, cookies=here.cookies) as ws:
        session = the_handler().request.session.__class__(here.key)
        await session.aset(SESSION_KEY, str(bob.pk))
        await session.asave()
        await ends(ws)


# No handshake slips between


class LogsOut:
    """Ends the session after ``AuthMiddleware`` has let the handshake through."""

    def __init__(self, func: Callable[[WebSocketHandler], Awaitable[None]]) -> None:
        self.func = func

    async def __call__(self, ws: WebSocketHandler) -> None:
        await Session.objects.all().adelete()
        await self.func(ws)


async def test_a_log_out_behind_the_middleware(alice: User) -> None:
    route: Any = client(Quiet, user=alice, middleware=[MIDDLEWARE, f"{__name__}.LogsOut"])
    with pytest.raises(HandshakeRejected) as caught:
        await route.__aenter__()
    assert caught.value.status == 401


@pytest.mark.parametrize(("code", "status"), [(4401, 401), (4403, 403), (1008, 403)])
async def test_a_log_out_during_on_connect(alice: User, code: int, status: int) -> None:
    opened = []

    class Slow(WebSocketHandler):
        async def on_connect(self) -> None:
            await adisconnect(user_topic(alice), code=code)
            await until(lambda: self.closed)

        async def on_open(self) -> None:
            opened.append(self)

    with pytest.raises(HandshakeRejected) as caught:
        async with client(Slow, user=alice):
            pass
    assert (caught.value.status, opened) == (status, [])


async def test_a_handshake_whose_log_in_cannot_be_checked(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(logins: Sequence[Login]) -> Collection[Login]:
        raise OSError("the database is down")

    monkeypatch.setattr(SessionLogin, "ended", broken)
    with pytest.raises(HandshakeRejected) as caught:
        async with client(Quiet, user=alice):
            pass
    assert caught.value.status == 500


async def test_a_socket_whose_log_in_cannot_be_checked_stays(
    alice: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(Quiet, user=alice) as ws:
        with monkeypatch.context() as patched:

            async def broken(logins: Sequence[Login]) -> Collection[Login]:
                raise OSError("the database is down")

            patched.setattr(SessionLogin, "ended", broken)
            the_handler().request.login.check()
            await until(lambda: "1 log-in could not be checked" in caplog.text)
            await stays(ws)
        await Session.objects.all().adelete()
        the_handler().request.login.check()
        await ends(ws)
    assert [r.levelno for r in caplog.records if "could not be checked" in r.message] == [
        logging.ERROR
    ]


# Batches


def spy(monkeypatch: pytest.MonkeyPatch, of_class: type[Login]) -> list[int]:
    """How many log-ins each look was for."""
    looks: list[int] = []
    real = of_class.ended

    async def ended(logins: Sequence[Any]) -> Collection[Any]:
        looks.append(len(logins))
        return await real(logins)

    monkeypatch.setattr(of_class, "ended", ended)
    return looks


async def test_all_are_checked_together(
    alice: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    [here] = await sync_to_async(browsers)(alice)
    async with client(Quiet, cookies=here.cookies) as first:
        await settled()
        looks = spy(monkeypatch, SessionLogin)
        others = [WebSocketClient(PATH, cookies=here.cookies) for _ in range(29)]
        await asyncio.gather(*[ws.__aenter__() for ws in others])
        assert sum(looks) == 29
        assert len(looks) < 29  # the handshakes of one moment share a look
        looks.clear()
        watch = recheck_here()
        watch._check_all()
        await until(lambda: looks and watch.is_idle)
        assert looks == [30]
        monkeypatch.setattr("django_ws.auth.recheck_batch.MAX_BATCH", 20)
        looks.clear()
        watch._check_all()
        await until(lambda: len(looks) == 2)
        assert looks == [20, 10]
        await stays(first)
        await asyncio.gather(*[ws.__aexit__(None, None, None) for ws in others])


async def test_nothing_is_left_of_a_connection_that_has_ended(alice: User) -> None:
    async with client(Quiet, user=alice):
        await settled()
        watch = recheck_here()
        login = the_handler().request.login
        assert (watch._timer is None, login._timer is None) == (False, False)
    assert (watch._all, watch._timer, login._timer) == ({}, None, None)
    hub = running_hub("default")
    assert hub is not None
    assert hub.users.everybody() == set()
    login.check()  # comes too late, and does nothing
    assert watch._batches == {}


async def test_who_leaves_while_the_log_in_is_checked(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(logins: Sequence[Login]) -> Collection[Login]:
        asked.set()
        await answer.wait()
        return []

    monkeypatch.setattr(Login, "ended", slow)
    global somebody
    somebody = alice
    async with Peer(Quiet, opens=False, middleware=[f"{__name__}.sets_user"]) as peer:
        await asked.wait()
        peer.leave()
        peer.task.cancel()
        await asyncio.wait([peer.task])
        answer.set()
        await until(lambda: recheck_here().is_idle)
        assert recheck_here()._all == {}


async def test_a_check_that_waits_when_the_connection_ends(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()
    real = SessionLogin.ended

    async def slow(logins: Sequence[Any]) -> Collection[Any]:
        asked.set()
        await answer.wait()
        return await real(logins)

    async with client(Quiet, user=alice):
        monkeypatch.setattr(SessionLogin, "ended", slow)
        the_handler().request.login.check()
        await asked.wait()
        second = asyncio.create_task(WebSocketClient(PATH, user=alice).__aenter__())
        watch = recheck_here()
        looks = watch._batches[SessionLogin]
        await until(lambda: looks._due)
        waiting = next(iter(looks._due))
        watch.remove(waiting)  # as when its connection ends
        with pytest.raises(HandshakeRejected):
            await second
        answer.set()


# Routes of ASGI applications


async def test_the_log_out_ends_an_asgi_application_too(alice: User) -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        seen.append("open")
        seen.append(await receive())
        await send({"type": "websocket.send", "text": "too late"})
        seen.append(await receive())

    [here] = await sync_to_async(browsers)(alice)
    route: Any = application
    async with client(route, cookies=here.cookies, middleware=[MIDDLEWARE]) as ws:
        await until(lambda: seen)
        await sync_to_async(here.client.logout)()
        await ends(ws)
        await until(lambda: len(seen) == 3)
    assert seen[1]["type"] == "websocket.disconnect"
    assert seen[2] == {
        "type": "websocket.disconnect", "code": 4401, "reason": "the log-in has ended",
    }  # fmt: skip
