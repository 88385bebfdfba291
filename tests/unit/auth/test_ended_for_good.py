"""A log-in that has ended never comes back, however soon, and by whatever way."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends import cache, cached_db, file
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.db import connection
from django.db.models.signals import post_delete
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject
from django.utils.timezone import now
from pytest_django import Settings

from django_ws import ConnectionClosed
from django_ws.auth import amake_ticket, make_ticket
from django_ws.auth.session_identity import session_identity
from django_ws.pubsub.hub import user_index
from django_ws.pubsub.hub.registry import running_hub
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, client, route, the_handler, until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)
from tests.support.handlers import Quiet

pytestmark = pytest.mark.django_db(transaction=True)

TICKETS = ["django_ws.middleware.TicketAuthMiddleware"]


def browser_of(user: User) -> Client:
    browser = Client()
    browser.force_login(user)
    return browser


def cookies_of(browser: Client) -> dict[str, str]:
    return {"sessionid": browser.cookies["sessionid"].value}


ENGINES = ["db", "cached_db", "cache", "file"]


@sync_to_async
def gone_without_a_word(key: str) -> None:
    """Nobody is told, and no signal is sent."""
    for prefix in (cache.KEY_PREFIX, cached_db.KEY_PREFIX):
        caches["default"].delete(f"{prefix}{key}")
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_session;")
    file.SessionStore(key).delete()


def request_of(browser: Client, user: User) -> Any:
    request: Any = RequestFactory().get("/")
    request.user, request.session = user, browser.session
    return request


async def refused(path: str = PATH, **options: Any) -> int:
    with pytest.raises(HandshakeRejected) as refusal:
        async with WebSocketClient(path, **options):
            pass
    return refusal.value.status


async def ends(ws: WebSocketClient) -> None:
    with pytest.raises(ConnectionClosed):
        await ws.receive()
    assert ws.close_code == 4401


# A log-out, which Django tells before it flushes the session


async def test_who_comes_back_before_the_session_is_flushed_is_refused(alice: User) -> None:
    browser = await sync_to_async(browser_of)(alice)
    cookies, may_flush = cookies_of(browser), threading.Event()

    def hold_up(**kwargs: Any) -> None:
        assert may_flush.wait(30)

    def log_out() -> None:
        browser.logout()
        connection.close()

    user_logged_out.connect(hold_up)  # behind ours
    try:
        async with client(Quiet, cookies=cookies) as ws:
            logging_out = asyncio.create_task(asyncio.to_thread(log_out))
            try:
                await ends(ws)
                assert await Session.objects.aexists()
                assert await refused(cookies=cookies) == 401
            finally:
                may_flush.set()
                await logging_out
            assert not await Session.objects.aexists()
    finally:
        user_logged_out.disconnect(hold_up)


async def test_the_end_is_remembered_for_a_while(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_index, "REMEMBERED_SECONDS", 0.05)
    browser = await sync_to_async(browser_of)(alice)
    cookies = cookies_of(browser)
    async with client(Quiet, cookies=cookies) as ws:
        hub = running_hub("default")
        assert hub is not None
        await sync_to_async(browser.logout)()
        await ends(ws)
        assert list(hub.users._ended) == [session_identity(cookies["sessionid"])]
        subscriber: Any = object()

        def is_forgotten() -> bool:
            hub.users.add([], subscriber)
            return not hub.users._ended

        await until(is_forgotten)


# Tickets


async def test_a_ticket_of_a_session_that_has_ended_is_refused(
    alice: User, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = TICKETS
    browser = await sync_to_async(browser_of)(alice)
    request = await sync_to_async(request_of)(browser, alice)
    first, second = [await sync_to_async(make_ticket)(request) for _ in range(2)]
    async with client(Quiet, at=f"{PATH}?ticket={first}") as ws:
        await sync_to_async(browser.logout)()
        await ends(ws)
        assert await refused(f"{PATH}?ticket={second}") == 401


async def test_the_socket_of_a_ticket_ends_when_its_session_would(
    alice: User, settings: Settings
) -> None:
    async def alice_again() -> User:
        return alice

    settings.WS_MIDDLEWARE = TICKETS
    browser = await sync_to_async(browser_of)(alice)
    request = await sync_to_async(request_of)(browser, alice)
    request.auser = alice_again
    await request.session.aset_expiry(3)
    await request.session.asave()
    ticket = await amake_ticket(request)
    async with client(Quiet, at=f"{PATH}?ticket={ticket}") as ws:
        await ends(ws)


async def test_a_ticket_does_not_outlive_its_session_where_nobody_remembers_its_end(
    alice: User, settings: Settings
) -> None:
    """As in a process that was started after the log-out."""
    settings.WS_MIDDLEWARE = TICKETS
    browser = await sync_to_async(browser_of)(alice)
    request = await sync_to_async(request_of)(browser, alice)
    ticket = await sync_to_async(make_ticket)(request)
    await sync_to_async(browser.logout)()
    assert running_hub("default") is None
    with route(Quiet):
        assert await refused(f"{PATH}?ticket={ticket}") == 401


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_socket_of_a_ticket_ends_with_a_session_that_is_gone_without_a_word(
    engine: str, alice: User, settings: Settings, tmp_path: Path
) -> None:
    """As where Redis was away during the log-out."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.WS_MIDDLEWARE = TICKETS
    browser = await sync_to_async(browser_of)(alice)
    request = await sync_to_async(request_of)(browser, alice)
    ticket, too_late = [await sync_to_async(make_ticket)(request) for _ in range(2)]
    async with client(Quiet, at=f"{PATH}?ticket={ticket}") as ws:
        await ws.receive_nothing()
        await gone_without_a_word(cookies_of(browser)["sessionid"])
        the_handler().request.login.check()
        await ends(ws)
        assert await refused(f"{PATH}?ticket={too_late}") == 401


