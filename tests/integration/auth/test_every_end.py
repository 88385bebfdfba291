"""Every way to log in against every way in which a log-in can end: when the socket is closed.

At once, when the log-in is looked at again (every ``WS_AUTH_RECHECK`` seconds), or never.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import jwt
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import login, logout
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import User
from django.contrib.sessions.backends import db, file
from django.core.cache import caches
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from pytest_django import Settings
from rest_framework.authtoken.models import Token
from rest_framework_simplejwt import state
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.tokens import AccessToken
from sesame.utils import get_token

from django_ws import WebSocketHandler, disconnect, user_topic
from django_ws.auth import FirstMessageAuthMixin, LoginRequiredMixin, make_ticket
from django_ws.auth.recheck import recheck_here
from django_ws.auth.tokens import (
    JSONWebTokenAuthenticator,
    RestTokenAuthenticator,
    SesameAuthenticator,
    SimpleJWTAuthenticator,
    TicketAuthenticator,
)
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.session_engines import own
from tests.support.asgi_peer import PATH, SECONDS, client, the_handler, until
from tests.user_models.models import DeviceToken, OwnSession

pytestmark = [pytest.mark.heavy, pytest.mark.django_db(transaction=True)]

ONCE, LOOK, STAYS = "at once", "when it is looked at", "stays"
HERE = "django_ws.middleware"
KEY = "a key of more than thirty-two bytes, as PyJWT wants it"
BACKEND = f"{__name__}.OwnBackend"


class OwnBackend(ModelBackend):
    """Bans by what is written in the user's last name."""

    def get_user(self, user_id: Any) -> Any:
        user = super().get_user(user_id)
        return None if user is None or user.last_name == "banned" else user


# The site's pages


def page(request: HttpRequest, act: str) -> HttpResponse:
    match act:
        case "log-out":
            logout(request)
        case "flush":
            request.session.flush()
        case "cycle":
            request.session.cycle_key()
        case "ticket":
            return HttpResponse(make_ticket(request))
        case _:
            login(request, User.objects.get(username=act), BACKEND)
    return HttpResponse()


urlpatterns = [path("<str:act>/", page)]


@dataclass
class Site:
    """What an end is brought about with."""

    settings: Any
    monkeypatch: pytest.MonkeyPatch
    alice: User
    browser: Client
    options: dict[str, Any] = field(default_factory=dict)
    at: str = PATH
    first: Any = None

    @property
    def key(self) -> str:
        return self.browser.cookies["sessionid"].value


# Ways to log in


@dataclass(frozen=True)
class Way:
    name: str
    prepare: Callable[[Site], None]
    engine: str = "db"
    middleware: tuple[str, ...] = (f"{HERE}.AuthMiddleware",)
    authenticator: Any = None
    is_application: bool = False
    by_session: bool = True  # its log-in rests on a session
    token: Any = None  # the model that its token is a row of

    @property
    def rows(self) -> bool:
        return self.engine in ("db", "cached_db", "models")

    def handler(self) -> Any:
        if self.is_application:
            return application
        if self.authenticator is None:
            return Quiet
        names = {"first_message_authenticators": [self.authenticator]}
        return type("First", (FirstMessageAuthMixin, Quiet), names)


class Quiet(LoginRequiredMixin, WebSocketHandler):
    pass


async def application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


def cookie(site: Site) -> None:
    site.options["cookies"] = {"sessionid": site.key}


def header(keyword: str, make: Callable[[User], str]) -> Callable[[Site], None]:
    def prepare(site: Site) -> None:
        site.options["headers"] = {"Authorization": f"{keyword} {make(site.alice)}"}

    return prepare


def subprotocol(keyword: str, make: Callable[[User], str]) -> Callable[[Site], None]:
    def prepare(site: Site) -> None:
        site.options["subprotocols"] = [f"{keyword}.{make(site.alice)}"]

    return prepare


def first(make: Callable[[User], str]) -> Callable[[Site], None]:
    def prepare(site: Site) -> None:
        site.first = make(site.alice)

    return prepare


def ticket(site: Site) -> None:
    site.at = f"{PATH}?ticket={site.browser.get('/ticket/').content.decode()}"


