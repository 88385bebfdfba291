"""AuthMiddleware: the log-in of Django's session, on the handshake."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.testing import WebSocketClient
from tests.support.routes import path

pytestmark = pytest.mark.django_db


class WhoHandler(WebSocketHandler):
    """Tells the client who it is, and saves what it says in the session."""

    async def on_open(self) -> None:
        request = self.request
        same = await request.auser() is request.user
        colour = await request.session.aget("colour")
        await self.send({"user": str(request.user), "colour": colour, "same": same})

    async def on_message(self, message: Any) -> None:
        await self.request.session.aset("colour", message)
        await self.request.session.asave()
        await self.send(self.request.session.session_key)


class SyncWhoHandler(WebSocketHandler):
    def on_open(self) -> None:
        self.send(self.request.user.username)

    def on_message(self, message: Any) -> None:
        self.request.session["colour"] = message
        self.request.session.save()
        self.send(self.request.session.session_key)


urlpatterns = [path("who/", WhoHandler), path("sync/", SyncWhoHandler)]
ANONYMOUS = str(AnonymousUser())


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__


class PlainBackend:
    """As Django documents it: two methods, and no base class."""

    def authenticate(self, request: Any, **credentials: Any) -> None:
        return None

    def get_user(self, user_id: Any) -> User | None:
        return User.objects.filter(pk=user_id).first()


class BanningBackend(ModelBackend):
    """Has a word in ``get_user()`` alone."""

    def get_user(self, user_id: Any) -> Any:
        user = super().get_user(user_id)
        return None if user is not None and user.get_username() == "banned" else user


def log_in(user: User) -> dict[str, str]:
    """The cookies of a browser in which a user is logged in."""
    client = Client()
    client.force_login(user)
    return {name: morsel.value for name, morsel in client.cookies.items()}


def who(**options: Any) -> Any:
    with WebSocketClient("/who/", **options) as ws:
        return ws.receive()


def stored() -> list[dict[str, Any]]:
    """Everything that the database knows about sessions."""
    return [dict(row) for row in Session.objects.order_by("session_key").values()]


# Who it is


def test_logged_in_user_is_known(alice: User) -> None:
    assert who(cookies=log_in(alice))["user"] == "alice"


def test_auser_is_user(alice: User) -> None:
    assert who(cookies=log_in(alice))["same"] is True


def test_sync_hook_may_use_user(alice: User) -> None:
    with WebSocketClient("/sync/", cookies=log_in(alice)) as ws:
        assert ws.receive() == "alice"


def test_handshake_without_a_cookie_is_anonymous() -> None:
    assert who()["user"] == ANONYMOUS


@pytest.mark.parametrize("key", ["", "x", "no-such-session-key-in-the-database", "' or 1=1 --"])
def test_cookie_of_no_session_is_anonymous(key: str) -> None:
    assert who(cookies={"sessionid": key})["user"] == ANONYMOUS


def test_expired_session_is_anonymous(alice: User) -> None:
    cookies = log_in(alice)
    Session.objects.update(expire_date=now() - timedelta(seconds=1))
    assert who(cookies=cookies)["user"] == ANONYMOUS


def test_logged_out_session_is_anonymous(alice: User) -> None:
    client = Client()
    client.force_login(alice)
    cookies = {"sessionid": client.cookies["sessionid"].value}
    client.logout()
    assert who(cookies=cookies)["user"] == ANONYMOUS


def test_inactive_user_is_anonymous(alice: User) -> None:
    cookies = log_in(alice)
    User.objects.update(is_active=False)
    assert who(cookies=cookies)["user"] == ANONYMOUS


def test_deleted_user_is_anonymous(alice: User) -> None:
    cookies = log_in(alice)
    alice.delete()
    assert who(cookies=cookies)["user"] == ANONYMOUS


def test_backend_that_is_no_longer_listed_is_anonymous(alice: User, settings: Settings) -> None:
    cookies = log_in(alice)
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.RemoteUserBackend"]
    assert who(cookies=cookies)["user"] == ANONYMOUS


@pytest.mark.parametrize("old_key", [False, True])
def test_backend_without_a_base_class_logs_in(
    alice: User, settings: Settings, old_key: bool
) -> None:
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.PlainBackend"]
    cookies = log_in(alice)
    if old_key:
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "a new one"
    assert who(cookies=cookies)["user"] == "alice"


def test_users_whom_get_user_of_the_backend_refuses_are_anonymous(
    alice: User, settings: Settings
) -> None:
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.BanningBackend"]
    cookies = [log_in(user) for user in (alice, User.objects.create_user("banned"))]
    assert [who(cookies=each)["user"] for each in cookies] == ["alice", ANONYMOUS]


def test_name_of_the_session_cookie_is_the_settings(alice: User, settings: Settings) -> None:
    settings.SESSION_COOKIE_NAME = "mysession"
    assert who(cookies=log_in(alice))["user"] == "alice"


def test_session_data_is_read(alice: User) -> None:
    assert who(user=alice, session={"colour": "blue"})["colour"] == "blue"


def test_session_of_an_anonymous_visitor_is_read() -> None:
    assert who(session={"colour": "blue"}) == {"user": ANONYMOUS, "colour": "blue", "same": True}


@pytest.mark.parametrize("engine", ["db", "cache", "cached_db", "file", "signed_cookies"])
def test_every_session_engine_of_django_works(
    engine: str, alice: User, settings: Settings, tmp_path: Path
) -> None:
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    answer = who(user=alice, session={"colour": "blue"})
    assert (answer["user"], answer["colour"]) == ("alice", "blue")


# The session's hash


def test_session_of_an_old_secret_key_that_is_a_fallback_counts(
    alice: User, settings: Settings
) -> None:
    cookies = log_in(alice)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "a new one"
    assert who(cookies=cookies)["user"] == "alice"


def test_session_of_an_old_secret_key_is_not_rotated(alice: User, settings: Settings) -> None:
    cookies = log_in(alice)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "a new one"
    before = stored()
    who(cookies=cookies)
    assert stored() == before


def test_session_of_an_old_secret_key_that_is_no_fallback_is_anonymous(
    alice: User, settings: Settings
) -> None:
    cookies = log_in(alice)
    settings.SECRET_KEY = "a new one"
    assert who(cookies=cookies)["user"] == ANONYMOUS


def test_changed_password_is_anonymous_and_leaves_the_session(alice: User) -> None:
    cookies = log_in(alice)
    alice.set_password("another")
    alice.save()
    before = stored()
    assert who(cookies=cookies)["user"] == ANONYMOUS
    assert stored() == before


def test_page_still_ends_the_session_that_the_handshake_has_left(alice: User) -> None:
    client = Client()
    client.force_login(alice)
    alice.set_password("another")
    alice.save()
    who(cookies={"sessionid": client.cookies["sessionid"].value})
    client.get("/admin/")
    assert stored() == []


# Writing


@pytest.mark.parametrize("every_request", [False, True])
def test_handshake_writes_nothing(alice: User, settings: Settings, every_request: bool) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = every_request
    cookies = log_in(alice)
    before = stored()
    with CaptureQueriesContext(connection) as queries:
        who(cookies=cookies)
    assert stored() == before
    assert {query["sql"].split()[0] for query in queries} == {"SELECT"}


@pytest.mark.parametrize("cookies", [{}, {"sessionid": "no-such-session-key-in-the-database"}])
def test_anonymous_handshake_makes_no_session(cookies: dict[str, str]) -> None:
    who(cookies=cookies)
    assert stored() == []


def test_handshake_without_a_cookie_asks_the_database_nothing() -> None:
    with CaptureQueriesContext(connection) as queries:
        who()
    assert len(queries) == 0


@pytest.mark.parametrize("url", ["/who/", "/sync/"])
def test_hook_may_save_the_session(alice: User, url: str) -> None:
    client = Client()
    client.force_login(alice)
    cookies = {"sessionid": client.cookies["sessionid"].value}
    with WebSocketClient(url, cookies=cookies) as ws:
        ws.receive()
        ws.send("green")
        assert ws.receive() == cookies["sessionid"]
    assert client.session["colour"] == "green"


@pytest.mark.parametrize("url", ["/who/", "/sync/"])
def test_hook_that_saves_the_session_of_an_anonymous_visitor_is_told(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No cookie could tell the browser of it."""
    with WebSocketClient(url) as ws:
        ws.receive()
        ws.send("green")
        assert ws.wait_closed() == 1011
    assert "save(): the handshake brought no cookie of a session" in caplog.text
    assert stored() == []


class OwnSession:
    """A middleware of the site's own that finds the session in its own way."""

    def __init__(self, func: Any) -> None:
        self.func = func

    async def __call__(self, ws: WebSocketHandler) -> None:
        request: Any = ws.request
        request.session = SessionStore(request.COOKIES.get("sessionid"))
        await self.func(ws)


def test_session_that_a_middleware_has_set_stays(alice: User, settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [
        f"{__name__}.OwnSession", "django_ws.middleware.AuthMiddleware",
    ]  # fmt: skip
    answer = who(user=alice, session={"colour": "blue"})
    assert (answer["user"], answer["colour"]) == ("alice", "blue")


# Projects without users or sessions