async def test_the_socket_of_a_ticket_goes_on_with_a_session_that_is_prolonged(
    alice: User, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = TICKETS
    browser = await sync_to_async(browser_of)(alice)
    request = await sync_to_async(request_of)(browser, alice)
    await request.session.aset_expiry(60)
    await request.session.asave()
    ticket = await sync_to_async(make_ticket)(request)
    async with client(Quiet, at=f"{PATH}?ticket={ticket}"):
        login = the_handler().request.login
        before = login.expires_at
        await Session.objects.aupdate(expire_date=now() + timedelta(days=1))
        login.check()
        await until(lambda: login.expires_at not in (None, before))
        assert login.expires_at - before > 80_000


# Orders before anybody hears them


async def test_what_ended_before_the_first_confirmation_is_found_then(
    alice: User,
    fickle: type[FickleBackend],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    browser = await sync_to_async(browser_of)(alice)
    fickle.is_down = True  # nothing is confirmed, and handshakes are let in all the same
    async with client(Quiet, cookies=cookies_of(browser)) as ws:
        await Session.objects.all().adelete()  # as another process does it, whose order is lost
        fickle.is_down = False
        await ends(ws)
    assert "Orders to disconnect users" not in caplog.text


# What Django's signals are given


class Router:
    """As in Django's documentation."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "default" if model._meta.app_label == "auth" else None


def test_a_lazy_user_logs_out_where_a_router_asks_for_the_model(
    alice: User, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DATABASE_ROUTERS = [f"{__name__}.Router"]
    request = request_of(browser_of(alice), alice)
    user = SimpleLazyObject(lambda: alice)
    user_logged_out.send(sender=User, request=request, user=user)
    assert caplog.messages == []


async def test_a_log_out_by_a_request_that_knows_no_user(alice: User) -> None:
    """As ``alogout()`` of Django's own test client."""
    browser = await sync_to_async(browser_of)(alice)
    async with client(Quiet, cookies=cookies_of(browser)) as ws:
        request = await sync_to_async(request_of)(browser, alice)
        await user_logged_out.asend(sender=None, request=request, user=None)
        await ends(ws)


def test_a_log_out_without_a_session_tells_nobody(
    alice: User, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DATABASE_ROUTERS = [f"{__name__}.BrokenRouter"]  # which is not even asked
    user_logged_out.send(sender=User, request=RequestFactory().get("/"), user=alice)
    assert caplog.messages == []


class BrokenRouter:
    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        raise LookupError("a defect of the router")


def test_a_log_out_is_done_whatever_fails(
    alice: User, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    request = request_of(browser_of(alice), alice)
    settings.DATABASE_ROUTERS = [f"{__name__}.BrokenRouter"]
    user_logged_out.send(sender=User, request=request, user=alice)
    assert "Sockets stay open until their log-in is checked again" in caplog.text


def test_other_models_are_deleted_as_fast_as_without_us(alice: User, settings: Settings) -> None:
    settings.AUTH_USER_MODEL = "auth.User"  # tells that it has changed
    for _ in range(3):
        browser_of(alice)
    with CaptureQueriesContext(connection) as queries:
        Session.objects.all().delete()
    statements = [query["sql"].split()[0] for query in queries]
    assert [each for each in statements if each in ("SELECT", "DELETE")] == ["DELETE"]
    assert not post_delete.has_listeners(Permission)
    assert post_delete.has_listeners(User)
