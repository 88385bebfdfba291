"""Every way to log in, with the secret that must never be told."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from django.contrib.auth.models import User
from django.test import Client, RequestFactory
from rest_framework.authtoken.models import Token
from sesame.utils import get_token

from django_ws.auth import FirstMessageAuthMixin, make_ticket
from django_ws.auth.tokens import (
    JSONWebTokenAuthenticator,
    RestTokenAuthenticator,
    SesameAuthenticator,
    TicketAuthenticator,
)

JWT_KEY = "a key of more than thirty-two bytes, which no log may show either"
BACKENDS = ["django.contrib.auth.backends.ModelBackend", "sesame.backends.ModelBackend"]
MIDDLEWARE = "django_ws.middleware."


@dataclass
class Secret:
    """What one way of logging in is done with, and how the client hands it over."""

    value: str  # what no output may contain
    options: dict[str, Any] = field(default_factory=dict)  # of the client
    query: str = ""
    first: Any = None  # the first message


@dataclass(frozen=True)
class Way:
    name: str
    middleware: Sequence[str]
    make: Callable[[User], str]
    place: Callable[[str], Secret]
    authenticator: Any = None  # of the first message

    def secret(self, user: User) -> Secret:
        return self.place(self.make(user))

    def wrong(self, user: User) -> Secret:
        """The secret with other characters in its middle: as secret as the right one."""
        right = self.make(user)
        at = len(right) // 2
        wrong = right[: at - 2] + hashlib.sha256(right.encode()).hexdigest()[:4] + right[at + 2 :]
        return self.place(wrong)

    def mixed_into(self, handler: Any) -> Any:
        """The handler, with a log-in by the first message where that is the way."""
        if self.authenticator is None:
            return handler
        names = {"first_message_authenticators": [self.authenticator]}
        return type(handler.__name__, (FirstMessageAuthMixin, handler), names)


def session(user: User) -> str:
    client = Client()
    client.force_login(user, BACKENDS[0])
    return client.cookies["sessionid"].value


def rest_token(user: User) -> str:
    return str(Token.objects.get_or_create(user=user)[0].key)


def json_token(user: User) -> str:
    return jwt.encode({"sub": str(user.pk), "exp": time.time() + 600}, JWT_KEY, "HS256")


def ticket(user: User) -> str:
    request = RequestFactory().get("/")
    request.user = user
    return make_ticket(request)


def by_cookie(value: str) -> Secret:
    return Secret(value, {"cookies": {"sessionid": value}})


def by_header(keyword: str) -> Callable[[str], Secret]:
    return lambda value: Secret(value, {"headers": {"Authorization": f"{keyword} {value}"}})


def by_subprotocol(keyword: str) -> Callable[[str], Secret]:
    return lambda value: Secret(value, {"subprotocols": ["chat", f"{keyword}.{value}"]})


def by_url(name: str) -> Callable[[str], Secret]:
    return lambda value: Secret(value, query=f"?room=7&{name}={value}")


def by_message(name: str | None) -> Callable[[str], Secret]:
    return lambda value: Secret(value, first=value if name is None else {name: value})


TOKEN = (f"{MIDDLEWARE}AuthMiddleware", f"{MIDDLEWARE}TokenAuthMiddleware")
JWT = (f"{MIDDLEWARE}JWTAuthMiddleware",)
SESAME = (f"{MIDDLEWARE}SesameAuthMiddleware",)
TICKET = (f"{MIDDLEWARE}TicketAuthMiddleware",)
BY_JWT = JSONWebTokenAuthenticator
SESSION = (f"{MIDDLEWARE}AuthMiddleware",)

WAYS = {
    way.name: way
    for way in (
        Way("session", SESSION, session, by_cookie),
        Way("token in the header", TOKEN, rest_token, by_header("Token")),
        Way("token in the subprotocol", TOKEN, rest_token, by_subprotocol("Token")),
        Way("token in the URL", TOKEN, rest_token, by_url("token")),
        Way("JWT in the header", JWT, json_token, by_header("Bearer")),
        Way("JWT in the subprotocol", JWT, json_token, by_subprotocol("Bearer")),
        Way("sesame in the header", SESAME, get_token, by_header("Sesame")),
        Way("sesame in the URL", SESAME, get_token, by_url("token")),
        Way("ticket in the URL", TICKET, ticket, by_url("ticket")),
        Way("ticket in the header", TICKET, ticket, by_header("Ticket")),
        Way("first message: token", SESSION, rest_token, by_message(None), RestTokenAuthenticator),
        Way("first message: JWT", SESSION, json_token, by_message("token"), BY_JWT),
        Way("first message: sesame", SESSION, get_token, by_message("token"), SesameAuthenticator),
        Way("first message: ticket", SESSION, ticket, by_message("ticket"), TicketAuthenticator),
    )
}