def first_ticket(site: Site) -> None:
    site.first = {"ticket": site.browser.get("/ticket/").content.decode()}


def ticket_of_no_session(site: Site) -> None:
    request: Any = HttpRequest()
    request.user = site.alice
    site.at = f"{PATH}?ticket={make_ticket(request)}"


def rest(user: User) -> str:
    return str(Token.objects.get_or_create(user=user)[0].key)


def device(user: User) -> str:
    return DeviceToken.objects.create(user=user, key="the-phone").key


def py_jwt(user: User) -> str:
    return jwt.encode({"sub": str(user.pk), "exp": time.time() + 600}, KEY, "HS256")


def simple_jwt(user: User) -> str:
    return str(AccessToken.for_user(user))


def acting(site: Site) -> None:
    """Staff is logged in by the browser, and acts as alice."""
    site.browser.force_login(User.objects.create_user("staff"), BACKEND)
    cookie(site)


class SetsAlice:
    def __init__(self, func: Callable[[WebSocketHandler], Awaitable[None]]) -> None:
        self.func = func

    async def __call__(self, ws: WebSocketHandler) -> None:
        ws.request.user = await User.objects.aget(username="alice")
        await self.func(ws)


class DeviceAuthMiddleware(import_module(HERE).TokenAuthMiddleware):  # type: ignore[misc]
    model = DeviceToken


REST = (f"{HERE}.AuthMiddleware", f"{HERE}.TokenAuthMiddleware")
TICKETS = (f"{HERE}.TicketAuthMiddleware",)
JWT = (f"{HERE}.JWTAuthMiddleware",)
ENGINES = ["db", "cached_db", "models", "cache", "file", "own", "signed_cookies"]

WAYS = [
    *(Way(f"session {engine}", cookie, engine) for engine in ENGINES),
    *(Way(f"ticket {engine}", ticket, engine, TICKETS) for engine in ENGINES),
    Way("ticket of no session", ticket_of_no_session, middleware=TICKETS, by_session=False),
    Way("REST", header("Token", rest), middleware=REST, by_session=False, token=Token),
    Way("REST subprotocol", subprotocol("Token", rest), middleware=REST, by_session=False,
        token=Token),
    Way("own tokens", header("Token", device), middleware=(f"{__name__}.DeviceAuthMiddleware",),
        by_session=False, token=DeviceToken),
    Way("PyJWT", header("Bearer", py_jwt), middleware=JWT, by_session=False),
    Way("simplejwt", header("Bearer", simple_jwt), middleware=JWT, by_session=False),
    Way("sesame", header("Sesame", get_token), middleware=(f"{HERE}.SesameAuthMiddleware",),
        by_session=False),
    Way("first REST", first(rest), authenticator=RestTokenAuthenticator, by_session=False,
        token=Token),
    Way("first PyJWT", first(py_jwt), authenticator=JSONWebTokenAuthenticator, by_session=False),
    Way("first simplejwt", first(simple_jwt), authenticator=SimpleJWTAuthenticator,
        by_session=False),
    Way("first sesame", first(get_token), authenticator=SesameAuthenticator, by_session=False),
    Way("first ticket", first_ticket, authenticator=TicketAuthenticator),
    Way("own middleware", lambda site: None, middleware=(f"{__name__}.SetsAlice",),
        by_session=False),
    Way("acting as", acting, middleware=(f"{HERE}.AuthMiddleware", f"{__name__}.SetsAlice")),
    Way("application session", cookie, is_application=True),
    Way("application REST", header("Token", rest), middleware=REST, is_application=True,
        by_session=False, token=Token),
    Way("application ticket", ticket, middleware=TICKETS, is_application=True),
]  # fmt: skip


# Ends, and when they close the sockets of each way


def visit(act: str) -> Callable[[Site], None]:
    def do(site: Site) -> None:
        assert site.browser.get(f"/{act}/").status_code == 200

    return do


