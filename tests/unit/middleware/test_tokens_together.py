"""Several middlewares that find the same token: whoever takes it first, and the last refuses it."""

from __future__ import annotations

import logging
from typing import Any

import jwt
import pytest
from django.contrib.auth.models import AnonymousUser, User
from pytest_django import Settings
from rest_framework.authtoken.models import Token
from sesame.utils import get_token

from django_ws import WebSocketHandler
from django_ws.middleware import JWTAuthMiddleware, TokenAuthMiddleware
from django_ws.middleware.chain import Chain
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.routes import path
from tests.user_models.models import DeviceToken

pytestmark = pytest.mark.django_db

HERE = "django_ws.middleware"
ANONYMOUS = str(AnonymousUser())
SECRET = "a secret of more than thirty-two bytes in length, so that no hash is longer than it"
KINDS = {
    "token": f"{HERE}.TokenAuthMiddleware",
    "jwt": f"{HERE}.JWTAuthMiddleware",
    "sesame": f"{HERE}.SesameAuthMiddleware",
}


class WhoHandler(WebSocketHandler):
    async def on_open(self) -> None:
        await self.send([str(self.request.user), type(self.request.login).__name__])


class DeviceMiddleware(TokenAuthMiddleware):
    model = DeviceToken


class LoudMiddleware(JWTAuthMiddleware):
    keyword = "Loud"


def between(func: Chain) -> Any:
    """A function of the site's, which knows of no tokens."""

    async def middleware(ws: WebSocketHandler) -> None:
        await func(ws)

    return middleware


urlpatterns = [path("who/", WhoHandler)]


@pytest.fixture(autouse=True)
def _site(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__
    settings.WS_TOKEN_IN_URL = True
    settings.WS_JWT = {"key": SECRET, "algorithms": ["HS256"]}
    settings.AUTHENTICATION_BACKENDS = [
        "django.contrib.auth.backends.ModelBackend",
        "sesame.backends.ModelBackend",
    ]


def token_of(user: User, kind: str) -> str:
    match kind:
        case "token":
            return str(Token.objects.create(user=user).key)
        case "jwt":
            return jwt.encode({"sub": str(user.pk)}, SECRET, "HS256")
        case _:
            return str(get_token(user))


def enter(url: str = "/who/", **options: Any) -> Any:
    """Who got in, or the status of the refusal."""
    try:
        with WebSocketClient(url, **options) as ws:
            return ws.receive()[0]
    except HandshakeRejected as refused:
        return refused.status


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [["token", "jwt", "sesame"], ["sesame", "jwt", "token"]])
def test_each_kind_gets_in_by_the_url(
    alice: User, settings: Settings, order: list[str], kind: str
) -> None:
    settings.WS_MIDDLEWARE = [
        f"{HERE}.AuthMiddleware",
        *(entry for each in order for entry in (KINDS[each], f"{__name__}.between")),
    ]
    assert enter(f"/who/?token={token_of(alice, kind)}") == "alice"


def test_what_none_of_them_takes_is_refused_once(
    alice: User, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "django.ws")
    settings.WS_MIDDLEWARE = [f"{HERE}.AuthMiddleware", *KINDS.values(), f"{__name__}.between"]
    assert enter("/who/?token=wrong", user=alice) == 401
    [line] = [record.getMessage() for record in caplog.records]
    assert line == (
        "WebSocket /who/ refused with 401: the token in the URL is not valid, or no more"
    )


@pytest.mark.parametrize("place", ["header", "subprotocol"])
def test_the_keyword_tells_which_one_is_meant(alice: User, settings: Settings, place: str) -> None:
    settings.WS_MIDDLEWARE = list(KINDS.values())

    def by(keyword: str, token: str) -> Any:
        if place == "header":
            return enter(headers={"Authorization": f"{keyword} {token}"})
        return enter(subprotocols=[f"{keyword}.{token}"])

    assert by("Bearer", token_of(alice, "jwt")) == "alice"
    assert by("Token", token_of(alice, "jwt")) == 401
    assert by("Token", token_of(alice, "token")) == "alice"


@pytest.mark.parametrize("place", ["header", "subprotocol", "url"])
@pytest.mark.parametrize("first", ["site", "library"])
def test_two_of_one_keyword(alice: User, settings: Settings, place: str, first: str) -> None:
    both = [f"{__name__}.DeviceMiddleware", KINDS["token"]]
    settings.WS_MIDDLEWARE = both if first == "site" else both[::-1]
    DeviceToken.objects.create(user=alice, key="the-phone")

    def by(token: str) -> Any:
        match place:
            case "header":
                return enter(headers={"Authorization": f"Token {token}"})
            case "subprotocol":
                return enter(subprotocols=[f"Token.{token}"])
            case _:
                return enter(f"/who/?token={token}")

    assert [by("the-phone"), by(token_of(alice, "token")), by("wrong")] == ["alice", "alice", 401]


def test_a_wrong_token_is_not_saved_by_a_right_one_elsewhere(
    alice: User, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = [KINDS["token"], KINDS["jwt"]]
    right = {"Authorization": f"Bearer {token_of(alice, 'jwt')}"}
    assert enter("/who/?token=wrong", headers=right) == 401


def test_the_innermost_of_two_right_ones_counts(alice: User, settings: Settings) -> None:
    bob = User.objects.create_user("bob")
    settings.WS_MIDDLEWARE = [KINDS["token"], KINDS["jwt"]]
    right = {"Authorization": f"Bearer {token_of(alice, 'jwt')}"}
    assert enter(f"/who/?token={token_of(bob, 'token')}", headers=right) == "alice"


def test_each_keyword_of_one_kind_is_its_own(alice: User, settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [KINDS["jwt"], f"{__name__}.LoudMiddleware"]
    token = token_of(alice, "jwt")
    assert enter(headers={"Authorization": f"Loud {token}"}) == "alice"
    assert enter(headers={"Authorization": "Bearer x"}) == 401
    headers = [("Authorization", f"Loud {token}"), ("Authorization", "Bearer x")]
    assert enter(headers=headers) == 401


def test_a_token_in_the_url_is_ignored_by_all_and_told_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_TOKEN_IN_URL = False
    settings.WS_MIDDLEWARE = list(KINDS.values())
    assert enter("/who/?token=wrong") == ANONYMOUS
    assert [record.getMessage()[:50] for record in caplog.records] == [
        "WebSocket /who/: the token in the URL is ignored, "
    ]
