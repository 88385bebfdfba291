"""Tickets: good for one connection, within 30 s, for as long as the password stays."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser, User
from django.core.cache.backends.dummy import DummyCache
from django.core.management import call_command
from django.core.signing import TimestampSigner
from django.db import connection
from django.test import Client, RequestFactory
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.auth import amake_ticket, make_ticket
from django_ws.auth.login import Login
from django_ws.auth.session import SessionLogin
from django_ws.auth.tokens import TicketAuthenticator, once
from django_ws.auth.tokens.once import is_first, is_sharp
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.routes import path

database = pytest.mark.django_db


class WhoHandler(WebSocketHandler):
    async def on_open(self) -> None:
        await self.send(self.request.user.get_username())


urlpatterns = [path("who/", WhoHandler)]


@pytest.fixture(autouse=True)
def _site(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__
    settings.WS_MIDDLEWARE = ["django_ws.middleware.TicketAuthMiddleware"]


def request_of(user: Any, session: Any = None) -> Any:
    request = RequestFactory().get("/")
    request.user = user
    if session is not None:
        request.session = session
    return request


def enter(ticket: str) -> Any:
    """Who gets in by this ticket, or the status of the refusal."""
    try:
        with WebSocketClient(f"/who/?ticket={ticket}") as ws:
            return ws.receive()
    except HandshakeRejected as refused:
        return refused.status


@database
def test_ticket_in_the_url_logs_in_once(alice: User) -> None:
    ticket = make_ticket(request_of(alice))
    assert [enter(ticket) for _ in range(3)] == ["alice", 401, 401]


@database
def test_two_tickets_are_two(alice: User) -> None:
    tickets = [make_ticket(request_of(alice)) for _ in range(2)]
    assert [enter(ticket) for ticket in tickets] == ["alice", "alice"]


@database
@pytest.mark.parametrize("place", ["header", "subprotocol"])
def test_ticket_may_come_where_tokens_do(alice: User, place: str) -> None:
    ticket = make_ticket(request_of(alice))
    if place == "header":
        client = WebSocketClient("/who/", headers={"Authorization": f"Ticket {ticket}"})
    else:
        client = WebSocketClient("/who/", subprotocols=[f"Ticket.{ticket}"])
    with client as ws:
        assert ws.receive() == "alice"


@database
def test_ticket_needs_no_escapes_in_a_url_or_a_subprotocol(alice: User) -> None:
    ticket = make_ticket(request_of(alice))
    assert set(ticket.replace(".", "").replace("-", "").replace("_", "")) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    )


@database
@pytest.mark.parametrize(("seconds", "expected"), [(20, "alice"), (40, 401), (-4, "alice")])
def test_ticket_is_good_for_thirty_seconds(alice: User, seconds: int, expected: Any) -> None:
    made_at = time.time() - seconds
    with patch("django.core.signing.time.time", return_value=made_at):
        ticket = make_ticket(request_of(alice))
    assert enter(ticket) == expected


@database
def test_ticket_from_the_future_would_outlive_its_place_in_the_cache(alice: User) -> None:
    with patch("django.core.signing.time.time", return_value=time.time() + 10):
        ticket = make_ticket(request_of(alice))
    assert enter(ticket) == 401


@database
def test_new_password_voids_the_ticket(alice: User) -> None:
    ticket = make_ticket(request_of(alice))
    alice.set_password("another")
    alice.save()
    assert enter(ticket) == 401


@database
@pytest.mark.parametrize("change", ["inactive", "deleted"])
def test_ticket_of_a_user_who_may_no_more_is_refused(alice: User, change: str) -> None:
    ticket = make_ticket(request_of(alice))
    if change == "inactive":
        User.objects.update(is_active=False)
    else:
        User.objects.all().delete()
    assert enter(ticket) == 401


@database
def test_ticket_of_another_site_is_refused(alice: User, settings: Settings) -> None:
    ticket = make_ticket(request_of(alice))
    settings.SECRET_KEY = "another"
    assert enter(ticket) == 401


@database
@pytest.mark.parametrize("salt", ["django.core.signing", "django_ws.auth"])
def test_what_was_signed_for_something_else_is_no_ticket(alice: User, salt: str) -> None:
    signer = TimestampSigner(sep=".", salt=salt)
    assert enter(signer.sign_object([str(alice.pk), "", "", "nonce"])) == 401


@database
def test_ticket_of_one_user_cannot_be_made_into_that_of_another(alice: User) -> None:
    bob = User.objects.create_user("bob")
    one, other = (make_ticket(request_of(user)).split(".") for user in (alice, bob))
    assert enter(".".join([one[0], *other[1:]])) == 401
    assert enter(".".join([other[0], *one[1:]])) == 401


@database
def test_ticket_tells_neither_password_nor_session(alice: User) -> None:
    client = Client()
    client.force_login(alice)
    ticket = make_ticket(request_of(alice, client.session))
    text = TimestampSigner(sep=".", salt="django_ws.auth.ticket").unsign_object(ticket)
    assert str(client.session.session_key) not in str(text)
    assert alice.get_session_auth_hash()[:32] not in str(text)


@database
def test_log_in_by_a_ticket_belongs_to_the_session_it_was_made_in(alice: User) -> None:
    client = Client()
    client.force_login(alice)
    authenticate = async_to_sync(TicketAuthenticator().authenticate)
    with_session = authenticate(make_ticket(request_of(alice, client.session)))
    without = authenticate(make_ticket(request_of(alice)))
    assert isinstance(with_session, SessionLogin)
    assert isinstance(without, Login)
    assert async_to_sync(SessionLogin.ended)([with_session]) == set()
    assert set(with_session.identities) - set(without.identities) == {
        identity for identity in with_session.identities if "session" in identity
    }
    assert len(with_session.identities) == len(without.identities) + 1
    end = client.session.get_expiry_date().timestamp()
    assert with_session.expires_at == pytest.approx(end, abs=5)
    assert without.expires_at is None


@database
@pytest.mark.parametrize("engine", ["db", "cached_db", "cache", "file", "signed_cookies"])
def test_ticket_of_a_session_of_each_engine(
    engine: str, alice: User, settings: Settings, tmp_path: Path
) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    client = Client()
    client.force_login(alice)
    ticket = make_ticket(request_of(alice, client.session))
    assert [enter(ticket) for _ in range(2)] == ["alice", 401]


@database
@pytest.mark.parametrize("logged_in", [False, True])
def test_ticket_beside_a_session_of_nobody_or_of_somebody_else(
    logged_in: bool, alice: User
) -> None:
    """As from a view of REST framework that a browser asks with a token."""
    client = Client()
    if logged_in:
        client.force_login(User.objects.create_user("bob"))
    session = client.session
    session["cart"] = 1
    session.save()
    tickets = [make_ticket(request_of(alice, session)) for _ in range(2)]
    login = async_to_sync(TicketAuthenticator().authenticate)(tickets[0])
    assert login is not None
    assert len(login.identities) == (3 if logged_in else 1)
    assert enter(tickets[1]) == "alice"


@database
def test_ticket_of_somebody_whom_another_acts_as_is_refused_after_the_others_log_out(
    alice: User,
) -> None:
    client = Client()
    client.force_login(User.objects.create_user("staff"))
    ticket = make_ticket(request_of(alice, client.session))
    client.logout()
    assert enter(ticket) == 401


@database
def test_cache_does_not_show_the_key_of_the_session(alice: User, settings: Settings) -> None:
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.Shown"}}
    client = Client()
    client.force_login(alice)
    key = str(client.session.session_key)
    kept = Shown.kept
    kept.clear()
    ticket = make_ticket(request_of(alice, client.session))
    assert len(kept) == 1
    nonce = TimestampSigner(sep=".", salt="django_ws.auth.ticket").unsign_object(ticket)["once"]
    assert [
        text
        for text in (key, nonce)
        if text in str(kept) or text.encode() in b"".join(kept.values())
    ] == []
    assert enter(ticket) == "alice"
    assert kept == {}


class Shown(DummyCache):
    """One whose contents the test can see."""

    kept: dict[str, bytes] = {}

    def set(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        self.kept[key] = value

    def get(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        return self.kept.get(key)

    def delete(self, key: Any, version: Any = None) -> bool:
        return self.kept.pop(key, None) is not None


@database
def test_cache_that_does_not_have_the_session_is_told(
    alice: User, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CACHES = {"default": DUMMY}
    client = Client()
    client.force_login(alice)
    assert enter(make_ticket(request_of(alice, client.session))) == 401
    assert "does not have the session of a ticket, which was refused: do all" in caplog.text


@database
def test_async_view_makes_tickets(alice: User) -> None:
    request = request_of(alice)

    async def auser() -> User:
        return alice

    request.auser = auser
    assert enter(async_to_sync(amake_ticket)(request)) == "alice"


def test_nobody_gets_a_ticket_for_nobody() -> None:
    with pytest.raises(ValueError, match="nobody is logged in"):
        make_ticket(request_of(AnonymousUser()))


@database
def test_ticket_is_in_no_line_of_the_log(alice: User, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "django.ws")
    ticket = make_ticket(request_of(alice))
    assert [enter(ticket), enter(ticket)] == ["alice", 401]
    assert "the ticket in the URL is not valid" in caplog.text
    assert not [part for part in ticket.split(".") if part in caplog.text]


# Once, in whichever thread or process

LOCAL = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "once"}
DATABASE = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "once"}
REDIS = {"BACKEND": "django.core.cache.backends.redis.RedisCache"}
FILES = {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": "/nowhere"}
DUMMY = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}


@pytest.mark.parametrize(
    ("cache", "sharp"),
    [
        (LOCAL, False),
        (FILES, False),
        (DUMMY, False),
        (DATABASE, True),
        ({**REDIS, "LOCATION": "redis://127.0.0.1:1"}, True),
    ],
)
def test_which_caches_are_shared(
    cache: dict[str, Any],
    sharp: bool,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.CACHES = {"default": cache}
    assert is_sharp() is sharp
    TicketAuthenticator()
    assert ("two processes may take the same ticket" in caplog.text) is not sharp


def test_one_of_many_threads_is_first(settings: Settings) -> None:
    settings.CACHES = {"default": LOCAL}
    with ThreadPoolExecutor(8) as pool:
        for turn in range(20):
            key = f"turn-{turn}"
            assert sum(pool.map(lambda _, key=key: is_first(key, 30), range(8))) == 1


class Late(DummyCache):
    """Lets two at once come first."""

    both = threading.Barrier(2)

    def add(self, *args: Any, **kwargs: Any) -> bool:
        self.both.wait(30)
        return True


def test_one_of_two_threads_is_first_where_the_cache_forgets(settings: Settings) -> None:
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.Late"}}
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lambda _: is_first("late", 30), range(2))) == [False, True]


def test_a_key_may_come_first_again_when_its_time_is_over(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CACHES = {"default": LOCAL}
    monkeypatch.setattr(once, "_taken", {})
    assert is_first("short", 0.05)
    while not is_first("short", 0.05):
        time.sleep(0.01)
    while time.monotonic() < once._taken["short"]:
        time.sleep(0.01)
    assert is_first("other", 30)
    assert list(once._taken) == ["other"]


@contextmanager
def locked_database() -> Iterator[sqlite3.Connection]:
    """Others may read it; who writes is refused at once, as where two wait for each other."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 0")
    locking = sqlite3.connect(
        connection.settings_dict["NAME"], isolation_level=None, check_same_thread=False
    )
    try:
        locking.execute("BEGIN IMMEDIATE")
        yield locking
    finally:
        locking.close()
        connection.close()


@pytest.fixture
def cache_in_database(db: None, settings: Settings) -> Iterator[None]:
    settings.CACHES = {"default": DATABASE}
    call_command("createcachetable")
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE once")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("cache_in_database")
def test_a_locked_database_is_asked_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "TRY_SECONDS", 30.0)
    with locked_database() as locking:
        unlock = threading.Timer(0.1, lambda: locking.execute("ROLLBACK"))
        unlock.start()
        assert is_first("locked", 30)
        unlock.join()
    assert caplog.messages == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("cache_in_database")
def test_a_database_that_stays_locked_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with locked_database():
        assert not is_first("locked-for-long", 30)
    [told] = caplog.messages
    assert "a ticket was refused" in told
    assert "locked" in told