def session_is_gone(site: Site) -> None:
    """Without a word to Django's ORM: by SQL, by the cache's own means, by another's flush()."""
    store = import_module(django_settings.SESSION_ENGINE).SessionStore
    if issubclass(store, db.SessionStore):
        table = store.get_model_class()._meta.db_table
        with connection.cursor() as cursor:
            cursor.execute(f"delete from {table}")
    caches["default"].clear()
    if not issubclass(store, db.SessionStore):
        store(site.key).delete()


def model_of_sessions() -> Any:
    return import_module(django_settings.SESSION_ENGINE).SessionStore.get_model_class()


def row_deleted(site: Site) -> None:
    model_of_sessions().objects.get(pk=site.key).delete()


def rows_deleted_by_key(site: Site) -> None:
    model_of_sessions().objects.filter(session_key=site.key).delete()


def rows_deleted(site: Site) -> None:
    model_of_sessions().objects.exclude(session_data="").delete()


def saved(**fields: Any) -> Callable[[Site], None]:
    def do(site: Site) -> None:
        for name, value in fields.items():
            setattr(site.alice, name, value)
        site.alice.save()

    return do


def updated(**fields: Any) -> Callable[[Site], None]:
    def do(site: Site) -> None:
        User.objects.filter(pk=site.alice.pk).update(**fields)

    return do


def new_password(site: Site) -> None:
    site.alice.set_password("another")
    site.alice.save(update_fields=["password"])


def new_hash(site: Site) -> None:
    """A site's own ``get_session_auth_hash`` counts more than the password."""
    real = AbstractBaseUser.get_session_auth_hash
    site.monkeypatch.setattr(
        AbstractBaseUser, "get_session_auth_hash", lambda self: real(self) + "2"
    )
    site.monkeypatch.setattr(AbstractBaseUser, "get_session_auth_fallback_hash", lambda self: [])


def new_secret_key(is_fallback: bool) -> Callable[[Site], None]:
    def do(site: Site) -> None:
        site.settings.SECRET_KEY_FALLBACKS = [site.settings.SECRET_KEY] if is_fallback else []
        site.settings.SECRET_KEY = "a new one"

    return do


def token_deleted(site: Site) -> None:
    for model in (Token, DeviceToken):
        model.objects.all().delete()


def disconnected(site: Site) -> None:
    disconnect(user_topic(site.alice), code=4401)


Expected = Callable[[Way], str | None]  # None: it cannot be


def for_sessions(at: str, *, signed: str | None = STAYS) -> Expected:
    """Of the ways that rest on a session; the others do not care."""
    return lambda way: (
        STAYS if not way.by_session else signed if way.engine == "signed_cookies" else at
    )


def gone(way: Way) -> str | None:
    """The ORM tells of rows, nobody of what a cache or a file has."""
    at = ONCE if way.rows else LOOK
    return for_sessions(at, signed=None)(way)


def of_rows(way: Way) -> str | None:
    return ONCE if way.by_session and way.rows else STAYS if way.rows else None


def always(at: str) -> Expected:
    return lambda way: at


def acts_of_other(expected: Expected) -> Expected:
    """What concerns the session's user alone is another's where somebody acts as alice."""
    return lambda way: STAYS if way.name == "acting as" else expected(way)


def of_token(way: Way) -> str:
    if way.token is None:
        return STAYS
    return ONCE if way.token is Token else LOOK


ENDS: dict[str, tuple[Callable[[Site], None], Expected]] = {
    "log-out": (visit("log-out"), for_sessions(ONCE, signed=ONCE)),
    "flush": (visit("flush"), gone),
    "row deleted": (row_deleted, of_rows),
    "rows deleted by key": (rows_deleted_by_key, of_rows),
    "rows deleted": (rows_deleted, of_rows),
    "session gone without a word": (session_is_gone, for_sessions(LOOK, signed=None)),
    "another logs in": (visit("bob"), for_sessions(ONCE, signed=ONCE)),
    "the same logs in again": (
        visit("alice"),
        lambda way: ONCE if way.name == "acting as" else STAYS,
    ),
    "another key": (visit("cycle"), gone),
    "new password": (new_password, always(ONCE)),
    "inactive": (saved(is_active=False), always(ONCE)),
    "inactive by update()": (updated(is_active=False), always(LOOK)),
    "deleted": (lambda site: site.alice.delete() and None, always(ONCE)),
    "deleted by a queryset": (lambda site: User.objects.all().delete() and None, always(ONCE)),
    "banned by the backend": (
        saved(last_name="banned"),
        acts_of_other(for_sessions(ONCE, signed=ONCE)),
    ),
    "banned by update()": (
        updated(last_name="banned"),
        acts_of_other(for_sessions(LOOK, signed=LOOK)),
    ),
    "another session hash": (new_hash, for_sessions(LOOK, signed=LOOK)),
    "new secret key": (new_secret_key(False), for_sessions(LOOK, signed=LOOK)),
    "new secret key, the old one a fallback": (new_secret_key(True), always(STAYS)),
    "token deleted": (token_deleted, of_token),
    "disconnect()": (disconnected, always(ONCE)),
}  # fmt: skip

