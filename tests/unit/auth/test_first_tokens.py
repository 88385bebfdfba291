"""FirstMessageAuthMixin: which first messages log somebody in, and which do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import RequestFactory
from pytest_django import Settings
from rest_framework.authtoken.models import Token

from django_ws import ConnectionClosed, WebSocketHandler
from django_ws.auth import FirstMessageAuthMixin, LoginRequiredMixin, make_ticket
from django_ws.auth.login import Login
from django_ws.auth.tokens import (
    JSONWebTokenAuthenticator,
    RestTokenAuthenticator,
    TicketAuthenticator,
)
from django_ws.auth.tokens.authenticator import Secret
from django_ws.testing import WebSocketClient
from tests.support.asgi_peer import route

pytestmark = pytest.mark.django_db


@pytest.fixture
def key(alice: User) -> str:
    return str(Token.objects.create(user=alice).key)


def user_of(message: Any, takes: Sequence[Any] = (RestTokenAuthenticator,)) -> Any:
    handler_class: Any = type(
        "Handler", (FirstMessageAuthMixin,), {"first_message_authenticators": takes}
    )
    handler = handler_class.__new__(handler_class)
    login = async_to_sync(handler.authenticate_first)(message)
    assert login is None or isinstance(login, Login)
    return None if login is None else login.user.username


@pytest.mark.parametrize("form", ["str", "token", "typed"])
def test_token_in_each_form_logs_in(form: str, key: str) -> None:
    message: dict[str, Any] = {
        "str": key,
        "token": {"token": key},
        "typed": {"type": "auth", "token": key, "more": 1},
    }
    assert user_of(message[form]) == "alice"


@pytest.mark.parametrize(
    "message",
    [
        *(None, 5, True, [], {}, "", "x", "\0", "\u00e9", "x" * 10_000, b"x", ["token"]),
        *({"token": None}, {"token": 5}, {"token": ["x"]}, {"token": ""}, {"token": "x"}),
        *({"type": "auth"}, {"Token": "x"}),
    ],
    ids=lambda message: repr(message)[:20],
)
@pytest.mark.usefixtures("key")
def test_other_messages_log_nobody_in(message: Any) -> None:
    assert user_of(message) is None


def test_message_of_another_type_logs_nobody_in(key: str) -> None:
    assert user_of({"type": "chat", "token": key}) is None


def ticket(user: User) -> str:
    request = RequestFactory().get("/")
    request.user = user
    return make_ticket(request)


def test_ticket_logs_in_by_its_own_name_or_alone(alice: User) -> None:
    takes = (RestTokenAuthenticator, TicketAuthenticator())
    assert user_of({"ticket": ticket(alice)}, takes) == "alice"
    assert user_of(ticket(alice), takes) == "alice"
    assert user_of({"token": ticket(alice)}, takes) is None


def test_token_is_no_ticket(key: str) -> None:
    takes = (RestTokenAuthenticator, TicketAuthenticator)
    assert user_of({"ticket": key}, takes) is None


def test_kind_that_is_not_listed_logs_nobody_in(alice: User) -> None:
    assert user_of({"ticket": ticket(alice)}) is None


def test_an_authenticator_of_the_sites_own_is_taken(alice: User) -> None:
    class Password:
        name = "password"

        async def authenticate(self, token: str) -> Login | None:
            return Login(alice) if token == "open sesame" else None

    takes = (RestTokenAuthenticator, Password)
    assert user_of({"password": "open sesame"}, takes) == "alice"
    assert user_of("open sesame", takes) == "alice"
    assert user_of({"token": "open sesame"}, takes) is None


def test_no_authenticator_is_told() -> None:
    with pytest.raises(ImproperlyConfigured, match="first_message_authenticators = "):
        user_of("x", ())


def test_class_is_built_once_and_anew_after_a_change_of_settings(settings: Settings) -> None:
    takes = (JSONWebTokenAuthenticator,)
    with pytest.raises(ImproperlyConfigured, match="WS_JWT is not set"):
        user_of("x", takes)
    settings.WS_JWT = {"key": "k" * 32, "algorithms": ["HS256"]}
    assert user_of("x", takes) is None
    settings.WS_JWT = None
    with pytest.raises(ImproperlyConfigured, match="WS_JWT is not set"):
        user_of("x", takes)


def test_what_fails_while_looking_shows_no_token(key: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE authtoken_token RENAME TO authtoken_away")
    try:
        with pytest.raises(Exception, match="no such table") as raised:
            user_of({"token": key})
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE authtoken_away RENAME TO authtoken_token")
    frames = [entry.frame for entry in raised.traceback if "django_ws/auth" in str(entry.path)]
    assert frames
    assert [frame for frame in frames if key in repr(frame.f_locals)] == []


def test_secret_is_not_in_its_repr() -> None:
    assert "hidden" not in repr([Secret("hidden")])


def test_it_waits_ten_seconds_by_default() -> None:
    assert FirstMessageAuthMixin.first_message_seconds == 10.0


class Handler(FirstMessageAuthMixin, LoginRequiredMixin, WebSocketHandler):
    first_message_authenticators = [RestTokenAuthenticator, TicketAuthenticator]

    async def on_open(self) -> None:
        await self.send(self.request.user.get_username())


@pytest.mark.parametrize("kind", ["token", "ticket"])
def test_socket_that_needs_a_login_opens_after_the_first_message(
    kind: str, key: str, alice: User
) -> None:
    with route(Handler), WebSocketClient("/ws/") as ws:
        ws.send({kind: key if kind == "token" else ticket(alice)})
        assert ws.receive() == "alice"


def test_socket_that_needs_a_login_is_closed_after_a_wrong_first_message() -> None:
    with route(Handler), WebSocketClient("/ws/") as ws:
        ws.send({"token": "wrong"})
        with pytest.raises(ConnectionClosed) as closed:
            ws.receive()
    assert closed.value.code == 4401