PAIRS = [
    pytest.param(way, end, expected, id=f"{way.name}, {name}")
    for way in WAYS
    for name, (end, expects) in ENDS.items()
    if (expected := expects(way)) is not None
]


def use(engine: str, settings: Any, tmp_path: Path) -> None:
    settings.SESSION_FILE_PATH = str(tmp_path)
    if "_storage_path" in vars(file.SessionStore):  # Django asks for the setting once
        delattr(file.SessionStore, "_storage_path")
    settings.SESSION_ENGINE = {
        "models": OwnSession.__module__,
        "own": own.__name__,
    }.get(engine, f"django.contrib.sessions.backends.{engine}")


def new_site(way: Way, settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    use(way.engine, settings, tmp_path)
    settings.ROOT_URLCONF = __name__
    settings.WS_AUTH_RECHECK = 3600
    settings.WS_CONNECT_TIMEOUT = SECONDS
    settings.SESAME_MAX_AGE = 600
    settings.AUTHENTICATION_BACKENDS = [BACKEND, "sesame.backends.ModelBackend"]
    settings.WS_JWT = {"key": KEY, "algorithms": ["HS256"]} if "PyJWT" in way.name else None
    monkeypatch.setattr(state, "token_backend", TokenBackend("HS256", KEY))
    alice = User.objects.create_user("alice", password="secret")
    User.objects.create_user("bob")
    site = Site(settings, monkeypatch, alice, Client())
    site.browser.force_login(alice, BACKEND)
    way.prepare(site)
    return site


@pytest.mark.parametrize(("way", "end", "expected"), PAIRS)
async def test_when_the_socket_is_closed(
    way: Way,
    end: Callable[[Site], None],
    expected: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    site = await sync_to_async(new_site)(way, settings, monkeypatch, tmp_path)
    async with client(way.handler(), at=site.at, middleware=way.middleware, **site.options) as ws:
        if site.first is not None:
            await ws.send(site.first)
        await until(lambda: the_handler().request.login is not None)
        await until(lambda: len(recheck_here()._all) == (2 if way.name == "acting as" else 1))
        await until(lambda: recheck_here().is_idle)
        await sync_to_async(end)(site)
        if expected == LOOK:
            await ws.receive_nothing()
        if expected != ONCE:
            the_handler().request.login.check()
        if expected == STAYS:
            await until(lambda: recheck_here().is_idle)
            await ws.receive_nothing()
            return
        assert await ws.wait_closed() == 4401
        if way.name.startswith("session") and end is not disconnected:  # with the same cookie
            with pytest.raises(HandshakeRejected) as refused:
                async with WebSocketClient(PATH, **site.options):
                    pass
            assert refused.value.status == 401


@pytest.mark.parametrize("way", WAYS[:3], ids=lambda way: way.engine)
async def test_who_comes_back_with_the_cookie_of_the_new_key_is_in_again(
    way: Way, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = await sync_to_async(new_site)(way, settings, monkeypatch, tmp_path)
    async with client(Quiet, middleware=way.middleware, **site.options) as ws:
        await sync_to_async(visit("cycle"))(site)
        assert await ws.wait_closed() == 4401
        assert {"sessionid": site.key} != site.options["cookies"]
        async with WebSocketClient(PATH, cookies={"sessionid": site.key}) as again:
            await again.receive_nothing()
